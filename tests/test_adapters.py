"""Models side by side answer as each does alone, hold what they have in common once, and are asked from any thread."""

import json
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from fastapi.testclient import TestClient
from safetensors.torch import load_file

from test_deploy import opened
from test_merging import artefact
from tunesmith import api
from tunesmith.cli.app import main
from tunesmith.cli.serve import by_name
from tunesmith.contracts import parts_of
from tunesmith.deploy import server
from tunesmith.deploy.adapters import Adapters
from tunesmith.deploy.predictor import Predictor
from tunesmith.errors import UserError
from tunesmith.tasks import TASKS

ROWS = {"text": "the red kettle is late"}
KINDS: dict[str, tuple[str, str, str, dict[str, Any]]] = {
    "intent": ("bert", "classification", "lora", {}),
    "houlsby": ("bert", "classification", "adapter", {}),
    "beside": ("bert", "classification", "adapter", {"method": {"places": "parallel"}}),
    "stars": ("bert", "regression", "ia3", {}),
    "names": ("bert", "ner", "lora", {"method": {"targets": ["query"]}}),
    "asked": ("bert", "span_qa", "prompt", {}),
    "prefixed": ("bert", "classification", "prefix", {}),
    "turned": ("bert", "classification", "oft", {}),
    "gpt": ("gpt2", "generation", "lora", {}),
    "gpt_label": ("gpt2", "classification", "prompt", {}),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported adapter of each kind."""
    place = tmp_path_factory.mktemp("adapters")
    for name, (kind, task, method, more) in KINDS.items():
        artefact(place / name, place, kind, task, method, **more)
    return place


@pytest.fixture(scope="module")
def adapters(folder: Path) -> Adapters:
    return Adapters({name: partial(alone, folder, name) for name in KINDS})


def alone(folder: Path, name: str) -> Predictor:
    return opened(folder / name, folder / KINDS[name][0])


def rows_of(name: str) -> list[dict[str, Any]]:
    kind = TASKS.load(KINDS[name][1])
    specimen = kind.specimens[0]
    return [dict(row) for row in specimen.rows[:3]]


@pytest.mark.parametrize("name", KINDS)
def test_each_answers_as_it_does_alone_to_the_bit(name: str, adapters: Adapters, folder: Path) -> None:
    rows = rows_of(name)
    assert adapters.ask(name, rows) == alone(folder, name).ask(rows)


@pytest.mark.parametrize("name", KINDS)
def test_the_bases_weights_are_held_once(name: str, adapters: Adapters) -> None:
    first = "intent" if KINDS[name][0] == "bert" else "gpt"
    ours, theirs = adapters[first], adapters[name]
    assert isinstance(ours, Predictor)
    assert isinstance(theirs, Predictor)
    held = {parameter.data_ptr() for parameter in ours.model.parameters()}
    own = {key: p for key, p in theirs.model.named_parameters() if p.data_ptr() not in held}
    if name != first:
        markers = ("lora_", "bottleneck_", "ia3_", "oft_", "prompt_encoder", "modules_to_save", "original_module")
        heads = ("classifier", "qa_outputs", "score", "pooler")
        left = [key for key in own if not any(part in key for part in (*markers, *heads))]
        assert left == []
    assert len(held) > 20


def test_what_is_held_is_the_bases_once_and_what_each_adds(adapters: Adapters, folder: Path) -> None:
    separate = {name: sum(p.numel() for p in alone(folder, name).model.parameters()) for name in KINDS}
    assert adapters.parameters == sum(separate.values()) - adapters.shared
    bases = sum(held(folder / kind / "model.safetensors") for kind in ("bert", "gpt2"))
    files = sum(held(folder / name / "adapter_model.safetensors") for name in KINDS)
    drawn = 2 * files  # a head stands in the model as it was drawn and as it was trained
    assert bases + files <= adapters.parameters <= bases + drawn
    assert adapters.parameters < sum(separate.values()) / 3


def held(file: Path) -> int:
    return sum(tensor.numel() for tensor in load_file(file).values())


def test_adapters_are_asked_from_many_threads_by_name(adapters: Adapters) -> None:
    wanted = {name: adapters.ask(name, rows_of(name)) for name in KINDS}
    names = list(KINDS) * 6
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda name: adapters.ask(name, rows_of(name)), names))
    assert [found[place] == wanted[name] for place, name in enumerate(names)] == [True] * len(names)


def test_one_call_is_answered_at_a_time(adapters: Adapters, monkeypatch: pytest.MonkeyPatch) -> None:
    """State that a pass keeps in modules (a prompt's places, a parallel adapter's input) is never another's."""
    inside, most = 0, 0
    real = Predictor.ask

    def counted(self: Predictor, *given: Any) -> Any:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        answer = real(self, *given)
        inside -= 1
        return answer

    monkeypatch.setattr(Predictor, "ask", counted)
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda name: adapters.ask(name, rows_of(name)), ["beside", "asked"] * 6))
    assert (inside, most) == (0, 1)


