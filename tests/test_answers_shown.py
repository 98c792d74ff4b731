"""Every kind of answer, and every kind of row, can be looked at from the command line."""

import json
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from test_deploy import parcel
from tunesmith import api
from tunesmith.cli.answers import answer_lines, answer_text, shown_row
from tunesmith.cli.app import main
from tunesmith.contracts import Codec, Record
from tunesmith.deploy.export import export
from tunesmith.report.row import row_view
from workshop import Bench, bench

SPANS = [
    {"label": "WHO", "start": 0, "end": 3, "text": "Ada", "score": 0.98},
    {"label": "WHERE", "start": 7, "end": 12, "text": "Paris", "score": 0.5},
]
HI = [{"role": "user", "content": "where is my parcel"}]


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal without colours."""
    for name in ("FORCE_COLOR", "CLICOLOR_FORCE", "PY_COLORS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """Makes an artefact of a tiny model of each family and task once."""

    @cache
    def artifact(family: str, task: str) -> Path:
        folder = tmp_path_factory.mktemp(f"{family}-{task}")
        one = bench(folder / family, family, task, "full")
        export("safetensors", parcel(one, task), folder / "artifact", verify=False)
        return folder / "artifact"

    return artifact


@pytest.mark.parametrize(
    ("value", "scores", "line"),
    [
        ("late", {"late": 0.75, "broken": 0.2, "thanks": 0.05}, "late 0.75  broken 0.20"),
        (["late", "broken"], {"late": 0.75, "broken": 0.6, "thanks": 0.1}, "late 0.75, broken 0.60"),
        ([], {"late": 0.1}, "no label"),
        ([], {}, "no entity"),
        (SPANS, {}, "WHO: Ada 0.98, WHERE: Paris 0.50"),
        ({"text": "Ada", "start": 0, "end": 3, "probability": 0.8, "others": []}, {}, "Ada 0.80"),
        ({"text": "", "start": None, "end": None, "probability": 0.9, "others": []}, {}, "no answer 0.90"),
        ("rejected", {"chosen": -1.25, "rejected": 0.5}, "rejected 0.50  chosen -1.25"),
        ({"perplexity": 12.3456}, {}, "perplexity 12.35"),
        (3.14159, {}, "3.142"),
        ({"stars": 4.5, "days": 2.0}, {}, "stars 4.5, days 2"),
    ],
)
def test_each_kind_of_answer_is_one_line(value: Any, scores: Mapping[str, float], line: str) -> None:
    assert answer_text(value, scores, 2) == line
    assert answer_lines("a text", value, scores, 2, alone=True) == [f"{line}  |  a text"]


def test_a_written_text_is_shown_in_full_below_what_was_asked() -> None:
    text = "a long line " * 40 + "\nand another"
    assert answer_lines("why", text, {}, 3, alone=True) == text.splitlines()
    assert answer_lines("why", text, {}, 3, alone=False) == ["> why", *text.splitlines(), ""]
    assert answer_lines("why", "", {}, 3, alone=True) == [""]


def test_of_a_conversation_the_last_turn_is_shown() -> None:
    assert shown_row({"messages": [{"role": "user", "content": "one"}, {"role": "user", "content": "two"}]}) == "two"
    assert shown_row({"a": "b"}) == '{"a": "b"}'
    assert shown_row("x" * 100) == "x" * 79 + "…"


def asked(capsys: pytest.CaptureFixture[str], folder: Path, *rows: str) -> list[dict[str, Any]]:
    """The answers to rows on the command line, after the plain form was printed without an error."""
    assert main(["ask", str(folder), *rows]) == 0
    assert capsys.readouterr().out
    assert main(["ask", str(folder), *rows, "--json"]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_chat_takes_a_text_a_list_of_messages_or_a_row_that_holds_one(
    ready: Callable[[str, str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = ready("gpt2", "chat")
    rows = [HI[0]["content"], json.dumps(HI), json.dumps({"messages": HI})]
    found = asked(capsys, folder, *rows)
    assert len({answer["value"] for answer in found}) == 1, "three ways to say the same"
    wanted = [answer.value for answer in api.ask(folder, [HI[0]["content"], HI, {"messages": HI}])]
    assert [answer["value"] for answer in found] == wanted
    assert main(["ask", str(folder), rows[0]]) == 0
    assert capsys.readouterr().out.splitlines() == (wanted[0].splitlines() or [""])


def test_a_text_in_brackets_is_a_user_turn(
    ready: Callable[[str, str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    found = asked(capsys, ready("gpt2", "chat"), "[1, 2]", '{"other": 1}')
    assert [answer["input"] for answer in found] == ["[1, 2]", '{"other": 1}']


def test_rows_of_several_columns_are_typed_as_lists_or_objects(
    ready: Callable[[str, str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    question, context = "what is broken", "the red kettle is broken"
    rows = [json.dumps([question, context]), json.dumps({"question": question, "context": context})]
    first, second = asked(capsys, ready("bert", "span_qa"), *rows)
    assert first["value"] == second["value"]
    assert first["value"]["text"] in context
    (choice,) = asked(capsys, ready("bert", "multiple_choice"), json.dumps(["is it late", ["yes", "no"]]))
    assert choice["value"] in ("yes", "no")
    assert set(choice["scores"]) == {"yes", "no"}


@pytest.mark.parametrize(
    ("family", "task", "row"),
    [
        ("bert", "ner", "the red kettle is broken"),
        ("bart", "generation", "my order never arrived"),
        ("gpt2", "preference", '["where is my parcel", "thank you", "never"]'),
        ("roberta", "language", "the lamp is late"),
    ],
)
def test_every_task_answers_on_the_command_line(
    family: str, task: str, row: str, ready: Callable[[str, str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    (answer,) = asked(capsys, ready(family, task), row)
    assert set(answer) == {"input", "value", "scores", "cut"}


def record(one: Bench, row: Mapping[str, Any]) -> Record:
    return Record(0, "rows", 1, *one.task.read(row))


def codec(one: Bench) -> Codec:
    return one.foundation.codec


def viewed(tmp_path: Path, family: str, task: str, row: int = 1, **more: Any) -> dict[str, Any]:
    """A specimen's row as the model sees it, which JSON can hold."""
    one = bench(tmp_path / family, family, task, "full", **more)
    view = row_view(one.task, one.records[row], codec(one), 64)
    json.dumps(view, default=str)
    return view


