"""Exact replay: fair players, and numbers that can be checked by hand."""

import functools
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
import pytest

from tests.streaming import tiny_world
from worldsim_jax.evaluate import films
from worldsim_jax.evaluate import replay
from worldsim_jax.evaluate.clips import Clips
from worldsim_jax.models import pixels

GIVEN, HORIZON = 2, 4


def config(**evaluate):
  small = tiny_world.config()
  small.evaluate.update(dict(num_clips=4, horizon=HORIZON) | evaluate)
  return small


def episode(moves, seed=0):
  """As long as a clip; frame t differs from the one before by moves[t]."""
  dice = np.random.default_rng(seed)
  shades = np.cumsum(moves).astype(np.uint8)
  rgb = dice.integers(0, 99, (24, 32, 3), dtype=np.uint8) + shades[
      :, None, None, None]
  actions = dice.normal(0, 9, (len(moves), 3)).astype(np.float32)
  return {'rgb': rgb, 'actions': actions, 'caption': f'room {seed}'}


def clips():
  """A clip that moves and one that stands still."""
  episodes = [episode([0, 9, 9, 9, 9, 9], 1), episode([0] * 6, 2)]
  rgb, actions = (np.stack([e[name] for e in episodes])
                  for name in ('rgb', 'actions'))
  return Clips(rgb, actions, tuple(e['caption'] for e in episodes),
               np.array(['a', 'b'], object), GIVEN)


def play(played_clips):
  return replay.play(tiny_world.make(), trained(), played_clips)


@functools.cache
def trained():
  config = tiny_world.config()
  return {name: tiny_world.random_variables(config, seed)['student']
          for name, seed in (('teacher', 7), ('undistilled', 8))}


@functools.cache
def played():
  return play(clips())


@pytest.mark.slow
class MatrixTest(absltest.TestCase):

  def test_a_matrix_is_another_way_to_the_same_frames(self):
    params, films = trained()['undistilled'], {}
    for matrix in 'autoregressive', 'pyramid', 'full_sequence':
      own = config(matrix=matrix)
      own.student.step = 'euler'
      own.teacher_forcing.clip_frames = 4  # So two windows make the clip.
      films[matrix] = replay.matrix_continuation(
          tiny_world.of_config(own), params, clips(), 'teacher_forcing')
    for film in films.values():
      self.assertEqual(film.shape, (2, HORIZON, 24, 32, 3))
      self.assertEqual(film.dtype, np.uint8)
    self.assertFalse(np.array_equal(films['pyramid'], films['full_sequence']))
    self.assertFalse(np.array_equal(films['pyramid'], films['autoregressive']))


