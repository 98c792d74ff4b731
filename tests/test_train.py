"""The plan, the order of rows, the groups of the optimiser, and what happens when numbers break."""

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tunesmith.errors import TrainingStopped, UserError
from tunesmith.forward import forward
from tunesmith.recipe import recipe_from
from tunesmith.seeds import mix
from tunesmith.train.loop import State, steps
from tunesmith.train.optimiser import layer_depths, make_optimiser
from tunesmith.train.options import StopOptions, TrainOptions, UnfreezeOptions
from tunesmith.train.order import Order, share
from tunesmith.train.plan import choose_precision, make_plan
from tunesmith.train.stopping import Watch
from tunesmith.world import World
from workshop import Bench, bench


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bases")


def plan(**options: Any):  # type: ignore[no-untyped-def]
    return make_plan(TrainOptions(**options), rows=100, seed=0, peak=1.0, precision="float32")


@pytest.mark.parametrize(
    ("options", "rates"),
    [
        ({"schedule": "linear", "warmup": 0}, [1.0, 0.75, 0.5, 0.25]),
        ({"schedule": "constant", "warmup": 0}, [1.0, 1.0, 1.0, 1.0]),
        ({"schedule": "cosine", "warmup": 0}, [1.0, 0.5 + 0.25 * math.sqrt(2), 0.5, 0.5 - 0.25 * math.sqrt(2)]),
        ({"schedule": "linear", "warmup": 2}, [1 / 3, 2 / 3, 1.0, 0.5]),
        ({"schedule": "linear", "warmup": 0.25}, [0.5, 1.0, 2 / 3, 1 / 3]),
        ({"schedule": "constant", "warmup": 1}, [0.5, 1.0, 1.0, 1.0]),
    ],
)
def test_rates_are_those_of_the_table(options: dict[str, Any], rates: list[float]) -> None:
    made = plan(max_steps=4, **options)
    assert [made.rate(step) for step in range(4)] == pytest.approx(rates)


def test_a_plan_counts_steps_marks_and_epochs() -> None:
    made = plan(epochs=2.5, batch_size=30)
    assert (made.steps_per_epoch, made.steps) == (4, 10)
    assert made.marks == {4, 8, 10}
    assert plan(epochs=2, batch_size=30, evaluate_every=3).marks == {3, 6, 8}
    assert plan(epochs=9, batch_size=30, max_steps=5).steps == 5
    with pytest.raises(UserError, match=r"train.warmup.*500"):
        plan(warmup=500)


def test_float16_is_refused_for_models_that_overflow_it() -> None:
    cpu = torch.device("cpu")
    with pytest.raises(UserError, match="overflows in t5"):
        choose_precision("float16", "t5", cpu)
    assert choose_precision("float16", "bert", cpu) == "float16"
    assert choose_precision("auto", "t5", cpu) in ("bfloat16", "float32")


def test_each_epoch_holds_every_row_once_in_another_order() -> None:
    order = Order(10, 4, seed=5)
    epochs = [np.concatenate([order.batch(3 * epoch + place) for place in range(3)]) for epoch in range(2)]
    assert all(sorted(epoch.tolist()) == list(range(10)) for epoch in epochs)
    assert not np.array_equal(*epochs)
    assert [len(order.batch(step)) for step in range(3)] == [4, 4, 2]


def test_the_order_depends_on_the_seed_and_the_step_alone() -> None:
    late = Order(10, 4, seed=5).batch(7)
    assert np.array_equal(late, Order(10, 4, seed=5).batch(7))
    assert not np.array_equal(late, Order(10, 4, seed=6).batch(7))
    assert len({mix(a, b) for a in range(20) for b in range(20)}) == 400


def test_balanced_sampling_draws_rare_rows_as_often_as_frequent_ones() -> None:
    order = Order(1000, 1000, seed=1, weights=[1 / 900] * 900 + [1 / 100] * 100)
    drawn = order.batch(0)
    assert len(drawn) == 1000
    assert 430 < (drawn >= 900).sum() < 570


def test_processes_share_each_batch_without_overlap_and_evenly_by_length() -> None:
    lengths = np.arange(100) ** 2
    index = np.random.default_rng(0).permutation(100)[:17]
    parts = [share(index, lengths, rank, 3) for rank in range(3)]
    assert sorted(np.concatenate(parts).tolist()) == sorted(index.tolist())
    assert {len(part) for part in parts} == {5, 6}
    sums = [int(lengths[part].sum()) for part in parts]
    assert max(sums) < 1.6 * min(sums)


