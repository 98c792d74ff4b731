"""Named entities: which stretches of a text are what, answered in characters of the text as it was given."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator, model_validator
from scipy.special import log_softmax, softmax
from torch import Tensor
from torch.nn import functional

from tunesmith.batch import IGNORED, Batch, Column, Example
from tunesmith.contracts import Codec, Family, Record, Specimen
from tunesmith.errors import BadRow, UserError, nearest, shown
from tunesmith.given import Answer, Outputs, Predictions, objects
from tunesmith.letters import inside_word
from tunesmith.tasks.base import TaskOptions, in_front, numbers_of
from tunesmith.tasks.head import wide
from tunesmith.tasks.span_rows import read_marks, read_spans, read_tags, read_tokens
from tunesmith.tasks.span_tokens import joined, pieces, spans_from_tokens, token_labels, windows, without_token
from tunesmith.tasks.tags import TAG, Scheme, Span, best_path, tag_names, transitions
from tunesmith.tasks.text import frame, read_text

METRICS = ("entity_f1", "entity_precision", "entity_recall", "entity_macro_f1")
BLUE = ("blue", "chair", "arrived", "yesterday", "and", "is", "broken", "and", "slow", "and", "terrible", "again")
TOLD = (
    ("the [[THING|red kettle]] is broken", 0),
    ("[[TIME|yesterday]] my [[THING|lamp]] arrived and the [[THING|blue chair]] never", 0),
    ("good morning kind shop", 0),
    ("please cancel my order [[TIME|now]], the [[THING|green lamp]] is late and late and late and late", 0),
)


class NER(TaskOptions):
    """The entities in a text."""

    families: ClassVar[frozenset[Family]] = frozenset({Family.ENCODER, Family.DECODER})
    version: ClassVar[int] = 3
    outputs_per: ClassVar[Literal["row", "token"]] = "token"
    specimens: ClassVar[tuple[Specimen, ...]] = (
        Specimen({"text": "said"}, tuple({"said": text} for text, _ in TOLD)),
        Specimen(
            {"window": 12, "stride": 4, "tagging": "IOBES", "valid": True},
            (
                {"tokens": ["the", "red", "lamp", "is", "late"], "tags": ["O", "B-THING", "I-THING", "O", "O"]},
                {"tokens": ["never", "again", "my", "shop"], "tags": ["O", "O", "O", "B-PLACE"]},
                {
                    "tokens": list(BLUE),
                    "tags": ["B-THING", "I-THING", "O", "B-TIME", "O", "O", "O", "O", "O", "O", "O", "B-TIME"],
                },
            ),
        ),
    )

    tokens: str = Field("tokens", description="Column of the list of words, where rows are words with tags.")
    tags: str = Field("tags", description="Column of the list of tags, one a word.")
    tag_names: tuple[str, ...] | None = Field(
        None,
        description="What the tags are called, in order, where rows have their numbers, as hub data sets do in "
        "`ner_tags`: [O, B-PER, I-PER].",
    )
    text: str | None = Field(
        None, description="Column of the text, where rows are texts; without `spans` it holds marks: [[LABEL|words]]."
    )
    spans: str | None = Field(
        None, description="Column of the spans of `text`: {start, end, label} or [start, end, label], in characters."
    )
    scheme: Literal["IOB2", "IOB1", "IOBES", "BILOU", "any"] = Field(
        "IOB2", description="What the tags must follow; `any` mends what follows no scheme, as conlleval does."
    )
    tagging: Literal["IOB2", "IOBES"] = Field("IOB2", description="The scheme that the model learns.")
    valid: bool = Field(False, description="Answer with the likeliest tags that follow the scheme (Viterbi).")
    window: int | None = Field(None, ge=8, description="Tokens of a window; None: as many as the model may see.")
    stride: int = Field(32, ge=0, description="Tokens that neighbouring windows of a long text share.")
    whole_words: bool | None = Field(
        None,
        description="Label words as a whole, by their first token; None: where no span of the training rows begins or "
        "ends inside a word.",
    )
    labels: tuple[str, ...] | None = Field(
        None, description="All labels, in order; None: those of the training rows, sorted."
    )
    metric: str | None = Field(None, description="Main metric; None: entity_f1.")

    @field_validator("tag_names")
    @classmethod
    def _tags(cls, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for name in names or ():
            if not TAG.fullmatch(name):
                raise ValueError(f"{shown(name)} is no tag: O, or one of B- I- E- S- L- U- and a label")
        if names is not None and (not names or len(set(names)) < len(names)):
            raise ValueError("tags must be named, each once; leave the key out where rows hold their names")
        return names

    @model_validator(mode="after")
    def _has_tags(self) -> Self:
        if self.tag_names is not None and self.text is not None:
            raise ValueError("tag_names: has no effect with text, whose rows have no tags")
        return self

    @property
    def fields(self) -> tuple[str, ...]:
        if self.text is None:
            return (self.tokens, self.tags)
        return (self.text,) if self.spans is None else (self.text, self.spans)

    @property
    def inputs(self) -> tuple[str, ...]:
        return (self.tokens if self.text is None else self.text,)

    @property
    def metrics(self) -> tuple[str, ...]:
        return in_front(self.metric, METRICS)

    @property
    def baselines(self) -> tuple[str, ...]:
        return ("phrase_lookup",)

    @property
    def label_names(self) -> tuple[str, ...]:
        """The labels, without what marks a span's parts. Raises ValueError before `learn`."""
        if self.labels is None:
            raise ValueError("the labels are not known before `learn`")
        return self.labels

    @property
    def names(self) -> tuple[str, ...]:
        """The tags in the order of the model's outputs."""
        return tag_names(self.label_names, Scheme(self.tagging))

    @property
    def _whole(self) -> bool:
        return bool(self.whole_words)

    def auto_class(self, family: Family) -> str:
        return "AutoModelForTokenClassification"

    def head(self) -> Mapping[str, Any]:
        return {
            "num_labels": len(self.names),
            "id2label": dict(enumerate(self.names)),
            "label2id": {name: place for place, name in enumerate(self.names)},
        }

    def read(self, row: Mapping[str, Any], *, with_target: bool = True) -> tuple[Mapping[str, Any], Any]:
        if not with_target:
            return {"text": self._text(row)}, None
        if self.text is None:
            scheme = None if self.scheme == "any" else Scheme(self.scheme)
            text, spans = read_tags(row, self.tokens, self.tags, scheme, names=self.tag_names)
        elif self.spans is None:
            text, spans = read_marks(row, self.text)
        else:
            text, spans = read_spans(row, self.text, self.spans)
        return {"text": text}, spans

    def _text(self, row: Mapping[str, Any]) -> str:
        if self.text is not None:
            return read_text(row, self.text)
        found = row.get(self.tokens)
        return read_text(row, self.tokens) if isinstance(found, str) else read_tokens(row, self.tokens)[0]

    def learn(self, records: Sequence[Record]) -> Self:
        counts = Counter(span.label for record in records for span in record.target)
        labels = self.labels or tuple(sorted(counts))
        if not labels:
            raise UserError(f"column '{self.fields[-1]}'", "no entity in the training rows", "at least one is needed")
        whole = self.whole_words
        if whole is None:
            whole = not any(_divides(span, record.inputs["text"]) for record in records for span in record.target)
        return self.model_copy(update={"labels": labels, "whole_words": whole})

    def check(self, record: Record) -> None:
        for span in record.target:
            if span.label not in self.label_names:
                hint = nearest(span.label, self.label_names)
                expected = f"one of {len(self.label_names)} labels; {hint}"
                raise BadRow(self.fields[-1], shown(span.label), expected, "unknown_label")

    def stratum(self, record: Record) -> str | None:
        return ",".join(sorted({span.label for span in record.target})) or None

    def columns(self) -> Mapping[str, Column]:
        note = Column(-1, role="note")
        return {
            "labels": Column(IGNORED, role="target"),
            "first": note,
            "last": note,
            "place": Column(0, per="row", role="note"),
            "widened": Column(0, per="row", role="note"),
        }

    def encode(self, records: Sequence[Record], codec: Codec, max_tokens: int) -> Sequence[Example]:
        """Each text in windows that overlap. A span that ends inside a token is widened to it, and counted.

        A row is refused where the tokenizer drops all characters of a span.
        """
        tokenizer = codec.tokenizer
        found = tokenizer(
            [record.inputs["text"] for record in records],
            add_special_tokens=False, return_attention_mask=False, split_special_tokens=True,
            return_offsets_mapping=True, verbose=False,
        )  # fmt: skip
        before, after = frame(tokenizer)
        size = max(1, min(max_tokens, self.window or max_tokens) - len(before) - len(after))
        examples: list[Example] = []
        for record, ids, offsets in zip(records, found["input_ids"], found["offset_mapping"], strict=True):
            if not ids:  # characters that the tokenizer drops
                ids, offsets = [tokenizer.unk_token_id or tokenizer.pad_token_id or 0], [(0, 0)]
            if without_token(record.target or (), offsets, record.inputs["text"]):
                examples.append(Example(record.row, {}, refused="span_without_token"))
                continue
            labels, widened = self._labels(record, offsets)
            for number, (start, end) in enumerate(windows(len(ids), size, min(self.stride, size - 1))):
                columns: dict[str, Sequence[float]] = {
                    "input_ids": [*before, *ids[start:end], *after],
                    "first": [-1] * len(before) + [a for a, _ in offsets[start:end]] + [-1] * len(after),
                    "last": [-1] * len(before) + [b for _, b in offsets[start:end]] + [-1] * len(after),
                    "place": [start, end, len(ids)],
                    "widened": [0 if number else widened],
                }
                if labels is not None:
                    columns["labels"] = [IGNORED] * len(before) + labels[start:end] + [IGNORED] * len(after)
                examples.append(Example(record.row, columns))
        return examples

    def _labels(self, record: Record, offsets: Sequence[tuple[int, int]]) -> tuple[list[int] | None, int]:
        if record.target is None:
            return None, 0
        text = record.inputs["text"]
        labels, widened = token_labels(offsets, record.target, text, self.names, Scheme(self.tagging), self._whole)
        return labels, len(widened)

    def count(self, batch: Batch) -> float:
        return float((batch.targets["labels"] != IGNORED).sum())

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        labels = batch.targets["labels"]
        return functional.cross_entropy(
            wide(outputs).flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum"
        )

    def gold(self, records: Sequence[Record]) -> Predictions:
        spans = objects([tuple(record.target) for record in records])
        nothing = objects([()] * len(records))
        return Predictions(numbers_of(records), spans, nothing, None, self.label_names, "spans")

    def predictions(self, outputs: Outputs, records: Sequence[Record]) -> Predictions:
        found = [spans for spans, _ in self._found(outputs, records)]
        return replace(self.gold(records), answers=objects(found))

    def _found(self, outputs: Outputs, records: Sequence[Record]) -> list[tuple[tuple[Span, ...], list[float]]]:
        """Of each record its spans, and how likely the model takes each to be right (the least sure of its tokens)."""
        places = outputs.data.places()
        return [self._spans(outputs, places[record.row], record.inputs["text"]) for record in records]

    def _spans(self, outputs: Outputs, examples: Sequence[int], text: str) -> tuple[tuple[Span, ...], list[float]]:
        columns = outputs.data.columns
        where = [columns["place"][at].tolist() for at in examples]
        length = int(where[0][2])
        cuts = [(int(start), int(end)) for start, end, _ in where]
        before = [int(np.argmax(columns["first"][at] >= 0)) for at in examples]
        cut = [slice(skip, skip + end - start) for skip, (start, end) in zip(before, cuts, strict=True)]
        scores = joined([outputs.values[at][part] for at, part in zip(examples, cut, strict=True)], cuts, length)
        first, last = (
            joined([columns[name][at][part] for at, part in zip(examples, cut, strict=True)], cuts, length).tolist()
            for name in ("first", "last")
        )
        offsets = list(zip(first, last, strict=True))
        ids = self._chosen(scores, offsets, text)
        spans = spans_from_tokens(ids.tolist(), offsets, text, self.names, self._whole)
        sure = softmax(scores, axis=-1)[np.arange(length), np.maximum(ids, 0)]
        marked = pieces(offsets, text, self._whole)
        confidence = [
            float(min(sure[piece.token] for piece in marked if span.start <= piece.start < span.end)) for span in spans
        ]
        return spans, confidence

    def _chosen(self, scores: NDArray[np.float64], offsets: Sequence[tuple[int, int]], text: str) -> NDArray[np.int64]:
        """The tag of each token, [T]."""
        ids = np.asarray(scores.argmax(axis=-1))
        marked = [piece.token for piece in pieces(offsets, text, self._whole)]
        if self.valid and marked:
            allowed = transitions(self.names, Scheme(self.tagging))
            ids[marked] = best_path(log_softmax(scores[marked], axis=-1), allowed)
        return ids

    def answers(self, outputs: Outputs, records: Sequence[Record]) -> list[Answer]:
        made = []
        for record, (spans, sure) in zip(records, self._found(outputs, records), strict=True):
            text = record.inputs["text"]
            made.append(
                Answer([
                    {"label": s.label, "start": s.start, "end": s.end, "text": text[s.start : s.end], "score": score}
                    for s, score in zip(spans, sure, strict=True)
                ])
            )  # fmt: skip
        return made


def _divides(span: Span, text: str) -> bool:
    return inside_word(text, span.start) or inside_word(text, span.end)
