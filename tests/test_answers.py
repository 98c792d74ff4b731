"""SQuAD's exact match and F1 on cases worked by hand, and the threshold against every other threshold."""

import pytest

from tunesmith.evaluate.answers import exact, exact_matches, f1, f1s, normalised


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("The  Egyptian\tIslamic Jihad.", "egyptian islamic jihad"),
        ("an A-team, a 1,000th the", "ateam 1000th"),
        ("theatre Anna", "theatre anna"),
        ("«Café»", "«café»"),  # SQuAD knows ASCII's punctuation alone
        ("d'être", "dêtre"),
        ("The ... a!", ""),
        ("la casa der Mann", "la casa der mann"),
    ],
)
def test_texts_are_compared_without_case_punctuation_and_english_articles(text: str, wanted: str) -> None:
    assert normalised(text) == wanted


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("北京大学、1898年", "北 京 大 学 1898 年"),
        ("กรุงเทพ", "ก ร ุ ง เ ท พ"),
        ("The iPhone は高い。", "iphone は 高 い"),
        ("«Café» d'être", "café dêtre"),
        ("서울 대학교", "서울 대학교"),
    ],
)
def test_units_are_letters_in_scripts_without_blanks_and_words_in_others(text: str, wanted: str) -> None:
    assert normalised(text, "characters") == wanted


@pytest.mark.parametrize(
    ("answer", "right", "same", "shared"),
    [
        ("Rome", "rome.", 1, 1),
        ("in Rome", "Rome", 0, 2 / 3),  # precision 1/2, recall 1
        ("the big red bus", "a red car", 0, 2 / 5),  # 1 of 3 and 1 of 2
        ("no no no", "no no", 0, 4 / 5),  # 2 of 3 and 2 of 2
        ("Paris", "Rome", 0, 0),
        ("", "", 1, 1),
        ("", "Rome", 0, 0),
        ("Rome", "", 0, 0),
        ("the", "a.", 1, 1),  # nothing is left of both
    ],
)
def test_exact_match_and_f1_are_squads(answer: str, right: str, same: float, shared: float) -> None:
    assert exact(answer, right) == same
    assert f1(answer, right) == pytest.approx(shared)


def test_the_reference_that_suits_best_counts_for_each_measure() -> None:
    gold, answers = [("Rome", "the city of Rome")], ["city of Rome, Italy"]
    assert exact_matches(gold, answers).tolist() == [0]
    assert f1s(gold, answers).tolist() == pytest.approx([6 / 7])  # 3 of 4 and 3 of 3
    assert exact_matches(gold, ["City of Rome"]).tolist() == [1]


def test_a_question_without_references_is_answered_right_by_nothing_alone() -> None:
    gold = [(), (), ("",), ("the",)]
    answers = ["", "Rome", "the", ""]
    assert exact_matches(gold, answers).tolist() == [1, 0, 1, 1]
    assert f1s(gold, answers).tolist() == [1, 0, 1, 1]


def test_a_reference_with_nothing_left_does_not_make_an_empty_answer_right() -> None:
    assert exact_matches([("the", "Rome")], [""]).tolist() == [0]
    assert f1s([("the", "Rome")], [""]).tolist() == [0]


def test_f1_counts_letters_where_asked_to() -> None:
    gold, answers = [("北京大学",)], ["北京"]
    assert f1s(gold, answers).tolist() == [0]
    assert f1s(gold, answers, "characters").tolist() == pytest.approx([2 / 3])  # 2 of 2 and 2 of 4


def test_no_rows_have_no_values() -> None:
    assert exact_matches([], []).shape == f1s([], []).shape == (0,)
