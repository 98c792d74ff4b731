"""Texts, single or in pairs, read from rows and made into tokens."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from tunesmith.batch import Example
from tunesmith.contracts import Record
from tunesmith.errors import BadRow, shown

INPUTS = ("text", "text_b")


def read_text(row: Mapping[str, Any], column: str) -> str:
    """The text in `column`. Raises BadRow when it is missing (as NaN is, too), empty or no text."""
    value = row.get(column)
    missing = isinstance(value, float) and not math.isfinite(value)
    if missing or isinstance(value, bool) or not isinstance(value, str | int | float):
        raise BadRow(column, shown(value), "a text", "no_text")
    text = str(value)
    if not text.strip():
        raise BadRow(column, "an empty text", "a text", "empty_text")
    return text


def read_texts(row: Mapping[str, Any], columns: Sequence[str]) -> dict[str, str]:
    """One or two texts under the names that `encode_texts` expects."""
    return {name: read_text(row, column) for name, column in zip(INPUTS, columns, strict=False)}


def encode_texts(
    records: Sequence[Record], tokenizer: PreTrainedTokenizerBase, max_tokens: int
) -> tuple[list[dict[str, list[int]]], list[int]]:
    """The tokenizer's columns of each record, and how many tokens of each did not fit.

    The text of a row never becomes a control token, whatever it spells; the tokenizer's own template still adds
    its control tokens. Of a pair the longer text is cut first.
    """
    texts: list[Any] = [
        (record.inputs["text"], record.inputs["text_b"]) if "text_b" in record.inputs else record.inputs["text"]
        for record in records
    ]
    whole = _tokens(texts, tokenizer)
    lengths = [len(ids) for ids in whole["input_ids"]]
    long = [place for place, length in enumerate(lengths) if length > max_tokens]
    rows = [{name: list(column[place]) for name, column in whole.items()} for place in range(len(records))]
    if long:
        shorter = _tokens([texts[place] for place in long], tokenizer, truncation=True, max_length=max_tokens)
        for at, place in enumerate(long):
            rows[place] = {name: list(column[at]) for name, column in shorter.items()}
    for row in rows:
        if not row["input_ids"]:  # a text of characters that the tokenizer drops
            row.update({name: [_stand_in(tokenizer) if name == "input_ids" else 0] for name in row})
    return rows, [max(0, length - max_tokens) for length in lengths]


def frame(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """The control tokens that the tokenizer puts before a text, and those behind it."""
    ends = {tokenizer.sep_token_id, tokenizer.eos_token_id} - {None}
    empty = [int(token) for token in tokenizer("", return_attention_mask=False)["input_ids"]]
    behind = 0
    while behind < len(empty) and empty[len(empty) - 1 - behind] in ends:
        behind += 1
    return empty[: len(empty) - behind], empty[len(empty) - behind :]


def examples(
    records: Sequence[Record],
    columns: Sequence[Mapping[str, Sequence[int]]],
    cut: Sequence[int],
    targets: Sequence[Sequence[float]] | None,
) -> list[Example]:
    """Encoded rows with their `labels` column, or without when there are no targets."""
    made = []
    for place, record in enumerate(records):
        row: dict[str, Sequence[float]] = dict(columns[place])
        if targets is not None:
            row["labels"] = targets[place]
        made.append(Example(record.row, row, cut[place]))
    return made


def _tokens(texts: list[Any], tokenizer: PreTrainedTokenizerBase, **options: Any) -> Mapping[str, Any]:
    found = tokenizer(texts, return_attention_mask=False, split_special_tokens=True, verbose=False, **options)
    return {name: found[name] for name in ("input_ids", "token_type_ids") if name in found}


def _stand_in(tokenizer: PreTrainedTokenizerBase) -> int:
    for token in (tokenizer.eos_token_id, tokenizer.unk_token_id, tokenizer.pad_token_id):
        if token is not None:
            return int(token)
    return 0
