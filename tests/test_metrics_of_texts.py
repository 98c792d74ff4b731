"""Metrics of spans, texts and tokens against the libraries that define them, and resampled by sums as row by row."""

import collections
import math
import re
import string
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU, CHRF, TER
from seqeval import metrics as seqeval

from tunesmith.evaluate import METRICS
from tunesmith.evaluate.intervals import bootstrap, difference, paired_test
from tunesmith.evaluate.metrics import Metric, measure
from tunesmith.given import Predictions, objects

Reference = Callable[[Predictions], float]
LABELS = ("LOC", "ORG", "PER")
WORDS_OF_A_ROW = 9
VOCABULARY = (
    "the",
    "cat",
    "sat",
    "on",
    "a",
    "Mat",
    ",",
    "dog",
    "barked",
    "An",
    "über",
    "it's",
    "#### 12",
    "#### 1,300",
)
EXTRAS = (
    "nll",
    "targets",
    "tokens_right",
    "bytes",
    "stopped",
    "replies",
    "formed",
    "asked",
    "right",
    "pairs",
    "margin",
)


def spans(seed: int, rows: int = 12) -> Predictions:
    """Spans of words; half of the rows are answered as they should be."""
    generator = np.random.default_rng(seed)
    gold = [_spans(generator) for _ in range(rows)]
    answers = [there if generator.random() < 0.5 else _spans(generator) for there in gold]
    return Predictions(np.arange(rows), objects(gold), objects(answers), None, LABELS, "spans")


def _spans(generator: np.random.Generator) -> tuple[tuple[int, int, str], ...]:
    edges = np.sort(generator.choice(WORDS_OF_A_ROW + 1, size=4, replace=False)).tolist()
    found = [(start, end, str(generator.choice(LABELS))) for start, end in zip(edges[::2], edges[1::2], strict=True)]
    return tuple(found[: generator.integers(0, 3)])


def texts(seed: int, rows: int = 10) -> Predictions:
    """Texts with one to three references, some of them answered to the letter, some nearly, some with anything."""
    generator = np.random.default_rng(seed)
    gold = [tuple(_text(generator) for _ in range(generator.integers(1, 4))) for _ in range(rows)]
    answers = []
    for place, references in enumerate(gold):
        nearly = f" The {references[-1].upper()}."
        answers.append(((references[0], nearly, _text(generator))[place % 3], "one more that does not count"))
    return Predictions(np.arange(rows), objects(gold), objects(answers), None, (), "texts")


def _text(generator: np.random.Generator) -> str:
    return " ".join(generator.choice(VOCABULARY, size=generator.integers(4, 9)).tolist())


def sums(seed: int, rows: int = 10) -> Predictions:
    """Rows that were graded token by token; one of them has nothing to be graded."""
    generator = np.random.default_rng(seed)
    targets = generator.integers(1, 20, rows).astype(float)
    targets[0] = 0.0
    extras = {
        "nll": targets * generator.uniform(0.1, 4, rows),
        "targets": targets,
        "tokens_right": np.floor(targets * generator.random(rows)),
        "bytes": targets * generator.integers(1, 5, rows),
        "stopped": generator.integers(0, 2, rows).astype(float),
        "replies": np.ones(rows),
        "formed": generator.integers(0, 2, rows).astype(float),
        "asked": np.ones(rows),
        "right": generator.integers(0, 2, rows).astype(float),
        "pairs": np.ones(rows),
        "margin": generator.normal(0, 2, rows),
    }
    nothing = objects([()] * rows)
    return Predictions(np.arange(rows), nothing, nothing, None, (), "scores", extras)


def tags(rows: Sequence[Sequence[tuple[int, int, str]]]) -> list[list[str]]:
    """The spans as IOB2 tags of words."""
    made = [["O"] * WORDS_OF_A_ROW for _ in rows]
    for row, found in zip(made, rows, strict=True):
        for start, end, label in found:
            row[start:end] = [f"B-{label}"] + [f"I-{label}"] * (end - start - 1)
    return made


