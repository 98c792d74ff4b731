"""What a model gave for some rows, and what is made of it: outputs, replies, predictions beside what is right, answers.

Shape letters as in `contracts`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from tunesmith.batch import Encoded
    from tunesmith.contracts import Record


@dataclass(frozen=True)
class Reply:
    """A generated text. ids: its tokens, without what ended it. stopped: whether it ended by itself."""

    text: str
    ids: tuple[int, ...]
    stopped: bool


@dataclass(frozen=True)
class Decoding:
    """How texts are generated: `transformers`' terms. temperature 0: greedy, or beams. samples: replies a prompt.

    stop_ids: tokens that end a reply. stop_texts: texts that do. forced: the first token of every reply.
    start: what a decoder behind an encoder begins with, if not as its configuration says. continues: a decoder's
    reply goes on with the text of its prompt, so that white space at its start is part of it.
    """

    max_new_tokens: int
    stop_ids: tuple[int, ...]
    min_new_tokens: int = 0
    beams: int = 1
    length_penalty: float = 1.0
    no_repeat_ngram: int = 0
    repetition_penalty: float = 1.0
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    samples: int = 1
    seed: int = 0
    stop_texts: tuple[str, ...] = ()
    forced: int | None = None
    start: int | None = None
    continues: bool = False


@dataclass(frozen=True)
class Outputs:
    """What a model gave for some rows.

    values: of each example of `data` what the task keeps of a forward pass: [...], or [T, ...] of its tokens, or
    [pieces, ...] of its sequences. replies: of each record, in order, what was generated; None where nothing was.
    parts: of a task of several parts what each had generated, with its rows, by name.
    """

    values: Sequence[NDArray[np.float64]]
    data: Encoded
    replies: Sequence[Sequence[Reply]] | None = None
    parts: Mapping[str, Outputs] = field(default_factory=dict)

    def part(self, number: int, name: str) -> Outputs:
        """What the model gave for the rows of one part of a task, as if it were the whole."""
        if name in self.parts:
            return self.parts[name]
        index = np.flatnonzero(self.data.part_of == number).tolist()
        return Outputs([self.values[place] for place in index], self.data.part(number, name))


PredictionKind = Literal["label", "labels", "numbers", "spans", "texts", "scores", "parts"]


@dataclass(frozen=True)
class Predictions:
    """What a model answered on a split, beside what is right.

    One class a row ("label"): gold, answers [N] int; scores [N, L] probabilities.
    Several labels a row ("labels"): gold, answers [N, L] of 0 and 1; scores [N, L] probabilities.
    Numbers ("numbers"): gold, answers [N, L] float, in the user's units; scores None.
    Spans ("spans"): gold, answers [N] tuples of (start, end, label) in characters.
    Texts ("texts"): gold [N] tuples of right texts, answers [N] tuples of generated ones, the first counts.
    Neither ("scores"): only `extras` are judged.
    Several tasks ("parts"): gold, answers [N] of what each says in the user's terms; `parts` are judged one by one.
    labels: the names of the L classes or targets. rows: [N], each row's number in its split.
    extras: more numbers of each row by name, [N, ...]: what was graded and how surely.
    """

    rows: NDArray[np.int64]
    gold: NDArray[Any]
    answers: NDArray[Any]
    scores: NDArray[np.float64] | None
    labels: tuple[str, ...]
    kind: PredictionKind = "label"
    extras: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    parts: Mapping[str, Predictions] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, index: NDArray[Any]) -> Predictions:
        """The rows at `index`, in that order, repeated where it repeats."""
        scores = None if self.scores is None else self.scores[index]
        extras = {name: values[index] for name, values in self.extras.items()}
        gold, answers = self.gold[index], self.answers[index]
        return replace(self, rows=self.rows[index], gold=gold, answers=answers, scores=scores, extras=extras)


Worth = Callable[[Predictions, str], NDArray[np.float64]]
"""How good each row of predictions is by the metric of that name, [N]; more is better."""


def objects(values: Sequence[Any]) -> NDArray[Any]:
    """[N] of any values, none of them taken apart."""
    out = np.empty(len(values), dtype=object)
    for place, value in enumerate(values):
        out[place] = value
    return out


@dataclass(frozen=True)
class Answer:
    """One row's answer in the user's terms, ready for JSON.

    value: a label's name, a list of names, a number, numbers by target, spans, or a text.
    scores: probability by label. cut: how many tokens of the row were not read.
    """

    value: Any
    scores: Mapping[str, float] = field(default_factory=dict)
    cut: int = 0


def answers_together(
    records: Sequence[Record], parts: Mapping[str, tuple[Sequence[Record], Sequence[Answer]]]
) -> list[Answer]:
    """One answer a record, of what each part of a task answered to its own records: values and scores by part."""
    values: dict[int, dict[str, Any]] = {record.row: {} for record in records}
    scores: dict[int, dict[str, float]] = {record.row: {} for record in records}
    cut = dict.fromkeys(values, 0)
    for name, (asked, answers) in parts.items():
        for record, answer in zip(asked, answers, strict=True):
            values[record.row][name] = answer.value
            scores[record.row] |= {f"{name}/{label}": score for label, score in answer.scores.items()}
            cut[record.row] = max(cut[record.row], answer.cut)
    return [Answer(values[row], scores[row], cut[row]) for row in values]
