"""crate_jax: white-box language models (CRATE) in JAX, trained, scaled and looked at."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from crate_jax.run import Edit, Run, load

__all__ = ["Edit", "Run", "load"]


def __getattr__(name: str) -> Any:
  """Imports JAX and the rest when a name is first used: `import crate_jax` stays cheap."""
  if name in __all__:
    from crate_jax import run

    return getattr(run, name)
  raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
