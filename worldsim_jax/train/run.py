"""A whole run: data, the stages in order, the world, evaluation, report.

Every part is skipped if its result is there, so the same command starts,
resumes and confirms a run. In a run of several processes all of them render
(where their disks are their own) and train; process 0 evaluates and writes.
"""

import contextlib
import json
import os
import time

import jax
import jax.numpy as jnp

from worldsim_jax.data import pipeline
from worldsim_jax.data import records
from worldsim_jax.data import video_files
from worldsim_jax.errors import UserError
from worldsim_jax.evaluate import clips as clips_lib
from worldsim_jax.evaluate import replay
from worldsim_jax.evaluate import report
from worldsim_jax.forcing import paradigms
from worldsim_jax.models import build
from worldsim_jax.models import tiny_vae
from worldsim_jax.parallel import distributed
from worldsim_jax.parallel import mesh as meshes
from worldsim_jax.storage import paths
from worldsim_jax.streaming import files
from worldsim_jax.streaming.world import World
from worldsim_jax.train import assemble
from worldsim_jax.train import checkpoints
from worldsim_jax.train import datasets
from worldsim_jax.train import loop
from worldsim_jax.train import metrics as metrics_lib
from worldsim_jax.train import pretrained
from worldsim_jax.train import stages as stage_lib
from worldsim_jax.train import students
from worldsim_jax.train import validation

NUM_STARTS = 8
FILM_PLAYERS = {'true future': 'truth', 'teacher': 'teacher',
                'student': 'student'}  # by their labels
FILMS = 64  # to fit and measure latents on
# What a checkpoint does not depend on: where things are, and how a machine
# computes the same.
_IRRELEVANT = frozenset({
    'data.dir', 'data.num_workers', 'student.weights_dtype', 'text.path'})
_OF_THE_MACHINE = frozenset({
    'remat', 'attention', 'unroll', 'offload', 'weights', 'implementation'})
# Of config.evaluate: what only --mode=evaluate reads.
_OF_THE_SUITE = frozenset({
    'subject', 'sections', 'seed', 'walks', 'walk_frames', 'walk_policy',
    'walk_maps', 'exports', 'matrix', 'matrix_delay'})
# Keys that came later count where they are used: older checkpoints lack them.
_LATER = {'data.shots': 1, 'data.shot_captions': False, 'data.monsters': False,
          'student.step': 'renoise', 'text.per_shot': False,
          'model.compass': 0.}
_LATER_OF_STAGES = {
    'divergence': 'dmd', 'score_weight': 'normalised', 'critic_warmup': 0,
    'clean_level': False, 'exit_steps': 'shared', 'gradient_frames': 0,
    'shots': 1, 'past': 'all', 'monitor.every': 0, 'monitor.num_clips': 16,
    'monitor.clip_frames': 12, 'monitor.max_contrast': 0.}
PROBE = bytes(2**16)  # Nothing at all can be written to a full disk.


def train_and_evaluate(config, workdir):
  """Runs everything that a config describes; see the module docstring.

  Args:
    config: see configs/base.py.
    workdir: folder of the run, local or gs://.

  Returns:
    The final numbers by name.

  Raises:
    UserError: for what the user can mend, in one line.
  """
  validation.check_run(config)
  workdir = paths.folder(workdir)
  unfinished = unfinished_stages(config, workdir)
  prepare_workdir(workdir)
  is_finished = not unfinished and has_results(config, workdir)
  distributed.barrier('all have read what there is')
  if is_finished:
    print(f'all is done: {workdir}/report.html, films.mp4 and summary.json')
    return json.loads((workdir / 'summary.json').read_text())
  start = time.time()
  if distributed.is_main():
    _write_config(config, workdir)
  print('data: renders, or finds, the films')
  frames_dir = datasets.frames(config, workdir)
  check_films(config, frames_dir)
  world, trained = train_stages(config, workdir, frames_dir)
  if distributed.is_main():
    files.save(world, workdir / assemble.WORLD)
  # By all processes: what is spread over them must be gathered by all.
  trained = {name: meshes.fetch(trained[stage])
             for name, stage in evaluated(config).items()}
  if distributed.is_main():
    with named_shortage():
      summary = evaluate(config, workdir, world, trained, frames_dir)
    _print_summary(summary, workdir, time.time() - start)
  distributed.barrier('evaluated')
  return json.loads((workdir / 'summary.json').read_text())


