"""A column of a data file, and what its values look like."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

MOST_LABELS = 200
ODD_VALUES = 0.1
"""So large a share of a column of numbers may be something else."""
WITH_COMMAS = re.compile(r"\s*[-+]?[\d.]*,[\d.,]*\d\s*")


@dataclass(frozen=True)
class Column:
    """A column's values where there are any."""

    name: str
    values: tuple[Any, ...]
    rows: int

    @property
    def different(self) -> int:
        return len({str(value) for value in self.values})

    @property
    def words(self) -> float:
        return sum(len(str(value).split()) for value in self.values) / max(1, len(self.values))

    @property
    def characters(self) -> float:
        return sum(len(str(value)) for value in self.values) / max(1, len(self.values))

    @property
    def has_commas(self) -> bool:
        """Whether all but a few values are numbers, some of them written with commas."""
        others = [value for value in self.others if not WITH_COMMAS.fullmatch(str(value))]
        return len(others) <= ODD_VALUES * len(self.values) and len(others) < len(self.others)

    @property
    def is_filled(self) -> bool:
        return len(self.values) > 0.5 * self.rows

    @property
    def is_text(self) -> bool:
        return bool(self.values) and all(isinstance(value, str) for value in self.values) and not self.is_number

    @property
    def is_list(self) -> bool:
        return bool(self.values) and all(
            isinstance(value, list) and all(isinstance(part, str) for part in value) for value in self.values
        )

    @property
    def is_labels(self) -> bool:
        """Whether lists hold labels: several different ones, which come again."""
        parts = [part for value in self.values for part in value]
        return 2 <= len(set(parts)) <= min(MOST_LABELS, max(2, len(parts) // 2))

    @property
    def numbers(self) -> tuple[float, ...]:
        return tuple(number for value in self.values if (number := number_of(value)) is not None)

    @property
    def others(self) -> tuple[Any, ...]:
        """The values that are no numbers."""
        return tuple(value for value in self.values if number_of(value) is None)

    @property
    def is_number(self) -> bool:
        """Whether all but a few values are numbers."""
        return len(self.others) <= ODD_VALUES * len(self.values) and bool(self.numbers)

    @property
    def most_labels(self) -> int:
        """A label must come again: more different values than this are none."""
        return min(MOST_LABELS, max(2, len(self.values) // 2))

    def called(self, names: Sequence[str]) -> bool:
        return self.name.strip().lower() in names


def number_of(value: Any) -> float | None:
    """The value as a number, where it is or spells one."""
    try:
        number = math.nan if isinstance(value, bool | list | dict) else float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
