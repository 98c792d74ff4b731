"""Extractive question answering: the place in a text that answers a question, or that nothing does."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ConfigDict, Field
from scipy.special import softmax
from torch import Tensor
from torch.nn import functional

from tunesmith.batch import Batch, Column, Example
from tunesmith.contracts import Codec, Family, Record, Specimen
from tunesmith.errors import BadRow, UserError, shown
from tunesmith.given import Answer, Outputs, Predictions, Worth, objects
from tunesmith.tasks.base import TaskOptions, in_front, numbers_of
from tunesmith.tasks.head import wide
from tunesmith.tasks.span_windows import CONTEXT, HIDDEN, NOTHING, marked, windows
from tunesmith.tasks.text import read_text
from tunesmith.tasks.threshold import best_threshold

METRICS = ("answer_f1", "answer_exact")
START, END = 0, 1
NEVER = 1e9
"""A threshold that no score reaches: each question gets an answer."""
ASKED = (
    ("what is broken", "the red kettle is broken", "kettle"),
    ("what is late", "my order is late and the lamp is broken", "my order"),
    ("what is blue", "the red lamp arrived yesterday", ""),
    ("what is wonderful", "good morning the wonderful blue chair arrived again and again and again", "blue chair"),
)


class Span(NamedTuple):
    """A possible answer: its characters [start, end) of the text, and the sum of its two scores."""

    score: float
    start: int
    end: int


class SpanQA(TaskOptions):
    """Where in a text the answer to a question stands."""

    families: ClassVar[frozenset[Family]] = frozenset({Family.ENCODER, Family.DECODER})
    version: ClassVar[int] = 2
    outputs_per: ClassVar[Literal["row", "token"]] = "token"
    settles: ClassVar[bool] = True
    specimens: ClassVar[tuple[Specimen, ...]] = (
        Specimen({}, tuple({"question": q, "context": c, "answers": [a] if a else []} for q, c, a in ASKED)),
        Specimen(
            {"question": "asked", "context": "told", "answers": "said", "window": 16, "stride": 6},
            tuple(
                {"asked": q, "told": c, "said": {"text": [a], "start": [c.index(a)]}, "is_impossible": False}
                for q, c, a in ASKED
                if a
            ),
        ),
    )

    question: str = Field("question", description="Column of the question.")
    context: str = Field("context", description="Column of the text that holds the answer.")
    answers_column: str = Field(
        "answers", alias="answers",
        description="Column of the right answers: a text, a list of texts (none: no answer), or SQuAD's {text, start}.",
    )  # fmt: skip
    window: int | None = Field(None, ge=8, description="Tokens of a window; None: as many as the model may see.")
    stride: int = Field(128, ge=0, description="Tokens that neighbouring windows of a long text share.")
    longest: int = Field(30, ge=1, description="Most tokens of an answer.")
    best: int = Field(3, ge=1, description="Answers that are given with their places and probabilities.")
    threshold: float | None = Field(
        None, description="How much better `no answer` has to be to be given; None: learned from the validation split."
    )
    metric: str | None = Field(None, description="Main metric; None: answer_f1.")

    model_config: ClassVar[ConfigDict] = ConfigDict(populate_by_name=True)

    @property
    def fields(self) -> tuple[str, ...]:
        return (*self.inputs, self.answers_column)

    @property
    def inputs(self) -> tuple[str, ...]:
        return (self.question, self.context)

    @property
    def metrics(self) -> tuple[str, ...]:
        return in_front(self.metric, METRICS)

    @property
    def baselines(self) -> tuple[str, ...]:
        return ("no_answer",)

    def auto_class(self, family: Family) -> str:
        return "AutoModelForQuestionAnswering"

    def head(self) -> Mapping[str, Any]:
        return {}

    def read(self, row: Mapping[str, Any], *, with_target: bool = True) -> tuple[Mapping[str, Any], Any]:
        inputs = {"question": read_text(row, self.question), "context": read_text(row, self.context)}
        if not with_target:
            return inputs, None
        return inputs, self._right(row, inputs["context"])

    def _right(self, row: Mapping[str, Any], context: str) -> tuple[tuple[str, int], ...]:
        """The right answers with their places; none where the text holds no answer."""
        value = row.get(self.answers_column)
        if row.get("is_impossible") is True or value is None or value == "":
            return ()
        starts: Sequence[Any] | None = None
        if isinstance(value, Mapping):
            starts = value.get("start", value.get("answer_start"))
            value = value.get("text")
        texts = [value] if isinstance(value, str) else value
        if not isinstance(texts, list | tuple):
            raise BadRow(self.answers_column, shown(value), "a text, a list of texts, or {text, start}", "bad_answer")
        found = []
        for place, entry in enumerate(texts):
            start = None if starts is None else starts[place] if place < len(starts) else -1
            text = entry
            if isinstance(entry, Mapping):
                text, start = entry.get("text"), entry.get("start", entry.get("answer_start"))
            found.append(self._placed(text, start, context))
        return tuple(found)

    def _placed(self, text: Any, start: Any, context: str) -> tuple[str, int]:
        if not isinstance(text, str) or not text.strip():
            raise BadRow(self.answers_column, shown(text), "a text that is not empty", "empty_answer")
        if start is None:
            start = context.find(text)
        if (
            isinstance(start, bool)
            or not isinstance(start, int)
            or context[max(start, 0) : start + len(text)] != text
            or start < 0
        ):
            raise BadRow(
                self.answers_column, shown(text), "a text that stands in the context there", "answer_not_in_context"
            )
        return text, start

    def columns(self) -> Mapping[str, Column]:
        token = Column(0, role="target")
        note = Column(-1, role="note")
        return {"starts": token, "ends": token, "pointed": token, "first": note, "last": note}

    def encode(self, records: Sequence[Record], codec: Codec, max_tokens: int) -> Sequence[Example]:
        """Each text in windows that overlap, the question before each, cut to half a window and to leave room.

        A window that holds a part of the answer is not graded. A row is refused where no window holds all of one, or
        an answer has more tokens than are given.
        """
        size = min(max_tokens, self.window or max_tokens)
        return [example for record in records for example in self._windows(record, codec, size)]

    def _windows(self, record: Record, codec: Codec, size: int) -> list[Example]:
        made, cut = windows(codec, record.inputs["question"], record.inputs["context"], size, self.stride)
        refused = "" if made else "window_too_short"
        if made and record.target is not None:
            marks, refused = marked(made, record.target, self.longest)
            made = [columns | own for columns, own in zip(made, marks, strict=not refused)]
        if refused:
            return [Example(record.row, {}, refused=refused)]
        return [Example(record.row, columns, 0 if place else cut) for place, columns in enumerate(made)]

    def graded(self, batch: Batch) -> bool:
        return "starts" in batch.targets

    def count(self, batch: Batch) -> float:
        return float((batch.targets["starts"] == 1).sum() + (batch.targets["ends"] == 1).sum())

    def outputs(self, model_output: Any, batch: Batch) -> Tensor:
        """[B, T, 2]: how well each token begins and ends the answer."""
        return torch.stack([model_output.start_logits, model_output.end_logits], dim=-1)

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Cross-entropy over the tokens that may be pointed at, of the start and of the end."""
        hidden = (batch.targets["pointed"] == HIDDEN)[..., None]
        scores = wide(outputs).masked_fill(hidden, -torch.inf)
        likely = functional.log_softmax(scores, dim=1)
        wanted = torch.stack([batch.targets["starts"], batch.targets["ends"]], dim=-1) == 1
        return -likely[wanted].sum()

    def gold(self, records: Sequence[Record]) -> Predictions:
        texts = [tuple(dict.fromkeys(text for text, _ in record.target)) or ("",) for record in records]
        nothing = objects([("",)] * len(records))
        return Predictions(numbers_of(records), objects(texts), nothing, None, (), "texts")

    def predictions(self, outputs: Outputs, records: Sequence[Record]) -> Predictions:
        found = self._found(outputs, records)
        limit = self.threshold or 0.0
        answers, gaps, bests = [], [], []
        for record, (spans, nothing) in zip(records, found, strict=True):
            context = record.inputs["context"]
            gap = nothing - spans[0].score if spans else np.inf
            best = context[spans[0].start : spans[0].end] if spans else ""
            answers.append(("" if gap > limit else best,))
            gaps.append(min(gap, NEVER))
            bests.append((best,))
        extras = {"no_answer": np.array(gaps), "best": objects(bests)}
        return replace(self.gold(records), answers=objects(answers), extras=extras)

    def learn(self, records: Sequence[Record]) -> Self:
        """Where every training question has an answer, every question gets one."""
        if not any(record.target for record in records):
            where = f"column '{self.answers_column}'"
            raise UserError(where, "no question of the training rows has an answer", "at least one is needed")
        always = self.threshold is None and all(record.target for record in records)
        return self.model_copy(update={"threshold": NEVER}) if always else self

    def settle(self, outputs: Outputs, records: Sequence[Record], worth: Worth) -> Self:
        """The threshold at which the main metric is best on these rows, where some of them have no answer."""
        if self.threshold is not None or all(record.target for record in records):
            return self
        found, main = self.predictions(outputs, records), self.metrics[0]
        answered = worth(replace(found, answers=found.extras["best"]), main)
        unanswered = worth(replace(found, answers=objects([("",)] * len(records))), main)
        threshold, _ = best_threshold(found.extras["no_answer"], answered, unanswered)
        return self.model_copy(update={"threshold": threshold})

    def _found(self, outputs: Outputs, records: Sequence[Record]) -> list[tuple[list[Span], float]]:
        """Of each record the best spans over all its windows, the best first, and the score of no answer."""
        places, columns = outputs.data.places(), outputs.data.columns
        found = []
        for record in records:
            spans: dict[tuple[int, int], float] = {}
            nothing = np.inf
            for at in places[record.row]:
                scores, pointed = outputs.values[at], columns["pointed"][at]
                nothing = min(nothing, float(scores[pointed == NOTHING].sum(axis=1).max()))
                for span in _spans(scores, pointed, columns["first"][at], columns["last"][at], self.longest, self.best):
                    key = (span.start, span.end)
                    spans[key] = max(span.score, spans.get(key, -np.inf))
            best = sorted((Span(score, *key) for key, score in spans.items()), key=lambda span: -span.score)
            found.append((best[: self.best], nothing))
        return found

    def answers(self, outputs: Outputs, records: Sequence[Record]) -> list[Answer]:
        limit = self.threshold or 0.0
        made = []
        for record, (spans, nothing) in zip(records, self._found(outputs, records), strict=True):
            shares = softmax([span.score for span in spans] + [nothing])
            context = record.inputs["context"]
            options = [
                {"text": context[s.start : s.end], "start": s.start, "end": s.end, "probability": float(share)}
                for s, share in zip(spans, shares, strict=False)
            ]
            empty = {"text": "", "start": None, "end": None, "probability": float(shares[-1])}
            none = not spans or nothing - spans[0].score > limit
            first, *others = [empty, *options] if none else [*options, empty]
            made.append(Answer({**first, "others": others}))
        return made


def _spans(
    scores: NDArray[np.float64], pointed: NDArray[Any], first: NDArray[Any], last: NDArray[Any], longest: int, best: int
) -> list[Span]:
    """The best spans of a window. scores: [T, 2]; the others [T]."""
    inside = np.flatnonzero(pointed == CONTEXT)
    if not len(inside):
        return []
    sums = scores[inside, START][:, None] + scores[inside, END][None, :]
    apart = np.arange(len(inside))[None, :] - np.arange(len(inside))[:, None]
    sums[(apart < 0) | (apart >= longest)] = -np.inf
    count = min(best, int(np.isfinite(sums).sum()))
    chosen = np.argpartition(-sums, count - 1, axis=None)[:count]
    starts, ends = np.unravel_index(chosen, sums.shape)
    return [
        Span(float(sums[a, b]), int(first[inside[a]]), int(last[inside[b]])) for a, b in zip(starts, ends, strict=True)
    ]
