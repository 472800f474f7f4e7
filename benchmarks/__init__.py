"""Benchmarks: `python -m benchmarks.run NAME`, see README.md.

A benchmark is a module of this folder with a function

  benchmark(options: Options) -> list of rows

and maybe details(options) -> dict, which goes beside the rows into the results.
A row maps names to plain values; names end in their unit (seconds_per_step,
tflop_per_second, ratio_...). `timing` measures, `results` prints and writes.
"""

from typing import Any
from typing import NamedTuple

# Name, which is also the module's, and what it measures.
REGISTRY = {
    'train_step': 'one training step of each stage of a config',
    'input': 'one training step with real input, beside synthetic; must be 1',
    'record': 'films to latents to clips: records per second and core',
    'stream': 'streaming seconds per frame by frame index; must be flat',
    'torch_dit': 'the same transformer forward in PyTorch, beside ours',
    'odometer': 'errors of the motion measured on films, without learning',
    'geometry': 'exact depth, normals and flow: frames per second and core',
    'forcing_step': "a Self Forcing step beside Teacher Forcing's, by part",
    'paradigms': 'one student trained in every way, against the true future',
    'moc': 'Mixture of Contexts beside dense attention, by length',
    'revisits': 'what a student knows of a long past, by how it reads it',
    'moc_tpu_static': 'MoC kernels: cycles that the TPU compiler schedules',
    'moc_gpu_static': "MoC kernels: registers, by the GPU's compilers",
    'wan_cpu': "Wan's transformer and VAE on a CPU, beside diffusers'",
}


DEFAULTS = {'': ('configs/quickstart.py', 5)}  # by name: config, repeats
DEFAULTS |= {'paradigms': ('configs/paradigms.py', 3),
             'revisits': ('configs/revisits.py', 1)}


class Options(NamedTuple):
  """What the command line says.

  Attributes:
    config: a run's configuration, already checked.
    repeats: timed repeats after the warm-up; of what trains, seeds.
    frames: pixel frames of a stream.
    workdir: of what trains.
  """
  config: Any
  repeats: int = 5
  frames: int = 512
  workdir: str = ''
