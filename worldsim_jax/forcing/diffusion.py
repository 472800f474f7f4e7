"""Denoising objectives: full sequence, teacher forcing, Diffusion Forcing.

All regress the velocity of rectified flow,

  L = E_σ,ε ‖ v_θ(x_σ, σ, c) - (ε - x0) ‖² w(σ),                         (1)

and differ in what a frame sees of the others:

  full sequence   all frames at one σ, bidirectional: the teacher. The first c
                  frames are given, at σ = 0, with c drawn per batch, so that
                  one model continues videos of any length.
  teacher forcing every chunk at its own σ, reading clean earlier chunks.
  Diffusion Forcing  every chunk at its own σ, reading the earlier ones at
                  theirs (Chen et al. 2024, arXiv 2407.01392, with a causal
                  transformer in place of its recurrent network).

`sequences` says what a causal model is given of the past. The weight w is
explained in `diffusion/objective.py`.
"""

import jax
import jax.numpy as jnp

from worldsim_jax.diffusion import flow
from worldsim_jax.diffusion import objective
from worldsim_jax.forcing import batches
from worldsim_jax.forcing import sequences


def full_sequence_loss(velocity_fn, config, network: str, *, context_of=None):
  """Eq. (1) for a bidirectional model.

  Args:
    velocity_fn: (params, x, timesteps, conditioning, context, cache) -> v.
    config: shift, weight, guidance_dropout, max_context_frames.
    network: which entry of `params` is trained.
    context_of: (shot_id, rng) -> `AttentionContext` of the frames, for batches
      of films with cuts; default: every frame reads every other.

  Returns:
    loss(params, batch, rng) -> (loss, metrics).
  """
  def loss(params, batch, rng):
    keys = dict(zip(('context', 'sigma', 'eps', 'drop'),
                    jax.random.split(rng, 4)))
    x0 = batch['latents']
    _check_scored(x0.shape[1], 'max_context_frames', config.max_context_frames)
    given = jax.random.randint(
        keys['context'], (), 1, config.max_context_frames + 1)
    future_F = jnp.arange(x0.shape[1]) >= given
    sigma_B = flow.uniform_sigmas(keys['sigma'], x0.shape[:1], config.shift)
    sigma_BF = sigma_B[:, None] * future_F
    image = batches.image_before_future(x0, given)
    condition = batches.conditioning(batch).with_image(*image).dropped(
        keys['drop'], config.guidance_dropout)
    x, target = objective.noised(keys['eps'], x0, sigma_BF)
    context = context_of and context_of(
        batch['shot_id'], jax.random.fold_in(rng, 1))
    v = velocity_fn(params[network], x, flow.timesteps(sigma_BF), condition,
                    context)
    return objective.regression(v, target, sigma_BF, future_F, config.weight)

  return loss


def teacher_forcing_loss(velocity_fn, config, network: str, *, chunk: int,
                         context_frames: int):
  """Eq. (1) for a block-causal model with a clean past.

  Args:
    velocity_fn, network: as above.
    config: shift, weight, guidance_dropout.
    chunk: frames denoised together.
    context_frames: leading frames without loss.

  Returns:
    loss(params, batch, rng) -> (loss, metrics).
  """
  def loss(params, batch, rng):
    keys = dict(zip(('sigma', 'eps', 'drop'), jax.random.split(rng, 3)))
    x0 = batch['latents']
    num_frames = x0.shape[1]
    _check_scored(num_frames, 'context_frames', context_frames)
    first = context_frames // chunk * chunk
    sigma_BF = _chunk_levels(keys['sigma'], x0, chunk, config.shift)[:, first:]
    condition = batches.conditioning(batch).dropped(
        keys['drop'], config.guidance_dropout)
    x, target = objective.noised(keys['eps'], x0[:, first:], sigma_BF)
    v = sequences.clean_past(
        velocity_fn, params[network], x0, x, sigma_BF, condition, chunk)
    scored_F = jnp.arange(first, num_frames) >= context_frames
    return objective.regression(v, target, sigma_BF, scored_F, config.weight)

  return loss


def diffusion_forcing_loss(velocity_fn, config, network: str, *, chunk: int,
                           context_frames: int = 0, context_of=None):
  """Eq. (1) for a block-causal model with a past as noisy as anything.

  Args:
    velocity_fn, network: as above.
    config: shift, weight ('fused_snr' is made for this), guidance_dropout.
    chunk: frames denoised together, at one level; 1 is the paper's.
    context_frames: leading frames that are given clean, and not scored. With
      0 every frame is noisy, and scored.
    context_of: (batch size) -> what is read of the past, as in `sequences`;
      default: all of it.

  Returns:
    loss(params, batch, rng) -> (loss, metrics).
  """
  def loss(params, batch, rng):
    keys = dict(zip(('sigma', 'eps', 'drop'), jax.random.split(rng, 3)))
    x0 = batch['latents']
    _check_scored(x0.shape[1], 'context_frames', context_frames)
    scored_F = jnp.arange(x0.shape[1]) >= context_frames
    sigma_BF = scored_F * _chunk_levels(keys['sigma'], x0, chunk, config.shift)
    condition = batches.conditioning(batch).dropped(
        keys['drop'], config.guidance_dropout)
    x, target = objective.noised(keys['eps'], x0, sigma_BF)
    v = sequences.noisy_past(
        velocity_fn, params[network], x, sigma_BF, condition, chunk,
        context=context_of and context_of(len(x0)))
    return objective.regression(v, target, sigma_BF, scored_F, config.weight)

  return loss


def _chunk_levels(rng, x0_BFHWC, chunk: int, shift: float):
  """σ [B, F], one for all frames of a chunk."""
  batch, frames = x0_BFHWC.shape[:2]
  sigma = flow.uniform_sigmas(rng, (batch, frames // chunk), shift)
  return jnp.repeat(sigma, chunk, axis=1)


def _check_scored(num_frames: int, name: str, given: int):
  if given >= num_frames:
    raise ValueError(
        f'{name}={given} leaves no frame to denoise in a clip of {num_frames} '
        f'(config.*.{name}, config.*.clip_frames).')
