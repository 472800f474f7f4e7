"""LPIPS: how far apart two frames look, by the features of a classifier.

With f_l the activations of layer l at each position, divided by their length
over channels, and w_l >= 0 weights fitted to what people called similar,

  d(x, y) = sum_l  mean_hw  sum_c w_lc (f_lc(x) - f_lc(y))^2             (1)

(Zhang, Isola, Efros, Shechtman & Wang 2018, "The Unreasonable Effectiveness of
Deep Features as a Perceptual Metric", eq. 1). The layers are the last ones with
a ReLU before each pooling of VGG16, or all five convolutions of AlexNet. As in
the authors' package lpips 0.1.4: weights of version 0.1, frames in [-1, 1], the
ImageNet mean and deviation given for that range, 1e-10 added to the lengths.

AlexNet is what most papers report. VGG16 takes some thirty times as long and
its distances are of another size, so the two must not be compared.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from worldsim_jax.errors import UserError
from worldsim_jax.evaluate import packaged_weights

NETWORKS = {
    'alexnet': packaged_weights.ALEXNET,
    'vgg16': packaged_weights.VGG16,
}
# What remains of smaller frames when the last pooling sees them is nothing.
MIN_SIZE = {'alexnet': 31, 'vgg16': 16}  # pixels

_SHIFT = np.array([-0.030, -0.088, -0.188], np.float32)
_SCALE = np.array([0.458, 0.448, 0.450], np.float32)
_EPSILON = 1e-10

# Stride and padding of convolutions, and what is pooled after each of them.
_ALEXNET = ((4, 2, 3), (1, 2, 3), (1, 1, 0), (1, 1, 0), (1, 1, 0))
_VGG16 = tuple(  # Pooling ends a block, of which the last activation counts.
    (1, 1, 2 if i in (1, 3, 6, 9) else 0) for i in range(13)
)
_VGG16_LAYERS = (1, 3, 6, 9, 12)


def distance(x, y, network: str = 'alexnet', batch_size: int = 16):
  """LPIPS per frame, eq. (1): 0 for equal frames, rarely above 1.

  The number of one frame does not depend on the others: batches are filled up
  and always compiled for `batch_size` pairs of frames.

  Args:
    x, y: [..., H, W, 3], uint8 or floats in [0, 1].
    network: 'alexnet' or 'vgg16'.
    batch_size: pairs per call; for VGG16, 16 pairs of 160x120 need 0.4 GB.

  Returns:
    float32 [...].

  Raises:
    UserError: if the weights are not installed; see `packaged_weights`.
  """
  x, y = np.asarray(x), np.asarray(y)
  _check(x, y, network)
  shape = x.shape[:-3]
  x, y = [a.reshape(-1, *a.shape[-3:]) for a in (x, y)]
  params = _params(network)
  found = [
      np.asarray(_distance(params, *_batch(x, y, i, batch_size), network))
      for i in range(0, len(x), batch_size)
  ]
  found = np.concatenate(found or [np.zeros(0, np.float32)])
  return found[: len(x)].reshape(shape)


def _batch(x, y, start, size):
  """Frames from `start`, the last one repeated until there are `size`."""
  i = np.minimum(np.arange(start, start + size), len(x) - 1)
  return x[i], y[i]


def _check(x, y, network):
  if network not in NETWORKS:
    raise ValueError(f'network {network!r} is not one of {sorted(NETWORKS)}')
  if x.shape != y.shape or x.ndim < 3 or x.shape[-1] != 3:
    raise ValueError(
        f'frames must be [..., H, W, 3] of one shape, not {x.shape} and '
        f'{y.shape}'
    )
  if min(x.shape[-3:-1]) < MIN_SIZE[network]:
    height, width = x.shape[-3:-1]
    raise UserError(
        f'frames of {height}x{width} are too small for {network}, which needs '
        f'{MIN_SIZE[network]} pixels a side'
    )
  for frames in (x, y):
    is_float = np.issubdtype(frames.dtype, np.floating)
    if frames.dtype != np.uint8 and not is_float:
      raise ValueError(f'frames are {frames.dtype}; need uint8 or floats')
    # As in image_metrics: [-1, 1] or 0..255 would give plausible numbers.
    if (
        is_float
        and frames.size
        and not (frames.min() >= -1e-3 and frames.max() <= 1 + 1e-3)
    ):
      raise ValueError(
          f'float frames span [{frames.min():.3g}, {frames.max():.3g}]; need '
          '[0, 1] (or uint8)'
      )


@functools.cache
def _params(network):
  """Kernels and biases of the convolutions, and w_l, in order."""
  tree = packaged_weights.load(NETWORKS[network])
  name = {'alexnet': 'AlexNet_0', 'vgg16': 'VGG16_0'}[network]
  convolutions = [tree[name][f'Conv_{i}'] for i in range(len(tree[name]))]
  return jax.device_put(
      (
          [(layer['kernel'], layer['bias']) for layer in convolutions],
          [
              tree[f'NetLinLayer_{i}']['Conv_0']['kernel'].ravel()
              for i in range(5)
          ],
      )
  )


@functools.partial(jax.jit, static_argnames='network')
def _distance(params, x, y, network):
  """Frames [B, H, W, 3] -> [B]."""
  convolutions, weights = params
  batch = len(x)
  frames = jnp.concatenate([_unit_range(x), _unit_range(y)])
  frames = (2 * frames - 1 - _SHIFT) / _SCALE
  features = _features(convolutions, frames, network)
  total = 0
  for weight, feature in zip(weights, features, strict=True):
    length = jnp.sqrt(jnp.square(feature).sum(-1, keepdims=True))
    unit = feature / (length + _EPSILON)
    squares = jnp.square(unit[:batch] - unit[batch:])
    total += (squares * weight).sum(-1).mean((1, 2))
  return total


def _unit_range(frames):
  is_bytes = frames.dtype == jnp.uint8
  return frames.astype(jnp.float32) / (255 if is_bytes else 1)


def _features(convolutions, x, network):
  """Activations [B, H', W', C] of the five layers."""
  plan = {'alexnet': _ALEXNET, 'vgg16': _VGG16}[network]
  layers = {'alexnet': range(5), 'vgg16': _VGG16_LAYERS}[network]
  found = []
  for i, ((kernel, bias), (stride, padding, pool)) in enumerate(
      zip(convolutions, plan, strict=True)
  ):
    x = _convolution(x, kernel, stride, padding)
    x = jax.nn.relu(x + bias)
    if i in layers:
      found.append(x)
    if pool:
      x = _max_pool(x, pool)
  return found


def _convolution(x, kernel, stride, padding):
  precision = jax.lax.Precision.HIGHEST  # Accelerators round to less.
  if stride == 1 and min(x.shape[1:3]) < len(kernel):
    # XLA for CPUs takes 30 times as long for pictures smaller than the kernel,
    # to which AlexNet comes with frames of 64x48.
    return jnp.matmul(
        _neighbourhoods(x, len(kernel), padding),
        kernel.reshape(-1, kernel.shape[-1]),
        precision=precision,
    )
  return jax.lax.conv_general_dilated(
      x,
      kernel,
      (stride, stride),
      [(padding, padding)] * 2,
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
      precision=precision,
  )


def _neighbourhoods(x, size, padding):
  """What a kernel sees at each position: [B, H', W', size size C]."""
  x = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
  height, width = x.shape[1] - size + 1, x.shape[2] - size + 1
  return jnp.concatenate(
      [
          x[:, i : i + height, j : j + width]
          for i in range(size)
          for j in range(size)
      ],
      axis=-1,
  )


def _max_pool(x, window):
  """By 2; a window of 3 overlaps its neighbours, as in AlexNet."""
  window, strides = (1, window, window, 1), (1, 2, 2, 1)
  return jax.lax.reduce_window(
      x, -jnp.inf, jax.lax.max, window, strides, 'VALID'
  )