def marked(view: Mapping[str, Any], part: int = 0) -> list[str]:
    return [token["text"] for token in view["sequences"][part]["tokens"] if token["learned"]]


def test_a_decoder_has_its_mark_at_the_token_that_is_learned(tmp_path: Path) -> None:
    one = bench(tmp_path / "gpt2", "gpt2", "generation", "full")
    view = row_view(one.task, record(one, {"source": "my order never arrived", "target": "order late"}), codec(one), 64)
    tokens = [token["text"] for token in view["sequences"][0]["tokens"]]
    assert marked(view) == tokens[-3:] == ["Ġorder", "Ġlate", "<|endoftext|>"]
    assert view["learned"] == 3


def test_only_replies_are_learned_of_a_conversation_with_their_weights(tmp_path: Path) -> None:
    one = bench(tmp_path / "gpt2", "gpt2", "chat", "full")
    texts = ("cancel my order", "good morning", "never again", "now")
    turns: list[dict[str, Any]] = [
        {"role": role, "content": text} for role, text in zip(("user", "assistant") * 2, texts, strict=True)
    ]
    view = row_view(one.task, record(one, {"messages": turns}), codec(one), 64)
    assert marked(view) == ["Ġgood", "Ġmorning", "<|endoftext|>", "Ġnow", "<|endoftext|>"]
    assert (view["learned"], view["weight"]) == (5, 5)
    turns[1]["weight"] = 0
    muted = row_view(one.task, record(one, {"messages": turns}), codec(one), 64)
    assert marked(muted) == ["Ġnow", "<|endoftext|>"]


def test_an_encoder_decoder_has_a_source_and_a_target(tmp_path: Path) -> None:
    one = bench(tmp_path / "bart", "bart", "generation", "full")
    view = row_view(one.task, record(one, {"source": "my order never arrived", "target": "order late"}), codec(one), 64)
    assert [sequence["part"] for sequence in view["sequences"]] == ["source", "target"]
    assert marked(view) == []
    assert marked(view, 1) == ["<s>", "Ġorder", "Ġlate", "</s>"]


