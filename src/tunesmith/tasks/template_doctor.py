"""Whether a tokenizer and its chat template can be trained and served with: checks on short fixed conversations."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from transformers import GenerationConfig, PretrainedConfig, PreTrainedTokenizerBase

from tunesmith.errors import BadRow, UserError, shown
from tunesmith.tasks.chat_format import ChatFormat, ChatOptions, chat_format, stop_ids
from tunesmith.tasks.messages import Conversation
from tunesmith.tasks.transcript import prompt_ids, transcripts

Level = Literal["ok", "warning", "error"]

REPLY = "the lamp is not late."
ASKED: dict[str, Any] = {"role": "user", "content": "Is the kettle late?"}
ANSWERED: dict[str, Any] = {"role": "assistant", "content": REPLY, "weight": 1.0}
ONE = Conversation((ASKED, ANSWERED))
TWO = Conversation((ASKED, ANSWERED, {"role": "user", "content": "And the lamp?"}, ANSWERED))
SYSTEM = {"role": "system", "content": "You are the shop's clerk."}
THOUGHT = "reasoning of an earlier turn"
SAMPLE = "Two  spaces,\na new line, naïve 你好 السلام 🫖."


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What one check found. level: "ok", "warning" (it works, and one should know) or "error" (it does not work)."""

    name: str
    level: Level
    message: str


def diagnose(
    tokenizer: PreTrainedTokenizerBase,
    options: ChatOptions | None = None,
    *,
    encoder_decoder: bool = False,
    config: PretrainedConfig | None = None,
    generation: GenerationConfig | None = None,
) -> list[Diagnosis]:
    """What each check found, in a fixed order; a template that cannot be used ends with that one error.

    config: the model's, to compare its vocabulary. generation: the model's, to see whether it ends where replies do.
    """
    options = options or ChatOptions()
    try:
        format = chat_format(tokenizer, options, encoder_decoder=encoder_decoder)
    except UserError as error:
        return [Diagnosis("template", "error", str(error)), *_vocabulary(tokenizer, config)]
    found = [_checked(name, check, format) for name, check in CHECKS.items()]
    return [*found, *_generation(format, generation), *_vocabulary(tokenizer, config)]


def _checked(name: str, check: Callable[[ChatFormat], tuple[Level, str]], format: ChatFormat) -> Diagnosis:
    try:
        return Diagnosis(name, *check(format))
    except BadRow as error:
        return Diagnosis(name, "error", f"a plain conversation is refused: {error}")


def _template(format: ChatFormat) -> tuple[Level, str]:
    if format.template is None:
        return "ok", "the tokenizer's own"
    if format.options.template is not None:
        return "ok", "the one that was given"
    return "warning", "the tokenizer has none; 'plain' is used (User: …, Assistant: …)"


def _date(format: ChatFormat) -> tuple[Level, str]:
    if "strftime_now" in format.source:
        return "warning", "prompts hold today's date, so training and serving differ; set it as a template variable"
    return "ok", "prompts do not depend on the day"


def _bos(format: ChatFormat) -> tuple[Level, str]:
    bos = format.tokenizer.bos_token_id
    if bos is None:
        return "ok", "the tokenizer has no start token"
    counts = {prompt_ids(format, Conversation((ASKED,))).count(bos), _single(format).count(bos)}
    token = shown(str(format.tokenizer.bos_token))
    if max(counts) > 1:
        return "error", f"the template writes {token} {max(counts)} times in a single turn"
    adds = bos in format.tokenizer("a")["input_ids"]
    if counts == {1}:
        return "ok", f"one {token}, by the template" + "; its text must not be tokenised with special tokens" * adds
    return ("warning" if adds else "ok"), f"no {token}" + ", though the tokenizer puts one before other texts" * adds


def _single(format: ChatFormat) -> Sequence[int]:
    made = transcripts(format, ONE)[0]
    return made.ids if made.source is None else made.source


