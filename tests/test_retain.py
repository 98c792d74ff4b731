"""What holds a model to its base: each penalty is its formula, counts once a step, and survives being interrupted."""

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from test_numbers import BOUND, float64_bench, in_groups
from test_pipeline import Screen, house, lines, recipe, rows
from tiny import model_folder
from tunesmith import api
from tunesmith.contracts import Family
from tunesmith.errors import UserError
from tunesmith.forward import called
from tunesmith.recipe import recipe_from
from tunesmith.retain.distil import Distil, frozen, what_is_compared
from tunesmith.retain.ewc import Asked, ewc, fisher
from tunesmith.retain.interpolate import Point, blend, choose
from tunesmith.retain.l2_sp import l2_sp
from tunesmith.retain.pull import Pull, anchors
from tunesmith.run import Run
from tunesmith.train.loop import Course, State, steps
from tunesmith.train.optimiser import make_optimiser
from tunesmith.train.order import Mixed, Order
from tunesmith.world import World
from workshop import CPU, Bench, bench

__all__ = ["house"]
RATE = 0.05


@pytest.fixture(scope="module")
def place(house: Path) -> Path:
    """The house with a decoder whose embeddings are not its output layer."""
    model_folder("llama", house / "llama")
    return house


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bases")


def shaken(one: Bench) -> Bench:
    """The same with weights that are no longer where they began."""
    chance = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in one.adapted.model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=chance, dtype=parameter.dtype)
    return one


def descended(one: Bench, course: Course) -> list[Any]:
    """Plain gradient descent along the course; its steps."""
    parameters = list(one.adapted.model.parameters())
    group = {"params": parameters, "factor": 1.0, "names": [""] * len(parameters)}
    return list(steps(State(one.adapted.model, torch.optim.SGD([group], lr=0.0)), course))


def moving(one: Bench) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in one.adapted.model.named_parameters()}


def importance(held: Mapping[str, Tensor]) -> dict[str, Tensor]:
    chance = torch.Generator().manual_seed(6)
    return {name: torch.rand(one.shape, generator=chance, dtype=one.dtype) for name, one in held.items()}


@pytest.mark.parametrize("weighed", [False, True])
def test_value_and_gradient_of_a_pull_are_those_of_the_formula(weighed: bool, bases: Path) -> None:
    one = float64_bench(bases, "bert", "classification")
    held = anchors(one.adapted)
    shaken(one)
    weights = importance(held) if weighed else {name: torch.ones_like(anchor) for name, anchor in held.items()}
    pull = Pull("it", 0.7, held, weights if weighed else None)
    parameters = dict(one.adapted.model.named_parameters())
    wanted = sum((0.5 * 0.7 * weights[name] * (parameters[name] - anchor) ** 2).sum() for name, anchor in held.items())
    assert isinstance(wanted, Tensor)
    gradients = torch.autograd.grad(wanted, [parameters[name] for name in held])
    assert pull.pull(one.adapted.model) == pytest.approx(wanted.item(), rel=1e-12)
    assert pull.pull(one.adapted.model) > 1
    for name, right in zip(held, gradients, strict=True):
        found = parameters[name].grad
        assert found is not None
        assert float((found - 2 * right).abs().max()) < BOUND, "it is added to what is there"


def test_heads_are_not_held_and_keep_their_decay(bases: Path) -> None:
    one = bench(bases / "bert", "bert", "classification", "full")
    held = l2_sp(1.0, anchors(one.adapted))
    names = [name for name, _ in one.adapted.model.named_parameters()]
    assert {name for name in names if name not in held.anchors} == {"classifier.weight", "classifier.bias"}
    optimiser = make_optimiser(one.adapted.model, one.adapted, one.course().plan.options, held.undecayed)
    decayed = [name for group in optimiser.param_groups if group["weight_decay"] for name in group["names"]]
    assert decayed == ["classifier.weight"]
    assert ewc(1.0, {}, fisher_of(one, 1, 0)).undecayed == frozenset()


def fisher_of(one: Bench, count: int, seed: int) -> Any:
    asked = Asked(one.task, one.data, one.padding, torch.device("cpu"))
    return fisher(one.adapted.model, asked, anchors(one.adapted), count, seed)


