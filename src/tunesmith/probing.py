"""What is lost by tuning: the same questions put to the model before and after, and while it learns."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from peft import PeftModel
from torch import nn

from tunesmith.adapt.prompt import VirtualMethod
from tunesmith.answering import speaker_for
from tunesmith.contracts import VOCABULARY_HEADS, Adapted, Family, Foundation, Task, parts_of
from tunesmith.elsewhere import Elsewhere, Read, read_rows, require_language, require_rows
from tunesmith.errors import UserError
from tunesmith.evaluate.metrics import find
from tunesmith.evaluate.options import ProbeOptions
from tunesmith.figures import figures, interval
from tunesmith.forward import Inference, all_outputs
from tunesmith.general import METRICS as OF_TEXTS
from tunesmith.general import beside
from tunesmith.generate import Speaker, with_replies
from tunesmith.given import Predictions
from tunesmith.house import House, Prepared
from tunesmith.retain.drift import Drift, States, Texts, drift, hidden_states
from tunesmith.select.load import load_model
from tunesmith.select.safety import tensor_sizes, weight_files
from tunesmith.select.skeleton import skeleton

MASKED = "AutoModelForMaskedLM"
METRICS = {"general": OF_TEXTS, "masked": ("perplexity", "token_accuracy")}
"""What is measured of texts."""

Found = Predictions | Mapping[str, States]


@dataclass(frozen=True)
class Probe:
    """A question to the model. rows: what it is asked about. masked: the base's masked head, for texts of an encoder.

    before: what the base answered; None where it could not know.
    """

    options: ProbeOptions
    rows: Read
    world: Inference
    speaker: Speaker
    masked: nn.Module | None = None
    before: Found | None = None

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics of its predictions, the main one first."""
        return METRICS.get(self.options.kind, self.rows.task.metrics)

    def ask(self, model: nn.Module, task: Task, *, replies: bool = True) -> Found:
        """What the model, as it is now, answers. task: the run's own, which may have learned a threshold since.

        replies: whether texts are generated, where answers are texts.
        """
        rows = self.rows
        if self.options.kind == "drift":
            return hidden_states(model, Texts(rows.task, rows.data, rows.padding, self.world.world.device))
        asked = task if self.options.kind == "own" else rows.task
        if self.masked is not None:
            model = _behind(model, self.masked)
        passed = all_outputs(model, asked, rows.data, rows.padding, self.world)
        outputs = passed.outputs
        if replies and self.options.kind == "own":
            outputs = with_replies(model, asked, outputs, rows.records, self.speaker)
        return asked.predictions(outputs, rows.records)

    def number(self, found: Found) -> dict[str, float | None]:
        """What the journal keeps of an answer."""
        if isinstance(found, Predictions):
            return {find(self.metrics[0]).name: _finite(find(self.metrics[0])(found))}
        return {"cka": _finite(self._drift(found).mean)}

    def loss(self, found: Found) -> float:
        """How much is lost by this answer, as one number of which less is better."""
        if isinstance(found, Predictions):
            metric = find(self.metrics[0])
            return -metric(found) if metric.higher_is_better else metric(found)
        return 1 - self._drift(found).mean

    def _drift(self, found: Mapping[str, States], level: float | None = None) -> Drift:
        assert self.before is not None
        assert not isinstance(self.before, Predictions)
        return drift(self.before, found, level)

    def compared(self, after: Found, house: House) -> dict[str, Any]:
        """What `evaluation.json` holds of it."""
        options, rows = self.options, self.rows
        said = {"name": options.name, "kind": options.kind, "source": options.source}
        if not isinstance(after, Predictions):
            found = self._drift(after, house.recipe.evaluate.level)
            layers = found.layers
            tokens = max(len(states.values) for states in after.values())
            limits = {"cka": _finite(found.mean), "low": _finite(found.low), "high": _finite(found.high)}
            worst = min(layers, key=lambda name: layers[name], default=None)
            return {**said, "tokens": tokens, "layers": layers, **limits, "lowest": worst}
        before = self.before if isinstance(self.before, Predictions) else None
        metrics = beside(before, after, self.metrics, house)
        return {**said, "rows": len(rows.records), "unusable": rows.unusable, "metrics": metrics}


def require_probes(house: House, foundation: Foundation) -> None:
    """Refuses probes that this model or task cannot answer, before weights are read. Raises UserError."""
    task = house.recipe.task
    for place, options in enumerate(house.recipe.evaluate.probes):
        key = f"evaluate.probes.{place}"
        if options.kind == "general":
            require_language(foundation, task, key)
        if options.kind == "own" and task.compares:
            raise UserError(key, "this task compares with the base's own answers", "use kind: drift or general")
        if options.kind == "masked" and foundation.family is not Family.ENCODER:
            raise UserError(key, f"{foundation.card.name} is no encoder", "use kind: general or drift")
        if options.kind == "masked" and (task.parts or task.auto_class(foundation.family) in VOCABULARY_HEADS):
            raise UserError(key, "is for a task with a head of its own", "use kind: general, or drift")
        if options.kind == "masked" and isinstance(house.recipe.method, VirtualMethod):
            raise UserError(key, "a masked head cannot be put behind prompts or prefixes", "use kind: drift")
        if options.source is not None:
            require_rows(house, foundation, Elsewhere(key, options.source))


