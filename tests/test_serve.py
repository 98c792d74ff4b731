"""The server answers like the library, stays within its bounds, and tells nothing it should not."""

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi.testclient import TestClient

from test_deploy import opened, parcel
from tunesmith.deploy import server
from tunesmith.deploy.export import export
from tunesmith.deploy.predictor import Predictor
from tunesmith.errors import UserError
from tunesmith.tasks import TASKS
from workshop import bench

KEY = "a secret that nobody guesses"


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    folder = tmp_path_factory.mktemp("serve")
    one = bench(folder / "bert", "bert", "classification", "full")
    export("safetensors", parcel(one, "classification"), folder / "artifact", verify=False)
    return opened(folder / "artifact", folder / "bert")


def running(predictor: Predictor, key: str | None = None) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = uvicorn.Config(server.create_app(predictor, key=key), host="127.0.0.1", port=port, log_level="error")
    service = uvicorn.Server(config)
    thread = threading.Thread(target=service.run)
    thread.start()
    deadline = time.monotonic() + 30
    while not service.started and time.monotonic() < deadline:
        time.sleep(0.02)
    yield f"http://127.0.0.1:{port}"
    service.should_exit = True
    thread.join(30)
    assert not thread.is_alive()


@pytest.fixture(scope="module")
def address(predictor: Predictor) -> Iterator[str]:
    yield from running(predictor)


@pytest.fixture(scope="module")
def guarded(predictor: Predictor) -> Iterator[str]:
    yield from running(predictor, KEY)


def ask(address: str, **given: Any) -> httpx.Response:
    return httpx.post(f"{address}/v1/predict", timeout=30, **given)


def test_answers_are_those_of_the_library_for_texts_and_rows(address: str, predictor: Predictor) -> None:
    texts = ["the lamp is broken", "thank you", "where is my parcel " * 20]
    found = ask(address, json={"inputs": [texts[0], {"text": texts[1]}, texts[2]]}).json()
    wanted = predictor.ask([{"text": text} for text in texts])
    assert [answer["value"] for answer in found["answers"]] == [answer.value for answer in wanted]
    for answer, right in zip(found["answers"], wanted, strict=True):
        assert answer["scores"] == pytest.approx(dict(right.scores), abs=1e-5)


def test_life_readiness_and_facts_are_told(address: str) -> None:
    assert httpx.get(f"{address}/live").json() == {"live": True}
    assert httpx.get(f"{address}/ready").json() == {"ready": True}
    facts = httpx.get(f"{address}/v1/info").json()
    assert (facts["columns"], facts["outputs"]) == (["text"], ["broken", "late", "thanks"])


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 422),
        (b"{", 422),
        (b"[]", 422),
        (b'{"inputs": []}', 422),
        (b'{"inputs": [""]}', 422),
        (b'{"inputs": ["   "]}', 422),
        (b'{"inputs": [1]}', 422),
        (b'{"inputs": [NaN]}', 422),
        (b'{"inputs": ["a"], "more": 1}', 422),
        (b'{"inputs": [{"other": "a"}]}', 422),
        (json.dumps({"inputs": ["a"] * 257}).encode(), 422),
        (json.dumps({"inputs": ["a" * 100_001]}).encode(), 422),
        (b'{"inputs": ["a\\u0000b"]}', 200),
        (b"[" * 100_000, 400),
        (b'{"inputs": ["\\ud800"]}', 422),
    ],
)
def test_what_is_out_of_bounds_is_refused_and_never_breaks_the_server(body: bytes, status: int, address: str) -> None:
    response = ask(address, content=body, headers={"content-type": "application/json"})
    assert response.status_code == status, response.text
    assert "Traceback" not in response.text
    assert "/" not in response.json().get("error", {}).get("message", ""), "no paths in errors"


