"""Divergences by name: two losses each, see `matching`.

  dmd  distribution matching (Yin et al. 2024): the difference of scores as a
       gradient
  sid  score identity distillation (Zhou et al. 2024): it as a loss, with the
       gradient through teacher and critic
"""

from collections.abc import Callable
from typing import NamedTuple

from worldsim_jax.distill import dmd
from worldsim_jax.distill import sid


class Divergence(NamedTuple):
  """The student's loss and the critic's."""
  generator_loss: Callable
  critic_loss: Callable


DIVERGENCES = {
    'dmd': Divergence(dmd.generator_loss, dmd.critic_loss),
    'sid': Divergence(sid.generator_loss, sid.critic_loss),
}
