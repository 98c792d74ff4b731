"""CoNLL columns and SQuAD documents, read into rows; what is broken is told where it lies."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.prepare.conll import is_squad, read_conll, read_squad
from tunesmith.prepare.sources import RawRow


def rows(text: str | bytes, **options: Any) -> list[RawRow]:
    data = text.encode() if isinstance(text, str) else text
    return list(read_conll(data.splitlines(keepends=True), "a.conll", **options))


def row(line: int, tokens: str, tags: str, **comments: str) -> RawRow:
    return RawRow("a.conll", line, {**comments, "tokens": tokens.split(), "tags": tags.split()})


def test_a_sentence_is_a_row_with_the_line_of_its_first_word() -> None:
    text = "-DOCSTART- -X- O O\n\nEU NNP I-NP I-ORG\nrejects VBZ I-VP O\n\n\nPeter NNP I-NP I-PER\n"
    assert rows(text) == [row(3, "EU rejects", "I-ORG O"), row(7, "Peter", "I-PER")]


def test_a_new_document_ends_a_sentence_even_without_a_blank_line() -> None:
    assert rows("a O\n-DOCSTART- O\nb O\n") == [row(1, "a", "O"), row(3, "b", "O")]


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("blank", ["", "  ", "\t"])
@pytest.mark.parametrize("between", ["\t", " ", "  "])
def test_line_ends_blank_lines_and_blanks_between_columns_may_be_any(ending: str, blank: str, between: str) -> None:
    lines = [f"a{between}B-X", f"b{between}I-X", blank, f"c{between}O"]
    assert rows("\ufeff" + ending.join(lines)) == [row(1, "a b", "B-X I-X"), row(4, "c", "O")]


def test_words_between_tabs_may_hold_blanks() -> None:
    assert [row.fields["tokens"] for row in rows("New York\tB-LOC\n10\u00a0000\tO\n")] == [["New York", "10\u00a0000"]]


def test_blanks_of_other_kinds_divide_no_columns() -> None:
    assert [row.fields["tokens"] for row in rows("10\u00a0000 O\n")] == [["10\u00a0000"]]


def test_comments_above_a_sentence_become_fields_of_its_row() -> None:
    text = "# intent = weather/find\n# text: Rain today?\n# newdoc\nRain\tB-attribute\ntoday\tB-datetime\n"
    assert rows(text) == [row(4, "Rain today", "B-attribute B-datetime", intent="weather/find", text="Rain today?")]


def test_a_comment_takes_the_place_of_no_column() -> None:
    assert rows("# tokens = none\na O\n") == [row(2, "a", "O")]


def test_a_word_may_be_a_number_sign() -> None:
    assert rows("# O\n1 O\n\nsong O\n# O\n") == [row(1, "# 1", "O O"), row(4, "song #", "O O")]


def test_columns_that_count_the_words_are_passed_over() -> None:
    text = "#\thttp://a.example\t[2009]\n1\tSchartau\tB-PER\tO\n2\tsagte\tO\tO\n\n1\tJa\tO\tO\n"
    assert rows(text, tag=2) == [row(2, "Schartau sagte", "B-PER O"), row(5, "Ja", "O")]
    assert rows("1 B-NUM\n2 O\n") == [row(1, "1 2", "B-NUM O")]  # there must be another column for the words


def test_columns_can_be_named_by_number() -> None:
    assert rows("x EU B-ORG z\n", token=1, tag=2) == [row(1, "EU", "B-ORG")]


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ("a x O\nb O\nc x O\n\nd x O\n", 2, "found 2 columns, expected a word, its tag, 3 columns in all"),
        ("a x O\nb\nc x O\n\nd x O\n", 2, "found 1 column, expected a word, its tag, 3 columns in all"),
        ("a\tx\tO\n\tx\tO\n\nd\tx\tO\n", 2, "found 3 columns, expected a word, its tag, 3 columns in all"),
        (b"a x O\n\xff x O\n\nd x O\n", 2, "byte 1 is not UTF-8"),
        ("a x O\nb\0 x O\n\nd x O\n", 2, "holds a NUL character"),
    ],
)
def test_a_broken_line_is_told_and_costs_its_sentence_alone(text: str | bytes, line: int, problem: str) -> None:
    broken, whole = rows(text)
    assert (broken.line, broken.fields) == (line, {})
    assert broken.problem is not None
    assert broken.problem.startswith(problem)
    assert (whole.problem, whole.fields["tags"]) == (None, ["O"])


def test_a_file_without_tags_has_no_row_that_can_be_used() -> None:
    found = rows("a line of prose\n\nanother\n")
    assert [row.problem is None for row in found] == [True, False]  # the first could be columns
    assert [row.problem for row in rows("prose\n")] == ["found 1 column, expected a word, its tag, 2 columns in all"]


def test_an_empty_file_has_no_rows() -> None:
    assert rows("") == rows("\n\n") == rows("# only = a comment\n") == []


WORDS = st.text(st.sampled_from("aB#é🙂你1-"), min_size=1, max_size=3)


@settings(deadline=None)
@given(st.lists(st.lists(st.tuples(WORDS, st.sampled_from(["O", "B-X"])), min_size=1, max_size=4), max_size=4))
def test_what_was_written_in_two_columns_is_read(sentences: list[list[tuple[str, str]]]) -> None:
    text = "\n\n".join("\n".join(f"{word}\t{tag}" for word, tag in sentence) for sentence in sentences)
    found = [list(zip(row.fields["tokens"], row.fields["tags"], strict=True)) for row in rows(text)]
    assert found == sentences


PARAGRAPH = {
    "context": "Ann lives in Rome.",
    "qas": [
        {"id": "1", "question": "Where?", "answers": [{"text": "Rome", "answer_start": 13}], "is_impossible": False},
        {"id": "2", "question": "When?", "answers": [], "plausible_answers": [], "is_impossible": True},
    ],
}
OLD = {
    "context": "It rains.",
    "qas": [{"id": "3", "question": "What?", "answers": [{"text": "rains", "answer_start": 3}]}],
}
DOCUMENT = {"version": "v2.0", "data": [{"title": "Ann", "paragraphs": [PARAGRAPH]}, {"paragraphs": [OLD]}]}


def test_each_question_of_a_squad_document_is_a_row() -> None:
    found = list(read_squad(DOCUMENT, "dev.json"))
    assert [(row.source, row.line, row.problem) for row in found] == [("dev.json", n, None) for n in (1, 2, 3)]
    assert found[0].fields == {
        "id": "1",
        "title": "Ann",
        "context": "Ann lives in Rome.",
        "question": "Where?",
        "answers": {"text": ["Rome"], "start": [13]},
        "is_impossible": False,
    }
    assert (found[1].fields["answers"], found[1].fields["is_impossible"]) == ({"text": [], "start": []}, True)
    assert (found[2].fields["title"], found[2].fields["is_impossible"]) == ("", False)


@pytest.mark.parametrize(
    ("found", "squad"),
    [
        (DOCUMENT, True),
        ({"data": [3, {"paragraphs": []}]}, True),
        ({"data": []}, False),
        ({"data": [{"text": "a"}]}, False),
        ({"rows": [{"paragraphs": []}]}, False),
        ([{"paragraphs": []}], False),
        ("data", False),
    ],
)
def test_squad_documents_are_told_from_other_json(found: Any, squad: bool) -> None:
    assert is_squad(found) is squad


@pytest.mark.parametrize(
    ("article", "problem"),
    [
        (7, "data[0]: found 7, expected an object"),
        ({"paragraphs": None}, "data[0].paragraphs: found None, expected a list"),
        ({"paragraphs": [{"context": "a"}]}, "data[0].paragraphs[0].qas: found None, expected a list"),
        (
            {"paragraphs": [{"context": "a", "qas": ["Why?"]}]},
            "data[0].paragraphs[0].qas[0]: found 'Why?', expected an object",
        ),
        (
            {"paragraphs": [{"context": "a", "qas": [{"answers": ["b"]}]}]},
            "data[0].paragraphs[0].qas[0].answers: found ['b'], expected a list of objects",
        ),
    ],
)
def test_what_is_broken_in_a_squad_document_is_told_where_it_lies(article: Any, problem: str) -> None:
    document = json.loads(json.dumps({"data": [article, {"paragraphs": [OLD]}]}))
    broken, whole = read_squad(document, "dev.json")
    assert (broken.line, broken.fields, broken.problem) == (1, {}, problem)
    assert (whole.line, whole.fields["id"]) == (2, "3")
