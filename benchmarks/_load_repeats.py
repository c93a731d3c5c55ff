"""Estimators fitted and asked a thousand times in one process, and what stays of it."""

import asyncio
import json
import multiprocessing
import os
import tempfile
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from skorch import NeuralNetClassifier

from benchmarks._load_watch import held
from benchmarks._query_scenes import SECRET
from sk_advdef import (
    PGD,
    AdversariallyAugmentedClassifier,
    BitDepthSqueezer,
    CertifiedClassifier,
    ConcealedClassifier,
    DensityDetector,
    DistilledClassifier,
    DropoutUncertaintyDetector,
    FeatureSqueezingDetector,
    GuardedClassifier,
    MedianSqueezer,
    QueryGuardMiddleware,
    RejectingClassifier,
    SimilarQueryDetector,
    robust_accuracy_score,
)
from sk_advdef.nets import DropoutMLP

FEATURES = 16
Data = tuple[np.ndarray, np.ndarray]


def net() -> NeuralNetClassifier:
    import torch

    return NeuralNetClassifier(
        DropoutMLP,
        module__n_classes=2,
        module__hidden=(16,),
        criterion=torch.nn.CrossEntropyLoss,
        optimizer=torch.optim.Adam,
        max_epochs=1,
        train_split=None,
        verbose=0,
    )


def data(rows: int, seed: int) -> Data:
    X = np.random.default_rng(seed).random((rows, FEATURES), dtype=np.float32)
    return X, (X[:, 0] > X[:, 1]).astype(int)


def linear(X: np.ndarray, y: np.ndarray) -> FrozenEstimator:
    return FrozenEstimator(LogisticRegression().fit(X, y))


def attack() -> PGD:
    return PGD(0.1, steps=2, random_state=0)


def estimator(make: Callable[[], Any], method: str = "predict") -> Any:
    """Return what fits an estimator and asks it."""

    def run(X: np.ndarray, y: np.ndarray) -> None:
        getattr(make().fit(X, y), method)(X)

    return run


def guarded(X: np.ndarray, y: np.ndarray) -> None:
    """Ask a guard that counts and remembers in a file."""
    with tempfile.TemporaryDirectory() as folder:
        guard = GuardedClassifier(
            FrozenEstimator(ConcealedClassifier(linear(X, y))),
            limit="1000000/hour",
            monitor=SimilarQueryDetector(random_state=0),
            store=f"sqlite:///{folder}/guard.db",
            action="flag",
        )
        guard.fit(X, y).predict(X[:9], account="alice")
        # the file is removed, so that nobody asks any more
        del guard


def middleware(X: np.ndarray, y: np.ndarray) -> None:
    """Put a guard before an application, and ask that."""
    guard = GuardedClassifier(linear(X, y), limit="1000000/hour")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        guard.estimator.predict(scope["state"]["guard"].rows)
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def receive() -> Any:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        statuses.append(message["status"])

    body, statuses = json.dumps({"inputs": X[:2].tolist()}).encode(), []
    scope = {"type": "http", "method": "POST", "path": "/", "headers": []}
    asyncio.run(QueryGuardMiddleware(app, guard)(scope, receive, send))
    if statuses != [200]:
        raise RuntimeError(f"the application answered {statuses}")


#: One of each family, and what is around them.
RUNS: dict[str, Callable[[np.ndarray, np.ndarray], Any]] = {
    "squeezer": estimator(lambda: MedianSqueezer(3, image_shape=(4, 4)), "transform"),
    "distilled": estimator(lambda: DistilledClassifier(net(), random_state=0)),
    "augmented": estimator(
        lambda: AdversariallyAugmentedClassifier(
            net(), attack=attack(), random_state=0
        ),
    ),
    "certified": estimator(lambda: CertifiedClassifier(net(), eps=0.1, random_state=0)),
    "density": estimator(lambda: DensityDetector(net(), random_state=0)),
    "dropout": estimator(
        lambda: DropoutUncertaintyDetector(net(), n_passes=5, random_state=0)
    ),
    "rejecting": estimator(
        lambda: RejectingClassifier(
            LogisticRegression(),
            FeatureSqueezingDetector(
                squeezers=[("bits", BitDepthSqueezer(3))], random_state=0
            ),
        )
    ),
    "attacked": lambda X, y: robust_accuracy_score(
        linear(X, y), X[:20], y[:20], attack=attack()
    ),
    "monitor": estimator(lambda: SimilarQueryDetector(random_state=0), "observe"),
    "guarded": guarded,
    "middleware": middleware,
}


def repeated(name: str, rows: int, marks: list[int], seed: int) -> list[dict[str, int]]:
    """Run one so often; return what the process holds at each mark."""
    os.environ.setdefault("SK_ADVDEF_SECRET", SECRET)
    X, y = data(rows, seed)
    found = []
    with warnings.catch_warnings():
        # of so few rows
        warnings.simplefilter("ignore", UserWarning)
        for number in range(1, max(marks) + 1):
            RUNS[name](X, y)
            if number in marks:
                found.append(held())
    return found


def repeats(
    *, runs: list[str], rows: int, marks: list[int], seed: int
) -> dict[str, Any]:
    """Run one after the other in one process, which does nothing else."""
    spawned = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawned) as process:
        return {
            name: process.submit(repeated, name, rows, marks, seed).result()
            for name in runs
        }
