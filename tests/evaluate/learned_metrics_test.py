"""What LPIPS, FVD and KVD see of real films that were made worse, and what not.

Of two short walks on each of four levels, small beside the 48 clips of a set
with which it was first tried, and of the same kind: FVD hardly sees time.
"""

import unittest

from absl.testing import absltest
import numpy as np
import pytest

from tests.evaluate import i3d_test
from tests.evaluate import lpips_test
from worldsim_jax.data import engine as engine_lib
from worldsim_jax.data import episodes
from worldsim_jax.evaluate import frechet
from worldsim_jax.evaluate import i3d
from worldsim_jax.evaluate import lpips
from worldsim_jax.evaluate import packaged_weights

LEVELS = ('map01', 'map04', 'map11', 'map29')
IS_INSTALLED = i3d_test.is_installed() and lpips_test.is_installed()


def walks(seed: int, per_level: int = 2) -> np.ndarray:
  """uint8 [N, 16, 120, 160, 3], four tics between frames."""
  films = []
  for level in LEVELS:
    with engine_lib.Engine(level, height=120, width=160) as engine:
      for i in range(per_level):
        film = episodes.record(
            engine, policy='navigate', num_frames=16, seed=100 * seed + i
        )
        films.append(film['rgb'])
  return np.stack(films)


def blurred(films, sigma: float) -> np.ndarray:
  radius = int(3 * sigma) + 1
  weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
  weights /= weights.sum()
  films = films.astype(np.float32)
  for axis in (2, 3):
    padding = [(radius, radius) if a == axis else (0, 0) for a in range(5)]
    padded = np.pad(films, padding, mode='edge')
    films = sum(
        w * np.take(padded, range(i, i + films.shape[axis]), axis)
        for i, w in enumerate(weights)
    )
  return films.round().astype(np.uint8)


def drifting(films, last: float, rng) -> np.ndarray:
  """Noise that grows to a deviation of `last` grey levels."""
  deviations = np.linspace(0, last, films.shape[1])[:, None, None, None]
  noisy = films + deviations * rng.normal(size=films.shape)
  return np.clip(noisy, 0, 255).astype(np.uint8)


@unittest.skipUnless(IS_INSTALLED, packaged_weights.INSTALL)
class RealFilmsTest(absltest.TestCase):

  @pytest.mark.slow
  def test_looks_count_and_the_order_of_frames_hardly_does(self):
    rng = np.random.default_rng(0)
    reference, real = walks(1), walks(2)
    films = {
        'real': real,
        'shuffled': real[:, rng.permutation(16)],
        'noise': drifting(real, 40, rng),
    }
    of_reference = i3d.logits(reference)
    of = {name: i3d.logits(clips) for name, clips in films.items()}
    for metric in (frechet.fvd, frechet.kvd):
      values = {name: metric(of_reference, of[name]) for name in of}
      more = {name: values[name] - values['real'] for name in values}
      # Measured: FVD 224 and -140, KVD 99 and 9 (of a blur 519 and 98); with
      # twelve films instead of eight 237, -26 and 109, 9.
      self.assertGreater(more['noise'], 5 * more['shuffled'], values)
      self.assertGreater(more['noise'], 50, values)
    # Other walks on the same levels are as good as these.
    floor = frechet.kvd(of_reference, of['real'])
    error = frechet.standard_error(frechet.kvd, of_reference, of['real'])
    self.assertLess(floor, 2 * error)
    self.assertIn('rank 7', frechet.caution(len(real), len(reference)))

  @pytest.mark.slow
  def test_lpips_sees_a_blur_and_noise_in_proportion(self):
    frames = walks(3, per_level=1)[:, 0]
    rng = np.random.default_rng(0)
    noise = rng.normal(size=frames.shape)
    worse = [
        blurred(frames[:, None], 1)[:, 0],
        blurred(frames[:, None], 3)[:, 0],
        np.clip(frames + 10 * noise, 0, 255).astype(np.uint8),
        np.clip(frames + 30 * noise, 0, 255).astype(np.uint8),
    ]
    found = [lpips.distance(frames, other).mean() for other in worse]
    self.assertGreater(found[0], 0.1)
    self.assertGreater(found[1], 1.5 * found[0])
    self.assertGreater(found[2], 0.05)
    self.assertGreater(found[3], 1.5 * found[2])


if __name__ == '__main__':
  absltest.main()
