"""How a model's conversations are written: its chat template, or one of ours, and what trying it out shows of it."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from inspect import signature
from typing import Any

from jinja2 import TemplateError, TemplateSyntaxError
from jinja2.exceptions import SecurityError
from transformers import PreTrainedTokenizerBase

from tunesmith.errors import BadRow, UserError, nearest, shown
from tunesmith.tasks.control_tokens import ControlTokens, mapped
from tunesmith.tasks.messages import Conversation
from tunesmith.tasks.time_limit import time_limit

PLAIN = (
    "{{ bos_token }}"
    "{% if tools %}{{ 'Tools: ' + (tools | tojson) + '\\n\\n' }}{% endif %}"
    "{% for message in messages %}"
    "{% if message.role == 'assistant' %}{{ 'Assistant: ' + message.content }}"
    "{% for call in message.tool_calls or [] %}{{ '\\nCall: ' + (call.function | tojson) }}{% endfor %}"
    "{{ eos_token }}{{ '\\n\\n' }}"
    "{% else %}{{ message.role.capitalize() + ': ' + message.content + '\\n\\n' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
"""`User: …`, a blank line, `Assistant: …` and the end token: what models without a template are given."""
CHATML = (
    "{{ bos_token }}"
    "{% if tools %}{{ '<|im_start|>system\\n' }}"
    "{% if messages[0].role == 'system' %}{{ messages[0].content + '\\n\\n' }}{% endif %}"
    "{{ 'Functions that can be called:\\n<tools>' }}"
    "{% for tool in tools %}{{ '\\n' + (tool | tojson) }}{% endfor %}"
    "{{ '\\n</tools>\\n\\nA call is written as\\n<tool_call>\\n"
    '{"name": NAME, "arguments": {KEY: VALUE}}\\n</tool_call><|im_end|>\\n\' }}'
    "{% endif %}"
    "{% for message in messages %}"
    "{% if message.role == 'tool' %}"
    "{% if messages[loop.index0 - 1].role != 'tool' %}{{ '<|im_start|>user' }}{% endif %}"
    "{{ '\\n<tool_response>\\n' + message.content + '\\n</tool_response>' }}"
    "{% if loop.last or messages[loop.index0 + 1].role != 'tool' %}{{ '<|im_end|>\\n' }}{% endif %}"
    "{% elif not (tools and loop.first and message.role == 'system') %}"
    "{{ '<|im_start|>' + message.role + '\\n' + (message.content or '') }}"
    "{% for call in message.tool_calls or [] %}"
    "{{ ('' if loop.first and not message.content else '\\n') + '<tool_call>\\n' + (call.function | tojson) }}"
    "{{ '\\n</tool_call>' }}"
    "{% endfor %}"
    "{{ '<|im_end|>\\n' }}"
    "{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""`<|im_start|>role`, for tokenizers that have its two tokens; tools and calls in the tags that Qwen's models use."""
TEMPLATES: Mapping[str, str] = {"plain": PLAIN, "chatml": CHATML}
NEEDED = {"chatml": ("<|im_start|>", "<|im_end|>")}
"""Tokens without which a named template would be read as mere text."""

PROBES = ("alpha", "zebu")
"""Replies that share neither their start nor their end: what both renderings share, the template wrote."""
PROBE_TOOL = {
    "type": "function",
    "function": {
        "name": "clock",
        "description": "The time.",
        "parameters": {"type": "object", "properties": {"zone": {"type": "string", "description": "A time zone."}}},
    },
}
PROBE_CALL = {"id": "call00000", "type": "function", "function": {"name": "clock", "arguments": {"zone": "UTC"}}}
TEMPLATE_FAULTS = (
    TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError, MemoryError
)  # fmt: skip
"""What running a template can raise: its own words, and faults of its expressions."""
TEMPLATE_SECONDS = 10.0
"""How long a template may work on one conversation."""
REASONING_TAGS = (("<think>", "</think>"), ("[THINK]", "[/THINK]"), ("<|START_THINKING|>", "<|END_THINKING|>"))
NO_REASONING = re.compile("|".join(rf"\s*{re.escape(a)}\s*{re.escape(b)}\s*" for a, b in REASONING_TAGS))

Messages = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class ChatOptions:
    """What may be settled about the way a model's conversations are written.

    template: a name of TEMPLATES or a Jinja text; None for the tokenizer's own, `plain` where it has none.
    variables: what the template is given besides (`enable_thinking`, say). fold_system: where a template has no system
    turn, its text becomes the start of the first user turn, instead of a refused row.
    """

    template: str | None = None
    variables: Mapping[str, Any] = field(default_factory=dict)
    fold_system: bool = False


