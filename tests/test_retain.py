"""What holds a model to its base: each penalty is its formula, counts once a step, and survives being interrupted."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from test_numbers import BOUND, float64_bench, in_groups
from test_pipeline import Screen, lines, recipe, rows
from tiny import model_folder
from tunesmith import api
from tunesmith.errors import UserError
from tunesmith.recipe import recipe_from
from tunesmith.retain.ewc import Asked, ewc, fisher
from tunesmith.retain.l2_sp import l2_sp
from tunesmith.retain.pull import Pull, anchors
from tunesmith.run import Run
from tunesmith.train.loop import Course, State, steps
from tunesmith.train.optimiser import make_optimiser
from workshop import Bench, bench

RATE = 0.05


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tiny models and rows."""
    folder = tmp_path_factory.mktemp("place")
    for kind in ("bert", "llama"):
        model_folder(kind, folder / kind)
    lines(folder / "rows.jsonl", rows(48))
    return folder


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
    train = {**settings, **more.pop("train", {})}
    return api.run(recipe(place, train=train, **more), folder=place / name, screen=screen)


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


@pytest.mark.parametrize("cure", PULLS)
def test_an_interrupted_run_goes_on_to_the_same_bytes(cure: str, place: Path, old: Path) -> None:
    whole = Run.open(place / cure) if (place / cure).is_dir() else run_of(place, cure, retain=PULLS[cure](old))
    with pytest.raises(RuntimeError, match="fallen"):
        run_of(place, f"{cure}-fallen", Falling(), retain=PULLS[cure](old))
    screen = Screen()
    again = run_of(place, f"{cure}-fallen", screen, retain=PULLS[cure](old))
    assert any("going on after step" in line for line in screen.said)
    assert again.journal.read_bytes() == whole.journal.read_bytes()
    name = "model.safetensors"
    assert (again.artifact / name).read_bytes() == (whole.artifact / name).read_bytes()


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
