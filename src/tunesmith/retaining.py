"""How a run holds its model to what the base can do: what is remembered of the base before the first step."""

import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from torch import Tensor

from tunesmith.adapt.lora import START
from tunesmith.batch import DRAWN, Encoded
from tunesmith.contracts import Adapted, Foundation, Penalty, Record, Task
from tunesmith.elsewhere import Elsewhere, Read, digest, read_rows, require_rows
from tunesmith.errors import UserError
from tunesmith.evaluate.metrics import find, worth
from tunesmith.evaluate.options import ProbeOptions
from tunesmith.figures import figures
from tunesmith.forward import Inference, all_outputs
from tunesmith.generate import speaks
from tunesmith.house import House, Prepared
from tunesmith.prepare.split import text_key
from tunesmith.probing import Probe, begun
from tunesmith.retain.distil import Distil, frozen, what_is_compared
from tunesmith.retain.ewc import Asked, ewc, fisher
from tunesmith.retain.interpolate import Point, blend, choose
from tunesmith.retain.l2_sp import l2_sp
from tunesmith.retain.pull import anchors
from tunesmith.train.tutor import Tutor


@dataclass(frozen=True)
class Kept:
    """What is remembered of the base. anchors: its weights that move, by name.

    penalties, tutor: what training minds beside the task's loss. replay: rows that are mixed in, and their share of
    all. probe: what interpolation asks at each place. by_loss: whether it scores by the validation loss. sources: a
    hash over the rows from elsewhere that decide training; empty where there are none.
    """

    anchors: Mapping[str, Tensor] = field(default_factory=dict)
    penalties: tuple[Penalty, ...] = ()
    tutor: Tutor | None = None
    replay: Encoded | None = None
    share: float = 0.0
    probe: Probe | None = None
    by_loss: bool = False
    sources: str = ""

    def fingerprint(self, data: str) -> str:
        """The hash of the run's own data together with those from elsewhere."""
        return hashlib.sha256(f"{data} {self.sources}".encode()).hexdigest() if self.sources else data


def require_retention(house: House, foundation: Foundation) -> None:
    """Refuses what cannot be held on to, before weights are read. Raises UserError."""
    task, retain = house.recipe.task, house.recipe.retain
    for place in _places(house).values():
        require_rows(house, foundation, place)
        if task.compares:
            raise UserError(place.key, "this task compares with the base's own answers", "use l2_sp or interpolate")
    if retain.distil is not None and task.parts:
        raise UserError("retain.distil", "is for one task at a time", "use l2_sp, ewc, replay or interpolate")


def _places(house: House) -> dict[str, Elsewhere]:
    """Where the rows of each cure come from that needs some."""
    retain, found = house.recipe.retain, {}
    if retain.replay is not None:
        found["replay"] = Elsewhere("retain.replay", retain.replay.source, retain.replay.task)
    if retain.ewc is not None:
        source = retain.ewc.source
        own = Elsewhere("retain.ewc", source or "", retain.ewc.task)
        found["ewc"] = found["replay"] if source is None else own
    return found


