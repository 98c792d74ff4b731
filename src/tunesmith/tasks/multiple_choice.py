"""Which of several answers is right: a score each from an encoder's head, or how likely a decoder finds each."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from scipy.special import softmax
from torch import Tensor
from torch.nn import functional

from tunesmith.batch import IGNORED, PIECES, Batch, Column, Example
from tunesmith.contracts import Codec, Family, Record, Specimen
from tunesmith.errors import BadRow, shown
from tunesmith.given import Answer, Outputs, Predictions
from tunesmith.tasks.base import TaskOptions, in_front, numbers_of
from tunesmith.tasks.graded import NLL, TARGETS, next_tokens, token_sums
from tunesmith.tasks.head import wide
from tunesmith.tasks.replies import plain_ids
from tunesmith.tasks.text import read_text

AUTO_CLASSES = {Family.ENCODER: "AutoModelForMultipleChoice", Family.DECODER: "AutoModelForCausalLM"}
METRICS = ("accuracy", "log_loss")
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
FRAME = "{question}\nAnswer:"
ASKED = (
    ("is the kettle broken", ("yes", "good morning"), 0),
    ("thank you kind shop", ("cancel", "my order", "thank you"), 2),
    ("where is my parcel", ("the red lamp", "late", "blue chair", "now"), 1),
)


class MultipleChoice(TaskOptions):
    """The right one of any number of answers to a question, which may have a text to it."""

    families: ClassVar[frozenset[Family]] = frozenset(AUTO_CLASSES)
    version: ClassVar[int] = 2
    untuned: ClassVar[bool] = False
    specimens: ClassVar[tuple[Specimen, ...]] = (
        Specimen({}, tuple({"question": q, "choices": list(c), "answer": a} for q, c, a in ASKED)),
        Specimen(
            {"question": "asked", "context": "told", "choices": ["one", "two"], "answer": "right", "normalise": "none"},
            tuple({"asked": q, "told": "my shop", "one": c[0], "two": c[1], "right": "AB"[a % 2]} for q, c, a in ASKED),
        ),
    )

    question: str = Field("question", description="Column of the question, or of the text to go on from.")
    context: str | None = Field(None, description="Column of a text that the question is about.")
    choices: str | tuple[str, ...] = Field(
        "choices",
        description="Column of the list of answers, or of {text, label} with a list each; or a list of columns with an "
        "answer each.",
    )
    answer: str = Field(
        "answer",
        description="Column of the right answer: its label where `choices` has labels; else its place, counted from 0, "
        "its letter, or its text.",
    )
    frame: str = Field(FRAME, description="What stands before each answer for a decoder; `{question}` is replaced.")
    normalise: Literal["tokens", "none"] = Field(
        "tokens", description="A decoder's score of an answer: the mean over its tokens, or `none`: their sum."
    )
    metric: str | None = Field(None, description="Main metric; None: accuracy.")

    @property
    def fields(self) -> tuple[str, ...]:
        return (*self.inputs, self.answer)

    @property
    def inputs(self) -> tuple[str, ...]:
        columns = (self.choices,) if isinstance(self.choices, str) else self.choices
        return (*([] if self.context is None else [self.context]), self.question, *columns)

    @property
    def metrics(self) -> tuple[str, ...]:
        return in_front(self.metric, METRICS)

    @property
    def baselines(self) -> tuple[str, ...]:
        return ("majority",)

    def auto_class(self, family: Family) -> str:
        return AUTO_CLASSES[family]

    def head(self) -> Mapping[str, Any]:
        return {}

    def read(self, row: Mapping[str, Any], *, with_target: bool = True) -> tuple[Mapping[str, Any], Any]:
        inputs: dict[str, Any] = {}
        if self.context is not None:
            inputs["context"] = read_text(row, self.context)
        inputs["question"] = read_text(row, self.question)
        inputs["choices"] = choices = self._choices(row)
        if not with_target:
            return inputs, None
        right = self._right(row.get(self.answer), choices, self._labels(row, choices))
        if choices.count(choices[right]) > 1:
            what = f"{shown(choices[right])}, which is offered more than once"
            raise BadRow(self.answer, what, "an answer unlike all others", "same_choices")
        return inputs, right

    def _choices(self, row: Mapping[str, Any]) -> tuple[str, ...]:
        if not isinstance(self.choices, str):
            return tuple(read_text(row, column) for column in self.choices)
        found = row.get(self.choices)
        if isinstance(found, Mapping):
            found = found.get("text")
        if not isinstance(found, list | tuple) or len(found) < 2:
            expected = "a list of at least two answers, or {text, label} with a list each"
            raise BadRow(self.choices, shown(row.get(self.choices)), expected, "bad_choices")
        return tuple(read_text({self.choices: text}, self.choices) for text in found)

    def _labels(self, row: Mapping[str, Any], choices: Sequence[str]) -> tuple[str, ...] | None:
        """What the row calls its answers, as ARC does ("A", or "1"); None where it does not."""
        held = row.get(self.choices) if isinstance(self.choices, str) else None
        found = held.get("label") if isinstance(held, Mapping) else None
        if found is None:
            return None
        labels = tuple(map(str, found)) if isinstance(found, list | tuple) else ()
        if len(labels) != len(choices) or len(set(labels)) < len(labels):
            raise BadRow(
                f"{self.choices}.label", shown(found), f"a label for each of {len(choices)} answers", "bad_choices"
            )
        return labels

    def _right(self, value: Any, choices: Sequence[str], labels: Sequence[str] | None) -> int:
        """The place of the right answer."""
        if labels is not None:
            if isinstance(value, bool) or not isinstance(value, str | int) or str(value) not in labels:
                known = ", ".join(map(shown, labels))
                raise BadRow(self.answer, shown(value), f"one of the labels {known}", "bad_answer")
            return labels.index(str(value))
        said = "" if isinstance(value, bool) or not isinstance(value, str | int) else str(value)
        found = {choices.index(said)} if said in choices else set()
        found |= {place for place in _places(said.strip()) if place < len(choices)}
        if len(found) == 1:
            return found.pop()
        letters = f"letter (A to {LETTERS[min(len(choices), len(LETTERS)) - 1]})"
        places = f"place (0 to {len(choices) - 1}, counted from 0)"
        if found:
            what = f"{shown(value)}, which is the text of one answer and the place or letter of another"
            raise BadRow(
                self.answer, what, f"what names one answer alone: its {letters} or {places}", "ambiguous_answer"
            )
        expected = f"the text of one of the {len(choices)} answers, its {letters} or its {places}"
        raise BadRow(self.answer, shown(value), expected, "bad_answer")

    def columns(self) -> Mapping[str, Column]:
        return {
            "right": Column(0, per="row", role="target"),
            "labels": Column(IGNORED, per="token", role="target"),
        }

    def encode(self, records: Sequence[Record], codec: Codec, max_tokens: int) -> Sequence[Example]:
        """Each answer behind its question, as sequences of their own; of one that is too long the question loses its
        start (a decoder) or its end, and an encoder's answer its own where nothing is left of that.

        A row is refused where a decoder's answer does not fit, or the right answer is read as another one is.
        """
        return [self._example(record, codec, max_tokens) for record in records]

    def _example(self, record: Record, codec: Codec, max_tokens: int) -> Example:
        pieces = [self._piece(record, choice, codec, max_tokens) for choice in record.inputs["choices"]]
        read = [list(columns["input_ids"]) for columns, _ in pieces]
        if any(len(ids) > max_tokens for ids in read):
            return Example(record.row, {}, refused="answer_too_long")
        columns: dict[str, Sequence[float]] = {
            name: [value for columns, _ in pieces for value in columns[name]] for name in pieces[0][0]
        }
        columns[PIECES] = [len(ids) for ids in read]
        if record.target is not None:
            if read.count(read[record.target]) > 1:
                return Example(record.row, {}, refused="choices_read_alike")
            columns["right"] = [record.target]
        return Example(record.row, columns, max(cut for _, cut in pieces))

    def _piece(
        self, record: Record, choice: str, codec: Codec, max_tokens: int
    ) -> tuple[dict[str, Sequence[float]], int]:
        """One answer behind the question, and how many tokens of it were cut; a decoder's answer never is."""
        tokenizer = codec.tokenizer
        asked = "\n".join(str(record.inputs[name]) for name in ("context", "question") if name in record.inputs)
        if codec.family is Family.ENCODER:
            more = {"truncation": "only_first", "max_length": max_tokens}
            size = len(tokenizer(asked, choice, split_special_tokens=True, verbose=False)["input_ids"])
            if size - len(plain_ids(tokenizer, asked)) >= max_tokens:
                more["truncation"] = "longest_first"
            found = tokenizer(
                asked, choice, return_attention_mask=False, split_special_tokens=True, verbose=False, **more
            )
            kept = {name: list(found[name]) for name in ("input_ids", "token_type_ids") if name in found}
            return kept, max(0, size - max_tokens)  # type: ignore[return-value]
        answer = plain_ids(tokenizer, f" {choice}")
        frame = self.frame.replace("{question}", asked)
        prompt = list(tokenizer(frame, split_special_tokens=True, verbose=False)["input_ids"])
        if len(prompt) > 1 and prompt[-1] == tokenizer.eos_token_id:
            prompt = prompt[:-1]
        kept_prompt = prompt[max(0, min(len(prompt) - 1, len(prompt) + len(answer) - max_tokens)) :]
        ids = [*kept_prompt, *answer]
        labels = next_tokens(ids, [False] * len(kept_prompt) + [True] * len(answer))
        return {"input_ids": ids, "labels": labels}, len(prompt) - len(kept_prompt)

    def arguments(self, batch: Batch) -> Mapping[str, Tensor]:
        """An encoder's head takes the sequences of each row along an axis of their own, here always one long."""
        if "labels" in batch.targets:
            return batch.inputs
        return {name: tensor[:, None] for name, tensor in batch.inputs.items()}

    def graded(self, batch: Batch) -> bool:
        return "right" in batch.targets

    def count(self, batch: Batch) -> float:
        return float(len(batch.pieces))

    def outputs(self, model_output: Any, batch: Batch) -> Tensor:
        """[S] a score a sequence."""
        if "labels" not in batch.targets:
            return wide(model_output.logits)[:, 0]
        sums = token_sums(model_output.logits, batch.targets["labels"])
        return -sums[:, NLL] / (sums[:, TARGETS].clamp(min=1) if self.normalise == "tokens" else 1.0)

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        rows = torch.split(outputs, list(batch.pieces))
        right = batch.targets["right"][:, 0]
        found = [functional.cross_entropy(row[None], place[None]) for row, place in zip(rows, right, strict=True)]
        return torch.stack(found).sum()

    def gold(self, records: Sequence[Record]) -> Predictions:
        gold = np.array([record.target for record in records], dtype=np.int64)
        most = max((len(record.inputs["choices"]) for record in records), default=0)
        labels = tuple(LETTERS[place] if place < len(LETTERS) else str(place) for place in range(most))
        return Predictions(numbers_of(records), gold, np.zeros_like(gold), np.zeros((len(records), most)), labels)

    def predictions(self, outputs: Outputs, records: Sequence[Record]) -> Predictions:
        wanted = self.gold(records)
        scores = np.zeros((len(records), len(wanted.labels)))
        for place, row in enumerate(outputs.values):
            scores[place, : len(row)] = self._shares(row)
        return replace(wanted, answers=scores.argmax(axis=1), scores=scores)

    def _shares(self, row: NDArray[np.float64]) -> NDArray[np.float64]:
        found: NDArray[np.float64] = softmax(row)
        return found

    def answers(self, outputs: Outputs, records: Sequence[Record]) -> list[Answer]:
        """The scores in the order of the answers; one that stands there again is told from the first by its place."""
        found = []
        for row, record in zip(outputs.values, records, strict=True):
            choices, shares = record.inputs["choices"], self._shares(row).tolist()
            scores: dict[str, float] = {}
            for place, (choice, share) in enumerate(zip(choices, shares, strict=True)):
                scores[f"{choice} [{place}]" if choice in scores else choice] = share
            found.append(Answer(choices[int(np.argmax(shares))], scores))
        return found


def _places(said: str) -> set[int]:
    """The place that a number or a letter names."""
    if said.isascii() and said.isdigit():
        return {int(said)}
    letter = said.upper()
    return {LETTERS.index(letter)} if len(letter) == 1 and letter in LETTERS else set()
