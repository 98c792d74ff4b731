"""How a run holds its model to what the base can do: what is remembered of the base before the first step."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from tunesmith.contracts import Adapted, Foundation, Penalty, Task, Tutor
from tunesmith.elsewhere import Elsewhere, digest, read_rows, require_rows
from tunesmith.errors import UserError
from tunesmith.figures import figures
from tunesmith.house import House, Prepared
from tunesmith.retain.ewc import Asked, ewc, fisher
from tunesmith.retain.l2_sp import l2_sp
from tunesmith.retain.pull import anchors


@dataclass(frozen=True)
class Kept:
    """What is remembered of the base. anchors: its weights that move, by name.

    penalties, tutor: what training minds beside the task's loss. sources: a hash over the rows from elsewhere that
    decide training; empty where there are none.
    """

    anchors: Mapping[str, Tensor] = field(default_factory=dict)
    penalties: tuple[Penalty, ...] = ()
    tutor: Tutor | None = None
    sources: str = ""

    def fingerprint(self, data: str) -> str:
        """The hash of the run's own data together with those from elsewhere."""
        return hashlib.sha256(f"{data} {self.sources}".encode()).hexdigest() if self.sources else data


NOTHING = Kept()


def require_retention(house: House, foundation: Foundation) -> None:
    """Refuses what cannot be held on to, before weights are read. Raises UserError."""
    task = house.recipe.task
    for place in _places(house).values():
        require_rows(house, foundation, place)
        if task.compares:
            raise UserError(place.key, "this task compares with the base's own answers", "use l2_sp or interpolate")


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


def remember(house: House, foundation: Foundation, prepared: Prepared, adapted: Adapted, task: Task) -> Kept:
    """What the run's cures need to know of the base; asked before the first step, when the model still is the base.

    Raises UserError where no weight of the base moves, and for rows that cannot be used.
    """
    retain, places = house.recipe.retain, _places(house)
    held = anchors(adapted) if retain.pulls else {}
    if retain.pulls and not held:
        fix = "use method: full or partial"
        raise UserError(f"retain.{retain.pulls[0]}", "no weight of the base moves with this method", fix)
    penalties: list[Penalty] = []
    notes: dict[str, object] = {}
    if retain.l2_sp is not None:
        penalties.append(l2_sp(retain.l2_sp, held))
        notes["l2_sp"] = {"weight": retain.l2_sp, "tensors": len(held)}
        house.screen.say(f"l2_sp holds {len(held)} tensors to where they begin")
    if retain.ewc is not None:
        rows = read_rows(house, foundation, prepared, task, places["ewc"])
        asked = Asked(rows.task, rows.data, rows.padding, house.world.device)
        found = fisher(adapted.model, asked, held, retain.ewc.rows, house.recipe.seed)
        if not found.mean > 0:
            raise UserError("retain.ewc", "the answers do not depend on any weight that moves", "leave it out")
        penalties.append(ewc(retain.ewc.weight, held, found))
        how = "labels drawn from its own outputs" if found.sampled else "the rows' own labels (empirical)"
        notes["ewc"] = {
            "weight": retain.ewc.weight, "rows": found.rows, "mean": found.mean, "sampled": found.sampled,
        }  # fmt: skip
        house.screen.say(f"ewc: Fisher information on {found.rows} rows, {how}; mean {figures(found.mean)[0]}")
    if notes:
        house.keep("retention.json", notes)
    sources = digest(house, [place.source for place in places.values()]) if places else ""
    return Kept(held, tuple(penalties), None, sources)
