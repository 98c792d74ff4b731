"""`tunesmith new`: a recipe to start from, made by looking at the data."""

from pathlib import Path
from shlex import quote
from typing import Annotated

import typer

from tunesmith.cli.screen import say


def new(
    data: Annotated[
        Path, typer.Argument(help="Data to learn from: JSONL, JSON, CSV, TSV, Parquet, or a folder of these.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Recipe to write.")] = Path("recipe.yaml"),
    model: Annotated[str | None, typer.Option("--model", "-m", help="A hub id, a folder, or builtin:minilm.")] = None,
    task: Annotated[
        str | None, typer.Option("--task", "-t", help="Kind of task, if the one found is not meant.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over a recipe that is there.")] = False,
) -> None:
    """Look at a data file and write a commented recipe for it.

    \b
    tunesmith new tickets.csv
    tunesmith new reviews.jsonl --out stars.yaml --task regression
    """
    from tunesmith.cli.starter import look
    from tunesmith.commit import write_file
    from tunesmith.errors import UserError, named
    from tunesmith.recipe_schema import SCHEMA_FILE

    if out.exists() and not force:
        raise UserError(named(out), "is there already", "name another with --out, or write over it with --force")
    if out.parent != Path() and not out.parent.is_dir():
        raise UserError(named(out.parent), "no such folder", "make it first")
    starter = look(data, model=model, task=task)
    write_file(out, starter.text(out))
    write_file(out.with_name("recipe.schema.json"), SCHEMA_FILE.read_bytes())
    for line in starter.notes:
        say(line)
    shell = quote(str(out))
    say(f"wrote {out}; next: tunesmith audit {shell}, then tunesmith run {shell}")