def entities(score: Callable[..., Any], average: str = "micro") -> Reference:
    return lambda p: float(score(tags(p.gold), tags(p.answers), average=average, zero_division=0))


def rouge(kind: str) -> Reference:
    def compute(p: Predictions) -> float:
        scorer = RougeScorer([kind])
        best = [
            max(scorer.score(reference, given[0])[kind].fmeasure for reference in gold)
            for gold, given in zip(p.gold, p.answers, strict=True)
        ]
        return float(np.mean(best))

    return compute


def sacre(make: Callable[[], Any]) -> Reference:
    def compute(p: Predictions) -> float:
        most = max(map(len, p.gold))
        references = [[gold[place] if place < len(gold) else None for gold in p.gold] for place in range(most)]
        return float(make().corpus_score([given[0] for given in p.answers], references).score)

    return compute


def squad_words(text: str) -> list[str]:
    kept = "".join(sign for sign in text.lower() if sign not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", kept).split()


def squad_f1(right: str, answer: str) -> float:
    there, found = squad_words(right), squad_words(answer)
    same = sum((collections.Counter(there) & collections.Counter(found)).values())
    if not there or not found:
        return float(there == found)
    precision, recall = same / len(found), same / len(there)
    return 2 * precision * recall / (precision + recall) if same else 0.0


def best_of(score: Callable[[str, str], float]) -> Reference:
    """The mean over rows of the score with the reference that suits best."""
    return lambda p: float(
        np.mean([max(score(right, given[0]) for right in gold) for gold, given in zip(p.gold, p.answers, strict=True)])
    )


def marked(text: str) -> float | None:
    """GSM8K's extract_answer: the number behind the mark, without its commas."""
    found = re.search(r"#### (\-?[0-9\.\,]+)", text)
    return float(found[1].strip().replace(",", "")) if found else None


def same_number(p: Predictions) -> float:
    judged = []
    for gold, answers in zip(p.gold, p.answers, strict=True):
        results = {marked(right) for right in gold} - {None}
        if results:
            judged.append(marked(answers[0]) in results)
    return float(np.mean(judged))


def ratio(above: str, below: str) -> Reference:
    return lambda p: float(np.sum(p.extras[above]) / np.sum(p.extras[below]))


OF_SPANS: dict[str, Reference] = {
    "entity_f1": entities(seqeval.f1_score),
    "entity_precision": entities(seqeval.precision_score),
    "entity_recall": entities(seqeval.recall_score),
    "entity_macro_f1": entities(seqeval.f1_score, "macro"),
}
OF_TEXTS: dict[str, Reference] = {
    "answer_exact": best_of(lambda right, answer: float(squad_words(right) == squad_words(answer))),
    "answer_f1": best_of(squad_f1),
    "rouge1": rouge("rouge1"),
    "rouge2": rouge("rouge2"),
    "rougeL": rouge("rougeL"),
    "rougeLsum": rouge("rougeLsum"),
    "bleu": sacre(lambda: BLEU(force=True)),
    "chrf": sacre(CHRF),
    "ter": sacre(TER),
    "same_text": best_of(lambda right, answer: float(right.strip() == answer.strip())),
    "same_number": same_number,
}
OF_SUMS: dict[str, Reference] = {
    "perplexity": lambda p: float(np.exp(p.extras["nll"].sum() / p.extras["targets"].sum())),
    "bits_per_byte": lambda p: float(np.log2(np.e) * p.extras["nll"].sum() / p.extras["bytes"].sum()),
    "token_accuracy": ratio("tokens_right", "targets"),
    "reply_nll": ratio("nll", "targets"),
    "stop_rate": ratio("stopped", "replies"),
    "format_valid": ratio("formed", "asked"),
    "reward_accuracy": lambda p: float(np.mean(p.extras["right"])),
    "reward_margin": lambda p: float(np.mean(p.extras["margin"])),
}
REFERENCES: dict[str, Reference] = {**OF_SPANS, **OF_TEXTS, **OF_SUMS}


def given_for(name: str, seed: int, rows: int = 10) -> Predictions:
    """Random predictions of the kind that a metric is for."""
    return (spans if name in OF_SPANS else texts if name in OF_TEXTS else sums)(seed, rows)


def perfect(given: Predictions) -> Predictions:
    """The same rows with the best answers there are."""
    if given.kind == "spans":
        return replace(given, answers=given.gold)
    if given.kind == "texts":
        told = [max(gold, key=lambda text: marked(text) is not None) for gold in given.gold]
        return replace(given, answers=objects([(text,) for text in told]))
    best = {name: np.ones(len(given)) for name in EXTRAS}
    return replace(given, extras={**best, "nll": np.zeros(len(given)), "margin": np.full(len(given), 9.0)})


@pytest.mark.parametrize("name", REFERENCES)
def test_a_metric_is_the_one_of_its_reference(name: str) -> None:
    for seed in range(6):
        given = given_for(name, seed)
        assert METRICS.load(name)(given) == pytest.approx(REFERENCES[name](given), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("name", REFERENCES)
def test_perfect_answers_get_the_best_value_and_poor_ones_a_worse(name: str) -> None:
    metric: Metric = METRICS.load(name)
    best = {"bleu": 100.0, "chrf": 100.0, "ter": 0.0, "perplexity": 1.0, "bits_per_byte": 0.0, "reply_nll": 0.0}
    poor = given_for(name, 1)
    value = metric(perfect(poor))
    assert value == pytest.approx(9.0 if name == "reward_margin" else best.get(name, 1.0))
    assert (value > metric(poor)) == metric.higher_is_better
    assert value != metric(poor)


@pytest.mark.parametrize("name", REFERENCES)
def test_the_order_of_rows_does_not_matter(name: str) -> None:
    given = given_for(name, 2)
    turned = given.take(np.random.default_rng(0).permutation(len(given)))
    assert METRICS.load(name)(turned) == pytest.approx(METRICS.load(name)(given), rel=1e-12)


@pytest.mark.parametrize("name", [*OF_SPANS, *OF_TEXTS])
def test_answers_shuffled_among_the_rows_are_worse_than_perfect_ones(name: str) -> None:
    metric: Metric = METRICS.load(name)
    right = perfect(given_for(name, 3))
    wrong = replace(right, answers=np.roll(right.answers, 1))
    assert (metric(right) > metric(wrong)) == metric.higher_is_better


@pytest.mark.parametrize("name", REFERENCES)
def test_no_rows_at_all_have_no_value(name: str) -> None:
    given = given_for(name, 0).take(np.zeros(0, dtype=int))
    assert math.isnan(METRICS.load(name)(given))
    assert measure(given, [name]) == {name: None}
    found = bootstrap(given, METRICS.load(name), resamples=10, level=0.95, seed=0)
    assert all(math.isnan(value) for value in (found.value, found.low, found.high))


@pytest.mark.parametrize("name", REFERENCES)
def test_predictions_of_another_kind_have_no_value(name: str) -> None:
    for other in (spans(0), texts(0), sums(0)):
        if other.kind != given_for(name, 0).kind:
            assert measure(other, [name]) == {name: None}
    labels = Predictions(np.arange(2), np.array([0, 1]), np.array([1, 1]), None, ("no", "yes"))
    assert measure(labels, [name]) == {name: None}


@pytest.mark.parametrize("missing", EXTRAS)
def test_a_metric_without_the_numbers_it_needs_has_no_value_and_the_others_keep_theirs(missing: str) -> None:
    whole = sums(4)
    lacking = replace(whole, extras={name: values for name, values in whole.extras.items() if name != missing})
    lost = {name for name, value in measure(lacking, list(OF_SUMS)).items() if value is None}
    needed = {
        "nll": {"perplexity", "bits_per_byte", "reply_nll"},
        "targets": {"perplexity", "token_accuracy", "reply_nll"},
        "bytes": {"bits_per_byte"},
        "tokens_right": {"token_accuracy"},
        "stopped": {"stop_rate"},
        "replies": {"stop_rate"},
        "formed": {"format_valid"},
        "asked": {"format_valid"},
        "right": {"reward_accuracy"},
        "pairs": {"reward_accuracy", "reward_margin"},
        "margin": {"reward_margin"},
    }
    assert lost == needed[missing]


@pytest.mark.parametrize("name", OF_SUMS)
def test_numbers_that_are_all_nothing_have_no_value(name: str) -> None:
    given = sums(0, 3)
    assert measure(replace(given, extras={key: np.zeros(3) for key in EXTRAS}), [name]) == {name: None}


@pytest.mark.parametrize("name", OF_TEXTS)
def test_texts_that_were_never_written_have_no_value(name: str) -> None:
    given = texts(0, 3)
    assert measure(replace(given, answers=objects([()] * 3)), [name]) == {name: None}


@pytest.mark.parametrize("name", OF_SPANS)
def test_no_spans_anywhere_have_no_value_and_spans_that_were_missed_are_worth_nothing(name: str) -> None:
    nothing = Predictions(np.arange(2), objects([()] * 2), objects([()] * 2), None, LABELS, "spans")
    assert measure(nothing, [name]) == {name: None}
    assert measure(replace(nothing, gold=objects([((0, 2, "PER"),), ()])), [name]) == {name: 0.0}
    assert measure(replace(nothing, answers=objects([((0, 2, "PER"),), ()])), [name]) == {name: 0.0}


@pytest.mark.parametrize("name", ["answer_exact", "answer_f1"])
def test_no_answer_is_right_where_there_is_none_to_find(name: str) -> None:
    gold, answers = objects([("",), ("",), ("a kettle",)]), objects([("",), ("kettle",), ("",)])
    given = Predictions(np.arange(3), gold, answers, None, (), "texts")
    assert METRICS.load(name)(given) == pytest.approx(1 / 3)


def test_a_row_without_a_number_among_its_references_is_not_judged() -> None:
    gold, answers = objects([("#### 12",), ("none",), ("so #### 3",)]), objects([("#### 12",), ("#### 1",), ("3",)])
    given = Predictions(np.arange(3), gold, answers, None, (), "texts")
    assert METRICS.load("same_number")(given) == 0.5


def test_scores_of_generated_texts_say_how_they_were_computed() -> None:
    given = texts(0)
    for name in OF_TEXTS:
        note = METRICS.load(name).note(given)
        assert note
        assert "\n" not in note
    assert "nrefs:var" in METRICS.load("bleu").note(given)
    one = replace(given, gold=objects([gold[:1] for gold in given.gold]))
    assert "nrefs:1" in METRICS.load("bleu").note(one)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("the lamp is late", "13a"),
        ("die Männer sind spät", "13a"),
        ("这盏灯来晚了吗", "zh"),
        ("ランプは今日届きました", "char"),
        ("โคมไฟมาสาย", "char"),
    ],
)
def test_bleu_counts_letters_where_scripts_put_no_blanks_between_words(text: str, tokens: str) -> None:
    """One letter of many is wrong: some BLEU is left, as sacrebleu itself says for these tokens."""
    given = Predictions(np.arange(1), objects([(text,)]), objects([(text[:-1] + "x",)]), None, (), "texts")
    wanted = BLEU(tokenize=tokens, force=True).corpus_score([text[:-1] + "x"], [[text]]).score
    assert METRICS.load("bleu")(given) == pytest.approx(wanted)
    assert f"tok:{tokens}" in METRICS.load("bleu").note(given)


