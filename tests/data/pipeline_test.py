"""Batches are a function of (seed, step), and clips are what they say."""

import glob
import json
import os
import sys
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import jax.numpy as jnp
import numpy as np

from worldsim_jax.data import pipeline
from worldsim_jax.data import records
from worldsim_jax.errors import UserError


def episode(number, frames=20):
  """Pixel and action values tell episode and frame."""
  t = np.arange(frames)
  rgb = np.zeros((frames, 4, 6, 3), np.uint8)
  rgb[..., 0], rgb[..., 1] = number, t[:, None, None]
  return dict(
      rgb=rgb,
      actions=np.stack([t, t, t], 1).astype(np.float32),
      caption=f'episode {number}',
  )


def with_cuts(film, *cuts):
  shot_id = np.searchsorted(cuts, np.arange(len(film['rgb'])), side='right')
  return film | dict(shot_id=shot_id.astype(np.int32))


class PipelineTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.source = [episode(k) for k in range(10)]

  def batches(self, source=None, **options):
    return pipeline.make_iterator(
        self.source if source is None else source,
        **{**dict(batch_size=4, clip_frames=5, seed=0), **options},
    )

  def test_clips_are_successive_frames_of_one_episode(self):
    batch = next(self.batches(fields=('rgb', 'actions', 'caption')))
    self.assertEqual(batch['rgb'].shape, (4, 5, 4, 6, 3))
    self.assertEqual(batch['actions'].shape, (4, 5, 3))
    for k in range(4):
      number, frame = batch['rgb'][k, :, 0, 0, 0], batch['rgb'][k, :, 0, 0, 1]
      self.assertEqual(batch['caption'][k], f'episode {number[0]}')
      np.testing.assert_array_equal(number, number[0])
      np.testing.assert_array_equal(frame, frame[0] + np.arange(5))
      np.testing.assert_array_equal(batch['actions'][k, :, 0], frame)

  @parameterized.parameters(True, False)
  def test_clips_lie_within_one_shot(self, in_memory):
    # Shots of 7, 6 and 7 frames: clips of 6 begin at 0, 1, 7, 13 and 14.
    source = [with_cuts(episode(k), 7, 13) for k in range(4)]
    batches = self.batches(source, clip_frames=6, in_memory=in_memory)
    begins = [next(batches)['actions'][:, 0, 0] for _ in range(20)]
    self.assertCountEqual(np.unique(begins), [0, 1, 7, 13, 14])
    self.assertNotIn('shot_id', next(batches))

  @parameterized.parameters(True, False)
  def test_clips_of_several_shots_begin_with_one(self, in_memory):
    # Clips of 9 frames and two shots at most: from 0 and 7, not from 13.
    source = [with_cuts(episode(k), 7, 13) for k in range(3)]
    source.append(with_cuts(episode(3), 4, 8, 12, 16))  # Three shots each.
    batches = self.batches(source, clip_frames=9, most_shots=2,
                           fields=('rgb', 'shot_id'), in_memory=in_memory)
    found = [next(batches) for _ in range(10)]
    self.assertCountEqual(
        np.unique([b['rgb'][:, 0, 0, 0, 1] for b in found]), [0, 7])
    self.assertCountEqual(
        np.unique([b['rgb'][:, 0, 0, 0, 0] for b in found]), [0, 1, 2])
    for batch in found:
      np.testing.assert_array_equal(
          batch['shot_id'], np.searchsorted(
              [7, 13], batch['rgb'][:, :, 0, 0, 1], side='right'))

  def test_shots_bring_their_own_texts(self):
    # [L, shots, C]: text tells its token, and the shot.
    token, shot = np.meshgrid(np.arange(2.), np.arange(3.), indexing='ij')
    text = np.stack([token, shot], -1)
    film = with_cuts(episode(0), 7, 13) | dict(text=text)
    fields = ('rgb', 'text', 'shot_id')
    one = self.batches([film], clip_frames=6, fields=fields)
    two = self.batches([film], clip_frames=9, most_shots=3, fields=fields)
    for _ in range(5):
      batch = next(one)
      self.assertEqual(batch['text'].shape, (4, 2, 2))
      np.testing.assert_array_equal(
          batch['text'][:, 0, 1], batch['shot_id'][:, 0])
      batch = next(two)
      self.assertEqual(batch['text'].shape, (4, 3, 2, 2))
      first = batch['shot_id'][:, 0]
      for k, begin in enumerate(first):
        np.testing.assert_array_equal(
            batch['text'][k, :3 - begin], np.moveaxis(text, 1, 0)[begin:])
        np.testing.assert_array_equal(batch['text'][k, 3 - begin:], 0)

  def test_films_too_short_for_clips_of_several_shots_are_told_of(self):
    source = [with_cuts(episode(k), 4, 8, 12, 16) for k in range(3)]
    message = '(?s)no film .* 9 success.* most 2 shots'
    with self.assertRaisesRegex(UserError, message):
      self.batches(source, clip_frames=9, most_shots=2)

  @parameterized.parameters(True, False)
  def test_films_without_a_long_shot_are_left_out(self, in_memory):
    self.source[3] = with_cuts(episode(3), 4, 8, 12, 16)
    self.source[5] = episode(5, frames=4)
    batches = self.batches(batch_size=8, in_memory=in_memory)
    for _ in range(3):
      seen = next(batches)['rgb'][:, 0, 0, 0, 0].tolist()
      self.assertCountEqual(seen, [0, 1, 2, 4, 6, 7, 8, 9])
    state = batches.get_state()
    expected = next(batches)
    batches.set_state(state)
    np.testing.assert_array_equal(next(batches)['rgb'], expected['rgb'])

  def test_a_restored_state_gives_the_very_same_batches(self):
    batches = self.batches()
    for _ in range(7):
      next(batches)
    state = json.loads(json.dumps(batches.get_state()))
    expected = [next(batches) for _ in range(5)]
    fresh = self.batches()
    fresh.set_state(state)
    for batch in expected:
      again = next(fresh)
      for name in batch:
        np.testing.assert_array_equal(batch[name], again[name])

  @parameterized.parameters(dict(in_memory=False), dict(num_threads=1))
  def test_how_it_is_read_does_not_change_what_is_read(self, **options):
    one, other = self.batches(), self.batches(**options)
    for _ in range(5):
      np.testing.assert_array_equal(next(one)['rgb'], next(other)['rgb'])

  def test_what_is_stored_in_half_precision_comes_in_single(self):
    self.source = [
        film | dict(actions=film['actions'].astype(jnp.bfloat16), text=text)
        for film in self.source
        for text in [np.ones((3, 2), np.float16)]
    ]
    batch = next(self.batches(fields=('actions', 'text')))
    self.assertEqual(batch['actions'].dtype, np.float32)
    self.assertEqual(batch['text'].dtype, np.float32)
    self.assertEqual(batch['text'].shape, (4, 3, 2))

  def test_a_batch_may_be_one_clip(self):
    self.assertEqual(next(self.batches(batch_size=1))['rgb'].shape[0], 1)

  def test_seeds_differ(self):
    self.assertFalse(
        np.array_equal(
            next(self.batches(seed=0))['rgb'], next(self.batches(seed=1))['rgb']
        )
    )

  def test_every_pass_sees_every_episode_in_another_order(self):
    batches = self.batches(batch_size=10)
    first, second = (
        [int(k) for k in next(batches)['rgb'][:, 0, 0, 0, 0]] for _ in range(2)
    )
    self.assertCountEqual(first, range(10))
    self.assertCountEqual(second, range(10))
    self.assertNotEqual(first, second)

  @parameterized.parameters(True, False)
  def test_processes_read_rows_of_one_and_the_same_batch(self, in_memory):
    # As two processes have them, four, and two that share rows (sequence
    # parallelism over hosts).
    options = dict(batch_size=8, in_memory=in_memory)
    whole = self.batches(**options)
    parts = [[0, 1, 2, 3], [4, 5, 6, 7], [0, 1], [6, 7], [1, 2, 5], [7]]
    iterators = [self.batches(rows=rows, **options) for rows in parts]
    for _ in range(4):
      expected = next(whole)
      for rows, iterator in zip(parts, iterators):
        part = next(iterator)
        for name in expected:
          np.testing.assert_array_equal(part[name], expected[name][rows])

  def test_a_state_continues_with_other_rows(self):
    whole, part = self.batches(), self.batches(rows=[1, 2])
    for _ in range(7):
      next(whole), next(part)
    self.assertEqual(whole.get_state(), part.get_state())
    state, expected = json.loads(json.dumps(part.get_state())), next(whole)
    fresh = self.batches(rows=[3])
    fresh.set_state(state)
    np.testing.assert_array_equal(next(fresh)['rgb'], expected['rgb'][3:])

  def test_which_clips_a_seed_gives_is_held(self):
    # Runs of older versions continue with the clips that they would have seen.
    batch = next(self.batches())
    self.assertEqual(batch['rgb'][:, 0, 0, 0, 0].tolist(), [1, 2, 4, 5])
    self.assertEqual(batch['actions'][:, 0, 0].tolist(), [9, 3, 2, 0])

  def test_impossible_requests_name_the_argument(self):
    longer = [dict(episode(0), latents=np.zeros((7, 1)))]
    with self.assertRaisesRegex(ValueError, "agree.*'latents': 7"):
      self.batches(longer, fields=('rgb', 'latents'))
    with self.assertRaisesRegex(
        UserError, 'clip_frames=21 .config.<stage>.clip_frames. .*20 frames'
    ):
      self.batches(clip_frames=21)
    with self.assertRaisesRegex(UserError, 'clip_frames=13 .*12 frames of the'):
      self.batches([with_cuts(episode(0), 12)], clip_frames=13)
    with self.assertRaisesRegex(ValueError, "no field 'depth'.*rgb, actions"):
      self.batches(fields=('depth',))
    with self.assertRaisesRegex(UserError, 'no episodes'):
      self.batches([])

  def test_without_grain_the_pip_line_is_given(self):
    with mock.patch.dict(sys.modules, {'grain.python': None}):
      with self.assertRaisesRegex(UserError, 'pip install grain'):
        self.batches()

  def test_a_damaged_record_reaches_the_reader_by_name(self):
    directory = records.write(
        self.create_tempdir().full_path,
        'k',
        {'train': lambda: (episode(k) for k in range(20))},
    )
    source = records.Source(directory, 'train')
    [path] = glob.glob(directory + '/*train*')
    batches = self.batches(source, in_memory=False)
    with open(path, 'r+b') as f:
      f.write(b'\xff' * (os.path.getsize(path) // 2))
    with self.assertRaisesRegex(UserError, os.path.basename(path)):
      for _ in range(10):
        next(batches)


class EvalClipsTest(absltest.TestCase):

  def test_clips_are_the_same_on_every_call_and_from_all_episodes(self):
    source = [episode(k) for k in range(4)]
    one, two = (
        pipeline.eval_clips(source, clip_frames=6, num_clips=8)
        for _ in range(2)
    )
    np.testing.assert_array_equal(one['rgb'], two['rgb'])
    self.assertEqual(one['rgb'].shape, (8, 6, 4, 6, 3))
    self.assertCountEqual(one['rgb'][:, 0, 0, 0, 0].tolist(), [0, 1, 2, 3] * 2)

  def test_fewer_clips_than_episodes_are_of_all_maps_and_say_which(self):
    # As recorded: map after map.
    source = [
        episode(k) | dict(recipe=json.dumps({'map': f'gen:{k // 8}'}))
        for k in range(40)
    ]
    clips = pipeline.eval_clips(source, clip_frames=6, num_clips=10)
    self.assertCountEqual(clips['map'], [f'gen:{k}' for k in range(5)] * 2)
    for name, number in zip(clips['map'], clips['rgb'][:, 0, 0, 0, 0]):
      self.assertEqual(name, f'gen:{number // 8}')

  def test_a_film_of_no_map_is_a_map_of_its_own(self):
    source = [episode(0) | dict(recipe=''), episode(1)]
    clips = pipeline.eval_clips(source, clip_frames=6, num_clips=3)
    self.assertEqual(clips['map'].tolist(), ['film 0', 'film 0', 'film 1'])

  def test_clips_of_one_film_differ_while_they_can(self):
    clips = pipeline.eval_clips([episode(0)], clip_frames=18, num_clips=4)
    begins = clips['actions'][:, 0, 0]
    self.assertCountEqual(begins[:3], [0, 1, 2])
    self.assertIn(begins[3], [0, 1, 2])

  def test_clips_lie_within_one_shot(self):
    source = [with_cuts(episode(0), 10), with_cuts(episode(1), 5, 10, 15)]
    clips = pipeline.eval_clips(source, clip_frames=9, num_clips=4)
    self.assertCountEqual(clips['actions'][:, 0, 0], [0, 1, 10, 11])
    np.testing.assert_array_equal(clips['rgb'][:, 0, 0, 0, 0], 0)
    with self.assertRaisesRegex(
        UserError, r'clip_frames=11 \(config.evaluate.horizon \+ .* 10 frames'
    ):
      pipeline.eval_clips(source, clip_frames=11, num_clips=4)


class CheckFilmsTest(parameterized.TestCase):

  def check(self, needed, splits=('train', 'test'), height=4, width=6, **more):
    films = [
        with_cuts(episode(0, 12)),
        with_cuts(episode(1, 20), 8),
        with_cuts(episode(2, 5)),
    ]
    directory = records.write(
        self.create_tempdir().full_path,
        'k',
        {split: lambda: iter(films) for split in splits},
    )
    with mock.patch.object(records.Source, '__getitem__'):  # No reading.
      pipeline.check_films(
          directory, needed, height=height, width=width, **more
      )

  def test_films_that_are_long_enough_pass_and_short_ones_are_told_of(self):
    self.check({'train': {'config.a': 5}, 'test': {'config.b': 1}})
    with self.assertLogs(level='WARNING') as logs:
      self.check({'train': {'config.a': 3, 'config.b': 12}, 'test': {}})
    self.assertLen(logs.output, 1)
    self.assertIn('config.b=12: 1 of 3 films for train in', logs.output[0])

  @parameterized.parameters(
      (
          dict(needed={'train': {}, 'test': {'config.a': 13}}),
          'config.a needs 13 successive .* of 3 films for test .* has 12',
      ),
      (
          dict(needed={'train': {'config.a + config.b': 21}}),
          'config.a . config.b needs 21 successive frames, .* for train',
      ),
      (
          dict(needed={'train': {}, 'test': {}}, splits=['train']),
          "no split 'test', a run needs train and test; it has train",
      ),
      (
          dict(needed={'train': {}}, height=8),
          'frames of 4 x 6 x 3, but config.data.height=8, config.data.width=6',
      ),
      (dict(needed={'train': {}}, fields=('rgb', 'depth')), "no field 'depth'"),
  )
  def test_what_would_fail_later_is_one_line_now(self, options, said):
    with self.assertRaisesRegex(UserError, said) as caught:
      self.check(**options)
    self.assertNotIn('\n', str(caught.exception))


class MotionTest(absltest.TestCase):

  def test_motion_is_the_mean_difference_in_grey_levels(self):
    rgb = np.zeros((1, 3, 2, 2, 3), np.uint8)
    rgb[:, 1], rgb[:, 2] = 10, 4
    np.testing.assert_array_equal(pipeline.motion(rgb), [[0, 10, 6]])


if __name__ == '__main__':
  absltest.main()
