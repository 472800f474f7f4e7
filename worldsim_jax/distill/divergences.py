"""The divergences by name, and what each of them needs of a stage."""

import functools
from typing import Any, Callable, NamedTuple

from worldsim_jax.distill import dmd
from worldsim_jax.distill import dmd2
from worldsim_jax.distill import gan
from worldsim_jax.distill import sid


class Divergence(NamedTuple):
  """Two losses in the signature of `matching`, and what they call.

  Attributes:
    generator_loss: the student's.
    critic_loss: of the network that is trained beside it, 'critic', from which
      the roles 'critic' and 'discriminator' both come.
    networks: roles that the two losses look up.
    published: keys of a stage that only some divergences read, with the values
      that hold where the stage leaves them out. All read shift, min_sigma and
      max_sigma; with a teacher, guidance_scale; with a critic's velocity,
      critic_weight.
    through_teacher: whether the student's gradient passes through the teacher,
      which then must be differentiable in its input.
  """
  generator_loss: Callable[..., Any]
  critic_loss: Callable[..., Any]
  networks: tuple[str, ...]
  published: dict[str, Any]
  through_teacher: bool = False

  @property
  def needs_teacher(self) -> bool:
    return 'teacher' in self.networks

  @property
  def needs_discriminator(self) -> bool:
    """Whether the critic has a discriminator's heads."""
    return 'discriminator' in self.networks


def _adversarial(published) -> Divergence:
  return Divergence(
      functools.partial(gan.generator_loss, published=published),
      functools.partial(gan.critic_loss, published=published),
      ('discriminator',), published)


DIVERGENCES = {
    'dmd': Divergence(dmd.generator_loss, dmd.critic_loss,
                      ('teacher', 'critic'), dmd.PUBLISHED),
    'dmd2': Divergence(dmd2.generator_loss, dmd2.critic_loss,
                       ('teacher', 'discriminator'), dmd2.PUBLISHED),
    'sid': Divergence(sid.generator_loss, sid.critic_loss,
                      ('teacher', 'critic'), sid.PUBLISHED,
                      through_teacher=True),
    'gan': _adversarial(gan.SELF_FORCING),
    'r3gan': _adversarial(gan.R3GAN),
}