@pytest.mark.parametrize(
    ("kind", "task", "specimen"),
    [
        ("bert", "multi_task", 0),
        ("bert", "multiple_choice", 0),
        ("llama", "multiple_choice", 1),
        ("llama", "preference", 0),
        ("bert", "prompted", 0),
    ],
)
def test_a_process_without_rows_of_its_own_still_has_a_loss(kind: str, task: str, specimen: int, bases: Path) -> None:
    one = bench(bases / kind, kind, task, "full", specimen=specimen)
    course = one.course(World(2, 3, torch.device("cpu")), batch_size=2)
    (batch,) = course.batches(0)
    assert (batch.rows, batch.tokens) == ((), 0)
    loss = one.task.loss(forward(one.adapted.model, one.task, batch), batch)
    assert math.isfinite(float(loss.detach()))
    loss.backward()  # which all processes do together


def test_biases_and_norms_do_not_decay_and_everything_is_in_one_group(bases: Path) -> None:
    one = bench(bases / "bert", "bert", "classification", "full")
    optimiser = make_optimiser(one.adapted.model, one.adapted, TrainOptions())
    names = [name for group in optimiser.param_groups for name in group["names"]]
    assert sorted(names) == sorted(one.adapted.trainable)
    for group in optimiser.param_groups:
        decayed = group["weight_decay"] > 0
        assert all((one.adapted.model.get_parameter(name).ndim >= 2) == decayed for name in group["names"])


def test_layer_decay_slows_each_layer_by_the_factor(bases: Path) -> None:
    one = bench(bases / "bert", "bert", "classification", "full")
    options = TrainOptions(layer_decay=0.5)
    optimiser = make_optimiser(one.adapted.model, one.adapted, options)
    factors = {name: group["factor"] for group in optimiser.param_groups for name in group["names"]}
    assert factors["classifier.weight"] == 1.0
    assert factors["bert.encoder.layer.1.output.dense.weight"] == 0.5
    assert factors["bert.encoder.layer.0.output.dense.weight"] == 0.25
    assert factors["bert.embeddings.word_embeddings.weight"] == 0.125


def test_depths_follow_encoder_then_decoder() -> None:
    names = ["shared.weight", "encoder.block.0.x", "encoder.block.1.x", "decoder.block.0.x", "head.weight"]
    assert list(layer_depths(names, ["head"]).values()) == [0, 1, 2, 3, 4]


def test_patience_counts_evaluations_without_a_better_score() -> None:
    watch = Watch(StopOptions(patience=2), higher_is_better=True)
    assert [watch.see(step, value) for step, value in enumerate([0.5, 0.6, 0.6, None])] == [True, True, False, False]
    assert (watch.over, watch.best, watch.best_step) == (True, 0.6, 1)
    again = Watch(StopOptions(patience=2), higher_is_better=True)
    again.restore(watch.state())
    assert again.over
    lower = Watch(StopOptions(patience=None, min_change=0.1), higher_is_better=False)
    assert [lower.see(step, value) for step, value in enumerate([1.0, 0.95, 0.8])] == [True, False, True]
    assert not lower.over


def weights(one: Bench) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in one.adapted.model.parameters()]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_loss_that_is_not_finite_stops_before_the_step_and_names_row_and_tensor(precision: str, bases: Path) -> None:
    one = bench(bases / "bert", "bert", "classification", "full")
    course = one.course(batch_size=12, max_steps=3)
    object.__setattr__(course.plan, "precision", precision)
    state = one.state(course)
    embedding = one.adapted.model.get_submodule("bert.embeddings.word_embeddings")
    token = int(one.data.columns["input_ids"][5][2])
    rows = [record.row for place, record in enumerate(one.records) if token in one.data.columns["input_ids"][place]]
    with torch.no_grad():
        embedding.weight[token] = math.nan
    before = weights(one)
    with pytest.raises(TrainingStopped) as stopped:
        next(steps(state, course))
    assert all(f"{row}" in str(stopped.value) for row in rows)
    assert "loss is nan" in str(stopped.value)
    assert "no step was taken" in str(stopped.value)
    assert state.step == 0
    assert all(torch.equal(a, b) or bool(a.isnan().any()) for a, b in zip(before, weights(one), strict=True))