def _padding(format: ChatFormat) -> tuple[Level, str]:
    tokenizer = format.tokenizer
    if tokenizer.pad_token_id is None:
        return "ok", "no padding token; rows are padded with an id that is never read"
    if tokenizer.pad_token_id in stop_ids(format):
        token = shown(str(tokenizer.pad_token))
        return "ok", f"{token} pads and ends replies; padding is told by length, so the end is learned all the same"
    return "ok", f"{shown(str(tokenizer.pad_token))} is for padding only"


def _stop(format: ChatFormat) -> tuple[Level, str]:
    eos, stops = format.tokenizer.eos_token, format.traits.stops
    if not stops:
        return "warning", f"the template ends no reply; {shown(str(eos))} is put behind each, one example a reply"
    tokens = " or ".join(map(shown, stops))
    if format.tokenizer.eos_token_id is None:
        return "ok", f"a reply ends in {tokens}"
    if eos not in stops:
        return (
            "warning",
            f"a reply ends in {tokens}, the tokenizer's end token is {shown(str(eos))}; both end generation",
        )
    return "ok", f"a reply ends in {tokens}, the tokenizer's end token"


def _one_end(format: ChatFormat) -> tuple[Level, str]:
    made = transcripts(format, ONE)[0]
    ends = [number for number in made.ids[made.replies[0].start :] if number in stop_ids(format)]
    if len(ends) > 1:
        tokens = ", ".join(shown(str(format.tokenizer.convert_ids_to_tokens(number))) for number in ends)
        return "warning", f"a reply is followed by {len(ends)} end tokens ({tokens}); the first is learned"
    return "ok", "each reply has one end token"


def _turns(format: ChatFormat) -> tuple[Level, str]:
    if format.encoder_decoder:
        return "ok", "an encoder reads the prompt; one example a reply"
    longer = replace(TWO, messages=(SYSTEM, *TWO.messages)) if format.traits.system else TWO
    if len(transcripts(format, longer)) == 1:
        return "ok", "each prompt is the beginning of its conversation; one example a conversation"
    return "warning", "a prompt is not the beginning of its conversation's tokens; one example a reply, turn by turn"


def _earlier(format: ChatFormat) -> tuple[Level, str]:
    thoughtful = replace(TWO, messages=(ASKED, {**ANSWERED, "reasoning_content": THOUGHT}, *TWO.messages[2:]))
    messages, tools = format.marked(TWO)
    first, later = format.write(messages[:2], tools), format.write(messages, tools)
    stop = format.control.written.search(first, first.rfind(REPLY))
    if not later.startswith(first[: stop.end()] if stop else first):
        return "warning", "the template writes earlier turns otherwise than it wrote them as the last"
    reasoned, _ = format.marked(thoughtful)
    if THOUGHT in format.write(reasoned[:2], tools) and THOUGHT not in format.write(reasoned, tools):
        return "warning", "the template drops the reasoning of earlier turns; rows with reasoning go turn by turn"
    return "ok", "earlier turns stay as they were written"


def _prompt(format: ChatFormat) -> tuple[Level, str]:
    traits = format.traits
    if traits.header:
        return "warning", f"the template has no generation prompt; {shown(traits.header)} is added to it"
    if traits.cut:
        return (
            "warning",
            f"the generation prompt's {shown(traits.cut)} is in no written reply; it is left out everywhere",
        )
    return "ok", "the generation prompt is the beginning of a written reply"


def _reasoning(format: ChatFormat) -> tuple[Level, str]:
    block = format.traits.empty_reasoning
    thoughtful, _ = format.marked(Conversation((ASKED, {**ANSWERED, "reasoning_content": THOUGHT})))
    if THOUGHT not in format.write(thoughtful, None):
        return "warning", "the template drops the reasoning of a reply; only what follows it is learned"
    if not block:
        return "ok", "reasoning is written, and no empty block where there is none"
    message = f"the template puts {shown(block)} before a reply without reasoning; it is not learned"
    variables = {**format.options.variables, "enable_thinking": False}
    other = chat_format(
        format.tokenizer, replace(format.options, variables=variables), encoder_decoder=format.encoder_decoder
    )
    hint = "" if other.traits.empty_reasoning else "; with the variable enable_thinking: false the prompt holds it"
    return "warning", message + hint


