"""What single methods promise: which weights move, how many, and what plain PEFT makes of the files."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from tiny import ZOO
from tunesmith import adapting
from tunesmith.adapt.layers import blocks, of_role, place_of
from tunesmith.errors import UserError
from tunesmith.forward import Inference, all_outputs
from tunesmith.quiet import quiet
from tunesmith.select.load import load_model
from tunesmith.select.skeleton import skeleton
from tunesmith.train.loop import steps
from workshop import CPU, Bench, bench

MIXTURES = ("deepseek-v2", "deepseek-v3")


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bases")


def moving(one: Bench) -> dict[str, int]:
    parameters = dict(one.adapted.model.named_parameters())
    return {name: parameters[name].numel() for name in one.adapted.trainable}


def tuned(one: Bench, steps_: int = 6) -> torch.nn.Module:
    """The model after a few steps, whatever they taught it."""
    course = one.course(epochs=steps_, max_steps=steps_, learning_rate=5e-3)
    for _ in steps(one.state(course), course):
        pass
    return one.adapted.model.eval()


@pytest.mark.parametrize("kind", list(ZOO))
@pytest.mark.parametrize("role", ["attention", "feed_forward", "feed_in", "key_value"])
def test_layers_are_found_by_their_role_in_every_kind_of_model(kind: str, role: str) -> None:
    """Each block has them, as often as it has such sublayers."""
    model = skeleton(ZOO[kind], "AutoModel")
    layers = {n: m for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) or type(m).__name__ == "Conv1D"}
    inside = {name: layer for name, layer in layers.items() if any(part.isdigit() for part in name.split("."))}
    found = of_role(inside, role)
    assert set(blocks(found)) == set(blocks(inside))
    per_place = {place_of(name) for name in found}
    most = {"attention": 2, "feed_forward": 2, "feed_in": 2, "key_value": 4}[role]
    assert 1 <= len(per_place) <= most
    width = model.config.get_text_config().hidden_size
    if role in ("attention", "feed_forward"):
        assert {
            tuple(layer.weight.shape)[0 if isinstance(layer, torch.nn.Linear) else 1] for layer in found.values()
        } == {width}


@pytest.mark.parametrize(
    ("method", "options", "count"),
    [
        # of 2 blocks of width 32 with 48 inside, vocabulary aside; the head has 3 labels
        ("head", {}, 32 * 3 + 3),
        ("partial", {"top": 1}, 4 * (32 * 32 + 32) + 2 * 2 * 32 + 2 * 32 * 48 + 48 + 32 + 32 * 3 + 3),
        ("bitfit", {}, 2 * (4 * 32 + 48 + 32 + 2 * 32) + 32 + 32 + 32 * 3 + 3),
        ("lora", {"rank": 4}, 2 * (4 * 4 * (32 + 32) + 2 * 4 * (32 + 48)) + 32 * 3 + 3),
        ("lora", {"rank": 4, "targets": ["value"], "dora": True}, 2 * (4 * 64 + 32) + 32 * 3 + 3),
        ("lora", {"rank": 4, "ranks": {"value": 2}}, 2 * (3 * 4 * 64 + 2 * 64 + 2 * 4 * 80) + 32 * 3 + 3),
        ("adalora", {"rank": 4, "begin": 5}, 2 * 5 * (4 * (32 + 32 + 1) + 2 * (32 + 48 + 1)) + 32 * 3 + 3),
        ("ia3", {}, 2 * (32 + 32 + 48) + 32 * 3 + 3),
        ("adapter", {}, 2 * 2 * (2 * 2 * 32 + 2 + 32) + 32 * 3 + 3),
        ("adapter", {"places": "pfeiffer", "reduction": 8}, 2 * (2 * 4 * 32 + 4 + 32) + 32 * 3 + 3),
        ("adapter", {"places": "parallel", "reduction": 8}, 2 * (2 * 4 * 32 + 4 + 32) + 32 * 3 + 3),
        ("adapter", {"after": ["value"]}, 2 * (2 * 2 * 32 + 2 + 32) + 32 * 3 + 3),
        ("vera", {"rank": 16}, 2 * (6 * 16 + 5 * 32 + 48) + 32 * 3 + 3),
        ("loha", {"rank": 4}, 2 * (4 * 2 * 4 * 64 + 2 * 2 * 4 * 80) + 32 * 3 + 3),
        ("oft", {"block": 16}, 2 * (5 * 2 + 3) * (16 * 15 // 2) + 32 * 3 + 3),
        ("prompt", {"tokens": 7}, 7 * 32 + 32 * 3 + 3),
        ("p_tuning", {"tokens": 7, "width": 9}, 7 * 32 + (32 * 9 + 9) + (9 * 9 + 9) + (9 * 32 + 32) + 32 * 3 + 3),
        ("prefix", {"tokens": 7}, 7 * 2 * 2 * 32 + 32 * 3 + 3),
        (
            "prefix",
            {"tokens": 7, "projection": True, "width": 9},
            7 * 32 + (32 * 9 + 9) + (9 + 1) * 2 * 2 * 32 + 32 * 3 + 3,
        ),
    ],
)
def test_as_much_moves_as_the_formula_says(method: str, options: dict[str, Any], count: int, bases: Path) -> None:
    one = bench(bases / "bert", "bert", "classification", method, method=options)
    assert sum(moving(one).values()) == count


def test_lora_plus_lets_the_second_factor_learn_faster(bases: Path) -> None:
    one = bench(bases / "bert", "bert", "classification", "lora", method={"plus": 16.0})
    groups = one.state(one.course()).optimiser.param_groups
    factor = {name: group["factor"] for group in groups for name in group["names"]}
    assert {value for name, value in factor.items() if "lora_B" in name} == {16.0}
    assert {value for name, value in factor.items() if "lora_B" not in name} == {1.0}


@pytest.mark.parametrize("kind", MIXTURES)
def test_lora_changes_the_experts_of_a_mixture(kind: str, bases: Path) -> None:
    queries = bench(bases / kind, kind, "language", "lora", method={"targets": ["o_proj"]})
    assert not [name for name in moving(queries) if "experts" in name]
    one = bench(bases / kind, kind, "language", "lora")
    new = [name for name in moving(one) if ".experts." in name]
    assert new
    before = {name: p.detach().clone() for name, p in one.adapted.model.named_parameters() if name in new}
    tuned(one)
    after = dict(one.adapted.model.named_parameters())
    assert all(not torch.equal(after[name], value) for name, value in before.items())


INITS: tuple[dict[str, Any], ...] = (
    {},
    {"init": "pissa"},
    {"init": "orthogonal"},
    {"rslora": True, "init": "pissa"},
)
LOADED = [
    *((kind, "classification", options) for kind in ("bert", "gpt2", "t5") for options in INITS),
    ("bert", "classification", {"ranks": {"value": 4}}),
    ("bert", "classification", {"ranks": {"value": 4}, "init": "pissa"}),
    *((kind, "language", {}) for kind in MIXTURES),
]


@pytest.mark.parametrize(("kind", "task", "options"), LOADED)
def test_a_lora_is_loaded_by_peft_over_the_plain_base(
    kind: str, task: str, options: dict[str, Any], bases: Path, tmp_path: Path
) -> None:
    """Also one that began by taking its part out of the base's weights."""
    one = bench(bases / kind, kind, task, "lora", method=options)
    tuned(one)
    wanted = all_outputs(one.adapted.model, one.task, one.data, one.padding, Inference(CPU)).outputs
    one.method.save(one.adapted.model, tmp_path / "out")
    base = load_model(one.foundation, one.task.auto_class(one.foundation.family), one.task.head(), seed=1).model
    with quiet():
        loaded = PeftModel.from_pretrained(base, str(tmp_path / "out"))
    found = all_outputs(loaded, one.task, one.data, one.padding, Inference(CPU)).outputs
    assert max(float(abs(a - b).max()) for a, b in zip(found.values, wanted.values, strict=True)) < 1e-4
    with loaded.disable_adapter():
        plain = all_outputs(loaded, one.task, one.data, one.padding, Inference(CPU)).outputs
    assert max(float(abs(a - b).max()) for a, b in zip(plain.values, wanted.values, strict=True)) > 1e-2