@dataclass(frozen=True)
class Traits:
    """What trying a template out shows of it.

    cut: the end of its generation prompt that a written turn has not. header: the start of a turn that its generation
    prompt lacks. begins: what a prompt ends with, the beginning of a turn. lead: what it writes between prompt and
    reply. tail: what follows a reply, where no token stops it. stops: tokens that end a reply. system: whether it has
    a system turn; refusal: else what it does with one. tools: whether a call and its result show. offers: whether the
    list of tools shows. json_arguments: a call's arguments are wanted as a text. reasoning: it writes the reasoning of
    the last turn. empty_reasoning: the empty reasoning block that it puts before a reply without any.
    """

    cut: str = ""
    header: str = ""
    begins: str = ""
    lead: str = ""
    tail: str = ""
    stops: tuple[str, ...] = ()
    system: bool = True
    refusal: str = ""
    tools: bool = False
    offers: bool = False
    json_arguments: bool = False
    reasoning: bool = False
    empty_reasoning: str = ""


@dataclass(frozen=True)
class ChatFormat:
    """How a model's conversations are written: tokenizer, template, and what trying it out has shown.

    template: None for the tokenizer's own. opening, closing: ids that an encoder's input begins and ends with.
    """

    tokenizer: PreTrainedTokenizerBase
    template: str | None
    options: ChatOptions
    control: ControlTokens
    encoder_decoder: bool = False
    opening: tuple[int, ...] = ()
    closing: tuple[int, ...] = ()
    traits: Traits = Traits()

    @property
    def source(self) -> str:
        """The template's text."""
        return self.template or _own(self.tokenizer)

    def marked(self, conversation: Conversation) -> tuple[list[dict[str, Any]], list[Any] | None]:
        """Messages and tools as the template is given them: what spells a control token is hidden.

        Raises BadRow for a system turn where the template has none, unless it may be folded: then there is a turn less.
        Raises BadRow for tool calls and tools that the template does not write: it would teach replies without them.
        """
        self._require_tools(conversation)
        messages = [dict(message) for message in conversation.messages]
        if messages and messages[0]["role"] == "system" and not self.traits.system:
            if not self.options.fold_system or len(messages) < 2 or messages[1]["role"] != "user":
                expected = f"none: the chat template {self.traits.refusal}; `fold_system` puts its text into the user's"
                raise BadRow("messages[0]", "a system turn", expected, "system_refused")
            messages[1]["content"] = f"{messages[0]['content']}\n\n{messages[1]['content']}"
            del messages[0]
        tools = mapped(list(conversation.tools), self.control.mark_whole)
        return [self._marked(message) for message in messages], tools or None

    def _require_tools(self, conversation: Conversation) -> None:
        expected = "none: the chat template does not write {}; see `template`"
        called = [place for place, message in enumerate(conversation.messages) if message.get("tool_calls")]
        if called and not self.traits.tools:
            where, wanted = f"messages[{called[0]}].tool_calls", expected.format("calls and their results")
            raise BadRow(where, "a tool call", wanted, "template_writes_no_tool_calls")
        if conversation.tools and not self.traits.offers:
            raise BadRow("tools", "a list of tools", expected.format("one"), "template_writes_no_tools")

    def _marked(self, message: Mapping[str, Any]) -> dict[str, Any]:
        control = self.control
        made: dict[str, Any] = {"role": message["role"], "content": control.mark(message["content"])}
        made |= {name: control.mark(message[name]) for name in ("name", "reasoning_content") if name in message}
        if "tool_call_id" in message:
            made["tool_call_id"] = control.mark_whole(message["tool_call_id"])
        if "tool_calls" in message:
            calls = [control.mark_call(call) for call in message["tool_calls"]]
            made["tool_calls"] = list(map(_with_json_arguments, calls)) if self.traits.json_arguments else calls
        if "reasoning_content" in made and not self.traits.reasoning:
            # Templates that know reasoning only as a part of the text look for its tags there.
            thought = made.pop("reasoning_content")
            first, last = next((tags for tags in REASONING_TAGS if tags[0] in control.ids), REASONING_TAGS[0])
            made["content"] = f"{first}\n{thought}\n{last}\n\n{made['content']}"
        return made

    def write(self, messages: Messages, tools: Sequence[Any] | None, *, prompt: bool = False) -> str:
        """The template's text of marked messages; with its generation prompt for a `prompt`.

        It runs in the sandbox of `transformers`, which lets it reach and change nothing outside.
        Raises BadRow with the template's words when it refuses, UserError when it is no template, may not run, or does
        not come to an end.
        """
        if not messages:
            raise BadRow("messages", "a reply without a turn before it", "a turn that it replies to", "no_prompt")
        try:
            with time_limit(TEMPLATE_SECONDS):
                text = self.tokenizer.apply_chat_template(
                    list(messages),  # type: ignore[arg-type]
                    tools=list(tools) if tools else None,
                    chat_template=self.template,
                    add_generation_prompt=prompt,
                    tokenize=False,
                    **self.options.variables,
                )
        except (TemplateSyntaxError, SecurityError, TimeoutError) as error:
            raise UserError(
                "chat template", f"cannot be run: {shown(str(error), 200)}", "give another one as task.template"
            ) from error
        except TEMPLATE_FAULTS as error:
            words = f"turns that the chat template refuses ({shown(str(error), 200)})"
            raise BadRow("messages", words, "turns that it can write", "template_refused") from error
        return str(text)

    def write_prompt(self, messages: Messages, tools: Sequence[Any] | None) -> str:
        """The marked text that a reply follows, the same in training and in serving."""
        return self.write(messages, tools, prompt=True).removesuffix(self.traits.cut) + self.traits.header

    def wrapped(self, ids: Sequence[int]) -> tuple[int, ...]:
        """`ids` as an encoder's input, with the tokens that its tokenizer begins and ends a text with."""
        ids = tuple(ids)
        opening = self.opening if ids[: len(self.opening)] != self.opening else ()
        return opening + ids + (self.closing if ids[len(ids) - len(self.closing) :] != self.closing else ())