def remember(
    house: House,
    foundation: Foundation,
    prepared: Prepared,
    adapted: Adapted,
    task: Task,
    probes: Sequence[Probe] = (),
) -> Kept:
    """What the run's cures need to know of the base; asked before the first step, when the model still is the base.

    Raises UserError where no weight of the base moves, and for rows that cannot be used.
    """
    retain, places = house.recipe.retain, _places(house)
    held = anchors(adapted) if retain.pulls else {}
    if retain.pulls and not held:
        fix = "use method: full or partial"
        raise UserError(f"retain.{retain.pulls[0]}", "no weight of the base moves with this method", fix)
    rows = {key: read_rows(house, foundation, prepared, task, place) for key, place in places.items()}
    penalties: list[Penalty] = []
    notes: dict[str, Any] = {}
    kept = Kept(held, sources=digest(house, [place.source for place in places.values()]) if places else "")
    if retain.l2_sp is not None:
        penalties.append(l2_sp(retain.l2_sp, held))
        notes["l2_sp"] = {"weight": retain.l2_sp, "tensors": len(held)}
        house.screen.say(f"l2_sp holds {len(held)} tensors to where they begin")
    if retain.ewc is not None:
        pull, notes["ewc"] = _consolidated(house, adapted, rows["ewc"], held)
        penalties.append(pull)
    if retain.distil is not None:
        tutor = _tutor(house, foundation, adapted, task)
        kept, notes["distil"] = replace(kept, tutor=tutor), {"compared": tutor.compared, "weight": tutor.weight}
    if retain.replay is not None:
        replay, notes["replay"] = _replayed(house, prepared, rows["replay"])
        kept = replace(kept, replay=replay, share=retain.replay.share)
    if retain.interpolate is not None:
        if not prepared.corpus.splits.get("validation"):
            raise UserError("retain.interpolate", "no validation row is left to choose by", "set data.validation")
        probe = _asked_at_each_place(house, foundation, prepared, adapted, task, probes)
        kept = replace(kept, probe=probe, by_loss=bool(task.parts) or speaks(task, foundation.codec))
    if notes:
        house.keep("retention.json", notes)
    return replace(kept, penalties=tuple(penalties))


def _consolidated(
    house: House, adapted: Adapted, rows: Read, held: Mapping[str, Tensor]
) -> tuple[Penalty, dict[str, Any]]:
    options = house.recipe.retain.ewc
    assert options is not None
    asked = Asked(rows.task, rows.data, rows.padding, house.world.device)
    found = fisher(adapted.model, asked, held, options.rows, house.recipe.seed)
    if not found.mean > 0:
        raise UserError("retain.ewc", "the answers do not depend on any weight that moves", "leave it out")
    how = "labels drawn from its own outputs" if found.sampled else "the rows' own labels (empirical)"
    house.screen.say(f"ewc: Fisher information on {found.rows} rows, {how}; mean {figures(found.mean)[0]}")
    facts = {"weight": options.weight, "rows": found.rows, "mean": found.mean, "sampled": found.sampled}
    return ewc(options.weight, held, found), facts


def _tutor(house: House, foundation: Foundation, adapted: Adapted, task: Task) -> Distil:
    options = house.recipe.retain.distil
    assert options is not None
    compared = what_is_compared(task, adapted, foundation.family)
    if compared == "states" and options.temperature is not None:
        found = "has no effect under a new head, where hidden states are compared"
        raise UserError("retain.distil.temperature", found, "leave the key out")
    if hasattr(adapted.model, START):
        raise UserError("retain.distil", "init: pissa changes the base, which then cannot be asked", "use another init")
    if house.recipe.method.artifact != "adapter" and compared == "states" and not anchors(adapted):
        raise UserError("retain.distil", "no weight below the head moves with this method", "leave it out")
    what = {"tokens": "outputs of graded tokens", "states": "last hidden states"}.get(compared, "outputs")
    house.screen.say(f"distil compares the {what} with the base's")
    return Distil(options.weight, options.temperature or 1.0, compared, frozen(adapted.model))


