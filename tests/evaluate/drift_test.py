"""Each kind of drift moves the figure that is meant for it, and no other."""

import functools

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
import pytest

from worldsim_jax.data import episodes
from worldsim_jax.evaluate import drift

RATE = 8.75


@functools.cache
def _films():
  """Walks through two mazes and two levels, which are darker."""
  return [
      episodes.render(
          episodes.plan(name, seed=1, policy='navigate', num_frames=48)
      )['rgb']
      for name in ('gen:1', 'gen:2', 'MAP07', 'E1M1')
  ]


def _bytes(film):
  return np.clip(np.rint(film), 0, 255).astype(np.uint8)


def _ramp(film, end):
  """From 1 to `end` over the film, [T, 1, 1, 1]."""
  return np.linspace(1, end, len(film))[:, None, None, None]


def _noise(film):
  rng = np.random.default_rng(0)
  return _bytes(film + rng.normal(0, 10, film.shape))


def _gain(film):
  return _bytes(film * _ramp(film, 0.6))


def _grey(film):
  luma = film @ np.array([0.299, 0.587, 0.114])
  return _bytes(luma[..., None] + _ramp(film, 0.5) * (film - luma[..., None]))


def _blur(film):
  near = sum(
      np.roll(film, by, axis).astype(float) for by in (1, -1) for axis in (1, 2)
  )
  return _bytes((film + near) / 5)


def _shuffled(film):
  return film[np.random.default_rng(0).permutation(len(film))]


def _mean_drift(corrupt):
  """Over the clips, by name."""
  numbers = [drift.drift(corrupt(film), film, RATE) for film in _films()]
  return {name: np.mean([n[name] for n in numbers]) for name in numbers[0]}


class DriftTest(parameterized.TestCase):

  def test_the_truth_does_not_drift(self):
    for number in _mean_drift(lambda film: film).values():
      self.assertEqual(number, 0)

  @parameterized.parameters(
      (_noise, {'detail': (0.6, 1.2)}),
      (_blur, {'detail': (-2.0, -1.4)}),
      # The mean of log(1 ... 0.6) is -0.23; black stays black, c is there.
      (_gain, {'brightness': (-0.24, -0.2), 'contrast': (-0.24, -0.2)}),
      # The mean of log(1 ... 0.5) is -0.31.
      (_grey, {'saturation': (-0.31, -0.18)}),
      (_shuffled, {}),
  )
  def test_one_kind_of_drift_moves_its_own_figures(self, corrupt, moved):
    numbers = _mean_drift(corrupt)
    for name in drift.NAMES:
      low, high = moved.get(name, (-0.07, 0.07))
      self.assertBetween(numbers[name], low, high, name)

  @pytest.mark.slow
  def test_growing_drift_has_a_slope(self):
    seconds = 47 / RATE
    numbers = _mean_drift(_gain)
    self.assertAlmostEqual(
        numbers['brightness_slope'], np.log(0.6) / seconds, delta=0.02
    )
    self.assertAlmostEqual(numbers['detail_slope'], 0, delta=0.01)
    numbers = _mean_drift(_noise)
    self.assertAlmostEqual(numbers['brightness_slope'], 0, delta=0.01)

  def test_shuffled_time_leaves_means_as_they_are(self):
    for film in _films():
      numbers = drift.drift(_shuffled(film), film, RATE)
      for name in drift.NAMES:
        # The order of a sum.
        self.assertAlmostEqual(numbers[name], 0, places=12)


class StatisticsTest(parameterized.TestCase):

  def test_a_checkerboard_is_all_detail_and_noise_a_third(self):
    board = np.indices((16, 16)).sum(0) % 2
    film = np.repeat(board[None, :, :, None], 3, -1).astype(float)
    figures = drift.statistics(film)
    self.assertAlmostEqual(figures['detail'][0], 1)
    self.assertAlmostEqual(figures['contrast'][0], 0)
    rng = np.random.default_rng(0)
    noise = rng.uniform(0, 1, (1, 400, 400, 3))
    # The variance of 160,000 squares of overlapping Laplacians: 1 %.
    self.assertAlmostEqual(
        drift.statistics(noise)['detail'][0], 20 / 64, delta=0.01
    )

  def test_a_slow_wave_has_the_detail_of_its_frequency(self):
    phase = 2 * np.pi * np.arange(258) / 16
    film = np.broadcast_to(
        (0.5 + 0.4 * np.sin(phase))[None, None, :, None], (1, 20, 258, 3)
    )
    # L multiplies by 2 - 2 cos(2 pi / 16); 16 whole waves inside the border.
    share = (2 - 2 * np.cos(2 * np.pi / 16)) ** 2 / 64
    self.assertAlmostEqual(drift.statistics(film)['detail'][0], share)

  def test_two_halves_by_hand(self):
    film = np.zeros((1, 8, 16, 3), np.uint8)
    film[:, :, :8] = 255, 0, 0
    film[:, :, 8:] = 51, 51, 51
    figures = drift.statistics(film)
    self.assertAlmostEqual(figures['brightness'][0], (0.299 + 0.2) / 2)
    self.assertAlmostEqual(figures['contrast'][0], (0.299 - 0.2) / 2)
    self.assertAlmostEqual(figures['saturation'][0], (1 + 0) / (1 + 0.2))

  def test_detail_and_saturation_do_not_know_gain(self):
    film = _films()[0] / 255
    full, half = drift.statistics(film), drift.statistics(film / 2)
    for name in ('detail', 'saturation'):
      np.testing.assert_allclose(half[name], full[name], rtol=1e-9)
    for name in ('brightness', 'contrast'):
      np.testing.assert_allclose(half[name], full[name] / 2, rtol=1e-9)

  def test_frames_of_one_colour_are_finite(self):
    black, white = np.zeros((3, 9, 9, 3)), np.ones((3, 9, 9, 3))
    numbers = drift.drift(black, white, RATE)
    self.assertTrue(all(np.isfinite(n) for n in numbers.values()))
    self.assertAlmostEqual(numbers['brightness'], -np.log(256))

  def test_bytes_and_floats_agree(self):
    film = _films()[0][:4]
    bytes_, floats = drift.statistics(film), drift.statistics(film / 255)
    for name in drift.NAMES:
      np.testing.assert_array_equal(bytes_[name], floats[name])

  def test_one_frame_has_no_slope(self):
    film = _films()[0][:1]
    self.assertEqual(drift.drift(_gain(film), film, RATE)['detail_slope'], 0)

  @parameterized.parameters(
      (np.zeros((8, 8, 3)), r'\(8, 8, 3\)'),
      (np.zeros((1, 2, 8, 3)), 'inner pixels'),
      (np.zeros((1, 8, 8, 3), np.int32), 'int32'),
      (np.full((1, 8, 8, 3), 200.0), r'\[200, 200\]'),
  )
  def test_bad_films_are_refused(self, film, message):
    with self.assertRaisesRegex(ValueError, message):
      drift.statistics(film)

  def test_films_must_have_one_length(self):
    film = _films()[0]
    with self.assertRaisesRegex(ValueError, 'true ones'):
      drift.drift(film[:5], film[:6], RATE)


if __name__ == '__main__':
  absltest.main()