@pytest.mark.parametrize("sizes", [[8], [1] * 8, [3, 5]])
def test_the_penalty_counts_once_however_the_batch_is_cut(
    sizes: list[int], bases: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = float64_bench(bases, "bert", "classification")
    held = anchors(one.adapted)
    shaken(one)
    before = moving(one)
    course = one.course(batch_size=8, max_steps=1, learning_rate=RATE, max_grad_norm=0, schedule="constant")
    in_groups(course, sizes, monkeypatch)
    plain = descended(one, course)
    without = moving(one)
    with torch.no_grad():
        for name, parameter in one.adapted.model.named_parameters():
            parameter.copy_(before[name])
    (step,) = descended(one, replace(course, penalties=(l2_sp(0.7, held), Pull("b", 0.2, held, importance(held)))))
    assert step.loss == pytest.approx(plain[0].loss, rel=1e-12), "the task's loss alone"
    gaps = {name: before[name] - anchor for name, anchor in held.items()}
    assert step.penalties["l2_sp"] == pytest.approx(0.35 * sum(float((g**2).sum()) for g in gaps.values()), rel=1e-12)
    assert list(step.penalties) == ["l2_sp", "b"]
    force = importance(held)
    for name, found in moving(one).items():
        more = RATE * (0.7 + 0.2 * force[name]) * gaps[name] if name in gaps else torch.zeros_like(found)
        assert float((found - (without[name] - more)).abs().max()) < BOUND


@pytest.mark.parametrize("scale", [None, 1024.0])
def test_a_loss_scale_scales_neither_pulls_nor_what_is_distilled(scale: float | None, bases: Path) -> None:
    """float16 multiplies losses before their gradients are taken, and divides these by as much; one step, on a CPU."""
    one = float64_bench(bases, "bert", "regression", dropout=0.0)
    held, tutor = anchors(one.adapted), Distil(0.3, 1.0, "states", frozen(one.adapted.model))
    shaken(one)
    before = moving(one)
    course = one.course(batch_size=8, max_steps=1, learning_rate=RATE, max_grad_norm=0, schedule="constant")
    (batch,) = course.batches(0)
    given = called(one.adapted.model.eval(), one.task, batch, output_hidden_states=True)
    loss = one.task.loss(one.task.outputs(given, batch), batch) / one.task.count(batch)
    taught = tutor.loss(given, tutor.shown(one.adapted.model, one.task, batch), batch) / tutor.count(one.task, batch)
    pulled: Any = sum(0.35 * ((parameter - held[name]) ** 2).sum()
                 for name, parameter in one.adapted.model.named_parameters() if name in held)  # fmt: skip
    names = list(before)
    right = torch.autograd.grad(loss + taught + pulled, list(one.adapted.model.parameters()))
    scaler = None if scale is None else torch.amp.GradScaler("cpu", init_scale=scale)
    group = {"params": list(one.adapted.model.parameters()), "factor": 1.0, "names": names}
    state = State(one.adapted.model, torch.optim.SGD([group], lr=0.0), scaler=scaler)
    (step,) = steps(state, replace(course, penalties=(l2_sp(0.7, held),), tutor=tutor))
    assert step.penalties["distil"] == pytest.approx(taught.item(), rel=1e-9)
    assert step.penalties["l2_sp"] == pytest.approx(pulled.item(), rel=1e-9)
    for name, gradient in zip(names, right, strict=True):
        found = (before[name] - moving(one)[name]) / RATE
        assert float((found - gradient).abs().max()) < 1e-8 * max(1.0, float(gradient.abs().max())), name


def test_a_held_run_in_float16_stays_near_that_in_float32(place: Path) -> None:
    found = {}
    for precision in ("float32", "float16"):
        retain = {"l2_sp": 0.5, "distil": {"weight": 1.0}}
        run = run_of(place, f"in-{precision}", retain=retain, train={"precision": precision, "max_steps": 8})
        found[precision] = journal(run)
        assert run.read_json("run.json")["state"] == "complete"
    for name in ("l2_sp", "distil"):
        ours, theirs = (found[precision][-1]["penalties"][name] for precision in ("float16", "float32"))
        assert ours == pytest.approx(theirs, rel=0.1)
        assert ours > 0


def test_the_empirical_fisher_information_is_the_mean_squared_gradient_of_rows(bases: Path) -> None:
    one = float64_bench(bases, "bert", "regression", task={"means": (0.0,), "scales": (1.0,)})
    one.adapted.model.eval()
    found = fisher_of(one, 100, 0)
    assert (found.rows, found.sampled) == (len(one.data), False)
    name = "bert.encoder.layer.1.attention.self.value.weight"
    parameter = dict(one.adapted.model.named_parameters())[name]
    squares = []
    for place in range(len(one.data)):
        ids = torch.from_numpy(one.data.columns["input_ids"][place].astype("int64"))[None]
        given = one.adapted.model(input_ids=ids).logits
        wanted = torch.from_numpy(one.data.columns["labels"][place])[None]
        loss = ((given - wanted) ** 2).sum()
        squares.append(torch.autograd.grad(loss, parameter)[0] ** 2)
    right = sum(squares) / len(squares)
    assert float((found.diagonal[name] - right).abs().max()) < BOUND * float(right.max())


def test_labels_are_drawn_from_the_models_own_outputs(bases: Path) -> None:
    one = float64_bench(bases, "bert", "classification")
    one.data = one.data.take(torch.arange(1).numpy())
    found = [fisher_of(one, 1, seed) for seed in range(300)]
    assert all(one.sampled for one in found)
    name = "bert.pooler.dense.weight"
    parameter = dict(one.adapted.model.named_parameters())[name]
    one.adapted.model.eval()
    ids = torch.from_numpy(one.data.columns["input_ids"][0].astype("int64"))[None]
    chances = one.adapted.model(input_ids=ids).logits[0].log_softmax(dim=-1)
    squares = [torch.autograd.grad(chance, parameter, retain_graph=True)[0] ** 2 for chance in chances]
    right = sum(chance.exp().item() * square for chance, square in zip(chances, squares, strict=True))
    assert isinstance(right, Tensor)
    mean = sum(one.diagonal[name] for one in found) / len(found)
    assert float(mean.sum() / right.sum()) == pytest.approx(1, abs=0.1)


def test_tokens_are_drawn_where_they_are_graded(bases: Path) -> None:
    one = bench(bases / "gpt2", "gpt2", "generation", "full")
    assert fisher_of(one, 2, 0).sampled
    assert fisher_of(one, 2, 0).mean > 0
    assert fisher_of(one, 2, 0).mean == fisher_of(one, 2, 0).mean


def run_of(place: Path, name: str, screen: Any = None, **more: Any) -> Run:
    settings = {"epochs": 3, "batch_size": 4, "learning_rate": 2e-3, "precision": "float32", "save_every": 2}
    train, base = {**settings, **more.pop("train", {})}, more.pop("base", None)
    return api.run(recipe(place, train=train, **more), folder=place / name, screen=screen, base=base)


def journal(run: Run, event: str = "step") -> list[dict[str, Any]]:
    found = [json.loads(line) for line in run.journal.read_text().splitlines()]
    return [one for one in found if one["event"] == event]


def distance(base: Path, run: Run) -> float:
    """How far the artefact's weights lie from the base's."""
    old, new = load_file(base / "model.safetensors"), load_file(run.artifact / "model.safetensors")
    pairs = [(tensor, new[f"bert.{name}"]) for name, tensor in old.items() if f"bert.{name}" in new]
    assert len(pairs) > 30
    return math.sqrt(sum(float(((a - b) ** 2).sum()) for a, b in pairs))


@pytest.fixture(scope="module")
def free(place: Path) -> Run:
    return run_of(place, "free")


@pytest.fixture(scope="module")
def old(place: Path) -> Path:
    """Rows of the same labels that the base shall still answer."""
    return lines(place / "old.jsonl", rows(20))


PULLS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "l2_sp": lambda old: {"l2_sp": 1.0},
    "ewc": lambda old: {"ewc": {"weight": 300.0, "source": str(old), "rows": 8}},
}


