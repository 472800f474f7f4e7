"""Communication per step and chip, from 8 to 1,024 chips, by compilation.

  python -m benchmarks.communication          compile what is missing, then plot
  python -m benchmarks.communication --plot   the plot only

The teacher's training step of configs/wan_1_3b.py on v6e slices, in an
environment with the extra [aot]. Weak scaling: the batch grows with the slice.

  fsdp              parameters and batch are split over all chips of a slice
  fsdp 32           parameters over 32 chips, the batch over all
  fsdp x context 4  as fsdp, and four chips share a clip

1,024 chips are four slices, joined by a data-centre network. What a chip sends
per step is read from the compiled program, see worldsim_jax/parallel/hlo.py. A
point takes minutes.
"""

import itertools
import json
import math
import pathlib

from absl import flags
from worldsim_jax import command_line
from worldsim_jax.evaluate import report
from worldsim_jax.parallel import topologies

ROOT = pathlib.Path(__file__).resolve().parents[1]
RESULTS = ROOT / 'benchmarks/results/fit/communication.json'
PLOT = ROOT / 'docs/communication.png'
SLICES = (('v6e:2x4', 1), ('v6e:4x4', 1), ('v6e:8x8', 1), ('v6e:16x16', 1),
          ('v6e:16x16', 4))
LAYOUTS = {  # chips of a slice -> config.mesh
    'fsdp': lambda chips: dict(data=1, fsdp=chips, context=1),
    'fsdp 32': lambda chips: dict(data=max(chips // 32, 1),
                                  fsdp=min(chips, 32), context=1),
    'fsdp x context 4': lambda chips: dict(data=1, fsdp=chips // 4, context=4),
}

_PLOT = flags.DEFINE_bool('plot', False, 'Compile nothing.')


def mesh_of(layout: str, chips: int, num_slices: int) -> dict[str, int]:
  """config.mesh, tensor left out."""
  return LAYOUTS[layout](chips // num_slices) | {'slice': num_slices}


def measure(topology: str, num_slices: int, layout: str) -> dict:
  """Compiles a point of the plot."""
  from configs import wan_1_3b
  from worldsim_jax.train import fit
  from worldsim_jax.train import fit_report

  config = wan_1_3b.get_config()
  chip, devices = topologies.devices(topology, num_slices)
  mesh = mesh_of(layout, len(devices), num_slices)
  config.mesh.update(mesh)
  for name in config.stages[1:]:
    config[name].batch_size = len(devices) // config.mesh.context
  config.tokenizer.batch_size = len(devices)
  found, = fit.on_devices(config, chip, devices, ['teacher'])
  return {'chips': len(devices), 'topology': topology, 'slices': num_slices,
          'mesh': mesh, 'clips': config.teacher.batch_size,
          'sent_gb': found.sent / fit_report.GIGA,
          'between_slices_gb': found.costs.dcn_bytes / fit_report.GIGA,
          'by_kind_gb': {kind: moved.bytes / fit_report.GIGA for kind, moved
                         in found.costs.collectives.items()},
          'tflop': found.flops / fit_report.TERA, 'gib': found.total / fit.GIB,
          'fits': found.fits, 'seconds_at_peak': found.roofline(),
          'versions': report.versions()}


def plot(points):
  """Bytes sent per chip over chips, and the same in seconds at peak."""
  import matplotlib
  matplotlib.use('Agg')
  import matplotlib.pyplot as plt

  figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6))
  for color, layout in enumerate(LAYOUTS):
    own = sorted(
        (p for p in points if p['fits']
         and p['mesh'] == mesh_of(layout, p['chips'], p['slices'])),
        key=lambda p: p['chips'])
    chips = [p['chips'] for p in own]
    left.plot(chips, [p['sent_gb'] for p in own], f'oC{color}-', label=layout)
    for what, style in (('network', 'o{}-'), ('arithmetic', 's{}--')):
      right.plot(chips, [p['seconds_at_peak'][what] for p in own],
                 style.format(f'C{color}'), label=f'{layout}: {what}')
  left.set_ylabel('GB sent per chip and step')
  right.set_ylabel('seconds per step, at peak')
  for axes in (left, right):
    axes.set_xscale('log', base=2)
    axes.set_ylim(bottom=0)
    axes.set_xlabel('v6e chips (1,024: four slices)')
    axes.set_xticks([8, 16, 64, 256, 1024], ['8', '16', '64', '256', '1,024'])
    axes.legend(frameon=False, fontsize=8)
    axes.spines[['top', 'right']].set_visible(False)
  figure.tight_layout()
  figure.savefig(PLOT, dpi=120)


def main(argv):
  del argv
  points = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
  if not _PLOT.value:
    topologies.use_no_accelerator()
    known = [(p['topology'], p['mesh']) for p in points]
    for layout, (topology, num_slices) in itertools.product(LAYOUTS, SLICES):
      chips = num_slices * math.prod(topologies.parse(topology)[1])
      mesh = mesh_of(layout, chips, num_slices)
      if (topology, mesh) not in known:
        points.append(measure(topology, num_slices, layout))
        known.append((topology, mesh))
        report.write_atomically(RESULTS, json.dumps(points, indent=1) + '\n')
  plot(points)


if __name__ == '__main__':
  command_line.run(main)
