"""Recall: what does a stream make of the past that it is told?

The true film is in its cache; before each chunk it is asked for the next
(evaluate/told.py). On walks that come by the same places again,

  told_psnr_*      over the pixels whose point was last seen less than a second
                   ago (now), 1 to 3 s ago and so on, and never before. Only who
                   recalls can know what comes back after its window.
  told_revisit_*   whole frames that revisit a place (data/revisits.py), by the
                   seconds since, and told_elsewhere all other frames.

Of a student that chooses what it recalls (config.student.recall), each token
chooses k frames: `recall_precision` is the share of them that show, by the
exact geometry, at least half of what the token shows. Only tokens are asked for
which k such frames can be chosen. The true future's column is by chance, and
`recall_precision_latest` that of the k latest frames. The film shows what was
chosen.
"""

import numpy as np

from worldsim_jax.data import maps as maps_lib
from worldsim_jax.data import revisits
from worldsim_jax.errors import UserError
from worldsim_jax.evaluate import figures
from worldsim_jax.evaluate import films
from worldsim_jax.evaluate import image_metrics
from worldsim_jax.evaluate import lpips
from worldsim_jax.evaluate import replay
from worldsim_jax.evaluate import told
from worldsim_jax.evaluate.trial import Trial
from worldsim_jax.models import build

MOST_FRAMES = 160  # of a walk: frames are compared with all before them
JUDGED = 48  # frames of a walk
BINS = {'now': 0.0, '1s': 1.0, '3s': 3.0, '6s': 6.0}  # seconds, from
NEVER = 'never'
GAPS = (3.0, 6.0)  # seconds, of revisits; a bin ends where the next one begins
EQUAL = 1e-10  # squared error of equal frames: 100 dB
SHOWN = 3  # recalled frames in the film


def measure(trial: Trial) -> figures.Section:
  """Figures of the walks' first MOST_FRAMES.

  Raises:
    UserError: for subjects that do not stream.
  """
  if trial.world is None or not trial.world.is_causal:
    raise UserError(f'the subject {trial.name} does not stream')
  section = figures.Section('Recall: what it makes of a past that is true')
  walks = _walks(trial)
  found = told.predict(trial.world, walks, trial.config.evaluate.seed)
  best = replay.reconstruct(trial.world, walks.rgb)[:, walks.given:]
  views = [_views(trial, walks, number) for number in range(len(walks))]
  _by_pixels(section, trial, walks, found.rgb, best, views)
  _by_frames(section, trial, walks, found.rgb, best)
  section.notes.append(
      f'{walks.horizon} frames of each walk, each from the true ones before '
      f'it; {JUDGED} of them by pixels. The true future is what the tokenizer '
      'makes of it.')
  if found.recalled is not None:
    _routing(section, trial, walks, found, views)
  return section


def _walks(trial):
  """The beginnings of the walks, in whole chunks."""
  per_step = trial.world.frames_per_step
  frames = min(trial.walks.rgb.shape[1], MOST_FRAMES)
  return trial.walks.first_frames(
      frames - (frames - trial.walks.given) % per_step)


def _views(trial, walks, number) -> dict[int, np.ndarray]:
  """visible_before of the judged frames of a walk, those that move."""
  rgb = walks.rgb[number].astype(np.float32)
  moved = np.abs(np.diff(rgb, axis=0)).mean(axis=(1, 2, 3))
  moving = walks.given + np.flatnonzero(
      moved[walks.given - 1:] >= trial.config.evaluate.min_motion)
  spread = np.linspace(0, len(moving) - 1, min(JUDGED, len(moving))).astype(int)
  geometry = walks.geometry(number)
  return {int(t): told.visible_before(geometry, t) for t in moving[spread]}


def _by_pixels(section, trial, walks, film, best, views):
  """PSNR of pixels by when they were seen last, one value per walk."""
  fps = trial.config.data.frames_per_second
  edges = [round(b * fps) for b in BINS.values()] + [np.inf]
  names = [*BINS, NEVER]
  errors = np.full((2, len(walks), len(names)), np.nan)
  counts = np.zeros(len(names), int)
  for number, of_walk in enumerate(views):
    sums, pixels = np.zeros((2, len(names))), np.zeros(len(names))
    for t, visible in of_walk.items():
      ago = told.last_seen(visible)
      exact = walks.geometry(number).exact[t]
      where = [(ago > low) & (ago <= high)
               for low, high in zip(edges, edges[1:])] + [ago == told.NEVER]
      for kind, source in enumerate((film, best)):
        squared = _squared(
            source[number, t - walks.given], walks.rgb[number, t]
        )
        sums[kind] += [squared[w & exact].sum() for w in where]
      pixels += [(w & exact).sum() for w in where]
    with np.errstate(divide='ignore', invalid='ignore'):
      errors[:, number] = sums / pixels
    counts += pixels.astype(int)
  psnr, ceiling = -10 * np.log10(np.maximum(errors, EQUAL))
  for i, name in enumerate(names):
    section.figures.append(figures.mean(
        f'told_psnr_{name}', psnr[:, i], walks.maps, real=ceiling[:, i],
        unit='dB'))
  section.tables.append((
      'Pixels by when their point was seen last', ['last seen', 'pixels'],
      [[name, int(count)] for name, count in zip(names, counts)]))