def train_stages(config, workdir, frames_dir):
  """Runs the stages; returns the world and all trained networks by stage.

  The networks are on the mesh, the world is this process's.
  """
  trained, mesh = {}, meshes.make_mesh(config.mesh)
  make_batches = datasets.Batches(
      frames_dir, datasets.FRAME_FIELDS, config.seed, mesh)
  vae_variables = None
  if config.data.latents:
    # Off the device that it was loaded to: networks are on all of the mesh.
    vae_variables = jax.device_get(_given_tokenizer(config).vae_variables)
    make_batches = _latent_space(
        config, workdir, frames_dir, vae_variables, mesh)
  for name in config.stages:
    weights = {}
    if config[name].get('weights'):
      weights = {pretrained.key(name): pretrained.load(config, name, mesh)}
    if not config[name].num_steps:
      trained[name], = weights.values()
      continue
    if students.needs_latent_space(name, config):
      weights[students.LATENT_SPACE] = vae_variables
    inputs = stage_lib.Inputs(
        config, make_batches,
        lambda: datasets.films(config, frames_dir, FILMS))
    stage = stage_lib.make(name, inputs)
    state = loop.train(
        stage, trained | weights, config.loop, config.seed, workdir,
        fingerprint(config, name), mesh)
    # An average may have been with the host.
    trained[name] = meshes.place(mesh, state.best_params(name))
    del state  # Optimisers and averages leave room for the next stage.
    if config[name].paradigm == 'tokenizer':
      vae_params = jax.tree.map(jnp.asarray, meshes.fetch(trained[name]))
      vae_variables = {
          'params': vae_params,
          'latent_stats': distributed.same_everywhere(
              tiny_vae.measure_latent_stats(
                  build.tokenizer(config), vae_params,
                  datasets.films(config, frames_dir, FILMS)))}
      make_batches = _latent_space(
          config, workdir, frames_dir, vae_variables, mesh)
  student = meshes.fetch(trained[config.stages[-1]])
  world = World(config, student, vae_variables, _starts(config, frames_dir))
  return world, trained


def _latent_space(config, workdir, frames_dir, vae_variables, mesh):
  """Saves the tokenizer; returns the batches of latents for stages."""
  if distributed.is_main():
    files.save(World(config, {}, vae_variables, _starts(config, frames_dir)),
               workdir / assemble.LATENT_SPACE)
  latents_dir = config.data.latents or datasets.latents(
      config, workdir, frames_dir, build.tokenizer(config), vae_variables)
  return datasets.Batches(
      latents_dir, datasets.latent_fields(config), config.seed, mesh)


def _given_tokenizer(config):
  """That of config.data.latents, if the run can use it."""
  world = assemble.tokenizer(config.data.latents)
  datasets.check_latents(config, world.config)
  return world


def evaluate(config, workdir, world: World, trained, frames_dir):
  """Plays the test clips, writes films, report and summary; returns it.

  Args:
    trained: the networks of `evaluated`, by name.
    (others: as named.)
  """
  clips = clips_lib.of_test_split(config, frames_dir, world.context_frames)
  print(f'evaluation: {len(clips)} test clips that move, '
        f'{config.evaluate.horizon} frames each')
  played = replay.play(world, trained, clips)
  summary, drift = replay.summarise(
      replay.score(played), clips.actions[:, clips.given:], clips.maps)
  film = replay.film(
      {label: played[name] for label, name in FILM_PLAYERS.items()}, clips,
      config.evaluate.film_clips)
  path = workdir / 'films.mp4'
  video_files.write_mp4(path, film, config.data.frames_per_second)
  with metrics_lib.MetricLogger(
      workdir, stage='evaluation', num_steps=1) as logger:
    logger.films(0, 'films', film, config.data.frames_per_second)
  report.training_report(
      workdir, summary, {'True future, teacher, student': path}, config,
      {'PSNR against the true future (dB)': drift}, x_label='frame')
  return summary


def evaluated(config) -> dict[str, str]:
  """Stages whose networks play beside the world's, by the player's name."""
  stages = {'teacher': config.evaluate.teacher}
  last = config[config.stages[-1]]
  if last.paradigm in paradigms.DISTILLED:
    stages['undistilled'] = last.start_from
  return stages


@contextlib.contextmanager
def named_shortage():
  """Says what to do where the device has too little memory to evaluate."""
  try:
    yield
  except jax.errors.JaxRuntimeError as e:
    if 'RESOURCE_EXHAUSTED' not in str(e):
      raise
    raise UserError(
        'all stages are trained and world/ is saved, but the evaluation, which '
        f'runs on one device, needs more memory than it has '
        f'({paths.first_line(e)}): take --mode=evaluate to a larger one, or '
        'lower config.evaluate.num_clips.') from e


def fingerprint(config, stage: str) -> dict:
  """What a stage's checkpoint depends on: data, models, earlier stages."""
  earlier = config.stages[:config.stages.index(stage) + 1]
  parts = ['data', 'vae', 'model', 'text', 'student', *earlier]
  if config[stage].paradigm == 'tokenizer':
    parts = ['data', 'vae', *earlier]
  flat = {'seed': config.seed}
  for part in parts:
    flat |= flatten(config[part].to_dict(), f'{part}.')
  if flat.get('vae.kind') == build.DEFAULT_KIND:
    flat.pop('vae.kind')  # Older checkpoints have it without naming it.
  for name in set(earlier) & set(pretrained.names(config)):
    flat[f'{name}.weights_are'] = pretrained.fingerprint(config, name)
  later = _LATER | {f'{name}.{key}': value for name in earlier
                    for key, value in _LATER_OF_STAGES.items()}
  for key in list(flat):
    if key in _IRRELEVANT or key.rsplit('.')[-1] in _OF_THE_MACHINE:
      flat.pop(key)
    elif key in later and flat[key] == later[key]:
      flat.pop(key)
  return flat


