"""What is lost by tuning: linear CKA is its definition, and a harmful run shows in every kind of probe."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer

from test_pipeline import Screen, lines, recipe, rows
from tiny import model_folder
from tunesmith import api
from tunesmith.errors import UserError
from tunesmith.recipe import recipe_from
from tunesmith.retain.drift import Texts, cka, hidden_states
from tunesmith.run import Run
from workshop import bench

GENTLE, HARMFUL = 5e-4, 1e-2
GENERAL = [f"the red lamp and the blue chair arrived {when}" for when in ("now", "late", "yesterday", "again")]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tiny models, of which one has a masked head, and rows."""
    folder = tmp_path_factory.mktemp("place")
    for kind in ("bert", "llama"):
        model_folder(kind, folder / kind)
    lines(folder / "rows.jsonl", rows(48))
    lines(folder / "old.jsonl", rows(30))
    lines(folder / "general.jsonl", [{"text": text} for text in GENERAL * 3])
    # A base that came with a masked head, and knows the general texts.
    read = {"train": str(folder / "general.jsonl"), "validation": 0.0, "cache": False}
    train = {"epochs": 40, "batch_size": 4, "learning_rate": 3e-3, "precision": "float32"}
    masked = recipe(folder, task={"kind": "language"}, data=read, train=train)
    (folder / "masked").symlink_to(api.run(masked, folder=folder / "reading").artifact)
    return folder


def tuned(place: Path, name: str, screen: Any = None, rate: float = GENTLE, **more: Any) -> Run:
    train = {"epochs": 2, "batch_size": 4, "learning_rate": rate, "precision": "float32", **more.pop("train", {})}
    return api.run(recipe(place, train=train, **more), folder=place / name, screen=screen)


def by_definition(x: torch.Tensor, y: torch.Tensor) -> float:
    """HSIC of the Gram matrices, centred by the matrix that does it."""
    centre = np.eye(len(x)) - 1 / len(x)
    a, b = (centre @ (part @ part.T).numpy() @ centre for part in (x, y))
    return float(np.trace(a @ b) / np.sqrt(np.trace(a @ a) * np.trace(b @ b)))


@pytest.mark.parametrize(("tokens", "width"), [(40, 6), (6, 40)])
def test_cka_is_its_definition_whichever_matrix_is_smaller(tokens: int, width: int) -> None:
    chance = torch.Generator().manual_seed(1)
    x = torch.randn(tokens, width, generator=chance, dtype=torch.float64) + 3
    y = x + 0.5 * torch.randn(tokens, width, generator=chance, dtype=torch.float64)
    assert cka(x, y) == pytest.approx(by_definition(x, y), abs=1e-12)
    assert 0.3 < cka(x, y) < 0.99


def test_cka_sees_neither_rotation_nor_scale_nor_shift() -> None:
    chance = torch.Generator().manual_seed(1)
    x = torch.randn(50, 8, generator=chance, dtype=torch.float64)
    turned, _ = torch.linalg.qr(torch.randn(8, 8, generator=chance, dtype=torch.float64))
    assert cka(x, 7 * x @ turned + 2) == pytest.approx(1, abs=1e-12)
    other = torch.randn(5000, 8, generator=chance, dtype=torch.float64)
    assert cka(other, torch.randn(5000, 8, generator=chance, dtype=torch.float64)) < 0.01


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
    assert len(first) == int(one.data.columns["input_ids"].lengths.sum())
    again = hidden_states(one.adapted.model, texts)
    assert all(torch.equal(again[name], states) for name, states in found.items())
    assert all(cka(states, again[name]) == pytest.approx(1) for name, states in found.items())


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
    for drift in ("states", "elsewhere"):
        assert 0 < gentle[drift]["cka"] < 1
        assert 1 - harmful[drift]["cka"] > 10 * (1 - gentle[drift]["cka"])
        assert list(gentle[drift]["layers"]) == ["0", "1", "2"]
        assert gentle[drift]["lowest"] in gentle[drift]["layers"]
    change = {name: one["general text"]["metrics"]["perplexity"]["difference"] for name, one in found.items()}
    assert change["harmful"]["low"] > 0
    assert change["harmful"]["value"] > 2 * abs(change["gentle"]["value"])
    assert "before" not in gentle["old rows"]["metrics"]["accuracy"], "a new head knew nothing"
    assert gentle["old rows"]["rows"] == 30
    page = Run.open(place / "gentle").report.read_text()
    assert "What the model could do before" in page
    assert "what the model forgot" not in page
    journal = [json.loads(line) for line in Run.open(place / "gentle").journal.read_text().splitlines()]
    marks = [event for event in journal if event["event"] == "evaluation"]
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
    marks = [event for event in map(json.loads, run.journal.read_text().splitlines()) if event["event"] == "evaluation"]
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
