"""Simple models that a tuned one must beat, trained on the same rows.

Each takes the texts to learn from and their gold (a Predictions whose `gold` is used), and the texts to answer with
theirs, and gives predictions for the latter.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from scipy.special import expit
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge

from tunesmith.contracts import Predictions

FEW_WORDS = 3
"""Texts with fewer space-separated words than this on average are taken apart into characters (Chinese, Japanese)."""
MOST_FEATURES = 200_000


def majority(texts: Sequence[str], known: Predictions, asked: Sequence[str], wanted: Predictions) -> Predictions:
    """The most frequent label; of several a row, those that more than half of the rows have."""
    rows, size = len(asked), len(known.labels)
    if known.gold.ndim == 2:
        share = known.gold.mean(axis=0)
        answers = np.tile((share > 0.5).astype(np.int64), (rows, 1))
        return replace(wanted, answers=answers, scores=np.tile(share, (rows, 1)))
    share = np.bincount(known.gold, minlength=size) / len(known.gold)
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
