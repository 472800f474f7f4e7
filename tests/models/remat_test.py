"""What a backward pass keeps: never is a mixture's choice made twice."""

import contextlib
import io
import re

from absl.testing import absltest
from absl.testing import parameterized
import jax
from jax.ad_checkpoint import print_saved_residuals
import jax.numpy as jnp
import numpy as np
import pytest

from worldsim_jax.attention.moc import attend as moc
from worldsim_jax.attention.moc import chunks
from worldsim_jax.attention.moc import recall as recalling
from worldsim_jax.attention.moc import routing
from worldsim_jax.attention.moc.executors.blocks import Blocks
from worldsim_jax.models import remat

B, F, GRID, H, D = 1, 4, (1, 2), 2, 6
N = GRID[0] * GRID[1]
RULES, SMALL = chunks.Rules(), Blocks(8, 8, 8, 8)
SHAPE = (B, F, N, H, D)
POLICIES = [name for name in remat.POLICIES if name != 'none']  # No remat.


def attend(q, k, v):
  """Chunks of a film."""
  flat = lambda x: x.reshape(B, F * N, H, D)
  plan = moc.plan(chunks.of_frames(F, N), RULES, F * N, SMALL)
  return moc.attend(flat(q), flat(k), flat(v), moc.Mixture(
      plan, None, routing.Routing(2), 'xla')).sum()


def recall(q, k, v):
  """The last frame's, of a cache of the others."""
  frames = jnp.arange(F - 1)
  past = recalling.Past(k[:, :-1], v[:, :-1],
                        recalling.descriptors(k[:, :-1], GRID), frames, frames,
                        jnp.asarray(F - 1))
  out, _ = recalling.attend(q[:, -1:], k[:, -1:], v[:, -1:], past, GRID,
                            recalling.Recall(2, most=2, implementation='xla'))
  return out.sum()


# What is kept: the selection; of a cache, the slots that are fetched, and
# where among them each is.
KEPT = {attend: [(B, H, 2, F * N)],
        recall: [(B, H, 2), (B, H, 2, N)]}


def choices(f) -> int:
  """How often the backward and the forward pass of f choose."""
  program = jax.make_jaxpr(jax.grad(f, argnums=(0, 1, 2)))(
      *[np.ones(SHAPE, np.float32)] * 3)
  return len(re.findall(r'\btop_k\[', str(program)))


class RematTest(parameterized.TestCase):

  @parameterized.product(f=list(KEPT), policy=POLICIES)
  @pytest.mark.slow
  def test_every_policy_keeps_the_selection_of_a_mixture(self, f, policy):
    wrapped = jax.checkpoint(f, policy=remat.POLICIES[policy])
    with contextlib.redirect_stdout(io.StringIO()) as printed:
      print_saved_residuals(wrapped, *[np.ones(SHAPE, np.float32)] * 3)
    kept = re.findall(rf"i32\[([\d,]*)\] named '{moc.SELECTION}'",
                      printed.getvalue())
    self.assertCountEqual(
        kept, [','.join(map(str, shape)) for shape in KEPT[f]])
    self.assertEqual(choices(wrapped), choices(f))

  @parameterized.parameters(*KEPT)
  def test_without_a_policy_it_would_be_chosen_again(self, f):
    self.assertEqual(choices(jax.checkpoint(f)), 2 * choices(f))


if __name__ == '__main__':
  absltest.main()
