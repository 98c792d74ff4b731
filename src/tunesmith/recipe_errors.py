"""What is wrong with a recipe, in plain words: file, line, key, what was found, what was expected, the nearest name."""

import types
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from tunesmith.adapt import METHODS
from tunesmith.errors import UserError, kind, nearest, shown
from tunesmith.recipe_yaml import Document, Place
from tunesmith.tasks import TASKS

LIMITS = {
    "greater_than": ("more than {}", "gt"),
    "greater_than_equal": ("at least {}", "ge"),
    "less_than": ("less than {}", "lt"),
    "less_than_equal": ("at most {}", "le"),
    "string_too_short": ("at least {} characters", "min_length"),
    "too_short": ("at least {} entries", "min_length"),
    "too_long": ("at most {} entries", "max_length"),
}
"""Words for a limit that pydantic found broken, and the name of its bound."""
EXAMPLES = {
    "model": "model: builtin:minilm",
    "task": "task: {kind: classification, text: text, label: label}",
    "data": "data: tickets.jsonl",
}
"""A line for each section that a recipe must have."""
WORDS = {
    str: ("text", "texts"),
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    bool: ("true or false", "true or false values"),
    type(None): ("null", "nulls"),
}


class RecipeError(UserError):
    """Everything that is wrong with a recipe, a line each."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("recipe", f"{len(problems)} faults")
        self.args = ("\n".join(problems),)


def refusal(error: ValidationError, document: Document, recipe: type[BaseModel]) -> RecipeError:
    """The error that lists what pydantic found, in the order of the file."""
    groups: dict[tuple[Place, str], list[Mapping[str, Any]]] = {}
    for found in error.errors(include_url=False):
        place = _place(found["loc"], document.values, found["type"])
        groups.setdefault((place, "unknown" if found["type"] == "extra_forbidden" else ""), []).append(dict(found))
    lines = [(_line(document, place), _message(place, group, document, recipe)) for (place, _), group in groups.items()]
    return RecipeError([message for _, message in sorted(lines, key=lambda entry: entry[0])])


def _place(loc: Place, values: Any, problem: str) -> Place:
    """The part of pydantic's location that stands in the file: it goes on with the kinds of values it tried."""
    place: list[str | int] = []
    for key in loc:
        of_stages = place == ["stages"] and isinstance(values, list) and key in range(len(values))
        inside = of_stages or (isinstance(values, Mapping) and key in values)
        if not inside and not (problem == "missing" and key == loc[-1] and isinstance(values, Mapping)):
            break
        place.append(key)
        values = values[key] if inside else None
    return tuple(place)


def _line(document: Document, place: Place) -> int:
    return next((document.lines[place[:end]] for end in range(len(place), 0, -1) if place[:end] in document.lines), 0)


def _message(place: Place, group: Sequence[Mapping[str, Any]], document: Document, recipe: type[BaseModel]) -> str:
    first, values = group[0], document.values
    section, name = place[:-1], str(place[-1]) if place else ""
    if first["type"] == "extra_forbidden":
        known = known_keys(model_at(section, values, recipe), section)
        return f"{document.where(place, dotted(section, values))}: unknown key {shown(name)}; {nearest(name, known)}"
    own_words = next((found for found in group if found["type"] in ("said", "value_error")), None)
    if own_words is not None:
        return f"{document.where(place, dotted(place, values))}: {own_words['msg'].removeprefix('Value error, ')}"
    annotation = _annotation(place, document.values, recipe)
    if first["type"] == "missing" and place == first["loc"]:
        words = f"; write `{EXAMPLES[name]}`, say" if len(place) == 1 else f"; expected {expectation(annotation)}"
        return f"{document.where(section, dotted(section, values))}: key {shown(name)} is missing{words}"
    where = document.where(place, dotted(place, values))
    value = _value(place, document.values)
    of_a_list = get_origin(annotation) is tuple and first["loc"][:-1] == place and first["type"] != "missing"
    if of_a_list and len(group) == 1:
        annotation, value = get_args(annotation)[0], first["input"]
    return f"{where}: {_mismatch(group, annotation, value)}"


def _mismatch(group: Sequence[Mapping[str, Any]], annotation: Any, value: Any) -> str:
    """What was found instead of what: `found 'x', expected a number`."""
    limit = next((found for found in group if found["type"] in LIMITS), None)
    if limit is not None:
        words, bound = LIMITS[limit["type"]]
        return f"found {kind(limit['input'])}, expected {words.format(limit['ctx'][bound])}"
    choices = [choice for part in _members(annotation) if get_origin(part) is Literal for choice in get_args(part)]
    hint = nearest(value, map(str, choices)) if isinstance(value, str) and choices else ""
    hint = f"; {hint}" if hint.startswith("did you mean") else ""
    return f"found {kind(value)}, expected {expectation(annotation)}{hint}"


def expectation(annotation: Any, *, several: bool = False) -> str:
    """What a field of this type takes, in words: `text or a list of texts`."""
    members = _members(annotation)
    if len(members) > 1:
        return " or ".join(expectation(member, several=several) for member in members)
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return ("one of " if len(arguments) > 1 else "") + ", ".join(repr(choice) for choice in arguments)
    if origin in (tuple, list):
        count = "" if origin is list or Ellipsis in arguments else f"{len(arguments)} "
        return f"a list of {count}{expectation(arguments[0], several=True)}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "keys and values: " + ", ".join(known_keys(annotation, ()))
    return WORDS[annotation][several] if annotation in WORDS else "{kind: ...}"


def _members(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)


def dotted(place: Place, values: Any = None) -> str:
    """A place as a key is written; a stage is called by its name, where the values of the recipe are given."""
    named = values is not None and place[:1] == ("stages",) and len(place) > 1
    return ".".join(map(str, ("stages", values["stages"][place[1]]["name"], *place[2:]) if named else place))


def known_keys(model: type[BaseModel] | None, section: Place) -> list[str]:
    """The keys that a section takes."""
    fields = {} if model is None else model.model_fields
    return ["kind"] * (section in (("task",), ("method",))) + [field.alias or name for name, field in fields.items()]


def model_at(place: Place, values: Any, recipe: type[BaseModel]) -> type[BaseModel] | None:
    """The options class of the section at `place`."""
    model: type[BaseModel] | None = recipe
    for depth, key in enumerate(place):
        if depth == 0 and key in ("task", "method"):
            chosen = (TASKS if key == "task" else METHODS).load(values[key]["kind"])
            model = chosen if isinstance(chosen, type) and issubclass(chosen, BaseModel) else None
        elif not isinstance(key, int):
            members = [
                inner
                for part in _members(_field(model, key))
                for inner in (get_args(part) if get_origin(part) is tuple else (part,))
            ]
            model = next((part for part in members if isinstance(part, type) and issubclass(part, BaseModel)), None)
    return model


def _field(model: type[BaseModel] | None, key: object) -> Any:
    fields = {} if model is None else model.model_fields
    return next((field.annotation for name, field in fields.items() if (field.alias or name) == key), None)


def _annotation(place: Place, values: Any, recipe: type[BaseModel]) -> Any:
    return _field(model_at(place[:-1], values, recipe), place[-1]) if place else recipe


def _value(place: Place, values: Any) -> Any:
    for key in place:
        values = values[key]
    return values
