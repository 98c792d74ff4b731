"""Sentences with gaps: filled with a row's texts and a word, and cut into tokens as a whole."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

GAP = re.compile(r"\{(\w+)\}")
LABEL = "label"


@dataclass(frozen=True)
class Template:
    """parts: plain texts and, between them, the names of gaps, in turn; the first and the last are texts."""

    parts: tuple[str, ...]

    @classmethod
    def parsed(cls, text: str) -> "Template":
        """The template that a text spells. Raises ValueError where it has no or several gaps for the word, or where
        the word would stand right beside a text, so that both could become one token."""
        parts = tuple(GAP.split(text))
        names = parts[1::2]
        if names.count(LABEL) != 1 or len(set(names)) < len(names):
            raise ValueError(f"template {text!r}: {{label}} must stand in it once, and each text at most once")
        at = 2 * names.index(LABEL) + 1
        if (at > 1 and not parts[at - 1]) or (at + 2 < len(parts) and not parts[at + 1]):
            raise ValueError(f"template {text!r}: something must stand between {{label}} and a text")
        return cls(parts)

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the texts' gaps, in order."""
        return tuple(name for name in self.parts[1::2] if name != LABEL)

    @property
    def label_last(self) -> bool:
        """Whether no text stands behind the word."""
        return self.parts[1::2][-1] == LABEL

    def filled(self, texts: Mapping[str, str], word: str, before: str = "") -> "Filled":
        """The sentence with these texts and this word, behind what stands `before`."""
        whole, spans = before, {}
        for place, part in enumerate(self.parts):
            if place % 2 == 0:
                whole += part
                continue
            piece = word if part == LABEL else texts[part]
            spans[part] = (len(whole), len(whole) + len(piece))
            whole += piece
        return Filled(whole, spans)


@dataclass(frozen=True)
class Filled:
    """A filled sentence. spans: the characters, end excluded, of each text and of the word."""

    text: str
    spans: Mapping[str, tuple[int, int]]

    def tokens(self, tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], slice]:
        """The tokens without control tokens, and which of them are the word's."""
        ids, offsets = self._cut(tokenizer)
        return ids, self._within(offsets, LABEL)

    def _cut(self, tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[tuple[int, int]]]:
        found = tokenizer(
            self.text, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True, verbose=False
        )
        return list(found["input_ids"]), [tuple(pair) for pair in found["offset_mapping"]]

    def _within(self, offsets: list[tuple[int, int]], name: str) -> slice:
        start, end = self.spans[name]
        inside = [n for n, (a, b) in enumerate(offsets) if a < end and b > start and a < b]
        return slice(inside[0], inside[-1] + 1) if inside else slice(0, 0)

    def excess(self, tokenizer: PreTrainedTokenizerBase, most: int) -> int:
        """How many tokens there are beyond `most`."""
        return max(0, len(self._cut(tokenizer)[0]) - most)

    def cut_by(self, tokenizer: PreTrainedTokenizerBase, count: int) -> tuple[list[int], slice] | None:
        """The tokens with so many left out from the ends of the texts, the longest first, and which are the word's.

        None where the texts have not so many.
        """
        ids, offsets = self._cut(tokenizer)
        spot = self._within(offsets, LABEL)
        if spot.stop == spot.start:
            return None
        places = {name: self._within(offsets, name) for name in self.spans if name != LABEL}
        sizes = {name: part.stop - part.start for name, part in places.items()}
        gone: set[int] = set()
        for _ in range(count):
            name = max(sizes, key=lambda key: sizes[key])
            sizes[name] -= 1
            if sizes[name] < 0:
                return None
            gone.add(places[name].start + sizes[name])
        ahead = sum(place < spot.start for place in gone)
        kept = [token for place, token in enumerate(ids) if place not in gone]
        return kept, slice(spot.start - ahead, spot.stop - ahead)
