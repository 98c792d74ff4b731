"""What can be done with a trained model: ask it, judge it on new rows, write it in another format."""

import json
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from shlex import quote
from typing import Any, cast

import torch
from pydantic import ValidationError

from tunesmith import commit
from tunesmith.adapt import OF_FILES
from tunesmith.artefact import Place, base_of, kind_of_file, note_of, parcel_of
from tunesmith.batch import Encoded, padding_for
from tunesmith.commit import NOTE
from tunesmith.contracts import Artifact, Corpus, Foundation, Record, Task, parts_of
from tunesmith.delivery import card_facts, golden_rows, portable
from tunesmith.deploy import EXPORTERS
from tunesmith.deploy.export import export as write_artifact
from tunesmith.deploy.parcel import Parcel
from tunesmith.deploy.parity import golden
from tunesmith.deploy.predictor import Predictor, Predictors, unreadable
from tunesmith.errors import BadRow, UserError, named, nearest, shown
from tunesmith.evaluate.judge import judge, together
from tunesmith.evaluate.options import EvaluateOptions
from tunesmith.forward import Inference, all_outputs
from tunesmith.given import Answer, Outputs
from tunesmith.options import path_fields, with_paths
from tunesmith.parts import Part
from tunesmith.prepare.corpus import read_corpus
from tunesmith.prepare.sources import RawRow, read_source
from tunesmith.prepare.split import text_key
from tunesmith.recipe import Recipe
from tunesmith.run import Run, environment, final
from tunesmith.select.foundation import fit_tokenizer, open_foundation
from tunesmith.select.load import load_model
from tunesmith.select.options import ModelOptions
from tunesmith.tasks import TASKS

Row = str | Sequence[str] | Mapping[str, Any]
"""A text; the texts of a pair; or texts by column."""
NO_TRAIN = "the training rows are not there as they were, so no baseline and no overlap was looked for"


def artifacts(run: Run) -> dict[str, dict[str, Path]]:
    """The folders of a run's artefacts by kind, for each part of its task; one that is whole has no name.

    Raises UserError when there is none yet.
    """
    written = run.read_json("deploy.json") or []
    if not written:
        fix = f"go on with it: tunesmith run {quote(named(run.folder))}"
        raise UserError(named(run.folder), "has no model yet", fix)
    found: dict[str, dict[str, Path]] = {}
    for entry in written:
        found.setdefault(entry.get("part", ""), {})[entry["kind"]] = run.folder / entry["folder"]
    return found


def open_predictor(place: Path, *, base: str | None = None) -> Predictor | Predictors:
    """The model of a run, or of an exported folder, ready to answer; of a run of several tasks, all of theirs.

    base: the folder or hub id of an adapter's base model, where it is not the run's own, built in, or cached.
    """
    if (place / NOTE).is_file():
        return opened(place, place_of(base))
    run, name = Run.open(final(place)), place.resolve().name
    parts = {part: of_run(run, part, found, place_of(base, run)) for part, found in artifacts(run).items()}
    if "" in parts:
        return replace(parts[""], name=name)
    task = run.recipe().task
    learned = {part: predictor.task for part, predictor in parts.items()}
    return Predictors(name, task.model_copy(update={"tasks": learned}), parts)  # type: ignore[attr-defined]


def place_of(base: str | None, run: Run | None = None) -> Place:
    """Where the base of an adapter is looked for: where one says, else where the recipe of its run does, if any."""
    if base is not None:
        return Place(ModelOptions(name=base))
    return Place() if run is None else Place(run.recipe().model, run.folder)


def of_run(run: Run, part: str, found: Mapping[str, Path], place: Place) -> Predictor:
    """The model of a run, or of a part of its task, which looks for the task's files where the run's recipe has them.

    found: its artefacts by kind. place: of the base.
    """
    folder = found.get("safetensors") or next(iter(found.values()))
    predictor, own = opened(folder, place), cast(Any, parts_of(run.recipe().task)[part])
    paths = {name: getattr(own, name) for name in path_fields(type(own)).values()}
    if not paths:
        return predictor
    task = cast(Any, predictor.task).model_copy(update=paths)
    return replace(predictor, task=with_paths(task, lambda path: str(run.folder / Path(path).expanduser())))


