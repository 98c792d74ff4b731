"""What tasks share whose answers are generated texts: how they are decoded, encoded, graded and compared."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
from pydantic import Field
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from tunesmith.batch import IGNORED, REPLY, Batch, Column, Example
from tunesmith.contracts import Codec, Family, Record
from tunesmith.errors import UserError
from tunesmith.given import Answer, Decoding, Outputs, Predictions, objects
from tunesmith.options import Options
from tunesmith.tasks.base import TaskOptions, numbers_of
from tunesmith.tasks.graded import NLL, RIGHT, TARGETS, next_tokens, shifted_right, targets_of, token_sums

AUTO_CLASSES = {Family.DECODER: "AutoModelForCausalLM", Family.ENCODER_DECODER: "AutoModelForSeq2SeqLM"}
FAMILIES = frozenset(AUTO_CLASSES)
COLUMNS = {
    "labels": Column(IGNORED, per="reply", role="target"),
    "weights": Column(0.0, per="reply", role="target"),
}
LANGUAGE_IN_FRONT = "mbart"
"""Models of this type read their labels' last token first; all others the start token that they name."""
SIGNS = ("\n", ".", "x")
"""What a text is tokenised behind, to be no beginning."""
FEWEST_PROMPT_TOKENS = 8
"""A reply that leaves a prompt less room than this is too long to learn."""


class DecodingOptions(Options):
    """How texts are generated, for judging and for use; `transformers`' terms."""

    max_new_tokens: int = Field(128, ge=1, description="Most tokens of a reply.")
    min_new_tokens: int = Field(0, ge=0, description="Fewest tokens of a reply.")
    beams: int = Field(1, ge=1, description="Beams that are searched; 1 takes the likeliest token each time.")
    length_penalty: float = Field(1.0, description="With beams, above 0 favours long replies, below 0 short ones.")
    no_repeat_ngram: int = Field(0, ge=0, description="No run of so many tokens comes twice; 0 allows all.")
    repetition_penalty: float = Field(1.0, gt=0, description="Above 1, tokens that were used become less likely.")
    temperature: float = Field(0.0, ge=0, description="0 takes the likeliest; above, tokens are drawn.")
    top_p: float = Field(
        1.0, gt=0, le=1, description="With temperature: draw from the likeliest that make up this share."
    )
    top_k: int = Field(0, ge=0, description="With temperature: draw from so many likeliest tokens; 0 from all.")
    stop: tuple[str, ...] = Field((), description="Texts that end a reply and are not part of it.")
    seed: int = Field(0, ge=0, lt=2**63, description="Of the draws.")

    def decoding(
        self, stop_ids: Sequence[int], *, forced: int | None = None, start: int | None = None, samples: int = 1
    ) -> Decoding:
        """These settings for a model whose replies end in one of `stop_ids`."""
        return Decoding(
            max_new_tokens=self.max_new_tokens,
            stop_ids=tuple(stop_ids),
            min_new_tokens=self.min_new_tokens,
            beams=self.beams,
            length_penalty=self.length_penalty,
            no_repeat_ngram=self.no_repeat_ngram,
            repetition_penalty=self.repetition_penalty,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            samples=samples,
            seed=self.seed,
            stop_texts=self.stop,
            forced=forced,
            start=start,
        )


