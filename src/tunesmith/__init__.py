"""Fine-tune any pre-trained language model, and see whether it is really better.

`tunesmith.api` holds the verbs of the command line as functions. Names here are imported when first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tunesmith import api
    from tunesmith.errors import TunesmithError, UserError
    from tunesmith.recipe import Recipe
    from tunesmith.run import Run

_PLACES = {
    "Recipe": "tunesmith.recipe",
    "Run": "tunesmith.run",
    "TunesmithError": "tunesmith.errors",
    "UserError": "tunesmith.errors",
}

__all__ = ["Recipe", "Run", "TunesmithError", "UserError", "__version__", "api"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("tunesmith")
    if name == "api":
        return import_module("tunesmith.api")
    if name in _PLACES:
        return getattr(import_module(_PLACES[name]), name)
    raise AttributeError(f"module 'tunesmith' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
