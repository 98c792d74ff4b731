"""The base of everything a recipe can set: typed, frozen, and closed to unknown keys."""

from collections.abc import Callable, Iterator
from typing import Any, Final, TypeVar, cast

from pydantic import BaseModel, ConfigDict

T = TypeVar("T")
PATH: Final[dict[str, Any]] = {"path": True}
"""A field's `json_schema_extra` where it holds a path: relative ones start at the recipe's folder."""


class Options(BaseModel):
    """Typed fields that are the keys of a recipe. Each field's description is its help text."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)


def path_fields(options: type[BaseModel]) -> dict[str, str]:
    """The fields that hold paths, by the key that a recipe has for them."""
    fields = options.model_fields.items()
    return {field.alias or name: name for name, field in fields if field.json_schema_extra == PATH}


def path_keys(options: Options) -> Iterator[str]:
    """The dotted keys of the fields that hold paths, also of options inside these."""
    yield from path_fields(type(options))
    for name, inner in _inside(options):
        yield from (f"{name}.{key}" for key in path_keys(inner))


def with_paths(options: T, change: Callable[[str], str]) -> T:
    """A copy with other paths, also in options inside these; `change` gives the new one for each."""
    if not isinstance(options, Options):  # a part of the user's own may be none
        return options
    new: dict[str, Any] = {}
    for name in path_fields(type(options)).values():
        if isinstance(old := getattr(options, name), str):
            new[name] = change(old)
    for place, inner in _inside(options):
        name, divides, key = place.partition(".")
        made = with_paths(inner, change)
        if made != inner:
            new[name] = {**new.get(name, getattr(options, name)), key: made} if divides else made
    return cast(T, options.model_copy(update=new)) if new else options


def _inside(options: Options) -> Iterator[tuple[str, Options]]:
    """Options that are a field's value, or stand in a mapping that is one, with the key or keys that lead there."""
    for name in type(options).model_fields:
        value = getattr(options, name)
        if isinstance(value, Options):
            yield name, value
        elif isinstance(value, dict):
            yield from ((f"{name}.{key}", inner) for key, inner in value.items() if isinstance(inner, Options))
