"""What is lost by tuning: linear CKA is its definition, and a harmful run shows in every kind of probe."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer

from test_pipeline import Screen, house, lines, recipe, rows
from test_retain import journal, run_of
from tiny import model_folder
from tunesmith import api
from tunesmith.batch import encoded, padding_for
from tunesmith.errors import UserError
from tunesmith.evaluate.metrics import find
from tunesmith.forward import Inference, all_outputs
from tunesmith.recipe import recipe_from
from tunesmith.retain.drift import States, Texts, cka, drift, hidden_states
from tunesmith.run import Run
from tunesmith.tasks.language import Language
from workshop import bench, records_of

__all__ = ["house"]
GENTLE, HARMFUL = 5e-4, 1e-2
GENERAL = [f"the red lamp and the blue chair arrived {when}" for when in ("now", "late", "yesterday", "again")]


@pytest.fixture(scope="module")
def place(house: Path) -> Path:
    """The house with rows of before, general texts, and a base that came with a masked head and knows these."""
    model_folder("llama", house / "llama")
    lines(house / "old.jsonl", rows(30))
    lines(house / "general.jsonl", [{"text": text} for text in GENERAL * 3])
    read = {"train": str(house / "general.jsonl"), "validation": 0.0, "cache": False}
    train = {"epochs": 40, "learning_rate": 3e-3}
    (house / "masked").symlink_to(run_of(house, "reading", task={"kind": "language"}, data=read, train=train).artifact)
    return house


def tuned(place: Path, name: str, screen: Any = None, rate: float = GENTLE, **more: Any) -> Run:
    train = {"epochs": 2, "learning_rate": rate, **more.pop("train", {})}
    return run_of(place, name, screen, train=train, **more)


def by_definition(x: torch.Tensor, y: torch.Tensor) -> float:
    """Equation 5 of Song et al. 2012 for all three, as it is written: kernels with 0 on the diagonal."""
    a, b = ((part @ part.T).numpy() for part in (x, y))
    for kernel in (a, b):
        np.fill_diagonal(kernel, 0)

    def hsic(k: Any, m: Any) -> float:
        n, ones = len(k), np.ones(len(k))
        middle = (ones @ k @ ones) * (ones @ m @ ones) / ((n - 1) * (n - 2))
        return float(np.trace(k @ m) + middle - 2 / (n - 2) * (ones @ k @ m @ ones)) / (n * (n - 3))

    return hsic(a, b) / math.sqrt(hsic(a, a) * hsic(b, b))


def noise(tokens: int, width: int, seed: int) -> torch.Tensor:
    return torch.randn(tokens, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("tokens", "width"), [(40, 6), (6, 40)])
def test_cka_is_its_definition_also_where_some_tokens_are_left_out(tokens: int, width: int) -> None:
    x = noise(tokens, width, 1) + 3
    y = x + 0.5 * noise(tokens, width, 2)
    without = torch.zeros(tokens, 2, dtype=torch.bool)
    without[1, 1] = without[-1, 1] = True
    whole, less = cka(x, y, without).tolist()
    assert whole == pytest.approx(cka(x, y).item(), abs=1e-12)
    assert whole == pytest.approx(by_definition(x, y), abs=1e-10)
    assert less == pytest.approx(by_definition(x[~without[:, 1]], y[~without[:, 1]]), abs=1e-10)
    assert 0.3 < whole < 0.99


def test_cka_sees_neither_rotation_nor_scale_nor_shift() -> None:
    x = noise(50, 8, 1)
    turned, _ = torch.linalg.qr(noise(8, 8, 2))
    assert cka(x, 7 * x @ turned + 2).item() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize(("tokens", "width"), [(10, 64), (200, 64), (500, 8)])
def test_cka_of_states_that_have_nothing_in_common_is_0_on_average_however_few_they_are(
    tokens: int, width: int
) -> None:
    found = [cka(noise(tokens, width, 2 * n), noise(tokens, width, 2 * n + 1)).item() for n in range(60)]
    error = float(np.std(found)) / math.sqrt(len(found))
    assert abs(float(np.mean(found))) < 4 * error
    assert error < 0.05


def test_states_that_cannot_be_compared_have_no_cka() -> None:
    assert math.isnan(cka(noise(3, 8, 1), noise(3, 8, 2)).item()), "too few"
    assert math.isnan(cka(noise(9, 8, 1), torch.full((9, 8), 0.1)).item()), "all the same"


def test_the_limits_hold_the_value_of_many_tokens_as_often_as_they_say() -> None:
    """Texts of ten tokens that share something: they tell less than as many tokens of texts of their own would."""

    def states(texts: int, seed: int) -> tuple[States, States]:
        text = torch.arange(texts).repeat_interleave(10)
        x = 0.4 * noise(texts, 6, seed)[text] + 0.3 * noise(10 * texts, 6, seed + 1)
        y = x + 0.3 * noise(texts, 6, seed + 2)[text] + 0.5 * noise(10 * texts, 6, seed + 3)
        return States(x, text), States(y, text)

    wide = {"0": states(200, 1)}
    right = drift(*({name: pair[side] for name, pair in wide.items()} for side in (0, 1))).mean
    held, widths = 0, []
    for seed in range(10, 1010, 10):
        before, after = states(40, seed)
        found = drift({"0": before}, {"0": after}, 0.9)
        held += found.low <= right <= found.high
        widths.append(found.high - found.low)
    assert 80 <= held <= 99
    before, after = states(40, 10)
    sure = drift({"0": before}, {"0": after}, 0.99)
    assert sure.high - sure.low > widths[0]
    assert math.isnan(drift({"0": before}, {"0": after}).low), "none were wanted"


def test_one_text_tells_nothing_of_how_sure_a_value_is() -> None:
    text = torch.zeros(20, dtype=torch.long)
    found = drift({"0": States(noise(20, 4, 1), text)}, {"0": States(noise(20, 4, 2), text)}, 0.95)
    assert math.isfinite(found.mean)
    assert math.isnan(found.low)


@pytest.mark.parametrize(
    ("kind", "task", "layers"),
    [
        ("bert", "ner", ["0", "1", "2"]),
        ("llama", "generation", ["0", "1", "2"]),
        ("distilbert", "multiple_choice", ["0", "1", "2"]),
        ("t5", "generation", [f"{half} {number}" for half in ("encoder", "decoder") for number in range(3)]),
        ("bart", "classification", [f"{half} {number}" for half in ("encoder", "decoder") for number in range(3)]),
    ],
)
def test_hidden_states_are_those_of_the_rows_tokens_in_every_family(
    kind: str, task: str, layers: Sequence[str], tmp_path: Path
) -> None:
    one = bench(tmp_path / kind, kind, task, "full")
    texts = Texts(one.task, one.data, one.padding, torch.device("cpu"))
    found = hidden_states(one.adapted.model, texts)
    assert list(found) == layers
    first = found[layers[0]]
    lengths = torch.from_numpy(one.data.columns["input_ids"].lengths.astype("int64"))
    assert torch.equal(first.text, torch.arange(len(lengths)).repeat_interleave(lengths))
    assert len(first.values) == len(first.text)
    again = hidden_states(one.adapted.model, texts)
    assert all(torch.equal(again[name].values, states.values) for name, states in found.items())
    assert drift(found, again).layers == {name: pytest.approx(1) for name in layers}


def entries(run: Run) -> dict[str, Any]:
    return {entry["name"]: entry for entry in run.read_json("evaluation.json")["retention"]}


PROBES = [
    {"name": "states"},
    {"name": "elsewhere", "kind": "drift", "source": "general.jsonl"},
    {"name": "old rows", "kind": "own", "source": "old.jsonl"},
    {"name": "general text", "kind": "masked", "source": "general.jsonl"},
]


def probed(place: Path, *wanted: int, **more: Any) -> dict[str, Any]:
    probes = [
        {**PROBES[at], **({"source": str(place / PROBES[at]["source"])} if "source" in PROBES[at] else {})}
        for at in wanted
    ]
    return {"evaluate": {"resamples": 100, "probes": probes, **more}}


def test_a_harmful_run_is_seen_by_every_probe(place: Path) -> None:
    found = {}
    for name, rate in (("gentle", GENTLE), ("harmful", 20 * GENTLE)):
        screen = Screen()
        run = tuned(place, name, screen, rate, model=str(place / "masked"), **probed(place, 0, 1, 2, 3, probe_every=1))
        found[name] = entries(run)
        assert [name for name in found[name] if not any(line.startswith(f"{name}: ") for line in screen.said)] == []
    gentle, harmful = found["gentle"], found["harmful"]
    for name in ("states", "elsewhere"):
        assert 0 < gentle[name]["cka"] < 1
        assert 1 - harmful[name]["cka"] > 10 * (1 - gentle[name]["cka"])
        assert list(gentle[name]["layers"]) == ["0", "1", "2"]
        assert gentle[name]["lowest"] in gentle[name]["layers"]
        assert gentle[name]["low"] < gentle[name]["cka"] < gentle[name]["high"] <= 1
    change = {name: one["general text"]["metrics"]["perplexity"]["difference"] for name, one in found.items()}
    assert change["harmful"]["low"] > 0
    assert change["harmful"]["value"] > 2 * abs(change["gentle"]["value"])
    assert "before" not in gentle["old rows"]["metrics"]["accuracy"], "a new head knew nothing"
    assert gentle["old rows"]["rows"] == 30
    page = Run.open(place / "gentle").report.read_text()
    assert "What the model could do before" in page
    assert "what the model forgot" not in page
    marks = journal(Run.open(place / "gentle"), "evaluation")
    assert [list(event["retention"]) for event in marks] == [[probe["name"] for probe in PROBES]] * len(marks)
    last = marks[-1]["retention"]
    assert last["states"]["cka"] == pytest.approx(gentle["states"]["cka"], abs=0.2)


def test_what_the_masked_head_of_the_base_says_is_its_own_perplexity(place: Path) -> None:
    run = tuned(place, "masked-run", model=str(place / "masked"), **probed(place, 3))
    one = entries(run)["general text"]["metrics"]["perplexity"]
    model = AutoModelForMaskedLM.from_pretrained(place / "masked")
    assert one["before"]["value"] < 20
    with torch.no_grad():
        tuned_states = load(run)
        for name, parameter in model.named_parameters():
            if name in tuned_states:
                parameter.copy_(tuned_states[name])
    folder = place / "put-together"
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(place / "bert").save_pretrained(folder)
    untouched = {"train": {"max_steps": 0}, "model": str(folder), **probed(place, 3)}
    again = entries(tuned(place, "again", **untouched))["general text"]["metrics"]["perplexity"]
    assert again["before"]["value"] == pytest.approx(one["after"]["value"], rel=1e-4)


@pytest.mark.parametrize("method", ["lora", "adapter"])
def test_the_masked_head_is_put_behind_an_encoder_with_its_additions(method: str, place: Path) -> None:
    """Before, it is the base's own; after, it stands behind the encoder that was saved."""
    kind = {"kind": method, **({"rank": 8} if method == "lora" else {})}
    more = {"model": str(place / "masked"), "method": kind, "train": {"epochs": 6}, **probed(place, 3)}
    run = tuned(place, f"masked-{method}", rate=3 * HARMFUL, **more)
    one = entries(run)["general text"]["metrics"]["perplexity"]
    untouched = entries(
        tuned(place, "untouched", model=str(place / "masked"), train={"max_steps": 0}, **probed(place, 3))
    )
    before = untouched["general text"]["metrics"]["perplexity"]["after"]["value"]
    assert one["before"]["value"] == pytest.approx(before, rel=1e-5)
    assert abs(one["difference"]["value"]) > 0.01 * before
    predictor = api.open_predictor(run.folder)
    inner: Any = predictor.model.get_base_model()  # with its additions
    head: Any = AutoModelForMaskedLM.from_pretrained(place / "masked")
    head.bert = inner.bert
    head.tie_weights()
    task = Language()
    records = records_of(task, [{"text": text} for text in GENERAL * 3])
    data = encoded(task.encode(records, predictor.codec, predictor.max_tokens))
    padding = padding_for(task.columns(), predictor.codec.tokenizer.pad_token_id)
    outputs = all_outputs(head.eval(), task, data, padding, Inference(predictor.world)).outputs
    again = find("perplexity")(task.predictions(outputs, records))
    assert one["after"]["value"] == pytest.approx(again, rel=1e-4)


