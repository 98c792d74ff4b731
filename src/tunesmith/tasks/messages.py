"""Conversations, read from rows of the forms in common use into one: a list of messages with roles."""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from tunesmith.errors import BadRow, nearest, shown
from tunesmith.tasks.text import read_text

ROLES: Mapping[str, str] = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bing", "bard", "bot", "model"), "assistant"),
    **dict.fromkeys(("function_call", "tool_call"), "assistant"),
    **dict.fromkeys(("tool", "observation", "function", "function_response", "tool_response", "ipython"), "tool"),
}
"""Names that data sets give to the four roles."""
CALLERS = ("function_call", "tool_call")
"""Roles whose text is a tool call in JSON."""
PAIRS = (
    ("question", "answer"),
    ("query", "response"),
    ("prompt", "response"),
    ("instruction", "response"),
    ("input", "output"),
    ("source", "target"),
)
"""Columns of what is asked and what is answered, as they are usually called; the first that a row has is taken."""
TEXT_PARTS = ("text", "input_text", "output_text")
REASONING_FIELDS = ("reasoning_content", "reasoning", "thinking")

THOUGHT = re.compile(r"\s*<think>(.*?)</think>\n*", re.DOTALL)
CALLED = re.compile(r"<tool_call>\s*(\{.*?\})\s*</tool_call>", re.DOTALL)
RETURNED = re.compile(r"\s*<tool_response>\s*(.*?)\s*</tool_response>\s*", re.DOTALL)


class Form(StrEnum):
    """How a row holds a conversation."""

    MESSAGES = "messages"
    SHAREGPT = "sharegpt"
    PROMPT = "prompt"
    ALPACA = "alpaca"
    PAIR = "pair"


@dataclass(frozen=True, slots=True)
class Columns:
    """Names of a row's columns. source, target: of a pair; None for the first of PAIRS that a row has."""

    messages: str = "messages"
    conversations: str = "conversations"
    prompt: str = "prompt"
    completion: str = "completion"
    instruction: str = "instruction"
    input: str = "input"
    output: str = "output"
    history: str = "history"
    system: str = "system"
    tools: str = "tools"
    source: str | None = None
    target: str | None = None


USUAL = Columns()


@dataclass(frozen=True, slots=True)
class Conversation:
    """Messages in the form that chat templates read, and the tools that may be called.

    A message has a `role` (system, user, assistant, tool) and a `content`, a text. An assistant's also has a `weight`,
    what its tokens count for (0: context only), and may have `reasoning_content` and `tool_calls` (each an `id` and a
    `function` with `name` and `arguments`, an object). A tool's has the `tool_call_id` and `name` that it answers.
    """

    messages: tuple[Mapping[str, Any], ...]
    tools: tuple[Mapping[str, Any], ...] = ()


def detect_form(row: Mapping[str, Any], columns: Columns = USUAL) -> Form:
    """How `row` holds its conversation, by its columns. Raises BadRow when no form fits."""
    has = {name for name, value in row.items() if value is not None}
    if columns.source is not None:
        return Form.PAIR
    for column in (columns.messages, columns.conversations):
        if column in has:
            turns = _listed(row[column], column)
            spoken = any(isinstance(turn, Mapping) and turn.get("from") is not None for turn in turns)
            return Form.SHAREGPT if spoken else Form.MESSAGES
    if columns.prompt in has and (columns.completion in has or not _pair(has)):
        return Form.PROMPT
    if columns.instruction in has and (columns.output in has or not _pair(has)):
        return Form.ALPACA
    if _pair(has) or any(source in has for source, _ in PAIRS):
        return Form.PAIR
    expected = f"'{columns.messages}', '{columns.prompt}' and '{columns.completion}', or '{columns.instruction}'"
    raise BadRow(columns.messages, f"columns {', '.join(map(shown, row)) or 'none'}", f"columns {expected}", "no_form")