def end_of(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token that ends a text. Raises UserError for a tokenizer that has none."""
    if tokenizer.eos_token_id is None:
        raise UserError(
            "model", "its tokenizer has no token that ends a text", "set eos_token in tokenizer_config.json"
        )
    return int(tokenizer.eos_token_id)


def plain_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """The tokens of a text without any the tokenizer adds; nothing that it spells becomes a control token."""
    return list(tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"])


def continued_ids(tokenizer: PreTrainedTokenizerBase, before: str, text: str) -> list[int]:
    """The tokens of a text that goes on with `before`, so that nothing comes between the two when both are read.

    They are those of both together where these begin with those of `before`; else those of the text behind some sign,
    since by itself a text may be given a blank at its start.
    """
    first, whole = plain_ids(tokenizer, before), plain_ids(tokenizer, before + text)
    if before and whole[: len(first)] == first:
        return whole[len(first) :]
    for sign in SIGNS:
        ahead, behind = plain_ids(tokenizer, sign), plain_ids(tokenizer, sign + text)
        if behind[: len(ahead)] == ahead:
            return behind[len(ahead) :]
    return plain_ids(tokenizer, text)


def exact_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """The tokens of a text that read as just that text by themselves, as far as the tokenizer has such."""
    usual = plain_ids(tokenizer, text)
    for ids in (usual, continued_ids(tokenizer, "", text)):
        if tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text:
            return ids
    return usual


def decoder_row(row: int, prompt: Sequence[int], reply: Sequence[int], max_tokens: int, cut: int = 0) -> Example:
    """A prompt and its reply in one line, the reply graded. What does not fit is cut from the prompt's left.

    reply: with the token that ends it. Refused where the reply leaves no room for a prompt.
    """
    room = max_tokens - len(reply)
    if room < min(len(prompt), FEWEST_PROMPT_TOKENS):
        return Example(row, {}, refused="reply_too_long")
    kept = list(prompt[len(prompt) - room :]) if len(prompt) > room else list(prompt)
    ids = [*kept, *reply]
    labels = next_tokens(ids, [False] * len(kept) + [True] * len(reply))
    return Example(row, {"input_ids": ids, "labels": labels}, cut + len(prompt) - len(kept))


def pair_row(
    row: int, codec: Codec, source: Sequence[int], labels: Sequence[int], max_tokens: int, cut: int
) -> Example:
    """A source for the encoder and the labels for the decoder behind it. Refused where the labels are too long."""
    if len(labels) > max_tokens:
        return Example(row, {}, refused="reply_too_long")
    given = shifted_right(labels, start_of(codec, labels))
    return Example(row, {"input_ids": list(source), REPLY: given, "labels": list(labels)}, cut)


def start_of(codec: Codec, labels: Sequence[int]) -> int:
    """What a decoder behind an encoder begins with: the language at the end of its labels (mBART), or its start."""
    if codec.config.model_type == LANGUAGE_IN_FRONT and labels[-1] != codec.tokenizer.eos_token_id:
        return labels[-1]
    start = codec.config.to_dict().get("decoder_start_token_id")
    return end_of(codec.tokenizer) if start is None else int(start)


def text_predictions(
    outputs: Outputs, records: Sequence[Record], gold: Sequence[tuple[str, ...]], *, strip: bool = True
) -> Predictions:
    """Right texts beside generated ones, with the likelihood of the right ones where it was computed.

    strip: leave out white space around what was generated; that of code at its start means something.
    """
    replies = outputs.replies or [()] * len(records)
    answers = [tuple(reply.text.strip() if strip else reply.text.rstrip() for reply in found) for found in replies]
    extras: dict[str, np.ndarray] = {}
    if len(outputs.values):
        places = outputs.data.places()
        nothing = np.zeros(3)
        sums = [sum((outputs.values[at] for at in places.get(record.row, ())), nothing) for record in records]
        found = np.array(sums).reshape(-1, 3)
        extras |= {"nll": found[:, NLL], "targets": found[:, TARGETS], "tokens_right": found[:, RIGHT]}
    if outputs.replies is not None:
        extras["stopped"] = np.array([float(sum(reply.stopped for reply in found)) for found in replies])
        extras["replies"] = np.array([float(len(found)) for found in replies])
        extras["length"] = np.array([float(sum(len(reply.ids) for reply in found)) for found in replies])
    return Predictions(numbers_of(records), objects(gold), objects(answers), None, (), "texts", extras)


def text_gold(records: Sequence[Record], gold: Sequence[tuple[str, ...]]) -> Predictions:
    """Right texts, and nothing answered."""
    nothing = objects([()] * len(records))
    return replace(Predictions(numbers_of(records), objects(gold), nothing, None, (), "texts"), extras={})


def text_answers(outputs: Outputs, records: Sequence[Record], *, strip: bool = True) -> list[Answer]:
    """The first generated text of each record. strip: as in `text_predictions`."""
    replies = outputs.replies or [()] * len(records)
    texts = [found[0].text if found else "" for found in replies]
    return [Answer(text.strip() if strip else text.rstrip()) for text in texts]


class WrittenTask(TaskOptions):
    """The options of a task whose answers are texts that a model writes, and whose targets are right texts.

    keeps_blanks: white space at the start of a text is part of it.
    """

    families: ClassVar[frozenset[Family]] = FAMILIES
    packs: ClassVar[bool] = True
    untuned: ClassVar[bool] = True
    keeps_blanks: ClassVar[bool] = False

    def auto_class(self, family: Family) -> str:
        return AUTO_CLASSES[family]

    def head(self) -> Mapping[str, Any]:
        return {}

    def columns(self) -> Mapping[str, Column]:
        return COLUMNS

    def count(self, batch: Batch) -> float:
        return targets_of(batch)

    def outputs(self, model_output: Any, batch: Batch) -> Tensor:
        return token_sums(model_output.logits, batch.targets["labels"], batch.targets.get("weights"))

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        return outputs[:, NLL].sum()

    def gold(self, records: Sequence[Record]) -> Predictions:
        return text_gold(records, [tuple(record.target) for record in records])

    def predictions(self, outputs: Outputs, records: Sequence[Record]) -> Predictions:
        right = [tuple(record.target) for record in records]
        return text_predictions(outputs, records, right, strip=not self.keeps_blanks)

    def answers(self, outputs: Outputs, records: Sequence[Record]) -> list[Answer]:
        return text_answers(outputs, records, strip=not self.keeps_blanks)