def test_tags_places_and_hidden_words_are_told(tmp_path: Path) -> None:
    view = viewed(tmp_path / "a", "bert", "ner", row=0)
    tags = {token["text"]: token.get("tag") for token in view["sequences"][0]["tokens"]}
    assert (tags["[CLS]"], tags["the"], tags["red"], tags["kettle"]) == (None, "O", "B-THING", "I-THING")
    view = viewed(tmp_path / "b", "bert", "span_qa")
    tokens = view["sequences"][0]["tokens"]
    assert [token["text"] for token in tokens if token.get("start") or token.get("end")] == ["my", "order"]
    view = viewed(tmp_path / "c", "bert", "language")
    hidden = [token for token in view["sequences"][0]["tokens"] if token["learned"]]
    assert view["learned"] == len(hidden) > 0
    assert all(token["was"] for token in hidden)
    again = viewed(tmp_path / "c", "bert", "language")
    assert again == view, "what is drawn is drawn the same way"


def test_windows_and_the_sequences_of_a_row_follow_one_another(tmp_path: Path) -> None:
    view = viewed(tmp_path / "a", "bert", "ner", row=2, specimen=1)
    assert [sequence["part"] for sequence in view["sequences"]][:1] == [f"part 1 of {len(view['sequences'])}"]
    view = viewed(tmp_path / "b", "gpt2", "multiple_choice")
    assert [sequence["part"] for sequence in view["sequences"]] == [f"sequence {n} of 3" for n in (1, 2, 3)]
    assert view["sequences"][0]["targets"] == {"right": [2]}
    assert [marked(view, part) for part in range(3)] == [["Ġcancel"], ["Ġmy", "Ġorder"], ["Ġthank", "Ġyou"]]


def test_a_row_that_is_not_learned_from_says_why(tmp_path: Path) -> None:
    one = bench(tmp_path / "gpt2", "gpt2", "generation", "full")
    view = row_view(one.task, record(one, {"source": "the kettle", "target": "late " * 100}), codec(one), 16)
    assert (view["refused"], view["sequences"]) == ("reply_too_long", [])


def test_learned_tokens_are_green_on_a_terminal_and_starred_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bench(tmp_path / "gpt2", "gpt2", "generation", "full")
    (tmp_path / "rows.jsonl").write_text('{"source": "my order never arrived", "target": "order late"}\n' * 2)
    recipe = {
        "model": "gpt2",
        "task": {"kind": "generation"},
        "data": {"train": "rows.jsonl", "validation": 0, "test": 0},
    }
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    monkeypatch.chdir(tmp_path)
    assert main(["show", "recipe.yaml", "--row", "0"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[-1] for line in lines if line.startswith("*")] == ["Ġorder", "Ġlate", "<|endoftext|>"]
    assert any(line.endswith("tokens, 3 of them learned") for line in lines)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    assert main(["show", "recipe.yaml", "--row", "0"]) == 0
    assert "\x1b[32m*" in capsys.readouterr().out


def test_doctor_tries_the_chat_template_of_a_model_that_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bench(tmp_path / "gpt2", "gpt2", "chat", "full")
    bench(tmp_path / "bert", "bert", "ner", "full")
    monkeypatch.chdir(tmp_path)
    assert main(["doctor", "./gpt2"]) == 0
    assert "chat template" in capsys.readouterr().out
    assert main(["doctor", "./gpt2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["template"]
    assert {one["level"] for one in found} == {"ok", "warning"}
    assert found[0]["name"] == "template"
    assert main(["doctor", "./bert", "--json"]) == 0
    assert "template" not in json.loads(capsys.readouterr().out)
    (tmp_path / "gpt2" / "chat_template.jinja").write_text("{% for m in messages %}{{ m.nothing.here }}{% endfor %}")
    assert main(["doctor", "./gpt2", "--json"]) == 2
    assert "error" in {one["level"] for one in json.loads(capsys.readouterr().out)["template"]}
