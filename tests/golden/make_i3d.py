"""Makes i3d.npz from I3D written in PyTorch, and from a published figure.

Run it as `python -m tests.golden.make_i3d` where the extras [metrics] and
[parity] are installed; 10 minutes on two cores. Last made with torch 2.13.0
(CPU).

  noise/real, noise/fake  logits of 128 films each of uniform noise in [0, 1],
                          which github.com/universome/fvd-comparison makes from
                          seeds: the original code in TensorFlow finds an FVD of
                          10.13808536529541 between them, StyleGAN-V's
                          10.138084766713924
  film                    uint8 [16, 48, 64, 3]
  logits                  of the film

It refuses to write unless its FVD, by SciPy's matrix square root, is that one.
"""

import pathlib

import numpy as np

from worldsim_jax.evaluate import packaged_weights

GOLDEN = pathlib.Path(__file__).with_name('i3d.npz')
PUBLISHED_FVD = 10.138085
NUM_FILMS = 128
SEEDS = {'fake': 1, 'real': 2}


def noise(seed: int, num_films: int):
  """Yields films [16, 224, 224, 3] of the comparison."""
  random = np.random.RandomState(seed)
  for _ in range(num_films):
    yield random.rand(16, 224, 224, 3).astype(np.float32)


def film() -> np.ndarray:
  """uint8 [16, 48, 64, 3]: waves that move, and noise."""
  t, y, x, c = np.meshgrid(*map(np.arange, (16, 48, 64, 3)), indexing='ij')
  waves = np.sin(x / (4 + c) + t / 3) + np.cos(y / (3 + 2 * c) - t / 5)
  grain = np.random.RandomState(0).uniform(-1, 1, waves.shape)
  return np.clip(127 + 50 * waves + 25 * grain, 0, 255).astype(np.uint8)


def resized(frame, size: int = 224) -> np.ndarray:
  """By TensorFlow's old rule, pixel by pixel: [H, W, C] -> [size, size, C]."""
  height, width, channels = frame.shape
  out = np.zeros((size, size, channels))
  for i in range(size):
    for j in range(size):
      y, x = i * height / size, j * width / size
      top, left = int(y), int(x)
      bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
      upper = frame[top, left] * (1 - x + left) + frame[top, right] * (x - left)
      lower = (frame[bottom, left] * (1 - x + left)
               + frame[bottom, right] * (x - left))
      out[i, j] = upper * (1 - y + top) + lower * (y - top)
  return out


class TorchI3D:
  """The network, unit by unit as in Sonnet: convolution, norm, ReLU."""

  def __init__(self):
    import torch
    self.torch, self.f = torch, torch.nn.functional
    tree = packaged_weights.load(packaged_weights.I3D)
    self.params, self.statistics = tree['params'], tree['batch_stats']

  def __call__(self, films) -> np.ndarray:
    """[N, T, 224, 224, 3] in [-1, 1] -> [N, 400]."""
    with self.torch.no_grad():
      x = self.torch.from_numpy(films).permute(0, 4, 1, 2, 3)
      return self._logits(x).numpy()

  def _logits(self, x):
    x = self._unit(('Conv3d_1a_7x7',), x, (2, 2, 2))
    x = self._max_pool(x, (1, 3, 3), (1, 2, 2))
    x = self._unit(('Conv3d_2b_1x1',), x)
    x = self._unit(('Conv3d_2c_3x3',), x)
    x = self._max_pool(x, (1, 3, 3), (1, 2, 2))
    for name in ('Mixed_3b', 'Mixed_3c'):
      x = self._inception(name, x)
    x = self._max_pool(x, (3, 3, 3), (2, 2, 2))
    for letter in 'bcdef':
      x = self._inception(f'Mixed_4{letter}', x)
    x = self._max_pool(x, (2, 2, 2), (2, 2, 2))
    for name in ('Mixed_5b', 'Mixed_5c'):
      x = self._inception(name, x)
    x = self.f.avg_pool3d(x, (2, 7, 7), stride=1)
    head = self.params['Logits/Conv3d_0c_1x1']['Conv_0']
    x = self.f.conv3d(x, self._kernel(head), self._vector(head['bias']))
    return x[..., 0, 0].mean(2)

  def _inception(self, name, x):
    pooled = self._max_pool(x, (3, 3, 3), (1, 1, 1))
    branches = [self._unit((name, 'Branch_0/Conv3d_0a_1x1'), x)]
    for branch in ('Branch_1', 'Branch_2'):
      inner = self._unit((name, f'{branch}/Conv3d_0a_1x1'), x)
      branches.append(self._unit((name, f'{branch}/Conv3d_0b_3x3'), inner))
    branches.append(self._unit((name, 'Branch_3/Conv3d_0b_1x1'), pooled))
    return self.torch.cat(branches, dim=1)

  def _unit(self, path, x, strides=(1, 1, 1)):
    params, statistics = self.params, self.statistics
    for name in path:
      params, statistics = params[name], statistics[name]
    kernel = self._kernel(params['Conv_0'])
    x = self.f.conv3d(
        self._padded(x, kernel.shape[2:], strides), kernel, stride=strides)
    norm = statistics['BatchNorm_0']
    x = self.f.batch_norm(
        x, self._vector(norm['mean']), self._vector(norm['var']),
        bias=self._vector(params['BatchNorm_0']['bias']), eps=1e-3)
    return self.f.relu(x)

  def _max_pool(self, x, window, strides):
    padded = self._padded(x, window, strides, -np.inf)
    return self.f.max_pool3d(padded, window, strides)

  def _padded(self, x, window, strides, value=0.0):
    """As TensorFlow's SAME: the odd one at the end."""
    padding = []  # PyTorch wants the last axis first.
    for size, w, stride in zip(x.shape[:1:-1], window[::-1], strides[::-1]):
      total = max((-(-size // stride) - 1) * stride + w - size, 0)
      padding += [total // 2, total - total // 2]
    return self.f.pad(x, padding, value=value)

  def _kernel(self, layer):
    kernel = self.torch.from_numpy(layer['kernel'].copy())
    return kernel.permute(4, 3, 0, 1, 2).contiguous()

  def _vector(self, array):
    return self.torch.from_numpy(array.flatten())


def scipy_fvd(x, y) -> float:
  """As StyleGAN-V computes it."""
  import scipy.linalg
  root = scipy.linalg.sqrtm(np.cov(x.T) @ np.cov(y.T)).real
  return np.square(x.mean(0) - y.mean(0)).sum() + np.trace(
      np.cov(x.T) + np.cov(y.T) - 2 * root)


def main():
  i3d = TorchI3D()
  frames = np.stack([resized(frame) for frame in film()])
  noises = {}
  for name, seed in SEEDS.items():
    noises[name] = np.concatenate(
        [i3d(x[None]) for x in noise(seed, NUM_FILMS)])
  fvd = scipy_fvd(*[x.astype(np.float64) for x in noises.values()])
  print('FVD', fvd)
  if abs(fvd - PUBLISHED_FVD) > 1e-4:
    raise ValueError(f'FVD {fvd}, published {PUBLISHED_FVD}')
  inputs = (frames * 2 / 255 - 1).astype(np.float32)
  np.savez_compressed(
      GOLDEN, film=film(), logits=i3d(inputs[None])[0],
      **{f'noise/{name}': x for name, x in noises.items()})


if __name__ == '__main__':
  main()
