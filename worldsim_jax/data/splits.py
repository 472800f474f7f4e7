"""Which maps may be trained on. No test map is ever trained on.

Freedoom's first halves train, its second halves test; generated maps divide by
seed. The rule is on names, so that a record always tells which side it is on.
"""

from worldsim_jax.data import maps as maps_lib
from worldsim_jax.data import wad
from worldsim_jax.errors import UserError

SPLITS = ('train', 'test')
FIRST_TEST_SEED = 2**20
FREEDOOM = tuple(f'E{e}M{m}' for e in range(1, 5) for m in range(1, 10)) + (
    tuple(f'MAP{m:02}' for m in range(1, 33))
)


def split_of(name: str) -> str:
  """'train' or 'test' for 'E1M1', 'MAP07' or 'gen:123'."""
  if not wad.MAP_NAME.fullmatch(name):
    test = maps_lib.seed_of(name) >= FIRST_TEST_SEED
  elif name not in FREEDOOM:
    raise UserError(
        f'there is no map {name!r}; Freedoom has E1M1-E4M9 and ' 'MAP01-MAP32'
    )
  else:
    test = int(name[1]) >= 3 if name[0] == 'E' else int(name[3:]) >= 21
  return 'test' if test else 'train'


def maps(split: str) -> tuple[str, ...]:
  """Freedoom's maps of a split."""
  _check(split)
  return tuple(name for name in FREEDOOM if split_of(name) == split)


def generated_maps(split: str, count: int, first: int = 0) -> tuple[str, ...]:
  """Names of `count` generated maps of a split, from its seed `first` on."""
  _check(split)
  if split == 'train' and first + count > FIRST_TEST_SEED:
    raise UserError(
        f'the train split has {FIRST_TEST_SEED} generated maps; '
        f'asked for number {first + count}'
    )
  offset = first + (FIRST_TEST_SEED if split == 'test' else 0)
  return tuple(f'{maps_lib.GENERATED}{offset + k}' for k in range(count))


def _check(split):
  if split not in SPLITS:
    raise UserError(f'split {split!r} is not one of {SPLITS}')
