"""Conversations as token ids, and which of them a model learns to write: its own replies, each up to its stop token.

A model's chat template writes the text. Where a reply starts is found by writing the conversation up to it with the
generation prompt, so that training sees the very ids that serving will use; `{% generation %}` marks are not needed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

from tunesmith.errors import BadRow, UserError
from tunesmith.tasks.chat_format import ChatFormat, Messages, stop_ids
from tunesmith.tasks.messages import Conversation

AHEAD = ("", "\n", ".", "x")
"""Texts to tokenise a continuation behind, so that the tokenizer does not take it for the start of a text."""

Policy = Literal["drop", "cut_prompt"]


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
    block = "" if reasoned else traits.empty_reasoning
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
