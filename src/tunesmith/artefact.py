"""An exported adapter taken up again: its note, its base, its method, and all that a new export is made of."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from tunesmith.adapt import METHODS, OF_FILES
from tunesmith.adapt.base import MethodOptions
from tunesmith.adapt.merging import CONFIG
from tunesmith.batch import padding_for
from tunesmith.commit import NOTE
from tunesmith.contracts import Foundation, Method, Record
from tunesmith.delivery import GOLDEN_ROWS, portable
from tunesmith.deploy.parcel import Parcel
from tunesmith.deploy.parity import golden
from tunesmith.deploy.predictor import Predictor
from tunesmith.errors import UserError, named, shown
from tunesmith.parts import Part
from tunesmith.select.foundation import open_foundation
from tunesmith.select.options import ModelOptions
from tunesmith.select.source import BUILTIN
from tunesmith.tasks import TASKS


def note_of(folder: Path) -> dict[str, Any]:
    """What an exported model says of itself. Raises UserError for a folder that holds none."""
    try:
        note: dict[str, Any] = json.loads((folder / NOTE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise UserError(
            named(folder), "holds no model made by tunesmith", "give a run's folder, or its artifact"
        ) from None
    return note


@dataclass(frozen=True)
class Place:
    """Where a base is looked for. model: None for what the adapter calls it. start: where a relative path begins."""

    model: ModelOptions | None = None
    start: Path = Path()


def base_of(folder: Path, place: Place) -> Foundation:
    """The base that the adapter in `folder` was trained on, without new tokens.

    Raises UserError for one that is not found or has other weights.
    """
    note = note_of(folder)
    name, revision = note["base"], note["base_revision"]
    built_in = next((key for key, (_, hub_id) in BUILTIN.items() if hub_id == name), name)
    options = place.model or ModelOptions(name=built_in, revision=revision)
    try:
        foundation = open_foundation(options.model_copy(update={"new_tokens": ()}), place.start)
    except UserError as error:
        raise UserError(named(folder), f"its base: {error.found}", "say where it is with --base") from error
    wanted = note["base_sha256"]
    if foundation.card.weights_sha256 != wanted:
        found = f"is not the base that this adapter was trained on ({foundation.card.weights_sha256[:12]})"
        raise UserError(shown(options.name), found, f"its weights must have the sha256 {wanted[:12]}…; see --base")
    return foundation


def kind_of_file(folder: Path) -> str:
    """What PEFT calls an adapter's method. Raises UserError for one of which no method here is known."""
    kind = str(json.loads((folder / CONFIG).read_text(encoding="utf-8"))["peft_type"])
    if kind not in OF_FILES:
        raise UserError(named(folder / CONFIG), f"is of PEFT's kind {shown(kind)}", f"known: {', '.join(OF_FILES)}")
    return kind


def method_of(folder: Path) -> MethodOptions:
    """The method of the adapter in `folder`, with its default options, which say nothing of a file.

    Raises UserError for a file of another kind.
    """
    method: MethodOptions = METHODS.load(OF_FILES[kind_of_file(folder)])()
    return method


def parcel_of(
    predictor: Predictor, folder: Path, records: Sequence[Record], facts: Mapping[str, Any], place: Place
) -> Parcel:
    """What an export of the adapter in `folder` is made of, which `predictor` has opened.

    records: rows that every export must answer alike, of which the first are taken. place: of its base.
    """
    task, method = predictor.task, method_of(folder)
    chosen = list(records)[:GOLDEN_ROWS]
    data = predictor.read(chosen)
    kept = [record for record in chosen if record.row not in data.refused]
    if not kept:
        raise UserError("data", "hold no row that the model can read", "give others with --data")
    padding = padding_for(task.columns(), predictor.codec.tokenizer.pad_token_id)
    return Parcel(
        model=predictor.model,
        method=cast(Method, method),
        foundation=foundation_of(predictor, folder, place),
        task=task,
        task_spec=Part(TASKS).written(cast(Any, portable(task))),
        max_tokens=predictor.max_tokens,
        golden=golden(predictor.model, task, data, padding, kept),
        facts=facts,
    )


def foundation_of(predictor: Predictor, folder: Path, place: Place) -> Foundation:
    """The base of an opened adapter, with the tokenizer that the adapter brings and the tokens that are new in it."""
    foundation = base_of(folder, place)
    tokenizer = predictor.codec.tokenizer
    if "vocabulary" not in note_of(folder):
        return replace(foundation, tokenizer=tokenizer)
    vocabulary, known = tokenizer.get_vocab(), foundation.tokenizer.get_vocab()
    new = {vocabulary[token]: () for token in sorted(set(vocabulary) - set(known), key=lambda token: vocabulary[token])}
    card = replace(foundation.card, vocabulary=len(tokenizer))
    return replace(foundation, tokenizer=tokenizer, card=card, grown=new)
