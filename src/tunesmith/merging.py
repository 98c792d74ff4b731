"""Several adapters over one base made into one, which is exported like any other and judged beside them."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from transformers import AutoConfig, AutoTokenizer

from tunesmith import commit
from tunesmith.adapt import OF_FILES
from tunesmith.adapt.base import taken_off
from tunesmith.adapt.merging import CONFIG, DRAWN, WEIGHTS, Mix, Stored, mix, read, write
from tunesmith.artefact import Place, base_of, method_of, note_of, parcel_of
from tunesmith.batch import encoded
from tunesmith.commit import NOTE
from tunesmith.contracts import Artifact, Codec, Family, Record, Task
from tunesmith.delivery import golden_rows
from tunesmith.deploy.export import export
from tunesmith.deploy.predictor import Predictor
from tunesmith.errors import UserError, named, shown
from tunesmith.run import Run, environment, final, is_run
from tunesmith.trained import (
    artifacts,
    bar_of,
    corpus_of,
    judged,
    of_run,
    opened,
    place_of,
    read_task,
    records_of,
)


@dataclass(frozen=True)
class Input:
    """An adapter that is merged. name: of its run, or of its folder. run, part: where it came from, if that is there.

    task, codec: how it reads rows.
    """

    name: str
    folder: Path
    run: Run | None
    part: str
    note: Mapping[str, Any]
    adapter: Stored
    task: Task
    codec: Codec

    def open(self, place: Place) -> Predictor:
        """The adapter on its base, ready to answer. place: of the base."""
        if self.run is None:
            return opened(self.folder, place)
        return of_run(self.run, self.part, {"adapter": self.folder}, place)


@dataclass(frozen=True)
class Merged:
    """What was written, how it was made, and what the adapters are worth on the rows that were given.

    scores: what `evaluation.json` holds, by the inputs' names and, last, the new one's; empty without rows.
    notes: what must be known of it.
    """

    artifact: Artifact
    mix: Mix
    scores: Mapping[str, Mapping[str, Any]]
    notes: tuple[str, ...]


def merge(
    places: Sequence[Path],
    out: Path,
    how: str = "linear",
    weights: Sequence[float] | None = None,
    *,
    density: float | None = None,
    rank: int | None = None,
    seed: int | None = None,
    data: Path | None = None,
    base: str | None = None,
) -> Merged:
    """The adapters of several runs, or in several folders, as one in `out`, proved on rows of `data` or the first run.

    data: rows with answers, on which every adapter and the new one are judged. base: the folder or hub id of the base,
    where it is not found by what the first run or adapter calls it. Raises UserError for adapters that do not go
    together, and CheckFailed where a fresh process does not get the same answers.
    """
    wanted = mix(len(places), how, weights, density=density, rank=rank, seed=seed)
    if out.exists():
        raise UserError(named(out), "is there already", "name another folder with --out")
    inputs, name = _told_apart([_input(place) for place in places], out)
    first = inputs[0]
    for other in inputs[1:]:
        _require_alike(first, other)
    method, adapters = method_of(first.folder), [one.adapter for one in inputs]
    method.require_mixing(adapters, wanted)
    where = place_of(base, first.run)
    base_of(first.folder, where)
    records = _rows(first, data)
    for other in inputs[1:]:
        _require_same_reading(first, other, records)
    scores: dict[str, Mapping[str, Any]] = {}
    for one in inputs if data is not None else ():
        scores[one.name] = judged(one.open(where), records, bar_of(one.folder, where))
    predictor: Any = first.open(where)
    task, plain = predictor.task, predictor.model
    made = method.mixed(taken_off(plain), adapters, wanted)
    with TemporaryDirectory() as folder:
        place = Path(folder) / out.name
        _write(place, inputs, made, wanted)
        predictor = replace(opened(place, where), task=task)  # whose files lie where the first run has them
        if data is not None:
            scores[name] = judged(predictor, records, bar_of(place, where))
        facts = _facts(out.name, inputs, wanted, made, data, scores.get(name))
        out.parent.mkdir(parents=True, exist_ok=True)
        artifact = export("adapter", parcel_of(predictor, place, records, facts, where), out)
    return Merged(artifact, wanted, scores, _notes(inputs))


def _input(place: Path) -> Input:
    """The adapter of a run, or in a folder. Raises UserError where there is none, or several."""
    if (place / NOTE).is_file():
        folder, (run, part) = place, _owner(place)
    else:
        run, part = Run.open(final(place)), ""
        found = artifacts(run)
        if "" not in found:
            names = ", ".join(named(next(iter(kinds.values()))) for kinds in found.values())
            raise UserError(named(place), "holds a model for each of its tasks", f"name one of {names}")
        if "adapter" not in found[""]:
            raise UserError(named(place), "has no adapter: its weights were trained whole", "merge runs of an adapter")
        folder = found[""]["adapter"]
    commit.verify(folder)
    note = note_of(folder)
    if note["kind"] != "adapter":
        raise UserError(named(place), "is a full model, not an adapter", "name the folder of an adapter")
    name = place.resolve().name if run is None or not (place / NOTE).is_file() else run.folder.resolve().name
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    codec = Codec(tokenizer, Family(note["family"]), AutoConfig.from_pretrained(folder, local_files_only=True))
    name = f"{name}/{part}" if part else name
    return Input(name, folder, run, part, note, read(folder, named(place)), read_task(note["task"], folder), codec)


def _told_apart(inputs: Sequence[Input], out: Path) -> tuple[list[Input], str]:
    """The inputs, and what the new one is called; where two would have one name, all are called by their paths."""
    if len({*(one.name for one in inputs), out.name}) > len(inputs):
        return list(inputs), out.name
    return [replace(one, name=one.adapter.name) for one in inputs], named(out)


def _owner(folder: Path) -> tuple[Run | None, str]:
    """The run that an artefact's folder lies in, and the part of its task; none for one that was taken away."""
    place = folder.resolve()
    for above in place.parents[:4]:
        if is_run(above):
            run = Run.open(above)
            for part, kinds in artifacts(run).items():
                if any(found.resolve() == place for found in kinds.values()):
                    return run, part
    return None, ""


