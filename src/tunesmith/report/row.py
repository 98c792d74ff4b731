"""One row as the model sees it: its tokens after padding and drawing, and what is learned of each."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from tunesmith.batch import IGNORED, REPLY, Batch, Encoded, encoded, padding_for
from tunesmith.contracts import Codec, Record, Task
from tunesmith.forward import JUDGED, batch_of

CAUSAL, MASKED, TAGGED = "AutoModelForCausalLM", "AutoModelForMaskedLM", "AutoModelForTokenClassification"
UNSAID = ("input_ids", "attention_mask", "position_ids", REPLY)
"""The model's arguments that are not told of each token."""

Token = dict[str, Any]


def row_view(task: Task, record: Record, codec: Codec, max_tokens: int) -> dict[str, Any]:
    """A row's texts and target, and its sequences of tokens in the order in which the model is given them.

    Each sequence has a `part` (its name, where there are several), `tokens`, and the `targets` that it has as a whole.
    A token has an `id`, a `text`, whether it is `learned`, and as the task has it a `weight`, a `tag`, whether it is
    the `start` or `end` of an answer, and which token it `was` before it was hidden. What is drawn anew each time is
    drawn once. `learned`: how many tokens are learned. `refused`: why the row is not learned from, else empty.
    """
    if task.parts:
        return _together(task, record, codec, max_tokens)
    examples = task.encode([record], codec, max_tokens)
    refused = next((example.refused for example in examples if example.refused), "")
    sequences: list[dict[str, Any]] = []
    data = encoded(examples)
    padding = padding_for(task.columns(), codec.tokenizer.pad_token_id)
    for place in range(len(data)):
        batch = batch_of(task, data, [place], padding, JUDGED)
        found = _sequences(task, batch, codec)
        several = f"part {place + 1} of {len(data)}" if len(data) > 1 else ""
        for sequence in found:
            sequence["part"] = ", ".join(name for name in (several, sequence["part"]) if name)
        sequences += found
    learned = sum(token["learned"] for sequence in sequences for token in sequence["tokens"])
    return {
        "inputs": dict(record.inputs),
        "target": record.target,
        "sequences": sequences,
        "learned": learned,
        "weight": _weight(sequences),
        "cut": _cut(data),
        "refused": refused,
    }


def _together(task: Task, record: Record, codec: Codec, max_tokens: int) -> dict[str, Any]:
    """A row as each of its tasks has it."""
    views = {
        name: row_view(part, own, codec, max_tokens)
        for name, part in task.parts.items()
        for own in task.of_part(name, [record])
    }
    sequences = [
        {**sequence, "part": ", ".join(filter(None, (name, sequence["part"])))}
        for name, view in views.items()
        for sequence in view["sequences"]
    ]
    return {
        "inputs": {f"{name}.{key}": text for name, view in views.items() for key, text in view["inputs"].items()},
        "target": record.target,
        "sequences": sequences,
        "learned": sum(view["learned"] for view in views.values()),
        "weight": _weight(sequences),
        "cut": sum(view["cut"] for view in views.values()),
        "refused": "; ".join(f"{name}: {view['refused']}" for name, view in views.items() if view["refused"]),
    }


def _cut(data: Encoded) -> int:
    """Tokens of the row that did not fit."""
    return int(data.cut.sum())


def _weight(sequences: Sequence[Mapping[str, Any]]) -> float | None:
    """What the learned tokens count for together; None where each counts 1."""
    found = [token["weight"] for sequence in sequences for token in sequence["tokens"] if "weight" in token]
    return sum(found) if found else None


def _sequences(task: Task, batch: Batch, codec: Codec) -> list[dict[str, Any]]:
    """The sequences of a batch of one row: one, one a choice or reply, or a source and a target."""
    whole = _whole(task, batch)
    if REPLY in batch.inputs:
        return [
            {"part": "source", "tokens": _tokens(batch, 0, codec.tokenizer), "targets": {}},
            {"part": "target", "tokens": _replied(batch, codec.tokenizer), "targets": whole},
        ]
    count = len(batch.inputs["input_ids"])
    sequences = []
    for line in range(count):
        tokens = _tokens(batch, line, codec.tokenizer)
        _mark(tokens, task, batch, line, codec)
        part = f"sequence {line + 1} of {count}" if count > 1 else ""
        sequences.append({"part": part, "tokens": tokens, "targets": whole if not line else {}})
    return sequences


