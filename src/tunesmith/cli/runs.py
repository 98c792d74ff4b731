"""`tunesmith list`: the runs in a folder."""

from pathlib import Path
from typing import Annotated, Any

import typer

from tunesmith.cli.screen import emit, say, say_table


def list_runs(
    folder: Annotated[Path, typer.Argument(help="Folder that holds runs.")] = Path("runs"),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the runs in a folder with their state and score.

    \b
    tunesmith list
    tunesmith list experiments --json
    """
    from tunesmith.errors import UserError
    from tunesmith.run import runs_in

    if not folder.is_dir():
        raise UserError(str(folder), "no such folder", "`tunesmith run recipe.yaml` makes the first run under runs/")
    found = [summary(path) for path in runs_in(folder)]
    if as_json:
        emit(found)
    elif not found:
        say(f"{folder} holds no runs")
    else:
        columns = ("run", "state", "task", "model", "method", "metric", "score", "from", "to")
        say_table(columns, ([row[column] for column in columns] for row in found))


def summary(folder: Path) -> dict[str, Any]:
    """One line about a run; what cannot be read of a damaged one is None."""
    from tunesmith.errors import UserError
    from tunesmith.run import Run, final

    row: dict[str, Any] = dict.fromkeys(("task", "model", "method", "metric", "score", "from", "to"))
    row = {"run": folder.name, "state": "damaged", **row}
    try:
        run = Run.open(folder)
        values = run.read_json("run.json")["recipe"]
        judged = Run.open(final(folder)).read_json("evaluation.json") or {}
        main = judged.get("main")
        score = judged.get("metrics", {}).get(main, {})
        return row | {
            "state": run.state,
            "task": values["task"]["kind"],
            "model": values["model"]["name"],
            "method": values["method"]["kind"],
            "metric": main,
            "score": score.get("value"),
            "from": score.get("low"),
            "to": score.get("high"),
        }
    except (UserError, KeyError, TypeError, AttributeError):
        return row
