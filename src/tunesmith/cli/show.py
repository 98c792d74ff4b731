"""`tunesmith show`: a run in a page of text, or a row as the model sees it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from tunesmith.cli.screen import emit, heading, say, say_table

MARKS = {
    "weight": "weight",
    "tag": "tag",
    "start": "start",
    "end": "end",
    "was": "was",
    "token_type_ids": "segment",
}
"""What a token may have besides itself, and what its column is called."""


def show(
    what: Annotated[Path, typer.Argument(metavar="RUN|RECIPE|DATA", help="Folder of a run, a recipe, or a data file.")],
    settings: Annotated[
        list[str] | None,
        typer.Argument(metavar="[key=value ...]", help="Settings that go over the recipe, for a row."),
    ] = None,
    row: Annotated[
        int | None, typer.Option("--row", "-n", min=0, help="Show this row of the split, from 0, as tokens.")
    ] = None,
    split: Annotated[str, typer.Option("--split", help="Split of the row: train, validation or test.")] = "train",
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Model whose tokens are shown, for a data file.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what a run did, or a row exactly as the model sees it: the tokens that are learned have a *.

    \b
    tunesmith show runs/tickets
    tunesmith show recipe.yaml --row 7
    tunesmith show tickets.csv --row 0 --model builtin:minilm
    """
    from tunesmith.errors import UserError, shown
    from tunesmith.run import is_run

    if row is None and settings and is_run(what):
        raise UserError(
            f"command line, {shown(settings[0])[1:-1]}", "changes nothing of a run", "name a row with --row"
        )
    if row is not None or not is_run(what):
        view = _row(what, settings or (), split, row or 0, model)
        emit(view) if as_json else _say_row(view)
    else:
        facts = _facts(what)
        emit(facts) if as_json else _say_run(facts)


def _facts(folder: Path) -> dict[str, Any]:
    from tunesmith.cli.runs import summary
    from tunesmith.run import Run, final

    run, last = Run.open(folder), Run.open(final(folder))
    names = ("model", "parameters", "evaluation", "cost", "deploy")
    parts = {name: last.read_json(f"{name}.json") for name in names}
    inside = last.folder.relative_to(run.folder)
    deploy = [{**one, "folder": str(inside / one["folder"])} for one in parts["deploy"] or []]
    ledger = (last.read_json("audit.json") or {}).get("ledger")
    return {
        "summary": summary(folder),
        "ledger": ledger,
        **parts,
        "deploy": deploy or None,
        "stages": run.read_json("stages.json"),
        "report": str(run.report) if run.report.exists() else None,
    }


def _say_run(facts: dict[str, Any]) -> None:
    summary = facts["summary"]
    say(f"{summary['run']}: {summary['state']}", "bold")
    say(f"task {summary['task']}, model {summary['model']}, method {summary['method']}")
    if facts["stages"]:
        _say_stages(facts["stages"])
    if facts["ledger"]:
        say("rows " + ", ".join(f"{way} {count}" for way, count in facts["ledger"]["ways"].items()))
    if facts["parameters"]:
        total, trainable = facts["parameters"]["total"], facts["parameters"]["trainable"]
        say(f"parameters {total:,}, of which {trainable:,} were trained ({trainable / total:.2%})")
    judged = facts["evaluation"]
    if judged:
        heading(judged.get("verdict", "evaluation"))
        say_scores(judged)
    for artifact in facts["deploy"] or []:
        say(f"artefact {artifact['kind']}: {artifact['folder']} ({artifact['bytes'] / 1e6:.1f} MB)")
    if facts["report"]:
        say(f"report {facts['report']}")


def _say_stages(table: dict[str, Any]) -> None:
    """Prints what became of each stage of a run; what follows is of the last one that was complete."""
    columns = ("stage", "state", "task", "method", "rows", "metric", "value", "from", "to")
    keys = ("name", "state", "task", "method", "rows", "metric", "value", "low", "high")
    say_table(columns, ([stage.get(key) for key in keys] for stage in table["stages"]))
    if table["stopped"]:
        say(table["stopped"], "yellow")


def say_scores(judged: dict[str, Any]) -> None:
    """Prints the metrics of an evaluation, and of the baselines beside them."""
    baselines = judged.get("baselines") or []
    columns = ["metric", "value", "from", "to", *(baseline.get("label", baseline["name"]) for baseline in baselines)]
    rows = [
        [name, value.get("value"), value.get("low"), value.get("high")]
        + [baseline["metrics"].get(name, {}).get("value") for baseline in baselines]
        for name, value in judged["metrics"].items()
    ]
    say_table(columns, rows)


def _row(what: Path, settings: Sequence[str], split: str, row: int, model: str | None) -> dict[str, Any]:
    from tunesmith import api
    from tunesmith.cli.starter import recipe_of

    recipe, base = recipe_of(what, settings, model=model)
    return api.view(recipe, base, split=split, row=row)


def _say_row(view: dict[str, Any]) -> None:
    say(f"{view['split']} row {view['row']} ({view['where']})", "bold")
    for name, text in view["inputs"].items():
        for place, line in enumerate(_lines(text)):
            say(f"{name}: {line}" if not place else f"  {line}")
    if view["target"] not in ((), None):
        say(f"target: {_target(view['target'])}")
    if view["refused"]:
        say(f"not learned from: {view['refused']}", "yellow")
    count = sum(len(sequence["tokens"]) for sequence in view["sequences"])
    weight = "" if view["weight"] in (None, view["learned"]) else f" (weight {view['weight']:.4g})"
    marked = f", {view['learned']} of them learned{weight}" if view["learned"] else ""
    say(f"{count} tokens{marked}" + (f", {view['cut']} cut" if view["cut"] else ""))
    for sequence in view["sequences"]:
        _say_sequence(sequence)


def _lines(text: object) -> list[str]:
    """The lines of an input; of several texts one a line."""
    return str(text).splitlines() if not isinstance(text, list | tuple) else [str(entry) for entry in text]


def _target(target: object) -> str:
    """What is right: one value as it is, several with commas."""
    if isinstance(target, dict):
        return "; ".join(f"{name}: {_target(part)}" for name, part in target.items())
    if not isinstance(target, list | tuple):
        return str(target)
    return ", ".join(repr(tuple(part)) if isinstance(part, tuple) else str(part) for part in target)


def _say_sequence(sequence: dict[str, Any]) -> None:
    """Prints the tokens of a sequence, the learned ones with a mark and in green."""
    if sequence["part"]:
        heading(sequence["part"])
    for name, values in sequence["targets"].items():
        say(f"{name}: {', '.join(f'{value:g}' for value in values)}")
    tokens = sequence["tokens"]
    named = [name for name in MARKS if any(token.get(name) for token in tokens)]
    rows = [
        ("*" if token["learned"] else "", place, token["id"], token["text"], *(_said(token, name) for name in named))
        for place, token in enumerate(tokens)
    ]
    styles = ["green" if token["learned"] else "" for token in tokens]
    say_table(("", "place", "id", "token", *(MARKS[name] for name in named)), rows, styles)


def _said(token: dict[str, Any], name: str) -> object:
    value = token.get(name)
    return MARKS[name] if value is True else "" if value is None else value