def test_weights_that_differ_are_not_shared(folder: Path) -> None:
    """Two bases side by side: each answers as it does alone."""

    def other() -> Predictor:
        found = alone(folder, "houlsby")
        with torch.no_grad():
            for parameter in found.model.parameters():
                parameter.add_(0.01)
        return found

    both = Adapters({"intent": partial(alone, folder, "intent"), "moved": other})
    assert both.ask("moved", [ROWS]) == other().ask([ROWS])
    assert both.ask("intent", [ROWS]) == alone(folder, "intent").ask([ROWS])


def test_a_name_that_none_has_is_said(adapters: Adapters) -> None:
    with pytest.raises(UserError, match=r"model 'intend': is not here; did you mean 'intent'\?"):
        adapters.ask("intend", [ROWS])


# over HTTP


def test_all_are_served_at_one_address_by_name(adapters: Adapters) -> None:
    with TestClient(server.create_app(adapters)) as client:
        listed = client.get("/v1/models").json()["models"]
        assert [one["model"] for one in listed] == list(KINDS)
        assert client.get("/v1/info").json() == {"models": listed}
        assert client.get("/v1/models/stars").json() == next(one for one in listed if one["model"] == "stars")
        for name in ("intent", "names", "asked", "gpt"):
            inputs = [{column: row[column] for column in adapters[name].task.inputs} for row in rows_of(name)]
            found = client.post(f"/v1/models/{name}/predict", json={"inputs": inputs}).json()
            assert found["model"] == name
            wanted = adapters.ask(name, inputs)
            assert [answer["value"] for answer in found["answers"]] == json.loads(
                json.dumps([answer.value for answer in wanted])
            )
        response = client.post("/v1/models/intend/predict", json={"inputs": ["a"]})
        assert (response.status_code, response.json()["error"]["message"]) == (
            404,
            "no model is called 'intend'; did you mean 'intent'?",
        )
        response = client.post("/v1/predict", json={"inputs": ["a"]})
        assert response.status_code == 404
        assert "several models are served: intent, houlsby" in response.json()["error"]["message"]
        assert client.get("/v1/models/none").status_code == 404


def test_one_model_has_the_same_routes_and_its_own(folder: Path) -> None:
    predictor = alone(folder, "intent")
    with TestClient(server.create_app(predictor)) as client:
        facts = client.get("/v1/info").json()
        assert client.get("/v1/models").json() == {"models": [facts]}
        assert client.get("/v1/models/intent").json() == facts
        body = {"inputs": ["the lamp is late"]}
        assert (
            client.post("/v1/models/intent/predict", json=body).json() == client.post("/v1/predict", json=body).json()
        )


def test_every_route_of_a_name_needs_the_key(adapters: Adapters) -> None:
    with TestClient(server.create_app(adapters, key="secret")) as client:
        assert client.get("/v1/models").status_code == 401
        assert client.post("/v1/models/intent/predict", json={"inputs": ["a"]}).status_code == 401
        assert client.get("/v1/models", headers={"Authorization": "Bearer secret"}).status_code == 200


def test_folders_are_called_by_their_names_or_by_those_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b", "c=d", "two words"):
        Path(name).mkdir()
    assert by_name(["a", "x=b"]) == {"a": Path("a"), "x": Path("b")}
    assert by_name(["c=d"]) == {"c=d": Path("c=d")}
    assert by_name(["two words"]) == {"two words": Path("two words")}
    for runs, message in (
        (["a", "a"], "'a': is called 'a', as another is; name it otherwise: NAME=RUN"),
        (["a", "two words"], "'two words': would be called 'two words', which no address can hold"),
        (["a/b=c"], "'a/b=c': would be called 'a/b', which no address can hold"),
    ):
        with pytest.raises(UserError) as error:
            by_name(runs)
        assert str(error.value).startswith(message)


def test_the_command_serves_one_model_as_before_and_several_by_name(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made: list[Any] = []

    def serve(models: Any, *, tell: Any, **_: Any) -> None:
        made.append(models)
        tell("http://127.0.0.1:1")

    monkeypatch.setattr(server, "serve", serve)
    monkeypatch.chdir(folder)
    assert main(["serve", "intent", "--base", "bert"]) == 0
    assert "answering on http://127.0.0.1:1/v1/predict;" in capsys.readouterr().err
    assert main(["serve", "intent", "rate=stars", "--base", "bert"]) == 0
    assert "answering on http://127.0.0.1:1/v1/models/intent/predict;" in capsys.readouterr().err
    assert isinstance(made[0], Predictor)
    assert made[1].names == ("intent", "rate")
    assert main(["serve", "rate=stars", "--base", "bert"]) == 0
    assert made[2].names == ("rate",)
    assert main(["serve", "intent", "nowhere"]) == 2
    assert "nowhere: holds no run" in capsys.readouterr().err


def test_the_api_opens_several_and_asks_one(folder: Path) -> None:
    both = api.open_adapters({"intent": folder / "intent", "stars": folder / "stars"}, base=str(folder / "bert"))
    (answer,) = api.ask(both["stars"], ["the lamp is late"])
    assert (answer,) == tuple(both.ask("stars", [{parts_of(both["stars"].task)[""].inputs[0]: "the lamp is late"}]))
    with pytest.raises(UserError, match="nowhere: holds no run"):
        api.open_adapters({"intent": folder / "intent", "nowhere": folder / "nowhere"}, base=str(folder / "bert"))
