"""Writes the tables of docs/ and README.md from the code that they describe, between `<!-- generated: NAME -->` marks.

`python docs/generate.py` makes them anew; `--check` changes nothing and fails when one is out of date.
"""

import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
import yaml
from pydantic.fields import FieldInfo

from tunesmith.adapt import METHODS
from tunesmith.catalog import Catalog
from tunesmith.evaluate.options import ProbeOptions
from tunesmith.options import Options
from tunesmith.recipe import Recipe
from tunesmith.recipe_stages import SECTIONS, Gate, Stage
from tunesmith.search.options import CompareOptions
from tunesmith.tasks import TASKS
from tunesmith.train.options import StopOptions, UnfreezeOptions

ROOT = Path(__file__).parent.parent
REGION = re.compile(r"(<!-- generated: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
MODELS = (
    "bert", "roberta", "distilbert", "electra", "deberta-v2", "modernbert", "xlm-roberta", "gpt2", "gpt_neox", "llama",
    "mistral", "qwen2", "qwen3", "gemma", "gemma2", "phi", "phi3", "deepseek_v2", "deepseek_v3", "falcon", "bloom",
    "t5", "mt5", "bart", "mbart", "m2m_100", "pegasus",
)  # fmt: skip
"""The kinds of models whose layers the tests know, as `transformers` calls them."""
LAYERS = ("num_hidden_layers", "num_layers", "encoder_layers", "decoder_layers", "num_decoder_layers")
PLAIN = {str: "text", int: "whole number", float: "number", bool: "yes or no"}
SIGNS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}


def kind_of(annotation: Any) -> str:
    """What may stand for a field, in words; null is left to the default."""
    parts = get_args(annotation)
    if annotation in PLAIN:
        return PLAIN[annotation]
    if get_origin(annotation) is Literal:
        return ", ".join(f"`{part}`" for part in parts)
    if get_origin(annotation) in (Union, UnionType):
        return " or ".join(kind_of(part) for part in parts if part is not NoneType)
    if get_origin(annotation) is tuple:
        of = kind_of(parts[0])
        return f"list of {of}" if parts[-1] is Ellipsis else f"list of {len(parts)}: {of}"
    if get_origin(annotation) is Mapping:
        return "keys and values"
    if get_origin(annotation) is Annotated:
        return kind_of(parts[0])
    return "section"


def limits(field: FieldInfo) -> str:
    """The bounds of a field's numbers, in words."""
    found = []
    for rule in field.metadata:
        if isinstance(rule, annotated_types.MinLen):
            found.append("not empty")
            continue
        for name, sign in SIGNS.items():
            if isinstance(rule, getattr(annotated_types, name.capitalize())):
                bound = getattr(rule, name)
                found.append(f"{sign} {'2^63' if bound == 2**63 else bound}")
    return ", ".join(found)


def default(field: FieldInfo) -> str:
    """A field's default as it stands in YAML."""
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True, validated_data={})
    if isinstance(value, Options):
        kind = METHODS.name_of(type(value))
        return f"`{kind}`" if kind in METHODS else "see below"
    if isinstance(value, float):
        return f"`{value:g}`"
    if isinstance(value, str) and "\n" in value:
        return f"`{json.dumps(value)}`"  # on one line, and YAML all the same
    text = yaml.safe_dump(list(value) if isinstance(value, tuple) else value, default_flow_style=True)
    return f"`{text.removesuffix('...' + chr(10)).strip()}`"


def table(options: type[Options], *, without: Iterable[str] = ()) -> str:
    """The keys of a section: what may stand there, what stands there when nothing is said, and what it does."""
    lines = ["| key | value | default | meaning |", "|---|---|---|---|"]
    for name, field in keys(options, without):
        value = ", ".join(filter(None, (kind_of(field.annotation), limits(field))))
        meaning = re.sub(r"\bNone\b", "`null`", field.description or first_line(field.annotation))
        cells = (f"`{name}`", value, default(field), meaning)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def keys(options: type[Options], without: Iterable[str] = ()) -> Iterator[tuple[str, FieldInfo]]:
    """Each key with its field; the keys of a section inside a section with a dot (`decoding.beams`)."""
    for field_name, field in options.model_fields.items():
        name, inner = field.alias or field_name, field.annotation
        if field_name in without:
            continue
        inside = [part for part in get_args(inner) if isinstance(part, type) and issubclass(part, Options)]
        if inside:  # a section that may be left out
            yield name, field
            yield from ((f"{name}.{key}", value) for key, value in keys(inside[0]))
            continue
        if options is not Recipe and isinstance(inner, type) and issubclass(inner, Options):
            yield from ((f"{name}.{key}", value) for key, value in keys(inner))
        else:
            yield name, field


def first_line(part: Any) -> str:
    """What a class says of itself in one line."""
    return (part.__doc__ or "").strip().partition("\n")[0]


def section(name: str) -> str:
    """The table of a section of the recipe that has one set of keys."""
    annotation = Recipe.model_fields[name].annotation
    if not (isinstance(annotation, type) and issubclass(annotation, Options)):
        raise TypeError(f"section {name} has no keys of its own")
    return table(annotation)