def _require_alike(first: Input, other: Input) -> None:
    """Refuses an adapter over another base, or for another task or head. Raises UserError."""
    where = other.adapter.name

    def refuse(found: str, fix: str) -> None:
        raise UserError(where, f"{found} {first.adapter.name}", fix)

    if other.note["base_sha256"] != first.note["base_sha256"]:
        ours, theirs = first.note["base_sha256"][:12], other.note["base_sha256"][:12]
        refuse(f"was trained on other base weights ({theirs}, not {ours}) than", "merge adapters over one base")
    if other.note["task"]["kind"] != first.note["task"]["kind"]:
        refuse(f"is for the task {other.note['task']['kind']}, unlike", "serve them side by side: tunesmith serve")
    if other.note["auto_class"] != first.note["auto_class"]:
        refuse(f"has the head of {other.note['auto_class']}, unlike", "serve them side by side: tunesmith serve")
    if other.note.get("quantised") != first.note.get("quantised"):
        refuse("was trained over a base in other bits than", "train them with the same model.quantise")
    heads = [dict(one.task.head()) for one in (first, other)]
    if heads[0].get("id2label") != heads[1].get("id2label"):
        names = ", ".join(map(str, list(heads[1].get("id2label", {}).values())[:3]))
        refuse(f"has other labels ({shown(names)}, in order) than", "train them with the same task.labels")
    if heads[0] != heads[1]:
        refuse("has a head of another form than", "train them with the same options of the task")
    if first.codec.tokenizer.get_vocab() != other.codec.tokenizer.get_vocab():
        refuse("has other new tokens than", "train them with the same model.new_tokens")


