"""The folder of one run: what lies where, whose it is, and that only one process works in it."""

import json
import os
import platform
import secrets
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, Self

from tunesmith.commit import locked, write_file
from tunesmith.errors import UserError, named, shown
from tunesmith.options import path_keys
from tunesmith.recipe import Change, Recipe, changed, recipe_from

FORMAT = 1
State = Literal["started", "trained", "stopped", "complete"]
STATES: tuple[State, ...] = ("started", "trained", "stopped", "complete")
PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "peft", "numpy", "scipy", "scikit-learn", "pydantic")
"""Packages whose versions can change a result."""


class _Inside:
    """The path of a file or folder of the run."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, run: "Run", owner: type["Run"]) -> Path:
        return run.folder / self.name


class Run:
    """The folder of one run. Nothing in it names a place outside by an absolute path, so it can be moved."""

    recipe_file = _Inside("recipe.yaml")
    environment = _Inside("environment.json")
    model = _Inside("model.json")
    audit = _Inside("audit.json")
    ledger = _Inside("ledger.jsonl")
    split = _Inside("split.json")
    search = _Inside("search.json")
    retention = _Inside("retention.json")
    interpolation = _Inside("interpolation.json")
    parameters = _Inside("parameters.json")
    journal = _Inside("journal.jsonl")
    timing = _Inside("timing.jsonl")
    checkpoints = _Inside("checkpoints")
    evaluation = _Inside("evaluation.json")
    predictions = _Inside("predictions.jsonl")
    cost = _Inside("cost.json")
    deploy = _Inside("deploy.json")
    report = _Inside("report.html")
    artifact = _Inside("artifact")
    stages = _Inside("stages")
    chain = _Inside("stages.json")
    transfer = _Inside("transfer.json")

    def __init__(self, folder: Path, run_id: str) -> None:
        self.folder = folder
        self.run_id = run_id
        self.offered: Recipe | None = None

    @classmethod
    def create_or_open(cls, folder: Path, recipe: Recipe, base: Path) -> Self:
        """The run of `recipe` in `folder`, whose relative paths start at `base`; made when it is not there yet.

        Raises UserError when the folder holds something else, or a run that was made by another recipe, and RunBusy
        while another process works there.
        """
        where = named(folder)
        if folder.exists() and not folder.is_dir():
            raise UserError(where, "is a file", "name another folder with --run")
        if not is_run(folder) and folder.is_dir() and any(path.name[0] != "." for path in folder.iterdir()):
            raise UserError(where, "is not empty and holds no run", "name another folder with --run")
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(where, f"cannot be made: {error.strerror}", "name another folder with --run") from error
        recipe = recipe.moved(base, folder)
        with locked(folder):
            return cls._reopened(folder, recipe) if is_run(folder) else cls._created(folder, recipe)

    @classmethod
    def _created(cls, folder: Path, recipe: Recipe) -> Self:
        run = cls(folder, secrets.token_hex(8))
        run._note("started", recipe)
        write_file(run.recipe_file, recipe.dump())
        return run

    @classmethod
    def _reopened(cls, folder: Path, recipe: Recipe) -> Self:
        run = cls.open(folder)
        differences = changed(run.recipe(), recipe)
        if differences and not run.learned:
            run._note("started", recipe)
            write_file(run.recipe_file, recipe.dump())
            return run
        if any(not change.allowed for change in differences):
            raise OtherRecipe(folder, differences)
        files = {f"task.{key}" for key in path_keys(recipe.task)}  # type: ignore[arg-type]  # tasks are options
        if any(change.key.startswith(("data.", "model.")) or change.key in files for change in differences):
            run.offered = recipe  # what lies at other paths may be something else
        elif differences or not run.recipe_file.exists():
            run._adopt(recipe, differences)
        return run

    def settle(self) -> None:
        """Stores a recipe that names other paths, once what lies there was found to be the same."""
        if self.offered is not None:
            self._adopt(self.offered, changed(self.recipe(), self.offered))
            self.offered = None

    def _adopt(self, recipe: Recipe, differences: Sequence[Change]) -> None:
        again = any(change.key.startswith(("evaluate.", "retain.", "deploy.", "task.")) for change in differences)
        if differences:
            self._note("trained" if again and self.state == "complete" else self.state, recipe)
        write_file(self.recipe_file, recipe.dump())

    @classmethod
    def open(cls, folder: Path) -> Self:
        """The run in `folder`. Raises UserError when there is none, or it is of another version."""
        if not is_run(folder):
            raise UserError(named(folder), "holds no run", "`tunesmith list` shows the runs of a folder")
        run = cls(folder, "")
        facts = run.read_json("run.json")
        if not isinstance(facts, dict) or facts.get("format") != FORMAT or facts.get("state") not in STATES:
            found = facts.get("format") if isinstance(facts, dict) else None
            where = named(folder / "run.json")
            raise UserError(where, f"has format {shown(found)}, this version reads {FORMAT}", "start a new run")
        run.run_id = str(facts.get("run_id"))
        return run

    @property
    def state(self) -> State:
        """How far the run is: "started", "trained" once the final weights are known, "complete" at the end.

        One in stages of which a gate was not passed is "stopped".
        """
        state: State = self.read_json("run.json")["state"]
        return state

    @property
    def learned(self) -> bool:
        """Whether there are weights that a changed recipe or other data would belie."""
        inside = any(self.checkpoints.glob("step-*")) or any(self.stages.glob("*/run.json"))
        return self.state != "started" or inside

    def renew(self, recipe: Recipe) -> None:
        """Starts again by a recipe whose changes were found to be allowed; what has been done stays."""
        self._note("started", recipe)
        write_file(self.recipe_file, recipe.dump())

    def mark(self, state: State) -> None:
        """Notes how far the run is."""
        self._note(state, self.recipe())

    def _note(self, state: State, recipe: Recipe) -> None:
        facts = {"format": FORMAT, "run_id": self.run_id, "state": state, "recipe": recipe.as_mapping()}
        self.write_json("run.json", facts)

    def recipe(self) -> Recipe:
        """The recipe that the run was made by; its relative paths start at the run's folder.

        It is kept in run.json, so that an edit of the run's recipe.yaml is a change like any other.
        """
        return recipe_from(self.read_json("run.json")["recipe"], named(self.folder / "run.json"))

    def lock(self) -> AbstractContextManager[None]:
        """Keeps other processes out while it is held. Raises RunBusy when one is in."""
        return locked(self.folder)

    def write_json(self, name: str, data: Any) -> None:
        """Replaces a file of the run by `data` at once or not at all."""
        write_file(self.folder / name, json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n")

    def read_json(self, name: str) -> Any:
        """What a JSON file of the run holds; None when it is not there. Raises UserError for a damaged one."""
        path = self.folder / name
        try:
            return json.loads(path.read_bytes())
        except FileNotFoundError:
            return None
        except OSError as error:
            raise UserError(named(path), f"cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise UserError(named(path), "is damaged", "run again, or restore it from a copy") from error


class OtherRecipe(UserError):
    """A run cannot go on with a recipe that trains something else."""

    def __init__(self, folder: Path, changes: Sequence[Change]) -> None:
        self.changes = tuple(changes)
        found = "was made by another recipe"
        super().__init__(named(folder), found, "name another folder with --run, or take back what is refused")
        self.args = ("\n".join([str(self), *table(changes)]),)


def table(changes: Sequence[Change]) -> Iterator[str]:
    """One line a change: key, old and new value, and whether the run may go on with it."""
    cells = [
        (change.key, shown(change.old, 40), shown(change.new, 40), "allowed" if change.allowed else "refused")
        for change in changes
    ]
    rows = [("key", "the run has", "now", ""), *cells]
    widths = [max(len(row[place]) for row in rows) for place in range(4)]
    for row in rows:
        yield "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def is_run(folder: Path) -> bool:
    """Whether `folder` holds a run."""
    return (folder / "run.json").is_file()


def final(folder: Path) -> Path:
    """The folder of the run that left the model of the run in `folder`: of one in stages that of the last stage."""
    stages = Run.open(folder).recipe().stages if is_run(folder) else ()
    last = folder / stage_folder(len(stages), stages[-1].name) if stages else folder
    return last if is_run(last) else folder


def stage_folder(number: int, name: str) -> str:
    """Where a stage's own run lies within the whole one. number: from 1."""
    return f"stages/{number}-{name}"


def runs_in(folder: Path) -> list[Path]:
    """The runs directly in `folder`, by name."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and is_run(path)) if folder.is_dir() else []


def environment() -> dict[str, Any]:
    """Facts that can change a result: versions and the machine's kind; no variable, user, host or path."""
    import torch

    from tunesmith.world import alone

    device = alone().device
    return {
        "tunesmith": version("tunesmith"),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
        "packages": {name: found for name in PACKAGES if (found := _version(name)) is not None},
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "memory_bytes": _memory_bytes(),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    """The processor's model as the system names it."""
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text(errors="replace").splitlines() if facts.is_file() else []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.processor() or platform.machine())


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