def _squared(frame, true):
  """Squared error per pixel of uint8 frames, [H, W], of the range [0, 1]."""
  difference = (frame.astype(np.float32) - true) / 255
  return np.square(difference).mean(axis=-1)


def _by_frames(section, trial, walks, film, best):
  """PSNR and LPIPS of whole frames, by the gap that they revisit over."""
  groups = {f'revisit_{gap:g}s': [] for gap in GAPS} | {'elsewhere': []}
  for number in range(len(walks)):
    gap_of = _gaps(trial, walks, number)
    for t in range(walks.given, walks.rgb.shape[1]):
      name = 'elsewhere'
      if t in gap_of:
        name = f'revisit_{max(g for g in GAPS if g <= gap_of[t]):g}s'
      groups[name].append((number, t - walks.given))
  scores = {'psnr': image_metrics.psnr}
  try:
    lpips.distance(film[0, :1], walks.future[0, :1])
    scores['lpips'] = lpips.distance
  except UserError as e:
    section.lacks.append(f'LPIPS: {e}')
  for name, frames in groups.items():
    if not frames:
      section.lacks.append(f'{name}: no frame of the walks')
      continue
    number, t = np.array(frames).T
    for metric, score in scores.items():
      section.figures.append(figures.mean(
          f'told_{name}_{metric}', score(
              film[number, t], walks.future[number, t]),
          walks.maps[number],
          real=score(best[number, t], walks.future[number, t]),
          unit='dB' if metric == 'psnr' else ''))


def _gaps(trial, walks, number) -> dict[int, float]:
  """Seconds since the view of each revisiting frame that is most alike."""
  fps = trial.config.data.frames_per_second
  pose = walks.pose[number]
  pairs = revisits.pairs(
      pose, seconds_per_frame=1 / fps, min_gap=GAPS[0],
      level=maps_lib.load(walks.maps[number]).level)
  if not len(pairs):
    return {}
  return {int(j): (j - i) / fps for i, j in revisits.closest(pose, pairs)}


def _routing(section, trial, walks, found, views):
  """Precision of what is recalled, and the film of it."""
  hits, maps = [], []
  for number, of_walk in enumerate(views):
    for t, visible in of_walk.items():
      one = _hits(trial, walks, found.recalled[number], t, visible)
      if one is not None:
        hits.append(one)
        maps.append(walks.maps[number])
  if not hits:
    section.lacks.append('precision: no token has so many frames to recall')
    return
  of_layers = np.stack([one.precision for one in hits])  # [frames, L, heads]
  section.figures += [
      figures.mean('recall_precision', of_layers.mean(axis=(1, 2)), maps,
                   real=[one.chance for one in hits]),
      figures.mean('recall_precision_latest', [h.latest for h in hits], maps)]
  section.tables.append((
      'Precision of what is recalled, by layer and head',
      ['layer', *[f'head {i}' for i in range(of_layers.shape[2])]],
      [[i, *row] for i, row in enumerate(of_layers.mean(axis=0).tolist())]))
  section.films['Recalled: the frames that most tokens chose'] = _film(
      trial, walks, found, views)


def _hits(trial, walks, recalled, t: int, visible):
  """`told.Hits` of one pixel frame."""
  world = trial.world
  stride, student = world.vae.time_stride, world.config.student
  chunk, frame = divmod((t - walks.given) // stride, student.chunk)
  height, width = build.latent_size(world.config)
  patch = world.config.model.patch
  # A latent frame is what the last pixel frame of it shows.
  share = told.shares(visible, (height // patch[0], width // patch[1]))
  share = share[::stride]
  latent = student.context_frames + chunk * student.chunk
  number = np.arange(len(share))
  return told.hits(
      recalled[chunk, :, :, :, frame], share,
      (number >= student.sink) & (number < latent - student.window))


def _film(trial, walks, found, views):
  """The truth, the prediction, and what was recalled, most wanted first."""
  number = max(range(len(views)), key=lambda n: len(views[n]))
  rgb, stride = walks.rgb[number], trial.world.vae.time_stride
  columns = {'true': [], 'predicted': []} | {
      f'recalled {i + 1}': [] for i in range(SHOWN)} | {'shows most of it': []}
  blank, captions = np.zeros_like(rgb[0]), []
  for t in range(walks.given, len(rgb)):
    chunk = (t - walks.given) // trial.world.frames_per_step
    frames, votes = np.unique(
        found.recalled[number, chunk], return_counts=True)
    order = np.argsort(-votes[frames >= 0], kind='stable')[:SHOWN]
    chosen = frames[frames >= 0][order] * stride
    shown = [rgb[t], found.rgb[number, t - walks.given]]
    shown += [rgb[i] for i in chosen] + [blank] * (SHOWN - len(chosen))
    window = t - trial.world.config.student.window * stride
    visible = views[number].get(t)
    has_past = visible is not None and window > 0
    overlap = visible[:window].mean(axis=(1, 2)) if has_past else np.zeros(1)
    shown.append(rgb[overlap.argmax()] if has_past else blank)
    captions.append(f'frame {t}: recalls {", ".join(map(str, chosen))}')
    for column, picture in zip(columns.values(), shown):
      column.append(picture)
  return films.side_by_side(
      {name: np.stack(film) for name, film in columns.items()}, 3, captions)