def require_masked_head(house: House, foundation: Foundation) -> None:
    """Refuses a masked probe of a model whose files hold nothing of a masked head, before weights are read.

    It is asked of the run's own model alone: a later stage starts from other files. Raises UserError.
    """
    for place, options in enumerate(house.recipe.evaluate.probes):
        if options.kind == "masked" and not _holds_masked_head(foundation):
            raise _without_masked_head(foundation, f"evaluate.probes.{place}")


def _holds_masked_head(foundation: Foundation) -> bool:
    """Whether any tensor of the files is one of a masked head; so of a head that is made of the embeddings alone."""
    model = skeleton(foundation.config, MASKED)
    given: Any = model.get_input_embeddings()
    wanted = {name.partition(".")[0] for name, one in model.named_parameters() if one is not given.weight}
    wanted -= {model.base_model_prefix}
    kept = {name.partition(".")[0] for path in weight_files(foundation.folder) for name in tensor_sizes(path)}
    return not wanted or bool(wanted & kept)


def _without_masked_head(foundation: Foundation, key: str) -> UserError:
    return UserError(key, f"{foundation.card.name} comes without a masked head", "use kind: drift")


def opened(house: House, foundation: Foundation, prepared: Prepared, adapted: Adapted, task: Task) -> tuple[Probe, ...]:
    """The recipe's probes with what the base answers; asked before the first step, when the model still is the base.

    Raises UserError for rows that cannot be used, and for a base without a masked head where one is asked.
    """
    setting = house, foundation, prepared
    return tuple(
        begun(setting, adapted, task, options, f"evaluate.probes.{place}")
        for place, options in enumerate(house.recipe.evaluate.probes)
    )


def begun(
    setting: tuple[House, Foundation, Prepared], adapted: Adapted, task: Task, options: ProbeOptions, key: str
) -> Probe:
    """A probe with what the base answers."""
    house, foundation, prepared = setting
    rows = _rows(house, foundation, prepared, task, options, key)
    masked = _masked_head(foundation, house, key) if options.kind == "masked" else None
    probe = Probe(options, rows, Inference(house.world), speaker_for(house, foundation, prepared), masked)
    known = options.kind != "own" or adapted.knows or all(part.untuned for part in parts_of(task).values())
    if not known:
        return probe
    asked = masked if masked is not None else adapted.model
    return replace(probe, before=replace(probe, masked=None).ask(asked, task))


def _rows(
    house: House, foundation: Foundation, prepared: Prepared, task: Task, options: ProbeOptions, key: str
) -> Read:
    if options.source is None:
        split = "validation" if prepared.corpus.splits.get("validation") else prepared.judged
        return Read(task, prepared.corpus.splits[split], prepared.encoded[split], prepared.padding)
    texts = options.kind in ("general", "masked")
    if options.kind == "drift":
        own = task.parts or task.auto_class(foundation.family) not in VOCABULARY_HEADS
        place = Elsewhere(key, options.source, "inputs" if own else "language")
    else:
        place = Elsewhere(key, options.source, "language" if texts else "own")
    return read_rows(house, foundation, prepared, task, place)


def _masked_head(foundation: Foundation, house: House, key: str) -> nn.Module:
    """The base with its masked head. Raises UserError where it comes without."""
    loaded = load_model(foundation, MASKED, {}, seed=house.recipe.seed)
    if loaded.head:
        raise _without_masked_head(foundation, key)
    return torch.nn.Module.to(loaded.model, house.world.device)


def _behind(model: nn.Module, masked: nn.Module) -> nn.Module:
    """The masked head behind the tuned encoder, whose embeddings it shares where it shared the base's."""
    inner: Any = model
    if isinstance(model, PeftModel):
        inner = model.get_base_model()
    head: Any = masked
    setattr(head, head.base_model_prefix, getattr(inner, inner.base_model_prefix))
    head.tie_weights()
    return masked


def watch(probes: Sequence[Probe], model: nn.Module, task: Task) -> dict[str, dict[str, float | None]]:
    """What the journal keeps of all probes at this moment, by their names."""
    return {probe.options.name: probe.number(probe.ask(model, task, replies=False)) for probe in probes}


def lost(probes: Sequence[Probe], adapted: Adapted, task: Task, house: House) -> list[dict[str, Any]]:
    """What became of each probe, as `evaluation.json` holds it; each is told in a sentence."""
    found = [probe.compared(probe.ask(adapted.model, task), house) for probe in probes]
    for entry in found:
        house.screen.say(told(entry))
    return found


def told(entry: Mapping[str, Any]) -> str:
    """One sentence: what became of a probe."""
    if entry["kind"] == "drift":
        lowest = entry["layers"].get(entry["lowest"])
        if lowest is None:
            return f"{entry['name']}: {entry['tokens']} tokens are too few, or too alike, to compare hidden states"
        return (
            f"{entry['name']}: hidden states are like the base's by a CKA of "
            f"{interval(entry['cka'], entry['low'], entry['high'])}, at least {figures(lowest)[0]} "
            f"(layer {entry['lowest']}), on {entry['tokens']} tokens"
        )
    name, one = next(iter(entry["metrics"].items()))
    after = interval(*one["after"].values())
    if "before" not in one:
        return f"{entry['name']}: {name} {after} on {entry['rows']} rows, which the base could not answer"
    return (
        f"{entry['name']}: {name} {interval(*one['before'].values())} before, {after} after, "
        f"a change of {interval(*one['difference'].values())} on {entry['rows']} rows"
    )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