def _system(format: ChatFormat) -> tuple[Level, str]:
    if format.traits.system:
        return "ok", "system turns are written"
    if format.options.fold_system:
        return "ok", "the template has no system turn; it becomes the start of the first user turn"
    return "warning", f"a system turn is refused, for the template {format.traits.refusal}; see `fold_system`"


def _tools(format: ChatFormat) -> tuple[Level, str]:
    if not format.traits.tools:
        return "warning", "tool calls and their results are not written; rows with some are refused"
    if not format.traits.offers:
        return "warning", "the list of tools is not written; rows with one are refused"
    return "ok", "tool calls and their results are written" + ", arguments as JSON" * format.traits.json_arguments


def _control_text(format: ChatFormat) -> tuple[Level, str]:
    spelled = " ".join(format.control.ids)
    said = {**ASKED, "content": f"Is {spelled} late?"}
    guarded = format.control.guarded

    def controls(conversation: Conversation) -> list[list[int]]:
        made = transcripts(format, conversation)
        return [[number for number in (*(one.source or ()), *one.ids) if number in guarded] for one in made]

    try:
        found = controls(Conversation((said, {**ANSWERED, "content": f"No, {spelled} came."})))
    except BadRow as error:
        return "error", f"texts that spell control tokens are refused: {error}"
    if found != controls(ONE):
        return "error", "a text can make control tokens"
    return "ok", f"texts cannot make control tokens ({len(format.control.ids)} are guarded)"


def _marks(format: ChatFormat) -> tuple[Level, str]:
    there = "present" if "{% generation" in format.source.replace("{%-", "{%") else "not there"
    return "ok", f"{{% generation %}} marks are {there}, and not needed"


def _round_trip(format: ChatFormat) -> tuple[Level, str]:
    back = format.control.decode(format.control.encode(SAMPLE))
    if back != SAMPLE:
        return "warning", f"tokens do not give their text back: {shown(SAMPLE)} becomes {shown(back)}"
    return "ok", "tokens give their text back"


CHECKS: dict[str, Callable[[ChatFormat], tuple[Level, str]]] = {
    "template": _template,
    "date": _date,
    "start token": _bos,
    "padding": _padding,
    "stop token": _stop,
    "one end": _one_end,
    "turns": _turns,
    "earlier turns": _earlier,
    "generation prompt": _prompt,
    "reasoning": _reasoning,
    "system": _system,
    "tools": _tools,
    "control text": _control_text,
    "generation marks": _marks,
    "round trip": _round_trip,
}


def _generation(format: ChatFormat, generation: GenerationConfig | None) -> list[Diagnosis]:
    """Whether the model's own settings stop generation where its replies end."""
    if generation is None:
        return []
    given: Any = generation.eos_token_id
    known = set(given if isinstance(given, list) else [given])
    wanted = stop_ids(format)[: max(1, len(format.traits.stops))]
    missing = [shown(str(format.tokenizer.convert_ids_to_tokens(n))) for n in wanted if n not in known]
    if missing:
        return [Diagnosis("generation", "warning", f"the model's settings do not stop at {', '.join(missing)}")]
    return [Diagnosis("generation", "ok", "the model's settings stop where replies end")]


def _vocabulary(tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig | None) -> list[Diagnosis]:
    """Whether each token has a row in the model's embeddings."""
    if config is None:
        return []
    rows, tokens = int(config.get_text_config().vocab_size), max(tokenizer.get_vocab().values()) + 1
    if tokens > rows:
        return [
            Diagnosis("vocabulary", "error", f"{tokens} tokens, but only {rows} rows of embeddings; resize the model")
        ]
    return [Diagnosis("vocabulary", "ok", f"{tokens} tokens, {rows} rows of embeddings")]