def read_messages(
    row: Mapping[str, Any],
    columns: Columns = USUAL,
    *,
    form: Form | None = None,
    system: str | None = None,
    with_target: bool = True,
) -> Conversation:
    """The conversation of a raw row, checked.

    form: None to detect it. system: the system turn of rows that have none. Without a target the conversation ends
    where a reply is wanted. Turns are kept as they are: two assistant turns in a row stay two, since merging them would
    teach what nobody wrote. Of a prompt that is a list of messages, only the completion is graded.
    Raises BadRow, whose `reason` says which rule was broken.
    """
    form = form or detect_form(row, columns)
    raw = list(_raw_turns(row, form, columns, with_target))
    messages = [message for field, turn in raw if (message := _message(field, turn)) is not None]
    given = "" if row.get(columns.system) is None else _text(columns.system, row[columns.system])
    spoken = any(message["role"] == "system" for message in messages)
    if given.strip() or (system and not spoken):
        messages.insert(0, {"role": "system", "content": given if given.strip() else system})
    where = columns.conversations if form is Form.SHAREGPT else columns.messages
    _link_calls(messages, where)
    _check(messages, where, with_target)
    return Conversation(tuple(messages), _tools(row.get(columns.tools), columns.tools))


def _raw_turns(
    row: Mapping[str, Any], form: Form, columns: Columns, with_target: bool
) -> Iterable[tuple[str, Mapping[str, Any]]]:
    """Each turn as the row has it, and the name that an error calls it by."""
    if form in (Form.MESSAGES, Form.SHAREGPT):
        column = columns.messages if row.get(columns.messages) is not None else columns.conversations
        yield from _named(row.get(column), column)
    elif form is Form.PROMPT:
        for field, turn in _sided(row, columns.prompt, "user"):
            yield field, {**turn, "weight": 0}
        if with_target:
            yield from _sided(row, columns.completion, "assistant")
    elif form is Form.ALPACA:
        for place, pair in enumerate(_listed(row.get(columns.history) or [], columns.history)):
            field = f"{columns.history}[{place}]"
            if not isinstance(pair, Sequence) or isinstance(pair, str) or len(pair) != 2:
                raise BadRow(field, shown(pair), "a question and its answer", "bad_turn")
            yield from (
                (field, {"role": role, "content": text}) for role, text in zip(("user", "assistant"), pair, strict=True)
            )
        more = row.get(columns.input)
        blank = more is None or (isinstance(more, str) and not more.strip())
        extra = "" if blank else f"\n{read_text(row, columns.input)}"
        yield columns.instruction, {"role": "user", "content": read_text(row, columns.instruction) + extra}
        if with_target:
            yield columns.output, {"role": "assistant", "content": _reply(row, columns.output)}
    else:
        source, target = _pair_of(row, columns)
        yield source, {"role": "user", "content": read_text(row, source)}
        if with_target:
            yield target, {"role": "assistant", "content": _reply(row, target)}


def _sided(row: Mapping[str, Any], column: str, role: str) -> Iterable[tuple[str, Mapping[str, Any]]]:
    """The turns of a column that holds a text, which `role` says, or a list of messages."""
    if isinstance(row.get(column), list | tuple):
        yield from _named(row[column], column)
    else:
        yield column, {"role": role, "content": _reply(row, column) if role == "assistant" else read_text(row, column)}


def _reply(row: Mapping[str, Any], column: str) -> str:
    value = row.get(column)
    return "" if isinstance(value, str) and not value.strip() else read_text(row, column)  # an empty reply has a rule


def _named(value: Any, column: str) -> Iterable[tuple[str, Mapping[str, Any]]]:
    for place, turn in enumerate(_listed(value, column)):
        if not isinstance(turn, Mapping):
            raise BadRow(f"{column}[{place}]", shown(turn), "a message with role and content", "bad_turn")
        yield f"{column}[{place}]", turn


def _listed(value: Any, column: str) -> Sequence[Any]:
    """A list, or one written as JSON."""
    if isinstance(value, str):
        value = _parsed(value, column, "a list of messages", "bad_turn")
    if not isinstance(value, list | tuple):
        raise BadRow(column, shown(value), "a list of messages", "bad_turn")
    return value


def _pair(has: set[str]) -> tuple[str, str] | None:
    return next((pair for pair in PAIRS if has.issuperset(pair)), None)


def _pair_of(row: Mapping[str, Any], columns: Columns) -> tuple[str, str]:
    has = {name for name, value in row.items() if value is not None}
    found = _pair(has) or next((pair for pair in PAIRS if pair[0] in has), PAIRS[0])
    return columns.source or found[0], columns.target or found[1]