@pytest.mark.parametrize(("name", "half"), [("rouge1", 0.5), ("rougeL", 0.5), ("answer_f1", 0.5)])
def test_texts_of_scripts_that_english_words_leave_out_are_counted_by_their_own(name: str, half: float) -> None:
    gold = objects([("北京大学",), ("قطة كبيرة",), ("красный чайник",)])
    same = Predictions(np.arange(3), gold, gold, None, (), "texts")
    assert METRICS.load(name)(same) == 1.0
    parts = objects([("北京",), ("قطة",), ("чайник",)])
    found = METRICS.load(name)(replace(same, answers=parts))
    assert half <= found < 1
    assert "unicode" in METRICS.load(name).note(same) or "characters" in METRICS.load(name).note(same)


def draws(rows: int, resamples: int, seed: int) -> NDArray[np.int64]:
    return np.random.default_rng(seed).integers(0, rows, size=(resamples, rows))


def limits(values: Sequence[float], level: float) -> list[float]:
    defined = [value for value in values if not math.isnan(value)]
    return np.quantile(defined, [(1 - level) / 2, (1 + level) / 2]).tolist() if defined else [math.nan, math.nan]


def other(a: Predictions, seed: int) -> Predictions:
    """Another system's answers to the same rows."""
    generator = np.random.default_rng(seed)
    order = np.where(generator.random(len(a)) < 0.5, np.arange(len(a)), generator.permutation(len(a)))
    return replace(a, answers=a.answers[order], extras=a.take(order).extras)


