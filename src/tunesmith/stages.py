"""A run in stages: ordinary runs one after the other, each of which starts from the model that the one before left.

Domain- and task-adaptive pre-training (arXiv:2004.10964), training on an intermediate task (arXiv:1811.01088), and
ULMFiT's three steps (arXiv:1801.06146) are recipes of this kind.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tunesmith import pipeline
from tunesmith.errors import CheckFailed, UserError, named
from tunesmith.gate import Judged, judged
from tunesmith.house import House, Screen
from tunesmith.prepare.corpus import file_hashes
from tunesmith.recipe import Recipe, changed, moved_path
from tunesmith.recipe_stages import Gate
from tunesmith.report.chain import write as write_report
from tunesmith.run import OtherRecipe, Run, is_run, stage_folder
from tunesmith.select.foundation import open_foundation
from tunesmith.select.options import ModelOptions
from tunesmith.transfer import transferred
from tunesmith.world import World, joined


@dataclass(frozen=True)
class Link:
    """A stage as an ordinary run: its recipe, whose model is what the stage before leaves, and its folder."""

    number: int
    name: str
    recipe: Recipe
    folder: Path
    gate: Gate | None

    @property
    def run(self) -> Run:
        return Run.open(self.folder)


def run(recipe: Recipe, folder: Path, base: Path, screen: Screen) -> Path:
    """Walks the stages and returns the whole run's folder; goes on where an earlier call on that folder stopped.

    base: where the recipe's relative paths start. Raises the errors of `tunesmith.errors`; CheckFailed at a gate that
    is not passed.
    """
    chain = links(recipe, folder, base)
    with joined() as world:
        if not world.main:
            _walk(chain, None, base, world, screen)
            return folder
        whole = _opened(recipe, folder, base, chain)
        with whole.lock():
            if whole.state == "complete":
                _walk(chain, None, base, world, screen)
                screen.say(f"{folder} is complete; nothing is left to do")
                return folder
            if not any(is_run(link.folder) for link in chain):
                _require_fit(chain, House(recipe, whole, base, world, screen))
            _walk(chain, whole, base, world, screen)
            _keep_transfer(whole, chain, screen)
            whole.mark("complete")
            screen.stage("report", str(write_report(folder)))
    return folder


def links(recipe: Recipe, folder: Path, base: Path) -> list[Link]:
    """The stages as runs in the folder of the whole. base: where the recipe's relative paths start."""
    found: list[Link] = []
    model = recipe.model
    for number, stage in enumerate(recipe.stages, 1):
        own = recipe.of_stage(stage, model)
        if number < len(recipe.stages):
            own = _leaving_weights(own)
        place = folder / stage_folder(number, stage.name)
        found.append(Link(number, stage.name, own, place, stage.gate))
        path = moved_path(str((place / _weights(own)).absolute()), base, base)
        name = path if path.startswith(".") else f"./{path}"
        model = ModelOptions(name=name, quantise=recipe.model.quantise)
    return found


def _leaving_weights(recipe: Recipe) -> Recipe:
    """The recipe with the full model among what it writes, for the next stage to start from."""
    formats = recipe.deploy.formats
    if "safetensors" in formats or ("auto" in formats and recipe.method.artifact == "safetensors"):
        return recipe
    deploy = recipe.deploy.model_copy(update={"formats": (*formats, "safetensors")})
    return recipe.model_copy(update={"deploy": deploy})


def _weights(recipe: Recipe) -> str:
    """Where in its folder a run leaves its full model; of several tasks, which share what is passed on, the first."""
    kinds = {recipe.method.artifact if kind == "auto" else kind for kind in recipe.deploy.formats}
    folder = "artifact" if len(kinds) == 1 else "artifact/safetensors"
    return "/".join([folder, *list(recipe.task.parts)[:1]])


def _opened(recipe: Recipe, folder: Path, base: Path, chain: Sequence[Link]) -> Run:
    """The whole run, made when it is not there yet. Raises UserError for a recipe that a stage cannot go on with."""
    if not is_run(folder):
        return Run.create_or_open(folder, recipe, base)
    whole, moved = Run.open(folder), recipe.moved(base, folder)
    if not whole.recipe().stages:
        raise UserError(named(folder), "holds a run without stages", "name another folder with --run")
    with whole.lock():
        for link in chain:
            if is_run(link.folder) and link.run.learned:
                changes = changed(link.run.recipe(), link.recipe.moved(base, link.folder))
                if any(not change.allowed for change in changes):
                    raise OtherRecipe(link.folder, changes)
        if whole.recipe() != moved or whole.state == "stopped":
            whole.renew(moved)
    return whole


