"""Tasks that are known by the columns they need: tagged words, questions, choices, conversations, pairs of texts."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from tunesmith.errors import shown
from tunesmith.prepare.columns import Column

BY_COLUMNS: Mapping[str, tuple[str, ...]] = {
    "preference": ("prompt", "chosen", "rejected"),
    "multiple_choice": ("question", "choices", "answer"),
    "span_qa": ("question", "context", "answers"),
    "ner": ("tokens", "tags"),
    "chat": ("messages",),
    "code": ("prompt", "solution"),
    "generation": ("source", "target"),
    "language": ("text",),
}
"""The columns that each of these tasks looks for when nothing else is said, by its own options' names."""
PAIRS = (
    ("source", "target"),
    ("source", "targets"),
    ("input", "output"),
    ("article", "highlights"),
    ("article", "summary"),
    ("document", "summary"),
    ("dialogue", "summary"),
)
"""Columns of a text and of one that is written from it."""
QUESTION, ANSWER = "question", "answer"
"""The same of questions that no text stands beside."""
LANGUAGES = re.compile(
    "ar|bg|cs|da|de|el|en|es|et|fa|fi|fr|he|hi|hr|hu|it|ja|ko|lt|lv|nl|pl|pt|ro|ru|sk|sv|tr|uk|vi|zh"
)
"""Codes of languages that name the columns of a text and its translation; none that is a word for something else."""
CONTEXTS = ("context", "article", "passage")
QUESTIONS, CHOICES = ("question", "ctx"), ("choices", "options", "endings")
ANSWERS = ("answer", "answerkey", "label")
TAGS = ("tags", "ner_tags", "labels")
SPANS = ("spans", "entities", "ents", "label", "labels")
REPLIES = (("prompt", "completion", "prompt"), ("instruction", "output", "alpaca"))
"""Columns of what is asked and answered, and what the chat task calls rows of that form."""
MARK_OF_REPLIES = "\n\nAssistant:"
"""What stands before a reply where a conversation is one text (HH-RLHF)."""
MARK = re.compile(r"\[\[[^\[\]|]+\|[^\[\]]+\]\]")


@dataclass(frozen=True)
class Layout:
    """What rows can be used for. options: the task's, by name. why: a sentence that says what was seen."""

    kind: str
    why: str
    options: Mapping[str, Any] = field(default_factory=dict)


Named = Mapping[str, Column]


def by_names(columns: Sequence[Column]) -> Layout | None:
    """The task whose usual columns these are, if they hold what it needs and no labels."""
    there = _named(columns)
    found = (look(there) for look in _LOOKS.values())
    return next((layout for layout in found if layout is not None and not _holds_labels(layout, columns)), None)


def as_asked(kind: str, columns: Sequence[Column], texts: Sequence[Column]) -> Layout | None:
    """The columns for one of BY_COLUMNS, its usual ones where no better are found; None for `language` without a text.

    texts: what is most likely the text of each row.
    """
    there = _named(columns)
    if kind == "language":
        return Layout(kind, f"text: {shown(texts[0].name)}", {"text": texts[0].name}) if texts else None
    found = _LOOKS[kind](there) or (_marked(columns) if kind == "ner" else _in_order(kind, columns))
    if found is not None:
        return found
    needed = BY_COLUMNS[kind]
    why = f"{kind} usually has {', '.join(map(shown, needed))}, which are not here: name your columns under task"
    return Layout(kind, why, {name: name for name in needed})


def _named(columns: Iterable[Column]) -> Named:
    return {column.name.strip().lower(): column for column in columns if column.is_filled}


def _holds_labels(layout: Layout, columns: Sequence[Column]) -> bool:
    """Whether what would be written are a few values that come again and again."""
    written = layout.options.get("reply", layout.options.get("target"))
    return any(column.name == written and column.different <= column.most_labels for column in columns)


def _of(kind: str, why: str, **options: Column | str | None) -> Layout:
    given = {key: value.name if isinstance(value, Column) else value for key, value in options.items()}
    return Layout(kind, f"{kind}: {why}", {key: value for key, value in given.items() if value is not None})


def _first(there: Named, names: Iterable[str]) -> Column | None:
    """The first of these columns that is there."""
    return next((there[name] for name in names if name in there), None)


