"""SQuAD's exact match and F1 on cases worked by hand, and the threshold against every other threshold."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.evaluate.answers import best_threshold, exact, exact_matches, f1, f1s, normalised


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


def mean_at(threshold: float, no_answer: np.ndarray, if_answered: np.ndarray, impossible: np.ndarray) -> float:
    return float(np.where(no_answer <= threshold, if_answered, impossible).mean())


ROWS = st.lists(
    st.tuples(st.integers(-3, 3).map(float), st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.booleans()),
    min_size=1,
    max_size=9,
)


@settings(deadline=None)
@given(ROWS)
def test_no_threshold_gives_a_better_mean_than_the_best_one(rows: list[tuple[float, float, bool]]) -> None:
    no_answer, if_answered, impossible = (np.array(column) for column in zip(*rows, strict=True))
    threshold, mean = best_threshold(no_answer, if_answered, impossible)
    every = [mean_at(one, no_answer, if_answered, impossible) for one in np.arange(-4, 4, 0.5)]
    assert mean == pytest.approx(max(every), abs=1e-12)
    assert mean_at(threshold, no_answer, if_answered, impossible) == pytest.approx(mean, abs=1e-12)


def test_the_threshold_lies_where_answers_stop_to_pay() -> None:
    no_answer = np.array([3.0, -2.0, 0.5, -1.0])
    impossible = np.array([False, False, True, False])
    assert best_threshold(no_answer, np.array([0.0, 1.0, 0.0, 0.5]), impossible) == (-1.0, 0.625)  # 1 + 0.5 + 1 of 4
    assert best_threshold(no_answer, np.array([1.0, 1.0, 0.5, 0.5]), impossible) == (3.0, 0.75)  # 1 + 0.5 + 0.5 + 1


def test_of_equally_good_thresholds_the_one_with_fewer_answers_is_taken() -> None:
    no_answer, impossible = np.array([-2.0, 0.5, 3.0]), np.array([False, True, False])
    assert best_threshold(no_answer, np.array([1.0, 0.0, 1.0]), impossible) == (-2.0, 2 / 3)


def test_rows_that_no_threshold_can_part_are_taken_together() -> None:
    no_answer, if_answered, impossible = np.zeros(3), np.array([1.0, 0.0, 0.0]), np.array([False, True, True])
    threshold, mean = best_threshold(no_answer, if_answered, impossible)
    assert threshold < 0
    assert mean == pytest.approx(2 / 3)


def test_no_rows_have_no_threshold_to_be_found() -> None:
    threshold, mean = best_threshold(np.zeros(0), np.zeros(0), np.zeros(0))
    assert threshold == 0
    assert math.isnan(mean)