def kinds(catalog: Catalog) -> str:
    """A heading, a line and a table for each part of a catalogue."""
    parts = []
    for name in catalog:
        part = catalog.load(name)
        keys = table(part) if part.model_fields else "It has no keys.\n"
        parts.append(f"### `kind: {name}`\n\n{first_line(part)}\n\n{keys}")
    return "\n".join(parts)


def tasks() -> str:
    """The tasks, each with the metrics that it is measured by, in every form that its specimens show."""
    found = kinds(TASKS)
    for name in TASKS:
        task = TASKS.load(name)
        forms = dict.fromkeys(task(**specimen.options).metrics for specimen in task.specimens)
        metrics = "; or ".join(", ".join(f"`{metric}`" for metric in form) for form in forms)
        line = f"Measured by {metrics}. The first is the main one, unless `metric` names another.\n"
        place = found.find("\n###", found.index(f"### `kind: {name}`") + 1)
        found = f"{found}\n{line}" if place < 0 else f"{found[:place]}\n{line}{found[place:]}"
    return found


def cells() -> str:
    """Which methods can be used with which kinds of models and tasks, found out by asking each of them."""
    from transformers import AutoConfig

    from tunesmith.adapting import skeleton
    from tunesmith.contracts import parts_of
    from tunesmith.errors import UserError
    from tunesmith.select.foundation import family_of, mapping_of

    configs = [AutoConfig.for_model(kind) for kind in MODELS]
    for config in configs:
        config.update({name: 2 for name in LAYERS if hasattr(config, name)})
    heads = {name: task(**task.specimens[0].options) for name, task in ((name, TASKS.load(name)) for name in TASKS)}

    def takes(method: Any, task: Any, config: Any) -> bool:
        family = family_of(config)
        if family not in task.families or type(config) not in mapping_of(task.auto_class(family)):
            return False
        try:
            method.check(skeleton(config, "AutoModel"), family, task.auto_class(family))
        except UserError:
            return False
        return True

    lines = ["| method | kinds of models | tasks |", "|---|---|---|"]
    for name in METHODS:
        method, reasons = METHODS.load(name)(), list[str]()
        for config in configs:
            try:
                method.check(skeleton(config, "AutoModel"), family_of(config), "AutoModelForSequenceClassification")
            except UserError:
                reasons.append(config.model_type)
        lacking = [
            kind
            for kind, task in heads.items()
            if not all(any(map(partial(takes, method, one), configs)) for one in parts_of(task).values())
        ]
        models = "all" if not reasons else f"all but {', '.join(f'`{kind}`' for kind in reasons)}"
        tasks_ = "all" if not lacking else f"all but {', '.join(f'`{kind}`' for kind in lacking)}"
        lines.append(f"| `{name}` | {models} | {tasks_} |")
    return "\n".join(lines) + "\n"


def commands() -> str:
    """The verbs of the command line with the first sentence of their help."""
    import typer.main

    from tunesmith.cli.app import app

    group: Any = typer.main.get_command(app)  # Typer's type does not say that an app of several verbs is a group
    lines = ["| command | what it does |", "|---|---|"]
    for name, command in group.commands.items():
        first = (command.help or "").strip().partition("\n")[0].replace("|", "\\|")
        lines.append(f"| `tunesmith {name}` | {first} |")
    return "\n".join(lines) + "\n"


def exit_codes() -> str:
    """What the exit codes of the command line mean."""
    from tunesmith.cli.app import EXIT_CODES

    codes = " ".join(EXIT_CODES.removeprefix("Exit codes:").rstrip(".").split()).split("; ")
    return "".join(f"- {code}\n" for code in codes)


REGIONS: dict[str, Callable[[], str]] = {
    "recipe": lambda: table(Recipe),
    "model": lambda: section("model"),
    "tasks": tasks,
    "data": lambda: section("data"),
    "cells": cells,
    "methods": lambda: kinds(METHODS),
    "train": lambda: table(type(Recipe.model_fields["train"].default), without=("stop", "unfreeze")),
    "stop": lambda: table(StopOptions),
    "unfreeze": lambda: table(UnfreezeOptions),
    "stages": lambda: table(Stage, without=SECTIONS),
    "gate": lambda: table(Gate),
    "retain": lambda: section("retain"),
    "evaluate": lambda: section("evaluate"),
    "probes": lambda: table(ProbeOptions),
    "deploy": lambda: section("deploy"),
    "compare": lambda: table(CompareOptions),
    "commands": commands,
    "exit-codes": exit_codes,
}


def renewed(text: str) -> str:
    """`text` with every generated part made anew. Raises KeyError for a part that nothing makes."""
    return REGION.sub(lambda found: found[1] + REGIONS[found[2]]() + found[3], text)


def main() -> int:
    stale = []
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        old = page.read_text(encoding="utf-8")
        new = renewed(old)
        if new != old:
            stale.append(page.name)
            if "--check" not in sys.argv:
                page.write_text(new, encoding="utf-8")
    if "--check" in sys.argv and stale:
        print(f"out of date: {', '.join(stale)}; make docs", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
