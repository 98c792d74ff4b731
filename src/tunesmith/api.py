"""The verbs of the command line as functions: run, compare, audit, view, evaluate, ask, export, merge, serve."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from tunesmith.commit import NOTE
from tunesmith.errors import UserError, named
from tunesmith.recipe import Recipe, load_recipe, recipe_from
from tunesmith.run import Run, final, is_run

if TYPE_CHECKING:
    from tunesmith.contracts import Artifact
    from tunesmith.deploy.adapters import Adapters
    from tunesmith.deploy.predictor import Predictor, Predictors
    from tunesmith.given import Answer
    from tunesmith.house import Screen
    from tunesmith.merging import Merged
    from tunesmith.trained import Row

__all__ = [
    "ask",
    "audit",
    "compare",
    "evaluate",
    "export",
    "load_recipe",
    "merge",
    "open_adapters",
    "open_predictor",
    "open_run",
    "rows",
    "run",
    "run_folder",
    "serve",
    "view",
]


class Silent:
    """A screen that shows nothing."""

    def stage(self, name: str, what: str) -> None:
        """A stage begins."""

    def say(self, line: str) -> None:
        """Something worth a line happened."""

    def step(self, step: Any, of: int) -> None:
        """An update was made."""


def run(
    recipe: Recipe | Mapping[str, Any] | Path | str,
    *,
    overrides: Sequence[str] = (),
    folder: Path | str | None = None,
    base: Path | None = None,
    screen: "Screen | None" = None,
) -> Run:
    """The finished run of a recipe: selected, prepared, trained, judged, reported and saved.

    recipe: a file, plain values, or a Recipe. overrides: `key=value` texts that go over it, unless it is a Recipe.
    folder: the run's; runs/NAME when left out. base: where relative paths start, if not at the file's folder or here.
    Called again on the same folder it goes on where it stopped. Raises the errors of `tunesmith.errors`.
    """
    from tunesmith import pipeline, stages

    recipe, base, name = _read(recipe, overrides, base)
    place = Path(folder) if folder is not None else run_folder(recipe, base, name)
    walk = stages.run if recipe.stages else pipeline.run
    walk(recipe, place, base, screen or Silent())
    return Run.open(place)


def _read(
    recipe: Recipe | Mapping[str, Any] | Path | str, overrides: Sequence[str], base: Path | None
) -> tuple[Recipe, Path, str]:
    """The recipe, the folder where its relative paths start, and a name for what is made from it."""
    if isinstance(recipe, str | Path):
        path = recipe_path(recipe)
        return load_recipe(path, overrides), base or path.parent, path.stem
    if isinstance(recipe, Mapping):
        return recipe_from(recipe, "recipe", overrides), base or Path(), "run"
    if overrides:
        raise UserError("overrides", "a Recipe cannot be changed", "use recipe.model_copy, or give plain values")
    return recipe, base or Path(), "run"


def compare(
    recipe: Recipe | Mapping[str, Any] | Path | str,
    *,
    methods: str | Sequence[str] = ("full", "lora", "adapter", "bitfit", "head"),
    seeds: int = 3,
    margin: float = 0.01,
    cheapest_by: str = "parameters",
    rates: str = "probe",
    jobs: int | None = None,
    overrides: Sequence[str] = (),
    folder: Path | str | None = None,
    base: Path | None = None,
    screen: "Screen | None" = None,
) -> dict[str, Any]:
    """Several methods on a recipe's data with equal budgets, and the cheapest that is not worse than the best.

    What is returned stands in comparison.json of the folder, which is runs/NAME-compare when left out; `sentence` says
    it in words. methods: as on the command line, `"full,lora(rank=16)"`, or each by itself. rates: "probe" or
    "default". cheapest_by: "parameters", "time", "memory" or "size". recipe, overrides, base: as of `run`. Called again
    on the same folder it goes on where it stopped, and adds methods or seeds. Raises the errors of `tunesmith.errors`.
    """
    from tunesmith.search.options import compare_options
    from tunesmith.search.variants import divided

    texts = divided(methods) if isinstance(methods, str) else methods
    wanted = {"methods": tuple(texts), "seeds": seeds, "margin": margin, "cheapest_by": cheapest_by}
    options = compare_options({**wanted, "rates": rates, "jobs": jobs})
    recipe, base, name = _read(recipe, overrides, base)
    place = Path(folder) if folder is not None else Path("runs") / f"{recipe.name or name}-compare"
    from tunesmith.search.compare import compare as carried_out

    return carried_out(recipe, options, place, base, screen or Silent())


def recipe_path(place: Path | str) -> Path:
    """The recipe's file, where `place` may also be the folder of a run."""
    path = Path(place)
    return path / "recipe.yaml" if path.is_dir() else path


