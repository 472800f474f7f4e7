"""Self Forcing: the student trains on what it makes itself.

Huang et al. 2025, arXiv 2506.08009. A batch gives context frames and
conditioning; the student continues them with the very rollout it streams with,
leaving each chunk at a random denoising step s ~ U{0..K-1}. What is then
matched to the teacher's distribution is the whole video.

Long rollouts (upstream: of more than 21 latent frames). Teacher and critic see
clips of one length. So of a video of F frames, only the last `gradient_frames`
are differentiated and matched, and the `context_frames` before them, made by
the student like the others, take the place of the given context:

  [given ... made without gradient ... | context | made with gradient]
                                       |---- the video returned -----|
"""

import jax
import jax.numpy as jnp

from worldsim_jax.diffusion import noise
from worldsim_jax.forcing import batches
from worldsim_jax.forcing import rollout as rollouts

# One exit step for all chunks, as upstream's configs have it, or one for each.
EXIT_STEPS = ('shared', 'per_chunk')


def cache_slots(clip_frames: int, chunk: int, window: int, sink: int) -> int:
  """Slots of a cache with which training reads what streaming reads.

  That is window + sink, as a stream's cache has. Where no chunk of the clip
  has so much before it, streaming forgets nothing that training would read,
  and a slot for every frame (see `exit_pass`, all at once) is the same.
  """
  streamed = window + sink
  return clip_frames if clip_frames - chunk <= streamed else streamed


def make_generator(velocity_fn, new_cache, sampling: rollouts.Sampling, *,
                   context_frames: int, exit_steps: str = 'shared',
                   gradient_frames: int | None = None, first_latent=None):
  """Returns generate(params, batch, rng) -> (video, metrics).

  Args:
    velocity_fn: (params, x, timesteps, conditioning, context, cache).
    new_cache: (batch size) -> an empty KVCache for the training rollout, of
      `cache_slots` slots.
    sampling: how the student samples.
    context_frames: leading frames of a clip that are given.
    exit_steps: of EXIT_STEPS.
    gradient_frames: for long rollouts, see the module docstring; None if all
      new frames are differentiated and returned.
    first_latent: for long rollouts and tokenizers whose first latent frame is
      unlike the others, as Wan's is, which stands for one pixel frame only:
      (video up to some frame, [B, f, H, W, C]) -> that frame as the first of a
      video, [B, H, W, C]. Upstream decodes and encodes again.

  The video is [B, F, H, W, C]: context, then the student's own frames, which
  alone carry gradients. `batches.last_frames(batch, F)` is the batch to it.

  Raises:
    ValueError: for an unknown exit_steps. generate raises it, when it is
      traced, for frames, chunk and cache that do not fit together.
  """
  if exit_steps not in EXIT_STEPS:
    raise ValueError(f'exit_steps={exit_steps!r} is not one of {EXIT_STEPS}.')

  def generate(params, batch, rng):
    rng_exit, rng_noise, rng_steps = jax.random.split(rng, 3)
    context = batch['latents'][:, :context_frames]
    given = batches.conditioning(batch)
    num_new = _num_new(batch['latents'].shape[1], context_frames)
    cache = new_cache(rollouts.cache_batch(sampling, len(context)))
    state = rollouts.start(
        velocity_fn, jax.lax.stop_gradient(params), cache, context,
        given.frames(0, context_frames), sampling)
    start = noise.normal(
        rng_noise, (len(context), num_new, *context.shape[2:]))
    exits = () if exit_steps == 'shared' else (num_new // sampling.chunk,)
    exit_step = jax.random.randint(rng_exit, exits, 0, len(sampling.sigmas))
    _, made = rollouts.rollout(
        velocity_fn, params, state, start,
        given.frames(context_frames, num_new), sampling, exit_step, rng_steps,
        given=context_frames, gradient_frames=gradient_frames)
    matched = num_new if gradient_frames is None else gradient_frames
    video = jnp.concatenate([context, made], axis=1)
    dropped = num_new - matched
    if dropped and first_latent is not None:
      video = video.at[:, dropped].set(
          jax.lax.stop_gradient(first_latent(video[:, :dropped + 1])))
    made = made[:, dropped:]
    metrics = {
        'exit_step': jnp.mean(exit_step) if exits else exit_step,
        'mean_abs_x': jnp.mean(jnp.abs(made)), 'std_x': jnp.std(made)}
    return video[:, dropped:], metrics

  return generate


def _num_new(num_frames: int, context_frames: int) -> int:
  if not 0 < context_frames < num_frames:
    raise ValueError(
        f'context_frames={context_frames} of a clip of {num_frames} frames '
        'must be at least 1, and leave frames to generate '
        '(config.student.context_frames, config.*.clip_frames).')
  return num_frames - context_frames
