"""Rows become rectangles: as wide as the longest, padded on the side that is asked for, masked where nothing is."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tunesmith.batch import Column, Example, Padding, collate, encoded

PADDING = Padding({"input_ids": Column(9.0), "labels": Column(0, per="row", role="target")})
ROWS = [[1, 2, 3], [4], [5, 6, 7, 8, 1]]
DATA = encoded([Example(row=10 + n, columns={"input_ids": ids, "labels": [n]}, cut=0) for n, ids in enumerate(ROWS)])


def test_rows_are_padded_right_and_masked() -> None:
    batch = collate(DATA, [0, 1], PADDING)
    assert batch.inputs["input_ids"].tolist() == [[1, 2, 3], [4, 9, 9]]
    assert batch.inputs["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch.targets["labels"].tolist() == [[0], [1]]
    assert batch.rows == (10, 11)
    assert batch.tokens == 4
    assert batch.inputs["input_ids"].dtype == torch.int64


def test_rows_are_padded_left_with_positions_where_a_model_counts_them() -> None:
    batch = collate(DATA, [1, 0], replace(PADDING, side="left", positions=True))
    assert batch.inputs["input_ids"].tolist() == [[9, 9, 4], [1, 2, 3]]
    assert batch.inputs["attention_mask"].tolist() == [[0, 0, 1], [1, 1, 1]]
    assert batch.inputs["position_ids"].tolist() == [[0, 0, 0], [0, 1, 2]]


@pytest.mark.parametrize(
    ("multiple", "longest", "width"), [(1, None, 5), (4, None, 8), (8, None, 8), (8, 6, 6), (8, 5, 5), (8, 3, 5)]
)
def test_widths_are_rounded_up_but_never_beyond_what_the_model_takes(
    multiple: int, longest: int | None, width: int
) -> None:
    batch = collate(DATA, [0, 2], replace(PADDING, multiple=multiple, longest=longest))
    assert batch.inputs["input_ids"].shape == (2, width)
    assert batch.inputs["attention_mask"].sum(dim=1).tolist() == [3, 5]
    assert batch.tokens == 8


def test_flat_arrays_give_every_row_back() -> None:
    found = [DATA.columns["input_ids"][place].tolist() for place in range(len(DATA))]
    assert found == ROWS
    assert DATA.lengths.tolist() == [3, 1, 5]
    assert DATA.columns["input_ids"].values.dtype == np.int32


def test_numbers_keep_their_fractions() -> None:
    data = encoded([Example(row=0, columns={"input_ids": [1], "labels": [0.25]}, cut=0)])
    assert collate(data, [0], PADDING).targets["labels"].tolist() == [[0.25]]
