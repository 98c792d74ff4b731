"""Rows that stand behind one another in a line teach what they teach in lines of their own, or are refused."""

import functools
import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from test_numbers import BOUND, gradients, largest_difference
from test_zoo import EAGER_ONLY, EXACT, PACKS
from tiny import model_folder
from tunesmith import api
from tunesmith.batch import IGNORED, Batch, Column, Example, collate, encoded, padding_for
from tunesmith.errors import UserError
from tunesmith.run import Run
from tunesmith.train.order import runs
from workshop import Bench, bench

TASKS = ("language", "generation", "chat")
ISOLATE = [kind for kind, keeps in PACKS.items() if keeps]
MIX = [kind for kind, keeps in PACKS.items() if not keeps]
SINGLE = ("gemma", "deepseek-v2", "deepseek-v3", *EAGER_ONLY)
"""Kinds of which a part is computed in float32 whatever the weights are: scales of norms, routers, eager softmax."""


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bases")


@functools.cache
def double(bases: Path, kind: str, task: str) -> Bench:
    """A bench in float64."""
    one = bench(bases / kind, kind, task, "full")
    if "deepseek" in kind:
        one.adapted.model.set_experts_implementation("eager")  # the others know no float64
    one.adapted.model.double()
    return one


def packed(one: Bench, line: int | None = None) -> Bench:
    """The bench with rows packed into lines of so many tokens; None: one fewer than all rows have, so two lines."""
    return replace(one, padding=replace(one.padding, pack=line or int(one.data.lengths.sum()) - 1))


def batch(one: Bench) -> Batch:
    return collate(one.data, range(len(one.data)), one.padding)


def bound(kind: str) -> float:
    """What rounding makes of equal numbers."""
    return EXACT["eager"] if kind in SINGLE else BOUND


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("kind", ISOLATE)
def test_packed_rows_give_the_loss_and_the_gradients_of_a_row_a_line(kind: str, task: str, bases: Path) -> None:
    one = double(bases, kind, task)
    together = packed(one)
    assert len(batch(together).inputs["input_ids"]) == 2 < len(one.data)
    more = {"batch_size": len(one.data), "micro_tokens": 10_000}
    loss, found = gradients(one, one.course(**more))
    packed_loss, packed_found = gradients(together, together.course(**more))
    assert abs(packed_loss - loss) < bound(kind)
    assert largest_difference(packed_found, found) < bound(kind)


@pytest.mark.parametrize("kind", MIX)
def test_the_comparison_notices_rows_that_meet(kind: str, bases: Path) -> None:
    one = double(bases, kind, "generation")
    more = {"batch_size": len(one.data), "micro_tokens": 10_000}
    wrong = gradients(packed(one), packed(one).course(**more))[1]
    assert largest_difference(wrong, gradients(one, one.course(**more))[1]) > 1e-4


def test_a_cut_into_lines_of_any_length_changes_nothing(bases: Path) -> None:
    one = double(bases, "llama", "chat")
    results = []
    for line, micro in ((1, 1), (24, 1), (24, 50), (64, 10_000), (10_000, 10_000)):
        together = packed(one, line)
        results.append(gradients(together, together.course(batch_size=len(one.data), micro_tokens=micro)))
    for loss, found in results[1:]:
        assert abs(loss - results[0][0]) < BOUND
        assert largest_difference(found, results[0][1]) < BOUND


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("kind", ["gpt2", "llama", "qwen2"])
def test_no_token_is_graded_across_the_seam(kind: str, task: str, bases: Path) -> None:
    one = double(bases, kind, task)
    together = batch(packed(one, 64))
    ids, positions = together.inputs["input_ids"], together.inputs["position_ids"]
    labels = together.targets["labels"]
    seams = 0
    for line in range(len(ids)):
        starts = [at for at, position in enumerate(positions[line].tolist()) if position == 0]
        seams += len(starts) - 1
        assert labels[line, -1] == IGNORED
        for start in starts[1:]:
            assert labels[line, start - 1] == IGNORED, "the last token of a row is asked for the next row's first"
        graded = [at for at, label in enumerate(labels[line].tolist()) if label != IGNORED]
        assert [labels[line, at] for at in graded] == [ids[line, at + 1] for at in graded]
    assert seams >= 1
    alone = batch(one).targets["labels"]
    assert sorted(labels[labels != IGNORED].tolist()) == sorted(alone[alone != IGNORED].tolist())


