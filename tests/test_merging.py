"""Merged adapters are what the way of merging says, leave as any adapter does, and are refused where they differ."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel

from test_deploy import parcel
from test_methods import tuned
from tunesmith import api
from tunesmith.adapt import METHODS, OF_FILES
from tunesmith.adapt.merging import HOWS, Mix, Stored, averaged, merged_changes, mix, read, side_by_side
from tunesmith.adapting import adapted_model
from tunesmith.cli.app import main
from tunesmith.deploy.export import export
from tunesmith.errors import UserError
from tunesmith.quiet import quiet
from tunesmith.select.load import load_model
from tunesmith.tasks import TASKS
from workshop import Bench, bench

FULL = 32
"""The width of the tiny models: a change of this rank is any change."""
PAIR: tuple[dict[str, Any], ...] = (
    {"rank": 4},
    {"rank": 2, "rslora": True, "ranks": {"value": 6}, "targets": ["query", "value", "output.dense"]},
)


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bases")


def stored(folder: Path, bases: Path, kind: str = "bert", method: str = "lora", **options: Any) -> tuple[Bench, Stored]:
    """A tuned adapter as its file has it."""
    one = bench(bases / kind, kind, "classification", method, method=options)
    tuned(one)
    one.method.save(one.adapted.model, folder)
    return one, read(folder, folder.name)


def doubled(adapter: Stored) -> Stored:
    return replace(adapter, tensors={name: tensor.double() for name, tensor in adapter.tensors.items()})


def base_of(one: Bench) -> PreTrainedModel:
    """The base in float64, so that what is compared has no rounding to speak of."""
    auto_class = one.task.auto_class(one.foundation.family)
    return load_model(one.foundation, auto_class, one.task.head(), seed=0).model.double()


def changes(one: Bench, adapter: Stored) -> dict[str, Tensor]:
    """What a LoRA adds to each weight it changes, by the layer's name, worked out from its file alone."""
    config: Any = adapter.config
    found = {}
    for key, down in adapter.tensors.items():
        if ".lora_A." in key:
            up = adapter.tensors[key.replace("lora_A", "lora_B")]
            name = key.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
            rank = len(down)
            alphas = {**dict.fromkeys([name], config.lora_alpha), **config.alpha_pattern}
            alpha = next((value for place, value in config.alpha_pattern.items() if name.endswith(place)), alphas[name])
            found[name] = up @ down * (alpha / (rank**0.5 if config.use_rslora else rank))
    return found


def summed(parts: Sequence[Mapping[str, Tensor]], weights: Sequence[float]) -> dict[str, Tensor]:
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: sum(w * part[name] for w, part in zip(weights, parts, strict=True) if name in part) for name in names}  # type: ignore[misc]


