"""What a model answers around its training: before it, to be compared with, and on the judged rows."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunesmith.batch import Padding, encoded
from tunesmith.contracts import Adapted, Family, Foundation, Record, Task, parts_of
from tunesmith.errors import UserError
from tunesmith.evaluate.lines import prediction_line
from tunesmith.evaluate.metrics import find, worth
from tunesmith.figures import figures
from tunesmith.forward import PACKING_LIMIT, Inference, all_outputs, packing_gap
from tunesmith.generate import Speaker, with_replies
from tunesmith.given import Outputs, Predictions
from tunesmith.house import House, Prepared
from tunesmith.prepare.corpus import without
from tunesmith.prepare.encode import encode_corpus


def speaker_for(house: House, foundation: Foundation, prepared: Prepared) -> Speaker:
    """What generating needs, for this run's rows."""
    return Speaker(foundation.codec, prepared.max_tokens, Inference(house.world))


def of_records(outputs: Outputs, records: Sequence[Record]) -> Outputs:
    """The outputs of some records alone."""
    wanted = {record.row for record in records}
    index = [place for place, row in enumerate(outputs.data.rows.tolist()) if row in wanted]
    return Outputs([outputs.values[place] for place in index], outputs.data.take(np.array(index, dtype=np.int64)))


def require_packing(house: House, foundation: Foundation) -> None:
    """Refuses packing for rows that cannot stand behind one another. Raises UserError."""
    if house.recipe.train.packing and not (house.recipe.task.packs and foundation.family is Family.DECODER):
        raise UserError("train.packing", "is for texts that a decoder learns token by token", "leave the key out")
    if house.recipe.train.packing and house.recipe.method.positions(foundation.family):
        raise UserError("train.packing", "would let several texts share what the method puts before each", "use lora")


def laid(house: House, foundation: Foundation, prepared: Prepared, adapted: Adapted, task: Task) -> Padding:
    """How training rows are laid into batches: behind one another where wanted, and the model keeps them apart."""
    if not house.recipe.train.packing:
        return prepared.padding
    packed = replace(prepared.padding, pack=prepared.max_tokens)
    gap = packing_gap(adapted.model, task, prepared.encoded["train"], packed)
    if gap > PACKING_LIMIT:
        found = f"{foundation.card.model_type} models mix rows that stand in one line (outputs differ by {gap:.1e})"
        raise UserError("train.packing", found, "leave the key out")
    return packed


def drawn_weights(task: Task, prepared: Prepared) -> list[float] | None:
    """How often each example is drawn: as often as its row says, and of a task with parts as often as they shall be."""
    records, data = prepared.corpus.splits["train"], prepared.encoded["train"]
    own = {name: task.of_part(name, records) for name in parts_of(task)}
    weighed = {name: part.weigh(own[name]) for name, part in parts_of(task).items()}
    draws = task.draws({name: len(rows) for name, rows in own.items()})
    if draws is None and not any(weighed.values()):
        return None
    weights = np.ones(len(data))
    for number, name in enumerate(own):
        mine = data.part_of == number
        by_row = {r.row: w for r, w in zip(own[name], weighed[name] or [1.0] * len(own[name]), strict=True)}
        found = np.array([by_row[row] for row in data.rows[mine].tolist()])
        share = found.sum() if draws is None else draws[name]
        weights[mine] = found * (share / max(found.sum(), 1e-12))
    return weights.tolist()


def answered(house: House, foundation: Foundation, prepared: Prepared, adapted: Adapted, task: Task) -> Outputs:
    """What the model, as it is now, answers on the judged split."""
    records = prepared.corpus.splits[prepared.judged]
    encoded_rows = prepared.encoded[prepared.judged]
    passed = all_outputs(adapted.model, task, encoded_rows, prepared.padding, Inference(house.world))
    speaker = speaker_for(house, foundation, prepared)
    return with_replies(adapted.model, task, passed.outputs, records, speaker)


def refer(house: House, prepared: Prepared, adapted: Adapted, task: Task) -> Prepared:
    """The rows with what the base gives for them, for a task whose loss compares with it; taken before the first step,
    when the model that is going to be tuned still is the base."""
    if not task.compares:
        return prepared
    house.screen.say("asking the base, which the tuned model is held to")
    run = Inference(house.world)
    rows = {
        split: task.refer(found, all_outputs(adapted.model, task, found, prepared.padding, run).values)
        for split, found in prepared.encoded.items()
    }
    return replace(prepared, encoded=rows)