def _preference(there: Named) -> Layout | None:
    prompt, chosen, rejected = there.get("prompt"), there.get("chosen"), there.get("rejected")
    if prompt is None and chosen is not None and rejected is not None:
        if not (_hold_prompts(chosen) and _hold_prompts(rejected)):
            return None
        why = (
            f"{shown(chosen.name)} and {shown(rejected.name)} begin with a prompt and end with a good and a worse reply"
        )
        return _of("preference", why, chosen=chosen, rejected=rejected)
    if prompt is None or not (prompt.is_text or all(map(_are_messages, prompt.values))):
        return None
    if chosen is not None and rejected is not None and all(_are_replies(one, prompt) for one in (chosen, rejected)):
        why = f"a reply in {shown(chosen.name)} and a worse one in {shown(rejected.name)} to each {shown(prompt.name)}"
        return _of("preference", why, prompt=prompt, chosen=chosen, rejected=rejected)
    reply, label = there.get("completion"), there.get("label")
    if reply is None or label is None or not _are_replies(reply, prompt):
        return None
    if not all(isinstance(value, bool) for value in label.values):
        return None
    why = f"{shown(label.name)} says whether {shown(reply.name)} is a good reply to {shown(prompt.name)}"
    return _of("preference", why, criterion="kto", prompt=prompt, completion=reply, label=label)


def _are_replies(column: Column, prompt: Column) -> bool:
    """Whether these are texts, or messages to prompts that are messages or stand before the replies."""
    messages = all(map(_are_messages, column.values))
    return column.is_text or (messages and (not prompt.is_text or _hold_prompts(column)))


def _hold_prompts(column: Column) -> bool:
    """Whether prompts stand before the replies: as messages, or in HH-RLHF's form."""
    if column.is_text:
        return all(MARK_OF_REPLIES in value for value in column.values)
    return all(_are_messages(value) and len(value) > 1 for value in column.values)


def _choice(there: Named) -> Layout | None:
    question, choices, answer = (_first(there, names) for names in (QUESTIONS, CHOICES, ANSWERS))
    if question is None or choices is None or answer is None:
        return None
    if not question.is_text or not (choices.is_list or all(map(_are_labelled, choices.values))):
        return None
    context = _first(there, CONTEXTS)
    context = context if context is not None and context.is_text else None
    why = f"{shown(answer.name)} is one of the answers in {shown(choices.name)}"
    return _of("multiple_choice", why, question=question, context=context, choices=choices, answer=answer)


def _are_labelled(value: Any) -> bool:
    """Whether these are answers with what each is called, as ARC has them."""
    return isinstance(value, Mapping) and all(isinstance(value.get(key), list) for key in ("text", "label"))


def _answers(there: Named) -> Layout | None:
    if not all(name in there for name in BY_COLUMNS["span_qa"]):
        return None
    question, context, answers = (there[name] for name in BY_COLUMNS["span_qa"])
    if not question.is_text or not context.is_text:
        return None
    why = f"{shown(answers.name)} to {shown(question.name)} stand in {shown(context.name)}"
    return _of("span_qa", why, question=question, context=context, answers=answers)


def _entities(there: Named) -> Layout | None:
    tokens, tags = there.get("tokens"), _first(there, TAGS)
    if tokens is not None and tags is not None and tokens.is_list and all(map(_are_numbers, tags.values)):
        why = f"{shown(tags.name)} has a number for each of {shown(tokens.name)}: name the tags in task.tag_names"
        return _of("ner", why, tokens=tokens, tags=tags)
    if tokens is not None and tags is not None and tokens.is_list and tags.is_list:
        scheme = scheme_of(tags.values)
        why = f"{shown(tags.name)} has a tag for each of {shown(tokens.name)}, in the scheme {scheme}"
        return _of("ner", why, tokens=tokens, tags=tags, scheme=None if scheme == "IOB2" else scheme)
    text, spans = there.get("text"), _first(there, SPANS)
    if text is None or spans is None or not text.is_text or not all(map(_are_spans, spans.values)):
        return None
    why = f"{shown(spans.name)} are parts of {shown(text.name)}"
    return _of("ner", why, text=text, spans=spans) if any(spans.values) else None