def largest_gap(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> float:
    assert set(found) == set(wanted)
    return max(float((found[name] - wanted[name]).abs().max()) for name in wanted)


def two(
    tmp_path: Path, bases: Path, kind: str = "bert", pair: Sequence[dict[str, Any]] = PAIR
) -> tuple[Bench, list[Stored]]:
    made = [stored(tmp_path / f"a{place}", bases, kind, **options) for place, options in enumerate(pair)]
    return made[0][0], [doubled(adapter) for _, adapter in made]


@pytest.mark.parametrize("kind", ["bert", "gpt2", "llama", "t5"])
def test_linear_is_the_weighted_sum_of_the_changes_and_not_of_their_factors(
    kind: str, bases: Path, tmp_path: Path
) -> None:
    pair = PAIR if kind == "bert" else ({"rank": 4}, {"rank": 2, "alpha": 3.0})
    one, adapters = two(tmp_path, bases, kind, pair)
    wanted = summed([changes(one, adapter) for adapter in adapters], (0.75, -0.25))
    made = merged_changes(base_of(one), adapters, mix(2, weights=(0.75, -0.25)))
    assert largest_gap(changes(one, made), wanted) < 1e-12
    assert max(float(change.abs().max()) for change in wanted.values()) > 1e-3


def test_what_peft_calls_linear_is_not_that_sum(bases: Path, tmp_path: Path) -> None:
    """Why its ways that merge the factors apart are not used."""
    one, adapters = two(tmp_path, bases, pair=({"rank": 4}, {"rank": 4}))
    wanted = summed([changes(one, adapter) for adapter in adapters], (0.5, 0.5))
    model: Any = side_by_side(base_of(one), adapters, ["first", "second"])
    model.add_weighted_adapter(["first", "second"], [0.5, 0.5], "both", combination_type="linear")
    layer = next(iter(wanted))
    apart = model.base_model.model.get_submodule(layer).get_delta_weight("both")
    gap, size = (apart - wanted[layer]).norm(), wanted[layer].norm()
    assert gap > 0.2 * size


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_a_given_rank_keeps_the_nearest_matrices_of_that_rank(kind: str, bases: Path, tmp_path: Path) -> None:
    one, adapters = two(tmp_path, bases, kind, ({"rank": 4}, {"rank": 2}))
    exact = summed([changes(one, adapter) for adapter in adapters], (0.75, 0.25))
    made = merged_changes(base_of(one), adapters, mix(2, weights=(0.75, 0.25), rank=3))
    for name, change in changes(one, made).items():
        left, sizes, right = torch.linalg.svd(exact[name], full_matrices=False)
        nearest = left[:, :3] * sizes[:3] @ right[:3]
        assert float((change - nearest).abs().max()) < 1e-12
        assert float((exact[name] - nearest).norm()) > 1e-6, "something was there to be cut"
    assert (
        largest_gap(changes(one, merged_changes(base_of(one), adapters, mix(2, weights=(0.75, 0.25), rank=6))), exact)
        < 1e-12
    )


def trimmed(change: Tensor, density: float) -> Tensor:
    """The change with all but its largest entries set to 0."""
    kept = int(density * change.numel())
    least = change.abs().flatten().sort(descending=True).values[kept - 1]
    return torch.where(change.abs() >= least, change, 0.0)


def elected(changes_: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """TIES as in arXiv:2306.01708, section 4, steps 2 and 3: the mean of those that have the sign of the sum."""
    stack = torch.stack(list(changes_))
    agree = stack.sign() == torch.where(stack.sum(dim=0) >= 0, 1.0, -1.0)
    weighed = stack * torch.tensor(weights, dtype=stack.dtype).view(-1, 1, 1) * agree
    return weighed.sum(dim=0) / agree.sum(dim=0).clamp(min=1)


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
@pytest.mark.parametrize("weights", [(1.0, 1.0), (0.5, 2.0)])
def test_ties_and_pruning_work_on_whole_changes(
    kind: str, weights: tuple[float, float], bases: Path, tmp_path: Path
) -> None:
    one, adapters = two(tmp_path, bases, kind, ({"rank": 4}, {"rank": 4}))
    parts = [changes(one, adapter) for adapter in adapters]
    cut = [{name: trimmed(change, 0.25) for name, change in part.items()} for part in parts]
    ties = {name: elected([part[name] for part in cut], weights) for name in cut[0]}
    for how, wanted in (("ties", ties), ("magnitude_prune", summed(cut, weights))):
        made = merged_changes(base_of(one), adapters, mix(2, how, weights, density=0.25, rank=FULL))
        assert largest_gap(changes(one, made), wanted) < 1e-12


@pytest.mark.parametrize("how", ["dare_linear", "dare_ties"])
def test_dare_leaves_out_entries_of_whole_changes_by_its_seed_and_scales_the_others(
    how: str, bases: Path, tmp_path: Path
) -> None:
    one, adapters = two(tmp_path, bases, pair=({"rank": 4}, {"rank": 4}))
    parts, weights = [changes(one, adapter) for adapter in adapters], (0.5, 2.0)

    def made(seed: int, density: float = 0.25) -> dict[str, Tensor]:
        wanted = mix(2, how, weights, density=density, rank=FULL, seed=seed)
        return changes(one, merged_changes(base_of(one), adapters, wanted))

    found = made(3)
    kept = []
    for name, change in found.items():
        scaled = [part[name] / 0.25 for part in parts]
        nothing = torch.zeros_like(change)
        ways = torch.stack(
            [
                elected([a, b], weights) if how == "dare_ties" else weights[0] * a + weights[1] * b
                for a in (nothing, scaled[0])
                for b in (nothing, scaled[1])
            ]
        )
        assert float((change - ways).abs().amin(dim=0).max()) < 1e-12, "each entry is one of the four that can be"
        kept.append((change.abs() > 1e-12).double().mean())
    # an entry is 0 where neither is kept, by chance 9 in 16
    assert abs(float(torch.stack(kept).mean()) - 7 / 16) < 0.02
    assert largest_gap(made(3), found) == 0
    assert largest_gap(made(4), found) > 1e-3
    if how == "dare_linear":
        whole = {name: weights[0] * parts[0][name] + weights[1] * parts[1][name] for name in found}
        assert largest_gap(made(3, 1.0), whole) < 1e-12


def test_heads_are_averaged_by_shares_whatever_the_way(bases: Path, tmp_path: Path) -> None:
    one, adapters = two(tmp_path, bases)
    for wanted in (mix(2, weights=(3, 1)), mix(2, "ties", (3, 1)), mix(2, "dare_ties", (3, 1), seed=1)):
        made = merged_changes(base_of(one), adapters, wanted)
        name = "base_model.model.classifier.weight"
        mean = 0.75 * adapters[0].tensors[name] + 0.25 * adapters[1].tensors[name]
        assert float((made.tensors[name] - mean).abs().max()) < 1e-15


def test_without_a_rank_a_change_has_the_sum_of_the_ranks_or_what_a_layer_can_have(bases: Path, tmp_path: Path) -> None:
    one, adapters = two(tmp_path, bases)
    assert [adapter.rank for adapter in adapters] == [4, 6]
    for how in HOWS:
        config: Any = merged_changes(base_of(one), adapters, mix(2, how)).config
        assert (config.r, config.lora_alpha, config.use_rslora, config.rank_pattern) == (10, 10, False, {})
    _, wide = two(tmp_path, bases, pair=({"rank": 20}, {"rank": 20}))
    assert merged_changes(base_of(one), wide, mix(2, "ties")).config.r == FULL  # type: ignore[attr-defined]
    with pytest.raises(UserError, match=f"--rank: 33 is more than the smallest changed layer has; at most {FULL}"):
        merged_changes(base_of(one), wide, mix(2, rank=33))


def test_values_are_averaged_as_peft_averages_those_of_ia3(bases: Path, tmp_path: Path) -> None:
    made = [stored(tmp_path / f"a{place}", bases, method="ia3") for place in range(2)]
    first, second = (doubled(adapter) for _, adapter in made)
    second = replace(second, tensors={name: tensor * 1.5 for name, tensor in second.tensors.items()})
    found = averaged([first, second], mix(2, weights=(3, 1)).shares)
    with quiet():
        model: Any = PeftModel(base_of(made[0][0]), replace(first.config, modules_to_save=None), "first")  # type: ignore[call-arg]
        model.add_adapter("second", replace(second.config, modules_to_save=None))  # type: ignore[call-arg]
        for name, adapter in (("first", first), ("second", second)):
            for key, tensor in adapter.tensors.items():
                if ".ia3_l" in key:
                    model.get_parameter(f"{key}.{name}").data = tensor
        model.add_weighted_adapter(["first", "second"], [0.75, 0.25], "both")
    factors = [key for key in found if ".ia3_l" in key]
    assert factors
    for key in factors:
        assert float((model.get_parameter(f"{key}.both") - found[key]).abs().max()) < 1e-12


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"count": 1}, "merge: 1 adapter is nothing to merge; name two or more"),
        ({"how": "lineer"}, "--how 'lineer': is not known; did you mean 'linear'?"),
        ({"weights": (1.0,)}, "--weights: holds 1 numbers for 2 adapters; give one each"),
        ({"weights": (1.0, -1.0)}, "--weights: must be finite and have a sum above 0"),
        ({"weights": (1.0, float("nan"))}, "--weights: must be finite"),
        ({"density": 0.5}, "--density: linear keeps every entry; leave it out"),
        ({"how": "ties", "density": 0.0}, "--density: 0 is no share"),
        ({"how": "ties", "seed": 1}, "--seed: ties draws nothing; leave it out, or choose dare_linear or dare_ties"),
        ({"rank": 0}, "--rank: 0 is no rank"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(given: dict[str, Any], message: str) -> None:
    values = {"count": 2, "how": "linear", "weights": None, **given}
    with pytest.raises(UserError) as error:
        mix(values.pop("count"), values.pop("how"), values.pop("weights"), **values)
    assert str(error.value).startswith(message)


def test_weights_that_nobody_gave_are_means() -> None:
    assert mix(4).weights == (0.25,) * 4
    assert mix(2, "dare_linear") == Mix((0.5, 0.5), "dare_linear", 0.5)
    assert mix(2, "ties").weights == (1.0, 1.0), "which it divides by how many agree"
    assert mix(2, "ties", (3, 1)).shares == (0.75, 0.25)


def test_the_method_of_every_adapters_file_is_known() -> None:
    adapters = {name for name in METHODS if METHODS.load(name).artifact == "adapter"}
    assert set(OF_FILES.values()) == adapters - {"adalora"}, "which is written as a LoRA"


# whole artefacts


def artefact(
    folder: Path, bases: Path, kind: str, task_kind: str, method_kind: str, seed: int = 1, **more: Any
) -> Bench:
    """An exported adapter that was trained a little."""
    one = bench(bases / kind, kind, task_kind, method_kind, **more)
    if seed != 1:
        with torch.no_grad():
            for name, parameter in one.adapted.model.named_parameters():
                if name in one.adapted.trainable:
                    parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed)) * 0.02)
    export("adapter", parcel(one, task_kind), folder, verify=False)
    return one