def _message(field: str, raw: Mapping[str, Any]) -> dict[str, Any] | None:
    """One message in the common form; None for a system turn that says nothing."""
    turn = {name: value for name, value in raw.items() if value is not None}
    said = turn.get("role", turn.get("from"))
    role = ROLES.get(said.strip().lower()) if isinstance(said, str) else None
    if role is None:
        raise BadRow(f"{field}.role", shown(said), f"a role; {nearest(str(said), ROLES)}", "unknown_role")
    content = _text(f"{field}.content", turn.get("content", turn.get("value", "")))
    if role == "system":
        return {"role": role, "content": content} if content.strip() else None
    if role == "assistant":
        return _assistant(field, turn, content, calls=str(said).strip().lower() in CALLERS)
    if role == "user":
        if not content.strip():
            silent = f"a turn of {shown(said)} without text (keys {', '.join(map(shown, raw))})"
            raise BadRow(f"{field}.content", silent, "a text in content or value", "empty_text")
        return {"role": role, "content": content}
    found = RETURNED.fullmatch(content)
    known: dict[str, Any] = {name: str(turn[name]) for name in ("tool_call_id", "name") if name in turn}
    return {"role": role, "content": found[1] if found else content, **known}


def _assistant(field: str, turn: Mapping[str, Any], content: str, *, calls: bool) -> dict[str, Any]:
    """An assistant's message. Reasoning and tool calls that stand in its text are taken out into their own fields."""
    reasoning = next((str(turn[name]) for name in REASONING_FIELDS if name in turn), "")
    made: list[dict[str, Any]] = []
    if calls:
        made, content = _calls(f"{field}.content", content), ""
    elif "tool_calls" in turn or "function_call" in turn:
        made = _calls(f"{field}.tool_calls", turn.get("tool_calls", turn.get("function_call")))
    thought = THOUGHT.match(content)
    if thought:
        reasoning, content = reasoning or thought[1], content[thought.end() :]
    written = CALLED.findall(content)
    if written and not made and content.rstrip().endswith("</tool_call>"):
        content, _, rest = content.partition("<tool_call>")
        made, content = _calls(f"{field}.content", CALLED.findall("<tool_call>" + rest)), content.rstrip()
    if not content.strip() and not made:
        raise BadRow(f"{field}.content", "an empty reply", "a text or a tool call", "empty_reply")
    message = {"role": "assistant", "content": content, "weight": _weight(field, turn)}
    if reasoning.strip():
        message["reasoning_content"] = reasoning.strip("\n")
    return {**message, "tool_calls": made} if made else message


def _text(field: str, value: Any) -> str:
    """The text of a content that is one, or a list of parts that are. Raises BadRow for images and the like."""
    if isinstance(value, str):
        return value
    if isinstance(value, list | tuple):
        return "".join(part if isinstance(part, str) else _part(field, part) for part in value)
    raise BadRow(field, shown(value), "a text", "no_text")


def _part(field: str, part: Any) -> str:
    if not isinstance(part, Mapping) or part.get("type") not in TEXT_PARTS or not isinstance(part.get("text"), str):
        found = f"a part of type {shown(part.get('type'))}" if isinstance(part, Mapping) else shown(part)
        raise BadRow(field, found, "parts of type 'text' only", "no_text")
    return str(part["text"])


def _weight(field: str, turn: Mapping[str, Any]) -> float:
    for name in ("train", "weight"):
        value = turn.get(name, 1)
        if name == "train" and not isinstance(value, bool) and value not in (0, 1):
            raise BadRow(f"{field}.train", shown(value), "true or false", "bad_weight")
        if not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
            raise BadRow(f"{field}.weight", shown(value), "a number from 0", "bad_weight")
    return float(turn.get("weight", 1)) if turn.get("train", True) else 0.0


