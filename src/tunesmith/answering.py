"""What a model answers around its training: before it, to be compared with, and on the judged rows."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from tunesmith.batch import Padding
from tunesmith.contracts import Adapted, Family, Foundation, Outputs, Predictions, Record, Task
from tunesmith.errors import UserError
from tunesmith.forward import PACKING_LIMIT, Inference, all_outputs, packing_gap
from tunesmith.generate import Speaker, with_replies
from tunesmith.house import House, Prepared


def speaker_for(house: House, foundation: Foundation, prepared: Prepared) -> Speaker:
    """What generating needs, for this run's rows."""
    return Speaker(foundation.codec, prepared.max_tokens, Inference(house.world))


def of_records(outputs: Outputs, records: Sequence[Record]) -> Outputs:
    """The outputs of some records alone."""
    wanted = {record.row for record in records}
    index = [place for place, row in enumerate(outputs.data.rows.tolist()) if row in wanted]
    return Outputs([outputs.values[place] for place in index], outputs.data.take(np.array(index, dtype=np.int64)))


def laid(house: House, foundation: Foundation, prepared: Prepared, adapted: Adapted, task: Task) -> Padding:
    """How training rows are laid into batches: behind one another where wanted, and the model keeps them apart."""
    if not house.recipe.train.packing:
        return prepared.padding
    if not task.packs or foundation.family is not Family.DECODER:
        raise UserError("train.packing", "is for texts that a decoder learns token by token", "leave the key out")
    packed = replace(prepared.padding, pack=prepared.max_tokens)
    gap = packing_gap(adapted.model, task, prepared.encoded["train"], packed)
    if gap > PACKING_LIMIT:
        found = f"{foundation.card.model_type} models mix rows that stand in one line (outputs differ by {gap:.1e})"
        raise UserError("train.packing", found, "leave the key out")
    return packed


def drawn_weights(task: Task, prepared: Prepared) -> list[float] | None:
    """How often each example is drawn: as often as its row."""
    records = prepared.corpus.splits["train"]
    drawn = task.weigh(records)
    if drawn is None:
        return None
    by_row = {record.row: weight for record, weight in zip(records, drawn, strict=True)}
    return [by_row[row] for row in prepared.encoded["train"].rows.tolist()]


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


def settle(house: House, prepared: Prepared, adapted: Adapted, task: Task) -> Task:
    """The task with what the tuned model tells of it on the validation rows."""
    records = prepared.corpus.splits.get("validation", ())
    if not records or not task.settles:
        return task
    run = Inference(house.world)
    passed = all_outputs(adapted.model, task, prepared.encoded["validation"], prepared.padding, run)
    return task.settle(passed.outputs, records)


def look_before(
    house: House, foundation: Foundation, prepared: Prepared, adapted: Adapted, task: Task
) -> Predictions | None:
    """What the model answers before it is tuned, for a task that it may already know; None for others."""
    if not task.untuned or not house.recipe.evaluate.baselines or house.run.state == "complete":
        return None
    house.screen.say(f"asking the model before it is tuned: {len(prepared.corpus.splits[prepared.judged])} rows")
    outputs = answered(house, foundation, prepared, adapted, task)
    return task.predictions(outputs, prepared.corpus.splits[prepared.judged])
