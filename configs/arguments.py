"""What a config's argument says: `--config=configs/NAME.py:word,word`."""


def words(arg: str, *known: str) -> set[str]:
  """The words of an argument.

  Raises:
    ValueError: for one that is not known.
  """
  found = set(arg.split(',')) - {''}
  for word in sorted(found.difference(known)):
    raise ValueError(
        f'config argument {word!r} is not one of: {", ".join(known)}')
  return found


def one_of(found: set[str], choices, default: str) -> str:
  """Which of several choices the words make.

  Raises:
    ValueError: for more than one.
  """
  chosen = sorted(found.intersection(choices))
  if len(chosen) > 1:
    raise ValueError(
        f'config arguments {" and ".join(map(repr, chosen))} cannot both be.')
  return chosen[0] if chosen else default
