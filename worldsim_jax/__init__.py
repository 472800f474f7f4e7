"""worldsim_jax: causal, few-step, interactive video world models in JAX.

The stable names; everything else is importable from its module but may move.
They are imported on first use, so that `import worldsim_jax` costs nothing.
"""

import importlib

__version__ = '0.1.0'

_PUBLIC = {
    'load': 'worldsim_jax.train.assemble',
    'World': 'worldsim_jax.streaming.world',
    'Conditioning': 'worldsim_jax.models.conditioning',
    'UserError': 'worldsim_jax.errors',
}
__all__ = ('__version__', *_PUBLIC)


def __getattr__(name):
  if name not in _PUBLIC:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  return getattr(importlib.import_module(_PUBLIC[name]), name)
