"""Bases in few bits: which layers are, what stands still, and that adapters and merged models are what was tuned."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from test_compare import recipe
from tiny import model_folder
from tunesmith import api
from tunesmith.adapt import METHODS
from tunesmith.adapt.quantised import dequantised, is_quantised
from tunesmith.errors import UserError
from tunesmith.forward import Inference, all_outputs
from tunesmith.recipe import recipe_from
from tunesmith.select import quantise
from tunesmith.select.load import load_model, parameter_counts
from tunesmith.train.loop import steps
from workshop import CPU, Bench, bench, merged

KINDS = {"llama": "language", "bert": "classification", "gpt2": "language", "t5": "generation", "mistral": "ner"}
FITTING = [name for name in METHODS if METHODS.load(name).quantises]
CELLS = [
    (kind, name)
    for kind in KINDS
    for name in FITTING
    if (kind, name) != ("gpt2", "oft")
    if kind != "mistral" or name in ("lora", "prefix")
]


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bases")


def made(bases: Path, kind: str, method: str, bits: str, **more: Any) -> Bench:
    return bench(bases / kind, kind, KINDS[kind], method, model={"quantise": bits, **more})


def passed(one: Bench, model: torch.nn.Module | None = None) -> list[Any]:
    found = all_outputs(model or one.adapted.model, one.task, one.data, one.padding, Inference(CPU))
    return [value.copy() for value in found.outputs.values]


def apart(one: list[Any], other: list[Any]) -> float:
    return max(float(abs(a - b).max()) for a, b in zip(one, other, strict=True))


def base_of(one: Bench) -> Any:
    auto = one.task.auto_class(one.foundation.family)
    return load_model(one.foundation, auto, one.task.head(), seed=1, dropout=0.0).model


def test_methods_that_leave_an_adapter_take_bases_in_few_bits() -> None:
    assert {"lora", "adalora", "ia3", "vera", "oft", "adapter", "prompt", "p_tuning", "prefix"} == set(FITTING)


@pytest.mark.parametrize("bits", ["nf4", "int8"])
@pytest.mark.parametrize("kind", list(KINDS))
def test_just_the_layers_of_the_blocks_are_held_in_few_bits(kind: str, bits: str, bases: Path) -> None:
    one = made(bases, kind, "lora", bits)
    model = base_of(one)
    few = {n for n, module in model.named_modules() if type(module).__name__ in ("Linear4bit", "Linear8bitLt")}
    linear = {n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
    inside = {name for name in linear if any(part.isdigit() for part in name.split("."))}
    assert few == {name for name in inside if not name.endswith("DenseReluDense.wo")}  # which T5 wants in float32
    assert few
    assert model.get_input_embeddings().weight.dtype == torch.float32


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_four_bits_stand_for_as_many_numbers_in_an_eighth_of_the_room(kind: str, bases: Path) -> None:
    one = made(bases, kind, "lora", "nf4")
    few, whole = base_of(one), base_of(bench(bases / kind, kind, KINDS[kind], "lora"))
    assert parameter_counts(few)[0] == parameter_counts(whole)[0]
    for name, layer in few.named_modules():
        if type(layer).__name__ == "Linear4bit":
            weight = whole.get_submodule(name).weight
            assert layer.weight.nbytes * 8 == weight.nbytes
            assert weight.numel() == layer.in_features * layer.out_features


@pytest.mark.parametrize("kind", list(KINDS))
def test_what_few_bits_stand_for_is_a_plain_model(kind: str, bases: Path) -> None:
    """It gives the same outputs, is near to the one that was rounded, and has its class, names and shapes."""
    one = made(bases, kind, "lora", "nf4")
    wanted = passed(one, base_of(one))
    plain = dequantised(base_of(one))
    assert not is_quantised(plain)
    assert apart(passed(one, plain), wanted) < 1e-5
    whole = base_of(bench(bases / kind, kind, KINDS[kind], "lora"))
    shapes = {name: parameter.shape for name, parameter in whole.named_parameters()}
    assert {name: parameter.shape for name, parameter in plain.named_parameters()} == shapes
    assert all(parameter.dtype == torch.float32 for parameter in plain.parameters())
    before = dict(whole.named_parameters())
    gaps = [
        float(((parameter - before[name]).norm() / before[name].norm()).detach())
        for name, parameter in plain.named_parameters()
        if any(part.isdigit() for part in name.split(".")) and parameter.ndim == 2
    ]
    assert 0.01 < max(gaps) < 0.2


@pytest.mark.parametrize("bits", ["nf4", "int8"])
@pytest.mark.parametrize(("kind", "method"), CELLS)
def test_a_method_tunes_over_few_bits(kind: str, method: str, bits: str, bases: Path) -> None:
    one = made(bases, kind, method, bits)
    model = one.adapted.model
    if one.method.starts_at_base:
        assert apart(passed(one), passed(one, base_of(one))) < 1e-6
    frozen = {n: p.detach().clone() for n, p in model.named_parameters() if n not in one.adapted.trainable}
    assert any(parameter.dtype in (torch.uint8, torch.int8) for parameter in frozen.values())
    start = {n: p.detach().clone() for n, p in model.named_parameters() if n in one.adapted.trainable}
    course = one.course(epochs=12, max_steps=12, learning_rate=3e-3, batch_size=12)
    losses = [step.loss for step in steps(one.state(course), course)]
    assert min(losses) < losses[0]
    after = dict(model.named_parameters())
    assert all(torch.equal(after[name], value) for name, value in frozen.items())
    assert all(not torch.equal(after[name], value) for name, value in start.items() if after[name].any())
    model.eval()
    wanted = passed(one)
    if not one.method.merges:
        return
    if bits == "int8":
        with pytest.raises(UserError, match="rounds what comes into its layers"):
            one.method.merge(model)
        return
    plain = one.method.merge(model)
    assert not is_quantised(plain)
    assert apart(passed(one, plain), wanted) < 1e-4


@pytest.mark.parametrize("method", ["lora", "adapter", "prompt"])
@pytest.mark.parametrize("bits", ["nf4", "int8"])
def test_a_run_ends_in_an_adapter_that_asks_for_few_bits(bits: str, method: str, tmp_path: Path) -> None:
    """The proof of equal answers in a fresh process is part of the run."""
    model_folder("bert", tmp_path / "bert")
    rows = [{"text": f"row {n} about {w}", "label": w} for n in range(40) for w in ("apples", "trains")]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = recipe(model={"name": "./bert", "quantise": bits}, method=method)
    asked["deploy"] = {"formats": ["adapter", *(["safetensors"] if (bits, method) == ("nf4", "lora") else [])]}
    run = api.run(asked, folder=tmp_path / "run", base=tmp_path)
    written = run.read_json("deploy.json")
    assert [entry["parity"]["passed"] for entry in written] == [True] * len(asked["deploy"]["formats"])
    note = json.loads((run.folder / written[0]["folder"] / "tunesmith.json").read_text())
    assert note["quantised"]["load_in_4bit" if bits == "nf4" else "load_in_8bit"]
    assert "quantization_config" not in json.loads((run.folder / written[0]["folder"] / "config.json").read_text())
    again = api.evaluate(run.folder, tmp_path / "rows.jsonl")
    assert again["metrics"]["accuracy"]["value"] is not None
    if method == "lora":
        if bits == "nf4":
            made = api.export(run.folder, "safetensors", out=tmp_path / "whole")
            assert made.parity["passed"]
        else:
            with pytest.raises(UserError, match="rounds what comes in"):
                api.export(run.folder, "safetensors", out=tmp_path / "whole")


def test_every_stage_reads_its_base_in_few_bits(tmp_path: Path) -> None:
    """The first one's merged model is what the second one's four bits are made of."""
    model_folder("bert", tmp_path / "bert")
    rows = [{"text": f"row {n} about {w}", "label": w} for n in range(40) for w in ("apples", "trains")]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    chain = [{"name": "one"}, {"name": "two"}]
    asked = recipe(model={"name": "./bert", "quantise": "nf4"}, method="lora", stages=chain)
    run = api.run(asked, folder=tmp_path / "run", base=tmp_path)
    for place in ("stages/1-one/artifact/adapter", "stages/2-two/artifact"):
        assert json.loads((run.folder / place / "tunesmith.json").read_text())["quantised"]["load_in_4bit"]
    assert "change" in run.read_json("transfer.json")["cells"][2][0]


def test_several_tasks_share_one_base_in_few_bits(bases: Path) -> None:
    one = bench(bases / "roberta", "roberta", "multi_task", "lora", model={"quantise": "nf4"})
    model = one.adapted.model
    held = [p for p in model.parameters() if p.dtype == torch.uint8]
    each = [p for name in model.names for p in model[name].parameters() if p.dtype == torch.uint8]
    assert len(each) == len(model.names) * len(held) > 0
    course = one.course(epochs=6, max_steps=6)
    for _ in steps(one.state(course), course):
        pass
    model.eval()
    wanted = passed(one)
    assert apart(passed(one, merged(model, one.method)), wanted) < 1e-4


def test_a_new_word_has_its_row_above_blocks_in_few_bits(bases: Path) -> None:
    one = made(bases, "llama", "lora", "nf4", new_tokens=("zyqqqa",))
    course = one.course(epochs=2, max_steps=2)
    for _ in steps(one.state(course), course):
        pass
    one.adapted.model.eval()
    wanted = passed(one)
    assert apart(passed(one, one.method.merge(one.adapted.model)), wanted) < 1e-4


@pytest.mark.parametrize("method", ["full", "head", "partial", "bitfit", "loha", "lokr"])
def test_what_moves_weights_is_refused_before_they_are_read(method: str, bases: Path, monkeypatch: Any) -> None:
    from tunesmith import adapting

    monkeypatch.setattr(adapting, "load_model", None)
    with pytest.raises(UserError, match="which this method cannot use"):
        made(bases, "bert", method, "nf4")


def test_a_missing_library_is_named(bases: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(quantise, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"model.quantise: needs bitsandbytes; pip install"):
        made(bases, "bert", "lora", "nf4")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"method": {"kind": "lora", "init": "pissa"}}, "model.quantise holds in few bits"),
        ({"model": {"name": "x", "quantise": "int8"}, "deploy": {"formats": ["safetensors"]}}, "no plain model does"),
        ({"model": {"name": "x", "quantise": "int8"}, "stages": [{"name": "one"}, {"name": "two"}]}, "hand on full"),
    ],
)
def test_recipes_that_cannot_be_are_refused(more: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        recipe_from(recipe(**{"model": {"name": "x", "quantise": "nf4"}, **more}))