def test_rows_weights_and_positions_lie_where_the_lines_say() -> None:
    rows = ([11, 12, 13], [21, 22], [31, 32, 33, 34])
    examples = [Example(n, {"input_ids": row, "weights": [n / 2] * len(row)}) for n, row in enumerate(rows)]
    padding = padding_for({"weights": Column(0.0, role="target")}, 9, pack=6)
    made = collate(encoded(examples), [0, 1, 2], padding)
    assert made.inputs["input_ids"].tolist() == [[31, 32, 33, 34, 21, 22], [11, 12, 13, 9, 9, 9]]
    assert made.inputs["position_ids"].tolist() == [[0, 1, 2, 3, 0, 1], [0, 1, 2, 0, 1, 2]]
    assert made.targets["weights"].tolist() == [[1.0, 1.0, 1.0, 1.0, 0.5, 0.5], [0.0] * 6]
    assert "attention_mask" not in made.inputs
    assert (made.rows, made.tokens) == ((0, 1, 2), 9)


def test_a_row_longer_than_a_line_stands_alone_and_whole() -> None:
    rows = ([1] * 7, [2, 2], [3, 3])
    data = encoded([Example(n, {"input_ids": row}) for n, row in enumerate(rows)])
    made = collate(data, [0, 1, 2], padding_for({}, 9, pack=4))
    assert made.inputs["input_ids"].tolist() == [[1] * 7, [2, 2, 3, 3, 9, 9, 9]]


@pytest.mark.parametrize("most", [1, 10, 37, 1000])
def test_runs_hold_every_row_once_in_order_and_stay_within_the_limit(most: int) -> None:
    lengths = np.array([3, 50, 4, 8, 5, 3, 20, 7])
    index = np.array([7, 1, 4, 0, 6, 2, 5, 3])
    groups = runs(index, lengths, most)
    assert np.concatenate(groups).tolist() == index.tolist()
    for group in groups:
        assert len(group) == 1 or lengths[group].sum() <= most
    for group, after in pairwise(groups):
        assert lengths[group].sum() + lengths[after[0]] > most, "the next row would have fitted"


@pytest.mark.parametrize("micro", [1, 30, 10_000])
def test_the_micro_batches_of_an_epoch_hold_every_row_once(micro: int, bases: Path) -> None:
    one = packed(double(bases, "gpt2", "generation"))
    course = one.course(batch_size=3, micro_tokens=micro)
    steps = -(-len(one.data) // 3)
    batches = [made for step in range(steps) for made in course.batches(step)]
    assert sorted(row for made in batches for row in made.rows) == one.data.rows.tolist()
    assert sum(made.tokens for made in batches) == one.data.lengths.sum()


ROWS = {
    "generation": [{"source": f"lamp {n} is late", "target": f"late {n}"} for n in range(12)],
    "language": [{"text": f"the red lamp {n} is late"} for n in range(12)],
}


def run(kind: str, task: str, bases: Path, folder: Path, *, packing: bool = True) -> Path:
    """A run of a few steps that packs its rows."""
    if not (bases / kind / "config.json").exists():
        model_folder(kind, bases / kind)
    rows = bases / f"{task}.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in ROWS[task]))
    settings = {
        "model": str(bases / kind),
        "task": {"kind": task},
        "data": {"train": str(rows), "validation": 0.2, "cache": False},
        "method": "full",
        "train": {"epochs": 1, "batch_size": 4, "packing": packing, "precision": "float32", "dropout": 0.0},
        "evaluate": {"resamples": 100, "baselines": False},
        "deploy": {"verify": False},
    }
    return api.run(settings, folder=folder).folder


def journal(folder: Path) -> list[dict[str, Any]]:
    path = Run.open(folder).journal
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.mark.parametrize("kind", MIX)
def test_models_that_mix_packed_rows_are_refused_in_one_line_before_a_step(
    kind: str, bases: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"train\.packing: .* models mix rows that stand in one line") as refused:
        run(kind, "generation", bases, tmp_path / "run")
    assert len(str(refused.value).splitlines()) == 1
    assert journal(tmp_path / "run") == []
    assert not list(Run.open(tmp_path / "run").checkpoints.glob("*"))


@pytest.mark.parametrize(("kind", "task"), [("bert", "language"), ("t5", "generation"), ("bart", "generation")])
def test_models_with_an_encoder_are_refused_in_one_line_before_a_step(
    kind: str, task: str, bases: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"train\.packing: is for texts that a decoder learns") as refused:
        run(kind, task, bases, tmp_path / "run")
    assert len(str(refused.value).splitlines()) == 1
    assert journal(tmp_path / "run") == []


def test_a_run_that_packs_takes_the_steps_of_one_that_does_not_with_less_padding(bases: Path, tmp_path: Path) -> None:
    found = []
    for packing in (True, False):
        folder = run("llama", "generation", bases, tmp_path / f"run-{packing}", packing=packing)
        found.append([event for event in journal(folder) if event["event"] == "step"])
    assert len(found[0]) == len(found[1]) == 3
    for ours, theirs in zip(*found, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
        assert (ours["rows"], ours["tokens"], ours["targets"]) == (theirs["rows"], theirs["tokens"], theirs["targets"])
        assert ours["padded"] <= theirs["padded"]