def rows_file(folder: Path, task: str) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in TASKS.load(task).specimens[0].rows))
    return path


@pytest.mark.parametrize(
    ("kind", "task", "method", "how"),
    [
        ("bert", "classification", "lora", "linear"),
        ("llama", "classification", "lora", "dare_ties"),
        ("gpt2", "regression", "lora", "ties"),
        ("t5", "generation", "lora", "linear"),
        ("bert", "ner", "lora", "magnitude_prune"),
        ("gpt2", "preference", "lora", "linear"),
        ("bert", "classification", "adapter", "linear"),
        ("llama", "language", "ia3", "linear"),
        ("bert", "classification", "prompt", "linear"),
        ("gpt2", "classification", "p_tuning", "linear"),
        ("gpt2", "language", "prefix", "linear"),
    ],
)
def test_what_is_merged_leaves_as_any_adapter_does(
    kind: str, task: str, method: str, how: str, bases: Path, tmp_path: Path
) -> None:
    """It answers alike in a fresh process, where PEFT alone loads it if it loads its inputs; all are judged."""
    for place in range(2):
        artefact(tmp_path / f"a{place}", bases, kind, task, method, seed=1 + place)
    data = rows_file(tmp_path, task)
    base = str(bases / kind)
    places = [tmp_path / "a0", tmp_path / "a1"]
    made = api.merge(places, tmp_path / "both", how=how, data=data, base=base)
    assert made.artifact.parity["passed"]
    assert list(made.scores) == ["a0", "a1", "both"]
    metrics = [judged["metrics"][judged["main"]] for judged in made.scores.values()]
    assert all(metric["low"] <= metric["value"] <= metric["high"] for metric in metrics)
    predictor = api.open_predictor(tmp_path / "both", base=base)
    assert api.ask(predictor, [dict(row) for row in TASKS.load(task).specimens[0].rows[:2]])
    assert api.evaluate(tmp_path / "both", data, base=base)["metrics"] == made.scores["both"]["metrics"]
    note = json.loads((tmp_path / "both" / "tunesmith.json").read_text())
    assert [one["name"] for one in note["merged"]["adapters"]] == ["a0", "a1"]
    card = (tmp_path / "both" / "README.md").read_text()
    assert "## Merged" in card
    assert all(one["sha256"] in card for one in note["merged"]["adapters"])


