"""A label as a word that the model itself would put into a sentence: templates and verbalisers.

Source: Schick and Schütze 2021, arXiv:2001.07676 (PET), section 3.1: a pattern with a gap, a word for each label, and
the softmax over the scores of these words; for causal models Brown et al. 2020, arXiv:2005.14165.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, field_validator, model_validator
from scipy.special import softmax
from torch import Tensor
from torch.nn import functional

from tunesmith.batch import IGNORED, PIECES, REPLY, REPLY_PIECES, Batch, Column, Example
from tunesmith.contracts import Codec, Family, Record, Specimen
from tunesmith.errors import UserError, nearest, shown
from tunesmith.given import Answer, Outputs, Predictions
from tunesmith.tasks.base import TaskOptions, in_front, numbers_of
from tunesmith.tasks.classification import SINGLE_METRICS
from tunesmith.tasks.graded import NLL, TARGETS, next_tokens, shifted_right, token_sums
from tunesmith.tasks.head import wide
from tunesmith.tasks.labels import label_name, labels_of, unknown_label
from tunesmith.tasks.replies import start_of
from tunesmith.tasks.template import Template
from tunesmith.tasks.text import INPUTS, frame, read_texts

AUTO_CLASSES = {
    Family.ENCODER: "AutoModelForMaskedLM",
    Family.DECODER: "AutoModelForCausalLM",
    Family.ENCODER_DECODER: "AutoModelForSeq2SeqLM",
}
SENTINEL = "<extra_id_0>"
"""What T5 was pre-trained to put words in the place of."""
WORDS = "words"
BETWEEN = "\n\n"
MOODS = (
    ("my kettle is late", "bad"),
    ("thank you so kind", "good"),
    ("broken again", "bad"),
    ("good morning, my shop is quick", "good"),
)


class Words(NamedTuple):
    """The tokens of each word in its place. single: all have one, at the same place, so that one pass scores all."""

    ids: tuple[tuple[int, ...], ...]
    single: bool


class Prompted(TaskOptions):
    """One label a text, told by which word the model would put into a sentence about it."""

    families: ClassVar[frozenset[Family]] = frozenset(Family)
    version: ClassVar[int] = 1
    untuned: ClassVar[bool] = True
    specimens: ClassVar[tuple[Specimen, ...]] = (
        Specimen(
            {"template": "{text} is {label}", "words": {"bad": "slow", "good": "quick"}},
            tuple({"text": text, "label": label} for text, label in MOODS),
        ),
        Specimen(
            {
                "template": "{text} and {text_b} is {label}",
                "text_b": "other",
                "label": "mood",
                "words": {"bad": ["late now", "so slow"], "good": "quick now"},
                "normalise": "none",
            },
            tuple({"text": text, "other": "my lamp", "mood": label} for text, label in MOODS),
        ),
    )

    text: str = Field("text", description="Column of the text.")
    text_b: str | None = Field(None, description="Column of a second text.")
    label: str = Field("label", description="Column of the label.")
    labels: tuple[str, ...] | None = Field(
        None, description="All label names, in order; None: those of the training rows, sorted."
    )
    template: str | tuple[str, ...] = Field(
        "{text} It was {label}.",
        description="A sentence with `{text}`, `{text_b}` where there is one, and `{label}` where the word goes; of "
        "several the one is taken that does best on the validation rows before tuning.",
    )
    words: dict[str, str | tuple[str, ...]] | None = Field(
        None, description="The word for each label, or several whose scores are averaged; None: the labels' names."
    )
    shots: int = Field(
        0, ge=0, description="Training rows that stand filled in before each prompt, as many of each label as can be."
    )
    demonstrations: tuple[tuple[str, ...], ...] | None = Field(
        None, description="Such rows as texts and their label; None: drawn from the training rows."
    )
    normalise: Literal["tokens", "none"] = Field(
        "tokens", description="Score of a word of several tokens: the mean over them, or `none`: their sum."
    )
    metric: str | None = Field(None, description="Main metric; None: accuracy.")

    @field_validator("template")
    @classmethod
    def _whole(cls, template: str | tuple[str, ...]) -> str | tuple[str, ...]:
        for one in (template,) if isinstance(template, str) else template:
            Template.parsed(one)
        if not template:
            raise ValueError("at least one template is needed")
        return template

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        for one in self.templates:
            used = Template.parsed(one).columns
            wanted = {"text"} if self.text_b is None else {"text", "text_b"}
            if set(used) != wanted:
                raise ValueError(f"template {shown(one)}: use each of {', '.join(f'{{{n}}}' for n in sorted(wanted))}")
        for name, words in (self.words or {}).items():
            if not words or not all(word.strip() for word in _listed(words)):
                raise ValueError(f"words: label {shown(name)} has an empty word")
        return self

    @property
    def templates(self) -> tuple[str, ...]:
        """All that may be used."""
        return (self.template,) if isinstance(self.template, str) else self.template

    @property
    def variants(self) -> Mapping[str, Any]:
        if isinstance(self.template, str):
            return {}
        return {one: self.model_copy(update={"template": one}) for one in self.template}

    @property
    def fields(self) -> tuple[str, ...]:
        return (*self.inputs, self.label)

    @property
    def inputs(self) -> tuple[str, ...]:
        return (self.text,) if self.text_b is None else (self.text, self.text_b)

    @property
    def metrics(self) -> tuple[str, ...]:
        return in_front(self.metric, SINGLE_METRICS)

    @property
    def baselines(self) -> tuple[str, ...]:
        return ("majority", "tfidf_logistic")

    @property
    def label_names(self) -> tuple[str, ...]:
        """The labels in order. Raises ValueError before `learn`."""
        if self.labels is None:
            raise ValueError("the labels are not known before `learn`")
        return self.labels

    def auto_class(self, family: Family) -> str:
        return AUTO_CLASSES[family]

    def head(self) -> Mapping[str, Any]:
        return {}

    def read(self, row: Mapping[str, Any], *, with_target: bool = True) -> tuple[Mapping[str, Any], Any]:
        inputs = read_texts(row, self.inputs)
        return inputs, label_name(row.get(self.label), self.label) if with_target else None

    def learn(self, records: Sequence[Record]) -> Self:
        counts = Counter(record.target for record in records)
        labels = labels_of(counts, self.labels, self.label)
        words = self.words or {name: name.replace("_", " ").replace("-", " ") for name in labels}
        for name in labels:
            if name not in words:
                raise UserError("task.words", f"label {shown(name)} has no word", f"known: {', '.join(words)}")
        for name in words:
            if name not in labels:
                raise UserError("task.words", f"{shown(name)} is no label", nearest(name, labels))
        told = self.demonstrations if self.demonstrations is not None else self._drawn(records, labels)
        for row in told:
            if len(row) != len(self.inputs) + 1 or row[-1] not in labels:
                expected = f"{' and '.join(map(shown, self.inputs))}, then one of the labels"
                raise UserError("task.demonstrations", f"holds {shown(row)}", f"each is a list of {expected}")
        return self.model_copy(
            update={"labels": labels, "words": {name: words[name] for name in labels}, "demonstrations": told}
        )

    def _drawn(self, records: Sequence[Record], labels: Sequence[str]) -> tuple[tuple[str, ...], ...]:
        """The rows that are shown: of each label in turn, from all over the file and the same each time."""
        order = np.random.default_rng(0).permutation(len(records)).tolist()
        by_label = {name: [records[at] for at in order if records[at].target == name] for name in labels}
        turns = [(turn, name) for turn in range(self.shots) for name in labels if turn < len(by_label[name])]
        return tuple((*by_label[name][turn].inputs.values(), name) for turn, name in turns[: self.shots])

    def check(self, record: Record) -> None:
        if record.target not in self.label_names:
            raise unknown_label(self.label, record.target, self.label_names)

    def stratum(self, record: Record) -> str | None:
        return str(record.target)

    def columns(self) -> Mapping[str, Column]:
        return {
            "labels": Column(IGNORED, per="reply", role="target"),
            WORDS: Column(0, per="row", role="target"),
            "right": Column(0, per="row", role="target"),
        }

    def _spoken(self) -> list[tuple[str, int]]:
        """Every word, and the number of the label that it is for."""
        words = self.words or {}
        return [(word, n) for n, name in enumerate(self.label_names) for word in _listed(words[name])]

    def told(self, texts: Mapping[str, str] | None = None) -> str:
        """The filled-in rows that stand before a prompt; one with the very `texts` of the prompt is left out."""
        template, words = Template.parsed(self.templates[0]), self.words or {}
        lines = []
        for *given, name in self.demonstrations or ():
            row = dict(zip(INPUTS, given, strict=False))
            if row != texts:
                lines.append(template.filled(row, _listed(words[name])[0]).text + BETWEEN)
        return "".join(lines)

    def _words(self, codec: Codec) -> Words:
        """How the words are cut in their place, with a text that is hardly any."""
        template = Template.parsed(self.templates[0])
        if codec.family is Family.DECODER and not template.label_last:
            raise UserError("task.template", "a decoder reads no text behind the word", "put {label} behind all texts")
        found, before = [], set()
        for word, _ in self._spoken():
            filled = template.filled(dict.fromkeys(template.columns, "x"), word)
            ids, spot = filled.tokens(codec.tokenizer)
            if codec.tokenizer.unk_token_id is not None and codec.tokenizer.unk_token_id in ids[spot]:
                raise UserError("task.words", f"the model has no token for {shown(word)}", "choose another word")
            found.append(tuple(ids[spot]))
            before.add((tuple(ids[: spot.start]), tuple(ids[spot.stop :])))
        if len(set(found)) < len(found):
            raise UserError("task.words", "two words are the same tokens to this model", "choose words that differ")
        return Words(tuple(found), len(before) == 1 and all(len(word) == 1 for word in found))

    def encode(self, records: Sequence[Record], codec: Codec, max_tokens: int) -> Sequence[Example]:
        """Each row as its filled template: once, where one pass can score every word, else once for each word.

        A long text loses its end, never the template its words.
        """
        words, template = self._words(codec), Template.parsed(self.templates[0])
        place = {name: number for number, name in enumerate(self.label_names)}
        asked = [word for word, _ in self._spoken()][: 1 if words.single else None]
        around = [0, 1][codec.family is Family.ENCODER_DECODER] + sum(map(len, frame(codec.tokenizer)))
        made = []
        for record in records:
            filled = [template.filled(record.inputs, word, self.told(record.inputs)) for word in asked]
            most = max_tokens - around
            cut = max(one.excess(codec.tokenizer, most) for one in filled)
            found = [one.cut_by(codec.tokenizer, cut) for one in filled]
            if any(one is None for one in found):
                made.append(Example(record.row, {}, refused="template_too_long"))
                continue
            pieces = [self._piece(codec, *one) for one in found if one is not None]
            columns: dict[str, Sequence[float]] = {
                name: [value for piece in pieces for value in piece[name]] for name in pieces[0]
            }
            if words.single:
                columns[WORDS] = [word[0] for word in words.ids]
            else:
                columns[PIECES] = [len(piece["input_ids"]) for piece in pieces]
                if REPLY in columns:
                    columns[REPLY_PIECES] = [len(piece[REPLY]) for piece in pieces]
            if record.target is not None:
                columns["right"] = [place[record.target]]
            made.append(Example(record.row, columns, cut))
        return made

    def _piece(self, codec: Codec, ids: list[int], spot: slice) -> dict[str, list[int]]:
        """A sequence with a word in its place: what is read, and which of its tokens are scored."""
        tokenizer, word = codec.tokenizer, ids[spot]
        before, after = frame(tokenizer)
        if codec.family is Family.DECODER:
            read = [*before, *ids[: spot.stop]]
            marks = [False] * (len(read) - len(word)) + [True] * len(word)
            return {"input_ids": read, "labels": next_tokens(read, marks)}
        mask = tokenizer.mask_token_id
        if codec.family is Family.ENCODER:
            if mask is None:
                raise UserError("model", "its tokenizer has no mask token", "choose another model")
            hidden = [*before, *ids[: spot.start], *[mask] * len(word), *ids[spot.stop :], *after]
            labels = [IGNORED] * len(hidden)
            start = len(before) + spot.start
            labels[start : start + len(word)] = word
            return {"input_ids": hidden, "labels": labels}
        sentinel = tokenizer.get_vocab().get(SENTINEL)
        gap = sentinel if sentinel is not None else mask
        read = [*before, *ids[: spot.start], *([] if gap is None else [gap]), *ids[spot.stop :], *after]
        if sentinel is not None:
            said, first = [sentinel, *word], 1
        elif mask is not None:  # pre-trained to write the whole text again
            said, first = [*before, *ids[: spot.stop]], len(before) + spot.start
        else:
            said, first = list(word), 0
        given = shifted_right(said, start_of(codec, [*said, *after]))
        labels = [IGNORED] * first + said[first:]
        return {"input_ids": read, REPLY: given, "labels": labels}

    def graded(self, batch: Batch) -> bool:
        return "right" in batch.targets

    def count(self, batch: Batch) -> float:
        return float(len(batch.rows))

    def outputs(self, model_output: Any, batch: Batch) -> Tensor:
        """The score of every word: [B, W] where one pass gives them all, else [B x W], one a sequence."""
        labels = batch.targets["labels"]
        if WORDS in batch.targets:
            spots = wide(model_output.logits[labels != IGNORED])
            return functional.log_softmax(spots, dim=-1).gather(1, batch.targets[WORDS])
        sums = token_sums(model_output.logits, labels)
        return -sums[:, NLL] / (sums[:, TARGETS].clamp(min=1) if self.normalise == "tokens" else 1.0)

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        scores = outputs.reshape(len(batch.targets["right"]), -1)
        mean = torch.from_numpy(self._means()).to(scores)
        return functional.cross_entropy(scores @ mean, batch.targets["right"][:, 0], reduction="sum")

    def _means(self) -> NDArray[np.float64]:
        """[W, L] what makes the scores of labels out of those of words."""
        spoken = self._spoken()
        found = np.zeros((len(spoken), len(self.label_names)))
        for place, (_, label) in enumerate(spoken):
            found[place, label] = 1.0
        means: NDArray[np.float64] = found / found.sum(axis=0)
        return means

    def gold(self, records: Sequence[Record]) -> Predictions:
        place = {name: number for number, name in enumerate(self.label_names)}
        gold = np.array([place[record.target] for record in records], dtype=np.int64)
        scores = np.zeros((len(records), len(self.label_names)))
        return Predictions(numbers_of(records), gold, np.zeros_like(gold), scores, self.label_names)

    def predictions(self, outputs: Outputs, records: Sequence[Record]) -> Predictions:
        scores = self._shares(outputs)
        return replace(self.gold(records), answers=scores.argmax(axis=-1), scores=scores)

    def _shares(self, outputs: Outputs) -> NDArray[np.float64]:
        """[N, L] probabilities among the labels."""
        words = len(self._spoken())
        found = np.array([value.reshape(-1) for value in outputs.values]).reshape(-1, words)
        shares: NDArray[np.float64] = softmax(found @ self._means(), axis=-1)
        return shares

    def answers(self, outputs: Outputs, records: Sequence[Record]) -> list[Answer]:
        made = []
        for row in self._shares(outputs).tolist():
            scores = dict(zip(self.label_names, row, strict=True))
            made.append(Answer(max(scores, key=lambda name: scores[name]), scores))
        return made


def _listed(words: str | Sequence[str]) -> tuple[str, ...]:
    return (words,) if isinstance(words, str) else tuple(words)
