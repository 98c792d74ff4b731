"""Text to text: summaries, translations, answers, descriptions of data."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

from pydantic import Field, model_validator
from transformers import PreTrainedTokenizerBase

from tunesmith.batch import Example
from tunesmith.contracts import Codec, Family, Record, Specimen
from tunesmith.errors import BadRow, UserError, nearest, shown
from tunesmith.given import Decoding
from tunesmith.tasks.base import in_front
from tunesmith.tasks.replies import (
    DecodingOptions,
    WrittenTask,
    decoder_row,
    end_of,
    pair_row,
    plain_ids,
    start_of,
)
from tunesmith.tasks.text import read_text

METRICS = (
    "rougeL", "rouge1", "rouge2", "rougeLsum", "bleu", "chrf", "ter", "same_text", "answer_exact", "answer_f1",
    "same_number", "reply_nll", "stop_rate",
)  # fmt: skip
SLOT = re.compile(r"\{([^{}]+)\}")
LANGUAGE = re.compile(r"([a-z]{2,3}_[A-Z][A-Za-z]{1,3})|__([a-z]{2,3})__")
"""How the tokens of languages are written: en_XX (mBART), eng_Latn (NLLB), __en__ (M2M100)."""
AFTER = "\n"
"""What stands between source and target for a decoder, where no template says more."""
TRANSLATED = (
    ("the kettle is broken", "broken kettle"),
    ("my order never arrived", "order late"),
    ("please cancel my order now", "cancel"),
    ("good morning, thank you kind shop", "thank you"),
)


class Generation(WrittenTask):
    """A text that answers another."""

    version: ClassVar[int] = 1
    specimens: ClassVar[tuple[Specimen, ...]] = (
        Specimen(
            {"decoding": {"max_new_tokens": 16}},
            tuple({"source": source, "target": target} for source, target in TRANSLATED),
        ),
        Specimen(
            {"source": "said", "target": "short", "template": "{said} for {shop}:", "decoding": {"max_new_tokens": 16}},
            tuple({"said": source, "short": [target, "other"], "shop": "shop"} for source, target in TRANSLATED),
        ),
    )

    source: str = Field("source", description="Column of the text to start from.")
    target: str = Field("target", description="Column of the right text, or of a list of right texts.")
    template: str | None = Field(
        None,
        description="What the model is given, with columns in braces, such as `summarize: {source}`; None: the source, "
        "and for a decoder a line break after it.",
    )
    source_language: str | None = Field(None, description="Language of the source, as the tokenizer names it (en_XX).")
    target_language: str | None = Field(None, description="Language to write, as the tokenizer names it (de_DE).")
    metric: str | None = Field(None, description="Main metric; None: rougeL.")
    decoding: DecodingOptions = Field(DecodingOptions(), description="How texts are generated.")

    @model_validator(mode="after")
    def _has_source(self) -> Self:
        if self.template is not None and self.source not in SLOT.findall(self.template):
            raise ValueError(f"the template must name the source, {{{self.source}}}")
        return self

    @property
    def fields(self) -> tuple[str, ...]:
        return (*self.inputs, self.target)

    @property
    def inputs(self) -> tuple[str, ...]:
        if self.template is None:
            return (self.source,)
        return tuple(dict.fromkeys(SLOT.findall(self.template)))

    @property
    def metrics(self) -> tuple[str, ...]:
        return in_front(self.metric, METRICS)

    @property
    def baselines(self) -> tuple[str, ...]:
        return ("copy", "nearest_text")

    def read(self, row: Mapping[str, Any], *, with_target: bool = True) -> tuple[Mapping[str, Any], Any]:
        inputs = {name: read_text(row, name) for name in self.inputs}
        if not with_target:
            return inputs, None
        value = row.get(self.target)
        texts = value if isinstance(value, list | tuple) else [value]
        if not texts:
            raise BadRow(self.target, "an empty list", "at least one right text", "empty_reply")
        for text in texts:
            if not isinstance(text, str):
                raise BadRow(self.target, shown(text), "a text", "no_text")
            if not text.strip():
                raise BadRow(self.target, "an empty text", "a text", "empty_reply")
        return inputs, tuple(texts)

    def encode(self, records: Sequence[Record], codec: Codec, max_tokens: int) -> Sequence[Example]:
        """Of several right texts the first is learned."""
        if codec.family is Family.DECODER:
            end = [end_of(codec.tokenizer)]
            found = []
            for record, (prompt, cut) in zip(records, self._prompts(records, codec, max_tokens, True), strict=True):
                reply = [*plain_ids(codec.tokenizer, record.target[0].strip()), *end]
                found.append(decoder_row(record.row, prompt, reply, max_tokens, cut))
            return found
        labels = self._labels([record.target[0].strip() for record in records], codec.tokenizer)
        sources = self._prompts(records, codec, max_tokens)
        return [
            pair_row(record.row, codec, source, target, max_tokens, cut)
            for record, (source, cut), target in zip(records, sources, labels, strict=True)
        ]

    def prompts(self, records: Sequence[Record], codec: Codec, max_tokens: int) -> Sequence[Example]:
        found = self._prompts(records, codec, max_tokens)
        return [Example(record.row, {"input_ids": ids}, cut) for record, (ids, cut) in zip(records, found, strict=True)]

    def _prompts(
        self, records: Sequence[Record], codec: Codec, max_tokens: int, with_reply: bool = False
    ) -> list[tuple[list[int], int]]:
        """What the model is given for each record, and how many tokens did not fit: a source is cut at its end."""
        tokenizer, decoder = codec.tokenizer, codec.family is Family.DECODER
        self._speak(tokenizer)
        made = []
        for record in records:
            room = max_tokens
            if decoder:
                reply = len(plain_ids(tokenizer, record.target[0].strip())) + 1 if with_reply else 0
                room = max(1, max_tokens - (reply or min(self.decoding.max_new_tokens, max_tokens // 2)))
            made.append(self._prompt(record, tokenizer, room, decoder))
        return made

    def _prompt(
        self, record: Record, tokenizer: PreTrainedTokenizerBase, room: int, decoder: bool
    ) -> tuple[list[int], int]:
        def tokens(source: str) -> list[int]:
            text = self._filled(record, source) + (AFTER if decoder and self.template is None else "")
            ids = list(tokenizer(text, split_special_tokens=True, verbose=False)["input_ids"])
            ends = decoder and len(ids) > 1 and ids[-1] == tokenizer.eos_token_id
            return ids[:-1] if ends else ids

        whole = record.inputs[self.source]
        ids = tokens(whole)
        size = len(ids)
        while len(ids) > room and whole:  # the source loses its end, the words around it stay
            whole = whole[: int(len(whole) * room / len(ids) * 0.98)]
            ids = tokens(whole)
        return ids[:room], size - len(ids[:room])

    def _filled(self, record: Record, source: str) -> str:
        if self.template is None:
            return source
        return SLOT.sub(lambda slot: source if slot[1] == self.source else str(record.inputs[slot[1]]), self.template)

    def _labels(self, texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
        """The tokens of right texts, as the tokenizer frames what a decoder writes."""
        self._speak(tokenizer)
        found = tokenizer(text_target=list(texts), split_special_tokens=True, verbose=False)["input_ids"]
        end = end_of(tokenizer)
        return [ids if end in ids[-2:] else [*ids, end] for ids in found]

    def _speak(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Sets the languages of a tokenizer that has some.

        Raises UserError for a language that it does not know, and where neither the task nor the tokenizer's own
        settings say which of several it is.
        """
        missing = []
        for key, name, side in (
            ("task.source_language", self.source_language, "src_lang"),
            ("task.target_language", self.target_language, "tgt_lang"),
        ):
            if name is None:
                if hasattr(tokenizer, side) and tokenizer.init_kwargs.get(side) is None and languages(tokenizer):
                    missing.append(key)
                continue
            if not hasattr(tokenizer, side):
                raise UserError(
                    key, "this model's tokenizer knows no languages", "leave the key out, or use mBART, say"
                )
            known = languages(tokenizer)
            if name not in known:
                raise UserError(key, f"{shown(name)} is no language of this model", nearest(name, known))
            if getattr(tokenizer, side) != name:
                setattr(tokenizer, side, name)
        if missing:
            some = nearest("", languages(tokenizer))
            raise UserError(
                " and ".join(missing), "not set, but this model is of several languages", f"name one; {some}"
            )

    def decoding_for(self, codec: Codec) -> Decoding | None:
        self._speak(codec.tokenizer)
        forced = None if self.target_language is None else languages(codec.tokenizer)[self.target_language]
        forced = codec.config.to_dict().get("forced_bos_token_id") if forced is None else forced
        end, start = end_of(codec.tokenizer), None
        if codec.family is Family.ENCODER_DECODER:
            start = start_of(codec, self._labels(["a"], codec.tokenizer)[0])
            forced = None if forced == start else forced
        return self.decoding.decoding([end], forced=forced, start=start)


def languages(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """The languages of a translation model's tokenizer, each with its token."""
    found: dict[str, int] = {}
    for number, token in tokenizer.added_tokens_decoder.items():
        named = LANGUAGE.fullmatch(token.content)
        if named:
            found[named[1] or named[2]] = int(number)
    return found
