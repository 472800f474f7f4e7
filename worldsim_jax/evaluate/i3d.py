"""I3D: the classifier of actions in whose logits FVD compares films.

An Inception network whose kernels extend over time, trained on Kinetics-400
(Carreira & Zisserman 2017, "Quo Vadis, Action Recognition?", fig. 3), its RGB
stream, with the weights that DeepMind published as
tfhub.dev/deepmind/i3d-kinetics-400. FVD (Unterthiner et al. 2018, "Towards
Accurate Generative Models of Video") takes its 400 logits, not the pooled
features before them.

A unit is a convolution and a batch norm without gain; with what the norm has
learned folded in,

  relu(k * x + b),   k = kernel / sqrt(var + 1e-3),
                     b = bias - mean / sqrt(var + 1e-3).                  (1)

Padding is TensorFlow's 'SAME', which puts the odd zero at the end and leaves
padding out of maxima, as XLA's does.

Frames reach 224x224 as in FVD's reference code, stretched whatever their form
and by TensorFlow's old bilinear rule, in which pixel i of n reads i H / n of H:
corners aligned at the start, nothing averaged where frames shrink. Other code
resizes in other ways, and its FVD is of other numbers (docs/upstream.md).
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from worldsim_jax.errors import UserError
from worldsim_jax.evaluate import packaged_weights

NUM_CLASSES = 400
SIZE = 224  # pixels, of both sides
# Time is halved three times, rounded up, and two are left for the last pooling.
MIN_FRAMES = 9

_STEM = ('Conv3d_1a_7x7', 'Conv3d_2b_1x1', 'Conv3d_2c_3x3')
# Blocks, each behind a pooling of these windows and strides.
_BLOCKS = (
    ((1, 3, 3), (1, 2, 2), ('Mixed_3b', 'Mixed_3c')),
    ((3, 3, 3), (2, 2, 2), tuple(f'Mixed_4{letter}' for letter in 'bcdef')),
    ((2, 2, 2), (2, 2, 2), ('Mixed_5b', 'Mixed_5c')),
)
_HEAD = 'Logits/Conv3d_0c_1x1'
_EPSILON = 1e-3


def logits(films, batch_size: int = 2) -> np.ndarray:
  """What the classifier says of each film.

  The numbers of one film do not depend on the others: batches are filled up and
  always compiled for `batch_size` films. 16 frames take about a second of a CPU
  core and 0.1 GB; larger batches are not faster there. The logits of real films
  can be kept for the next comparison.

  Args:
    films: uint8 [N, T, H, W, 3], T >= 9; 16 in most papers.
    batch_size: films per call.

  Returns:
    float32 [N, 400].

  Raises:
    UserError: if films are too short, or the weights are not installed; see
      `packaged_weights`.
  """
  films = np.asarray(films)
  if films.dtype != np.uint8 or films.ndim != 5 or films.shape[-1] != 3:
    raise ValueError(
        f'films are {films.dtype} {films.shape}; need uint8 [N, T, H, W, 3]'
    )
  if films.shape[1] < MIN_FRAMES:
    raise UserError(
        f'films of {films.shape[1]} frames are too short for I3D, which needs '
        f'{MIN_FRAMES}'
    )
  params = _params()
  found = []
  for start in range(0, len(films), batch_size):
    i = np.minimum(np.arange(start, start + batch_size), len(films) - 1)
    found.append(np.asarray(_of_bytes(params, films[i])))
  found = np.concatenate(found or [np.zeros((0, NUM_CLASSES), np.float32)])
  return found[: len(films)]


@jax.jit
def _of_bytes(params, films):
  return forward(params, preprocess(films))


def preprocess(films, size: int = SIZE):
  """Films [..., H, W, 3] in 0..255 -> [..., size, size, 3] in [-1, 1]."""
  rows = _bilinear(films.shape[-3], size)
  columns = _bilinear(films.shape[-2], size)
  resized = jnp.einsum(
      'ih,jw,...hwc->...ijc',
      rows,
      columns,
      jnp.asarray(films, jnp.float32),
      precision=jax.lax.Precision.HIGHEST,
  )
  return resized * (2 / 255) - 1


def _bilinear(size, new_size):
  """[new_size, size]: the weights of old pixels in a new one."""
  position = np.arange(new_size) * (size / new_size)
  low = np.floor(position).astype(int)
  high = np.minimum(low + 1, size - 1)
  identity = np.eye(size)
  fraction = (position - low)[:, None]
  weights = (1 - fraction) * identity[low] + fraction * identity[high]
  return weights.astype(np.float32)


def forward(params, films):
  """Films [N, T, H, W, 3] in [-1, 1] -> logits [N, 400].

  H = W = 224 is what the weights were trained with and what is published;
  other sizes above 0 work, for tests.
  """
  first, second, third = [params[name] for name in _STEM]
  x = _unit(first, films, strides=(2, 2, 2))
  x = _max_pool(x, (1, 3, 3), (1, 2, 2))
  x = _unit(third, _unit(second, x))
  for window, strides, names in _BLOCKS:
    x = _max_pool(x, window, strides)
    for name in names:
      x = _inception(params[name], x)
  # Means of two successive times and all of space, which are 7x7 here.
  x = x.mean((2, 3))
  x = (x[:, :-1] + x[:, 1:]) / 2
  kernel, bias = params[_HEAD]
  x = jnp.matmul(x, kernel[0, 0, 0], precision=jax.lax.Precision.HIGHEST)
  return (x + bias).mean(1)


def _inception(params, x):
  """Four branches side by side."""
  unit = lambda name, x: _unit(params[name], x)
  pooled = _max_pool(x, (3, 3, 3), (1, 1, 1))
  branches = [
      unit('Branch_0/Conv3d_0a_1x1', x),
      unit('Branch_1/Conv3d_0b_3x3', unit('Branch_1/Conv3d_0a_1x1', x)),
      unit('Branch_2/Conv3d_0b_3x3', unit('Branch_2/Conv3d_0a_1x1', x)),
      unit('Branch_3/Conv3d_0b_1x1', pooled),
  ]
  return jnp.concatenate(branches, axis=-1)


def _unit(params, x, strides=(1, 1, 1)):
  """Eq. (1)."""
  kernel, bias = params
  # The times that a kernel sees become channels of pictures, because XLA's
  # convolution of films takes 2.3 times as long on CPUs.
  length, batch, num_channels = len(kernel), len(x), kernel.shape[-1]
  x = _with_neighbours(x, length, strides[0])
  num_frames = x.shape[1]
  x = jax.lax.conv_general_dilated(
      x.reshape(-1, *x.shape[2:]),
      jnp.moveaxis(kernel, 0, 2).reshape(*kernel.shape[1:3], -1, num_channels),
      strides[1:],
      'SAME',
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
      precision=jax.lax.Precision.HIGHEST,  # Accelerators round to less.
  )
  x = jax.nn.relu(x + bias)
  return x.reshape(batch, num_frames, *x.shape[1:])


def _with_neighbours(x, length, stride):
  """[N, T, H, W, C] -> [N, ceil(T / stride), H, W, length C], by 'SAME'."""
  last = (-(-x.shape[1] // stride) - 1) * stride
  total = max(last + length - x.shape[1], 0)
  padding = [(0, 0)] * x.ndim
  padding[1] = total // 2, total - total // 2
  x = jnp.pad(x, padding)
  shifted = [x[:, i : i + last + 1 : stride] for i in range(length)]
  return jnp.concatenate(shifted, axis=-1)


def _max_pool(x, window, strides):
  window, strides = (1, *window, 1), (1, *strides, 1)
  return jax.lax.reduce_window(
      x, -jnp.inf, jax.lax.max, window, strides, 'SAME'
  )


@functools.cache
def _params():
  return jax.device_put(folded(packaged_weights.load(packaged_weights.I3D)))


def folded(variables):
  """The packaged tree -> (kernel, bias) by name, eq. (1)."""
  params, statistics = variables['params'], variables['batch_stats']
  found = {}
  for name, unit in params.items():
    if name.startswith('Mixed'):
      norms = statistics[name]
      found[name] = {b: _folded_unit(unit[b], norms[b]) for b in unit}
    elif name == _HEAD:
      found[name] = unit['Conv_0']['kernel'], unit['Conv_0']['bias']
    else:
      found[name] = _folded_unit(unit, statistics[name])
  return found


def _folded_unit(unit, statistics):
  norm = statistics['BatchNorm_0']
  variance = norm['var'].astype(np.float64).ravel()
  gain = 1 / np.sqrt(variance + _EPSILON)
  bias = unit['BatchNorm_0']['bias'].ravel() - norm['mean'].ravel() * gain
  kernel = unit['Conv_0']['kernel'] * gain
  return kernel.astype(np.float32), bias.astype(np.float32)
