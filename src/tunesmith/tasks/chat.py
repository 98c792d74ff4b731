"""Conversations: a model learns the assistant's replies, each up to the token that stops it, and nothing else."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field, field_validator

from tunesmith.batch import Example
from tunesmith.contracts import Codec, Family, Record, Specimen
from tunesmith.errors import BadRow
from tunesmith.given import Decoding, Outputs, Predictions
from tunesmith.tasks.base import in_front
from tunesmith.tasks.chat_format import ChatFormat, ChatOptions, chat_format, stop_ids
from tunesmith.tasks.graded import next_tokens
from tunesmith.tasks.messages import Columns, Conversation, Form, read_messages
from tunesmith.tasks.replies import (
    DecodingOptions,
    WrittenTask,
    pair_row,
    start_of,
)
from tunesmith.tasks.transcript import Transcript, fit, fit_prompt

JSON = "json"
METRICS = ("reply_nll", "rougeL", "rouge1", "chrf", "token_accuracy", "stop_rate")
TURNS = ("user", "assistant") * 2
SAID = (
    ("kettle", "broken", "now", "thank you"),
    ("order", "good", "again", "late"),
    ("lamp", "blue", "now", "never"),
)


@dataclass(frozen=True)
class Asked:
    """A conversation; as a text it is what was said before the last reply. replied: whether it ends with one."""

    conversation: Conversation
    replied: bool

    def __str__(self) -> str:
        messages = self.conversation.messages
        shown = messages[:-1] if self.replied else messages
        return "\n".join(f"{message['role']}: {said(message)}" for message in shown)


class Chat(WrittenTask):
    """What an assistant replies, in conversations of one turn or many (instruction tuning)."""

    version: ClassVar[int] = 2
    specimens: ClassVar[tuple[Specimen, ...]] = (
        Specimen(
            {"decoding": {"max_new_tokens": 6}},
            tuple(
                {"messages": [{"role": role, "content": text} for role, text in zip(TURNS, turns, strict=True)]}
                for turns in SAID
            ),
        ),
        Specimen(
            {"decoding": {"max_new_tokens": 6}, "system": "kind shop"},
            tuple({"instruction": turns[0], "input": "", "output": turns[1]} for turns in SAID),
        ),
    )  # fmt: skip

    form: Literal["auto", "messages", "sharegpt", "prompt", "alpaca", "pair"] = Field(
        "auto",
        description="How rows hold conversations: `messages` (role, content), `sharegpt` (from, value), `prompt` and "
        "completion, `alpaca` (instruction, input, output), `pair` of two columns; `auto` sees it from the columns.",
    )
    messages: str | None = Field(None, description="Column of the list of messages; None: messages or conversations.")
    prompt: str | None = Field(
        None, description="Column of what is asked; None: prompt, instruction, question and so on."
    )
    reply: str | None = Field(None, description="Column of the reply; None: completion, output, answer and so on.")
    system: str | None = Field(None, description="System turn of conversations that have none.")
    template: str | None = Field(
        None, description="Chat template: `plain`, `chatml` or Jinja; None: the tokenizer's own, else plain."
    )
    template_values: Mapping[str, bool | int | str] = Field(
        {}, description="More that the template is given, such as `enable_thinking`."
    )
    fold_system: bool = Field(
        False, description="Put a system turn at the start of the first user turn where the template has none."
    )
    on_long: Literal["cut_prompt", "drop"] = Field(
        "cut_prompt", description="Of a conversation that is too long `cut_prompt`'s oldest turns, or `drop` it."
    )
    expect: str | None = Field(
        None, description="What every reply must be: `json`, or a regular expression that matches all of it."
    )
    metric: str | None = Field(None, description="Main metric; None: reply_nll.")
    decoding: DecodingOptions = Field(DecodingOptions(), description="How replies are generated.")

    @property
    def fields(self) -> tuple[str, ...]:
        return tuple(column for column in (self.messages, self.prompt, self.reply) if column is not None)

    @property
    def inputs(self) -> tuple[str, ...]:
        return (self.prompt or "prompt",)

    @property
    def metrics(self) -> tuple[str, ...]:
        return in_front(self.metric, METRICS if self.expect is None else (*METRICS, "format_valid"))

    @property
    def baselines(self) -> tuple[str, ...]:
        return ("nearest_text",)

    def _columns(self) -> Columns:
        columns = Columns()
        if self.messages is not None:
            columns = replace(columns, messages=self.messages, conversations=self.messages)
        if self.prompt is not None and self.form == "pair":
            return replace(columns, source=self.prompt, target=self.reply)
        if self.prompt is not None:
            columns = replace(columns, prompt=self.prompt, instruction=self.prompt)
        if self.reply is not None:
            columns = replace(columns, completion=self.reply, output=self.reply)
        return columns

    def read(self, row: Mapping[str, Any], *, with_target: bool = True) -> tuple[Mapping[str, Any], Any]:
        form = None if self.form == "auto" else Form(self.form)
        columns = self._columns()
        if not with_target:  # what is asked may be a text or messages, whatever the training rows held
            messages = any(row.get(name) is not None for name in (columns.messages, columns.conversations))
            text = columns.source is None and isinstance(row.get(self.inputs[0]), str)
            form = None if messages else Form.PROMPT if text else form
        found = read_messages(row, columns, form=form, system=self.system, with_target=with_target)
        inputs = {"conversation": Asked(found, with_target)}
        return inputs, (said(found.messages[-1]),) if with_target else None

    def format(self, codec: Codec) -> ChatFormat:
        """How this model's conversations are written. Raises UserError for a model that cannot have any."""
        options = ChatOptions(self.template, dict(self.template_values), self.fold_system)
        return chat_format(codec.tokenizer, options, encoder_decoder=codec.family is Family.ENCODER_DECODER)

    def encode(self, records: Sequence[Record], codec: Codec, max_tokens: int) -> Sequence[Example]:
        """A conversation in one line where its turns allow that, else a line each reply. No reply is ever cut."""
        format = self.format(codec)
        examples: list[Example] = []
        for record in records:
            try:
                fitted = fit(format, record.inputs["conversation"].conversation, max_tokens, self.on_long)
            except BadRow as error:
                examples.append(Example(record.row, {}, refused=error.reason))
                continue
            rows = [_row(record.row, made, codec, max_tokens) for made in fitted.kept]
            examples += rows or [Example(record.row, {}, refused=fitted.dropped[0])]
        return examples

    def prompts(self, records: Sequence[Record], codec: Codec, max_tokens: int) -> Sequence[Example]:
        format = self.format(codec)
        room = max_tokens
        if codec.family is Family.DECODER:
            room = max(1, max_tokens - min(self.decoding.max_new_tokens, max_tokens // 2))
        found = []
        for record in records:
            asked: Asked = record.inputs["conversation"]
            messages = asked.conversation.messages[:-1] if asked.replied else asked.conversation.messages
            made = fit_prompt(format, replace(asked.conversation, messages=messages), room)
            found.append(Example(record.row, {"input_ids": list(made.read)}, made.cut))
        return found

    @field_validator("expect")
    @classmethod
    def _readable(cls, expect: str | None) -> str | None:
        try:
            re.compile(expect or "")
        except re.error as error:
            raise ValueError(f"expect: {error}; write `json` or a regular expression") from error
        return expect

    def predictions(self, outputs: Outputs, records: Sequence[Record]) -> Predictions:
        """Also which replies are of the form that is expected."""
        found = super().predictions(outputs, records)
        if self.expect is None or outputs.replies is None:
            return found
        formed = np.array([float(bool(given) and well_formed(given[0], self.expect)) for given in found.answers])
        return replace(found, extras={**found.extras, "formed": formed, "asked": np.ones(len(formed))})

    def decoding_for(self, codec: Codec) -> Decoding | None:
        ends = stop_ids(self.format(codec))
        if codec.family is Family.DECODER:
            return self.decoding.decoding(ends)
        start = start_of(codec, [ends[-1]])
        return self.decoding.decoding(ends, forced=codec.config.to_dict().get("forced_bos_token_id"), start=start)

    def furnish(self, codec: Codec) -> None:
        """Gives the tokenizer the template that its model was tuned with."""
        if self.template is not None or not codec.tokenizer.chat_template:
            codec.tokenizer.chat_template = self.format(codec).source


def well_formed(text: str, expect: str) -> bool:
    """Whether a text is JSON, or matches a regular expression as a whole."""
    if expect != JSON:
        return re.fullmatch(expect, text, re.DOTALL) is not None
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def said(message: Mapping[str, Any]) -> str:
    """What a message says; its tool calls as JSON where there are any."""
    calls = [json.dumps(call["function"], ensure_ascii=False) for call in message.get("tool_calls") or ()]
    return "\n".join([*([message["content"]] if message["content"] else []), *calls])


def _row(row: int, made: Transcript, codec: Codec, max_tokens: int) -> Example:
    if made.source is not None:
        example = pair_row(row, codec, made.source, made.ids, max_tokens, made.cut)
        if example.refused:
            return example
        return replace(example, columns={**example.columns, "weights": list(made.weights)})
    ids, weights = list(made.ids), list(made.weights)
    labels = next_tokens(ids, [weight > 0 for weight in weights])
    return Example(row, {"input_ids": ids, "labels": labels, "weights": [*weights[1:], 0.0]}, made.cut)