@pytest.mark.parametrize(
    ("kind", "method", "options", "message"),
    [
        ("bert", "lora", {"rank": 64}, "64 is more than layer"),
        ("bert", "lora", {"ranks": {"value": 64}}, "64 is more than layer"),
        ("bert", "lora", {"targets": ["valeu"]}, "no layer is called valeu; did you mean 'value'"),
        ("bert", "lora", {"ranks": {"valeu": 4}}, "no changed layer is called valeu"),
        ("bert", "adalora", {"rank": 30}, "45 is more than layer"),
        ("bert", "partial", {"top": 9}, "9 blocks are more than"),
        ("bert", "partial", {"modules": ["poler"]}, "no module is called poler; did you mean 'pooler'"),
        ("bert", "adapter", {"reduction": 99}, "leaves nothing of a width of 32"),
        ("bert", "adapter", {"after": ["valeu"]}, "no layer is called valeu"),
        ("bert", "adapter", {"after": ["value"], "places": "parallel"}, "leave out places: parallel"),
        ("bert", "oft", {"block": 7}, "blocks of 7 do not divide"),
        ("gpt2", "loha", {}, "no nn.Linear"),
        ("llama", "bitfit", {}, "have no biases"),
    ],
)
def test_what_a_model_cannot_take_is_refused_before_its_weights_are_read(
    kind: str, method: str, options: dict[str, Any], message: str, bases: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapting, "load_model", None)
    with pytest.raises(UserError, match=message):
        bench(bases / kind, kind, "classification", method, method=options)


def passed(one: Bench, model: torch.nn.Module | None = None) -> list[Any]:
    values = all_outputs(model or one.adapted.model, one.task, one.data, one.padding, Inference(CPU)).outputs.values
    return [value.copy() for value in values]


