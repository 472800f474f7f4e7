"""Command line: flags in, one of the modes out.

  python -m worldsim_jax.main --config=configs/quickstart.py --workdir=runs/x

Training and evaluation run in several processes, one on each host: a TPU pod,
SLURM and Kubernetes are recognised, so the same command is started everywhere;
other hosts are told by --coordinator, --num_processes and --process_id. Exit
codes: 2 for bad input, 75 when told to stop (the same command resumes), 69 when
another host was lost (likewise, on all hosts).
"""

import contextlib
import logging as standard_logging
import sys

from absl import flags
from absl import logging
from ml_collections import config_flags

from worldsim_jax import command_line
from worldsim_jax.errors import UserError
from worldsim_jax.parallel import distributed
from worldsim_jax.parallel import preemption
from worldsim_jax.storage import paths

_MODE = flags.DEFINE_string(
    'mode', 'train', 'train, evaluate, sample, export, convert, record or fit.')
_WORKDIR = flags.DEFINE_string(
    'workdir', None, 'Folder of a run, local or gs://bucket/path.')
_CONFIG = config_flags.DEFINE_config_file(
    'config', None, 'Path of a config, arguments after a colon; '
    '--config.key=value overrides a key.', lock_config=True)
_SOURCE = flags.DEFINE_string(
    'source', None, 'What sample and export read (a workdir or a world; '
    'default: --workdir), the folder of videos, or with --tokenizer also '
    'the record set of frames, that record reads, and the weights, separated '
    'by commas, or with --format the world, that convert reads.')
_TARGET = flags.DEFINE_string(
    'target', None, 'What sample (default: sample.mp4 in the source), export '
    '(default: export/ in it), record and convert (a folder) write.')
_ACTIONS = flags.DEFINE_string(
    'actions', 'forward*20,left*10', 'sample: an action file, or a script such '
    'as forward*20,left*10.')
_PROMPT = flags.DEFINE_string(
    'prompt', None, 'sample: text, for models with it.')
_STAGE = flags.DEFINE_string(
    'stage', '', 'sample and export: the stage whose newest checkpoint to use; '
    'default: the finished world, or the latest stage that can stream.')
_TOPOLOGY = flags.DEFINE_string(
    'topology', None, 'fit: what to compile for, such as v5p:4x4x4, v6e:2x2, '
    'h100:8 or cpu:8.')
_PROGRAMS = flags.DEFINE_list(
    'programs', [], 'fit: which; stages, rollout, start, stream, decode; '
    'default: all.')
_SEARCH = flags.DEFINE_bool(
    'search', False, 'fit: look for a mesh that fits, if this one does not.')
_TOKENIZER = flags.DEFINE_string(
    'tokenizer', '', 'record: writes latents, made by the tokenizer of this '
    'workdir, world or latent set; default: writes frames.')
_LATENT_DTYPE = flags.DEFINE_string(
    'latent_dtype', 'float32', 'record: how latents and text are stored, '
    'float32, bfloat16 or float16.')
_FORMAT = flags.DEFINE_string(
    'format', '', 'convert: writes a world for PyTorch, as diffusers, wan or '
    'self_forcing (a .pt file); default: reads such weights into a world.')
_NETWORK = flags.DEFINE_string(
    'network', '', 'convert: of a file with several, generator_ema (default), '
    'generator or critic.')
_WEIGHTS_DTYPE = flags.DEFINE_string(
    'weights_dtype', '', 'convert: of the parameters of transformer and text '
    'encoder, float32, bfloat16 or float16; default: as they are.')
_LORA_ALPHA = flags.DEFINE_float(
    'lora_alpha', None, 'convert: of a LoRA whose file does not tell; default: '
    'its rank, which scales it by one.')
_COORDINATOR = flags.DEFINE_string(
    'coordinator', None, 'host:port of process 0, for hosts that the '
    'environment does not tell of; with --num_processes and --process_id.')
_NUM_PROCESSES = flags.DEFINE_integer(
    'num_processes', None, 'How many processes train together, or share the '
    'work of record (in one folder, at any time, without --coordinator).')
_PROCESS_ID = flags.DEFINE_integer(
    'process_id', None, 'Which of them this is, from 0.')
