"""Denoising objectives: full-sequence diffusion and teacher forcing.

Both regress the velocity of rectified flow,

  L = E_σ,ε ‖ v_θ(x_σ, σ, c) - (ε - x0) ‖² w(σ),                         (1)

and differ in what a frame sees of the others:

  full sequence   all frames at one σ, bidirectional: the teacher. The first c
                  frames are given, at σ = 0, with c drawn per batch, so that
                  one model continues videos of any length.
  teacher forcing every chunk at its own σ, reading clean earlier chunks: the
                  sequence is [clean; noisy] as `attention.context` lays it out.

The weight w is explained in `diffusion/objective.py`.
"""

import functools

import jax
import jax.numpy as jnp

from worldsim_jax.attention import context as contexts
from worldsim_jax.diffusion import flow
from worldsim_jax.diffusion import objective
from worldsim_jax.forcing import batches


def full_sequence_loss(velocity_fn, config, network: str):
  """Eq. (1) for a bidirectional model.

  Args:
    velocity_fn: (params, x, timesteps, conditioning, context, cache) -> v.
    config: shift, weight, guidance_dropout, max_context_frames.
    network: which entry of `params` is trained.

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
    v = velocity_fn(params[network], x, flow.timesteps(sigma_BF), condition)
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
    context = contexts.teacher_forcing(num_frames, chunk, first)
    sigma_chunk = flow.uniform_sigmas(
        keys['sigma'], (x0.shape[0], num_frames // chunk), config.shift)
    sigma_BF = jnp.repeat(sigma_chunk, chunk, axis=1)
    condition = batches.conditioning(batch).with_image(
        *batches.image_before_chunks(x0, chunk)).dropped(
            keys['drop'], config.guidance_dropout)
    clean, sigma_BF = x0[:, :-chunk], sigma_BF[:, first:]
    x, target = objective.noised(keys['eps'], x0[:, first:], sigma_BF)
    join = functools.partial(jnp.concatenate, axis=1)
    sigmas = join([jnp.zeros(clean.shape[:2]), sigma_BF])
    v = velocity_fn(
        params[network], join([clean, x]), flow.timesteps(sigmas),
        condition.at_frames(context.positions), context)[:, clean.shape[1]:]
    scored_F = jnp.arange(first, num_frames) >= context_frames
    return objective.regression(v, target, sigma_BF, scored_F, config.weight)

  return loss


def _check_scored(num_frames: int, name: str, given: int):
  if given >= num_frames:
    raise ValueError(
        f'{name}={given} leaves no frame to denoise in a clip of {num_frames} '
        f'(config.*.{name}, config.*.clip_frames).')