@pytest.mark.parametrize("cure", PULLS)
def test_a_held_model_stays_nearer_to_its_base(cure: str, place: Path, free: Run, old: Path) -> None:
    run = run_of(place, cure, retain=PULLS[cure](old))
    values = [step["penalties"][cure] for step in journal(run)]
    assert values[0] == 0
    assert values[-1] > 0
    assert "penalties" not in journal(free)[0]
    assert distance(place / "bert", run) < 0.9 * distance(place / "bert", free)
    assert list(run.read_json("retention.json")) == [cure]


@pytest.mark.parametrize(
    ("cure", "changed"),
    [
        ("l2_sp", {"l2_sp": 2.0}),
        ("ewc", {"ewc": {"weight": 600.0, "rows": 8}}),
        ("ewc", {"ewc": {"weight": 300.0, "rows": 4}}),
    ],
)
def test_each_key_of_a_pull_changes_the_penalty(
    cure: str,
    changed: dict[str, Any],
    place: Path,
    old: Path,
    tmp_path: Path,
) -> None:
    known = Run.open(place / cure) if (place / cure).is_dir() else run_of(place, cure, retain=PULLS[cure](old))
    if "ewc" in changed:
        changed["ewc"]["source"] = str(old)
    other = api.run(
        recipe(
            place,
            train={"max_steps": 2, "batch_size": 4, "learning_rate": 2e-3, "precision": "float32"},
            retain=changed,
        ),
        folder=tmp_path / "run",
    )
    assert journal(other)[1]["penalties"] != journal(known)[1]["penalties"]


class Falling(Screen):
    """A screen that fails once after a step."""

    def step(self, step: Any, of: int) -> None:
        if step.step == 5:
            raise RuntimeError("fallen")


