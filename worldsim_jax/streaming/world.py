"""A trained world in memory: model, tokenizer, and how the student samples.

`World.start` and `World.advance` are pure functions of their arguments, so they
can be jitted, exported (`streaming/export.py`) and batched; `stream` and `step`
wrap them for one interactive session. The session is a value: `step` consumes
the one that it is given and returns the next.
"""

import dataclasses
import functools
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from worldsim_jax.data.actions import ActionSpace
from worldsim_jax.data.actions import parse
from worldsim_jax.diffusion import noise
from worldsim_jax.errors import UserError
from worldsim_jax.forcing import batches
from worldsim_jax.forcing import paradigms
from worldsim_jax.forcing import rollout
from worldsim_jax.models import build
from worldsim_jax.models import pixels
from worldsim_jax.models import text_encoder
from worldsim_jax.models.conditioning import Conditioning


@flax.struct.dataclass
class Session:
  """A stream in progress: B videos that advance together.

  Attributes:
    video: the student's cache and its latest frame.
    decoder: the tokenizer's memory of what it has decoded.
    text: [B, L, C], or None.
    key: the stream's random key.
    chunk: chunks made so far.
  """
  video: rollout.RolloutState
  decoder: Any
  text: jax.Array | None
  key: jax.Array
  chunk: jax.Array