def test_a_body_over_the_limit_is_refused_with_and_without_its_length(address: str) -> None:
    assert ask(address, content=b"x" * (server.MOST_BYTES + 1)).status_code == 413

    def stream() -> Iterator[bytes]:
        for _ in range(server.MOST_BYTES // 100_000 + 2):
            yield b"x" * 100_000

    with contextlib.suppress(httpx.WriteError):  # it may be refused before all of it was sent
        assert ask(address, content=stream()).status_code == 413
    assert httpx.get(f"{address}/live").status_code == 200


def test_without_the_key_every_path_but_the_probes_is_closed(guarded: str) -> None:
    for method, path in (("GET", "/v1/info"), ("POST", "/v1/predict"), ("GET", "/nothing"), ("GET", "/openapi.json")):
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Bearer {KEY}x"}):
            assert httpx.request(method, guarded + path, headers=headers).status_code == 401
        for wrong in (KEY, f"Basic {KEY}"):
            assert httpx.request(method, guarded + path, headers={"Authorization": wrong}).status_code == 401
    assert httpx.get(f"{guarded}/live").status_code == 200
    for scheme in ("Bearer", "bearer"):
        right = {"Authorization": f"{scheme} {KEY}"}
        assert httpx.get(f"{guarded}/v1/info", headers=right).status_code == 200


def test_a_full_queue_is_said_at_once(address: str, predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "WAITING", 0)
    response = ask(address, json={"inputs": ["a"]})
    assert (response.status_code, response.headers["retry-after"]) == (429, "1")


def test_an_open_address_needs_a_key(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(server.KEY_VARIABLE, raising=False)
    for host in ("0.0.0.0", "192.168.0.7", "example.org"):
        with pytest.raises(UserError, match="TUNESMITH_API_KEY"):
            server.serve(predictor, host=host, port=1)


def test_unknown_paths_and_methods_are_plain_refusals(address: str, tmp_path: Path) -> None:
    for path, status in (("docs", 404), ("openapi.json", 404), ("v1/predict", 405)):
        response = httpx.get(f"{address}/{path}")
        assert (response.status_code, set(response.json())) == (status, {"error"})
    assert httpx.get(f"{address}/v1/predict").headers["allow"] == "POST"
    broken = ask(address, content=b'{"inputs": ["\xff"]}', headers={"content-type": "application/json"})
    assert (broken.status_code, set(broken.json())) == (400, {"error"})


def test_what_was_not_read_of_a_text_is_told(address: str, predictor: Predictor) -> None:
    short, long = ask(address, json={"inputs": ["a lamp", "a lamp " * 2000]}).json()["answers"]
    assert short["cut"] == 0
    assert long["cut"] >= 4000 - predictor.max_tokens


def test_an_address_that_cannot_be_had_is_said_before_anything_is_promised(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port}: address already in use;"):
            server.serve(predictor, port=port, tell=told.append)
    monkeypatch.setenv(server.KEY_VARIABLE, KEY)
    for host in ("no.such.host.invalid", "x" * 70):
        with pytest.raises(UserError, match=f"--host {host}"):
            server.serve(predictor, host=host, tell=told.append)
    assert told == []


@pytest.mark.parametrize("kind", list(TASKS))
def test_a_first_row_is_found_for_every_task(kind: str) -> None:
    part = TASKS.load(kind)
    for specimen in part.specimens:
        task = part(**specimen.options)
        row = server.probe(task)
        assert row is not None
        task.read(row, with_target=False)


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Makes the predictor of a tiny model of each family and task once."""

    @cache
    def made(family: str, task: str) -> Predictor:
        folder = tmp_path_factory.mktemp(f"{family}-{task}")
        one = bench(folder / family, family, task, "full")
        export("safetensors", parcel(one, task), folder / "artifact", verify=False)
        return opened(folder / "artifact", folder / family)

    return made


@pytest.mark.parametrize(
    ("family", "task", "row"),
    [
        ("gpt2", "chat", {"messages": [{"role": "user", "content": "is my kettle broken"}]}),
        ("bart", "generation", {"source": "the kettle is broken"}),
        ("bert", "multiple_choice", {"question": "is it late", "choices": ["yes", "no", "never"]}),
        ("gpt2", "preference", {"prompt": "where is it", "chosen": "late", "rejected": "never"}),
        ("bert", "ner", {"said": "the red kettle is broken"}),
        ("roberta", "span_qa", {"question": "what is late", "context": "my order is late"}),
        ("gpt2", "language", {"text": "the lamp is late"}),
    ],
)
def test_every_task_is_served_and_answers_as_the_library_does(
    others: Any, family: str, task: str, row: dict[str, Any]
) -> None:
    predictor = others(family, task)
    (wanted,) = predictor.ask([row])
    with contextlib.contextmanager(running)(predictor) as place:
        response = ask(place, json={"inputs": [row]})
        facts = httpx.get(f"{place}/v1/info").json()
    assert response.status_code == 200, response.text
    (answer,) = response.json()["answers"]
    assert answer["value"] == pytest.approx(wanted.value) if task == "language" else answer["value"] == wanted.value
    assert answer["scores"] == pytest.approx(dict(wanted.scores))
    assert facts["columns"] == list(predictor.task.inputs)


@pytest.mark.parametrize(
    ("row", "status"),
    [
        ({"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}]}, 422),
        ({"messages": []}, 422),
        ({"messages": "hi"}, 422),
        ({"messages": {"role": "user"}}, 422),
        ({"messages": [{"role": "nobody", "content": "hi"}]}, 422),
        ({"messages": [{"role": "user", "content": "x" * 100_001}]}, 422),
        ({"messages": [{"role": "user", "content": "x"}] * 20_000}, 422),
        ({"messages": [[[[[[[[[[[[[["deep"]]]]]]]]]]]]]]}, 422),
        ({"messages": [{"role": "user", "content": "half \ud800"}]}, 422),
        ({"messages": [{"role": "user", "content": "hi", "weight": 1e999}]}, 422),
        ({"messages": None}, 422),
        ({}, 422),
    ],
    ids=range(12),
)
def test_a_conversation_is_bounded_and_never_breaks_the_server(others: Any, row: dict[str, Any], status: int) -> None:
    with TestClient(server.create_app(others("gpt2", "chat"))) as client:
        body = json.dumps({"inputs": [row]}).encode()
        response = client.post("/v1/predict", content=body, headers={"content-type": "application/json"})
    assert response.status_code == status, response.text
    assert set(response.json()) == {"error"}


def test_a_value_within_the_bounds_is_left_as_it_is() -> None:
    value = {
        "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}], "tool_calls": [{"a": {"b": 1}}]}]
    }
    assert server.bounded(value) is value
