"""Simple models that a tuned one must beat, trained on the same rows.

Each takes the texts to learn from and their gold (a Predictions whose `gold` is used), and the texts to answer with
theirs, and gives predictions for the latter.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from scipy.special import expit
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge

from tunesmith.given import Predictions, objects

FEW_WORDS = 3
"""Texts with fewer space-separated words than this on average are taken apart into characters (Chinese, Japanese)."""
MOST_FEATURES = 200_000
ROWS_AT_ONCE = 1000
WORD = re.compile(r"\w+|[^\w\s]")


def majority(texts: Sequence[str], known: Predictions, asked: Sequence[str], wanted: Predictions) -> Predictions:
    """The most frequent label; of several a row, those that more than half of the rows have."""
    rows = len(asked)
    if known.gold.ndim == 2:
        share = known.gold.mean(axis=0)
        answers = np.tile((share > 0.5).astype(np.int64), (rows, 1))
        return replace(wanted, answers=answers, scores=np.tile(share, (rows, 1)))
    size = len(wanted.labels)  # of choices another row may have more
    share = np.bincount(known.gold, minlength=size)[:size] / len(known.gold)
    return replace(wanted, answers=np.full(rows, share.argmax()), scores=np.tile(share, (rows, 1)))


def mean(texts: Sequence[str], known: Predictions, asked: Sequence[str], wanted: Predictions) -> Predictions:
    """The mean of each target."""
    return replace(wanted, answers=np.tile(known.gold.mean(axis=0), (len(asked), 1)), scores=None)


def tfidf_logistic(texts: Sequence[str], known: Predictions, asked: Sequence[str], wanted: Predictions) -> Predictions:
    """Logistic regression on TF-IDF of words and pairs of words; one model a label when a row can have several."""
    seen, new = _features(texts, asked)
    size = len(known.labels)
    if known.gold.ndim == 2:
        columns = [_probability(seen, known.gold[:, place], new) for place in range(size)]
        scores = np.stack(columns, axis=1)
        return replace(wanted, answers=(scores >= 0.5).astype(np.int64), scores=scores)
    scores = np.zeros((len(asked), size))
    classes = np.unique(known.gold)
    if len(classes) == 1:
        scores[:, classes[0]] = 1.0
    else:
        model = LogisticRegression(C=10.0, max_iter=1000).fit(seen, known.gold)
        scores[:, model.classes_] = model.predict_proba(new)
    return replace(wanted, answers=scores.argmax(axis=1), scores=scores)


def tfidf_ridge(texts: Sequence[str], known: Predictions, asked: Sequence[str], wanted: Predictions) -> Predictions:
    """Ridge regression on TF-IDF of words and pairs of words."""
    seen, new = _features(texts, asked)
    answers = Ridge(alpha=1.0, solver="lsqr").fit(seen, known.gold).predict(new).reshape(len(asked), -1)
    return replace(wanted, answers=answers, scores=None)


def no_answer(texts: Sequence[str], known: Predictions, asked: Sequence[str], wanted: Predictions) -> Predictions:
    """Never an answer."""
    return replace(wanted, answers=objects([("",)] * len(asked)), extras={})


def copy(texts: Sequence[str], known: Predictions, asked: Sequence[str], wanted: Predictions) -> Predictions:
    """The beginning of the text that was given, as long as right texts are in the middle."""
    words = int(np.median([len(gold[0].split()) for gold in known.gold])) or 1
    return replace(wanted, answers=objects([(" ".join(text.split()[:words]),) for text in asked]), extras={})


def nearest_text(texts: Sequence[str], known: Predictions, asked: Sequence[str], wanted: Predictions) -> Predictions:
    """The right text of the training row that is most alike by TF-IDF."""
    seen, new = _features(texts, asked)
    found = []
    for start in range(0, len(asked), ROWS_AT_ONCE):
        found += np.asarray((new[start : start + ROWS_AT_ONCE] @ seen.T).argmax(axis=1)).ravel().tolist()
    return replace(wanted, answers=objects([(known.gold[place][0],) for place in found]), extras=_facts(wanted))


def _facts(wanted: Predictions) -> dict[str, NDArray[Any]]:
    """What rows are judged by, whoever answers; numbers are of the model's own answers."""
    return {name: values for name, values in wanted.extras.items() if values.dtype == object}


def phrase_lookup(texts: Sequence[str], known: Predictions, asked: Sequence[str], wanted: Predictions) -> Predictions:
    """Every phrase that is mostly an entity in the training rows, the longest first, with its most frequent label."""
    labels: dict[tuple[str, ...], Counter[str]] = {}
    for text, spans in zip(texts, known.gold, strict=True):
        for start, end, label in spans:
            labels.setdefault(tuple(WORD.findall(text[start:end])), Counter())[label] += 1
    longest = max(map(len, labels), default=0)
    seen: Counter[tuple[str, ...]] = Counter()
    for text in texts:
        words = WORD.findall(text)
        for size in range(1, longest + 1):
            phrases = (tuple(words[at : at + size]) for at in range(len(words) - size + 1))
            seen.update(phrase for phrase in phrases if phrase in labels)
    kept = {
        phrase: counts.most_common(1)[0][0]
        for phrase, counts in labels.items()
        if phrase and 2 * counts.total() >= seen[phrase]
    }
    return replace(wanted, answers=objects([_looked_up(text, kept, longest) for text in asked]), extras={})


def _looked_up(text: str, labels: Mapping[tuple[str, ...], str], longest: int) -> tuple[tuple[int, int, str], ...]:
    words = list(WORD.finditer(text))
    found = []
    at = 0
    while at < len(words):
        for size in range(min(longest, len(words) - at), 0, -1):
            label = labels.get(tuple(word[0] for word in words[at : at + size]))
            if label is not None:
                found.append((words[at].start(), words[at + size - 1].end(), label))
                at += size - 1
                break
        at += 1
    return tuple(found)


def _probability(seen: Any, gold: NDArray[Any], new: Any) -> NDArray[np.float64]:
    if len(np.unique(gold)) == 1:
        return np.full(new.shape[0], float(gold[0]))
    model = LogisticRegression(C=10.0, max_iter=1000).fit(seen, gold)
    found: NDArray[np.float64] = expit(model.decision_function(new))
    return found


def _features(texts: Sequence[str], asked: Sequence[str]) -> tuple[Any, Any]:
    if not any(texts):
        return csr_matrix((len(texts), 1)), csr_matrix((len(asked), 1))
    words = float(np.mean([len(text.split()) for text in texts[:1000]]))
    shape = {"analyzer": "char", "ngram_range": (1, 3)} if words < FEW_WORDS else {"ngram_range": (1, 2)}
    # The default pattern leaves out words of one character, and with them whole texts.
    pattern = {} if "analyzer" in shape else {"token_pattern": r"\w+|[^\w\s]"}
    vectorizer = TfidfVectorizer(sublinear_tf=True, max_features=MOST_FEATURES, **shape, **pattern)
    return vectorizer.fit_transform(texts), vectorizer.transform(asked)