def apart(one: list[Any], other: list[Any]) -> float:
    return max(float(abs(a - b).max()) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("places", ["houlsby", "pfeiffer", "parallel"])
@pytest.mark.parametrize(
    "kind", ["bert", "distilbert", "gpt2", "llama", "t5", "bart", "gpt-neox", "modernbert", "deepseek-v2"]
)
def test_adapters_are_loaded_by_peft_over_the_plain_base(kind: str, places: str, bases: Path, tmp_path: Path) -> None:
    task = "classification" if kind != "deepseek-v2" else "language"
    one = bench(bases / kind, kind, task, "adapter", method={"places": places})
    tuned(one)
    wanted = passed(one)
    one.method.save(one.adapted.model, tmp_path / "out")
    held = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert sum(tensor.numel() for tensor in held.values()) == sum(moving(one).values())
    base = load_model(one.foundation, one.task.auto_class(one.foundation.family), one.task.head(), seed=1).model
    with quiet():
        loaded = PeftModel.from_pretrained(base, str(tmp_path / "out"))
    assert apart(passed(one, loaded), wanted) < 1e-5
    with loaded.disable_adapter():
        assert apart(passed(one, loaded), wanted) > 1e-3


def test_an_adapter_in_parallel_takes_what_its_sublayer_takes(bases: Path) -> None:
    """By hand: the block's output is the frozen one plus four times the detour of the feed-forward sublayer's input."""
    one = bench(bases / "llama", "llama", "language", "adapter", method={"places": "parallel"})
    tuned(one)
    mlp = one.adapted.model.get_base_model().model.layers[0].mlp
    x = torch.randn(2, 5, 32)
    down, up = mlp.down_proj.bottleneck_down["default"], mlp.down_proj.bottleneck_up["default"]
    with torch.inference_mode():
        with one.adapted.model.disable_adapter():
            frozen = mlp(x)
        assert torch.allclose(mlp(x), frozen + 4 * up(torch.nn.functional.gelu(down(x))), atol=1e-6)


def test_adapters_on_one_base_are_switched_and_stacked(bases: Path, tmp_path: Path) -> None:
    """Two of two trainings lie side by side, work alone as each did, and one behind the other when both are on."""
    made = []
    for number in (1, 2):
        one = bench(bases / "bert", "bert", "classification", "adapter", method={"places": "pfeiffer"})
        tuned(one, 3 * number)
        one.method.save(one.adapted.model, tmp_path / str(number))
        made.append(passed(one))
    base = load_model(one.foundation, one.task.auto_class(one.foundation.family), one.task.head(), seed=1).model
    with quiet():
        loaded = PeftModel.from_pretrained(base, str(tmp_path / "1"), adapter_name="one")
        loaded.load_adapter(str(tmp_path / "2"), adapter_name="two")
    for name, wanted in zip(("one", "two"), made, strict=True):
        loaded.set_adapter(name)
        assert apart(passed(one, loaded), wanted) < 1e-5
    layer = loaded.get_base_model().bert.encoder.layer[0].output.dense
    x = torch.randn(2, 48)
    with torch.inference_mode():
        layer.set_adapter("one")
        first = layer(x)
        detour = layer.bottleneck_up["two"](torch.nn.functional.gelu(layer.bottleneck_down["two"](first)))
        layer.set_adapter(["one", "two"])
        assert torch.allclose(layer(x), first + detour, atol=1e-6)


def test_one_in_parallel_and_one_in_sequence_lie_on_one_base(bases: Path, tmp_path: Path) -> None:
    """Whichever was loaded first, each works alone as it did where it was trained."""
    made = {}
    for places in ("pfeiffer", "parallel"):
        one = bench(bases / "llama", "llama", "language", "adapter", method={"places": places})
        tuned(one)
        one.method.save(one.adapted.model, tmp_path / places)
        made[places] = passed(one)
    for first, second in (("pfeiffer", "parallel"), ("parallel", "pfeiffer")):
        base = load_model(one.foundation, one.task.auto_class(one.foundation.family), one.task.head(), seed=1).model
        with quiet():
            loaded = PeftModel.from_pretrained(base, str(tmp_path / first), adapter_name=first)
            loaded.load_adapter(str(tmp_path / second), adapter_name=second)
        for name in (first, second):
            loaded.set_adapter(name)
            assert apart(passed(one, loaded), made[name]) < 1e-5


def test_adapters_in_parallel_have_the_same_gradients_with_checkpointing(bases: Path) -> None:
    found = []
    for saved in (False, True):
        one = bench(bases / "llama", "llama", "language", "adapter", method={"places": "parallel"})
        if saved:
            one.adapted.model.get_base_model().activation_checkpointing_enable()
            one.adapted.model.get_base_model().enable_input_require_grads()
        tuned(one, 2)
        parameters = dict(one.adapted.model.named_parameters())
        found.append([parameters[name].detach().clone() for name in one.adapted.trainable])
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*found, strict=True))
