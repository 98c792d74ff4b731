"""A small HTTP server for one or several models: typed JSON, bounded in every direction, closed by default."""

import asyncio
import hmac
import json
import math
import os
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from functools import partial
from ipaddress import ip_address
from typing import TYPE_CHECKING, Annotated, Any

from tunesmith.contracts import Task
from tunesmith.deploy.adapters import Adapters
from tunesmith.deploy.predictor import Predictor, Predictors
from tunesmith.errors import BadRow, MissingExtra, UserError, nearest, shown

try:
    from fastapi import FastAPI, Request
    from fastapi.exceptions import HTTPException, RequestValidationError
    from fastapi.responses import JSONResponse
    from pydantic import AfterValidator, BaseModel, ConfigDict, Field
except ModuleNotFoundError as missing:
    raise MissingExtra("tunesmith serve", "serve") from missing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

MOST_ROWS = 256
MOST_CHARACTERS = 100_000
MOST_BYTES = 8_000_000
WAITING = 16
"""Requests that may wait for the model; more are turned away at once."""
KEY_VARIABLE = "TUNESMITH_API_KEY"
OPEN_PATHS = ("/live", "/ready")
GRACE_SECONDS = 30
MOST_ENTRIES = 10_000
"""Values in one column of a row, all told."""
MOST_DEPTH = 12
"""Of lists and objects in each other; a message's tool call has its arguments at six."""
Text = Annotated[str, Field(min_length=1, max_length=MOST_CHARACTERS)]


def bounded(value: Any) -> Any:
    """`value` as it is. Raises ValueError for one that is too large or too deep, or that no tokenizer can read."""
    characters = entries = 0
    waiting: list[tuple[Any, int]] = [(value, 0)]
    while waiting:
        found, depth = waiting.pop()
        entries += 1
        if isinstance(found, str):
            characters += len(found)
            _whole(found)
        elif isinstance(found, float) and not math.isfinite(found):
            raise ValueError("a number is not finite")
        elif isinstance(found, dict | list):
            inside = [*found, *found.values()] if isinstance(found, dict) else found
            waiting += [(each, depth + 1) for each in inside]
        if depth > MOST_DEPTH:
            raise ValueError(f"lists and objects are nested more than {MOST_DEPTH} deep")
        if characters > MOST_CHARACTERS:
            raise ValueError(f"a column may hold {MOST_CHARACTERS} characters")
        if entries > MOST_ENTRIES:
            raise ValueError(f"a column may hold {MOST_ENTRIES} values")
    return value