CURES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "l2_sp": ({"l2_sp": 1.0}, {}),
    "ewc": ({"ewc": {"weight": 300.0, "source": "old.jsonl", "rows": 8}}, {}),
    "distil": ({"distil": {"weight": 1.0}}, {}),
    "distil-lora": ({"distil": {"weight": 1.0}}, {"method": "lora"}),
    "distil-t5": ({"distil": {"weight": 1.0}}, {"model": "t5", "train": {"max_steps": 8}}),
    "replay": ({"replay": {"source": "rows.jsonl", "share": 0.3}}, {}),
    "interpolate": ({"interpolate": {"steps": 4, "margin": 0.1}}, {}),
}
"""What holds a model, and what else such a run has."""


@pytest.mark.parametrize("cure", CURES)
def test_an_interrupted_run_goes_on_to_the_same_bytes(cure: str, place: Path, old: Path) -> None:
    retain, more = CURES[cure]
    more = {**more, "retain": retain, "base": place, "model": str(place / more.get("model", "bert"))}
    whole = run_of(place, f"{cure}-whole", **more)
    with pytest.raises(RuntimeError, match="fallen"):
        run_of(place, f"{cure}-fallen", Falling(), **more)
    screen = Screen()
    again = run_of(place, f"{cure}-fallen", screen, **more)
    assert any("going on after step" in line for line in screen.said)
    assert again.journal.read_bytes() == whole.journal.read_bytes()
    (name,) = [path.name for path in whole.artifact.glob("*model.safetensors")]
    assert (again.artifact / name).read_bytes() == (whole.artifact / name).read_bytes()
    for kept in ("retention.json", "interpolation.json"):
        assert again.read_json(kept) == whole.read_json(kept)
    assert (whole.read_json("interpolation.json") is None) is (cure != "interpolate")


@pytest.mark.parametrize("cure", PULLS)
def test_a_method_that_moves_no_weight_of_the_base_is_refused(cure: str, place: Path, old: Path) -> None:
    with pytest.raises(UserError, match=rf"retain\.{cure}.*no weight of the base moves"):
        recipe_from(recipe(place, method="lora", retain=PULLS[cure](old)))
    with pytest.raises(UserError, match=rf"retain\.{cure}.*no weight of the base moves"):
        api.run(recipe(place, method="head", retain=PULLS[cure](old)), folder=place / f"{cure}-head")


def test_ewc_needs_rows_of_what_shall_not_be_forgotten(place: Path) -> None:
    with pytest.raises(UserError, match=r"ewc: needs a source"):
        recipe_from(recipe(place, retain={"ewc": {"weight": 1.0}}))
    with pytest.raises(UserError, match="is not there"):
        api.run(recipe(place, retain={"ewc": {"weight": 1.0, "source": "nowhere.jsonl"}}), folder=place / "nowhere")


def test_other_rows_elsewhere_are_other_data(place: Path) -> None:
    moved = lines(place / "changing.jsonl", rows(20))
    retain = {"ewc": {"weight": 1.0, "source": str(moved), "rows": 4}}
    with pytest.raises(RuntimeError, match="fallen"):
        run_of(place, "changing", Falling(), retain=retain)
    lines(moved, rows(21))
    with pytest.raises(UserError, match="was trained on data"):
        run_of(place, "changing", retain=retain)


def test_sources_move_with_the_recipe(place: Path) -> None:
    retain = {"ewc": {"weight": 1.0, "source": "old.jsonl"}, "replay": {"source": "general.txt"}}
    moved = recipe_from(recipe(place, retain=retain)).moved(place, place / "deep" / "down").retain
    assert moved.sources == {"replay": "../../general.txt", "ewc": "../../old.jsonl"}


def test_weights_between_are_the_weighted_mean_and_the_ends_are_exact(bases: Path) -> None:
    one = float64_bench(bases, "bert", "classification")
    base = anchors(one.adapted)
    shaken(one)
    tuned = moving(one)
    for alpha in (0.3, 0.0, 1.0):
        blend(one.adapted.model, base, tuned, alpha)
        for name, found in moving(one).items():
            if name not in base:
                assert torch.equal(found, tuned[name]), "the head is kept"
            elif alpha in (0, 1):
                assert torch.equal(found, tuned[name] if alpha else base[name])
            else:
                assert float((found - (0.7 * base[name] + 0.3 * tuned[name])).abs().max()) < BOUND


POINTS = [Point(0.0, 0.5, 0.0), Point(0.5, 0.89, 1.0), Point(0.8, 0.90, 2.0), Point(1.0, 0.90, 3.0)]


@pytest.mark.parametrize(
    ("margin", "higher", "alpha"), [(0.0, True, 0.8), (0.011, True, 0.5), (0.4, True, 0.0), (0.0, False, 0.0)]
)
def test_the_place_that_forgets_least_of_the_good_ones_is_taken(margin: float, higher: bool, alpha: float) -> None:
    assert choose(POINTS, margin, higher_is_better=higher).alpha == alpha


