"""Numbers that must agree, in float64: how a batch is cut, padded or shared out changes no gradient."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tunesmith.train.loop import Course, State, _backward
from tunesmith.train.order import micro_batches
from workshop import CPU, Bench, bench, left

BOUND = 1e-10


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bases")


def float64_bench(bases: Path, family: str, kind: str, **more: object) -> Bench:
    one = bench(bases / family, family, kind, "full", **more)
    one.adapted.model.double()
    return one


def gradients(one: Bench, course: Course) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of the first optimiser batch."""
    state = State(one.adapted.model, torch.optim.SGD(one.adapted.model.parameters(), lr=0.0))
    state.optimiser.zero_grad(set_to_none=True)
    batches = course.batches(0)
    targets = sum(course.task.count(batch) for batch in batches)
    (loss,) = _backward(state, one.adapted.model, course, batches, {"": 1 / targets})
    found = {n: p.grad.clone() for n, p in one.adapted.model.named_parameters() if p.grad is not None}
    return loss, found


def largest_difference(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    assert a.keys() == b.keys()
    return max(float((a[name] - b[name]).abs().max()) for name in a)


def in_groups(course: Course, sizes: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the course cut its optimiser batch into groups of these sizes."""

    def cut(index, lengths, most, cost):  # type: ignore[no-untyped-def]
        assert sum(sizes) == len(index)
        ends = [sum(sizes[: place + 1]) for place in range(len(sizes))]
        return [index[end - size : end] for size, end in zip(sizes, ends, strict=True)]

    monkeypatch.setattr("tunesmith.train.loop.micro_batches", cut)


TASKS = [
    ("classification", {}),
    ("classification", {"task": {"balance": "weights", "label_smoothing": 0.1}}),
    ("classification", {"specimen": 2, "task": {"balance": "weights"}}),
    ("regression", {}),
]


@pytest.mark.parametrize("family", ["bert", "gpt2", "t5"])
@pytest.mark.parametrize(("task", "more"), TASKS)
def test_any_division_into_micro_batches_gives_the_gradients_of_the_whole_batch(
    family: str, task: str, more: dict[str, object], bases: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = float64_bench(bases, family, task, **more)
    rows = len(one.data)
    course = one.course(batch_size=rows)
    divisions = [[rows], [1] * rows, [rows // 4] * 4, [1, rows - 3, 2]]
    results = []
    for sizes in divisions:
        with monkeypatch.context() as patch:
            in_groups(course, sizes, patch)
            results.append(gradients(one, course))
    for loss, found in results[1:]:
        assert abs(loss - results[0][0]) < BOUND
        assert largest_difference(found, results[0][1]) < BOUND


def test_a_mean_of_means_would_be_noticed(bases: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = float64_bench(bases, "bert", "classification")
    course = one.course(batch_size=len(one.data))
    whole = gradients(one, course)[1]
    in_groups(course, [1, len(one.data) - 1], monkeypatch)
    batches = course.batches(0)
    one.adapted.model.zero_grad(set_to_none=True)
    for batch in batches:  # the fault: each micro-batch divided by its own count
        state = State(one.adapted.model, torch.optim.SGD(one.adapted.model.parameters(), lr=0.0))
        _backward(state, one.adapted.model, course, [batch], {"": 1 / (course.task.count(batch) * len(batches))})
    wrong = {n: p.grad for n, p in one.adapted.model.named_parameters() if p.grad is not None}
    assert largest_difference(wrong, whole) > 1e-4


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_left_and_right_padding_give_equal_gradients(family: str, bases: Path) -> None:
    one = float64_bench(bases, family, "classification")
    course = one.course(batch_size=len(one.data), micro_tokens=100_000)
    right = gradients(one, course)
    one.padding = left(one.padding)
    found = gradients(one, one.course(batch_size=len(one.data), micro_tokens=100_000))
    assert abs(found[0] - right[0]) < BOUND
    assert largest_difference(found[1], right[1]) < BOUND


def test_gradient_checkpointing_changes_no_gradient_with_dropout_on(bases: Path) -> None:
    results = []
    for checkpointing in (False, True):
        one = float64_bench(bases, "bert", "classification", dropout=0.2)
        if checkpointing:
            one.adapted.model.activation_checkpointing_enable()
        one.adapted.model.train()
        torch.manual_seed(5)
        results.append(gradients(one, one.course(batch_size=len(one.data))))
    assert results[0][0] == pytest.approx(results[1][0], abs=BOUND)
    assert largest_difference(results[0][1], results[1][1]) < BOUND


def test_logged_loss_is_the_mean_over_rows_computed_apart(bases: Path) -> None:
    one = float64_bench(bases, "bert", "classification")
    course = one.course(batch_size=len(one.data), micro_tokens=20)
    assert len(course.batches(0)) > 1
    loss, _ = gradients(one, course)
    alone = []
    for place, record in enumerate(one.records):
        ids = torch.from_numpy(one.data.columns["input_ids"][place].astype("int64"))[None]
        kinds = torch.from_numpy(one.data.columns["token_type_ids"][place].astype("int64"))[None]
        with torch.no_grad():
            logits = one.adapted.model(input_ids=ids, token_type_ids=kinds).logits[0]
        right = one.task.label_names.index(record.target)
        alone.append(-float(torch.log_softmax(logits, dim=0)[right]))
    assert loss == pytest.approx(sum(alone) / len(alone), abs=BOUND)


TWO = """
import json, sys, torch
from pathlib import Path
torch.set_num_threads(1)
sys.path.insert(0, {tests!r})
from test_numbers import float64_bench
from tunesmith.train.loop import State, _backward, _together
from tunesmith.world import joined
found = []
with joined() as world:
    for rows, step in {cases!r}:
        one = float64_bench(Path({bases!r}), "bert", "classification")
        course = one.course(world=world, batch_size=rows)
        state = State(one.adapted.model, torch.optim.SGD(one.adapted.model.parameters(), lr=0.0))
        batches = course.batches(step)
        (targets,) = world.total(sum(course.task.count(batch) for batch in batches if batch.rows))
        model = _together(one.adapted.model, world)
        (loss,) = world.total(*_backward(state, model, course, batches, {{"": 1 / targets}}))
        grads = {{n: p.grad.tolist() for n, p in one.adapted.model.named_parameters()}}
        own = torch.zeros(12, dtype=torch.float64)
        own[[row for batch in batches for row in batch.rows]] = 1
        found.append([loss, targets, grads, world.gather(own).tolist()])
    if world.main:
        Path({out!r}).write_text(json.dumps(found))
"""


def test_two_processes_give_the_gradients_of_one(bases: Path, tmp_path: Path) -> None:
    cases = [(7, 0), (11, 1)]  # uneven rows; one row, so that one process has none
    one = float64_bench(bases, "bert", "classification")
    script, out = tmp_path / "two.py", tmp_path / "out.json"
    here = str(Path(__file__).parent)
    script.write_text(TWO.format(tests=here, bases=str(bases), cases=cases, out=str(out)))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    for (rows, step), theirs in zip(cases, json.loads(out.read_text()), strict=True):
        course = one.course(batch_size=rows)
        state = State(one.adapted.model, torch.optim.SGD(one.adapted.model.parameters(), lr=0.0))
        state.optimiser.zero_grad()
        batches = course.batches(step)
        targets = sum(course.task.count(batch) for batch in batches)
        (loss,) = _backward(state, one.adapted.model, course, batches, {"": 1 / targets})
        assert theirs[0] == pytest.approx(loss, abs=BOUND)
        assert theirs[1] == targets
        for name, parameter in one.adapted.model.named_parameters():
            assert parameter.grad is not None
            assert float((torch.tensor(theirs[2][name], dtype=torch.float64) - parameter.grad).abs().max()) < BOUND
        seen = torch.tensor(theirs[3]).view(2, 12).sum(dim=0)
        mine = torch.zeros(12)
        mine[[row for batch in batches for row in batch.rows]] = 1
        assert torch.equal(seen, mine), "each row of the batch is computed by exactly one process"


def test_micro_batches_hold_every_row_once_and_stay_within_the_limit() -> None:
    import numpy as np

    lengths = np.array([3, 50, 4, 48, 5, 3, 20])
    groups = micro_batches(np.arange(7), lengths, most=100, cost=10)
    assert sorted(row for group in groups for row in group.tolist()) == list(range(7))
    assert all(len(group) * lengths[group].max() <= 100 for group in groups)
    assert [sorted(lengths[group].tolist()) for group in groups] == [[3, 3, 4, 5], [20], [48, 50]]


def test_a_row_longer_than_the_limit_still_gets_its_own_group() -> None:
    import numpy as np

    assert [g.tolist() for g in micro_batches(np.array([0, 1]), np.array([300, 4]), most=100, cost=1)] == [[1], [0]]


def test_the_process_alone_is_the_default_world() -> None:
    assert CPU.main
    assert CPU.total(1.5, 2.0) == [1.5, 2.0]