def _with_json_arguments(call: Mapping[str, Any]) -> dict[str, Any]:
    function = call["function"]
    return {**call, "function": {**function, "arguments": json.dumps(function["arguments"], ensure_ascii=False)}}


def _own(tokenizer: PreTrainedTokenizerBase) -> str:
    own = tokenizer.chat_template
    return "\0".join(own.values()) if isinstance(own, dict) else str(own or "")


def named_template(tokenizer: PreTrainedTokenizerBase, name: str, *, encoder_decoder: bool = False) -> str:
    """The Jinja text of the template called `name`, as it suits this tokenizer.

    It writes a start token only where the tokenizer itself puts one before a text, and for an encoder neither start
    nor end token. Raises UserError for an unknown name, or a tokenizer that lacks the template's tokens.
    """
    if name not in TEMPLATES:
        raise UserError("task.template", f"'{name}' is neither known nor a Jinja text", nearest(name, TEMPLATES))
    missing = [token for token in NEEDED.get(name, ()) if token not in tokenizer.get_added_vocab()]
    if missing:
        raise UserError(
            "task.template", f"'{name}' needs the token {missing[0]}", "take 'plain', or add it with model.new_tokens"
        )
    text = TEMPLATES[name]
    if encoder_decoder:
        text = text.replace("{{ eos_token }}", "")
    starts = tokenizer.bos_token_id is not None and tokenizer.bos_token_id in tokenizer("a")["input_ids"]
    return text if starts and not encoder_decoder else text.replace("{{ bos_token }}", "")


def chat_format(
    tokenizer: PreTrainedTokenizerBase, options: ChatOptions | None = None, *, encoder_decoder: bool = False
) -> ChatFormat:
    """How conversations are written for this tokenizer, tried out on short ones.

    Raises UserError for a template that cannot write a question and its reply, for variables that are not the user's,
    and where neither the template nor the tokenizer has a token that ends a reply.
    """
    options = options or ChatOptions()
    ours = {"messages", *signature(tokenizer.apply_chat_template).parameters} & set(options.variables)
    if ours:
        raise UserError("task.template_values", f"'{min(ours)}' is set by tunesmith", "leave it out")
    template = options.template
    if template is None and not tokenizer.chat_template:
        template = "plain"
    if template is not None and "{" not in template:
        template = named_template(tokenizer, template, encoder_decoder=encoder_decoder)
    control = ControlTokens(tokenizer, template or _own(tokenizer))
    opening, closing = _wrapping(tokenizer)
    bare = ChatFormat(tokenizer, template, options, control, encoder_decoder, opening, closing)
    traits = _traits(bare)
    if tokenizer.eos_token_id is None and (encoder_decoder or not traits.stops):
        raise UserError("tokenizer", "has no end token, and its template stops no reply", "set its eos_token")
    return replace(bare, traits=traits)


