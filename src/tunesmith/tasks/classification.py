"""Classification of a text or a pair of texts: one label a row, or any number of them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, field_validator, model_validator
from scipy.special import expit, softmax
from torch import Tensor
from torch.nn import functional

from tunesmith.batch import Batch, Column, Example
from tunesmith.contracts import Codec, Family, Record, Specimen
from tunesmith.errors import BadRow, UserError, shown
from tunesmith.given import Answer, Outputs, PredictionKind, Predictions
from tunesmith.tasks.base import TaskOptions, in_front, numbers_of
from tunesmith.tasks.head import AUTO_CLASS, FAMILIES, wide
from tunesmith.tasks.labels import label_name, labels_of, unknown_label
from tunesmith.tasks.text import encode_texts, examples, read_texts

SINGLE_METRICS = ("accuracy", "macro_f1", "micro_f1", "weighted_f1", "mcc", "roc_auc", "log_loss")
MULTI_METRICS = ("micro_f1", "macro_f1", "samples_f1", "exact_match", "hamming_loss", "average_precision", "roc_auc")

LATE = ("where is my parcel", "the parcel is late", "still no parcel today", "my order never arrived")
BROKEN = ("the lamp is broken", "the kettle came broken", "a broken chair again", "broken on arrival, sadly")
THANKS = ("thank you, wonderful", "what kind people", "great shop, thank you", "quick and kind, thanks")


class Classification(TaskOptions):
    """Which label a text has."""

    families: ClassVar[frozenset[Family]] = FAMILIES
    version: ClassVar[int] = 1
    specimens: ClassVar[tuple[Specimen, ...]] = (
        Specimen(
            {},
            tuple(
                {"text": text, "label": label}
                for label, texts in (("late", LATE), ("broken", BROKEN), ("thanks", THANKS))
                for text in texts
            ),
        ),
        Specimen(
            {"text": "said", "text_b": "meant", "label": "same"},
            tuple({"said": a, "meant": b, "same": True} for a, b in zip(LATE, reversed(LATE), strict=True))
            + tuple({"said": a, "meant": b, "same": False} for a, b in zip(BROKEN, THANKS, strict=True)),
        ),
        Specimen(
            {"label": "labels", "multi_label": True},
            tuple({"text": text, "labels": ["late"]} for text in LATE)
            + tuple({"text": f"{a}, {b}", "labels": ["broken", "late"]} for a, b in zip(BROKEN, LATE, strict=True))
            + tuple({"text": text, "labels": []} for text in THANKS),
        ),
    )

    text: str = Field("text", description="Column of the text.")
    text_b: str | None = Field(None, description="Column of the second text, for pairs.")
    label: str = Field("label", description="Column of the label; of a list of labels with `multi_label`.")
    multi_label: bool = Field(False, description="A row may have any number of labels, also none.")
    separator: str = Field(
        ",", min_length=1, description="Divides the labels of a row where a file can hold only text."
    )
    labels: tuple[str, ...] | None = Field(
        None, description="All label names, in order; None: those of the training rows, sorted."
    )
    metric: str | None = Field(None, description="Main metric; None: accuracy, or micro_f1 with `multi_label`.")
    balance: Literal["none", "weights", "sampler"] = Field(
        "none",
        description="Make rare labels count as much as frequent ones: by `weights` in the loss, or by a `sampler`.",
    )
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="Share of each target that is spread over all labels.")
    threshold: float = Field(
        0.5, gt=0, lt=1, description="Probability from which a label is given, with `multi_label`."
    )
    weights: tuple[float, ...] | None = Field(
        None, description="Weight of each label in the loss; learned with `balance: weights`."
    )

    @field_validator("labels")
    @classmethod
    def _distinct(cls, labels: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if labels is not None and (not labels or len(set(labels)) < len(labels)):
            raise ValueError("labels must be named, each once; leave the key out to take those of the rows")
        return labels

    @field_validator("weights")
    @classmethod
    def _positive(cls, weights: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if weights is not None and not all(weight > 0 for weight in weights):
            raise ValueError("each weight must be above 0")
        return weights

    @model_validator(mode="after")
    def _has_effect(self) -> Self:
        for key in ("threshold", "separator"):
            if not self.multi_label and getattr(self, key) != type(self).model_fields[key].default:
                raise ValueError(f"{key}: has no effect without multi_label, where a row has one label")
        return self

    @property
    def fields(self) -> tuple[str, ...]:
        return (*self.inputs, self.label)

    @property
    def metrics(self) -> tuple[str, ...]:
        known = MULTI_METRICS if self.multi_label else SINGLE_METRICS
        return in_front(self.metric, known)

    @property
    def baselines(self) -> tuple[str, ...]:
        return ("majority", "tfidf_logistic")

    @property
    def label_names(self) -> tuple[str, ...]:
        """The labels in the order of the model's outputs. Raises ValueError before `learn`."""
        if self.labels is None:
            raise ValueError("the labels are not known before `learn`")
        return self.labels

    @property
    def inputs(self) -> tuple[str, ...]:
        return (self.text,) if self.text_b is None else (self.text, self.text_b)

    def auto_class(self, family: Family) -> str:
        return AUTO_CLASS

    def read(self, row: Mapping[str, Any], *, with_target: bool = True) -> tuple[Mapping[str, Any], Any]:
        inputs = read_texts(row, self.inputs)
        if not with_target:
            return inputs, None
        value = row.get(self.label)
        return inputs, self._several(value) if self.multi_label else label_name(value, self.label)

    def _several(self, value: Any) -> tuple[str, ...]:
        if isinstance(value, str):
            value = [part for part in value.split(self.separator) if part.strip()]
        if not isinstance(value, list | tuple):
            raise BadRow(self.label, shown(value), "a list of labels", "bad_label")
        return tuple(dict.fromkeys(label_name(part, self.label) for part in value))

    def learn(self, records: Sequence[Record]) -> Self:
        counts = Counter(name for record in records for name in self._names(record))
        labels = labels_of(counts, self.labels, self.label, least=1 if self.multi_label else 2)
        if self.weights is not None and len(self.weights) != len(labels):
            raise UserError("task.weights", f"{len(self.weights)} weights for {len(labels)} labels", "give one a label")
        changes: dict[str, Any] = {"labels": labels}
        if self.balance == "weights" and self.weights is None:
            changes["weights"] = tuple(self._balancing(counts, labels, len(records)))
        return self.model_copy(update=changes)

    def _balancing(self, counts: Counter[str], labels: Sequence[str], rows: int) -> list[float]:
        if self.multi_label:
            return [(rows - counts[name]) / counts[name] if 0 < counts[name] < rows else 1.0 for name in labels]
        return [rows / (len(labels) * counts[name]) if counts[name] else 1.0 for name in labels]

    def _names(self, record: Record) -> tuple[str, ...]:
        return tuple(record.target) if self.multi_label else (record.target,)

    def check(self, record: Record) -> None:
        for name in self._names(record):
            if name not in self.label_names:
                raise unknown_label(self.label, name, self.label_names)

    def head(self) -> Mapping[str, Any]:
        return {
            "num_labels": len(self.label_names),
            "id2label": dict(enumerate(self.label_names)),
            "label2id": {name: place for place, name in enumerate(self.label_names)},
            "problem_type": "multi_label_classification" if self.multi_label else "single_label_classification",
        }

    def columns(self) -> Mapping[str, Column]:
        return {"labels": Column(0, per="row", role="target")}

    def encode(self, records: Sequence[Record], codec: Codec, max_tokens: int) -> Sequence[Example]:
        tokens, cut = encode_texts(records, codec.tokenizer, max_tokens)
        graded = all(record.target is not None for record in records)
        return examples(records, tokens, cut, self._gold(records).tolist() if graded else None)

    def _gold(self, records: Sequence[Record]) -> NDArray[np.int64]:
        """[N, 1] label numbers, or [N, L] of 0 and 1."""
        place = {name: number for number, name in enumerate(self.label_names)}
        if not self.multi_label:
            return np.array([[place[record.target]] for record in records], dtype=np.int64)
        gold = np.zeros((len(records), len(place)), dtype=np.int64)
        for row, record in enumerate(records):
            for name in record.target:
                gold[row, place[name]] = 1
        return gold

    def stratum(self, record: Record) -> str | None:
        return None if self.multi_label else str(record.target)

    def weigh(self, records: Sequence[Record]) -> Sequence[float] | None:
        if self.balance != "sampler":
            return None
        counts = Counter(name for record in records for name in self._names(record))
        return [
            max((1.0 / counts[name] for name in self._names(record)), default=1.0 / len(records)) for record in records
        ]

    def count(self, batch: Batch) -> float:
        labels = batch.targets["labels"]
        if self.multi_label or self.weights is None:
            return float(labels.numel())
        return float(torch.tensor(self.weights, dtype=torch.float64)[labels[:, 0].cpu()].sum())

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        logits, labels = wide(outputs), batch.targets["labels"]
        weights = None if self.weights is None else torch.tensor(self.weights, dtype=logits.dtype, device=logits.device)
        if not self.multi_label:
            return functional.cross_entropy(
                logits, labels[:, 0], weight=weights, reduction="sum", label_smoothing=self.label_smoothing
            )
        targets = labels.to(logits.dtype) * (1 - self.label_smoothing) + self.label_smoothing / 2
        return functional.binary_cross_entropy_with_logits(logits, targets, pos_weight=weights, reduction="sum")

    def gold(self, records: Sequence[Record]) -> Predictions:
        gold = self._gold(records)
        kept = gold if self.multi_label else gold[:, 0]
        scores = np.zeros((len(records), len(self.label_names)))
        kind: PredictionKind = "labels" if self.multi_label else "label"
        return Predictions(numbers_of(records), kept, np.zeros_like(kept), scores, self.label_names, kind)

    def predictions(self, outputs: Outputs, records: Sequence[Record]) -> Predictions:
        wanted = self.gold(records)
        scores = self._scores(np.stack(outputs.values)) if len(records) else np.zeros((0, len(self.label_names)))
        answers = (scores >= self.threshold).astype(np.int64) if self.multi_label else scores.argmax(axis=-1)
        return replace(wanted, answers=answers, scores=scores)

    def _scores(self, outputs: NDArray[Any]) -> NDArray[np.float64]:
        logits = outputs.astype(np.float64)
        scores: NDArray[np.float64] = expit(logits) if self.multi_label else softmax(logits, axis=-1)
        return scores

    def answers(self, outputs: Outputs, records: Sequence[Record]) -> list[Answer]:
        return [self._answer(row) for row in outputs.values]

    def _answer(self, outputs: NDArray[Any]) -> Answer:
        scores = dict(zip(self.label_names, self._scores(outputs).tolist(), strict=True))
        if self.multi_label:
            return Answer([name for name, score in scores.items() if score >= self.threshold], scores)
        return Answer(max(scores, key=lambda name: scores[name]), scores)
