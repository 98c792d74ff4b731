"""The tokens that only a chat template may write, and ids of texts in which nothing that spells one becomes one."""

import json
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

from tokenizers import AddedToken, Tokenizer
from transformers import PreTrainedTokenizerBase

from tunesmith.errors import BadRow, UserError


class ControlTokens:
    """The tokens that only a template may write, and a way to keep texts that spell them apart.

    Guarded are all special tokens and all other added ones, except blanks and words (they begin and end with a
    letter or digit) that the template does not use. `mark` hides what spells one, or could become one beside the
    template's text, behind a name that nobody can guess; then the template runs; `encode` gives ids in which control
    ids stand only where the template wrote them. Where nothing spells one they are the tokenizer's own ids of the text.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template: str) -> None:
        if not tokenizer.is_fast:
            raise UserError("tokenizer", "has no fast form", "chat needs a tokenizer with a tokenizer.json")
        self.tokenizer = tokenizer
        self.ids = {
            token.content: number
            for number, token in tokenizer.added_tokens_decoder.items()
            if token.special or token.content in template or not _is_text(token.content)
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
        arguments = mapped(call["function"]["arguments"], self.mark_whole, self.mark)
        return {
            **mapped(call, self.mark_whole),
            "function": {**mapped(call["function"], self.mark_whole), "arguments": arguments},
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


def mapped(value: Any, name: Callable[[str], str], text: Callable[[str], str] | None = None) -> Any:
    """Lists and objects with `name` applied to the objects' names and `text`, or else `name`, to all other texts."""
    if isinstance(value, str):
        return (text or name)(value)
    if isinstance(value, Mapping):
        return {name(key): mapped(item, name, text) for key, item in value.items()}
    return [mapped(item, name, text) for item in value] if isinstance(value, list | tuple) else value


def _is_text(token: str) -> bool:
    return token.isspace() or (token[:1].isalnum() and token[-1:].isalnum())
