"""The same past, another future."""

import dataclasses

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from worldsim_jax.data import counterfactuals
from worldsim_jax.data import engine as engine_lib
from worldsim_jax.data import episodes
from worldsim_jax.data import events
from worldsim_jax.errors import UserError

FRAME, SECOND = 20, 9  # of 4 tics each


class CounterfactualTest(parameterized.TestCase):

  @parameterized.parameters('navigate', 'random_walk', 'palindrome')
  def test_prefixes_are_the_same_bytes_and_futures_differ(self, policy):
    with engine_lib.Engine('gen:5') as engine:
      for seed in range(6):
        own = episodes.record(engine, policy=policy, num_frames=40, seed=seed)
        recipe = episodes.Recipe.from_json(own['recipe'])
        other = counterfactuals.counterfactual(recipe, FRAME, seed)
        shown = episodes.render(other, engine)
        for field in ('rgb', 'pose', 'actions'):
          np.testing.assert_array_equal(
              own[field][:FRAME], shown[field][:FRAME]
          )
        turned = shown['pose'][FRAME:, 3] - own['pose'][FRAME:, 3]
        turned = np.abs((turned + 180) % 360 - 180)
        self.assertGreater(turned[:SECOND].max(), 25)
        later = slice(FRAME + SECOND, None)
        differs = (own['rgb'][later] != shown['rgb'][later]).any((1, 2, 3))
        self.assertGreater(differs.mean(), 0.8)

  def test_the_seed_decides(self):
    recipe = episodes.plan('gen:5', seed=1, policy='navigate', num_frames=40)
    made = [
        counterfactuals.counterfactual(recipe, FRAME, seed)
        for seed in (*range(8), *range(8))
    ]
    self.assertEqual(made[:8], made[8:])
    self.assertGreater(len(set(made)), 3)

  def test_who_stands_gets_something_to_see(self):
    recipe = episodes.Recipe('gen:5', ((0.0, 0.0, 0.0),) * 40)
    for seed in range(6):
      other = counterfactuals.counterfactual(recipe, FRAME, seed)
      turned = np.array(other.actions)[FRAME : FRAME + SECOND, 2].sum()
      self.assertGreater(abs(turned), counterfactuals.LEAST_TURN)

  def test_nothing_leads_across_a_cut(self):
    cut = events.Event(30, 'cut', (192.0, 192.0, 0.0))
    recipe = episodes.Recipe('gen:5', ((0.0, 0.0, 0.0),) * 40)
    recipe = dataclasses.replace(recipe, events=(cut,))
    other = counterfactuals.counterfactual(recipe, 29, seed=2)
    self.assertFalse(any(other.actions[30]))
    self.assertEqual(other.events, recipe.events)

  @parameterized.parameters(0, 40, -1)
  def test_a_frame_that_has_no_past_or_no_future_is_refused(self, frame):
    recipe = episodes.Recipe('gen:5', ((0.0, 0.0, 0.0),) * 40)
    with self.assertRaisesRegex(UserError, f'frame {frame} of 40'):
      counterfactuals.counterfactual(recipe, frame)


if __name__ == '__main__':
  absltest.main()