def _whole(task: Task, batch: Batch) -> dict[str, Any]:
    """The targets that are not a token's but the whole row's."""
    per = {name: column.per for name, column in task.columns().items()}
    return {name: values[0].tolist() for name, values in batch.targets.items() if per[name] == "row"}


def _tokens(batch: Batch, line: int, tokenizer: PreTrainedTokenizerBase) -> list[Token]:
    """The tokens that one line of the batch gives the model, none of them learned yet."""
    real = batch.inputs["attention_mask"][line] == 1
    tokens = _named(batch.inputs["input_ids"][line][real], tokenizer)
    for name, values in batch.inputs.items():
        if name not in UNSAID:
            _set(tokens, name, values[line][real])
    return tokens


def _named(ids: Tensor, tokenizer: PreTrainedTokenizerBase) -> list[Token]:
    numbers = ids.tolist()
    texts = tokenizer.convert_ids_to_tokens(numbers)
    return [{"id": n, "text": str(text), "learned": False} for n, text in zip(numbers, texts, strict=True)]


def _set(tokens: Sequence[Token], name: str, values: Tensor) -> None:
    for token, value in zip(tokens, values.tolist(), strict=True):
        token[name] = value


def _replied(batch: Batch, tokenizer: PreTrainedTokenizerBase) -> list[Token]:
    """The tokens that a decoder behind an encoder is to write."""
    labels = batch.targets["labels"][0]
    read = torch.cat([batch.inputs[REPLY][0][1:], labels[-1:].clamp(min=0)])
    tokens = _named(torch.where(labels == IGNORED, read, labels), tokenizer)
    weights = batch.targets.get("weights")
    _learn(tokens, labels, None if weights is None else weights[0])
    return tokens


def _mark(tokens: list[Token], task: Task, batch: Batch, line: int, codec: Codec) -> None:
    """Says of each token what is learned of it."""
    real = batch.inputs["attention_mask"][line] == 1
    per = {name: column.per for name, column in task.columns().items()}
    kept = {name: values[line][real] for name, values in batch.targets.items() if per[name] != "row"}
    for name, mark in (("starts", "start"), ("ends", "end")):
        for place in (kept[name] == 1).nonzero()[:, 0].tolist() if name in kept else ():
            tokens[place] |= {mark: True, "learned": True}
    labels, weights = kept.get("labels"), kept.get("weights")
    if labels is None:
        return
    head = task.auto_class(codec.family)
    if head == CAUSAL:  # a label stands where it is predicted, one place before its token
        _learn(tokens, _later(labels, IGNORED), None if weights is None else _later(weights, 0.0))
        return
    _learn(tokens, labels, weights)
    known = [(token, label) for token, label in zip(tokens, labels.tolist(), strict=True) if token["learned"]]
    if head == MASKED:
        for token, label in known:
            token["was"] = str(codec.tokenizer.convert_ids_to_tokens(label))
    elif head == TAGGED:
        names = task.head()["id2label"]
        for token, label in known:
            token["tag"] = names[label]


def _later(values: Tensor, first: float) -> Tensor:
    """Each value one place later, behind `first`."""
    return torch.cat([values.new_full((1,), first), values[:-1]])


def _learn(tokens: Sequence[Token], labels: Tensor, weights: Tensor | None) -> None:
    """Marks the tokens that have a label, with what each counts for where that is said."""
    counts = torch.ones(len(labels)) if weights is None else weights
    for token, label, weight in zip(tokens, labels.tolist(), counts.tolist(), strict=True):
        token["learned"] = label != IGNORED and weight > 0
        if weights is not None and token["learned"]:
            token["weight"] = weight