def _require_fit(chain: Sequence[Link], house: House) -> None:
    """Refuses what a later stage would refuse, before the first one starts: another model has the same build."""
    foundation = open_foundation(house.recipe.model, house.base)
    for link in chain:
        own = House(link.recipe, house.run, house.base, house.world, house.screen)
        try:
            pipeline.require(own, foundation)
            file_hashes(link.recipe.data, house.base)
        except UserError as error:
            raise UserError(f"stages.{link.name}: {error.where}", error.found, error.fix) from error


def _walk(chain: Sequence[Link], whole: Run | None, base: Path, world: World, screen: Screen) -> None:
    """Runs each stage that is not complete yet, and judges its gate. whole: what is kept up to date; None: nothing."""
    gates: dict[str, Judged] = {}
    for link in chain:
        screen.stage("stage", f"{link.number} of {len(chain)}, {link.name}")
        if world.main and link.number > 1:
            _require_same_start(link, base)
        pipeline.run(link.recipe, link.folder, base, screen)
        said = None
        if whole is not None:
            if link.gate is not None:
                gates[link.name] = judged(link.gate, link.run)
                screen.say(f"gate: {gates[link.name].said}")
            said = _stopped(chain, link, whole, gates, screen)
        (stops,) = world.total(float(said is not None))  # the others wait until all is written
        if stops:
            raise CheckFailed(f"{said or 'a gate was not passed'}; no later stage was started")


def _require_same_start(link: Link, base: Path) -> None:
    """Refuses a complete stage that started from another model than the stage before has left now."""
    if not is_run(link.folder) or link.run.state == "started":
        return
    learned = link.run.read_json("model.json")["card"]["weights_sha256"]
    offered = open_foundation(link.recipe.model, base).card.weights_sha256
    if learned != offered:
        found = f"started from weights {learned[:12]}, and the stage before has left {offered[:12]} since"
        raise UserError(
            named(link.folder), found, "remove this folder to learn it anew, or start another run with --run"
        )


def _stopped(chain: Sequence[Link], link: Link, whole: Run, gates: Mapping[str, Judged], screen: Screen) -> str | None:
    """Keeps what a stage did. Where its gate was not passed, all up to there is reported; what is then said of it."""
    gate = gates.get(link.name)
    if gate is None or gate.passed:
        _keep(whole, chain, gates)
        return None
    said = f"stage {link.name} did not pass its gate: {gate.said}"
    _keep_transfer(whole, chain[: link.number], screen)
    _keep(whole, chain, gates, stopped=said)
    whole.mark("stopped")
    screen.stage("report", str(write_report(whole.folder)))
    return said


def _keep_transfer(whole: Run, chain: Sequence[Link], screen: Screen) -> None:
    if len(chain) > 1:
        screen.stage("transfer", "what the later stages left of the earlier ones")
    table = transferred([(link.name, link.run) for link in chain])
    for line in table["said"]:
        screen.say(line)
    whole.write_json("transfer.json", table)


def _keep(whole: Run, chain: Sequence[Link], gates: Mapping[str, Judged], stopped: str | None = None) -> None:
    """Writes the table of stages."""
    rows = [_row(link, gates.get(link.name)) for link in chain]
    whole.write_json("stages.json", {"stages": rows, "stopped": stopped})


def _row(link: Link, gate: Judged | None) -> dict[str, Any]:
    """What the table of stages says of one; of one that has not got so far what is known of it."""
    values = link.recipe.as_mapping()
    row = {
        "name": link.name,
        "folder": stage_folder(link.number, link.name),
        "task": values["task"]["kind"],
        "method": values["method"]["kind"],
        "state": link.run.state if is_run(link.folder) else None,
        "gate": None if gate is None else asdict(gate),
        "notes": [],
    }
    if row["state"] != "complete":
        return row
    found, cost, counts, audit = (
        link.run.read_json(f"{name}.json") for name in ("evaluation", "cost", "parameters", "audit")
    )
    return row | {
        "rows": audit["splits"]["train"]["rows"],
        "split": found["split"],
        "judged": found["rows"],
        "metric": found["main"],
        "higher_is_better": found["higher_is_better"],
        **{key: found["metrics"][found["main"]].get(key) for key in ("value", "low", "high")},
        "verdict": found["verdict"],
        "seconds": cost["train_seconds"],
        "tokens": cost["tokens"],
        "moved": counts["trainable"] / counts["total"],
        "notes": list(counts["notes"]),
    }