def test_a_gradient_that_is_not_finite_names_its_tensor(bases: Path) -> None:
    one = bench(bases / "bert", "bert", "classification", "full")
    course = one.course(batch_size=12, max_steps=3)
    state = one.state(course)
    bad = one.adapted.model.get_parameter("bert.encoder.layer.1.output.dense.weight")
    bad.register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(TrainingStopped, match=r"gradient norm is (nan|inf).*bert.encoder.layer.1.output.dense.weight"):
        next(steps(state, course))


def test_float16_overflow_lowers_the_scale_and_not_the_schedule(bases: Path) -> None:
    one = bench(bases / "bert", "bert", "classification", "full")
    course = one.course(batch_size=12, epochs=2, warmup=0)
    state = one.state(course)
    state.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    calls = iter(range(100))
    broken = one.adapted.model.get_parameter("classifier.weight")
    broken.register_hook(lambda gradient: gradient * (math.inf if next(calls) < 3 else 1.0))
    done = list(steps(state, course))
    assert [step.step for step in done] == [1, 2]
    assert [step.learning_rate for step in done] == pytest.approx([2e-3, 1e-3])
    assert float(state.scaler.get_scale()) < 2.0**10
    assert all(bool(torch.isfinite(parameter).all()) for parameter in one.adapted.model.parameters())


def test_float16_that_never_fits_stops_instead_of_turning_for_ever(bases: Path) -> None:
    one = bench(bases / "bert", "bert", "classification", "full")
    course = one.course(batch_size=12, max_steps=2)
    state = one.state(course)
    state.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    one.adapted.model.get_parameter("classifier.weight").register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(TrainingStopped, match="overflowed"):
        next(steps(state, course))
    assert state.step == 0


def test_no_clipping_leaves_the_norm_and_clipping_bounds_the_step(bases: Path) -> None:
    moved = []
    for most in (0.0, 1e-3):
        one = bench(bases / "bert", "bert", "classification", "full")
        course = one.course(batch_size=12, max_steps=1, max_grad_norm=most)
        optimiser = torch.optim.SGD(one.adapted.model.parameters(), lr=1.0)
        optimiser.param_groups[0]["factor"] = 1.0
        before = weights(one)
        step = next(steps(State(one.adapted.model, optimiser), course))
        distance = math.sqrt(sum(float((a - b).square().sum()) for a, b in zip(before, weights(one), strict=True)))
        moved.append((distance / step.learning_rate, step.gradient_norm))
    assert moved[0][0] == pytest.approx(moved[0][1], rel=1e-3)
    assert moved[1][0] == pytest.approx(1e-3, rel=0.03)
    assert moved[0][1] == pytest.approx(moved[1][1], rel=1e-6)


def test_journal_counts_tokens_and_padding(bases: Path) -> None:
    one = bench(bases / "bert", "bert", "classification", "full")
    course = one.course(batch_size=12, max_steps=1)
    step = next(steps(one.state(course), course))
    assert (step.rows, step.targets, step.tokens) == (12, 12.0, int(one.data.lengths.sum()))
    assert step.padded >= step.tokens


@pytest.mark.parametrize(("steps_", "warmup"), [(50, 5), (40, 8), (7, 0), (3, 3)])
def test_a_slanted_schedule_equals_its_formula(steps_: int, warmup: int) -> None:
    """The paper's, in its own words: cut iterations up, the others down, a `ratio` of 32 between peak and ends."""
    made = plan(max_steps=steps_, epochs=99, schedule="slanted", warmup=warmup)
    cut, ratio = warmup, 32
    for t in range(steps_):
        p = t / cut if t < cut else 1 - (t - cut) / max(1, cut * (steps_ / cut - 1) if cut else steps_)
        assert made.rate(t) == pytest.approx((1 + p * (ratio - 1)) / ratio)
    assert max(made.rate(t) for t in range(steps_)) == pytest.approx(made.rate(min(cut, steps_ - 1)))
    assert min(made.rate(t) for t in range(steps_)) >= 1 / 32


def moved(one: Bench, start: dict[str, torch.Tensor]) -> set[str]:
    """The layers of which a weight is not what it was at the start: `classifier`, `layer.1`, `embeddings`, ..."""
    now = dict(one.adapted.model.named_parameters())
    changed = [name for name, before in start.items() if not torch.equal(now[name], before)]
    return {
        found[0] for name in changed for found in [re.search(r"layer\.\d|embeddings|pooler|classifier", name)] if found
    }


