"""Rows divided between training, validation and test, so that nothing that belongs together is torn apart."""

import hashlib
import unicodedata
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from tunesmith.contracts import Record


def text_key(record: Record) -> bytes:
    """The same for records whose inputs read the same: composed characters, runs of white space as one space."""
    parts = (" ".join(unicodedata.normalize("NFC", str(value)).split()) for value in record.inputs.values())
    return hashlib.blake2b("\x1f".join(parts).encode("utf-8", "surrogatepass"), digest_size=16).digest()


def divide(
    records: Sequence[Record], strata: Sequence[str | None], shares: Mapping[str, float], seed: int
) -> dict[str, list[int]]:
    """Places in `records` for "train" and for each split of `shares`, each in the rows' order.

    Rows with the same text or the same group stay together. Each stratum is divided alike; what is left over when
    its rows do not divide evenly is carried to the next stratum, so that the splits have their size. Every stratum
    keeps at least one unit in train, and from five rows on no split stays empty.
    """
    units = _units(records)
    by_stratum: dict[str, list[list[int]]] = defaultdict(list)
    for unit in units:
        by_stratum[str(strata[unit[0]])].append(unit)
    generator = np.random.default_rng([seed, len(records)])
    waiting = {
        name: [by_stratum[name][place] for place in generator.permutation(len(by_stratum[name]))]
        for name in sorted(by_stratum)
    }
    parts: dict[str, list[int]] = {"train": []}
    for split, share in shares.items():
        taken: list[int] = []
        carried = 0.0
        for name in sorted(waiting):
            rows = sum(len(unit) for unit in by_stratum[name])
            carried += share * rows
            left: list[list[int]] = []
            for unit in reversed(waiting[name]):
                last = not left and unit is waiting[name][0]
                if carried >= 0.5 and len(unit) <= carried + 0.5 and not last:
                    carried -= len(unit)
                    taken += unit
                else:
                    left.append(unit)
            waiting[name] = left[::-1]
        if not taken and share > 0 and len(records) >= 5:
            largest = max(waiting, key=lambda name: len(waiting[name]))
            if len(waiting[largest]) > 1:
                smallest = min(waiting[largest], key=len)
                waiting[largest].remove(smallest)
                taken += smallest
        parts[split] = sorted(taken)
    parts["train"] = sorted(place for units_left in waiting.values() for unit in units_left for place in unit)
    return parts


def _units(records: Sequence[Record]) -> list[list[int]]:
    """Places of rows that must stay together, found by joining equal texts and equal groups."""
    leader = list(range(len(records)))

    def find(place: int) -> int:
        while leader[place] != place:
            leader[place] = leader[leader[place]]
            place = leader[place]
        return place

    first: dict[object, int] = {}
    for place, record in enumerate(records):
        keys: list[object] = [text_key(record)]
        if record.group is not None:
            keys.append(("group", record.group))
        for key in keys:
            leader[find(place)] = find(first.setdefault(key, place))
    units: dict[int, list[int]] = defaultdict(list)
    for place in range(len(records)):
        units[find(place)].append(place)
    return list(units.values())