def _rows(first: Input, data: Path | None) -> list[Record]:
    """The rows with which the merged adapter is proved: those given, else the ones that proved the first run's."""
    if data is not None:
        return records_of(first.task, data, lenient=False)[0]
    fix = "name rows with answers: --data FILE"
    if first.run is None:
        raise UserError(first.adapter.name, "lies outside its run, so there are no rows to prove the result on", fix)
    try:
        corpus = corpus_of(first.run.recipe(), first.run)
    except UserError as error:
        raise UserError(first.adapter.name, f"the rows of its run cannot be read ({error})", fix) from error
    task = first.task
    records, _ = golden_rows(corpus, first.part, task, first.codec, int(first.note["max_tokens"]))
    return records


def _require_same_reading(first: Input, other: Input, records: Sequence[Record]) -> None:
    """Refuses adapters that do not read the same rows as the same tokens. Raises UserError."""
    tokens = min(int(one.note["max_tokens"]) for one in (first, other))
    ours, theirs = (
        encoded(one.task.encode(records, one.codec, tokens)).columns["input_ids"].values.tolist()
        for one in (first, other)
    )
    if ours != theirs:
        specs = first.note["task"], other.note["task"]
        keys = [key for key in specs[0] if specs[0].get(key) != specs[1].get(key)]
        found = f"reads the same row as other tokens than {first.adapter.name} (they differ in {', '.join(keys)})"
        raise UserError(other.adapter.name, found, "train them with the same options of the task")


def _write(place: Path, inputs: Sequence[Input], made: Stored, wanted: Mix) -> None:
    """An artefact's folder: the first one's, but for the adapter."""
    first = inputs[0]

    def fill(folder: Path) -> None:
        for file in first.folder.iterdir():
            if file.name not in ("manifest.json", WEIGHTS, CONFIG):
                shutil.copyfile(file, folder / file.name)
        note = {**first.note, "max_tokens": min(int(one.note["max_tokens"]) for one in inputs)}
        (folder / NOTE).write_text(json.dumps(note), encoding="utf-8")
        write(made, folder)

    commit.commit_folder(place, fill, facts={"kind": "adapter"})


def _notes(inputs: Sequence[Input]) -> tuple[str, ...]:
    """What must be known of adapters whose values are averaged: whether they began at the same place."""
    seeds = {one.run.recipe().seed for one in inputs if one.run is not None}
    lora = "lora" in type(inputs[0].adapter.config).__name__.lower()
    if lora or len(seeds) < 2:
        return ()
    named_seeds = ", ".join(map(str, sorted(seeds)))
    return (
        f"their runs have different seeds ({named_seeds}), so these values began apart, and a mean may fit neither",
    )


def _facts(
    name: str,
    inputs: Sequence[Input],
    wanted: Mix,
    made: Stored,
    data: Path | None,
    judged_as: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """What the model card tells."""
    kind = str(getattr(made.config.peft_type, "value", made.config.peft_type))
    licences = {one.run.recipe().deploy.licence for one in inputs if one.run is not None}
    return {
        "name": name,
        "method": {"kind": OF_FILES[kind]},
        "licence": next(iter(licences)) if len(licences) == 1 else None,
        "files": {} if data is None else {data.name: sha256(data.read_bytes()).hexdigest()},
        "ways": {} if judged_as is None else {"judged": judged_as["rows"]},
        "evaluation": judged_as or {},
        "packages": environment()["packages"],
        "merged": {
            "how": wanted.how,
            "density": wanted.density,
            "rank": getattr(made.config, "r", None),
            "seed": wanted.seed if wanted.how in DRAWN else None,
            "notes": list(_notes(inputs)),
            "adapters": [
                {
                    "name": one.name,
                    "weight": weight,
                    "share": share,
                    "sha256": sha256((one.folder / WEIGHTS).read_bytes()).hexdigest(),
                }
                for one, weight, share in zip(inputs, wanted.weights, wanted.shares, strict=True)
            ],
        },
    }
