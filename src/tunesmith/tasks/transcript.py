"""Conversations as token ids, and which of them a model learns to write: its own replies, each up to its stop token.

A model's chat template writes the text. Where a reply starts is found by writing the conversation up to it with the
generation prompt, so that training sees the very ids that serving will use; `{% generation %}` marks are not needed.
"""

import json
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from inspect import signature
from typing import Any, Literal, NamedTuple

from jinja2 import TemplateError, TemplateSyntaxError
from jinja2.exceptions import SecurityError
from tokenizers import AddedToken, Tokenizer
from transformers import PreTrainedTokenizerBase

from tunesmith.errors import BadRow, UserError, nearest, shown
from tunesmith.tasks.messages import Conversation

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
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""`<|im_start|>role`, for tokenizers that have its two tokens."""
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
AHEAD = ("", "\n", ".", "x")
"""Texts to tokenise a continuation behind, so that the tokenizer does not take it for the start of a text."""
TEMPLATE_FAULTS = (TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError)
"""What running a template can raise: its own words, and faults of its expressions."""
REASONING_TAGS = (("<think>", "</think>"), ("[THINK]", "[/THINK]"), ("<|START_THINKING|>", "<|END_THINKING|>"))
NO_REASONING = re.compile("|".join(rf"\s*{re.escape(a)}\s*{re.escape(b)}\s*" for a, b in REASONING_TAGS))

Messages = Sequence[Mapping[str, Any]]
Policy = Literal["drop", "cut_prompt"]


@dataclass(frozen=True)
class ChatOptions:
    """What may be settled about the way a model's conversations are written.

    template: a name of TEMPLATES or a Jinja text; None for the tokenizer's own, `plain` where it has none.
    variables: what the template is given besides (`enable_thinking`, say). fold_system: where a template has no system
    turn, its text becomes the start of the first user turn, instead of a refused row. text_tokens: added tokens that
    texts may spell (`<answer>`, say). grade_empty_reasoning: an empty reasoning block of the template is learned, too.
    """

    template: str | None = None
    variables: Mapping[str, Any] = field(default_factory=dict)
    fold_system: bool = False
    text_tokens: tuple[str, ...] = ()
    grade_empty_reasoning: bool = False


class Reply(NamedTuple):
    """Where a graded reply lies: ids[:prompt] is what serving gives the model, ids[start:end] is graded.

    message: its place in the conversation. Between prompt and start stands what the template adds ungraded.
    """

    message: int
    prompt: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Transcript:
    """One training example, or a prompt.

    ids, weights: [T]; a weight says what predicting its id counts for, 0 is not graded. source: what an encoder reads;
    None for a decoder, whose prompt stands in ids. cut: tokens of the prompt that did not fit.
    """

    ids: tuple[int, ...]
    weights: tuple[float, ...]
    replies: tuple[Reply, ...] = ()
    source: tuple[int, ...] | None = None
    cut: int = 0

    @property
    def read(self) -> tuple[int, ...]:
        """The ids that hold the prompt."""
        return self.ids if self.source is None else self.source

    @property
    def tokens(self) -> int:
        """The longer of what is read and what is written."""
        return max(len(self.ids), len(self.read))


@dataclass(frozen=True, slots=True)
class Fitted:
    """The examples of one conversation that fit, and a reason for each that does not."""

    kept: tuple[Transcript, ...]
    dropped: tuple[str, ...] = ()


class ControlTokens:
    """The tokens that only a template may write, and a way to keep texts that spell them apart.

    Guarded are all special tokens and all other added ones, except `allowed`, blanks, and words (they begin and end
    with a letter or digit) that the template does not use. `mark` hides what spells one, or could become one beside the
    template's text, behind a name that nobody can guess; then the template runs; `encode` gives ids in which control
    ids stand only where the template wrote them. Where nothing spells one they are the tokenizer's own ids of the text.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template: str, allowed: Sequence[str] = ()) -> None:
        if not tokenizer.is_fast:
            raise UserError("tokenizer", "has no fast form", "chat needs a tokenizer with a tokenizer.json")
        self.tokenizer = tokenizer
        self.ids = {
            token.content: number
            for number, token in tokenizer.added_tokens_decoder.items()
            if token.content not in allowed
            and (token.special or token.content in template or not _is_text(token.content))
        }
        # An unknown letter gives the unknown token, which in some tokenizers is the end token, too.
        unknown = {tokenizer.unk_token_id} - {tokenizer.bos_token_id, tokenizer.eos_token_id}
        self.guarded = set(self.ids.values()) - unknown
        longest_first = sorted(self.ids, key=len, reverse=True)
        self._nonce = f"x{secrets.token_hex(16)}"
        self.written = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
        self._spelled = re.compile("|".join(map(re.escape, [self._nonce, *longest_first])))
        self._hidden = re.compile(f"{self._nonce}((?:[0-9a-f]{{2}})+)z")
        self._starts = {token[:size] for token in self.ids for size in range(1, len(token))}
        self._ends = {token[size:] for token in self.ids for size in range(1, len(token))}
        self._longest = max(map(len, self.ids), default=0)
        self._all = "\ud800".join(self.ids)

    def mark(self, text: str) -> str:
        """`text` with all hidden that is, or at its edges could be completed to, a control token."""
        core = text.strip()
        spans = [found.span() for found in self._spelled.finditer(text)]
        left = len(text) - len(text.lstrip())
        right = left + len(core)
        if 0 < len(core) < self._longest and core in self._all:
            spans.append((left, right))
        sizes = range(min(self._longest - 1, len(core)), 0, -1)
        head = next((size for size in sizes if core[:size] in self._ends), 0)
        tail = next((size for size in sizes if core[-size:] in self._starts), 0)
        return self._hide(text, [*spans, (left, left + head), (right - tail, right)])

    def mark_whole(self, text: str) -> str:
        """`text` with only whole control tokens hidden, for names and types, which templates compare."""
        return self._hide(text, [found.span() for found in self._spelled.finditer(text)])

    def mark_call(self, call: Mapping[str, Any]) -> dict[str, Any]:
        """A tool call with its names and its arguments marked."""
        arguments = _mapped(call["function"]["arguments"], self.mark_whole, self.mark)
        return {
            **_mapped(call, self.mark_whole),
            "function": {**_mapped(call["function"], self.mark_whole), "arguments": arguments},
        }

    def expand(self, marked: str) -> str:
        """The text with what was hidden shown again."""
        return self._hidden.sub(lambda found: bytes.fromhex(found[1]).decode("utf-8", "surrogatepass"), marked)

    def encode(self, marked: str) -> list[int]:
        """Token ids of a text that a template wrote from marked texts, without any that are not in it.

        Raises BadRow when the tokenizer cannot tell a text from a control token.
        """
        wanted = [self.ids[found[0]] for found in self.written.finditer(marked)]
        hidden = [found[0] for found in self._hidden.finditer(marked)]
        if len(hidden) != marked.lower().count(self._nonce):
            found = "a text that spells a control token where the chat template changes its letters"
            raise BadRow("messages", found, "other words", "control_text")
        if not any(self.written.search(self.expand(text)) for text in hidden):
            text = self.expand(marked)
            given = self.tokenizer(text, add_special_tokens=False, return_attention_mask=False, verbose=False)
            ids = list(given["input_ids"])
            if self._only(wanted, ids):
                return ids
        ids = self._encode_apart(marked)
        if not self._only(wanted, ids):
            raise BadRow("messages", "a text that the tokenizer makes a control token", "other words", "control_text")
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`, control tokens included."""
        return str(self.tokenizer.decode(list(ids), clean_up_tokenization_spaces=False))

    def _only(self, wanted: Sequence[int], ids: Sequence[int]) -> bool:
        return [number for number in ids if number in self.guarded] == [n for n in wanted if n in self.guarded]

    def _hide(self, text: str, spans: Sequence[tuple[int, int]]) -> str:
        parts, at = [], 0
        for start, end in sorted(spans):
            if end > max(at, start):
                inner = text[max(at, start) : end]
                parts += [text[at:start], f"{self._nonce}{inner.encode('utf-8', 'surrogatepass').hex()}z"]
                at = end
        return "".join([*parts, text[at:]]) if parts else text

    def _encode_apart(self, marked: str) -> list[int]:
        twin, numbers = self._twin
        text = self.expand(self.written.sub(lambda found: self._alias(found[0]), marked))
        ids: list[int] = []
        for number in twin.encode(text, add_special_tokens=False).ids:
            if number in numbers:
                ids.append(numbers[number])
            elif number in self.guarded:  # a vocabulary that holds a control token's spelling as a piece of text
                for sign in self.tokenizer.convert_ids_to_tokens(number):
                    ids += [piece.id for piece in twin.model.tokenize(sign)] or twin.encode(sign).ids
            else:
                ids.append(number)
        return ids

    def _alias(self, token: str) -> str:
        return f"{self._nonce}{self.ids[token]}y"

    @cached_property
    def _twin(self) -> tuple[Tokenizer, dict[int, int]]:
        """The tokenizer, but control tokens have names that no text spells; and the ids of what was added to it."""
        made = json.loads(self.tokenizer.backend_tokenizer.to_str())
        added = made["added_tokens"]
        made |= {"added_tokens": [], "post_processor": None, "truncation": None, "padding": None}
        twin = Tokenizer.from_str(json.dumps(made))
        numbers = {}
        for token in added:
            guarded = token["content"] in self.ids
            name = self._alias(token["content"]) if guarded else token["content"]
            flags = {flag: token[flag] for flag in ("lstrip", "rstrip")}
            if not guarded:
                flags |= {flag: token[flag] for flag in ("single_word", "normalized")}
            twin.add_tokens([AddedToken(name, **({"normalized": False} | flags))])
            numbers[name] = token["id"]
        return twin, {number: numbers[token.content] for number, token in twin.get_added_tokens_decoder().items()}


def _mapped(value: Any, name: Callable[[str], str], text: Callable[[str], str] | None = None) -> Any:
    """Lists and objects with `name` applied to the objects' names and `text`, or else `name`, to all other texts."""
    if isinstance(value, str):
        return (text or name)(value)
    if isinstance(value, Mapping):
        return {name(key): _mapped(item, name, text) for key, item in value.items()}
    return [_mapped(item, name, text) for item in value] if isinstance(value, list | tuple) else value


def _agree(one: Sequence[Any], other: Sequence[Any]) -> int:
    """How many items at the start of both are equal."""
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _is_text(token: str) -> bool:
    return token.isspace() or (token[:1].isalnum() and token[-1:].isalnum())


@dataclass(frozen=True)
class Traits:
    """What trying a template out shows of it.

    cut: the end of its generation prompt that a written turn has not. header: the start of a turn that its generation
    prompt lacks. begins: what a prompt ends with, the beginning of a turn. lead: what it writes between prompt and
    reply. tail: what follows a reply, where no token stops it. stops: tokens that end a reply. system: whether it has
    a system turn; refusal: else what it does with one. tools: whether a call and its result show. json_arguments: a
    call's arguments are wanted as a text. reasoning: it writes the reasoning of the last turn. empty_reasoning: the
    empty reasoning block that it puts before a reply without any.
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
        """
        messages = [dict(message) for message in conversation.messages]
        if messages and messages[0]["role"] == "system" and not self.traits.system:
            if not self.options.fold_system or len(messages) < 2 or messages[1]["role"] != "user":
                expected = f"none: the chat template {self.traits.refusal}; `fold_system` puts its text into the user's"
                raise BadRow("messages[0]", "a system turn", expected, "system_refused")
            messages[1]["content"] = f"{messages[0]['content']}\n\n{messages[1]['content']}"
            del messages[0]
        tools = _mapped(list(conversation.tools), self.control.mark_whole)
        return [self._marked(message) for message in messages], tools or None

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

        Raises BadRow with the template's words when it refuses, UserError when it is no template or may not run.
        """
        if not messages:
            raise BadRow("messages", "a reply without a turn before it", "a turn that it replies to", "no_prompt")
        try:
            text = self.tokenizer.apply_chat_template(
                list(messages),  # type: ignore[arg-type]
                tools=list(tools) if tools else None,
                chat_template=self.template,
                add_generation_prompt=prompt,
                tokenize=False,
                **self.options.variables,
            )
        except (TemplateSyntaxError, SecurityError) as error:
            raise UserError(
                "chat template", f"cannot be run: {shown(str(error), 200)}", "give another one as `template`"
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
        raise UserError("template", f"'{name}' is neither known nor a Jinja text", nearest(name, TEMPLATES))
    missing = [token for token in NEEDED.get(name, ()) if token not in tokenizer.get_added_vocab()]
    if missing:
        raise UserError(
            "template", f"'{name}' needs the token {missing[0]}", "take 'plain', or add it to the tokenizer"
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
        raise UserError("variables", f"'{min(ours)}' is set by tunesmith", "leave it out")
    template = options.template
    if template is None and not tokenizer.chat_template:
        template = "plain"
    if template is not None and "{" not in template:
        template = named_template(tokenizer, template, encoder_decoder=encoder_decoder)
    for token in options.text_tokens:
        ends = token in (tokenizer.bos_token, tokenizer.eos_token) or token in (template or _own(tokenizer))
        if ends or token not in tokenizer.get_added_vocab():
            raise UserError("text_tokens", f"'{token}' is no added token that a text may spell", "leave it out")
    control = ControlTokens(tokenizer, template or _own(tokenizer), options.text_tokens)
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
        raise UserError("chat template", f"cannot write a question and its reply: {error}", "give another") from error
    shared = both[0][: _agree(*both)]
    if not all(text[len(shared) :].startswith(probe) for text, probe in zip(both, PROBES, strict=True)):
        raise UserError("chat template", "does not write an assistant's reply", "give another one as `template`")
    after = both[0][len(shared) + len(PROBES[0]) :]
    stop = format.control.written.search(after)
    common = shared[: _agree(prompt, shared)]
    if "ping" not in common:
        raise UserError("chat template", "writes a question otherwise once it is answered", "give another one")
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


def _system_traits(format: ChatFormat, traits: Traits) -> Traits:
    turns = [{"role": "system", "content": "quokka"}, {"role": "user", "content": "ping"}]
    try:
        return traits if "quokka" in format.write(turns, None, prompt=True) else _without(traits, "does not write it")
    except BadRow as error:
        return _without(traits, f"says {shown(str(error.__cause__), 200)}")


def _without(traits: Traits, refusal: str) -> Traits:
    return replace(traits, system=False, refusal=refusal)


def _tool_traits(format: ChatFormat, traits: Traits) -> Traits:
    """Adds whether calls can be written, in which form their arguments are wanted, and which token ends them."""
    for call in (PROBE_CALL, _with_json_arguments(PROBE_CALL)):
        asked: list[dict[str, Any]] = [{"role": "user", "content": "ping"}]
        called = [*asked, {"role": "assistant", "content": "", "tool_calls": [call]}]
        result = {"role": "tool", "content": "quokka", "tool_call_id": "call00000", "name": "clock"}
        try:
            prompt = format.write(asked, [PROBE_TOOL], prompt=True)
            text = format.write(called, [PROBE_TOOL])
            seen = "clock" in text[_agree(prompt, text) :] and "UTC" in text
            seen = seen and "quokka" in format.write([*called, result], [PROBE_TOOL], prompt=True)
        except BadRow:
            continue
        stops = list(traits.stops)
        last = [found[0] for found in format.control.written.finditer(text)][-1:]
        if seen and stops and last and format.tokenizer.added_tokens_decoder[format.control.ids[last[0]]].special:
            stops += last
        return replace(traits, tools=seen, json_arguments=call is not PROBE_CALL, stops=tuple(dict.fromkeys(stops)))
    return traits


def stop_ids(format: ChatFormat) -> tuple[int, ...]:
    """The ids that end generation: the template's own stop tokens, then the tokenizer's end token."""
    ids = [format.control.ids[token] for token in format.traits.stops]
    eos = format.tokenizer.eos_token_id
    return tuple(dict.fromkeys([*ids, *([int(eos)] if eos is not None else [])]))


def prompt_ids(format: ChatFormat, conversation: Conversation) -> tuple[int, ...]:
    """What serving gives the model for a reply to the last turn: the very ids that such a reply was trained behind.

    For an encoder-decoder these are the encoder's input. Raises BadRow as training does.
    """
    return _prompt(format, conversation).read


def transcripts(format: ChatFormat, conversation: Conversation) -> list[Transcript]:
    """The training examples of a checked conversation: one of the whole, or one for each graded reply.

    It is one when each reply's prompt is the beginning of the whole. Where it is not (a template that writes earlier
    turns otherwise, tokens that join across the seam) or the replies have an encoder before them, each reply has its
    own example. Each graded reply ends in one stop token, and is graded with its message's weight.
    Raises BadRow for turns that the template refuses or writes otherwise behind a prompt.
    """
    messages, tools = format.marked(conversation)
    moved = len(conversation.messages) - len(messages)
    singles, weights = [], []
    for place, message in enumerate(conversation.messages):
        weight = float(message.get("weight", 1)) if message["role"] == "assistant" else 0.0
        if weight:
            ids, reply = _reply(format, messages[: place - moved + 1], tools, "reasoning_content" in message)
            singles.append((ids, reply._replace(message=place)))
            weights.append(weight)
    if format.encoder_decoder:
        return [
            Transcript(tuple(target), (weight,) * len(target), (reply,), _source(format, messages, tools, reply, moved))
            for (target, reply), weight in zip(singles, weights, strict=True)
        ]
    whole = format.control.encode(format.write(messages, tools)) if len(singles) > 1 else []
    if whole and all(whole[: reply.end] == ids[: reply.end] for ids, reply in singles):
        return [_transcript(whole, [reply for _, reply in singles], weights)]
    return [_transcript(ids, [reply], [weight]) for (ids, reply), weight in zip(singles, weights, strict=True)]


def _transcript(ids: Sequence[int], replies: Sequence[Reply], weights: Sequence[float]) -> Transcript:
    graded = [0.0] * len(ids)
    for reply, weight in zip(replies, weights, strict=True):
        graded[reply.start : reply.end] = [weight] * (reply.end - reply.start)
    return Transcript(tuple(ids), tuple(graded), tuple(replies))


def _prompt(format: ChatFormat, conversation: Conversation) -> Transcript:
    messages, tools = format.marked(conversation)
    ids = tuple(format.control.encode(format.write_prompt(messages, tools)))
    if format.encoder_decoder:
        return Transcript((), (), source=format.wrapped(ids))
    return Transcript(ids, (0.0,) * len(ids))


def _source(
    format: ChatFormat, messages: Messages, tools: Sequence[Any] | None, reply: Reply, moved: int
) -> tuple[int, ...]:
    asked = messages[: reply.message - moved]
    return format.wrapped(format.control.encode(format.write_prompt(asked, tools)))


def _reply(
    format: ChatFormat, messages: Messages, tools: Sequence[Any] | None, reasoned: bool
) -> tuple[list[int], Reply]:
    """The ids of marked messages up to a reply, their last, and where it lies; behind an encoder the reply's alone."""
    control, traits = format.control, format.traits
    block = "" if reasoned or format.options.grade_empty_reasoning else traits.empty_reasoning
    prompt = format.write_prompt(messages[:-1], tools)
    rest = _behind(format, prompt, format.write(messages, tools), reasoned)
    stop = next((found for found in control.written.finditer(rest) if found[0] in traits.stops), None)
    if format.encoder_decoder:
        text = (rest[: stop.start()] if stop else rest.removesuffix(traits.tail)).removeprefix(traits.lead)
        ids = [*control.encode(text), int(format.tokenizer.eos_token_id)]
        return ids, Reply(0, 0, 0, len(ids))
    rest = rest if stop else rest.removesuffix(traits.tail)
    asked = control.encode(prompt)
    block = block if rest.startswith(block) else ""
    before = _joined(format, prompt, asked, block) if block else asked
    ids = _joined(format, prompt + block, before, rest.removeprefix(block))
    start, stops = len(before), stop_ids(format)
    if stop is None:
        ids = [*ids, stops[0]]
    end = next(at for at in range(start, len(ids)) if ids[at] in stops) + 1
    return ids, Reply(0, len(asked), start, end)


def _behind(format: ChatFormat, prompt: str, text: str, reasoned: bool) -> str:
    """What `text` holds behind `prompt`; where earlier turns were written otherwise, what its last turn holds."""
    if text.startswith(prompt):
        return text[len(prompt) :]
    begins, written = format.traits.begins, format.control.written
    rest = text[text.rfind(begins) + len(begins) :] if begins in text else ""
    stops = [found[0] for found in written.finditer(rest) if found[0] in format.traits.stops]
    # Without a token in `begins` a text could spell it, and a second stop shows that it begins an earlier turn.
    if not written.search(begins) or len(stops) != 1:
        found = f"a reply{' with reasoning' * reasoned} that the chat template does not write behind its own prompt"
        raise BadRow("messages", found, "turns that it writes as in serving", "template_rewrites")
    return rest


def _joined(format: ChatFormat, prompt: str, asked: list[int], rest: str) -> list[int]:
    """The ids of prompt and rest that begin with the prompt's own, though its last letters may join the next ones."""
    control = format.control
    whole = control.encode(prompt + rest)
    if whole[: len(asked)] == asked:
        return whole
    wanted = control.decode(whole)
    for ahead in AHEAD:
        before, behind = control.encode(ahead), control.encode(ahead + rest)
        if behind[: len(before)] == before and control.decode(asked + behind[len(before) :]) == wanted:
            return asked + behind[len(before) :]
    raise BadRow("messages", "a reply that no tokens continue the prompt with", "another beginning of it", "seam")


def fit(format: ChatFormat, conversation: Conversation, max_tokens: int, policy: Policy = "cut_prompt") -> Fitted:
    """The conversation's examples within `max_tokens` tokens each (for an encoder-decoder, of each side).

    `drop` leaves out what is longer. `cut_prompt` keeps every reply whole: a long conversation becomes its beginning
    and an example for each later reply, whose prompt loses the oldest turns behind the system turn, and then tokens
    from the left; a reply that is too long by itself is dropped. `cut` counts the tokens that a prompt lost.
    """
    kept: list[Transcript] = []
    dropped: list[str] = []
    for made in transcripts(format, conversation):
        if made.tokens <= max_tokens:
            kept.append(made)
            continue
        if policy == "drop":
            dropped.append("too_long")
            continue
        fitting = [reply for reply in made.replies if reply.end <= max_tokens and format.encoder_decoder is False]
        if fitting:
            end = fitting[-1].end
            kept.append(replace(made, ids=made.ids[:end], weights=made.weights[:end], replies=tuple(fitting)))
        for reply in made.replies[len(fitting) :]:
            alone = _alone(conversation, reply.message)
            shorter = _shortened(format, alone, max_tokens, lambda part: transcripts(format, part)[0])
            if shorter is None:
                dropped.append("reply_too_long")
            else:
                place = tuple(one._replace(message=reply.message) for one in shorter.replies)
                kept.append(replace(shorter, replies=place))
    return Fitted(tuple(kept), tuple(dropped))


def fit_prompt(format: ChatFormat, conversation: Conversation, max_tokens: int) -> Transcript:
    """The prompt for a reply to the last turn within `max_tokens`, cut as training prompts are; `cut` says how much.

    Raises UserError when not even the last token of the prompt fits.
    """
    made = _shortened(format, conversation, max_tokens, lambda part: _prompt(format, part))
    if made is None:
        raise UserError("messages", f"do not fit into {max_tokens} tokens", "allow more tokens for the prompt")
    return made


def _alone(conversation: Conversation, place: int) -> Conversation:
    """The conversation up to the reply at `place`, with only that one graded."""
    earlier = [{**message, "weight": 0} for message in conversation.messages[:place]]
    return replace(conversation, messages=(*earlier, conversation.messages[place]))


def _shortened(
    format: ChatFormat, conversation: Conversation, max_tokens: int, make: Callable[[Conversation], Transcript]
) -> Transcript | None:
    """The example that `make` gives of as many of the newest turns as fit; None when the reply alone does not."""
    messages = conversation.messages
    first = 1 if messages[0]["role"] == "system" else 0
    whole = made = make(conversation)
    for start in range(first + 1, len(messages)):
        if made.tokens <= max_tokens:
            break
        if messages[start]["role"] == "user":
            made = make(replace(conversation, messages=messages[:first] + messages[start:]))
    fitted = made if made.tokens <= max_tokens else _cut_left(format, made, max_tokens)
    return fitted and replace(fitted, cut=len(whole.read) - len(fitted.read))


def _cut_left(format: ChatFormat, made: Transcript, max_tokens: int) -> Transcript | None:
    """`made` without as many of its first tokens as are too many; the start token, and what is written, stay."""
    reads, over = made.read, len(made.read) - max_tokens
    if format.encoder_decoder:
        if len(made.ids) > max_tokens:
            return None
        opening, ending = len(format.opening), len(format.closing)
    else:
        opening = int(reads[0] == format.tokenizer.bos_token_id)
        ending = len(reads) - made.replies[0].prompt if made.replies else 0
    if len(reads) - opening - ending - over < 1:
        return None
    kept = reads[:opening] + reads[opening + over :]
    if format.encoder_decoder:
        return replace(made, source=kept)
    moved = tuple(Reply(r.message, r.prompt - over, r.start - over, r.end - over) for r in made.replies)
    return replace(made, ids=kept, weights=made.weights[:opening] + made.weights[opening + over :], replies=moved)