def test_outputs_are_those_of_the_base_plus_the_sum_by_plain_peft(bases: Path, tmp_path: Path) -> None:
    one = artefact(tmp_path / "a0", bases, "bert", "classification", "lora")
    artefact(tmp_path / "a1", bases, "bert", "classification", "lora", 2, method={"rank": 3})
    data = rows_file(tmp_path, "classification")
    api.merge(
        [tmp_path / "a0", tmp_path / "a1"], tmp_path / "both", weights=(0.75, 0.25), data=data, base=str(bases / "bert")
    )
    adapters = [read(tmp_path / name, name) for name in ("a0", "a1")]
    by_hand = plain(bases / "bert", tmp_path / "a0")
    for name, change in summed([changes(one, adapter) for adapter in adapters], (0.75, 0.25)).items():
        by_hand.get_parameter(f"{name}.weight").data += change
    for name in ("weight", "bias"):
        key = f"base_model.model.classifier.{name}"
        mean = 0.75 * adapters[0].tensors[key] + 0.25 * adapters[1].tensors[key]
        by_hand.get_parameter(f"classifier.{name}").data = mean
    with quiet():
        loaded = PeftModel.from_pretrained(plain(bases / "bert", tmp_path / "both"), str(tmp_path / "both")).eval()
    ids = torch.arange(5, 25).view(2, 10)
    with torch.inference_mode():
        assert float((loaded(ids).logits - by_hand.eval()(ids).logits).abs().max()) < 1e-5


