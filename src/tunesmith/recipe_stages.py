"""The stages of a run: what a recipe says of each of them, over what it says of all."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Self

from pydantic import Field, field_validator, model_validator

from tunesmith.adapt import METHODS
from tunesmith.contracts import Method, Task
from tunesmith.deploy.options import DeployOptions
from tunesmith.errors import UserError, kind, nearest, shown
from tunesmith.evaluate.options import EvaluateOptions
from tunesmith.options import Options
from tunesmith.parts import Part
from tunesmith.prepare.options import DataOptions
from tunesmith.recipe_errors import RecipeError
from tunesmith.recipe_yaml import Document, Place
from tunesmith.retain.options import RetainOptions
from tunesmith.tasks import TASKS
from tunesmith.train.options import TrainOptions

GENERAL = "general/"
"""What stands before the metrics of general texts (`evaluate.general`) in a gate."""
GENERAL_METRICS = ("perplexity", "bits_per_byte")
PROBE = "probe/"
"""What stands before the name of one of `evaluate.probes` in a gate."""


class Gate(Options):
    """What a stage must reach, or keep, for the next one to start; test rows have no part in it."""

    metric: str | None = Field(
        None,
        description="Metric to look at; None: the task's main one. `loss`, `general/perplexity` and `probe/NAME` (the "
        "main metric of one of `evaluate.probes`; the mean CKA of drift) are allowed.",
    )
    at_least: float | None = Field(None, description="The value must not be lower.")
    at_most: float | None = Field(None, description="The value must not be higher.")
    gain: float | None = Field(
        None,
        description="By how much it must be better than the stage's baseline: the model before the stage where that "
        "can do the task already, else the best of the simple models.",
    )
    most_lost: float | None = Field(
        None, ge=0, description="By how much general texts or a probe may be worse than before the stage, as numbers."
    )

    @model_validator(mode="after")
    def _bounds(self) -> Self:
        if self.at_least is None and self.at_most is None and self.gain is None and self.most_lost is None:
            raise ValueError("lets everything through; write at_least, at_most, gain or most_lost")
        return self


class Stage(Options):
    """One stage of a run. What it leaves out stands in the recipe's own sections, key by key."""

    name: str = Field(description="Names the stage and its folder.")
    gate: Gate | None = Field(None, description="What it must reach for the next one to start; None: nothing.")
    task: Annotated[Task, Part(TASKS)] = Field(description="What is learned: a kind and its options.")
    data: DataOptions
    method: Annotated[Method, Part(METHODS)] = Field(
        default_factory=lambda: METHODS.load("full")(), description="How weights may move: a kind and its options."
    )
    train: TrainOptions = Field(TrainOptions(), description="How the weights are moved.")
    retain: RetainOptions = Field(RetainOptions(), description="What holds the model to what it could do before.")
    evaluate: EvaluateOptions = Field(EvaluateOptions(), description="How the tuned model is judged.")
    deploy: DeployOptions = Field(DeployOptions(), description="What is written for use elsewhere.")
    seed: int = Field(0, ge=0, lt=2**63, description="Decides every random choice of the stage.")

    @field_validator("name")
    @classmethod
    def _plain(cls, name: str) -> str:
        if not name.replace("-", "").replace("_", "").isalnum() or len(name) > 60:
            raise ValueError(f"{shown(name)} cannot name a stage; use letters, digits, - and _")
        return name


SECTIONS = tuple(name for name in Stage.model_fields if name not in ("name", "gate"))
"""What a stage can set otherwise than the recipe."""


def conflicts(stages: Sequence[Stage]) -> Iterator[tuple[int, str, str]]:
    """What does not go together: the number of the stage, its key, and why."""
    names = [stage.name for stage in stages]
    for number, stage in enumerate(stages):
        if stage.name in names[:number]:
            yield number, "name", f"{shown(stage.name)} is the name of two stages"
        if number < len(stages) - 1 and not stage.method.merges:
            found = "no plain model can hold what this method learns, so no stage can follow"
            yield number, "method", f"{found}; put it last, or use method: lora"
        if stage.gate is not None and (problem := _unjudged(stage.gate, stage)):
            yield number, "gate", problem


def _unjudged(gate: Gate, stage: Stage) -> str | None:
    """Why a gate cannot be judged."""
    own = stage.task.metrics
    metric = gate.metric or own[0]
    if metric not in own and metric.startswith(GENERAL):
        if metric.removeprefix(GENERAL) not in GENERAL_METRICS:
            return f"metric {shown(metric)} is not measured; {nearest(metric, map(GENERAL.__add__, GENERAL_METRICS))}"
        if gate.gain is not None:
            return "gain is for metrics of the task; general texts take at_most or most_lost"
        return None if stage.evaluate.general is not None else f"{metric} needs texts; name them with evaluate.general"
    if metric not in own and metric.startswith(PROBE):
        return _unprobed(gate, metric.removeprefix(PROBE), stage)
    if gate.most_lost is not None:
        return f"most_lost is for general texts and probes; write metric: {PROBE}NAME, or use gain"
    if metric not in (*own, "loss"):
        return f"metric {shown(metric)} is not measured; {nearest(metric, (*own, 'loss'))}"
    if stage.data.validation == 0 or stage.train.max_steps == 0:
        return "is judged on the validation rows while training; set data.validation and let it train"
    if gate.gain is not None and (stage.task.parts or not (stage.task.untuned or stage.task.baselines)):
        return "there is no baseline for this task to gain over; use at_least or at_most"
    if gate.gain is not None and metric == "loss":
        return "gain is for a metric, not for the loss; use at_most"
    return None