def test_without_scores_or_losses_the_tuned_model_stays() -> None:
    assert choose([replace(point, score=None) for point in POINTS], 1.0, higher_is_better=True).alpha == 1
    broken = [replace(point, lost=None if point.alpha < 1 else 5.0) for point in POINTS]
    assert choose(broken, 1.0, higher_is_better=True).alpha == 1


def test_a_run_ends_between_base_and_tuned_model(place: Path) -> None:
    screen = Screen()
    retain = {"interpolate": {"steps": 4, "margin": 1.0}}
    run = run_of(place, "between", screen, retain=retain)
    found = run.read_json("interpolation.json")
    assert [point["alpha"] for point in found["curve"]] == [0, 0.25, 0.5, 0.75, 1]
    lost = [point["lost"] for point in found["curve"]]
    assert lost[0] == pytest.approx(0, abs=1e-9)
    assert lost == sorted(lost)
    assert (found["taken"], found["probe"], found["metric"]) == (0, "drift", "accuracy")
    assert distance(place / "bert", run) == 0, "any score is near enough, and the base forgets nothing"
    assert any(line.startswith("interpolation: 0% of the way") for line in screen.said)
    assert "Between the base and the tuned model" in run.report.read_text()
    again = run_of(place, "between", retain={"interpolate": {"steps": 2, "margin": 0.0}})
    found = again.read_json("interpolation.json")
    assert len(found["curve"]) == 3
    best = max(point["score"] for point in found["curve"])
    assert best == next(point["score"] for point in found["curve"] if point["alpha"] == found["taken"])
    assert (distance(place / "bert", again) == 0) == (found["taken"] == 0)


def test_interpolation_needs_validation_rows(place: Path) -> None:
    data = {"train": str(place / "rows.jsonl"), "validation": 0.0, "test": 0.2}
    with pytest.raises(UserError, match=r"retain\.interpolate.*data.validation is 0"):
        recipe_from(recipe(place, data=data, retain={"interpolate": {}}))


def teaching(one: Bench, compared: Any, weight: float = 0.3, temperature: float = 2.0) -> Distil:
    """A tutor that remembers the bench's model as it is now; the model then moves away from it."""
    tutor = Distil(weight, temperature, compared, frozen(one.adapted.model))
    shaken(one)
    return tutor


def kl(base: Tensor, tuned: Tensor) -> Tensor:
    p, q = (part.log_softmax(dim=-1) for part in (base / 2, tuned / 2))
    return (p.exp() * (p - q)).sum()


DISTILLED: dict[str, tuple[str, str, dict[str, Any]]] = {
    "tokens": ("llama", "language", {}),
    "classes": ("bert", "classification", {}),
    "labels": ("bert", "classification", {"specimen": 2}),
    "states": ("bert", "regression", {}),
    "t5 tokens": ("t5", "generation", {}),
    "t5 states": ("t5", "classification", {}),
    "bart tokens": ("bart", "generation", {}),
    "bart states": ("bart", "regression", {}),
}


