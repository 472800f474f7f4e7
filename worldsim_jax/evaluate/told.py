"""Each chunk of a film, predicted from all that truly came before it.

A stream that makes a film by itself soon sees its own mistakes, and what it
remembers is hidden by them. Here a cache is told the true film, and before each
chunk the model is asked for it: what it lacks then it has not seen, has not
kept, or has not recalled.

What is seen is known exactly: a pixel of a frame shows a point of the world,
and of every earlier frame it is known whether that point was visible in it.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from worldsim_jax.data import correspondence
from worldsim_jax.data.actions import ActionSpace
from worldsim_jax.diffusion import noise
from worldsim_jax.evaluate.clips import Clips
from worldsim_jax.forcing import batches
from worldsim_jax.forcing import rollout
from worldsim_jax.models import blocks
from worldsim_jax.models import build
from worldsim_jax.models import pixels
from worldsim_jax.models.conditioning import Conditioning

NEVER = -1


class Told(NamedTuple):
  """Of n clips with C chunks after the given frames.

  Attributes:
    rgb: uint8 [n, horizon, H, W, 3], the predictions.
    recalled: int32 [n, C, L, heads, K, frames, N], the latent frames of the
      film that each token of the true chunk recalls in each layer, below 0
      where there were not so many; None for students that recall nothing.
  """
  rgb: np.ndarray
  recalled: np.ndarray | None


def predict(world, clips: Clips, seed: int = 0) -> Told:
  """Every chunk of the clips' futures, each from the true frames before it.

  Args:
    world: causal; its student samples as it streams.
    clips: `world.context_frames` of them are given; their horizon is a multiple
      of `world.frames_per_step`.
    seed: of the noise.
  """
  text = world.encode_texts(clips.captions)
  rgb, recalled = jax.jit(functools.partial(_predict, world, clips.given))(
      world.variables, clips.rgb, ActionSpace().normalise(clips.actions), text,
      jax.random.key(seed))
  if recalled is None:
    return Told(np.asarray(rgb), None)
  recalled = np.moveaxis(np.asarray(recalled), 2, 0)  # [n, C, L, H, K, T]
  shape = *recalled.shape[:-1], world.config.student.chunk, -1
  return Told(np.asarray(rgb), recalled.reshape(shape))


def _predict(world, given: int, variables, rgb, actions, text, key):
  """Films [n, horizon, H, W, 3], and the frames recalled [C, L, n, H, K, T]."""
  vae, sampling, params = world.vae, world.sampling, variables['student']
  z, _ = vae.apply(variables['vae'], pixels.to_float(rgb), method='encode')
  actions = batches.group_actions(actions, vae.time_stride)
  model, recalled = world.model, {}

  def velocity_fn(params, *args):
    out, found = model.apply(
        {'params': params}, *args, mutable=[blocks.RECALLED])
    recalled.update(found)
    return out

  def condition(first, size):
    return Conditioning(text=text, actions=jax.lax.dynamic_slice_in_dim(
        actions, first, size, axis=1))

  def one_chunk(carry, index):
    state, decoder = carry
    first = context + index * sampling.chunk
    now = condition(first, sampling.chunk)
    rng_noise, rng_steps = jax.random.split(jax.random.fold_in(key, index))
    true = jax.lax.dynamic_slice_in_dim(z, first, sampling.chunk, axis=1)
    _, made = rollout.generate_chunk(
        build.velocity_fn(model), params, state,
        noise.normal(rng_noise, true.shape), now, sampling,
        len(sampling.sigmas) - 1, rng_steps)
    film, _ = vae.apply(variables['vae'], made, decoder, method='decode')
    _, decoder = vae.apply(variables['vae'], true, decoder, method='decode')
    recalled.clear()
    told = rollout.tell(velocity_fn, params, state, true, now, sampling)
    slots = jax.tree.leaves(recalled)
    recalled.clear()
    frames = [jnp.where(s < 0, NEVER, state.cache.position[s]) for s in slots]
    return (told, decoder), (pixels.to_uint8(film), frames)

  context = world.config.student.context_frames
  _, decoder = vae.apply(variables['vae'], z[:, :context], method='decode')
  state = rollout.start(
      build.velocity_fn(model), params,
      build.new_cache(build.student(world.config), len(z)), z[:, :context],
      condition(0, context), sampling)
  chunks = (z.shape[1] - context) // sampling.chunk
  _, (film, frames) = jax.lax.scan(
      one_chunk, (state, decoder), jnp.arange(chunks))
  film = jnp.moveaxis(film, 0, 1).reshape(len(z), -1, *film.shape[3:])
  assert film.shape[1] == rgb.shape[1] - given, (film.shape, rgb.shape)
  return film, (frames[0] if frames else None)


def visible_before(geometry, frame: int) -> np.ndarray:
  """Which pixels of a frame were visible in which earlier ones.

  Args:
    geometry: `data.geometry.Geometry` of the film.
    frame: t.

  Returns:
    bool [t, H, W]; False as well where a pixel's point is not known (sky,
    sprites).
  """
  shape = geometry.depth.shape[1:]
  seen = [correspondence.flow(geometry, frame, i)[1] for i in range(frame)]
  return np.stack(seen) if seen else np.zeros((0, *shape), bool)


def last_seen(visible_tHW) -> np.ndarray:
  """Frames since each pixel was seen, int [H, W]: 1 for the frame before.

  NEVER for those that were not.
  """
  frames = len(visible_tHW)
  if not frames:
    return np.full(visible_tHW.shape[1:], NEVER)
  ago = 1 + np.argmax(visible_tHW[::-1], axis=0)
  return np.where(visible_tHW.any(axis=0), ago, NEVER)


def shares(visible_tHW, grid: tuple[int, int]) -> np.ndarray:
  """Which share of each token's pixels each frame shows, [t, N].

  Args:
    visible_tHW: bool.
    grid: rows and columns of tokens, which divide the picture.
  """
  frames, height, width = visible_tHW.shape
  rows, columns = grid
  of_tokens = visible_tHW.reshape(
      frames, rows, height // rows, columns, width // columns)
  return of_tokens.mean(axis=(2, 4)).reshape(frames, rows * columns)


class Hits(NamedTuple):
  """Whether a frame's tokens recall frames that show what they show.

  Attributes:
    precision: [L, heads], of what tokens recalled, the share that does.
    chance: of what they could have recalled; `latest`: of the K latest.
    tokens: how many were asked: those for which K or more frames do.
  """
  precision: np.ndarray
  chance: float
  latest: float
  tokens: int


def hits(recalled_LHKN, share_tN, candidates_t, least: float = 0.5):
  """`Hits` of a frame, or None where no token has K frames to recall.

  Args:
    recalled_LHKN: frames that its tokens recalled.
    share_tN: of `shares`.
    candidates_t: bool, frames that could be recalled.
    least: share of a token's pixels from which on a frame shows it.
  """
  top_k = recalled_LHKN.shape[2]
  shows_tN = (share_tN >= least) & candidates_t[:, None]
  asked_N = shows_tN.sum(axis=0) >= top_k
  if not asked_N.any():
    return None
  shows_tN = shows_tN[:, asked_N]
  recalled = recalled_LHKN[..., asked_N]
  right = np.take_along_axis(
      shows_tN[None, None], np.maximum(recalled, 0), axis=2)
  right &= recalled >= 0
  latest = np.flatnonzero(candidates_t)[-top_k:]
  return Hits(right.mean(axis=(2, 3)), float(shows_tN[candidates_t].mean()),
              float(shows_tN[latest].mean()), int(asked_N.sum()))