class PlayTest(absltest.TestCase):

  def test_every_player_makes_the_future_of_every_clip(self):
    self.assertCountEqual(
        played(), ['truth', 'student', 'undistilled', 'teacher', 'copy', 'vae',
                   'wrong', 'wrong_forward', 'wrong_strafe', 'wrong_turn'])
    for film in played().values():
      self.assertEqual(film.shape, (2, HORIZON, 24, 32, 3))
      self.assertEqual(film.dtype, np.uint8)

  def test_the_truth_is_what_was_recorded(self):
    np.testing.assert_array_equal(played()['truth'], clips().future)

  @pytest.mark.slow
  def test_copying_is_perfect_where_nothing_moves_and_known_where_it_does(self):
    moving, still = replay.score(played())['copy']
    np.testing.assert_array_equal(still, 100.)  # The cap of PSNR.
    shift = 9 * np.arange(1, HORIZON + 1)
    np.testing.assert_allclose(moving, -20 * np.log10(shift / 255), rtol=1e-6)

  @pytest.mark.slow
  def test_the_ceiling_is_the_truth_through_the_tokenizer(self):
    world = tiny_world.make()
    expected = pixels.to_uint8(world.vae.apply(
        world.vae_variables, pixels.to_float(clips().rgb)))
    difference = played()['vae'].astype(int) - expected[:, GIVEN:]
    # One program against many: a value may fall to the next grey level.
    self.assertLessEqual(np.abs(difference).max(), 1)

  def test_the_student_gets_the_actions_and_wrong_the_negated_future(self):
    world, given = tiny_world.make(), clips()
    rgb, actions = given.rgb[:, :GIVEN], given.actions
    np.testing.assert_array_equal(
        played()['student'], world.continue_videos(rgb, actions))
    def with_sign(*sign):
      changed = actions.copy()
      changed[:, GIVEN:] *= sign
      return world.continue_videos(rgb, changed)

    signs = {'wrong': (-1, -1, -1), 'wrong_forward': (-1, 1, 1),
             'wrong_strafe': (1, -1, 1), 'wrong_turn': (1, 1, -1)}
    for name, sign in signs.items():
      np.testing.assert_array_equal(played()[name], with_sign(*sign), name)
      self.assertTrue(np.any(played()[name] != played()['student']), name)

  def test_what_no_clip_commands_is_not_negated(self):
    actions = np.ones((1, 4, 3)) * [1, 0, 1]
    self.assertEqual(replay._mistakes(actions), {
        'wrong': [0, 1, 2], 'wrong_forward': [0], 'wrong_turn': [2]})

  def test_the_undistilled_student_has_its_own_parameters(self):
    world, given = tiny_world.make(), clips()
    np.testing.assert_array_equal(
        played()['undistilled'], world.continue_videos(
            given.rgb[:, :GIVEN], given.actions,
            params=trained()['undistilled']))
    self.assertTrue(np.any(played()['undistilled'] != played()['student']))

  def test_the_teacher_is_sampled_as_the_config_says(self):
    world = tiny_world.make()
    world = tiny_world.World(
        config(teacher_sampler='unipc', teacher_steps=3), *(
            world.params, world.vae_variables, world.starts))
    with mock.patch.object(
        replay.samplers.predictor_corrector, 'steps',
        wraps=replay.samplers.predictor_corrector.steps) as steps:
      film = replay.teacher_continuation(world, trained()['teacher'], clips())
    np.testing.assert_array_equal(  # Wan's grid, not the one from 1.
        steps.call_args.args[0],
        replay.samplers.flow.sampling_sigmas(3, 5., 'wan'))
    self.assertEqual(film.shape, played()['teacher'].shape)
    self.assertTrue(np.any(film != played()['teacher']))

  def test_no_player_sees_the_future_but_the_ceiling(self):
    other = clips()
    other.rgb[:, GIVEN:] = 255 - other.rgb[:, GIVEN:]
    before = {'rgb': other.rgb.copy(), 'actions': other.actions.copy()}
    blind = play(other)
    for name in set(played()) - {'truth', 'vae'}:
      np.testing.assert_array_equal(blind[name], played()[name], name)
    self.assertTrue(np.any(blind['vae'] != played()['vae']))
    for name in before:
      np.testing.assert_array_equal(
          getattr(other, name), before[name], 'input changed')


