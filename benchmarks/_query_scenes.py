"""Models, monitors and genuine rows for the benchmark of queries."""

import functools
import os
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression

from benchmarks._pictures import StrideNet, pictures, trained
from benchmarks._query_attacks import Fast
from sk_advdef import SimilarQueryDetector
from sk_advdef.concealment._history import Query
from sk_advdef.concealment._matching import Look

SECRET = "the secret of a benchmark, which protects nothing"

#: Rows to train the model on, epochs, channels of its first convolution, rows to fit
#: the monitor on, and radii of the attackers' balls.
SETS: dict[str, dict[str, Any]] = {
    "mnist": {"train": 20000, "epochs": 4, "width": 16, "fit": 4000}
    | {"linf": 0.15, "l2": 2.0},
    "cifar10": {"train": 15000, "epochs": 6, "width": 24, "fit": 4000}
    | {"linf": round(8 / 255, 6), "l2": 0.5},
    "cancer": {"train": 200, "epochs": 0, "width": 0, "fit": 300}
    | {"linf": 0.1, "l2": 0.3},
    # for quick runs
    "digits": {"train": 700, "epochs": 4, "width": 4, "fit": 300}
    | {"linf": 0.15, "l2": 2.0},
}
#: False positives that the threshold is made for; a small set cannot tell of fewer.
RATES = {"mnist": 0.001, "cifar10": 0.001, "cancer": 0.005, "digits": 0.01}


class Scene(NamedTuple):
    """A model and rows, all of which are genuine and none of which is used twice.

    ``history`` and ``sessions`` may be rows that the model has learned from.
    """

    model: Any
    fit: np.ndarray
    history: np.ndarray
    sessions: np.ndarray
    victims: np.ndarray
    labels: np.ndarray
    learned: tuple[np.ndarray, np.ndarray]
    labels_of_sessions: np.ndarray


@functools.cache
def scene(data: str, folder: Path | None) -> Scene:
    own = SETS[data]
    if data == "cancer":
        return _table(own)
    n_train, n_test = {"mnist": (60000, 10000), "cifar10": (50000, 10000)}.get(
        data, (1000, 797)
    )
    X, y, X_test, y_test = pictures(data, folder, n_train, n_test)
    n = own["train"]
    sizes = {"module__channels": X.shape[3] if X.ndim == 4 else 1}
    net = trained(
        StrideNet, X[:n], y[:n], own["epochs"], module__width=own["width"], **sizes
    )
    model = Fast(net)
    fit, rest, labels = X_test[: own["fit"]], X_test[own["fit"] :], y_test[own["fit"] :]
    right = model.predict(rest) == labels
    cut = n_train - n_train // 5
    return Scene(
        model,
        fit,
        X[:cut],
        X[cut:],
        rest[right],
        labels[right],
        (X[:n], y[:n]),
        y[cut:],
    )


def _table(own: dict[str, Any]) -> Scene:
    X, y = load_breast_cancer(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(X))
    X, y = X[order], y[order]
    n, fit = own["train"], own["fit"]
    low, high = X[:fit].min(axis=0), X[:fit].max(axis=0)
    X = np.clip((X - low) / (high - low), 0, 1).astype(np.float32)
    model = LogisticRegression(C=100, max_iter=5000).fit(X[:n], y[:n])
    right = model.predict(X[fit:]) == y[fit:]
    return Scene(
        model,
        X[:fit],
        X[:fit],
        X[fit:],
        X[fit:][right],
        y[fit:][right],
        (X[:n], y[:n]),
        y[fit:],
    )


@functools.cache
def monitor(
    data: str, method: str, scope: str, size: int, folder: Path | None
) -> SimilarQueryDetector:
    """Fit a monitor whose threshold is made for a history of ``size`` rows."""
    os.environ.setdefault("SK_ADVDEF_SECRET", SECRET)
    detector = SimilarQueryDetector(
        method=method,
        scope=scope,
        history_size=size,
        false_positive_rate=RATES[data],
        max_rows=200_000,
        account_quota=200_000,
        random_state=0,
    )
    with warnings.catch_warnings():
        # small images in rows need not be squares here
        warnings.simplefilter("ignore", UserWarning)
        return detector.fit(scene(data, folder).fit)


def remembering(
    detector: SimilarQueryDetector, rows: np.ndarray, *, accounts: int = 50
) -> Any:
    """Return a fresh watch of a detector that remembers genuine rows of others.

    Neighbors are put into the history without being compared, which takes long and
    changes nothing; the graph of predecessors needs the comparison.
    """
    watch = detector._make_watch()
    flat = detector._checked(rows)
    if detector.method_ != "knn":
        for i, row in enumerate(flat):
            detector._observe(row[None], [f"user {i % accounts}"], watch)
        return watch
    codes = detector._codes(flat, watch)
    for i, code in enumerate(codes):
        query = Query(b"%16d" % (i % accounts), detector._now(), i, code)
        watch.history._remember(query, Look(np.inf))
    return watch


def alarms(
    detector: SimilarQueryDetector,
    watch: Any,
    rows: np.ndarray,
    account: Any,
    *,
    first: bool = False,
) -> np.ndarray:
    """Let an account ask row by row; return which are flagged, up to the first."""
    flat = detector._checked(rows)
    found = []
    for row in flat:
        seen = detector._observe(row[None], [account], watch)[0]
        found.append(seen.score < detector.offset_)
        if first and found[-1]:
            break
    return np.array(found, dtype=bool)