def load(run: Run) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(run.artifact / "model.safetensors")


def test_rows_that_the_base_can_answer_are_compared(place: Path) -> None:
    first = tuned(place, "first", rate=2e-3, train={"epochs": 8})
    old = tuned(place, "second", rate=HARMFUL, model=str(first.artifact), **probed(place, 2))
    entry = entries(old)["old rows"]["metrics"]["accuracy"]
    assert entry["before"]["value"] > 0.5
    gap = entry["after"]["value"] - entry["before"]["value"]
    assert entry["difference"]["value"] == pytest.approx(gap)


def test_general_texts_are_probed_as_often_as_one_likes(place: Path) -> None:
    probes = [{"name": name, "kind": "general", "source": str(place / "general.jsonl")} for name in "ab"]
    probes.append({"name": "states", "source": str(place / "general.jsonl")})
    evaluate = {"resamples": 100, "probes": probes, "probe_every": 2}
    more = {"evaluate": evaluate, "task": {"kind": "language"}, "method": "lora"}
    run = tuned(place, "texts", model=str(place / "llama"), **more)
    marks = journal(run, "evaluation")
    assert ["retention" in event for event in marks] == [False, True]
    found = entries(run)
    assert found["a"]["metrics"] == found["b"]["metrics"]
    assert found["a"]["metrics"]["perplexity"]["difference"]["value"] != 0
    assert found["states"]["cka"] < 1


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"model": "bert", "probes": [{"name": "a", "kind": "general", "source": "general.jsonl"}]}, "head of a lang"),
        ({"model": "llama", "probes": [{"name": "a", "kind": "masked", "source": "general.jsonl"}]}, "is no encoder"),
        (
            {
                "model": "bert",
                "method": "prefix",
                "probes": [{"name": "a", "kind": "masked", "source": "general.jsonl"}],
            },
            "cannot be put behind prompts or prefixes",
        ),
        ({"model": "bert", "probes": [{"name": "a", "kind": "masked", "source": "general.jsonl"}]}, "without a masked"),
        ({"model": "bert", "probes": [{"name": "a", "source": "nowhere.jsonl"}]}, "is not there"),
    ],
)
def test_a_probe_that_cannot_be_put_is_refused(more: dict[str, Any], message: str, place: Path, tmp_path: Path) -> None:
    wanted = {"model": str(place / more["model"]), "evaluate": {"probes": more["probes"]}}
    wanted |= {"method": more["method"]} if "method" in more else {}
    with pytest.raises(UserError, match=message):
        api.run(recipe(place, **wanted), folder=tmp_path / "run", base=place)