def _wrapping(tokenizer: PreTrainedTokenizerBase) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The ids that the tokenizer itself puts before and after a text."""
    inner = list(tokenizer("a", add_special_tokens=False)["input_ids"])
    whole = list(tokenizer("a")["input_ids"])
    for at in range(len(whole) - len(inner) + 1):
        if whole[at : at + len(inner)] == inner:
            return tuple(whole[:at]), tuple(whole[at + len(inner) :])
    return (), ()


def _traits(format: ChatFormat) -> Traits:
    question: dict[str, Any] = {"role": "user", "content": "ping"}
    try:
        prompt = format.write([question], None, prompt=True)
        bare = format.write([question], None)
        both = [format.write([question, {"role": "assistant", "content": text}], None) for text in PROBES]
    except BadRow as error:
        raise UserError(
            "chat template", f"cannot write a question and its reply: {error}", "give another one as task.template"
        ) from error
    shared = both[0][: alike(*both)]
    if not all(text[len(shared) :].startswith(probe) for text, probe in zip(both, PROBES, strict=True)):
        raise UserError("chat template", "does not write an assistant's reply", "give another one as task.template")
    after = both[0][len(shared) + len(PROBES[0]) :]
    stop = format.control.written.search(after)
    common = shared[: alike(prompt, shared)]
    if "ping" not in common:
        raise UserError(
            "chat template", "writes a question otherwise once it is answered", "give another one as task.template"
        )
    rest = shared[len(common) :]
    header = rest.rstrip(" ") if prompt == common == bare and rest.strip() else ""
    opened = common + header
    block = [found for found in NO_REASONING.finditer(shared) if found.end() == len(shared) > len(opened)]
    traits = Traits(
        cut=prompt[len(common) :],
        header=header,
        begins=opened.removeprefix(bare) if opened.startswith(bare) else "",
        lead=rest[len(header) :],
        tail="" if stop else after,
        stops=(stop[0],) if stop else (),
        empty_reasoning=shared[max(block[-1].start(), len(opened)) :] if block else "",
    )
    thought = {"role": "assistant", "content": "alpha", "reasoning_content": "quokka"}
    traits = replace(traits, reasoning="quokka" in format.write([question, thought], None))
    return _tool_traits(format, _system_traits(format, traits))


def alike(one: Sequence[Any], other: Sequence[Any]) -> int:
    """How many items at the start of both are equal."""
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _system_traits(format: ChatFormat, traits: Traits) -> Traits:
    turns = [{"role": "system", "content": "quokka"}, {"role": "user", "content": "ping"}]
    try:
        return traits if "quokka" in format.write(turns, None, prompt=True) else _without(traits, "does not write it")
    except BadRow as error:
        return _without(traits, f"says {shown(str(error.__cause__), 200)}")


def _without(traits: Traits, refusal: str) -> Traits:
    return replace(traits, system=False, refusal=refusal)


def _tool_traits(format: ChatFormat, traits: Traits) -> Traits:
    """Adds whether tools and calls can be written, how a call's arguments are wanted, and which token ends one."""
    traits = replace(traits, offers=_offers(format))
    for call in (PROBE_CALL, _with_json_arguments(PROBE_CALL)):
        asked: list[dict[str, Any]] = [{"role": "user", "content": "ping"}]
        called = [*asked, {"role": "assistant", "content": "", "tool_calls": [call]}]
        result = {"role": "tool", "content": "quokka", "tool_call_id": "call00000", "name": "clock"}
        try:
            prompt = format.write(asked, [PROBE_TOOL], prompt=True)
            text = format.write(called, [PROBE_TOOL])
            seen = "clock" in text[alike(prompt, text) :] and "UTC" in text
            seen = seen and "quokka" in format.write([*called, result], [PROBE_TOOL], prompt=True)
        except BadRow:
            continue
        stops = list(traits.stops)
        last = [found[0] for found in format.control.written.finditer(text)][-1:]
        if seen and stops and last and format.tokenizer.added_tokens_decoder[format.control.ids[last[0]]].special:
            stops += last
        return replace(traits, tools=seen, json_arguments=call is not PROBE_CALL, stops=tuple(dict.fromkeys(stops)))
    return traits


def _offers(format: ChatFormat) -> bool:
    """Whether the template writes the list of tools."""
    try:
        return "clock" in format.write([{"role": "user", "content": "ping"}], [PROBE_TOOL], prompt=True)
    except BadRow:
        return False


def stop_ids(format: ChatFormat) -> tuple[int, ...]:
    """The ids that end generation: the template's own stop tokens, then the tokenizer's end token."""
    ids = [format.control.ids[token] for token in format.traits.stops]
    eos = format.tokenizer.eos_token_id
    return tuple(dict.fromkeys([*ids, *([int(eos)] if eos is not None else [])]))
