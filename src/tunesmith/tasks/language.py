"""Plain text, learned as such: masked, causal, or with spans to fill in, whichever suits the kind of model."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from tunesmith.batch import DRAWN, IGNORED, REPLY, Batch, Column, Example
from tunesmith.contracts import Codec, Family, Record, Specimen
from tunesmith.errors import UserError
from tunesmith.given import Answer, Outputs, Predictions, objects
from tunesmith.tasks.base import TaskOptions, in_front, numbers_of
from tunesmith.tasks.graded import NLL, RIGHT, TARGETS, next_tokens, shifted_right, targets_of, token_sums
from tunesmith.tasks.text import frame, read_text

HEADS = {
    Family.ENCODER: "AutoModelForMaskedLM",
    Family.DECODER: "AutoModelForCausalLM",
    Family.ENCODER_DECODER: "AutoModelForSeq2SeqLM",
}
SENTINELS = 100
"""The most spans that are taken out of one row: T5's vocabulary has so many marks for them."""
RANDOM, KEPT = 0.1, 0.1
"""Of the chosen tokens of a masked model, the shares replaced by a random one and left alone (BERT, section 3.1)."""
STORY = (
    "the red kettle is broken and the lamp is late",
    "please cancel my order, the blue chair never arrived",
    "good morning kind shop, thank you for the quick answer",
)


