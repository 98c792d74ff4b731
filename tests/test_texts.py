"""Metrics of texts against sacrebleu and rouge_score, by sums over rows, and on cases worked by hand."""

import math
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU, CHRF, TER

from tunesmith.evaluate.texts import (
    TextMetric,
    answer_exact,
    answer_f1,
    bleu,
    chrf,
    final_number,
    rouge,
    same_number,
    same_text,
    share_dropped,
    ter,
)

SACRE: dict[str, tuple[TextMetric, Callable[[], Any]]] = {
    "bleu": (bleu(), BLEU),
    "bleu, letters": (bleu("char"), lambda: BLEU(tokenize="char")),
    "chrf": (chrf(), CHRF),
    "ter": (ter(), TER),
}
METRICS: dict[str, TextMetric] = {
    **{name: metric for name, (metric, _) in SACRE.items()},
    **{kind: rouge(kind) for kind in ("rouge1", "rouge2", "rougeL", "rougeLsum")},
    "rougeL, every script": rouge("rougeL", words="unicode"),
    "equal": same_text(),
    "exact": answer_exact(),
    "f1": answer_f1(),
    "f1, letters": answer_f1("characters"),
}
PERFECT = {**dict.fromkeys(METRICS, 1.0), **dict.fromkeys(SACRE, 100.0), "ter": 0.0}
SUBJECTS, PLACES = ("a girl", "the old man", "nobody here", "my sister"), ("park", "busy street", "kitchen", "river")
SENTENCES = [
    f"{who} walks to the {where} at {n} today"
    for n, (who, where) in enumerate(zip(SUBJECTS * 10, PLACES * 10, strict=True))
]
WORDS = st.lists(
    st.sampled_from(["the", "cats", "cat", "sat", "on", "Mat", ".", "über", "猫", "a\nb", ""]), max_size=7
).map(" ".join)
ROWS = st.lists(st.tuples(st.lists(WORDS, min_size=1, max_size=3), WORDS), min_size=1, max_size=6)


def streams(gold: Sequence[Sequence[str]]) -> list[list[str | None]]:
    """References as sacrebleu wants them: the first of each row, the second of each, …"""
    most = max(map(len, gold))
    return [[row[place] if place < len(row) else None for row in gold] for place in range(most)]


@pytest.mark.parametrize("name", SACRE)
@settings(deadline=None, max_examples=60)
@given(rows=ROWS)
def test_sums_over_rows_give_sacrebleus_score_of_the_corpus(name: str, rows: list[tuple[list[str], str]]) -> None:
    gold, answers = [row[0] for row in rows], [row[1] for row in rows]
    metric, theirs = SACRE[name]
    wanted = theirs().corpus_score(answers, streams(gold)).score
    assert metric(gold, answers) == pytest.approx(wanted, rel=0, abs=1e-9)


@pytest.mark.parametrize("name", SACRE)
def test_a_resample_of_rows_is_the_corpus_of_those_rows(name: str) -> None:
    metric, theirs = SACRE[name]
    generator = np.random.default_rng(1)
    answers = [" ".join(word for word in line.split() if generator.random() < 0.8) for line in SENTENCES]
    gold = [(line, line.replace("walks", "goes"))[: 1 + place % 2] for place, line in enumerate(SENTENCES)]
    numbers = metric.rows(gold, answers)
    for seed in range(3):
        drawn = np.random.default_rng(seed).integers(0, len(gold), size=len(gold))
        again = theirs().corpus_score([answers[i] for i in drawn], streams([gold[i] for i in drawn])).score
        weights = np.bincount(drawn, minlength=len(gold)).astype(float)
        assert metric.total(weights @ numbers) == pytest.approx(again, rel=0, abs=1e-9)


@pytest.mark.parametrize("kind", ["rouge1", "rouge2", "rougeL", "rougeLsum"])
@settings(deadline=None, max_examples=40)
@given(rows=ROWS)
def test_rouge_is_the_mean_of_rouge_scores_best_reference(kind: Any, rows: list[tuple[list[str], str]]) -> None:
    scorer = RougeScorer([kind])
    wanted = np.mean([scorer.score_multi(references, answer)[kind].fmeasure for references, answer in rows])
    found = rouge(kind)([row[0] for row in rows], [row[1] for row in rows])
    assert found == pytest.approx(wanted, rel=0, abs=1e-12)


@pytest.mark.parametrize("name", METRICS)
def test_perfect_texts_have_the_best_value_and_shuffled_ones_a_worse_one(name: str) -> None:
    metric, gold = METRICS[name], [(line,) for line in SENTENCES]
    assert metric(gold, SENTENCES) == pytest.approx(PERFECT[name])
    shuffled = metric(gold, [*SENTENCES[1:], SENTENCES[0]])
    assert (shuffled < PERFECT[name] - 0.1) if metric.higher_is_better else (shuffled > PERFECT[name] + 10)


@pytest.mark.parametrize("name", METRICS)
def test_no_rows_and_rows_without_references_have_no_value(name: str) -> None:
    assert METRICS[name].rows([], []).shape[0] == 0
    assert math.isnan(METRICS[name]([], []))
    assert math.isnan(METRICS[name]([(), ()], ["a", ""]))


