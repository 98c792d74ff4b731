"""The methods that a comparison is of, as they are written in a line: `full,lora(rank=16)`."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunesmith.contracts import Method
from tunesmith.errors import UserError, shown
from tunesmith.recipe import Recipe, recipe_from
from tunesmith.recipe_yaml import read_value

WRITTEN = re.compile(r"(?P<kind>[^()\s]+)\s*(?:\((?P<options>.*)\))?", re.DOTALL)
OPEN, CLOSE, QUOTES = "([{", ")]}", "'\""
LONGEST_NAME = 80


@dataclass(frozen=True)
class Variant:
    """A method with its options. text: as it was written. name: what its trials' folders are called."""

    text: str
    name: str
    method: Method
    settings: Mapping[str, Any]


def divided(line: str) -> list[str]:
    """The parts of a line between commas that stand in no brackets and no quotes."""
    parts, depth, quote = [""], 0, ""
    for character in line:
        if quote:
            quote = "" if character == quote else quote
        elif character in QUOTES:
            quote = character
        else:
            depth += (character in OPEN) - (character in CLOSE)
        if character == "," and not depth and not quote:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts if part.strip()]


def read_variants(texts: Iterable[str], recipe: Recipe) -> list[Variant]:
    """The methods that are written so, each once.

    One of the kind that the recipe has begins with the recipe's options, as with settings of the command line; any
    other with its own defaults. Raises UserError for what is no method, and for one that is there twice.
    """
    found: list[Variant] = []
    for text in texts:
        where = f"--methods, {shown(text)[1:-1]}"
        settings = _settings(text, where, recipe)
        values = recipe.as_mapping()
        values["deploy"]["formats"] = ["auto"]  # as every trial has it
        made = recipe_from({**values, "method": settings}, where)
        settings = made.as_mapping()["method"]
        same = next((other.text for other in found if other.settings == settings), None)
        if same is not None:
            raise UserError(where, f"is the same as {same}", "name each once")
        found.append(Variant(text, _name(text, [other.name for other in found]), made.method, settings))
    if not found:
        raise UserError("--methods", "names none", "such as full,lora,head")
    return found


def _settings(text: str, where: str, recipe: Recipe) -> dict[str, Any]:
    """What stands under `method` in the recipe of such a trial."""
    written = WRITTEN.fullmatch(text.strip())
    if written is None:
        raise UserError(where, "is no method", "write a kind, or a kind and its options: 'lora(rank=16)'")
    own: dict[str, Any] = recipe.as_mapping()["method"]
    settings = dict(own) if own["kind"] == written["kind"] else {"kind": written["kind"]}
    for place, value in _options(written["options"] or "", where):
        holder = settings
        for key in place[:-1]:
            inner = holder.get(key)
            holder[key] = holder = dict(inner) if isinstance(inner, Mapping) else {}
        holder[place[-1]] = value
    return settings


def _options(text: str, where: str) -> Iterator[tuple[list[str], Any]]:
    """Each option's key, taken apart at its dots, and its value."""
    for option in divided(text):
        key, equals, value = option.partition("=")
        if not equals or not key.strip():
            raise UserError(where, f"{shown(option)} is not a `key=value` setting", "write 'lora(rank=16)', say")
        yield key.strip().split("."), read_value(value, where)


def _name(text: str, taken: Sequence[str]) -> str:
    """A folder's name that tells this method from the others."""
    plain = re.sub(r"[^\w.+-]+", "-", text)[:LONGEST_NAME].strip("-.") or "method"
    names = (plain, *(f"{plain}-{number}" for number in range(2, len(taken) + 3)))
    return next(name for name in names if name not in taken)