class Language(TaskOptions):
    """The text itself: for domains, stories and new words (arXiv:2004.10964)."""

    families: ClassVar[frozenset[Family]] = frozenset(Family)
    version: ClassVar[int] = 1
    packs: ClassVar[bool] = True
    untuned: ClassVar[bool] = True
    specimens: ClassVar[tuple[Specimen, ...]] = (Specimen({"share": 0.3}, tuple({"text": text} for text in STORY)),)

    text: str = Field("text", description="Column of the text; a long one is divided into rows, and nothing is lost.")
    share: float = Field(
        0.15, gt=0, lt=1, description="Share of the tokens that a masked model or an encoder-decoder has to find."
    )
    whole_words: bool = Field(True, description="Hide all tokens of a word together, in a masked model.")
    span: float = Field(
        3.0, ge=1, description="Mean tokens of a hidden span, in an encoder-decoder (arXiv:1910.10683)."
    )
    metric: str | None = Field(None, description="Main metric; None: perplexity.")

    @property
    def fields(self) -> tuple[str, ...]:
        return (self.text,)

    @property
    def inputs(self) -> tuple[str, ...]:
        return (self.text,)

    @property
    def metrics(self) -> tuple[str, ...]:
        return in_front(self.metric, ("perplexity", "bits_per_byte", "token_accuracy"))

    @property
    def baselines(self) -> tuple[str, ...]:
        return ()

    def auto_class(self, family: Family) -> str:
        return HEADS[family]

    def head(self) -> Mapping[str, Any]:
        return {}

    def read(self, row: Mapping[str, Any], *, with_target: bool = True) -> tuple[Mapping[str, Any], Any]:
        return {"text": read_text(row, self.text)}, () if with_target else None

    def columns(self) -> Mapping[str, Column]:
        return {
            "labels": Column(IGNORED, per="reply", role="target"),
            "bytes": Column(0, per="row", role="note"),
            "words": Column(-1, role="note"),
            DRAWN: Column(0, per="row", role="note"),
        }

    def encode(self, records: Sequence[Record], codec: Codec, max_tokens: int) -> Sequence[Example]:
        """Each text in as many rows as it needs. Nothing is cut."""
        tokenizer = codec.tokenizer
        found = tokenizer(
            [record.inputs["text"] for record in records],
            add_special_tokens=False, return_attention_mask=False, split_special_tokens=True,
            return_offsets_mapping=True, verbose=False,
        )  # fmt: skip
        examples: list[Example] = []
        for place, record in enumerate(records):
            ids, offsets = found["input_ids"][place], found["offset_mapping"][place]
            words = _words(record.inputs["text"], offsets)
            rows = [
                self._row(
                    codec, ids[a:b], words[a:b], _bytes(record.inputs["text"], offsets, a, b), (a == 0, b == len(ids))
                )
                for a, b in _parts(len(ids), max_tokens - _added(codec))
            ]
            kept = [row for row in rows if row is not None]
            examples += [Example(record.row, row) for row in kept] or [
                Example(record.row, {}, refused="nothing_graded")
            ]
        return examples

    def _row(
        self, codec: Codec, ids: Sequence[int], words: Sequence[int], size: int, edge: tuple[bool, bool]
    ) -> dict[str, Sequence[float]] | None:
        """One row's columns; None for one without anything to predict. edge: whether it begins, and ends, its text."""
        tokenizer = codec.tokenizer
        if codec.family is Family.DECODER:
            begin = _begins(tokenizer) if edge[0] else []
            end = [tokenizer.eos_token_id] if edge[1] and tokenizer.eos_token_id is not None else []
            whole = [*begin, *ids, *end]
            if len(whole) < 2:
                return None
            return {"input_ids": whole, "labels": next_tokens(whole, [True] * len(whole)), "bytes": [size]}
        if not ids:
            return None
        if codec.family is Family.ENCODER_DECODER:
            start = codec.config.decoder_start_token_id
            codes = [int(tokenizer.eos_token_id), int(start), *_sentinels(tokenizer)]
            return {"input_ids": list(ids), "bytes": [size], DRAWN: [len(codes), *codes]}
        if tokenizer.mask_token_id is None:
            raise UserError("model", "its tokenizer has no mask token", "choose a masked or a causal model")
        whole, special = _wrapped(tokenizer, ids)
        at = iter(words)
        marked = [-1 if mark else next(at) for mark in special]
        return {"input_ids": whole, "words": marked, "bytes": [size], DRAWN: [tokenizer.mask_token_id, len(tokenizer)]}

    def vary(self, columns: Mapping[str, NDArray[Any]], seed: int) -> Mapping[str, Sequence[float]]:
        generator = np.random.default_rng(seed)
        if "words" in columns:
            return self._masked(columns, generator)
        return self._spans(columns, generator)

    def _masked(
        self, columns: Mapping[str, NDArray[Any]], generator: np.random.Generator
    ) -> dict[str, Sequence[float]]:
        """Some words hidden: mostly by the mask, some by another token, some not at all."""
        ids, words = columns["input_ids"].copy(), columns["words"]
        mask, vocabulary = columns[DRAWN].tolist()
        units = words if self.whole_words else np.where(words >= 0, np.arange(len(words)), -1)
        known = np.unique(units[units >= 0])
        wanted = max(1, round(self.share * int((units >= 0).sum())))
        hidden = np.zeros(len(ids), dtype=bool)
        for unit in generator.permutation(known):
            if hidden.sum() >= wanted:
                break
            hidden |= units == unit
        labels = np.where(hidden, ids, IGNORED)
        fate = generator.random(len(ids))
        ids[hidden & (fate >= RANDOM + KEPT)] = mask
        swapped = hidden & (fate < RANDOM)
        ids[swapped] = generator.integers(0, vocabulary, int(swapped.sum()))
        return {"input_ids": ids.tolist(), "labels": labels.tolist(), "bytes": columns["bytes"].tolist()}

    def _spans(self, columns: Mapping[str, NDArray[Any]], generator: np.random.Generator) -> dict[str, Sequence[float]]:
        """Spans taken out, a mark in the place of each; the target is the spans, each behind its mark (T5, 3.1.4)."""
        ids = columns["input_ids"].tolist()
        _, eos, start, *marks = columns[DRAWN].tolist()
        hidden = max(1, min(len(ids) - 1, round(self.share * len(ids)))) if len(ids) > 1 else 1
        spans = max(1, min(round(hidden / self.span), len(marks), hidden, len(ids) - hidden or 1))
        sizes = _divided(hidden, spans, generator)
        gaps = _divided(len(ids) - hidden, spans, generator) if len(ids) > hidden else [0] * spans
        given: list[int] = []
        wanted: list[int] = []
        at = 0
        for mark, gap, size in zip(marks, gaps, sizes, strict=False):
            given += [*ids[at : at + gap], mark]
            wanted += [mark, *ids[at + gap : at + gap + size]]
            at += gap + size
        labels = [*wanted, eos]
        return {
            "input_ids": [*given, *ids[at:], eos], REPLY: shifted_right(labels, start), "labels": labels,
            "bytes": columns["bytes"].tolist(),
        }  # fmt: skip

    def count(self, batch: Batch) -> float:
        return targets_of(batch)

    def outputs(self, model_output: Any, batch: Batch) -> Tensor:
        return token_sums(model_output.logits, batch.targets["labels"])

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        return outputs[:, NLL].sum()

    def gold(self, records: Sequence[Record]) -> Predictions:
        nothing = objects([()] * len(records))
        return Predictions(numbers_of(records), nothing, nothing, None, (), "scores")

    def predictions(self, outputs: Outputs, records: Sequence[Record]) -> Predictions:
        """Sums over the rows of each text; `right` is 1 where every hidden token would be chosen."""
        places = outputs.data.places()
        sizes = outputs.data.columns["bytes"]
        sums = np.array([sum(outputs.values[at] for at in places[record.row]) for record in records]).reshape(-1, 3)
        size = np.array([sum(float(sizes[at][0]) for at in places[record.row]) for record in records])
        extras = {
            "nll": sums[:, NLL], "targets": sums[:, TARGETS], "tokens_right": sums[:, RIGHT], "bytes": size,
            "right": (sums[:, RIGHT] >= sums[:, TARGETS]).astype(np.float64),
        }  # fmt: skip
        return replace(self.gold(records), extras=extras)

    def answers(self, outputs: Outputs, records: Sequence[Record]) -> list[Answer]:
        found = self.predictions(outputs, records).extras
        return [
            Answer({"perplexity": float(math.exp(min(700.0, nll / max(1.0, targets))))})
            for nll, targets in zip(found["nll"].tolist(), found["targets"].tolist(), strict=True)
        ]


