"""Labels as rows hold them: what each is called, in which order they stand, what is said of one that is not known."""

from collections.abc import Mapping, Sequence
from typing import Any

from tunesmith.errors import BadRow, UserError, nearest, shown

MOST_COMPARED = 200
"""Labels among which a similar one is looked for."""


def label_name(value: Any, column: str) -> str:
    """A label's name: text as it stands, without outer spaces; values as JSON writes them, whole numbers without point.

    So 1.0 is called 1 and True true, but the texts "1.0" and "True", such as cells of a CSV file, keep their names.
    """
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int):
        return str(value)
    if not isinstance(value, str) or not value.strip():
        raise BadRow(column, shown(value), "a label", "bad_label")
    return value.strip()


def label_order(name: str) -> tuple[int, int, str]:
    """Sorts whole numbers by value, before all other names by text."""
    digits = name.removeprefix("-")
    return (0, int(name), "") if digits.isascii() and digits.isdigit() and len(digits) < 19 else (1, 0, name)


def labels_of(counts: Mapping[str, int], wanted: Sequence[str] | None, column: str, least: int = 2) -> tuple[str, ...]:
    """The labels in order: those that are wanted, or those of the training rows, sorted.

    Raises UserError for too few.
    """
    labels = tuple(wanted or sorted(counts, key=label_order))
    if len(labels) < least:
        found = f"only the label {shown(labels[0])}" if labels else "no label at all"
        raise UserError(f"column '{column}'", f"{found} in the training rows", f"at least {least} are needed")
    return labels


def unknown_label(column: str, name: str, known: Sequence[str]) -> BadRow:
    """What is wrong with a row whose label the training rows do not have."""
    hint = f"; {nearest(name, known)}" if len(known) <= MOST_COMPARED else ""
    return BadRow(column, shown(name), f"one of {len(known)} labels{hint}", "unknown_label")