def _calls(field: str, value: Any) -> list[dict[str, Any]]:
    """Tool calls of the forms in use, as `{type, id?, function: {name, arguments}}`; JSON texts are parsed."""
    value = _parsed(value, field, "a tool call in JSON", "bad_call") if isinstance(value, str) else value
    made = []
    for call in value if isinstance(value, list | tuple) else [value]:
        call = _parsed(call, field, "a tool call in JSON", "bad_call") if isinstance(call, str) else call
        inner = call.get("function", call) if isinstance(call, Mapping) else call
        if not isinstance(inner, Mapping) or not isinstance(inner.get("name"), str):
            raise BadRow(field, shown(call), "a tool call with a name and arguments", "bad_call")
        arguments = inner.get("arguments", inner.get("parameters"))
        arguments = {} if arguments in (None, "") else arguments
        if isinstance(arguments, str):
            arguments = _parsed(arguments, f"{field}.arguments", "an object in JSON", "bad_call")
        if not isinstance(arguments, Mapping):
            raise BadRow(f"{field}.arguments", shown(arguments), "an object", "bad_call")
        function = {"name": inner["name"], "arguments": dict(arguments)}
        number = {"id": str(call["id"])} if call.get("id") else {}
        made.append({"type": "function", **number, "function": function})
    return made


def _tools(value: Any, column: str) -> tuple[Mapping[str, Any], ...]:
    """The tools that may be called, each as `{type: function, function: {name, …}}`."""
    if value in (None, "", [], ()):
        return ()
    value = _parsed(value, column, "a list of tools in JSON", "bad_tools") if isinstance(value, str) else value
    tools = []
    for tool in value if isinstance(value, list | tuple) else [value]:
        tool = _parsed(tool, column, "a tool in JSON", "bad_tools") if isinstance(tool, str) else tool
        inner = tool.get("function", tool) if isinstance(tool, Mapping) else tool
        if not isinstance(inner, Mapping) or not isinstance(inner.get("name"), str):
            raise BadRow(column, shown(tool), "a tool with a name", "bad_tools")
        tools.append({"type": "function", "function": dict(inner)})
    return tuple(tools)


def _parsed(text: str, field: str, expected: str, reason: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadRow(field, shown(text), expected, reason) from error


def _link_calls(messages: Sequence[dict[str, Any]], where: str) -> None:
    """Numbers calls that have no id, and tells each tool turn which call it answers. Raises BadRow for one without."""
    calls: dict[str, str] = {}
    open_calls: list[str] = []
    for place, message in enumerate(messages):
        for call in message.get("tool_calls", ()):
            call.setdefault("id", f"call{len(calls):05d}")  # nine letters and digits, as some templates demand
            calls[call["id"]] = call["function"]["name"]
            open_calls.append(call["id"])
        if message["role"] != "tool":
            continue
        answered = message.setdefault("tool_call_id", open_calls[0] if open_calls else "")
        if answered not in calls:
            found = f"a tool's result for {shown(answered)}" if answered else "a tool's result"
            raise BadRow(f"{where}[{place}]", found, "the assistant's tool call before it", "no_call")
        if answered in open_calls:
            open_calls.remove(answered)
        message.setdefault("name", calls[answered])


def _check(messages: Sequence[Mapping[str, Any]], where: str, with_target: bool) -> None:
    """Raises BadRow for an order of turns that cannot be learned from."""
    roles = [message["role"] for message in messages]
    if roles.count("system") > 1:
        raise BadRow(where, "two system turns", "one at most", "two_systems")
    if "system" in roles[1:]:
        raise BadRow(f"{where}[{roles.index('system')}]", "a system turn", "it first of all", "late_system")
    if not roles or roles == ["system"]:
        raise BadRow(where, "no turns", "a question" + " and a reply" * with_target, "no_turns")
    if roles[0] == "assistant":
        raise BadRow(f"{where}[0]", "an assistant's turn", "a turn that it replies to", "no_prompt")
    if not with_target:
        if roles[-1] not in ("user", "tool"):
            raise BadRow(
                where, f"a conversation that ends on {roles[-1]}", "a last turn of user or tool", "no_question"
            )
        return
    if "assistant" not in roles or not any(message.get("weight") for message in messages):
        raise BadRow(where, "no reply that is graded", "an assistant's turn to learn from", "no_reply")
    if roles[-1] != "assistant":
        found = f"a conversation that ends on {roles[-1]}"
        raise BadRow(where, found, "a last turn of assistant; cut the turns after it", "ends_without_reply")