def plain(base: Path, artifact: Path) -> PreTrainedModel:
    with quiet():
        model: PreTrainedModel = AutoModelForSequenceClassification.from_pretrained(
            base, config=AutoConfig.from_pretrained(artifact)
        )
    return model


def test_rows_of_new_tokens_are_averaged(bases: Path, tmp_path: Path) -> None:
    from tunesmith.adapting import Setting, require_heads
    from tunesmith.batch import encoded, padding_for
    from tunesmith.contracts import Record
    from tunesmith.select.foundation import open_foundation
    from tunesmith.select.options import ModelOptions

    bench(bases / "bert", "bert", "classification", "lora")
    kind = TASKS.load("classification")
    rows = [{"text": f"kettlezz {row['text']}", "label": row["label"]} for row in kind.specimens[0].rows]
    for place in range(2):
        foundation = open_foundation(ModelOptions(name=str(bases / "bert"), new_tokens=("kettlezz",)), Path())
        records = [Record(n, "rows", n + 1, *kind().read(row)) for n, row in enumerate(rows)]
        task, method = kind().learn(records), METHODS.load("lora")()
        require_heads(foundation, task, method)
        adapted = adapted_model(foundation, task, method, Setting(1 + place, 0.0))
        data = encoded(task.encode(records, foundation.codec, 64))
        padding = padding_for(task.columns(), foundation.tokenizer.pad_token_id)
        one = Bench(foundation, task, method, records, data, padding, adapted)
        export("adapter", parcel(one, "classification"), tmp_path / f"a{place}", verify=False)
    data_file = tmp_path / "rows.jsonl"
    data_file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    places = [tmp_path / "a0", tmp_path / "a1"]
    made = api.merge(places, tmp_path / "both", weights=(3, 1), data=data_file, base=str(bases / "bert"))
    assert made.artifact.parity["passed"]
    first, second, both = (read(tmp_path / name, name).tensors for name in ("a0", "a1", "both"))
    (key,) = [name for name in both if "trainable_tokens" in name]
    assert not torch.equal(first[key], second[key])
    assert torch.allclose(both[key], 0.75 * first[key] + 0.25 * second[key], atol=1e-7)
    artefact(tmp_path / "without", bases, "bert", "classification", "lora")
    with pytest.raises(UserError, match=r"has other new tokens than .*; train them with the same model\.new_tokens"):
        api.merge([places[0], tmp_path / "without"], tmp_path / "no", data=data_file, base=str(bases / "bert"))


