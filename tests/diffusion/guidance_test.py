"""Guidance: two forms, and how the numbers of one translate to the other."""

from absl.testing import absltest
import numpy as np

from worldsim_jax.diffusion import guidance
from worldsim_jax.models.conditioning import Conditioning

B, F, A = 2, 3, 1


class Denoiser:
  """A velocity that depends on what is known, and remembers its calls."""

  def __init__(self):
    self.batches = []

  def __call__(self, x, timesteps, conditioning):
    self.batches.append(len(x))
    known = conditioning.with_masks().actions_mask
    told = conditioning.actions[..., 0] * known + timesteps
    return x * told[:, :, None, None, None]


class GuidanceTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    rng = np.random.default_rng(0)
    self.x = np.float32(rng.normal(size=(B, F, 1, 1, 2)))
    self.t = np.full((B, F), 2, np.float32)
    actions = np.float32(rng.normal(size=(B, F, A)))
    self.given = Conditioning(actions=actions)
    self.unknown = self.given.unconditional()
    self.cond = Denoiser()(self.x, self.t, self.given)
    self.uncond = Denoiser()(self.x, self.t, self.unknown)

  def guided(self, scale, **form):
    denoiser = Denoiser()
    fn = guidance.guided(denoiser, self.given, self.unknown, scale, **form)
    return fn(self.x, self.t), denoiser.batches

  def test_scale_1_is_the_conditional_prediction_alone(self):
    v, batches = self.guided(1.0)
    np.testing.assert_array_equal(v, self.cond)
    self.assertEqual(batches, [B])

  def test_scale_0_is_the_unconditional_prediction(self):
    np.testing.assert_array_equal(self.guided(0.0)[0], self.uncond)

  def test_other_scales_extrapolate_in_one_call_of_twice_the_batch(self):
    v, batches = self.guided(4.0)
    # A few roundings of values near 10.
    np.testing.assert_allclose(
        v, self.uncond + 4 * (self.cond - self.uncond), atol=1e-5
    )
    self.assertEqual(batches, [2 * B])

  def test_keys_and_values_pass_of_both_halves(self):
    denoiser = lambda x, t, given: (Denoiser()(x, t, given), 2 * x)
    fn = guidance.guided(denoiser, self.given, self.unknown, 4.0)
    v, kv = fn(self.x, self.t)
    np.testing.assert_array_equal(v, self.guided(4.0)[0])
    np.testing.assert_array_equal(kv, np.concatenate([2 * self.x, 2 * self.x]))

  def test_upstream_scale_is_ours_less_one(self):
    upstream = self.cond + 3.0 * (self.cond - self.uncond)
    np.testing.assert_allclose(self.guided(4.0)[0], upstream, atol=1e-5)

  def test_the_form_of_upstream_can_be_had_too(self):
    upstream = self.cond + 3.0 * (self.cond - self.uncond)
    v, batches = self.guided(3.0, form='extra')
    np.testing.assert_allclose(v, upstream, atol=1e-5)
    self.assertEqual(batches, [2 * B])

  def test_in_the_form_of_upstream_scale_0_is_no_guidance(self):
    v, batches = self.guided(0.0, form='extra')
    np.testing.assert_array_equal(v, self.cond)
    self.assertEqual(batches, [B])

  def test_another_form_is_refused(self):
    with self.assertRaisesRegex(ValueError, "form='cfg' is not one of"):
      self.guided(3.0, form='cfg')

  def test_equal_predictions_need_no_guidance_whatever_the_scale(self):
    np.testing.assert_array_equal(
        guidance.guide(self.cond, self.cond, 7.5), self.cond
    )


if __name__ == '__main__':
  absltest.main()
