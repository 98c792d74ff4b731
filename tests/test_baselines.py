"""The simple models: those of scikit-learn, at work on any rows, and blind to what they are asked."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.multiclass import OneVsRestClassifier

from tunesmith.evaluate import BASELINES, METRICS
from tunesmith.evaluate.metrics import find
from tunesmith.given import Predictions, objects
from tunesmith.tasks import TASKS

Baseline = Callable[[Sequence[str], Predictions, Sequence[str], Predictions], Predictions]
PLAIN = ("where", "is", "my", "parcel", "the", "lamp", "came", "late", "again", "today", "order", "I")
TELLING = ("refund", "broken", "thanks")
ALL: list[tuple[str, str]] = [
    ("majority", "single"),
    ("majority", "multi"),
    ("mean", "numbers"),
    ("tfidf_logistic", "single"),
    ("tfidf_logistic", "multi"),
    ("tfidf_ridge", "numbers"),
]


def baseline(name: str) -> Baseline:
    found: Baseline = BASELINES.load(name)
    return found


def known(gold: Any, labels: int = 3) -> Predictions:
    gold = np.array(gold)
    names = tuple(f"label {place}" for place in range(gold.shape[1] if gold.ndim == 2 else labels))
    return Predictions(np.arange(len(gold)), gold, np.zeros_like(gold), None, names)


def planted(rows: int, seed: int) -> tuple[list[str], NDArray[np.int64]]:
    """Texts of plain words with one that tells the label; the first label is the most frequent."""
    generator = np.random.default_rng(seed)
    gold = generator.choice(3, size=rows, p=[0.5, 0.3, 0.2])
    texts = [" ".join(generator.permutation([*generator.choice(PLAIN, 5), TELLING[label]])) for label in gold]
    return texts, gold


def gold_for(shape: str, labels: NDArray[np.int64]) -> NDArray[Any]:
    if shape == "single":
        return labels
    if shape == "multi":
        return np.stack([labels == 0, labels != 1, labels == 2], axis=1).astype(int)
    return np.stack([labels * 2.0 + 1, -labels * 0.5], axis=1)


def asked(name: str, texts: Sequence[str], gold: Any, new: Sequence[str], wanted: Any = None) -> Predictions:
    blank = np.zeros((len(new), *np.shape(gold)[1:]), dtype=np.asarray(gold).dtype)
    return baseline(name)(texts, known(gold), new, known(blank if wanted is None else wanted))


def vectors(texts: Sequence[str], new: Sequence[str], **options: Any) -> tuple[Any, Any]:
    vectorizer = TfidfVectorizer(sublinear_tf=True, **options)
    return vectorizer.fit_transform(texts), vectorizer.transform(new)


def words(texts: Sequence[str], new: Sequence[str]) -> tuple[Any, Any]:
    return vectors(texts, new, ngram_range=(1, 2), token_pattern=r"\w+|[^\w\s]")


def test_majority_is_the_dummy_classifier() -> None:
    texts, gold = planted(60, seed=0)
    found = asked("majority", texts, gold, texts[:7])
    dummy = DummyClassifier(strategy="prior").fit(np.zeros((60, 1)), gold)
    assert found.answers.tolist() == dummy.predict(np.zeros((7, 1))).tolist() == [0] * 7
    assert found.scores == pytest.approx(dummy.predict_proba(np.zeros((7, 1))))


def test_majority_of_several_labels_gives_those_that_more_than_half_of_the_rows_have() -> None:
    found = asked("majority", ["a"] * 4, [[1, 0, 1], [1, 0, 0], [1, 1, 1], [0, 0, 0]], ["b", "c"])
    assert found.answers.tolist() == [[1, 0, 0]] * 2
    assert found.scores is not None
    assert found.scores.tolist() == [[0.75, 0.25, 0.5]] * 2


def test_mean_is_the_dummy_regressor() -> None:
    gold = np.array([[1.0, -5.0], [2.0, 0.0], [6.0, 8.0]])
    found = asked("mean", ["a", "b", "c"], gold, ["d", "e"])
    assert found.answers == pytest.approx(DummyRegressor().fit(np.zeros((3, 1)), gold).predict(np.zeros((2, 1))))
    assert found.answers.tolist() == [[3.0, 1.0]] * 2
    assert found.scores is None


def test_logistic_regression_is_scikit_learns_on_words_and_pairs() -> None:
    (texts, gold), (new, _) = planted(80, seed=1), planted(20, seed=2)
    found = asked("tfidf_logistic", texts, gold, new)
    seen, unseen = words(texts, new)
    model = LogisticRegression(C=10.0, max_iter=1000).fit(seen, gold)
    assert found.scores == pytest.approx(model.predict_proba(unseen))
    assert found.answers.tolist() == model.predict(unseen).tolist()


def test_logistic_regression_of_several_labels_is_one_against_the_rest() -> None:
    (texts, labels), (new, _) = planted(80, seed=1), planted(20, seed=2)
    gold = gold_for("multi", labels)
    found = asked("tfidf_logistic", texts, gold, new)
    seen, unseen = words(texts, new)
    model = OneVsRestClassifier(LogisticRegression(C=10.0, max_iter=1000)).fit(seen, gold)
    assert found.scores == pytest.approx(model.predict_proba(unseen))
    assert found.answers.tolist() == model.predict(unseen).tolist()


@pytest.mark.parametrize("targets", [1, 2])
def test_ridge_is_scikit_learns(targets: int) -> None:
    (texts, labels), (new, _) = planted(80, seed=1), planted(20, seed=2)
    gold = gold_for("numbers", labels)[:, :targets]
    found = asked("tfidf_ridge", texts, gold, new)
    seen, unseen = words(texts, new)
    wanted = Ridge(alpha=1.0, solver="lsqr").fit(seen, gold).predict(unseen)
    assert found.answers.shape == (20, targets)
    assert found.answers == pytest.approx(wanted.reshape(20, targets))


def test_texts_without_spaces_are_taken_apart_into_characters() -> None:
    texts, gold = ["包裹很晚才到", "灯坏了很生气", "包裹还没到", "杯子也坏了"], [0, 1, 0, 1]
    new = ["我的包裹", "椅子坏了"]
    found = asked("tfidf_logistic", texts, gold, new)
    seen, unseen = vectors(texts, new, analyzer="char", ngram_range=(1, 3))
    model = LogisticRegression(C=10.0, max_iter=1000).fit(seen, gold)
    assert found.scores is not None
    assert found.scores[:, :2] == pytest.approx(model.predict_proba(unseen))
    assert found.answers.tolist() == gold[:2]


def test_words_beat_the_most_frequent_label_where_words_tell() -> None:
    (texts, gold), (new, wanted) = planted(120, seed=1), planted(60, seed=2)
    accuracy, exact = METRICS.load("accuracy"), METRICS.load("exact_match")
    assert accuracy(asked("tfidf_logistic", texts, gold, new, wanted)) > 0.95
    assert accuracy(asked("majority", texts, gold, new, wanted)) < 0.7
    several, held = gold_for("multi", gold), gold_for("multi", wanted)
    assert exact(asked("tfidf_logistic", texts, several, new, held)) > 0.95
    assert exact(asked("majority", texts, several, new, held)) < 0.7
    number, mae = gold_for("numbers", gold), METRICS.load("mae")
    ridge, mean = (asked(name, texts, number, new, gold_for("numbers", wanted)) for name in ("tfidf_ridge", "mean"))
    assert mae(ridge) < 0.5 * mae(mean)


@pytest.mark.parametrize(("name", "shape"), ALL)
def test_a_baseline_never_sees_what_is_right(name: str, shape: str) -> None:
    (texts, labels), (new, wanted) = planted(40, seed=1), planted(30, seed=2)
    gold, held = gold_for(shape, labels), gold_for(shape, wanted)
    found = asked(name, texts, gold, new, held)
    shuffled = asked(name, texts, gold, new, np.random.default_rng(0).permutation(held))
    assert np.array_equal(found.answers, shuffled.answers)
    assert (found.scores is None) == (shuffled.scores is None) == (shape == "numbers")
    if found.scores is not None and shuffled.scores is not None:
        assert np.array_equal(found.scores, shuffled.scores)
    assert np.array_equal(found.gold, held)


@pytest.mark.parametrize(("name", "shape"), ALL)
def test_an_answer_does_not_depend_on_what_else_is_asked(name: str, shape: str) -> None:
    (texts, labels), (new, _) = planted(40, seed=1), planted(30, seed=2)
    gold = gold_for(shape, labels)
    together, alone = asked(name, texts, gold, new), asked(name, texts, gold, new[:1])
    assert together.answers[:1] == pytest.approx(alone.answers)


TINY = {
    "two rows a class": ["the parcel is late", "a lamp is broken", "still late, the parcel", "broken, the lamp"],
    "the same text everywhere": ["where is my parcel"] * 4,
    "one word each": ["late", "broken", "late", "broken"],
    "words that say nothing": ["the", "a", "of", "and"],
    "words that say nothing, in a row": ["the of and", "of the and", "a the of", "and and of"],
    "no words at all": ["", "", "", ""],
    "only spaces": [" ", "\t", "  \n", "\u3000"],
    "only marks": ["!", "??", "…", "😀"],
    "some without words": ["the parcel is late", "", "the lamp is broken", " "],
    "characters that show nothing": ["\u200b", "\u200b\u200b", "\u0301", "\ufeff"],
}


@pytest.mark.parametrize("texts", TINY.values(), ids=TINY)
@pytest.mark.parametrize(("name", "shape"), ALL)
@pytest.mark.parametrize("labels", [(0, 1, 0, 1), (0, 2, 0, 2), (1, 1, 1, 1)], ids=["two", "gap", "one"])
def test_tiny_data_is_answered(name: str, shape: str, texts: Sequence[str], labels: Sequence[int]) -> None:
    """Also where a label is missing from the training rows, or only one is there."""
    gold = gold_for(shape, np.array(labels))
    found = asked(name, texts, gold, ["the parcel", "", "新"])
    assert found.answers.shape == (3, *gold.shape[1:])
    assert np.isfinite(found.answers).all()
    if shape == "single":
        assert set(found.answers.tolist()) <= set(labels)
    if found.scores is not None:
        assert found.scores.shape == (3, 3)
        assert ((found.scores >= 0) & (found.scores <= 1)).all()
        assert shape == "multi" or found.scores.sum(axis=1) == pytest.approx(1)


@pytest.mark.parametrize(("name", "shape"), ALL)
def test_one_training_row_is_enough(name: str, shape: str) -> None:
    gold = gold_for(shape, np.array([2]))
    found = asked(name, ["the lamp is broken"], gold, ["the lamp", "a chair"])
    assert found.answers == pytest.approx(np.tile(gold, (2, *[1] * (gold.ndim - 1))))


def test_texts_without_words_get_the_most_likely_answer() -> None:
    assert asked("tfidf_logistic", ["", " ", ""], [1, 1, 0], ["the", ""]).answers.tolist() == [1, 1]
    assert asked("tfidf_ridge", ["", "", ""], [[1.0], [2.0], [6.0]], ["the"]).answers.tolist() == [[pytest.approx(3)]]


def texts_of(*gold: Sequence[str]) -> Predictions:
    """Right texts, one or several a row."""
    rows = objects([tuple(right) for right in gold])
    return Predictions(np.arange(len(gold)), rows, objects([()] * len(gold)), None, (), "texts", {"nll": np.ones(2)})


def spans_of(*gold: Sequence[tuple[int, int, str]]) -> Predictions:
    rows = objects([tuple(spans) for spans in gold])
    return Predictions(np.arange(len(gold)), rows, objects([()] * len(gold)), None, ("PLACE", "THING"), "spans")


def test_no_answer_never_gives_one() -> None:
    found = baseline("no_answer")(["a"], texts_of(["kettle"]), ["b", "c"], texts_of(["lamp"], [""]))
    assert found.answers.tolist() == [("",), ("",)]
    assert found.gold.tolist() == [("lamp",), ("",)]
    assert METRICS.load("answer_exact")(found) == 0.5


@pytest.mark.parametrize(
    ("right", "beginning"),
    [
        ([["one two"], ["one two three", "another that does not count"], ["one two three four"]], "the lamp is"),
        ([["one"], ["one two three"]], "the lamp"),
        ([["中文"]], "the"),
        ([[""], [""]], "the"),
        ([["so many words"] * 2] * 3 + [["w " * 50]], "the lamp is"),
    ],
)
def test_copy_gives_as_many_words_of_the_text_as_the_middle_right_text_has(
    right: list[list[str]], beginning: str
) -> None:
    known_texts = texts_of(*right)
    found = baseline("copy")(["x"] * len(right), known_texts, ["the  lamp\nis late", "so", ""], texts_of("abc"))
    assert found.answers.tolist() == [(beginning,), ("so",), ("",)]


def test_nearest_text_gives_the_first_right_text_of_the_training_row_that_is_most_alike() -> None:
    texts = ["where is my parcel", "the lamp is broken", "good morning"]
    right = texts_of(["on its way", "soon"], ["a new one comes"], ["hello"])
    new = ["the red lamp is broken", "my parcel never came", "morning", "unheard of"]
    found = baseline("nearest_text")(texts, right, new, texts_of("abcd"))
    assert found.answers.tolist() == [("a new one comes",), ("on its way",), ("hello",), ("on its way",)]


def test_phrase_lookup_finds_the_phrases_of_the_training_rows_with_their_most_frequent_label() -> None:
    texts = ["the red kettle in Bath", "Bath is nice", "a red kettle", "we met in Bath", "red paint", "red wine"]
    gold = spans_of(
        [(4, 14, "THING"), (18, 22, "PLACE")],
        [(0, 4, "THING")],
        [(2, 12, "THING")],
        [(10, 14, "PLACE")],
        [(0, 3, "THING")],
        [],
    )
    found = baseline("phrase_lookup")(texts, gold, ["Bath  has a red kettle", "a red lamp", ""], spans_of([], [], []))
    assert found.answers.tolist() == [((0, 4, "PLACE"), (12, 22, "THING")), (), ()]
    assert METRICS.load("entity_f1")(replace(found, gold=found.answers)) == 1.0


def test_phrase_lookup_takes_the_longest_phrase_and_only_what_is_an_entity_in_half_of_its_rows() -> None:
    texts = ["New York", "York", "May", "May I", "May we"]
    gold = spans_of([(0, 8, "PLACE")], [(0, 4, "PLACE")], [(0, 3, "THING")], [], [])
    found = baseline("phrase_lookup")(texts, gold, ["old New York and York in May"], spans_of([]))
    assert found.answers.tolist() == [((4, 12, "PLACE"), (17, 21, "PLACE"))]


def test_phrase_lookup_finds_nothing_where_training_rows_have_no_entity() -> None:
    found = baseline("phrase_lookup")(["a", ""], spans_of([], []), ["a b", ""], spans_of([], []))
    assert found.answers.tolist() == [(), ()]


@pytest.mark.parametrize("name", ["no_answer", "copy", "nearest_text"])
def test_a_simple_model_of_texts_sees_neither_what_is_right_nor_how_sure_the_tuned_one_was(name: str) -> None:
    texts, right = ["where is it", "it broke"], texts_of(["soon"], ["a new one"])
    found, other = (baseline(name)(texts, right, ["it is where", "x"], texts_of([gold], [gold])) for gold in "pq")
    assert found.answers.tolist() == other.answers.tolist()
    assert found.extras == {}
    assert math.isnan(METRICS.load("reply_nll")(found))


@pytest.mark.parametrize("name", ["no_answer", "copy", "nearest_text"])
def test_a_simple_model_of_texts_answers_texts_without_words(name: str) -> None:
    found = baseline(name)(["", " "], texts_of(["!"], ["?"]), ["", "…", "新"], texts_of("abc"))
    assert [len(answers) for answers in found.answers] == [1, 1, 1]
    assert all(isinstance(answers[0], str) for answers in found.answers)


WITHOUT = {
    "multi_task": "each of its tasks is judged beside its own",
    "language": "nothing simple gives a text a likelihood that can be compared over tokenizers",
    "preference": "which of two replies people like better is no text or label to look up",
}
"""Tasks that have no simple model, and why: they are judged beside the untuned model or against chance."""


@pytest.mark.parametrize("kind", list(TASKS))
def test_every_task_names_baselines_that_are_there(kind: str) -> None:
    part = TASKS.load(kind)
    task = part(**part.specimens[0].options)
    assert (not task.baselines) == (kind in WITHOUT), WITHOUT.get(kind, "a task without a simple model says why here")
    assert all(callable(BASELINES.load(name)) for name in task.baselines)
    assert all(callable(find(name)) for name in task.metrics)
