"""Counts of spans against seqeval, in its default mode and in its strict one."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from seqeval import metrics
from seqeval.scheme import IOB2

from tunesmith.evaluate.entities import by_label, entity_counts, macro, micro
from tunesmith.tasks.tags import Scheme, spans_of, tags_of

LABELS = ("LOC", "ORG", "PER")
NAMES = ("O", *(f"{part}-{label}" for label in LABELS for part in "BI"))


@st.composite
def legal_tags(draw: st.DrawFn, words: int) -> list[str]:
    """Random tags of which each that goes on with nothing begins instead."""
    tags = draw(st.lists(st.sampled_from(NAMES), min_size=words, max_size=words))
    return tags_of(spans_of(tags, None), words, Scheme.IOB2)


@st.composite
def judged(draw: st.DrawFn) -> tuple[list[list[str]], list[list[str]]]:
    """Gold tags, and answers that are often the same."""
    sizes = draw(st.lists(st.integers(1, 6), min_size=1, max_size=6))
    gold = [draw(legal_tags(size)) for size in sizes]
    answers = [there if draw(st.booleans()) else draw(legal_tags(len(there))) for there in gold]
    return gold, answers


def counted(gold: list[list[str]], answers: list[list[str]]) -> np.ndarray:
    spans = ([spans_of(tags, Scheme.IOB2) for tags in rows] for rows in (gold, answers))
    return entity_counts(*spans, LABELS).sum(axis=0)


@pytest.mark.parametrize("mode", [{}, {"mode": "strict", "scheme": IOB2}], ids=["default", "strict"])
@settings(deadline=None, max_examples=150)
@given(case=judged())
def test_scores_are_seqevals(mode: dict[str, object], case: tuple[list[list[str]], list[list[str]]]) -> None:
    sums = counted(*case)
    if not sums.any():
        assert math.isnan(micro(sums).f1)
        return
    scores = (metrics.precision_score, metrics.recall_score, metrics.f1_score)
    for average, ours in (("micro", micro(sums)), ("macro", macro(sums))):
        theirs = [score(*case, average=average, zero_division=0, **mode) for score in scores]
        assert list(ours) == pytest.approx(theirs, rel=0, abs=1e-12)
    report = metrics.classification_report(*case, output_dict=True, zero_division=0, **mode)
    for row in by_label(sums, LABELS):
        theirs = report.get(row["label"], {"precision": 0, "recall": 0, "f1-score": 0, "support": 0})
        ours = [row["precision"] or 0, row["recall"] or 0, row["f1"] or 0, row["support"]]
        assert ours == pytest.approx(list(theirs.values()), rel=0, abs=1e-12)


def test_only_a_span_with_both_ends_and_label_right_is_right() -> None:
    gold = [[(0, 3, "LOC"), (5, 9, "PER")], [(0, 2, "LOC")]]
    answers = [[(0, 3, "LOC"), (5, 8, "PER")], [(0, 2, "ORG")]]
    assert entity_counts(gold, answers, LABELS).tolist() == [
        [1, 0, 0, 1, 0, 1, 1, 0, 1],  # right, given, there: of LOC, ORG, PER each
        [0, 0, 0, 0, 1, 0, 1, 0, 0],
    ]


def test_micro_counts_spans_and_macro_counts_labels() -> None:
    sums = np.array([1, 0, 0, 1, 1, 1, 2, 0, 1], dtype=float)
    assert micro(sums) == pytest.approx((1 / 3, 1 / 3, 1 / 3))
    assert macro(sums) == pytest.approx((1 / 3, 1 / 6, 2 / 9))  # LOC 1, 1/2, 2/3; ORG and PER 0


def test_a_label_without_spans_has_no_scores_of_its_own() -> None:
    assert by_label(np.array([1, 0, 2, 0, 2, 1], dtype=float), ("LOC", "ORG")) == [
        {"label": "LOC", "precision": 0.5, "recall": 0.5, "f1": 0.5, "support": 2},
        {"label": "ORG", "precision": None, "recall": 0.0, "f1": 0.0, "support": 1},
    ]
    assert by_label(np.zeros(3), ("LOC",)) == [
        {"label": "LOC", "precision": None, "recall": None, "f1": None, "support": 0}
    ]


def test_perfect_answers_have_an_f1_of_1_and_shuffled_ones_a_low_one() -> None:
    generator = np.random.default_rng(0)
    gold = [[(int(start), int(start) + 2, LABELS[start % 3])] for start in generator.integers(0, 50, size=200)]
    assert micro(entity_counts(gold, gold, LABELS).sum(axis=0)) == (1, 1, 1)
    shuffled = [gold[place] for place in generator.permutation(200)]
    assert micro(entity_counts(gold, shuffled, LABELS).sum(axis=0)).f1 < 0.1


def test_no_rows_and_rows_without_spans_have_no_score() -> None:
    assert entity_counts([], [], LABELS).shape == (0, 9)
    for rows in ([], [[], []]):
        sums = entity_counts(rows, rows, LABELS).sum(axis=0)
        assert all(math.isnan(value) for value in (*micro(sums), *macro(sums)))


def test_a_span_that_is_listed_twice_counts_once() -> None:
    once, twice = [[(0, 3, "LOC")]], [[(0, 3, "LOC"), (0, 3, "LOC")]]
    assert entity_counts(once, twice, LABELS).tolist() == entity_counts(once, once, LABELS).tolist()


def test_a_label_that_nobody_knows_is_refused() -> None:
    with pytest.raises(ValueError, match="'MISC' is not one of 3 labels"):
        entity_counts([[(0, 3, "MISC")]], [[]], LABELS)