@dataclasses.dataclass(frozen=True)
class World:
  """What `worldsim_jax.load` returns.

  Attributes:
    config: of the run that made it.
    params: of the student.
    vae_variables: of the tokenizer, latent statistics included.
    starts: uint8 [n, P, H, W, 3], frames that a stream may begin with.
  """
  config: ml_collections.ConfigDict
  params: Any
  vae_variables: Any
  starts: np.ndarray

  @functools.cached_property
  def model(self):
    return build.denoiser(self._own_config)

  @functools.cached_property
  def _own_config(self):
    return build.student(self.config)

  @functools.cached_property
  def vae(self):
    return build.tokenizer(self.config)

  @property
  def is_causal(self) -> bool:
    """Whether it streams; if not, it makes films (streaming/films.py)."""
    stages = self.config.stages
    return (not stages
            or self.config[stages[-1]].paradigm in paradigms.CAUSAL)

  @property
  def frames_per_step(self) -> int:
    """Pixel frames that each `step` makes."""
    return self.config.student.chunk * self.vae.time_stride

  @property
  def context_frames(self) -> int:
    """Pixel frames that a stream begins with; 0 for one that needs none."""
    return self._pixel_frames(self.config.student.context_frames)

  def _pixel_frames(self, latent_frames: int) -> int:
    return latent_frames and 1 + self.vae.time_stride * (latent_frames - 1)

  def stream(self, prompt: str | None = None, frames=None, seed: int = 0):
    """Begins an interactive session.

    Args:
      prompt: what the world should be, for models with text.
      frames: uint8 [P, H, W, 3], P = context_frames, to begin with; default:
        one of `starts`, chosen by the seed. A world that needs none begins with
        the first chunk that it makes, or after frames that are whole chunks.
      seed: of everything random.

    Raises:
      ValueError: for frames of another shape, or a prompt to a model without
        text.
      UserError: if the world has no tokenizer, no model or nothing to begin
        with.
    """
    if not self.is_causal:
      raise UserError(
          f'the network of this world ({self.config.stages[-1]}) is '
          'bidirectional: it makes whole films (streaming/films.py, '
          '--mode=sample) and cannot stream.')
    for what, variables in (('model', self.params),
                            ('tokenizer', self.vae_variables)):
      if not variables:
        raise UserError(f'this world has no {what}, so it cannot stream: '
                        'convert it with one (--mode=convert --source=A,B).')
    frames = self.first_frames(frames, seed)
    actions = jnp.zeros((1, len(frames), build.NUM_ACTIONS))
    return self._jit_start(
        self.variables, frames[None], actions, self.encode_text(prompt),
        jax.random.key_data(jax.random.key(seed)))

  def first_frames(self, frames, seed: int) -> np.ndarray:
    """Those of `stream`, given or not, if it can begin with them."""
    size = (self.config.data.height, self.config.data.width, 3)
    count = self.context_frames
    if frames is None:
      if count and not len(self.starts):
        raise UserError('this world has no first frames: give it some '
                        f'(frames=, {count} of them).')
      return (self.starts[seed % len(self.starts)] if count
              else np.zeros((0, *size), np.uint8))
    frames = np.asarray(frames)[-count:]  # All of them, where it needs none.
    if not count:  # As many as there are, in whole chunks.
      chunk = self.config.student.chunk
      chunks = -(-(len(frames) + self.vae.time_stride - 1)
                 // (chunk * self.vae.time_stride))
      count = self._pixel_frames(max(chunks, 1) * chunk)
    if frames.shape != (count, *size):
      raise ValueError(
          f'frames have shape {frames.shape}, this world begins with '
          f'{(count, *size)} (config.student.context_frames).')
    return frames

  def step(self, session: Session, action):
    """Advances a session by one chunk.

    Args:
      session: from `stream` or `step`; it is consumed.
      action: a script ('forward', 'forward+left*3'), or an array [3] that holds
        for the whole chunk, or [frames_per_step, 3]; in physical units, see
        data/actions.py.

    Returns:
      (session, frames uint8 [frames_per_step, H, W, 3]); the first step of a
      stream that began with none has time_stride - 1 frames less.
    """
    if isinstance(action, str):
      action = parse(action, self.config.data.tics_per_frame)
    actions = np.asarray(action)
    actions = np.atleast_2d(actions)
    if len(actions) == 1:
      actions = np.repeat(actions, self.frames_per_step, axis=0)
    if actions.shape != (self.frames_per_step, build.NUM_ACTIONS):
      raise ValueError(
          f'action has shape {actions.shape}; a step takes [3] or '
          f'[{self.frames_per_step}, 3] (config.student.chunk).')
    session, frames = self._jit_advance(
        self.variables, session, ActionSpace().normalise(actions)[None])
    return session, frames[0]

  @property
  def variables(self):
    """All parameters: the first argument of `start` and `advance`."""
    return {'student': self.params, 'vae': self.vae_variables}

  def encode_text(self, prompt: str | None):
    """Text embeddings [1, L, C], or None for a model without text."""
    if not self.model.text_dim:
      if prompt is not None:
        raise UserError('this world was trained without text '
                        "(config.text.encoder='null'); leave the prompt out.")
      return None
    return self.encode_texts([prompt or ''])

  def encode_texts(self, prompts):
    """Text embeddings [B, L, C], or None for a model without text."""
    if not self.model.text_dim:
      return None
    return self._text_encoder(prompts)

  @functools.cached_property
  def _text_encoder(self):
    return text_encoder.of_config(self.config.text)

  def start(self, variables, frames_BPHWC, actions_BPA, text, key) -> Session:
    """Reads the first frames into a session; pure.

    Args:
      variables: see `variables`.
      frames_BPHWC: uint8, context_frames of them.
      actions_BPA: normalised, of these frames.
      text: [B, L, C] or None.
      key: raw random key data, uint32.
    """
    if not frames_BPHWC.shape[1]:
      return Session(self._nothing(len(frames_BPHWC)), None, text, key,
                     jnp.zeros((), jnp.int32))
    latents, _ = self.vae.apply(
        variables['vae'], pixels.to_float(frames_BPHWC), method='encode')
    _, decoder = self.vae.apply(variables['vae'], latents, method='decode')
    conditioning = Conditioning(
        text=text, actions=batches.group_actions(
            actions_BPA, self.vae.time_stride))
    video = rollout.start(
        build.velocity_fn(self.model), variables['student'],
        build.new_cache(self._own_config, len(latents)), latents, conditioning,
        self.sampling)
    return Session(video, decoder, text, key, jnp.zeros((), jnp.int32))

  def _nothing(self, batch: int) -> rollout.RolloutState:
    """A video before its first frame."""
    if self.model.image:
      raise ValueError('a model that continues a picture (config.model.image) '
                       'needs config.student.context_frames > 0')
    size = (*build.latent_size(self.config), self.model.latent_channels)
    return rollout.RolloutState(
        build.new_cache(self._own_config, batch), jnp.zeros((batch, *size)),
        jnp.zeros(batch))

  def advance(self, variables, session: Session, actions_BPA):
    """Makes the next chunk; pure.

    Args:
      variables: see `variables`.
      session: the stream so far.
      actions_BPA: normalised, [B, frames_per_step, A].

    Returns:
      (session, frames uint8 [B, frames_per_step, H, W, 3]).
    """
    key = jax.random.fold_in(
        jax.random.wrap_key_data(session.key), session.chunk)
    rng_noise, rng_steps = jax.random.split(key)
    last = session.video.last_frame
    start = noise.normal(
        rng_noise, (len(last), self.config.student.chunk, *last.shape[1:]))
    conditioning = Conditioning(
        text=session.text, actions=batches.group_actions(
            actions_BPA, self.vae.time_stride))
    video, x0 = rollout.generate_chunk(
        build.velocity_fn(self.model), variables['student'], session.video,
        start, conditioning, self.sampling, len(self.sampling.sigmas) - 1,
        rng_steps)
    frames, decoder = self.vae.apply(
        variables['vae'], x0, session.decoder, method='decode')
    session = session.replace(
        video=video, decoder=decoder, chunk=session.chunk + 1)
    return session, pixels.to_uint8(frames)

  def continue_videos(self, frames_BPHWC, actions_BPA, prompts=None,
                      seed: int = 0, params=None):
    """Continues B videos to the end of their actions; a scan of `advance`.

    Args:
      frames_BPHWC: uint8, the first frames of each video: context_frames of
        them, as the student was trained, or another number of whole chunks of
        latent frames, of which the cache keeps what it has room for.
      actions_BPA: physical units, for given and new frames: actions[:, p] leads
        to frame p. The new frames are a multiple of frames_per_step.
      prompts: one per video, for models with text.
      seed: of everything random.
      params: of another student, instead of the world's own.

    Returns:
      uint8 [B, P_new, H, W, 3].

    Raises:
      ValueError: for frames that are not whole chunks.
    """
    self._check_context(frames_BPHWC.shape[1])
    actions = ActionSpace().normalise(actions_BPA)
    key = jax.random.key_data(jax.random.key(seed))
    text = self.encode_texts(prompts or [''] * len(frames_BPHWC))
    variables = dict(self.variables)
    if params is not None:
      variables['student'] = params
    return self._jit_continue(variables, frames_BPHWC, actions, text, key)

  def _check_context(self, pixel_frames: int):
    student, stride = self.config.student, self.vae.time_stride
    latent_frames, rest = divmod(pixel_frames + stride - 1, stride)
    if rest or latent_frames % student.chunk:
      raise ValueError(
          f'a stream cannot go on from {pixel_frames} frames: they must be '
          f'whole chunks of {student.chunk} latent frames '
          '(config.student.chunk).')

  @functools.cached_property
  def sampling(self) -> rollout.Sampling:
    return rollout.of_config(self.config)

  @functools.cached_property
  def _jit_start(self):
    return jax.jit(self.start)

  @functools.cached_property
  def _jit_advance(self):
    return jax.jit(self.advance, donate_argnums=1)

  @functools.cached_property
  def _jit_continue(self):
    def run(variables, frames, actions, text, key):
      given = frames.shape[1]
      new = actions[:, given:]
      chunks = jnp.moveaxis(new.reshape(
          new.shape[0], -1, self.frames_per_step, new.shape[-1]), 1, 0)
      session = self.start(variables, frames, actions[:, :given], text, key)
      _, video = jax.lax.scan(
          functools.partial(self.advance, variables), session, chunks)
      video = jnp.moveaxis(video, 0, 1)
      return video.reshape(*new.shape[:2], *video.shape[3:])

    return jax.jit(run)
