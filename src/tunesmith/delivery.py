"""The last stage of a run: the artefacts that its recipe asks for."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from tunesmith.adapting import alone
from tunesmith.batch import Encoded, encoded
from tunesmith.contracts import Adapted, Artifact, Codec, Corpus, Foundation, Record, Task, parts_of
from tunesmith.deploy.export import export
from tunesmith.deploy.parcel import Parcel
from tunesmith.deploy.parity import golden
from tunesmith.errors import UserError
from tunesmith.house import House, Prepared
from tunesmith.options import with_paths
from tunesmith.parts import Part
from tunesmith.recipe import Recipe
from tunesmith.run import Run
from tunesmith.tasks import TASKS

GOLDEN_ROWS = 64
"""Rows that every artefact has to answer as the tuned model does."""


def deploy(house: House, foundation: Foundation, prepared: Prepared, adapted: Adapted, task: Task) -> list[Artifact]:
    """Writes the artefacts that the recipe asks for, each only if a fresh process answers like this one."""
    if not house.world.main:
        return []
    recipe = house.recipe
    kinds = [recipe.method.artifact if kind == "auto" else kind for kind in recipe.deploy.formats]
    kinds = sorted(dict.fromkeys(kinds), key=lambda kind: kind == "safetensors")  # merging uses the model up
    house.screen.stage("deploy", ", ".join(kinds))
    parcels = _parcels(house, foundation, prepared, adapted, task)
    written: list[tuple[str, Artifact]] = []
    for kind in kinds:
        folder = house.run.artifact if len(kinds) == 1 else house.run.artifact / kind
        for name, parcel in parcels.items():
            target = folder / name if name else folder
            target.parent.mkdir(exist_ok=True, parents=True)
            artifact = export(kind, parcel, target, verify=recipe.deploy.verify)
            written.append((name, artifact))
            shown = f"{kind}: {artifact.bytes / 1e6:.1f} MB in {target.relative_to(house.run.folder)}"
            if artifact.parity:
                rows, most = artifact.parity["rows"], artifact.parity["max_difference"]
                shown += f"; a fresh process gives the same outputs on {rows} rows (largest difference {most:.1e})"
            house.screen.say(shown)
    house.keep(
        "deploy.json",
        [
            {
                **({"part": name} if name else {}),
                "kind": a.kind,
                "folder": str(a.folder.relative_to(house.run.folder)),
                "bytes": a.bytes,
                "parity": dict(a.parity),
            }
            for name, a in written
        ],
    )
    return [artifact for _, artifact in written]


def _parcels(
    house: House, foundation: Foundation, prepared: Prepared, adapted: Adapted, task: Task
) -> dict[str, Parcel]:
    """What is exported: the model, or the model of each part of the task."""
    recipe = house.recipe
    folded = task.fold(adapted.model)
    parcels = {}
    for name, part in parts_of(folded).items():
        model = alone(adapted.model)[name]
        records, data = golden_rows(prepared.corpus, name, part, foundation.codec, prepared.max_tokens)
        padding = replace(prepared.padding, columns={**prepared.padding.columns, **part.columns()})
        parcels[name] = Parcel(
            model=model,
            method=recipe.method,
            foundation=foundation,
            task=part,
            task_spec=Part(TASKS).written(portable(part)),  # type: ignore[arg-type]  # tasks are options
            max_tokens=prepared.max_tokens,
            golden=golden(model, part, data, padding, records),
            facts=card_facts(recipe, house.run, name),
            shares=bool(name),
        )
    return parcels


def portable(task: Task) -> Task:
    """The task with the names of its files alone: no artefact says where something lay."""
    return with_paths(task, lambda path: Path(path).name)


def golden_rows(corpus: Corpus, name: str, part: Task, codec: Codec, max_tokens: int) -> tuple[list[Record], Encoded]:
    """Rows of one part of the corpus's task that every artefact has to answer alike, and how the part encodes them.

    They are judged ones, or where none of these serves the part training rows; never such as the part refuses.
    Raises UserError where no row is left.
    """
    for split in ("test", "validation", "train"):
        rows = corpus.task.of_part(name, corpus.splits.get(split, ()))
        for start in range(0, len(rows), GOLDEN_ROWS):
            records = rows[start : start + GOLDEN_ROWS]
            data = encoded(part.encode(records, codec, max_tokens))
            if len(data):
                return [record for record in records if record.row not in data.refused], data
    found = f"hold no row that the model of {name} can read" if name else "hold no row that the model can read"
    raise UserError("data", found, "bring the rows of the run back")


def card_facts(recipe: Recipe, run: Run, part: str = "") -> dict[str, Any]:
    """What a model card tells of the run that its model comes from; of several tasks, what was measured of its own."""
    audit, judged = run.read_json("audit.json"), run.read_json("evaluation.json")
    return {
        "name": run.folder.name,
        "method": recipe.as_mapping()["method"],
        "licence": recipe.deploy.licence,
        "files": audit["files"],
        "ways": audit["ledger"]["ways"],
        "evaluation": judged["parts"].get(part, {}) if part and judged else judged,
        "packages": run.read_json("environment.json")["packages"],
        "recipe_sha256": recipe.digest(),
    }