def opened(folder: Path, place: Place) -> Predictor:
    """The model in an exported folder. place: of the base, where it is an adapter."""

    def find_base(name: str, revision: str | None) -> Path:
        return base_of(folder, place).folder

    return Predictor.open(folder, read_task=lambda spec: read_task(spec, folder), find_base=find_base)


def read_task(spec: Mapping[str, Any], folder: Path) -> Task:
    """The task that the note in `folder` tells of. Raises UserError for one that this version does not know."""
    try:
        return cast(Task, Part(TASKS).made(spec))
    except ValidationError as error:
        found = error.errors(include_url=False)[0]
        where = ".".join(map(str, found["loc"]))
        raise UserError(named(folder / NOTE), f"task.{where}: {found['msg']}", "export it again") from error


def ask(predictor: Predictor | Predictors, rows: Sequence[Row], *, first: int = 1) -> list[Answer]:
    """An answer for each row, in order. first: the number of the first row in messages."""
    return predictor.ask([_by_column(row, predictor.task, first + place) for place, row in enumerate(rows)], first)


def _by_column(row: Row, task: Task, number: int) -> Mapping[str, Any]:
    if isinstance(row, Mapping):
        return row
    texts = [row] if isinstance(row, str) else list(row)
    if len(texts) != len(task.inputs):
        wanted = " and ".join(shown(column) for column in task.inputs)
        example = json.dumps([f"{column} text" for column in task.inputs])
        fix = f"write {example}" if len(task.inputs) > 1 else "write one text"
        raise UserError(f"input {number}", f"holds {len(texts)} of the texts {wanted}", fix)
    return dict(zip(task.inputs, texts, strict=True))


def evaluate(run: Run, data: Path) -> dict[str, Any]:
    """What `evaluation.json` holds, for the rows in `data`.

    Baselines are trained on the run's own training rows; they are left out when those cannot be read any more.
    """
    predictor, recipe = open_predictor(run.folder), run.recipe()
    records, left_out = records_of(predictor.task, data, lenient=recipe.data.on_bad_row == "skip")
    train = _training_rows(recipe, run)
    options = recipe.evaluate if train else recipe.evaluate.model_copy(update={"baselines": False})
    remarks = [*_remarks(records, train), *([f"{left_out} bad rows were left out"] if left_out else [])]

    def base() -> Foundation:
        return open_foundation(recipe.model, run.folder)

    return judged(predictor, records, Bar(options, recipe.seed, base, train, remarks))


def evaluate_artifact(folder: Path, data: Path, *, base: str | None = None) -> dict[str, Any]:
    """The same of an exported model, which knows no training rows and so has no baselines. base: as of
    `open_predictor`."""
    predictor, place = opened(folder, place_of(base)), place_of(base)
    records, _ = records_of(predictor.task, data, lenient=False)
    return judged(predictor, records, bar_of(folder, place))


@dataclass(frozen=True)
class Bar:
    """What new rows are judged with. base: opens the base, for tasks that compare with it. train: the training rows.

    remarks: what must be known of the rows.
    """

    options: EvaluateOptions
    seed: int
    base: Callable[[], Foundation]
    train: Sequence[Record] = ()
    remarks: Sequence[str] = ()


def bar_of(folder: Path, place: Place) -> Bar:
    """What an exported model is judged with. place: of its base."""

    def base() -> Foundation:
        if note_of(folder)["kind"] != "adapter":
            raise UserError(named(folder), "does not say where its base is", "give the folder of its run")
        return base_of(folder, place)

    return Bar(EvaluateOptions(baselines=False), 0, base, (), [NO_TRAIN])


def judged(predictor: Predictor | Predictors, records: Sequence[Record], bar: Bar) -> dict[str, Any]:
    """What `evaluation.json` holds, for these rows."""
    found: dict[str, dict[str, Any]] = {}
    counted: set[int] = set()
    refused: dict[int, str] = {}
    for name, part in (predictor.parts if isinstance(predictor, Predictors) else {"": predictor}).items():
        known, asked = (predictor.task.of_part(name, of) for of in (bar.train, records))
        if not asked:
            continue
        encoded_rows = part.read(asked)
        rows = [record for record in asked if record.row not in encoded_rows.refused]
        refused |= encoded_rows.refused
        counted |= {record.row for record in rows}
        if rows:
            found[name] = judge(
                part.task.predictions(_outputs(bar, part, encoded_rows, rows), rows),
                part.task,
                splits={"train": known, "test": rows},
                split="test",
                options=bar.options,
                seed=bar.seed,
                remarks=[*bar.remarks, *_unread(encoded_rows)],
            )
    if not found:
        first = next(record for record in records if record.row in refused)
        raise UserError(first.where, f"{unreadable(refused[first.row])}, and so are all rows", "give others")
    return found[""] if "" in found else together(found, predictor.task, len(counted))


