"""What single methods promise: which weights move, how many, and what plain PEFT makes of the files."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel

from tiny import ZOO
from tunesmith import adapting
from tunesmith.adapt.layers import blocks, of_role, place_of
from tunesmith.adapting import skeleton
from tunesmith.errors import UserError
from tunesmith.forward import Inference, all_outputs
from tunesmith.quiet import quiet
from tunesmith.select.load import load_model
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
@pytest.mark.parametrize("role", ["attention", "feed_forward", "key_value"])
def test_layers_are_found_by_their_role_in_every_kind_of_model(kind: str, role: str) -> None:
    """Each block has them, as often as it has such sublayers."""
    model = skeleton(ZOO[kind], "AutoModel")
    layers = {n: m for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) or type(m).__name__ == "Conv1D"}
    inside = {name: layer for name, layer in layers.items() if any(part.isdigit() for part in name.split("."))}
    found = of_role(inside, role)
    assert set(blocks(found)) == set(blocks(inside))
    per_place = {place_of(name) for name in found}
    most = {"attention": 2, "feed_forward": 2, "key_value": 4}[role]
    assert 1 <= len(per_place) <= most
    width = model.config.get_text_config().hidden_size
    if role != "key_value":
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
        ("ia3", {}, 2 * (32 + 32 + 48) + 32 * 3 + 3),
        ("vera", {"rank": 16}, 2 * (6 * 16 + 5 * 32 + 48) + 32 * 3 + 3),
        ("loha", {"rank": 4}, 2 * (4 * 2 * 4 * 64 + 2 * 2 * 4 * 80) + 32 * 3 + 3),
        ("oft", {"block": 16}, 2 * (5 * 2 + 3) * (16 * 15 // 2) + 32 * 3 + 3),
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


@pytest.mark.parametrize(
    "options",
    [{}, {"init": "pissa"}, {"init": "orthogonal"}, {"rslora": True, "init": "pissa"}, {"ranks": {"value": 4}}],
)
@pytest.mark.parametrize("kind", ["bert", "gpt2", "t5"])
def test_a_lora_is_loaded_by_peft_over_the_plain_base(
    kind: str, options: dict[str, Any], bases: Path, tmp_path: Path
) -> None:
    """Also one that began by taking its part out of the base's weights."""
    if kind != "bert" and "ranks" in options:
        pytest.skip("names a layer of BERT")
    one = bench(bases / kind, kind, "classification", "lora", method=options)
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
        ("bert", "partial", {"top": 9}, "9 blocks are more than"),
        ("bert", "partial", {"modules": ["poler"]}, "no module is called poler; did you mean 'pooler'"),
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