def _unprobed(gate: Gate, name: str, stage: Stage) -> str | None:
    """Why a gate cannot be judged by the probe of this name."""
    probes = {probe.name: probe for probe in stage.evaluate.probes}
    if not probes:
        return f"{shown(PROBE + name)} needs a probe of this stage; name it in evaluate.probes"
    if name not in probes:
        return f"this stage has no probe {shown(name)}; {nearest(name, probes)}"
    if gate.gain is not None:
        return "gain is for metrics of the task; probes take at_least, at_most or most_lost"
    if probes[name].source is None and stage.data.validation == 0:
        return f"probe {shown(name)} would look at rows that judge; give it a source, or set data.validation"
    return None


def unfold(document: Document, known: Sequence[str], check: Callable[[Document], Mapping[str, Any]]) -> None:
    """Writes every stage out in full: the recipe's own sections, and over them the stage's. The last one's then stand
    as the recipe's own.

    known: the keys of a recipe. check: gives the sections of a recipe with every default, or raises RecipeError.
    Raises RecipeError with everything that is wrong in any stage.
    """
    given = document.values["stages"]
    problems = list(_shape(document, given, known))
    if problems:
        raise RecipeError(problems)
    stages = []
    for number, stage in enumerate(given):
        try:
            whole = check(_document(document, number, stage))
            stages.append({**{section: whole[section] for section in SECTIONS}, **_own(stage)})
        except RecipeError as error:
            problems += error.problems
    if problems:
        raise RecipeError(list(dict.fromkeys(problems)))
    document.values |= {"stages": stages, **{section: stages[-1][section] for section in SECTIONS}}


def _own(stage: Mapping[str, Any]) -> dict[str, Any]:
    return {key: stage[key] for key in ("name", "gate") if key in stage}


def _shape(document: Document, given: Any, known: Sequence[str]) -> Iterator[str]:
    """What is wrong before the sections of a stage are looked at."""
    for key in document.values:
        if key not in known:
            yield f"{document.where((key,))}: unknown key {shown(key)}; {nearest(key, known)}"
    if not isinstance(given, list):
        yield f"{document.where(('stages',), 'stages')}: found {kind(given)}, expected a list of stages"
        return
    for number, stage in enumerate(given):
        where = document.where(("stages", number), f"stages.{number}")
        if not isinstance(stage, dict):
            yield f"{where}: found {kind(stage)}, expected a name and sections"
        elif not isinstance(stage.get("name"), str):
            yield f"{where}: key 'name' is missing; write a text"
        else:
            for key in stage:
                place = document.where(("stages", number, key), f"stages.{stage['name']}")
                if key == "model":
                    yield f"{place}: has a model of its own; it starts from what the stage before left"
                elif key not in Stage.model_fields:
                    yield f"{place}: unknown key {shown(key)}; {nearest(key, Stage.model_fields)}"


def _document(document: Document, number: int, stage: Mapping[str, Any]) -> Document:
    """A stage as a recipe of its own, in which each key is known by the place where it was written."""
    whole, here, prefix = document.values, ("stages", number), f"stages.{stage['name']}"
    values: dict[str, Any] = {"model": whole.get("model", {"name": "builtin:minilm"})}
    names: dict[Place, str] = {(): prefix, ("model",): ""}
    for section in SECTIONS:
        above, own = whole.get(section), stage.get(section)
        if section in stage and section in whole and _joins(above, own):
            values[section] = {**above, **own}  # type: ignore[dict-item]
            names |= {(section, key): "" for key in above if key not in own}  # type: ignore[union-attr, operator]
        elif section in stage:
            values[section] = own
        elif section in whole:
            values[section] = above
            names[section,] = ""
    lines = {place: line for place, line in document.lines.items() if place[:1] != ("stages",)}
    overrides = {place: text for place, text in document.overrides.items() if place[:1] != ("stages",)}
    lines |= {place[2:]: line for place, line in document.lines.items() if place[:2] == here}
    overrides |= {place[2:]: text for place, text in document.overrides.items() if place[:2] == here}
    return Document(document.name, values, lines, overrides, names)


def _joins(above: Any, own: Any) -> bool:
    """Whether a stage's section stands over the recipe's key by key. One of another kind stands alone."""
    both = isinstance(above, dict) and isinstance(own, dict)
    return both and ("kind" not in own or own["kind"] == above.get("kind"))


def holders(document: Document, place: Place, text: str) -> list[tuple[Place, dict[str, Any], Place]]:
    """The mappings that a setting goes over: the recipe, and the stages that have a say of their own about it.

    Each with where it stands in the recipe, and the setting's place in it.
    """
    found = document.values.get("stages")
    stages = [stage if isinstance(stage, dict) else {} for stage in found] if isinstance(found, list) else []
    if place[0] != "stages" or len(place) == 1:
        section = place[0] if place[0] in SECTIONS else None
        own = [(("stages", number), stage, place) for number, stage in enumerate(stages) if section in stage]
        return [((), document.values, place), *own]
    names = [str(stage.get("name")) for stage in stages]
    where = f"command line, {shown(text)[1:-1]}"
    if place[1] not in names:
        raise UserError(where, f"no stage is called {shown(place[1])}", nearest(str(place[1]), names))
    if len(place) == 2:
        raise UserError(where, "names a stage and no key of it", f"write stages.{place[1]}.train.epochs=3, say")
    number = names.index(str(place[1]))
    return [(("stages", number), stages[number], place[2:])]