def _outputs(bar: Bar, predictor: Predictor, data: Encoded, records: Sequence[Record]) -> Outputs:
    """What the model gives for some rows: one entry or more for each record, and none for any other."""
    assert set(data.rows.tolist()) == {record.row for record in records}
    return predictor.outputs(referred(bar.base, predictor, data), records)


def _unread(data: Encoded) -> list[str]:
    """What must be known of the rows that the model could not read."""
    if not data.refused:
        return []
    reasons = Counter(reason.replace("_", " ") for reason in data.refused.values())
    why = ", ".join(f"{reason}: {count}" for reason, count in reasons.most_common())
    return [f"{len(data.refused)} more rows cannot be read by this model ({why}), and are not counted"]


def referred(base_of_run: Callable[[], Foundation], predictor: Predictor, data: Encoded) -> Encoded:
    """The rows beside what the run's base model gives them, which is loaded for it once more where the task compares
    with that; as they are for any other task."""
    task, codec, device = predictor.task, predictor.codec, Inference(predictor.world)
    if not task.compares:
        return data
    foundation = base_of_run()
    base = load_model(foundation, task.auto_class(foundation.family), task.head(), seed=0).model
    torch.nn.Module.to(base, predictor.world.device)
    padding = padding_for(task.columns(), codec.tokenizer.pad_token_id)
    return task.refer(data, all_outputs(base, task, data, padding, device).values)


def _remarks(records: Sequence[Record], train: Sequence[Record]) -> list[str]:
    """What the score of these rows cannot tell: that they were learned, or that nobody knows whether they were."""
    if not train:
        return [NO_TRAIN]
    known = {text_key(record) for record in train}
    seen = sum(text_key(record) in known for record in records)
    return [f"{seen} of these rows were trained on, so the score says little about new ones"] if seen else []


def records_of(task: Task, data: Path, *, lenient: bool) -> tuple[list[Record], int]:
    """The rows of a data file with their answers, and how many more cannot be graded.

    Raises UserError for the first of those unless `lenient`, and for a file without a usable row.
    """
    records: list[Record] = []
    bad: list[UserError] = []
    for raw in read_source(str(data), Path()):
        try:
            records.append(_graded(raw, len(records), task))
        except UserError as error:
            if not lenient:
                raise
            bad.append(error)
    if not records:
        why = f"{len(bad)} bad ones; the first: {bad[0]}" if bad else "a data file needs rows below its header"
        raise UserError(named(data), "holds no usable rows", why)
    return records, len(bad)


def _graded(raw: RawRow, number: int, task: Task) -> Record:
    where = raw.where
    if raw.problem is not None:
        raise UserError(where, raw.problem, "mend or leave out this row")
    for column in task.fields:
        if column not in raw.fields:
            raise UserError(where, f"has no column {shown(column)}", nearest(column, raw.fields))
    try:
        record = Record(number, raw.source, raw.line, *task.read(raw.fields))
        task.check(record)
    except BadRow as error:
        raise UserError(where, str(error), "mend or leave out this row") from error
    return record


def export(run: Run, kind: str, *, out: Path | None = None) -> Artifact:
    """The model of a run in another folder or format, proved to answer as it did; RUN/exports/KIND when not said where.

    An artefact that the run has is copied; "safetensors" is made of an adapter by merging it into its base.
    Raises UserError for a folder that is there already, and for a format that the run cannot give.
    """
    target = out or run.folder / "exports" / kind
    _require_new(kind, target)
    parts = artifacts(run)
    if kind != "safetensors" and any(kind not in found for found in parts.values()):
        raise UserError(named(run.folder), "has no adapter: all weights were trained", "use --format safetensors")
    made = []
    for name, found in parts.items():
        place = target / name if name else target
        place.parent.mkdir(parents=True, exist_ok=True)
        made.append(_copied(run, name, kind, found[kind], place) if kind in found else _merged(run, name, found, place))
    if len(made) == 1:
        return made[0]
    return Artifact(kind, target, sum(one.bytes for one in made), _of_all([one.parity for one in made]))


