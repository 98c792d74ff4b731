"""Prompts and the replies to them: read from rows as texts or as messages, and encoded one behind the other."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from transformers import PreTrainedTokenizerBase

from tunesmith.batch import PIECES, Example
from tunesmith.contracts import Record
from tunesmith.errors import BadRow, shown
from tunesmith.tasks.chat import Asked, said
from tunesmith.tasks.chat_format import ChatFormat, alike, chat_format
from tunesmith.tasks.graded import next_tokens
from tunesmith.tasks.messages import Columns, Conversation, Form, read_messages
from tunesmith.tasks.replies import FEWEST_PROMPT_TOKENS, end_of, plain_ids
from tunesmith.tasks.text import read_text
from tunesmith.tasks.transcript import fit


@dataclass(frozen=True)
class Said:
    """An assistant's message; as a text it is what it says."""

    message: Mapping[str, Any]

    def __str__(self) -> str:
        return said(self.message)


Prompt = str | Asked
Reply = str | Said
REPLIES = "\n\nAssistant:"
"""What stands before each reply in a conversation that is written as one text (HH-RLHF, arXiv:2204.05862)."""


@dataclass(frozen=True)
class Line:
    """A prompt and a reply behind it.

    ids, graded: [T], which tokens are the reply's, with the one that ends it. prompt: how many tokens are the
    prompt's. cut: how many more it had.
    """

    ids: list[int]
    graded: list[bool]
    prompt: int
    cut: int


def parted(row: Mapping[str, Any], prompt: str, replies: Mapping[str, str]) -> Mapping[str, Any]:
    """The row of a pair with its prompt in one column, and in those of the two replies nothing but them.

    Replies may repeat the prompt, which then needs no column: as lists of messages that begin alike, or as texts in
    HH-RLHF's form. A prompt that is there all the same must be what they begin with. Raises BadRow where a text is not,
    and for replies without a prompt that have none in common. TRL's `extract_prompt` reads them alike.
    """
    first, second = (row.get(column) for column in replies.values())
    given = row.get(prompt)
    before: str | list[Any]
    if isinstance(first, str) and isinstance(second, str) and given is None:
        size = _asked(prompt, first[: alike(first, second)])
        before = first[:size]
    elif isinstance(first, list | tuple) and isinstance(second, list | tuple) and min(len(first), len(second)) > 1:
        size = min(alike(first, second), len(first) - 1, len(second) - 1)
        before = list(first[:size])
        if given is None and not before:
            raise BadRow(prompt, "nothing", "a prompt, or replies that both begin with one", "no_prompt")
        if isinstance(given, str) and not any(_says(turn, given) for turn in before):
            column = next(iter(replies.values()))
            raise BadRow(column, "messages that do not begin with the prompt", shown(given), "other_prompt")
        if isinstance(given, list | tuple) and before[: len(given)] != list(given):
            return row
    else:
        return row
    sides = (first[size:], second[size:])
    return {**row, prompt: before, **dict(zip(replies.values(), sides, strict=True))}


def _asked(prompt: str, common: str) -> int:
    """How long the prompt is that two texts have in common."""
    end = common.rfind(REPLIES)
    if end < 0:
        expected = f"a prompt, or replies that both begin with one and then {shown(REPLIES)}"
        raise BadRow(prompt, "nothing", expected, "no_prompt")
    return end + len(REPLIES)


def _says(turn: Any, text: str) -> bool:
    said = turn.get("content", turn.get("value")) if isinstance(turn, Mapping) else None
    return isinstance(said, str) and said.strip() == text.strip()


def read_texts(row: Mapping[str, Any], prompt: str, replies: Mapping[str, str]) -> dict[str, Prompt | Reply]:
    """The prompt, and by name the replies in columns `replies`, all of them texts. Raises BadRow for any other."""
    return {"prompt": read_text(row, prompt), **{name: read_text(row, column) for name, column in replies.items()}}