def run_folder(recipe: Recipe, base: Path, name: str) -> Path:
    """Where a run goes when nobody says: the run whose own recipe it is, else runs/NAME."""
    return base if is_run(base) else Path("runs") / (recipe.name or name)


def open_run(folder: Path | str) -> Run:
    """The run in a folder. Raises UserError when there is none."""
    return Run.open(Path(folder))


def audit(recipe: Recipe, base: Path) -> dict[str, Any]:
    """What is in the data of a recipe, and what is wrong with them: ledger, findings, and balance of each split."""
    from dataclasses import asdict

    from tunesmith.prepare.audit import picture
    from tunesmith.prepare.corpus import read_corpus
    from tunesmith.references import with_references

    corpus = with_references(read_corpus(recipe.data, recipe.task, base=base, seed=recipe.seed))
    return {
        "ledger": asdict(corpus.ledger),
        "findings": [asdict(finding) for finding in corpus.findings],
        "files": dict(corpus.files),
        "splits": picture(corpus),
    }


def view(recipe: Recipe, base: Path, *, split: str = "train", row: int = 0) -> dict[str, Any]:
    """One row exactly as the model sees it: its texts and target, its tokens, and which of them are learned."""
    from tunesmith.adapting import require_heads
    from tunesmith.pipeline import window
    from tunesmith.prepare.corpus import read_corpus
    from tunesmith.report.row import row_view
    from tunesmith.select.foundation import open_foundation

    corpus = read_corpus(recipe.data, recipe.task, base=base, seed=recipe.seed)
    records = corpus.splits.get(split)
    if not records:
        raise UserError("--split", f"there is no split {split}", f"known: {', '.join(corpus.splits)}")
    if row >= len(records):
        raise UserError("--row", f"{split} has no row {row}", f"its rows are 0 to {len(records) - 1}")
    foundation = open_foundation(recipe.model, base)
    require_heads(foundation, corpus.task, recipe.method)
    view = row_view(corpus.task, records[row], foundation.codec, window(foundation, recipe))
    return {"split": split, "row": row, "where": records[row].where, **view}


def rows(file: Path | str) -> Iterator[Mapping[str, Any]]:
    """The rows of a data file by column, one after the other. Raises UserError for a line that cannot be read."""
    from tunesmith.prepare.sources import read_source

    for row in read_source(str(file), Path()):
        if row.problem is not None:
            raise UserError(row.where, row.problem, "mend or leave out this line")
        yield row.fields


def open_predictor(run: Run | Path | str, *, base: str | None = None) -> "Predictor | Predictors":
    """The model of a run, or of an exported folder, ready to answer again and again.

    base: an adapter's base model, where it is not the run's own, built in, or in the local cache.
    """
    from tunesmith import trained

    return trained.open_predictor(_folder(run), base=base)


def ask(model: "Predictor | Predictors | Run | Path | str", rows: "Sequence[Row]", *, first: int = 1) -> "list[Answer]":
    """An answer for each row, in order: a text, the values of its columns, values by column, or a list of messages.

    first: the number of the first row in errors.
    """
    from tunesmith import trained
    from tunesmith.tasks.chat import Chat

    predictor = open_predictor(model) if isinstance(model, Run | Path | str) else model
    if isinstance(predictor.task, Chat):
        column = predictor.task.messages or "messages"
        rows = [row if isinstance(row, str | Mapping) else {column: list(row)} for row in rows]
    return trained.ask(predictor, rows, first=first)


