"""Tables of parts that are imported when asked for, by name or as `package.module:Name`."""

from collections.abc import Iterator
from importlib import import_module
from typing import Any

from tunesmith.errors import UserError, nearest


class Catalog:
    """Names of parts of one kind, and where each is defined.

    >>> METHODS = Catalog("method", full="tunesmith.adapt.full:Full")
    """

    def __init__(self, what: str, /, **entries: str) -> None:
        self.what = what
        self._entries = entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def without(self, *names: str) -> "Catalog":
        """The same table without the parts of these names."""
        return Catalog(self.what, **{name: path for name, path in self._entries.items() if name not in names})

    def name_of(self, part: type) -> str:
        """The name that `load` finds this class by; `package.module:Name` when it is not in the table."""
        path = f"{part.__module__}:{part.__qualname__}"
        return next((name for name, entry in self._entries.items() if entry == path), path)

    def load(self, name: str) -> Any:
        """The part called `name`; a name with a colon is imported from the user's own package.

        Raises UserError for a name that is not in the table or cannot be imported.
        """
        path = name if ":" in name else self._entries.get(name)
        if path is None:
            raise UserError(f"{self.what} {name!r}", "is not known", nearest(name, self._entries))
        module, _, attribute = path.partition(":")
        try:
            part = import_module(module)
        except ModuleNotFoundError as error:
            if ":" not in name:
                raise
            raise UserError(f"{self.what} {name!r}", str(error), "is the package installed?") from error
        if not hasattr(part, attribute):
            raise UserError(
                f"{self.what} {name!r}", f"module {module} has no {attribute!r}", nearest(attribute, vars(part))
            )
        return getattr(part, attribute)