def test_a_base_without_a_masked_head_is_refused_before_its_weights_are_read(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(*given: Any, **more: Any) -> None:
        raise AssertionError("weights are read")

    monkeypatch.setattr("tunesmith.select.load._from_file", read)
    probes = [{"name": "a", "kind": "masked", "source": str(place / "general.jsonl")}]
    for name, reason in (("bert", UserError), ("masked", AssertionError)):
        with pytest.raises(reason, match="without a masked head" if reason is UserError else "weights are read"):
            api.run(recipe(place, model=str(place / name), evaluate={"probes": probes}), folder=tmp_path / name)


def test_a_stage_may_probe_the_masked_head_that_the_stage_before_made(place: Path, tmp_path: Path) -> None:
    probes = [{"name": "a", "kind": "masked", "source": str(place / "general.jsonl")}]
    few = {"max_steps": 2, "batch_size": 4}
    first = {"name": "texts", "task": {"kind": "language"}, "train": few}
    second = {"name": "labels", "task": {"kind": "classification"}, "train": few}
    second["evaluate"] = {"resamples": 100, "probes": probes}
    whole = {**recipe(place), "stages": [first, second]}
    run = api.run(
        {key: value for key, value in whole.items() if key not in ("task", "method")}, folder=tmp_path / "run"
    )
    assert entries(Run.open(run.folder / "stages/2-labels"))["a"]["metrics"]["perplexity"]["before"]["value"] > 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"probes": [{"name": "a"}, {"name": "a"}]}, "a name of its own"),
        ({"probes": [{"name": "a", "kind": "own"}]}, "needs rows of its own"),
        ({"probe_every": 2}, "there are no probes"),
    ],
)
def test_probes_that_say_too_little_are_refused(options: dict[str, Any], message: str, place: Path) -> None:
    with pytest.raises(UserError, match=message):
        recipe_from(recipe(place, evaluate=options))


def test_sources_of_probes_move_with_the_recipe(place: Path) -> None:
    whole = recipe(place, evaluate={"probes": [{"name": "a", "source": "general.jsonl"}]})
    moved = recipe_from(whole).moved(place, place / "deep" / "down")
    assert moved.evaluate.probes[0].source == "../../general.jsonl"