def _whole(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("a text holds half a character") from None


Cell = Annotated[Any, AfterValidator(bounded)]


class Question(BaseModel):
    """Texts, or rows by column name, to be answered in order.

    A column holds what the task reads there: a text, a number, a list of texts, or a list of messages.
    """

    model_config = ConfigDict(extra="forbid")
    inputs: Annotated[list[Text | dict[Text, Cell]], Field(min_length=1, max_length=MOST_ROWS)]


class Answered(BaseModel):
    """value: a label, a list of labels, a number, numbers by target, a text, spans, or a span with its runners-up.

    scores: probability by label (of preferences: reward by reply). cut: how many tokens of the input were not read,
    because the model takes no more.
    """

    value: Any
    scores: dict[str, float]
    cut: int


class Answers(BaseModel):
    """One answer an input."""

    model: str
    answers: list[Answered]


def probe(task: Task) -> dict[str, Any] | None:
    """A row that the task can read, to be asked before the first caller is; None where no simple one is found.

    No two texts are alike, since there are tasks that compare them, and the last column may want a list.
    """
    texts = {column: f"ready {place}?" for place, column in enumerate(task.inputs)}
    for row in (texts, texts | {task.inputs[-1]: ["yes", "no"]}):
        with suppress(BadRow):
            task.read(row, with_target=False)
            return row
    return None


def _labels(task: Task) -> Any:
    """The names of a model's outputs; of several tasks, of each."""
    if task.parts:
        return {name: _labels(part) for name, part in task.parts.items()}
    return list(task.head().get("id2label", {}).values())


def create_app(models: Predictor | Predictors | Adapters, *, key: str | None = None) -> FastAPI:
    """The application. key: what callers must send as `Authorization: Bearer KEY`.

    /v1/info and /v1/predict are of a model that is served alone; /v1/models/NAME and /v1/models/NAME/predict of any.
    """
    engine = ThreadPoolExecutor(max_workers=1, thread_name_prefix="model")
    state = {"ready": False, "waiting": 0}
    served: dict[str, Predictor | Predictors] = {}
    asked: dict[str, Callable[[Sequence[Mapping[str, Any]]], Any]] = {}
    if isinstance(models, Adapters):
        served |= {name: models[name] for name in models.names}
        asked |= {name: partial(models.ask, name) for name in models.names}
    else:
        served[models.name], asked[models.name] = models, models.ask
    several = f"several models are served: {', '.join(served)}; ask /v1/models/NAME/predict"

    @asynccontextmanager
    async def life(app: FastAPI) -> "AsyncIterator[None]":
        for name, predictor in served.items():
            if (row := probe(predictor.task)) is not None:
                with suppress(UserError, BadRow):  # one that says no to a row answers, too
                    await asyncio.get_running_loop().run_in_executor(engine, asked[name], [row])
        state["ready"] = True
        yield
        state["ready"] = False
        engine.shutdown(wait=True, cancel_futures=True)

    app = FastAPI(title="tunesmith", docs_url=None, redoc_url=None, openapi_url=None, lifespan=life)
    app.add_middleware(_Gate, key=key)

    @app.exception_handler(RequestValidationError)
    async def wrong(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"] if part != "body")
        return _refusal(422, f"{place or 'body'}: {first['msg']}")

    @app.exception_handler(400)
    @app.exception_handler(404)
    @app.exception_handler(405)
    async def refused(request: Request, error: HTTPException) -> JSONResponse:
        return _refusal(error.status_code, error.detail, error.headers)

    @app.get("/live")
    async def live() -> dict[str, bool]:
        return {"live": True}

    @app.get("/ready")
    async def ready() -> JSONResponse:
        return JSONResponse({"ready": state["ready"]}, status_code=200 if state["ready"] else 503)

    @app.get("/v1/info")
    async def info() -> dict[str, Any]:
        told = [_facts(name, predictor) for name, predictor in served.items()]
        return {"models": told} if isinstance(models, Adapters) else told[0]

    @app.get("/v1/models")
    async def listed() -> dict[str, Any]:
        return {"models": [_facts(name, predictor) for name, predictor in served.items()]}

    @app.get("/v1/models/{name}")
    async def about(name: str) -> Any:
        return _facts(name, served[name]) if name in served else _refusal(404, _unknown(name, served))

    @app.post("/v1/predict", response_model=Answers)
    async def predict(question: Question) -> Any:
        return _refusal(404, several) if isinstance(models, Adapters) else await answered(models.name, question)

    @app.post("/v1/models/{name}/predict", response_model=Answers)
    async def predict_by(name: str, question: Question) -> Any:
        return await answered(name, question) if name in served else _refusal(404, _unknown(name, served))

    async def answered(name: str, question: Question) -> Any:
        if state["waiting"] >= WAITING:
            return _refusal(429, "the queue is full", {"Retry-After": "1"})
        predictor = served[name]
        rows: Sequence[dict[str, Any]] = [
            {predictor.task.inputs[0]: row} if isinstance(row, str) else row for row in question.inputs
        ]
        state["waiting"] += 1
        try:
            found = await asyncio.get_running_loop().run_in_executor(engine, asked[name], rows)
        except (UserError, BadRow) as error:
            return _refusal(422, str(error))
        finally:
            state["waiting"] -= 1
        answers = [{"value": answer.value, "scores": dict(answer.scores), "cut": answer.cut} for answer in found]
        return {"model": name, "answers": answers}

    return app


def _facts(name: str, predictor: Predictor | Predictors) -> dict[str, Any]:
    """What callers are told of a model."""
    return {
        "model": name,
        "columns": list(predictor.task.inputs),
        "outputs": _labels(predictor.task),
        "max_tokens": predictor.max_tokens,
    }


def _unknown(name: str, served: Mapping[str, Any]) -> str:
    return f"no model is called {shown(name)}; {nearest(name, served)}"


def serve(
    models: Predictor | Predictors | Adapters,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    tell: Callable[[str], None] | None = None,
) -> None:
    """Answers on host and port until a signal comes; requests that were accepted are finished first.

    port: 0 for any that is free. tell: is given the address once it is taken.
    Raises UserError for an address that is taken or unknown, and for one that others can reach without a key in
    TUNESMITH_API_KEY.
    """
    import uvicorn

    key = os.environ.get(KEY_VARIABLE) or None
    if key is None and not _is_loopback(host):
        raise UserError(f"--host {host}", "others could reach it", f"set a key in {KEY_VARIABLE}, or use 127.0.0.1")
    listener = _listen(host, port)
    if tell is not None:
        tell(f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}")
    config = uvicorn.Config(
        create_app(models, key=key),
        log_level="warning",
        limit_concurrency=4 * WAITING,
        timeout_keep_alive=10,
        timeout_graceful_shutdown=GRACE_SECONDS,
        h11_max_incomplete_event_size=16_384,
        server_header=False,
    )
    with listener, suppress(KeyboardInterrupt):  # which uvicorn raises again after its own tidy end
        uvicorn.Server(config).run(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, UnicodeError) as error:  # a name may be too odd even to be looked up
        why = (getattr(error, "strerror", None) or "no such address").partition(" (")[0]
        raise UserError(f"--host {host} --port {port}", why[0].lower() + why[1:], "choose another") from error


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _refusal(status: int, message: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"error": {"message": message}}, status_code=status, headers=headers)


Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class _Gate:
    """Turns away callers without the key and bodies that are too large, before anything reads them."""

    def __init__(self, app: Any, key: str | None) -> None:
        self.app, self.key = app, key

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        if self.key is not None and scope["path"] not in OPEN_PATHS and not self._knows(headers):
            await _send(send, 401, "the key is missing or wrong")
            return
        said = headers.get(b"content-length", b"0")
        if not said.isdigit() or int(said) > MOST_BYTES:
            await _send(send, 413, f"a body may have {MOST_BYTES} bytes")
            return
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > MOST_BYTES:
                await _send(send, 413, f"a body may have {MOST_BYTES} bytes")
                return
        whole: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Message:
            return whole.pop() if whole else await receive()

        await self.app(scope, replay, send)

    def _knows(self, headers: dict[bytes, bytes]) -> bool:
        scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
        return scheme.lower() == b"bearer" and hmac.compare_digest(given.strip(), (self.key or "").encode())


async def _send(send: Send, status: int, message: str) -> None:
    body = json.dumps({"error": {"message": message}}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