@pytest.mark.parametrize("case", DISTILLED)
def test_distillation_is_its_formula_and_cutting_the_batch_changes_nothing(
    case: str, bases: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    family, task, more = DISTILLED[case]
    one = float64_bench(bases, family, task, dropout=0.0, **more)
    compared = case.rpartition(" ")[2]
    assert what_is_compared(one.task, one.adapted, one.foundation.family) == compared or compared in (
        "classes",
        "labels",
    )
    tutor = teaching(one, compared)
    count = len(one.data)
    course = one.course(batch_size=count, max_steps=1, learning_rate=RATE, max_grad_norm=0, schedule="constant")
    course = replace(course, tutor=tutor)
    start = moving(one)
    results = []
    for sizes in ([count], [1] * count, [1, count - 1]):
        in_groups(course, sizes, monkeypatch)
        (step,) = descended(one, course)
        results.append((step, moving(one)))
        with torch.no_grad():
            for name, parameter in one.adapted.model.named_parameters():
                parameter.copy_(start[name])
    for step, found in results[1:]:
        assert step.penalties["distil"] == pytest.approx(results[0][0].penalties["distil"], rel=1e-9)
        assert step.loss == pytest.approx(results[0][0].loss, rel=1e-9)
        # What transformers computes in float32 makes causal models no more exact than that.
        assert max(float((found[name] - right).abs().max()) for name, right in results[0][1].items()) < 1e-8
    (step, _) = results[0]
    assert step.penalties["distil"] == pytest.approx(by_hand(one, tutor, course), rel=1e-6)
    assert step.penalties["distil"] > 1e-4


def by_hand(one: Bench, tutor: Distil, course: Course) -> float:
    """0.3 times the mean over tokens or rows, one row after the other."""
    total, count = 0.0, 0
    assert tutor.base is not None
    for place in range(len(one.data)):
        ids = torch.from_numpy(one.data.columns["input_ids"][place].astype("int64"))[None]
        asked: dict[str, Any] = {"input_ids": ids}
        pair = one.foundation.family is Family.ENCODER_DECODER
        if pair and tutor.compared == "tokens":
            asked["labels"] = torch.from_numpy(one.data.columns["labels"][place].astype("int64"))[None]
        with torch.no_grad():
            base, tuned = (model(**asked, output_hidden_states=True) for model in (tutor.base, one.adapted.model))
        if tutor.compared == "states":
            old, new = ((one.decoder_hidden_states if pair else one.hidden_states)[-1] for one in (base, tuned))
            total += float((old - new).square().mean(dim=-1).sum())
            count += ids.numel()
        elif tutor.compared == "tokens" and pair:
            total += 4 * float(kl(base.logits, tuned.logits))
            count += asked["labels"].numel()
        elif tutor.compared == "tokens":
            total += 4 * float(kl(base.logits[0, :-1], tuned.logits[0, :-1]))
            count += ids.numel() - 1
        elif tutor.compared == "classes":
            total += 4 * float(kl(base.logits, tuned.logits))
            count += 1
        else:
            for old, new in zip(base.logits[0], tuned.logits[0], strict=True):
                total += 4 * float(kl(torch.stack([old, 0 * old]), torch.stack([new, 0 * new])))
            count += 1
    assert course.tutor is tutor
    return 0.3 * total / count


def test_the_base_of_an_adapter_is_the_model_with_the_adapter_off(bases: Path) -> None:
    one = bench(bases / "bert", "bert", "classification", "lora")
    course = one.course()
    (batch,) = course.batches(0)
    tutor = Distil(1.0, 1.0, "states", frozen(one.adapted.model))
    one.adapted.model.train()
    before = tutor.shown(one.adapted.model, one.task, batch)
    moves = {name: parameter.requires_grad for name, parameter in one.adapted.model.named_parameters()}
    with torch.no_grad():
        for name in one.adapted.trainable:
            dict(one.adapted.model.named_parameters())[name].add_(0.1)
    assert torch.equal(tutor.shown(one.adapted.model, one.task, batch), before)
    assert {name: parameter.requires_grad for name, parameter in one.adapted.model.named_parameters()} == moves
    assert one.adapted.model.training
    given = called(one.adapted.model, one.task, batch, output_hidden_states=True)
    assert tutor.loss(given, before, batch).item() > 0


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_distilled_model_stays_nearer_to_the_base(method: str, place: Path) -> None:
    drifts, losses = [], []
    for weight in (None, 50.0):
        more: dict[str, Any] = {} if weight is None else {"retain": {"distil": {"weight": weight}}}
        evaluate = {"resamples": 100, "probes": [{"name": "states"}]}
        more |= {"method": method, "evaluate": evaluate, "train": {"dropout": 0.0}}
        run = run_of(place, f"distil-{method}-{weight}", **more)
        (probe,) = run.read_json("evaluation.json")["retention"]
        drifts.append(1 - probe["cka"])
        losses.append([step.get("penalties", {}).get("distil") for step in journal(run)])
    assert drifts[1] < 0.8 * drifts[0]
    assert losses[0][0] is None
    assert losses[1][0] == pytest.approx(0, abs=1e-6)
    assert losses[1][-1] > 0


def test_the_temperature_of_outputs_changes_the_loss_and_is_refused_where_there_are_none(place: Path) -> None:
    values = []
    for name, temperature in (("cool", 1.0), ("warm", 4.0)):
        retain = {"distil": {"weight": 1.0, "temperature": temperature}}
        more = {
            "model": str(place / "llama"),
            "task": {"kind": "language"},
            "train": {"max_steps": 6, "learning_rate": 2e-2},
        }
        run = run_of(place, name, retain=retain, **more)
        values.append(journal(run)[-1]["penalties"]["distil"])
        assert run.read_json("retention.json")["distil"]["compared"] == "tokens"
    assert values[0] != pytest.approx(values[1], rel=0.05)
    with pytest.raises(UserError, match=r"distil\.temperature.*no effect under a new head"):
        run_of(place, "refused", retain={"distil": {"weight": 1.0, "temperature": 2.0}})


def test_what_cannot_be_distilled_is_refused(place: Path) -> None:
    retain = {"distil": {"weight": 1.0}}
    with pytest.raises(UserError, match="no weight below the head moves"):
        run_of(place, "head-only", method="head", retain=retain)
    with pytest.raises(UserError, match="init: pissa changes the base"):
        run_of(place, "pissa", method={"kind": "lora", "init": "pissa"}, retain=retain)


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 0.9])
def test_replayed_rows_have_their_exact_share_in_the_long_run(share: float) -> None:
    own, earlier = Order(50, 8, 3), 7
    mixed = Mixed(own, earlier, share)
    drawn = added = 0
    counts = np.zeros(earlier, dtype=int)
    for step in range(300):
        rows = mixed.batch(step)
        assert np.array_equal(rows[rows < 50], own.batch(step)), "the training rows are as without"
        drawn += int((rows < 50).sum())
        added += int((rows >= 50).sum())
        counts += np.bincount(rows[rows >= 50] - 50, minlength=earlier)
        assert -1 < added - drawn * share / (1 - share) <= 1e-9
    assert np.ptp(counts) <= 1, "each once before any again"
    assert np.array_equal(Mixed(own, earlier, share).batch(123), mixed.batch(123)), "of seed and step alone"
    assert not np.array_equal(Mixed(Order(50, 8, 4), earlier, share).batch(9), mixed.batch(9))