@pytest.fixture(scope="module")
def shelf(bases: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Adapters that differ from `first` in one thing each."""
    folder = tmp_path_factory.mktemp("shelf")
    rows_file(folder, "classification")
    artefact(folder / "first", bases, "bert", "classification", "lora")
    artefact(folder / "other_base", bases, "roberta", "classification", "lora")
    artefact(folder / "other_task", bases, "bert", "regression", "lora")
    artefact(
        folder / "other_labels", bases, "bert", "classification", "lora", task={"labels": ("thanks", "late", "broken")}
    )
    artefact(folder / "other_method", bases, "bert", "classification", "ia3")
    artefact(folder / "other_width", bases, "bert", "classification", "adapter", method={"reduction": 8})
    artefact(folder / "adapter", bases, "bert", "classification", "adapter")
    artefact(folder / "dora", bases, "bert", "classification", "lora", method={"dora": True})
    for method in ("vera", "loha", "lokr", "oft"):
        artefact(folder / method, bases, "bert", "classification", method)
    one = bench(bases / "bert", "bert", "classification", "full")
    export("safetensors", parcel(one, "classification"), folder / "full", verify=False)
    return folder


@pytest.mark.parametrize(
    ("names", "given", "message"),
    [
        (("first", "other_base"), {}, "was trained on other base weights ("),
        (("first", "other_task"), {}, "is for the task regression, unlike "),
        (("first", "other_labels"), {}, "has other labels ('thanks, late, broken', in order) than "),
        (("first", "other_method"), {}, "merge adapters of one method"),
        (("adapter", "other_width"), {}, "has width 4, and "),
        (("adapter", "adapter"), {"how": "ties"}, "--how ties: is for changes of the base's weights"),
        (("adapter", "adapter"), {"rank": 3}, "--rank: is for changes of the base's weights"),
        (("first", "dora"), {}, "is a DoRA, which sets the size of each weight column anew"),
        (("vera", "vera"), {}, "a product of averages is not the average of the products"),
        (("loha", "loha"), {}, "a product of averages is not the average of the products"),
        (("lokr", "lokr"), {}, "a product of averages is not the average of the products"),
        (("oft", "oft"), {}, "a product of averages is not the average of the products"),
        (("first", "full"), {}, "is a full model, not an adapter"),
        (("first", "first"), {"data": None}, "lies outside its run, so there are no rows to prove the result on; name"),
        (("first", "first"), {"out": "first"}, "is there already; name another folder with --out"),
        (
            ("first", "first"),
            {"base": "./nowhere"},
            "its base: there is no folder ./nowhere; say where it is with --base",
        ),
    ],
)
def test_adapters_that_do_not_go_together_are_refused_in_one_line(
    names: Sequence[str], given: dict[str, Any], message: str, shelf: Path, bases: Path
) -> None:
    values = {"out": "out", "data": shelf / "rows.jsonl", "base": str(bases / "bert"), **given}
    with pytest.raises(UserError) as error:
        api.merge([shelf / name for name in names], shelf / values.pop("out"), **values)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not (shelf / "out").exists()


def test_adapters_that_read_rows_otherwise_are_refused(bases: Path, tmp_path: Path) -> None:
    for name, template in (("a0", "{source}: "), ("a1", "say {source}: ")):
        artefact(tmp_path / name, bases, "gpt2", "generation", "lora", task={"template": template})
    data = rows_file(tmp_path, "generation")
    with pytest.raises(UserError, match=r"reads the same row as other tokens than .*\(they differ in template\)"):
        api.merge([tmp_path / "a0", tmp_path / "a1"], tmp_path / "out", data=data, base=str(bases / "gpt2"))


def test_an_adapter_that_was_damaged_is_not_merged(shelf: Path, bases: Path, tmp_path: Path) -> None:
    from tunesmith.commit import Broken

    shutil.copytree(shelf / "first", tmp_path / "damaged")
    weights = tmp_path / "damaged" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x07")
    with pytest.raises(Broken):
        api.merge([shelf / "first", tmp_path / "damaged"], tmp_path / "out", base=str(bases / "bert"))


def test_an_exported_adapter_is_merged_into_its_base_on_rows_that_are_given(
    shelf: Path, bases: Path, tmp_path: Path
) -> None:
    base, data = str(bases / "bert"), shelf / "rows.jsonl"
    made = api.export(shelf / "first", "safetensors", out=tmp_path / "new" / "whole", data=data, base=base)
    assert made.parity["passed"]
    row = {"text": "the lamp is late"}
    (ours,), (theirs,) = (
        api.ask(tmp_path / "new" / "whole", [row]),
        api.ask(api.open_predictor(shelf / "first", base=base), [row]),
    )
    assert dict(ours.scores) == pytest.approx(dict(theirs.scores), abs=1e-5)
    with pytest.raises(UserError, match="holds no rows; give some to prove it on: --data"):
        api.export(shelf / "first", "safetensors", out=tmp_path / "more", base=base)
    with pytest.raises(UserError, match="is an exported model; say with --out"):
        api.export(shelf / "first", "safetensors", data=data, base=base)
    with pytest.raises(UserError, match="is an exported model, which holds no rows; give some with --data"):
        api.evaluate(shelf / "first", base=base)
    assert "no baseline and no overlap" in api.evaluate(shelf / "full", data)["verdict"]


# from the command line


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs of a recipe on different halves of its tickets."""
    from tiny import model_folder

    folder = tmp_path_factory.mktemp("work")
    model_folder("bert", folder / "tiny")
    words = ("the parcel is late", "money now please", "good morning kind shop")
    for half in range(2):
        lines = [f"{words[n % 3]} {n},{'abc'[n % 3]}" for n in range(half, 48, 2)]
        (folder / f"half{half}.csv").write_text("text,label\n" + "\n".join(lines) + "\n")
    settings = {"train": {"epochs": 1, "precision": "float32"}, "evaluate": {"baselines": False, "resamples": 100}}
    for half, method in ((0, "lora"), (1, "lora"), (0, "prompt"), (1, "prompt"), (0, "full")):
        values = {
            "model": str(folder / "tiny"),
            "task": {"kind": "classification"},
            "data": {"train": str(folder / f"half{half}.csv")},
            "method": {"kind": method},
            "seed": half,
            "deploy": {"verify": False},
            **settings,
        }
        api.run(values, folder=folder / "runs" / f"{method}{half}")
    return folder


def test_runs_are_merged_on_rows_of_the_first_and_judged_on_rows_that_are_given(
    work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(work)
    assert main(["merge", "runs/lora0", "runs/lora1", "--weights", "0.7,0.3", "--out", "merged"]) == 0
    said = capsys.readouterr().out
    assert "wrote merged (" in said
    assert "accuracy" not in said
    words = ["merge", "runs/lora0", "runs/lora1/artifact", "--how", "ties", "--density", "0.3", "--out", "ties"]
    assert main([*words, "--data", "half1.csv"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split("  ")[-1] == "accuracy on 24 rows, higher is better"
    assert [line.split()[0] for line in lines[1:4]] == ["lora0", "lora1", "ties"]
    assert all("[" in line for line in lines[1:4])
    assert main(["ask", "merged", "money now", "--base", "tiny", "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)["scores"]) == {"a", "b", "c"}
    assert main(["evaluate", "ties", "--base", "tiny", "--data", "half1.csv", "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert lines[3].split()[1] == f"{again['metrics']['accuracy']['value']:.3f}"
    assert main(["merge", "merged", "ties", "--base", "tiny", "--data", "half0.csv", "--json", "--out", "twice"]) == 0
    assert list(json.loads(capsys.readouterr().out)["scores"]) == ["merged", "ties", "twice"]


def test_adapters_of_one_name_are_told_apart_by_their_paths(
    shelf: Path, bases: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for place in ("x", "y"):
        shutil.copytree(shelf / "first", tmp_path / place / "first")
    given: dict[str, Any] = {"data": shelf / "rows.jsonl", "base": str(bases / "bert")}
    made = api.merge(["x/first", "y/first"], "out", **given)
    assert list(made.scores) == ["x/first", "y/first", "out"]
    assert list(api.merge(["x/first", "out"], "more/out", **given).scores) == ["x/first", "out", "more/out"]


def test_values_that_began_apart_are_said_to_have(
    work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(work)
    assert main(["merge", "runs/prompt0", "runs/prompt1", "--out", "prompts"]) == 0
    assert "note: their runs have different seeds (0, 1), so these values began apart" in capsys.readouterr().out
    assert "different seeds" in (work / "prompts" / "README.md").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["runs/lora0", "runs/full0"], "runs/full0: has no adapter: its weights were trained whole"),
        (["runs/lora0", "nowhere"], "nowhere: holds no run"),
        (["runs/lora0", "runs/lora1", "--weights", "0.7;0.3"], "--weights '0.7;0.3': is no list of numbers"),
    ],
)
def test_what_cannot_be_merged_ends_with_2(
    words: list[str], message: str, work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(work)
    assert main(["merge", *words, "--out", "never"]) == 2
    assert message in capsys.readouterr().err


def test_a_run_whose_rows_are_gone_says_what_to_give(work: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(work)
    (work / "half0.csv").rename(work / "away.csv")
    try:
        assert main(["merge", "runs/lora0", "runs/lora1", "--out", "never"]) == 2
    finally:
        (work / "away.csv").rename(work / "half0.csv")
    said = capsys.readouterr().err
    assert "runs/lora0: the rows of its run cannot be read (" in said
    assert "name rows with answers: --data FILE" in said
