"""`tunesmith schema`: the JSON Schema of recipes."""

from pathlib import Path
from typing import Annotated

import typer


def schema(
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write it to this file instead of printing it.")
    ] = None,
) -> None:
    """Print the JSON Schema by which editors complete and check recipes.

    \b
    tunesmith schema --out recipe.schema.json
    # then, as the first line of a recipe:
    # yaml-language-server: $schema=recipe.schema.json
    """
    from tunesmith.cli.screen import say
    from tunesmith.commit import write_file
    from tunesmith.recipe_schema import schema_text

    if out is None:
        typer.echo(schema_text(), nl=False)
    else:
        write_file(out, schema_text())
        say(f"wrote {out}")