_DISTRIBUTED = flags.DEFINE_enum(
    'distributed', 'auto', ['auto', 'off'], 'auto: the processes of a TPU pod, '
    'a SLURM step or a Kubernetes job train together; off: this one is alone.')
_HEARTBEAT_SECONDS = flags.DEFINE_float(
    'heartbeat_seconds', 30., 'Without a sign of life, a host is lost.')
_SEED = flags.DEFINE_integer('seed', 0, 'sample: of the noise and the start.')


def _train():
  config, workdir = _needed(_CONFIG), _needed(_WORKDIR)
  with _together():
    from worldsim_jax.train import run
    run.train_and_evaluate(config, workdir)


def _evaluate():
  config, workdir = _needed(_CONFIG), _needed(_WORKDIR)
  with _together():
    from worldsim_jax.train import evaluation
    evaluation.evaluate(config, workdir)


@contextlib.contextmanager
def _together():
  """Connects to the other processes of the run, if there are."""
  with preemption.handled():
    distributed.start(
        _COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value,
        detect=_DISTRIBUTED.value == 'auto',
        heartbeat_seconds=_HEARTBEAT_SECONDS.value)
    yield
    distributed.stop()


def _sample():
  from worldsim_jax.streaming import sample
  source = _SOURCE.value or _needed(_WORKDIR)
  sample.sample(lambda: _world(source),
                _TARGET.value or f'{source}/sample.mp4', _ACTIONS.value,
                prompt=_PROMPT.value, seed=_SEED.value)


def _export():
  from worldsim_jax.streaming import export
  source = _SOURCE.value or _needed(_WORKDIR)
  export.export(_world(source), _TARGET.value or f'{source}/export')


def _record():
  from worldsim_jax.data.shards import Share
  from worldsim_jax.train import recording
  tokenizer = _TOKENIZER.value
  config = command_line.value(_CONFIG) if tokenizer else _needed(_CONFIG)
  share = Share(*distributed.share(
      _NUM_PROCESSES.value, _PROCESS_ID.value,
      detect=_DISTRIBUTED.value == 'auto'))
  directory = recording.record(
      _needed(_SOURCE), _needed(_TARGET), config, tokenizer=tokenizer,
      dtype=_LATENT_DTYPE.value, share=share)
  key = 'latents' if tokenizer else 'records'
  print(f'recorded; train on it with --config.data.{key}={directory}')


def _convert():
  source, target = _needed(_SOURCE), _needed(_TARGET)
  if _FORMAT.value:
    from worldsim_jax.convert import out_of_world
    out_of_world.convert(source, target, _FORMAT.value)
  else:
    from worldsim_jax.convert import into_world
    into_world.convert(
        source.split(','), target, network=_NETWORK.value,
        dtype=_WEIGHTS_DTYPE.value, config=command_line.value(_CONFIG),
        lora_alpha=_LORA_ALPHA.value)


def _fit():
  from worldsim_jax.parallel import topologies
  topologies.use_no_accelerator()
  from worldsim_jax.train import fit
  if not fit.fit(_needed(_CONFIG), _needed(_TOPOLOGY), _PROGRAMS.value,
                 command_line.value(_WORKDIR), _SEARCH.value):
    sys.exit(1)


def _world(source):
  from worldsim_jax.train import assemble
  return assemble.load(source, _STAGE.value)


MODES = {'train': _train, 'evaluate': _evaluate, 'sample': _sample,
         'export': _export, 'convert': _convert, 'record': _record,
         'fit': _fit}


def _needed(flag):
  value = command_line.value(flag)
  if value is None:
    raise UserError(f'--mode={_MODE.value} needs --{flag.name}=...')
  return value


def main(argv):
  if len(argv) > 1:
    raise UserError(f'unexpected argument {argv[1]!r}; flags begin with --')
  if _MODE.value not in MODES:
    raise UserError(f'--mode={_MODE.value} is not one of {", ".join(MODES)}')
  if not flags.FLAGS['verbosity'].present:
    # Orbax tells every file that it writes, JAX every backend that it lacks.
    logging.set_verbosity(logging.WARNING)
    standard_logging.getLogger().setLevel(standard_logging.WARNING)
  with paths.named_errors(_WORKDIR.value):
    MODES[_MODE.value]()


def run():
  """The console entry."""
  command_line.run(main)


if __name__ == '__main__':
  run()