def test_replayed_rows_are_trained_on_counted_and_never_judged(place: Path) -> None:
    earlier = [{"text": f"an earlier word {at}", "label": "late"} for at in range(6)]
    judged = rows(48)
    lines(place / "earlier.jsonl", earlier + judged)
    retain = {"replay": {"source": str(place / "earlier.jsonl"), "share": 0.5}}
    run, plain = run_of(place, "replay", retain=retain), run_of(place, "plain")
    audit = run.read_json("audit.json")
    ways = audit["replay"]["ways"]
    assert ways == {"replayed": 34, "skipped:also_in_test": 10, "skipped:also_in_validation": 10}
    assert audit["ledger"] == plain.read_json("audit.json")["ledger"]
    assert [step["rows"] for step in journal(run)] == [2 * step["rows"] for step in journal(plain)]
    assert run.read_json("evaluation.json")["rows"] == plain.read_json("evaluation.json")["rows"]
    other = {"replay": {"source": str(place / "earlier.jsonl"), "share": 0.2}}
    less = run_of(place, "less", retain=other, train={"max_steps": 4})
    assert sum(step["rows"] for step in journal(less)) == 16 + 4


@pytest.mark.parametrize("packing", [False, True])
def test_general_texts_are_mixed_into_what_a_decoder_generates(packing: bool, place: Path) -> None:
    written = [{"source": row["text"], "target": row["label"]} for row in rows(24)]
    lines(place / "written.jsonl", written)
    (place / "general.txt").write_text("the kettle is red and kind\nthe parcel is here today\n")
    more: dict[str, Any] = {
        "model": str(place / "llama"),
        "task": {"kind": "generation", "decoding": {"max_new_tokens": 2}},
        "data": {"train": str(place / "written.jsonl"), "validation": 0.2, "cache": False},
        "train": {"max_steps": 6, "packing": packing},
        "evaluate": {"resamples": 100, "baselines": False, "general": str(place / "general.txt")},
    }
    replay = {"source": str(place / "general.txt"), "share": 0.5, "task": "language"}
    run = run_of(place, f"texts-{packing}", retain={"replay": replay}, **more)
    plain = run_of(place, f"no-texts-{packing}", **more)
    with_texts, without = (one.read_json("evaluation.json")["general"]["metrics"]["perplexity"] for one in (run, plain))
    assert with_texts["after"]["value"] < without["after"]["value"]
    assert journal(run)[0]["rows"] == 8


def test_rows_that_cannot_be_mixed_in_are_refused(place: Path) -> None:
    old = lines(place / "all-judged.jsonl", rows(9))
    texts = {"source": str(place / "rows.jsonl"), "task": "language"}
    with pytest.raises(UserError, match=r"retain\.replay.*needs the head of a language model"):
        run_of(place, "mixed", retain={"replay": texts})
    held = {"train": str(place / "rows.jsonl"), "validation": 0.2, "test": str(old), "cache": False}
    with pytest.raises(UserError, match="all its rows are judged"):
        run_of(place, "judged", data=held, retain={"replay": {"source": str(old)}})
    with pytest.raises(UserError, match="less than 1"):
        recipe_from(recipe(place, retain={"replay": {"source": "a.jsonl", "share": 1.0}}))


PROCESSES = """
import json, sys, torch
from pathlib import Path
torch.set_num_threads(1)
sys.path.insert(0, {tests!r})
from test_retain import held_course, told
from tunesmith.world import joined
with joined() as world:
    found = [told(*held_course(Path({bases!r}), method, world)) for method in ("full", "lora")]
    if world.main:
        Path({out!r}).write_text(json.dumps(found))
"""