def mixed(a: Predictions, b: Predictions, swap: NDArray[np.bool_]) -> Predictions:
    """a's rows, but b's where `swap` is set."""
    extras = {name: np.where(swap, b.extras[name], values) for name, values in a.extras.items()}
    return replace(a, answers=np.where(swap, b.answers, a.answers), extras=extras)


@pytest.mark.parametrize("name", REFERENCES)
@settings(max_examples=6, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10_000), rows=st.integers(1, 8))
def test_an_interval_by_sums_is_that_of_the_rows_drawn(name: str, seed: int, rows: int) -> None:
    metric, given = METRICS.load(name), given_for(name, seed, rows)
    found = bootstrap(given, metric, resamples=25, level=0.9, seed=seed)
    drawn = [metric(given.take(index)) for index in draws(rows, 25, seed)]
    wanted = [metric(given), *limits(drawn, 0.9)]
    assert [found.value, found.low, found.high] == pytest.approx(wanted, rel=1e-9, abs=1e-9, nan_ok=True)


@pytest.mark.parametrize("name", REFERENCES)
@settings(max_examples=6, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10_000), rows=st.integers(1, 8))
def test_a_difference_by_sums_is_that_of_the_rows_drawn_for_both(name: str, seed: int, rows: int) -> None:
    metric, a = METRICS.load(name), given_for(name, seed, rows)
    b = other(a, seed)
    found = difference(a, b, metric, resamples=25, level=0.9, seed=seed)
    drawn = [metric(a.take(index)) - metric(b.take(index)) for index in draws(rows, 25, seed)]
    wanted = [metric(a) - metric(b), *limits(drawn, 0.9)]
    assert [found.value, found.low, found.high] == pytest.approx(wanted, rel=1e-9, abs=1e-9, nan_ok=True)


@pytest.mark.parametrize("name", REFERENCES)
@settings(max_examples=6, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10_000), rows=st.integers(1, 8))
def test_the_paired_test_by_sums_is_that_of_rows_that_change_sides(name: str, seed: int, rows: int) -> None:
    metric, a = METRICS.load(name), given_for(name, seed, rows)
    b = other(a, seed)
    observed = abs(metric(a) - metric(b))
    found = paired_test(a, b, metric, permutations=25, seed=seed)
    if math.isnan(observed):
        assert math.isnan(found)
        return
    generator = np.random.default_rng(seed)
    swaps = [generator.random(rows) < 0.5 for _ in range(25)]
    gaps = [abs(metric(mixed(a, b, swap)) - metric(mixed(b, a, swap))) for swap in swaps]
    extreme = sum(gap >= observed - 1e-9 * max(1.0, observed) for gap in gaps)
    assert found == pytest.approx((extreme + 1) / 26)