class NumbersTest(parameterized.TestCase):

  def test_a_summary_holds_means_and_gains(self):
    ramp = np.arange(20.)  # dB lost by frame
    scores = {
        'student': np.stack([30 - ramp, 40 - ramp]),
        'copy': np.stack([25 - ramp, 35 - ramp]),
        'wrong': np.stack([28 - ramp, 36 - ramp])}
    summary, drift = replay.summarise(
        scores, np.zeros((2, 20, 3)), np.array(['a', 'b']))
    self.assertEqual(summary['test_clips'], 2)
    self.assertAlmostEqual(summary['student_psnr_next_frame'], 35)
    self.assertAlmostEqual(summary['student_psnr_16_frames'], 35 - 7.5)
    self.assertAlmostEqual(summary['copy_psnr_next_frame'], 30)
    # The gain is paired: clips differ by 10 dB, the gain over copying does not.
    for end in ('', '_low', '_high'):
      self.assertAlmostEqual(
          summary[f'student_gain_over_copy_next_frame{end}'], 5)
    gain = 'student_gain_over_wrong_next_frame'
    self.assertAlmostEqual(summary[gain], 3)
    self.assertAlmostEqual(summary[f'{gain}_low'], 2)
    self.assertAlmostEqual(summary[f'{gain}_high'], 4)
    frame, mean, low, high = drift['student']
    np.testing.assert_array_equal(frame, np.arange(1, 21))
    np.testing.assert_allclose(mean, 35 - ramp)
    np.testing.assert_allclose([low, high], [30 - ramp, 40 - ramp])

  def test_a_wrong_component_costs_where_it_is_commanded(self):
    scores = {name: np.full((3, 9), value) for name, value in (
        ('student', 30.), ('copy', 25.), ('wrong', 28.), ('wrong_turn', 29.),
        ('wrong_forward', 30.))}
    scores['wrong_turn'][0] = 20.  # A clip that turns too little to count.
    scores['wrong_turn'][1, 8] = 0.  # Behind the frames that count.
    actions = np.zeros((3, 9, 3))
    actions[0, :4, 2] = actions[1, :5, 2] = actions[2, :, 2] = 6.
    summary, drift = replay.summarise(scores, actions, np.array(list('abc')))
    self.assertEqual(summary['clips_with_turn'], 2)
    for end in ('', '_low', '_high'):
      self.assertAlmostEqual(summary[f'cost_of_wrong_turn_8_frames{end}'], 1)
    self.assertNotIn('clips_with_forward', summary)  # No clip commands it.
    self.assertNotIn('wrong_turn', drift)

  def test_a_short_horizon_is_told_in_the_name(self):
    scores = {name: np.zeros((1, 5)) for name in ('student', 'copy', 'wrong')}
    summary, _ = replay.summarise(scores, np.zeros((1, 5, 3)), np.array(['a']))
    self.assertIn('student_psnr_5_frames', summary)
    self.assertNotIn('student_psnr_16_frames', summary)

  def test_a_score_is_per_clip_and_frame_and_not_of_the_truth(self):
    scores = replay.score(played())
    self.assertNotIn('truth', scores)
    for psnr in scores.values():
      self.assertEqual(psnr.shape, (2, HORIZON))

  @parameterized.parameters(
      ((24, 0, 8), 'forward 24, turn left 8'),
      ((-12.4, 0, 0), 'back 12'),
      ((0, 24, -8), 'strafe left 24, turn right 8'),
      ((0, -3, 0), 'strafe right 3'),
      ((0.4, -0.4, 0), 'stand'))
  def test_actions_are_described_in_words(self, action, words):
    self.assertEqual(replay.describe(np.float32(action)), words)


def shown():
  return {'true future': played()['truth'], 'student': played()['student']}


class FilmTest(absltest.TestCase):

  def test_a_row_per_clip_shows_the_given_frames_and_then_the_players(self):
    with mock.patch.object(
        films, 'side_by_side', wraps=films.side_by_side) as drawn:
      film = replay.film(shown(), clips(), num_clips=9)
    self.assertLen(drawn.call_args_list, 2)
    self.assertLen(film, GIVEN + HORIZON)
    self.assertEqual(film.dtype, np.uint8)
    columns, _, captions = drawn.call_args_list[1].args
    self.assertEqual(list(columns), ['true future', 'student'])
    np.testing.assert_array_equal(columns['true future'], clips().rgb[1])
    student = columns['student']
    np.testing.assert_array_equal(student[:GIVEN], clips().rgb[1, :GIVEN])
    np.testing.assert_array_equal(student[GIVEN:], played()['student'][1])
    actions = clips().actions[1]
    self.assertEqual(captions, ['given'] * GIVEN + [
        replay.describe(a) for a in actions[GIVEN:]])

  def test_a_film_shows_no_more_clips_than_asked_for(self):
    one, two = (replay.film(shown(), clips(), num_clips=n)
                for n in (1, 2))
    self.assertLess(one.shape[1], two.shape[1])


if __name__ == '__main__':
  absltest.main()