def _are_spans(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_span, value))


def _is_span(value: Any) -> bool:
    if isinstance(value, Mapping):
        return {"start", "end", "label"} <= set(value)
    places = value[:2] if isinstance(value, list) and len(value) == 3 else ()
    return bool(places) and all(isinstance(place, int) for place in places) and isinstance(value[2], str)


def _are_numbers(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(part, int) for part in value)


def _conversation(there: Named) -> Layout | None:
    for name in ("messages", "conversations"):
        if name in there and all(map(_are_messages, there[name].values)):
            return _of("chat", f"{shown(there[name].name)} holds conversations", messages=there[name])
    for first, second, form in REPLIES:
        asked, reply = there.get(first), there.get(second)
        if asked is not None and reply is not None and asked.is_text and reply.is_text:
            why = f"{shown(reply.name)} answers {shown(asked.name)}"
            return _of("chat", why, form=form, prompt=asked, reply=reply)
    return None


def _are_messages(value: Any) -> bool:
    turns = isinstance(value, list) and value
    return bool(turns) and all(isinstance(turn, Mapping) and ("role" in turn or "from" in turn) for turn in value)


def _pair(there: Named) -> Layout | None:
    alone = () if _first(there, CONTEXTS) is not None else ((QUESTION, ANSWER),)
    spoken = tuple(name for name in there if LANGUAGES.fullmatch(name) and there[name].is_text)
    for first, second in (*PAIRS, *alone, *((spoken,) if len(spoken) == 2 else ())):
        source, target = there.get(first), there.get(second)
        if source is not None and target is not None and source.is_text and (target.is_text or target.is_list):
            why = f"{shown(target.name)} is written from {shown(source.name)}"
            return _of("generation", why, source=source, target=target)
    return None


def _program(there: Named) -> Layout | None:
    prompt, solution = there.get("prompt"), there.get("solution", there.get("canonical_solution"))
    if prompt is None or solution is None or not prompt.is_text or not (solution.is_text or solution.is_list):
        return None
    test, entry = there.get("test"), there.get("entry_point")
    entry = None if test is None else entry
    why = f"{shown(solution.name)} goes on with {shown(prompt.name)}"
    return _of("code", why, prompt=prompt, solution=solution, test=test, entry_point=entry)


def _marked(columns: Sequence[Column]) -> Layout | None:
    """The text that holds marks for its entities."""
    marked = {
        column.name: sum(bool(MARK.search(value)) for value in column.values) for column in columns if column.is_text
    }
    best = max(marked, key=lambda name: marked[name], default="")
    if not marked.get(best):
        return None
    return Layout("ner", f"ner: {marked[best]} rows of {shown(best)} hold marks like [[LABEL|words]]", {"text": best})


def _in_order(kind: str, columns: Sequence[Column]) -> Layout | None:
    """The first two columns of texts, for tasks that make one text of another."""
    texts = [column for column in columns if column.is_text and column.is_filled]
    if kind not in ("chat", "generation") or len(texts) < 2:
        return None
    why = f"{shown(texts[1].name)} is taken for what is written from {shown(texts[0].name)}, by their order"
    if kind == "chat":
        return _of(kind, why, form="pair", prompt=texts[0], reply=texts[1])
    return _of(kind, why, source=texts[0], target=texts[1])


_LOOKS: Mapping[str, Callable[[Named], Layout | None]] = {
    "preference": _preference,
    "multiple_choice": _choice,
    "span_qa": _answers,
    "ner": _entities,
    "chat": _conversation,
    "code": _program,
    "generation": _pair,
}


def scheme_of(rows: Iterable[Sequence[str]]) -> str:
    """What the tags of some sentences follow: IOB2, IOB1, IOBES or BILOU, or `any` where that is none of these."""
    parts = {tag[0] for tags in rows for tag in tags if tag[1:2] == "-"}
    if parts & {"E", "S"}:
        return "IOBES"
    if parts & {"L", "U"}:
        return "BILOU"
    opening = {tag[0] for tags in rows for before, tag in pairwise(("O", *tags)) if tag[1:] and tag[1:] != before[1:]}
    return "IOB2" if "I" not in opening else "IOB1" if "B" not in opening else "any"
