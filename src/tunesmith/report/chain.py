"""The report of a run in stages: a table of them, and what they did to one another."""

import json
from pathlib import Path
from typing import Any

import yaml

from tunesmith.commit import write_file
from tunesmith.report.page import render


def write(folder: Path) -> Path:
    """Writes report.html into the folder of a whole run and returns its path."""
    recipe = (folder / "recipe.yaml").read_text(encoding="utf-8")
    table, transfer = (json.loads((folder / name).read_bytes()) for name in ("stages.json", "transfer.json"))
    facts: dict[str, Any] = {
        "name": folder.name,
        "recipe": recipe,
        "model": yaml.safe_load(recipe)["model"]["name"],
        "stages": table["stages"],
        "stopped": table["stopped"],
        "last": next((stage for stage in reversed(table["stages"]) if stage["state"] == "complete"), None),
        "transfer": transfer if len(transfer["stages"]) > 1 else None,
    }
    path = folder / "report.html"
    write_file(path, render("chain.html.j2", facts))
    return path