def _replayed(house: House, prepared: Prepared, rows: Read) -> tuple[Encoded, dict[str, Any]]:
    """The earlier rows that stand in no split that judges, and what became of all of them."""
    options, own = house.recipe.retain.replay, prepared.encoded["train"]
    assert options is not None
    if options.task == "language" and (DRAWN in rows.data.columns) != (DRAWN in own.columns):
        raise UserError("retain.replay", "texts can only be mixed into what a decoder learns", "use task: own")
    lacking = [name for name in own.columns if name not in rows.data.columns and _learned(name, prepared)]
    if lacking:
        raise UserError("retain.replay", f"its rows have no {lacking[0]}, which this task learns by", "use task: own")
    ways, left_out = Counter[str](), set()
    judging = {name: _keys(prepared.corpus.splits.get(name, ())) for name in ("test", "validation")}
    for record in rows.records:
        split = next((name for name, keys in judging.items() if text_key(record) in keys), None)
        ways[f"skipped:also_in_{split}" if split else "replayed"] += 1
        if split:
            left_out.add(record.row)
    if rows.unusable:
        ways["skipped:unusable"] = rows.unusable
    index = np.array([place for place, row in enumerate(rows.data.rows.tolist()) if row not in left_out])
    if not len(index):
        raise UserError("retain.replay", "all its rows are judged by this run", "name another source")
    kept = rows.data.take(index)
    columns = {name: ragged for name, ragged in kept.columns.items() if name in own.columns}
    kept = replace(kept, columns=columns, rows=kept.rows + int(own.rows.max()) + 1)
    facts = {"source": options.source, "share": options.share, "ways": dict(ways)}
    if house.world.main:
        house.keep("audit.json", {**house.run.read_json("audit.json"), "replay": facts})
    told = ", ".join(f"{count} {way}" for way, count in ways.items())
    house.screen.say(f"replay: {told}; {options.share:.1%} of all rows trained on")
    return kept, facts


def _learned(column: str, prepared: Prepared) -> bool:
    """Whether a column becomes a tensor, and is no note."""
    known = prepared.padding.columns.get(column)
    return known is None or known.role != "note"


def _keys(records: Sequence[Record]) -> set[bytes]:
    return {text_key(record) for record in records}


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _asked_at_each_place(
    house: House,
    foundation: Foundation,
    prepared: Prepared,
    adapted: Adapted,
    task: Task,
    probes: Sequence[Probe],
) -> Probe:
    """What tells how much is forgotten: the recipe's first probe that needs no texts generated, its
    general texts, or the drift of hidden states."""
    silent = [probe for probe in probes if probe.options.kind != "own" or not speaks(task, foundation.codec)]
    if silent:
        return silent[0]
    general = house.recipe.evaluate.general
    options = ProbeOptions(name="drift")
    if general is not None:
        options = ProbeOptions(name="general text", kind="general", source=general)
    return begun((house, foundation, prepared), adapted, task, options, "retain.interpolate")


def interpolate(house: House, prepared: Prepared, adapted: Adapted, task: Task, kept: Kept) -> None:
    """Leaves the model with weights between base and tuned, where the recipe wants that; what every place on the way
    reached on the validation rows is kept in interpolation.json."""
    options, probe = house.recipe.retain.interpolate, kept.probe
    if options is None or probe is None:
        return
    records = prepared.corpus.splits["validation"]
    parameters = dict(adapted.model.named_parameters())
    tuned = {name: parameters[name].detach().clone() for name in kept.anchors}
    metric = None if kept.by_loss else find(task.metrics[0])
    points = []
    for step in range(options.steps + 1):
        alpha = step / options.steps
        blend(adapted.model, kept.anchors, tuned, alpha)
        run = Inference(house.world)
        passed = all_outputs(adapted.model, task, prepared.encoded["validation"], prepared.padding, run)
        score = passed.mean_loss
        if metric is not None:
            settled = task.settle(passed.outputs, records, worth)
            score = metric(settled.predictions(passed.outputs, records))
        lost = probe.loss(probe.ask(adapted.model, task, replies=False))
        points.append(Point(alpha, _finite(score), _finite(lost)))
    taken = choose(points, options.margin, higher_is_better=metric is not None and metric.higher_is_better)
    blend(adapted.model, kept.anchors, tuned, taken.alpha)
    name = "loss" if metric is None else metric.name
    found = {
        "metric": name,
        "probe": probe.options.name,
        "margin": options.margin,
        "taken": taken.alpha,
        "curve": [asdict(point) for point in points],
    }
    house.keep("interpolation.json", found)
    house.screen.say(
        f"interpolation: {taken.alpha:.0%} of the way from the base, {name} {figures(taken.score)[0]} on validation "
        f"rows ({figures(points[-1].score)[0]} all the way), lost by {probe.options.name} {figures(taken.lost)[0]} "
        f"({figures(points[-1].lost)[0]})"
    )
