"""The shipped data set keeps what its card promises."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parent.parent / "examples" / "support-desk"
TICKETS = {"tickets_a": 180, "tickets_b": 180, "tickets_hard": 84}
FIELDS = ["id", "channel", "text", "entities", "intent", "urgency", "summary", "reply"]
LABELS = {"ORDER", "PRODUCT", "DATE", "PERSON", "PLACE", "MONEY"}
CHANNELS = {"tickets_a": {"chat", "phone"}, "tickets_b": {"email", "review"}}


def rows(name: str) -> list[dict[str, Any]]:
    lines = (FOLDER / f"{name}.jsonl").read_bytes().decode("utf-8").split("\n")
    assert lines.pop() == "", "the last line is ended"
    return [json.loads(line) for line in lines]


def folded(text: str) -> str:
    return " ".join(text.casefold().split())


@pytest.mark.parametrize(("name", "count"), [*TICKETS.items(), ("handbook", 252)])
def test_a_file_holds_as_many_rows_as_its_card_says(name: str, count: int) -> None:
    assert len(rows(name)) == count
    assert f"| `{name}.jsonl` | {count} |" in (FOLDER / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", TICKETS)
def test_a_ticket_has_all_fields_and_known_values(name: str) -> None:
    for row in rows(name):
        assert list(row) == FIELDS
        assert row["urgency"] in (1, 2, 3, 4, 5)
        assert row["channel"] in CHANNELS.get(name, {"chat", "phone", "email", "review"})
        assert all(row[field].strip() for field in ("text", "summary", "reply"))


@pytest.mark.parametrize("name", TICKETS)
def test_the_twelve_intents_are_balanced(name: str) -> None:
    counts = Counter(row["intent"] for row in rows(name))
    assert len(counts) == 12
    assert set(counts.values()) == {TICKETS[name] // 12}


@pytest.mark.parametrize("name", TICKETS)
def test_spans_cut_whole_words_out_of_the_text_in_order_and_apart(name: str) -> None:
    for row in rows(name):
        text, end = row["text"], 0
        assert "[[" not in text
        assert "]]" not in text
        for span in row["entities"]:
            assert list(span) == ["start", "end", "label"]
            assert span["label"] in LABELS
            assert end <= span["start"] < span["end"] <= len(text)
            surface = text[span["start"] : span["end"]]
            assert surface == surface.strip()
            end = span["end"]


@pytest.mark.parametrize("name", TICKETS)
def test_spans_round_trip_through_marked_text(name: str) -> None:
    for row in rows(name):
        marked, at = "", 0
        for span in row["entities"]:
            surface = row["text"][span["start"] : span["end"]]
            marked += row["text"][at : span["start"]] + f"[[{span['label']}|{surface}]]"
            at = span["end"]
        marked += row["text"][at:]
        text, spans = "", []
        for part in marked.split("[["):
            inside, close, after = part.partition("]]")
            if not close:
                text += part
                continue
            label, _, surface = inside.partition("|")
            spans.append({"start": len(text), "end": len(text) + len(surface), "label": label})
            text += surface + after
        assert (text, spans) == (row["text"], row["entities"])


def test_spans_count_characters_not_bytes() -> None:
    spanned = {row["id"]: row for row in rows("tickets_hard")}
    after = [
        row
        for row in spanned.values()
        for span in row["entities"]
        if len(row["text"][: span["start"]]) != len(row["text"][: span["start"]].encode("utf-8"))
    ]
    assert after, "some span stands after a character of several bytes, so the round trip can tell the two apart"


def test_every_kind_of_entity_is_marked_in_every_file() -> None:
    for name in TICKETS:
        assert {span["label"] for row in rows(name) for span in row["entities"]} == LABELS


def test_an_order_number_without_words_looks_like_one() -> None:
    first = rows("tickets_a")[0]
    (span,) = first["entities"]
    assert first["text"] == "where is it?? FS-48790"
    assert span == {"start": 14, "end": 22, "label": "ORDER"}


def test_no_text_of_the_test_set_stands_among_the_training_texts() -> None:
    learned = [folded(row["text"]) for name in ("tickets_a", "tickets_b") for row in rows(name)]
    judged = [folded(row["text"]) for row in rows("tickets_hard")]
    assert len(set(learned)) == len(learned) == 360
    assert len(set(judged)) == len(judged) == 84
    assert set(learned) & set(judged) == set()


def test_ticket_ids_are_unique() -> None:
    ids = [row["id"] for name in TICKETS for row in rows(name)]
    assert len(set(ids)) == len(ids) == 444


def test_each_answer_stands_exactly_once_in_its_passage() -> None:
    questions = rows("handbook")
    assert all(list(row) == ["id", "title", "context", "question", "answers"] for row in questions)
    assert {row["context"].count(answer) for row in questions for answer in row["answers"]} == {1}
    assert sum(not row["answers"] for row in questions) == 72


def test_each_passage_has_seven_questions() -> None:
    passages = Counter(row["context"] for row in rows("handbook"))
    assert len(passages) == 36
    assert set(passages.values()) == {7}