def read_turns(row: Mapping[str, Any], prompt: str, replies: Mapping[str, str]) -> dict[str, Prompt | Reply]:
    """The same as turns of a conversation, read and checked as the chat task does.

    A prompt is a list of messages, or a text: a user's turn. A reply is a text, or a list of one assistant's message.
    Raises BadRow for all that the chat task refuses, and for a reply of several messages or with a weight.
    """
    found: dict[str, Prompt | Reply] = {}
    for name, column in replies.items():
        value = row.get(column)
        if isinstance(value, list | tuple) and len(value) != 1:
            expected = "a text, or a list of one message of the assistant"
            raise BadRow(column, f"{len(value)} messages", expected, "several_replies")
        columns = Columns(messages=prompt, prompt=prompt, completion=column)
        conversation = read_messages(row, columns, form=Form.PROMPT)
        *before, reply = conversation.messages
        if reply["weight"] != 1:
            found_weight = f"a reply that counts {reply['weight']:g}"
            raise BadRow(column, found_weight, "no weight, since replies are compared", "bad_weight")
        found |= {"prompt": Asked(replace(conversation, messages=tuple(before)), replied=False), name: Said(reply)}
    return found


@dataclass(frozen=True)
class Writer:
    """How a model is given prompts with replies, in at most `max_tokens` tokens."""

    tokenizer: PreTrainedTokenizerBase
    max_tokens: int

    @cached_property
    def format(self) -> ChatFormat:
        """How it is given conversations."""
        return chat_format(self.tokenizer)

    def behind(self, prompt: Prompt, replies: Sequence[Reply]) -> list[Line]:
        """Each reply behind the same prompt, which loses its oldest tokens where not all fit.

        A conversation loses whole turns first, as in the chat task. Raises BadRow where a reply leaves no room.
        """
        lines = [self._line(prompt, reply) for reply in replies]
        least = min(lines, key=lambda line: line.prompt)
        start, outside = least.ids[: least.prompt], [False] * least.prompt
        return [
            replace(least, ids=start + line.ids[line.prompt :], graded=outside + line.graded[line.prompt :])
            for line in lines
        ]

    def _line(self, prompt: Prompt, reply: Reply) -> Line:
        if isinstance(prompt, Asked):
            assert isinstance(reply, Said)
            return self._turns(prompt.conversation, reply)
        ids = list(self.tokenizer(prompt, split_special_tokens=True, verbose=False)["input_ids"])
        if len(ids) > 1 and ids[-1] == self.tokenizer.eos_token_id:
            ids = ids[:-1]
        written = [*plain_ids(self.tokenizer, str(reply)), end_of(self.tokenizer)]
        room = self.max_tokens - len(written)
        if room < min(len(ids), FEWEST_PROMPT_TOKENS):
            raise BadRow("reply", f"{len(written)} tokens", "room for a prompt before them", "reply_too_long")
        kept = ids[max(0, len(ids) - room) :]
        graded = [False] * len(kept) + [True] * len(written)
        return Line([*kept, *written], graded, len(kept), len(ids) - len(kept))

    def _turns(self, asked: Conversation, reply: Said) -> Line:
        whole = replace(asked, messages=(*asked.messages, reply.message))
        fitted = fit(self.format, whole, self.max_tokens)
        if not fitted.kept:
            raise BadRow("reply", "too many tokens", "room for a prompt before them", fitted.dropped[0])
        (made,) = fitted.kept
        graded = [weight > 0 for weight in made.weights]
        return Line(list(made.ids), graded, made.replies[0].prompt, made.cut)


def example(row: int, lines: Sequence[Line], more: Mapping[str, Sequence[float]]) -> Example:
    """A row of several sequences, a line each, with more columns. The first line tells what was cut."""
    columns: dict[str, Sequence[float]] = {
        "input_ids": [token for line in lines for token in line.ids],
        "labels": [label for line in lines for label in next_tokens(line.ids, line.graded)],
        PIECES: [len(line.ids) for line in lines],
        **more,
    }
    return Example(row, columns, lines[0].cut)


def mismatched(writer: Writer, records: Sequence[Record], place: int) -> Line | None:
    """A row's prompt with the reply of the next row, around the end, that has another prompt; None for one too long.

    Rows that follow one another are often replies to the same prompt: what those gain says little of other replies.
    """
    prompt = records[place].inputs["prompt"]
    following = [*records[place + 1 :], *records[:place], records[place]]
    other = next((record for record in following if record.inputs["prompt"] != prompt), following[0])
    try:
        (line,) = writer.behind(prompt, [other.inputs["completion"]])
    except BadRow:
        return None
    return line