def evaluate(run: Run | Path | str, data: Path | str | None = None, *, base: str | None = None) -> dict[str, Any]:
    """How good the model of a run is on the rows in `data`, or on its own held-out rows as the run found it.

    run: also the folder of an exported model, which needs `data`. base: an exported adapter's base model, where it is
    neither built in nor in the local cache.
    """
    folder = _folder(run)
    from tunesmith import trained

    if not is_run(folder):
        if data is None:
            raise UserError(named(folder), "is an exported model, which holds no rows", "give some with --data")
        return trained.evaluate_artifact(folder, Path(data), base=base)
    if base is not None:
        raise UserError("--base", "a run knows its own base", "leave it out; it is for exported adapters")
    opened = Run.open(final(folder))
    if data is None:
        judged: dict[str, Any] | None = opened.read_json("evaluation.json")
        if judged is None:
            fix = f"go on with it: tunesmith run {quote(named(opened.folder))}"
            raise UserError(named(opened.folder), "has not been judged", fix)
        return judged
    return trained.evaluate(opened, Path(data))


def merge(
    adapters: Sequence[Run | Path | str],
    out: Path | str,
    *,
    how: str = "linear",
    weights: Sequence[float] | None = None,
    density: float | None = None,
    rank: int | None = None,
    seed: int | None = None,
    data: Path | str | None = None,
    base: str | None = None,
) -> "Merged":
    """The adapters of several runs or exported folders, over one base and for one task, as one adapter in `out`.

    how: linear, ties, dare_linear, dare_ties or magnitude_prune (all but linear for LoRA alone). weights: one each; by
    default equal ones. density: the share of a change's entries that is kept, by default half. rank: of a merged LoRA.
    seed: of what dare draws. data: rows with answers, on which all are judged and the result is proved; without, it is
    proved on rows of the first run. base: the base model, where it is not found.
    """
    places = [_folder(one) for one in adapters]
    from tunesmith import merging

    rows = None if data is None else Path(data)
    more: dict[str, Any] = {"density": density, "rank": rank, "seed": seed, "data": rows, "base": base}
    return merging.merge(places, Path(out), how, weights, **more)


def export(
    run: Run | Path | str,
    kind: str = "safetensors",
    *,
    out: Path | str | None = None,
    data: Path | str | None = None,
    base: str | None = None,
) -> "Artifact":
    """The model of a run in a standard format, in `out` or RUN/exports/KIND, proved to answer as it did.

    run: also the folder of an exported adapter, which needs `out`, and `data`: rows with answers to prove it on. base:
    its base model, where it is not found.
    """
    folder = _folder(run)
    from tunesmith import trained

    if not is_run(folder):
        if out is None:
            raise UserError(named(folder), "is an exported model", "say with --out where another is to be written")
        rows = None if data is None else Path(data)
        return trained.export_artifact(folder, kind, out=Path(out), data=rows, base=base)
    if data is not None or base is not None:
        what = "--data" if data is not None else "--base"
        raise UserError(what, "a run has its own rows and base", "leave it out; it is for exported adapters")
    return trained.export(Run.open(final(folder)), kind, out=None if out is None else Path(out))


def open_adapters(models: Mapping[str, Run | Path | str], *, base: str | None = None) -> "Adapters":
    """Several models side by side under these names, ready to answer; what they have in common is held once.

    Made for adapters over one base, whatever their tasks and methods. `.ask(NAME, ROWS)` asks one, from any thread;
    `[NAME]` is it, for `ask`. base: the base of exported adapters, where it is not found.
    """
    from tunesmith import trained
    from tunesmith.deploy.adapters import Adapters

    folders = {name: _folder(model) for name, model in models.items()}
    return Adapters({name: partial(trained.open_predictor, folder, base=base) for name, folder in folders.items()})


def serve(
    run: Run | Path | str | Mapping[str, Run | Path | str],
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    base: str | None = None,
    tell: Callable[[str], None] | None = None,
) -> None:
    """Answers over HTTP until a signal comes. A key is read from the variable TUNESMITH_API_KEY.

    run: one model, or several by the names under which they are served side by side. port: 0 for any that is free.
    tell: is given the address, such as http://127.0.0.1:8000, once it is taken.
    """
    models = open_adapters(run, base=base) if isinstance(run, Mapping) else open_predictor(run, base=base)
    from tunesmith.deploy import server

    server.serve(models, host=host, port=port, tell=tell)


def _folder(run: Run | Path | str) -> Path:
    """The folder of a run or of an exported model. Raises UserError when it is neither."""
    folder = run.folder if isinstance(run, Run) else Path(run)
    if not is_run(folder) and not (folder / NOTE).is_file():
        raise UserError(named(folder), "holds no run", "`tunesmith list` shows the runs of a folder")
    return folder