def flatten(tree: dict, prefix: str = '') -> dict:
  """{'a': {'b': 1}} -> {'a.b': 1}."""
  flat = {}
  for key, value in tree.items():
    if isinstance(value, dict):
      flat |= flatten(value, f'{prefix}{key}.')
    else:
      flat[prefix + key] = value
  return flat


def prepare_workdir(workdir):
  """Makes the folder, or says in one line why it cannot be used."""
  workdir = paths.folder(workdir)
  probe = workdir / f'.writable-{jax.process_index()}-{os.getpid()}'
  try:
    if not paths.is_remote(workdir):  # gcsfs would make a missing bucket.
      workdir.mkdir(parents=True, exist_ok=True)
    try:
      probe.write_bytes(PROBE)
    finally:
      probe.unlink(missing_ok=True)
  except (OSError, *paths.remote_errors()) as e:
    raise UserError(f'--workdir={workdir} cannot be written: {e}') from e
  if not paths.is_remote(workdir) and not distributed.sees_main(workdir):
    raise UserError(f'--workdir={workdir} is not the folder that process 0 '
                    'sees under this name; checkpoints need one that all hosts '
                    'share (NFS, gcsfuse).')


def unfinished_stages(config, workdir) -> list[str]:
  """The stages without a final checkpoint, in order.

  Raises:
    UserError: if a stage has a checkpoint that was made with other settings.
  """
  try:
    return [
        name for name in config.stages
        if config[name].num_steps not in (0, checkpoints.finished_steps(
            workdir / name, fingerprint(config, name)))]
  except (OSError, *paths.remote_errors()) as e:
    raise UserError(f'--workdir={workdir} cannot be read: {e}') from e


def has_results(config, workdir) -> bool:
  """Whether the evaluation in the workdir is the one that is configured.

  That of trained stages; what else is in a config changes no result.
  """
  needed = ('config.json', 'summary.json', 'report.html', 'films.mp4', 'world')
  if not all((workdir / name).exists() for name in needed):
    return False
  try:
    saved = json.loads((workdir / 'config.json').read_text())
  except json.JSONDecodeError:
    return False
  current = json.loads(config.to_json())
  own = lambda config: {
      key: value for key, value in config.get('evaluate', {}).items()
      if key not in _OF_THE_SUITE}
  return (saved.get('stages') == current['stages']
          and own(saved) == own(current))


def _write_config(config, workdir):
  """Says what the run is; the results in the workdir may be of another one."""
  summary = workdir / 'summary.json'
  with report.named_write_errors(summary):
    # It is written last: where it is, the results are those of config.json.
    summary.unlink(missing_ok=True)
  report.write_atomically(workdir / 'config.json', config.to_json(indent=2))


def check_films(config, frames_dir):
  """Raises UserError for films that some stage or the evaluation cannot use."""
  vae, evaluate = build.tokenizer(config), config.evaluate
  frames = lambda latents: 1 + vae.time_stride * (latents - 1)
  trained = {}
  for name in config.stages:
    stage = config[name]
    # Of several shots, one is at least as long as their mean.
    clip = -(-stage.clip_frames // stage.get('shots', 1))
    is_tokenizer = stage.paradigm == 'tokenizer'
    trained[f'config.{name}.clip_frames'] = (
        clip if is_tokenizer else frames(clip))
  given = frames(config.student.context_frames)
  played = {'config.evaluate.horizon + config.student.context_frames':
            given + evaluate.horizon}
  needed = {'train': trained, 'test': played}
  if config.data.latents:
    _given_tokenizer(config)
    del needed['train']
  pipeline.check_films(
      frames_dir, needed, height=config.data.height, width=config.data.width)


def _starts(config, frames_dir):
  """First frames of test episodes, for streams to begin with."""
  source = records.Source(frames_dir, 'test')
  given = 1 + build.tokenizer(config).time_stride * (
      config.student.context_frames - 1)
  count = min(NUM_STARTS, len(source))
  return pipeline.eval_clips(
      source, clip_frames=given, num_clips=count, fields=('rgb',))['rgb']


def _print_summary(summary, workdir, seconds):
  width = max(map(len, summary))
  for name, value in summary.items():
    print(f'  {name:<{width}}  {value:.4g}')
  print(f'{seconds:.0f} s; results in {workdir}: report.html, films.mp4, '
        'summary.json, world/')