def _parts(length: int, most: int) -> list[tuple[int, int]]:
    """`length` tokens in the fewest parts of at most `most`, as equal as can be."""
    count = max(1, -(-length // most))
    edges = [round(place * length / count) for place in range(count + 1)]
    return list(pairwise(edges))


def _words(text: str, offsets: Sequence[tuple[int, int]]) -> list[int]:
    """The number of the white-space word that each token is part of."""
    starts = [
        place for place, sign in enumerate(text) if not sign.isspace() and (not place or text[place - 1].isspace())
    ]
    ends = [max(end - 1, start) for start, end in offsets]
    return np.searchsorted(starts, ends, side="right").tolist() if offsets else []


def _bytes(text: str, offsets: Sequence[tuple[int, int]], first: int, last: int) -> int:
    """Bytes of UTF-8 from the end of the token before `first` to the end of the token before `last`."""
    start = offsets[first - 1][1] if first else 0
    end = offsets[last - 1][1] if last and last < len(offsets) else len(text)
    return len(text[start:end].encode("utf-8", "surrogatepass"))


def _begins(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens that the tokenizer itself puts before a text: the beginning of sequence, or nothing."""
    first = tokenizer("")["input_ids"]
    return [int(tokenizer.bos_token_id)] if first and first[0] == tokenizer.bos_token_id else []


def _wrapped(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> tuple[list[int], list[bool]]:
    """The tokens between those that the tokenizer puts around a text, and which of all are such."""
    before, after = frame(tokenizer)
    return [*before, *ids, *after], [True] * len(before) + [False] * len(ids) + [True] * len(after)


def _added(codec: Codec) -> int:
    """Tokens that a row has besides its text."""
    tokenizer = codec.tokenizer
    if codec.family is Family.DECODER:
        return len(_begins(tokenizer)) + (tokenizer.eos_token_id is not None)
    return 1 if codec.family is Family.ENCODER_DECODER else len(tokenizer("")["input_ids"])


def _sentinels(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """T5's marks <extra_id_0>, <extra_id_1>, …; of another tokenizer its mask, once."""
    marks = [f"<extra_id_{number}>" for number in range(SENTINELS)]
    vocabulary = tokenizer.get_vocab()
    found = [vocabulary[mark] for mark in marks if mark in vocabulary]
    if not found and tokenizer.mask_token_id is not None:
        found = [int(tokenizer.mask_token_id)] * SENTINELS
    if not found:
        raise UserError("model", "its tokenizer has no mark for what is taken out", "choose another model")
    return found


def _divided(total: int, parts: int, generator: np.random.Generator) -> list[int]:
    """`total` in `parts` random parts of at least 1 where that can be."""
    if total <= parts:
        return [1] * total + [0] * (parts - total)
    cuts = np.sort(generator.choice(np.arange(1, total), parts - 1, replace=False)) if parts > 1 else np.array([], int)
    return [int(size) for size in np.diff([0, *cuts.tolist(), total])]