def held_course(bases: Path, method: str, world: World) -> tuple[Bench, Course]:
    """A course of seven rows, then one (so that one of two processes has none), held by a pull and a tutor."""
    one = bench(bases / "bert", "bert", "classification", method, dropout=0.0)
    one.adapted.model.double()
    one.data = one.data.take(np.arange(8))
    held = anchors(one.adapted)
    tutor = Distil(0.3, 1.0, "states", frozen(one.adapted.model))
    chance = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in one.adapted.model.named_parameters():
            if name in one.adapted.trainable:
                parameter += 0.1 * torch.randn(parameter.shape, generator=chance, dtype=parameter.dtype)
    course = one.course(world, batch_size=7, max_steps=2, learning_rate=RATE, max_grad_norm=0, schedule="constant")
    return one, replace(course, penalties=(Pull("pull", 0.7, held, importance(held)),), tutor=tutor)


def told(one: Bench, course: Course) -> list[Any]:
    """What each step added, and the weights at the end."""
    moved = [p for name, p in one.adapted.model.named_parameters() if name in one.adapted.trainable]
    group = {"params": moved, "factor": 1.0, "names": list(one.adapted.trainable)}
    done = list(steps(State(one.adapted.model, torch.optim.SGD([group], lr=0.0)), course))
    return [[dict(step.penalties) for step in done], [parameter.tolist() for parameter in moved]]


def test_two_processes_hold_a_model_as_one_does(bases: Path, tmp_path: Path) -> None:
    alone = [told(*held_course(bases, method, CPU)) for method in ("full", "lora")]
    script, out = tmp_path / "two.py", tmp_path / "out.json"
    script.write_text(PROCESSES.format(tests=str(Path(__file__).parent), bases=str(bases), out=str(out)))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    for (values, weights), (penalties, right) in zip(json.loads(out.read_text()), alone, strict=True):
        assert [list(step) for step in values] == [["distil", "pull"]] * 2
        for found, wanted in zip(values, penalties, strict=True):
            assert found == pytest.approx(wanted, rel=1e-9)
        for found, wanted in zip(weights, right, strict=True):
            gap = torch.tensor(found, dtype=torch.float64) - torch.tensor(wanted, dtype=torch.float64)
            assert float(gap.abs().max()) < BOUND


def test_ewc_asks_a_language_model_about_general_texts_and_takes_the_source_of_replay(place: Path) -> None:
    (place / "told.txt").write_text("the kettle is red and kind\nthe parcel is here today\n")
    lines(place / "asked.jsonl", [{"source": row["text"], "target": row["label"]} for row in rows(24)])
    more: dict[str, Any] = {
        "model": str(place / "llama"),
        "task": {"kind": "generation", "decoding": {"max_new_tokens": 2}},
        "data": {"train": str(place / "asked.jsonl"), "validation": 0.2, "cache": False},
        "train": {"max_steps": 2},
        "evaluate": {"resamples": 100, "baselines": False},
    }
    named = {"ewc": {"weight": 10.0, "source": str(place / "told.txt"), "task": "language"}}
    run = run_of(place, "ewc-texts", retain=named, **more)
    texts = {"source": str(place / "told.txt"), "task": "language", "share": 0.2}
    other = run_of(place, "ewc-replayed", retain={"ewc": {"weight": 10.0}, "replay": texts}, **more)
    found = [one.read_json("retention.json")["ewc"] for one in (run, other)]
    assert found[0] == found[1]
    assert (found[0]["rows"], found[0]["sampled"]) == (2, True)
    with pytest.raises(UserError, match="has no column 'source'"):
        run_of(place, "ewc-own", retain={"ewc": {"weight": 1.0, "source": str(place / "told.txt")}}, **more)


def test_several_tasks_over_one_backbone_are_held_and_probed(place: Path) -> None:
    both = [{**row, "stars": float(at % 5)} for at, row in enumerate(rows(40))]
    lines(place / "both.jsonl", both)
    tasks = {"a": {"kind": "classification"}, "b": {"kind": "regression", "target": "stars"}}
    source = {"source": str(lines(place / "both-old.jsonl", [{**row, "text": f"old {row['text']}"} for row in both]))}
    more: dict[str, Any] = {
        "task": {"kind": "multi_task", "tasks": tasks},
        "data": {"train": str(place / "both.jsonl"), "validation": 0.2, "cache": False},
        "evaluate": {"resamples": 100, "probes": [{"name": "states"}, {"name": "old", "kind": "own", **source}]},
    }
    retain = {"l2_sp": 0.1, "ewc": {"weight": 1.0, "rows": 6}, "replay": source, "interpolate": {"steps": 2}}
    run = run_of(place, "several", retain=retain, **more)
    assert set(journal(run)[-1]["penalties"]) == {"l2_sp", "ewc"}
    found = run.read_json("evaluation.json")["retention"]
    assert found[0]["cka"] <= 1
    assert "a/accuracy" in found[1]["metrics"]
    assert run.read_json("interpolation.json")["metric"] == "loss"
    with pytest.raises(UserError, match="is for one task at a time"):
        run_of(place, "several-distil", retain={"distil": {"weight": 1.0}}, **more)
