"""`tunesmith audit`: what the data are worth before anything is trained."""

from pathlib import Path
from typing import Annotated, Any

import typer

from tunesmith.cli.screen import emit, heading, say, say_table

MOST_LABELS = 40


def audit(
    what: Annotated[Path, typer.Argument(metavar="RECIPE|DATA", help="A recipe, a data file, or the folder of a run.")],
    settings: Annotated[
        list[str] | None, typer.Argument(metavar="[key=value ...]", help="Settings that go over the recipe.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Read the data as a run would, and say what is wrong with them. Nothing is trained, no model is needed.

    \b
    tunesmith audit recipe.yaml
    tunesmith audit recipe.yaml data.on_bad_row=skip
    tunesmith audit tickets.csv --json
    """
    from tunesmith import api
    from tunesmith.cli.starter import recipe_of

    recipe, base = recipe_of(what, settings or ())
    found = api.audit(recipe, base)
    emit(found) if as_json else _say(found)


def _say(found: dict[str, Any]) -> None:
    ledger = found["ledger"]
    for name, count in ledger["read"].items():
        say(f"{name}: {count} rows read")
    say_table(("rows", "became"), ((count, way) for way, count in ledger["ways"].items()))
    for split, facts in found["splits"].items():
        balance = facts.get("balance")
        if balance:
            heading(f"{split}: {facts['rows']} rows, {len(balance)} labels")
            ordered = sorted(balance.items(), key=lambda entry: -entry[1])
            say_table(("rows", "label"), ((count, label) for label, count in ordered[:MOST_LABELS]))
            if len(ordered) > MOST_LABELS:
                say(f"and {len(ordered) - MOST_LABELS} more labels")
        elif facts.get("targets"):
            targets = facts["targets"]
            heading(f"{split}: {facts['rows']} rows, targets {_range(targets)}")
    findings = len(found["findings"])
    heading(f"{findings} finding{'s' * (findings > 1)}" if findings else "nothing was found wrong")
    colours = {"error": "red", "warning": "yellow"}
    for finding in found["findings"]:
        say(f"{finding['severity']}: {finding['message']}", colours.get(finding["severity"], ""))
        for place in finding["rows"][:5]:
            say(f"  {place}")


def _range(targets: dict[str, Any]) -> str:
    return f"{targets['min']:g} to {targets['max']:g}, mean {targets['mean']:g}"
