"""AdaLoRA: its budget is PEFT's to the step, what is left is a plain LoRA, and an interruption changes nothing."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file

from tunesmith.adapt.adalora import NAME, AdaLoRA, Orthogonal, adalora_layers
from tunesmith.adapt.base import task_type
from tunesmith.forward import Inference, all_outputs
from tunesmith.quiet import quiet
from tunesmith.select.load import load_model
from tunesmith.train.checkpoint import Checkpoints
from tunesmith.train.loop import steps
from workshop import CPU, Bench, bench

OPTIONS = {"rank": 2, "begin": 4, "every": 3, "wait": 0.1, "rest": 0.3}
STEPS = 30


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bases")


def made(bases: Path, kind: str = "bert", task: str = "classification", **options: Any) -> Bench:
    return bench(bases / kind, kind, task, "adalora", method={**OPTIONS, **options})


def course_of(one: Bench) -> Any:
    return one.course(epochs=STEPS, max_steps=STEPS, schedule="constant", weight_decay=0.0, learning_rate=5e-3)


def singular(model: torch.nn.Module) -> list[torch.Tensor]:
    return [layer.lora_E[NAME].detach().clone() for layer in adalora_layers(model)]


def passed(one: Bench, model: torch.nn.Module) -> list[Any]:
    values = all_outputs(model, one.task, one.data, one.padding, Inference(CPU)).outputs.values
    return [value.copy() for value in values]


@pytest.mark.parametrize(("kind", "task"), [("bert", "classification"), ("gpt2", "language"), ("t5", "generation")])
def test_every_loss_and_every_rank_is_that_of_peft(kind: str, task: str, bases: Path) -> None:
    """A plain loop with PEFT's own regulariser and allocation, from the same weights over the same rows."""
    one = made(bases, kind, task)
    course = course_of(one)
    base = load_model(
        one.foundation, one.task.auto_class(one.foundation.family), one.task.head(), seed=1, dropout=0.0
    ).model
    common = {"modules_to_save": list(one.adapted.head), "task_type": task_type(base)}
    config = one.method.configuration(base, one.foundation.family, common)
    config.total_step, config.tinit, config.tfinal, config.deltaT = STEPS, 3, 9, 3
    with quiet():
        plain: Any = get_peft_model(base, config)
    start = {name: value for name, value in one.adapted.model.state_dict().items() if name in one.adapted.trainable}
    assert not plain.load_state_dict(start, strict=False).unexpected_keys
    moving = [parameter for parameter in plain.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(moving, lr=5e-3, weight_decay=0.0)
    state = one.state(course)
    ours = steps(state, course)
    for number in range(STEPS):
        (batch,) = course.batches(number)
        plain.train()
        inputs, labels = one.task.arguments(batch), batch.targets["labels"]
        output = plain(**inputs, labels=torch.zeros_like(labels))  # for the regulariser, which PEFT adds to a loss
        loss = torch.nn.functional.cross_entropy(output.logits.flatten(0, -2), labels.flatten())
        own = torch.nn.functional.cross_entropy(
            output.logits.flatten(0, -2), torch.zeros_like(labels).flatten(), reduction="mean"
        )
        if kind == "gpt2":  # a causal model shifts its labels
            shifted = torch.nn.functional.pad(torch.zeros_like(labels), (0, 1), value=-100)[..., 1:]
            own = torch.nn.functional.cross_entropy(output.logits.flatten(0, -2), shifted.flatten())
        penalty = output.loss - own
        (loss + penalty).backward()
        torch.nn.utils.clip_grad_norm_(moving, 1.0)
        optimiser.step()
        plain.base_model.update_and_allocate(number + 1)
        optimiser.zero_grad()
        step = next(ours)
        assert step.loss == pytest.approx(float(loss.detach()), rel=2e-4)
        assert step.penalties["orthogonal"] == pytest.approx(float(penalty.detach()), rel=1e-3)
        for mine, theirs in zip(singular(state.model), singular(plain), strict=True):
            assert torch.equal(mine == 0, theirs == 0), f"other ranks were taken away in update {number + 1}"
            assert torch.allclose(mine, theirs, rtol=1e-3, atol=1e-5)


def test_the_ranks_that_are_left_are_the_budget(bases: Path) -> None:
    one = made(bases)
    course = course_of(one)
    state = one.state(course)
    counts = {step.step: sum(int((one != 0).sum()) for one in singular(state.model)) for step in steps(state, course)}
    layers = len(adalora_layers(state.model))
    assert counts[3] == 4 * layers
    assert 2 * layers < counts[6] < 4 * layers
    assert {counts[step] for step in range(21, STEPS + 1)} == {2 * layers}


@pytest.mark.parametrize("stop", [5, 12, 25])
def test_an_interruption_changes_no_weight(stop: int, bases: Path, tmp_path: Path) -> None:
    """While ranks are taken away, and when those that are left are settled."""
    whole = made(bases)
    course = course_of(whole)
    state = whole.state(course)
    for _ in steps(state, course):
        pass
    first = made(bases)
    before = first.state(course_of(first))
    for step in steps(before, course_of(first)):
        if step.step == stop:
            break
    kept = Checkpoints(tmp_path, "run")
    kept.save(before, first.adapted.trainable, {}, {})
    second = made(bases)
    after = second.state(course_of(second))
    kept.restore(kept.path(stop), after)
    for _ in steps(after, course_of(second)):
        pass
    wanted, found = dict(state.model.named_parameters()), dict(after.model.named_parameters())
    assert all(torch.equal(found[name], wanted[name]) for name in whole.adapted.trainable)


@pytest.mark.parametrize(("kind", "task"), [("bert", "classification"), ("gpt2", "language"), ("t5", "generation")])
@pytest.mark.parametrize("updates", [1, 8, STEPS])
def test_what_is_written_is_a_plain_lora(kind: str, task: str, updates: int, bases: Path, tmp_path: Path) -> None:
    """Also where only some ranks have been taken away, or none."""
    one = made(bases, kind, task, alpha=3.0)
    course = course_of(one)
    state = one.state(course)
    for step in steps(state, course):
        if step.step == updates:
            break
    one.adapted.model.eval()
    wanted = passed(one, one.adapted.model)
    one.method.save(one.adapted.model, tmp_path / "out")
    config = LoraConfig.from_pretrained(tmp_path / "out")
    assert type(config) is LoraConfig
    left = sum(int((values != 0).sum()) for values in singular(one.adapted.model))
    inner = [value for key, value in load_file(tmp_path / "out/adapter_model.safetensors").items() if "lora_A" in key]
    empty = sum(bool((values == 0).all()) for values in singular(one.adapted.model))
    assert sum(len(value) for value in inner) == left + empty
    base = load_model(one.foundation, one.task.auto_class(one.foundation.family), one.task.head(), seed=1).model
    with quiet():
        loaded = PeftModel.from_pretrained(base, str(tmp_path / "out"))
    found = passed(one, loaded.eval())
    assert max(float(abs(a - b).max()) for a, b in zip(found, wanted, strict=True)) < 1e-5
    with loaded.disable_adapter():
        without = passed(one, loaded)
    if updates > 1:
        assert max(float(abs(a - b).max()) for a, b in zip(without, wanted, strict=True)) > 1e-4


def test_the_pull_towards_orthogonal_is_the_formula_s_gradient(bases: Path) -> None:
    """In float64, by finite differences."""
    model = made(bases).adapted.model.double()
    penalty = Orthogonal(0.3)
    model.zero_grad(set_to_none=True)
    value = penalty.pull(model)
    layers = adalora_layers(model)
    gaps = []
    for layer in layers:
        inner, outer = layer.lora_A[NAME].detach(), layer.lora_B[NAME].detach()
        gaps += [
            ((inner @ inner.T - torch.eye(4).double()) ** 2).sum().sqrt(),
            ((outer.T @ outer - torch.eye(4).double()) ** 2).sum().sqrt(),
        ]
    assert value == pytest.approx(0.3 * float(sum(gaps)) / len(gaps), rel=1e-12)
    factors = (layers[0].lora_A[NAME], layers[-1].lora_B[NAME])
    slopes = [float(factor.grad[1, 1]) for factor in factors]
    for factor, slope in zip(factors, slopes, strict=True):
        for sign in (1, -2):
            with torch.no_grad():
                factor[1, 1] += sign * 1e-5
            value = penalty.pull(model) if sign == 1 else value - penalty.pull(model)
        assert value / 2e-5 == pytest.approx(slope, rel=1e-5)
        with torch.no_grad():
            factor[1, 1] += 1e-5


@pytest.mark.parametrize(
    ("options", "message"),
    [({"rank": 8, "begin": 4}, "ranks are only taken away"), ({"wait": 0.5, "rest": 0.5}, "leave no updates")],
)
def test_options_that_leave_no_budget_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AdaLoRA(**options)