def export_artifact(folder: Path, kind: str, *, out: Path, data: Path | None, base: str | None) -> Artifact:
    """An exported adapter in another folder or format, proved on rows of `data`. Raises UserError as `export` does."""
    _require_new(kind, out)
    if note_of(folder)["kind"] != "adapter":
        raise UserError(named(folder), "is a full model already", "copy the folder")
    if data is None:
        raise UserError(
            named(folder), "is an exported adapter, which holds no rows", "give some to prove it on: --data"
        )
    place = place_of(base)
    predictor = opened(folder, place)
    records, _ = records_of(predictor.task, data, lenient=False)
    facts: dict[str, Any] = {"name": folder.resolve().name, "packages": environment()["packages"]}
    facts |= {"method": {"kind": OF_FILES[kind_of_file(folder)]}}
    facts |= {key: value for key, value in note_of(folder).items() if key == "merged"}
    out.parent.mkdir(parents=True, exist_ok=True)
    return write_artifact(kind, parcel_of(predictor, folder, records, facts, place), out)


def _require_new(kind: str, target: Path) -> None:
    """Refuses a format that is not known, and a folder that is there. Raises UserError."""
    if kind not in EXPORTERS:
        raise UserError(f"--format {shown(kind)}", "is not known", nearest(kind, EXPORTERS))
    if target.exists():
        raise UserError(named(target), "is there already", "name another folder with --out")


def _of_all(parities: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What was shown of several artefacts together; nothing where one was not checked."""
    if not all(parities):
        return {}
    return {
        "rows": sum(one["rows"] for one in parities),
        "max_difference": max(one["max_difference"] for one in parities),
        "limit": max(one["limit"] for one in parities),
        "passed": all(one["passed"] for one in parities),
    }


def _copied(run: Run, part: str, kind: str, source: Path, target: Path) -> Artifact:
    commit.verify(source)

    def copy(folder: Path) -> None:
        for file in source.iterdir():
            if file.name != "manifest.json":
                shutil.copyfile(file, folder / file.name)

    manifest = commit.commit_folder(target, copy, facts={"kind": kind})
    written = run.read_json("deploy.json")
    parity = next(e["parity"] for e in written if e["kind"] == kind and e.get("part", "") == part)
    return Artifact(kind, target, sum(int(entry["size"]) for entry in manifest.files.values()), parity)


def _merged(run: Run, part: str, found: Mapping[str, Path], target: Path) -> Artifact:
    recipe, predictor = run.recipe(), of_run(run, part, found, place_of(None, run))
    foundation, task = open_foundation(recipe.model, run.folder), predictor.task
    fit_tokenizer(foundation, task.auto_class(foundation.family))
    corpus = corpus_of(recipe, run)
    records, data = golden_rows(corpus, part, task, foundation.codec, predictor.max_tokens)
    padding = padding_for(task.columns(), foundation.tokenizer.pad_token_id)
    parcel = Parcel(
        model=predictor.model,
        method=recipe.method,
        foundation=foundation,
        task=task,
        task_spec=Part(TASKS).written(cast(Any, portable(task))),
        max_tokens=predictor.max_tokens,
        golden=golden(predictor.model, task, data, padding, records),
        facts=card_facts(recipe, run, part),
    )
    return write_artifact("safetensors", parcel, target)


def _training_rows(recipe: Recipe, run: Run) -> Sequence[Record]:
    """The rows that the run was trained on; none where they cannot be read any more, or are not what they were."""
    try:
        corpus = corpus_of(recipe, run)
    except UserError:
        return ()
    return corpus.splits["train"] if corpus.fingerprint == run.read_json("audit.json")["fingerprint"] else ()


def corpus_of(recipe: Recipe, run: Run) -> Corpus:
    """The rows of a run, read again. Raises UserError where they are not there any more."""
    return read_corpus(recipe.data, recipe.task, base=run.folder, seed=recipe.seed)
