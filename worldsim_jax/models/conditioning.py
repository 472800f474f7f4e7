"""What a world model is told besides the noisy latents.

Every stream is optional. A stream that the model has but the caller leaves out,
or masks, is 'unknown', which is not the same as zero: standing still is an
action. That is also what guidance dropout does, so the unconditional prediction
is simply the prediction with the stream masked.
"""

import chex
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from worldsim_jax.data.actions import ActionSpace

PER_FRAME = ('actions', 'actions_mask', 'heading', 'image', 'image_mask',
             'concatenated')
_SPACE = ActionSpace()
_TURN = _SPACE.names.index('turn')


@flax.struct.dataclass
class Conditioning:
  """The conditioning streams of a batch.

  Attributes:
    text: token embeddings [B, L, C_text]. Zero padding is attended to (as in
      Wan, whose weights expect it). Or of G texts, [B, G, L, C_text], of which
      a frame reads the one that the `AttentionContext` says.
    actions: [B, F, A], normalised; the action that led to each latent frame (of
      all its pixel frames, side by side).
    actions_mask: [B, F], 1 where actions are known.
    heading: [B, F], radians to the left that the view has turned by since the
      stream began: the sum of the turns, which are obeyed exactly. Left out, it
      is counted from the first frame that there is.
    image: clean latents [B, F, H, W, C] that each frame should continue from:
      for a generated frame, the latest frame before its chunk.
    image_mask: [B, F], 1 where such a frame exists; between 0 and 1 where it
      is noisy (forcing/batches.py).
    concatenated: [B, F, H, W, K], channels behind those of the noisy latents.
      Wan's image-to-video models have 4 + 16: which of the pixel frames of a
      latent frame are given, 1 or 0, then the latents of a video of the given
      frames and grey ones.
    clip: [B, M, 1280], CLIP's tokens of the given picture (Wan 2.1), 257.
  """
  text: jax.Array | None = None
  actions: jax.Array | None = None
  actions_mask: jax.Array | None = None
  heading: jax.Array | None = None
  image: jax.Array | None = None
  image_mask: jax.Array | None = None
  concatenated: jax.Array | None = None
  clip: jax.Array | None = None

  def with_masks(self) -> 'Conditioning':
    """Makes the masks explicit: streams that are given are known."""
    return self.replace(
        actions_mask=_known(self.actions, self.actions_mask),
        image_mask=_known(self.image, self.image_mask))

  def headed(self, before_B=0.) -> 'Conditioning':
    """With the heading of each frame, if there are actions to add up.

    Args:
      before_B: [B], that of the frame before the first one here.
    """
    if self.actions is None or self.heading is not None:
      return self
    turn_BFP = self.known_actions()[..., _TURN::len(_SPACE.names)]
    heading = jnp.cumsum(turn_BFP.sum(axis=2), axis=1)
    return self.replace(
        heading=jnp.reshape(before_B, (-1, 1))
        + heading * np.radians(_SPACE.scale[_TURN]))

  def known_heading(self):
    """The heading [B, F], zero where actions are unknown."""
    return jnp.where(self.actions_mask > 0, self.headed().heading, 0.)

  def completed(self, x_BFHWC, *, text_dim: int, action_dim: int,
                image: bool) -> 'Conditioning':
    """Streams that a model has and the caller left out become unknown."""
    full, (batch, frames) = self.with_masks(), x_BFHWC.shape[:2]
    unknown = jnp.zeros((batch, frames))
    if text_dim and full.text is None:
      full = full.replace(text=jnp.zeros((batch, 1, text_dim)))
    if action_dim and full.actions is None:
      full = full.replace(
          actions=jnp.zeros((batch, frames, action_dim)), actions_mask=unknown)
    if image and full.image is None:
      full = full.with_image(jnp.zeros_like(x_BFHWC), unknown)
    return full

  def known_image(self):
    """The image stream, zero where it is unknown; None for models without."""
    if self.image is None:
      return None
    known = self.image_mask[:, :, None, None, None] > 0
    return jnp.where(known, self.image, 0.)

  def known_actions(self):
    """The actions [B, F, A], zero where they are unknown."""
    if self.actions_mask is None:
      return self.actions
    return jnp.where(self.actions_mask[..., None] > 0, self.actions, 0.)

  def frames(self, start, size: int) -> 'Conditioning':
    """The conditioning of frames start .. start+size-1; start may be traced."""
    return self._map_frames(
        lambda x: jax.lax.dynamic_slice_in_dim(x, start, size, 1))

  def at_frames(self, index_F) -> 'Conditioning':
    """The conditioning of these frames, in this order."""
    return self._map_frames(lambda x: x[:, index_F])

  def pad_frames(self, size: int) -> 'Conditioning':
    """Repeats the last frame until there are `size` frames."""
    def pad(x):
      missing = size - x.shape[1]
      last = jnp.repeat(x[:, -1:], max(missing, 0), axis=1)
      return jnp.concatenate([x, last], axis=1)

    return self._map_frames(pad)

  def _map_frames(self, fn) -> 'Conditioning':
    streams = {name: getattr(self, name) for name in PER_FRAME}
    return self.replace(**{
        name: x if x is None else fn(x) for name, x in streams.items()})

  def with_image(self, image_BFHWC, image_mask_BF) -> 'Conditioning':
    return self.replace(image=image_BFHWC, image_mask=image_mask_BF)

  def unconditional(self) -> 'Conditioning':
    """Text and actions unknown; images stay (they are not guided)."""
    full = self.with_masks()
    return full.replace(
        text=_zeros(full.text), actions_mask=_zeros(full.actions_mask))

  def dropped(self, rng, probability: float) -> 'Conditioning':
    """Guidance dropout: whole samples become unconditional."""
    full, none = self.with_masks(), self.unconditional()

    def pick(known, unknown):
      drop = jax.random.bernoulli(rng, probability, (known.shape[0],))
      return jnp.where(
          drop.reshape(-1, *[1] * (known.ndim - 1)), unknown, known)

    return jax.tree.map(pick, full, none)


def given_frames(latents_BFHWC, given_P):
  """`Conditioning.concatenated` of Wan's image-to-video models.

  Args:
    latents_BFHWC: of a video with grey (zero) frames where none is given.
    given_P: bool, of its 1 + 4 (F - 1) pixel frames.

  Returns:
    [B, F, H, W, 4 + C]. The first latent frame is of one pixel frame, which
    counts four times.
  """
  frames = latents_BFHWC.shape[1]
  chex.assert_shape(given_P, (1 + 4 * (frames - 1),))
  known = jnp.asarray(given_P, latents_BFHWC.dtype)
  known_F4 = jnp.concatenate([jnp.repeat(known[:1], 3), known]).reshape(-1, 4)
  mask = jnp.broadcast_to(
      known_F4[:, None, None], (*latents_BFHWC.shape[:-1], 4))
  return jnp.concatenate([mask, latents_BFHWC], axis=-1)


def _known(stream, mask):
  if stream is None or mask is not None:
    return mask
  return jnp.ones(stream.shape[:2], stream.dtype)


def _zeros(x):
  return None if x is None else jnp.zeros_like(x)