@pytest.mark.parametrize("name", METRICS)
def test_a_row_without_references_changes_nothing(name: str) -> None:
    metric, gold, answers = METRICS[name], [(line,) for line in SENTENCES], SENTENCES[::-1]
    assert metric([(), *gold], ["something", *answers]) == metric(gold, answers)


@pytest.mark.parametrize("name", METRICS)
def test_empty_texts_are_as_bad_as_can_be(name: str) -> None:
    value = METRICS[name]([("the cat sat on the mat at 7",)], [""])
    assert value == (0 if METRICS[name].higher_is_better else 100)


def test_only_ter_is_better_when_lower() -> None:
    assert [name for name, metric in METRICS.items() if not metric.higher_is_better] == ["ter"]


def test_bleu_counts_what_the_texts_have_in_common() -> None:
    found = bleu()([("the cat sat on the mat",)], ["the cat sat on a mat"])
    assert found == pytest.approx(100 * (5 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** (1 / 4))


def test_bleu_of_texts_without_four_words_is_nothing() -> None:
    assert bleu()([("good morning",)], ["good morning"]) == pytest.approx(0)
    assert chrf()([("good morning",)], ["good morning"]) == 100


def test_ter_counts_edits_for_each_word_of_the_reference() -> None:
    assert ter()([("the cat sat down",)], ["the dog sat"]) == 50  # one word changed, one left out


def test_the_signature_says_how_a_value_was_made() -> None:
    assert bleu().note(1).startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:")
    assert chrf().note(None).startswith("nrefs:var|case:mixed|eff:yes|nc:6|nw:0|space:no|version:")
    assert ter().note(2).startswith("nrefs:2|case:lc|tok:tercom|norm:no|punct:yes|asian:no|version:")
    assert rouge("rougeL").note(1).startswith("rougeL F1|stemmer:no|words:latin|rouge-score:")
    assert [metric.note(1) for metric in (same_text(), answer_f1(), same_number())] == [
        "equal texts",
        "SQuAD F1|units:words",
        "equal numbers|find:marked",
    ]


def test_rouge_l_keeps_the_order_of_words_and_lsum_that_of_lines() -> None:
    gold, answers = [("the cat sat\non the mat",)], ["on the mat\nthe cat sat"]
    assert rouge("rouge1")(gold, answers) == 1
    assert rouge("rougeL")(gold, answers) == 0.5  # three of six words in this order
    assert rouge("rougeLsum")(gold, answers) == 1


def test_rouge_reads_every_script_where_asked_to() -> None:
    gold, answers = (
        [("Größe zählt", "η γάτα"), ("кот спит",), ("猫が好き",), ("हिन्दी",)],
        ["Größe zählt", "кот", "猫", "हिन्दी"],
    )
    found = rouge("rouge1", words="unicode").rows(gold, answers)
    assert found[:, 0].tolist() == pytest.approx([1, 2 / 3, 2 / 5, 1])
    assert rouge("rouge1").rows(gold, answers)[:, 0].tolist() == [1, 0, 0, 0]


def test_what_rouge_would_drop_is_measured() -> None:
    assert share_dropped(["The cat, 2 mats!"]) == 0
    assert share_dropped(["Männer", "a"]) == pytest.approx(1 / 7)
    assert share_dropped(["кот"]) == 1
    assert share_dropped(["", "?!"]) == 0


def test_equal_texts_may_differ_in_outer_blanks_alone() -> None:
    gold, answers = [("Rome", "Roma"), ("Rome",), ("Rome",)], [" Roma\n", "rome", "Rome."]
    assert same_text().rows(gold, answers)[:, 0].tolist() == [1, 0, 0]
    assert answer_exact().rows(gold, answers)[:, 0].tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("text", "find", "number"),
    [
        ("16 - 3 - 4 = <<16-3-4=9>>9 eggs.\n#### 18", "marked", "18"),
        ("#### $70,000.50 a year, or 5 a day", "marked", "70000.50"),
        ("####-5\n\nQuestion 2: … #### 7", "marked", "-5"),
        ("#### 3.", "marked", "3"),
        ("the answer is 18", "marked", None),
        ("18 ####", "marked", None),
        ("#### none", "last", None),
        ("so 2 and 2 make 4.", "last", "4"),
        ("10-5 leaves $5", "last", "5"),
        ("about -.5 or −3%", "last", "-3"),
        ("version v2", "last", None),
        ("", "last", None),
        ("$-1,234", "last", "-1234"),
        ("-$-2", "last", None),
    ],
)
def test_the_result_of_a_solution_is_a_number(text: str, find: Literal["marked", "last"], number: str | None) -> None:
    assert final_number(text, find) == (None if number is None else Decimal(number))


def test_results_are_compared_as_numbers() -> None:
    gold = [("… 9 * 2 = 18\n#### 18",), ("1,000",), ("7", "8"), ("no number",), ("5",)]
    answers = ["#### 18.0", "#### $1000", "#### 8", "#### 3", "it is 5"]
    assert same_number().rows(gold, answers).tolist() == [[1, 1], [1, 1], [1, 1], [0, 0], [0, 1]]
    assert same_number()(gold, answers) == 0.75