@pytest.mark.parametrize("every", ["epoch", 2])
def test_each_layer_stays_bit_equal_until_its_turn_and_then_moves(every: Any, bases: Path) -> None:
    one = bench(bases / "bert", "bert", "classification", "full")
    course = one.course(unfreeze={"every": every}, weight_decay=0.5, epochs=6)
    period = course.plan.steps_per_epoch if every == "epoch" else 2
    start = {name: parameter.detach().clone() for name, parameter in one.adapted.model.named_parameters()}
    state = one.state(course)
    order = [{"classifier"}, {"layer.1", "pooler"}, {"layer.0"}, {"embeddings"}]
    for done in steps(state, course):
        turn = (done.step - 1) // period
        assert moved(one, start) == set().union(*order[: turn + 1]), done.step
        known = {
            name
            for group in state.optimiser.param_groups
            for name, parameter in zip(group["names"], group["params"], strict=True)
            if parameter in state.optimiser.state
        }
        assert ("bert.encoder.layer.0.output.dense.weight" in known) == (turn >= 2), "no averages of what waits"
    assert state.step > 3 * period, "the last layer had its turn"


def test_unfreezing_depends_on_the_step_alone(bases: Path) -> None:
    """Interrupted between two turns and gone on with a new optimiser state, the weights are the same bytes."""

    def trained(stop: int | None) -> dict[str, torch.Tensor]:
        one = bench(bases / "bert", "bert", "classification", "full")
        course = one.course(unfreeze={"every": 2}, epochs=6, layer_decay=0.8, schedule="slanted", warmup=0.1)
        state = one.state(course)
        for done in steps(state, course):
            if done.step == stop:
                again = one.state(course)
                again.optimiser.load_state_dict(state.optimiser.state_dict())
                again.step = state.step
                for parameter in one.adapted.model.parameters():
                    parameter.requires_grad_(True)
                list(steps(again, course))
                break
        return {name: tensor.clone() for name, tensor in one.adapted.model.state_dict().items()}

    whole = trained(None)
    for stop in (1, 2, 3, 5):
        assert all(torch.equal(tensor, whole[name]) for name, tensor in trained(stop).items()), stop


def test_in_a_language_model_the_top_block_moves_first(bases: Path) -> None:
    one = bench(bases / "gpt2", "gpt2", "language", "full")
    course = one.course(unfreeze={"every": 1}, epochs=1, max_steps=1)
    start = {name: parameter.detach().clone() for name, parameter in one.adapted.model.named_parameters()}
    list(steps(one.state(course), course))
    now = dict(one.adapted.model.named_parameters())
    changed = {name for name, before in start.items() if not torch.equal(now[name], before)}
    assert {name.split(".")[2] for name in changed if ".h." in name} == {"1"}
    assert changed & {"transformer.wte.weight", "transformer.wpe.weight"} == set()


def test_partial_tuning_unfreezes_what_it_moves(bases: Path) -> None:
    one = bench(bases / "bert", "bert", "classification", "partial", method={"top": 1})
    optimiser = make_optimiser(one.adapted.model, one.adapted, TrainOptions(unfreeze=UnfreezeOptions()))
    assert {group["turn"] for group in optimiser.param_groups} == {0, 1}


def test_unfreezing_is_refused_where_no_block_moves(bases: Path) -> None:
    one = bench(bases / "bert", "bert", "classification", "head")
    with pytest.raises(UserError, match=r"train.unfreeze: no block of the model moves"):
        make_optimiser(one.adapted.model, one.adapted, TrainOptions(unfreeze=UnfreezeOptions()))
    whole = {"model": "m", "task": {"kind": "classification"}, "data": "d", "train": {"unfreeze": {}}}
    assert recipe_from(whole).train.unfreeze == UnfreezeOptions(every="epoch")
    with pytest.raises(UserError, match=r"train.unfreeze: the blocks stay as they are under this method"):
        recipe_from({**whole, "method": "lora"})


@pytest.mark.parametrize(
    ("every", "line"),
    [(5, "of 4 layers the topmost moves at first, and a further one after every 5 updates: all from update 16 on"),
     (10, "of 4 layers the topmost moves at first, and a further one after every 10 updates: only 2 ever do")],
)  # fmt: skip
def test_how_unfreezing_goes_is_said(every: int, line: str) -> None:
    assert plan(max_steps=20, epochs=99, unfreeze={"every": every}).unfreezing(4) == line
    assert plan(max_steps=20).unfreezing(4) is None