def choose(
    house: House, foundation: Foundation, prepared: Prepared, adapted: Adapted, task: Task
) -> tuple[Prepared, Task]:
    """The task put the way that does best on the validation rows before a step is taken, and its rows encoded so.

    Without validation rows the training rows are asked. What every way reached is kept in search.json.
    """
    if not task.variants:
        return prepared, task
    corpus = prepared.corpus
    split = "validation" if corpus.splits.get("validation") else "train"
    records, run = corpus.splits[split], Inference(house.world)
    house.screen.say(f"comparing {len(task.variants)} templates on {len(records)} {split} rows, before tuning")
    found: list[dict[str, Any]] = []
    for name, variant in task.variants.items():
        data = encoded(variant.encode(records, foundation.codec, prepared.max_tokens))
        known = [record for record in records if record.row not in data.refused]
        passed = all_outputs(adapted.model, variant, data, prepared.padding, run)
        metric = find(variant.metrics[0])
        value = metric(variant.predictions(passed.outputs, known)) if known else math.nan
        kept = value if math.isfinite(value) else None
        found.append({"name": name, metric.name: kept, "loss": passed.mean_loss, "rows": len(known)})

    def quality(one: Mapping[str, Any]) -> tuple[float, ...]:
        value, sign = one[metric.name], 1 if metric.higher_is_better else -1
        return one["rows"], -math.inf if value is None else sign * value, -(one["loss"] or 0.0)

    best = max(found, key=quality)
    for one in found:
        mark = "; taken" if one is best else ""
        house.screen.say(f"{one['name']!r}: {metric.name} {figures(one[metric.name])[0]}{mark}")
    house.keep("search.json", {"split": split, "metric": metric.name, "taken": best["name"], "found": found})
    chosen = task.variants[best["name"]]
    corpus = replace(corpus, task=chosen)
    rows = encode_corpus(corpus, foundation.codec, prepared.max_tokens, cache=None, world=house.world)
    corpus = without(corpus, {name: part.refused for name, part in rows.items()})
    return replace(prepared, corpus=corpus, encoded={name: part for name, part in rows.items() if len(part)}), chosen


def settle(house: House, prepared: Prepared, adapted: Adapted, task: Task) -> Task:
    """The task with what the tuned model tells of it on the validation rows."""
    records = prepared.corpus.splits.get("validation", ())
    if not records or not any(part.settles for part in parts_of(task).values()):
        return task
    run = Inference(house.world)
    passed = all_outputs(adapted.model, task, prepared.encoded["validation"], prepared.padding, run)
    return task.settle(passed.outputs, records, worth)


def look_before(
    house: House, foundation: Foundation, prepared: Prepared, adapted: Adapted, task: Task
) -> Predictions | None:
    """What the model answers before it is tuned, for a task that it may already know; None for others."""
    known = any(part.untuned for part in parts_of(task).values())
    tuned = house.recipe.train.max_steps != 0  # else the model is the untuned one
    if not known or not tuned or not house.recipe.evaluate.baselines or house.run.state == "complete":
        return None
    house.screen.say(f"asking the model before it is tuned: {len(prepared.corpus.splits[prepared.judged])} rows")
    outputs = answered(house, foundation, prepared, adapted, task)
    return task.predictions(outputs, prepared.corpus.splits[prepared.judged])


@dataclass(frozen=True)
class Portion:
    """What is judged by itself: a task, or a part of one. records: the judged rows. name: of the part."""

    name: str
    task: Task
    splits: Mapping[str, Sequence[Record]]
    records: Sequence[Record]
    outputs: Outputs
    predictions: Predictions
    untuned: Predictions | None = None

    def lines(self) -> list[dict[str, Any]]:
        """What predictions.jsonl says of each row."""
        lines, tallies = [], self._tallies()
        for place, answer in enumerate(self.task.answers(self.outputs, self.records) if self.records else ()):
            line = prediction_line(self.predictions, place, self.records[place], answer)
            if self.name:
                line = {"part": self.name, **line}
            if len(tallies):
                line["tally"] = tallies[place].tolist()
            if self.untuned is not None and self.untuned.kind == "texts" and self.untuned.answers[place]:
                line["untuned"] = self.untuned.answers[place][0]
            lines.append(line)
        return lines

    def _tallies(self) -> NDArray[np.float64]:
        """[N, K] what each row adds to the main metric; nothing where that is not made of sums over rows."""
        metric = find(self.task.metrics[0])
        return np.zeros((0, 0)) if metric.sums is None else metric.sums(self.predictions)


def divided(
    task: Task,
    splits: Mapping[str, Sequence[Record]],
    split: str,
    outputs: Outputs,
    untuned: Predictions | None = None,
) -> dict[str, Portion]:
    """The task's parts, each with its rows of every split and what was answered on those of `split`."""
    if not task.parts:
        records = splits[split]
        predictions = task.predictions(outputs, records)
        return {"": Portion("", task, splits, records, outputs, predictions, untuned)}
    found = {}
    for number, (name, part) in enumerate(task.parts.items()):
        own = outputs.part(number, name)
        known = set(own.data.rows.tolist())
        judged = [record for record in task.of_part(name, splits[split]) if record.row in known]
        if judged:
            rows = {key: task.of_part(name, records) for key, records in splits.items()} | {split: judged}
            before = None if untuned is None or not part.untuned else untuned.parts[name]
            found[name] = Portion(name, part, rows, judged, own, part.predictions(own, judged), before)
    return found
