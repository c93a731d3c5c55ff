"""Ten million rows from a file, scored in memory that does not grow with them."""

import multiprocessing
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skorch import NeuralNetClassifier

from benchmarks._load_watch import peak_of, settled
from benchmarks._pictures import short
from sk_advdef import (
    BitDepthSqueezer,
    DensityDetector,
    DropoutUncertaintyDetector,
    FeatureSqueezingDetector,
)

CLASSES = 3
#: Rows that are written at a time, and how many are made by each seed.
BLOCK = 100_000


def net() -> NeuralNetClassifier:
    import torch

    from sk_advdef.nets import DropoutMLP

    return NeuralNetClassifier(
        DropoutMLP,
        module__n_classes=CLASSES,
        module__hidden=(32,),
        criterion=torch.nn.CrossEntropyLoss,
        optimizer=torch.optim.Adam,
        lr=0.01,
        max_epochs=5,
        train_split=None,
        verbose=0,
    )


def linear() -> Any:
    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))


DETECTORS: dict[str, Callable[[], Any]] = {
    "density": lambda: DensityDetector(linear(), random_state=0),
    "density-net": lambda: DensityDetector(
        make_pipeline(StandardScaler(), net()), method="mahalanobis", random_state=0
    ),
    "squeezing": lambda: FeatureSqueezingDetector(
        linear(), squeezers=[("bits", BitDepthSqueezer(4))], random_state=0
    ),
    "dropout": lambda: DropoutUncertaintyDetector(
        make_pipeline(StandardScaler(), net()), n_passes=20, random_state=0
    ),
}


def made(n: int, features: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random((n, features), dtype=np.float32)


def write(path: Path, n: int, features: int, seed: int) -> None:
    """Write rows at random, a block at a time."""
    with path.open("wb") as file:
        for number, start in enumerate(range(0, n, BLOCK)):
            block = made(min(BLOCK, n - start), features, seed + 1 + number)
            file.write(block.tobytes())


def scored(
    name: str, path: Path, n: int, features: int, fitted_on: int, ends: int, seed: int
) -> dict[str, Any]:
    """Score the first rows of a file in this process, and watch its memory."""
    X = made(fitted_on, features, seed)
    detector = DETECTORS[name]().fit(X, X[:, :CLASSES].argmax(axis=1))
    rows = np.memmap(path, dtype=np.float32, mode="r", shape=(n, features))
    # what is imported and made once is there before
    detector.score_samples(rows[:ends])
    before = settled()
    with peak_of() as peak:
        start = time.perf_counter()
        scores = detector.score_samples(rows)
        seconds = time.perf_counter() - start
    alone = [detector.score_samples(part) for part in (rows[:ends], rows[-ends:])]
    together = [scores[:ends], scores[-ends:]]
    differences = [abs(a - b).max() for a, b in zip(alone, together, strict=True)]
    spread = float(np.subtract(*np.quantile(scores, [0.75, 0.25])))
    return {
        "rows": n,
        "megabytes": short((peak.bytes - before) / 2**20),
        "rows a second": short(n / seconds),
        "largest difference": float(f"{max(differences):.2g}"),
        "spread of scores": short(spread),
    }


def rows(
    *,
    detector: str,
    rows: list[int],
    features: int,
    fitted_on: int,
    ends: int,
    seed: int,
) -> dict[str, Any]:
    """Score so many rows, and so many, in a process that does nothing else."""
    spawned = multiprocessing.get_context("spawn")
    with (
        tempfile.TemporaryDirectory() as folder,
        ProcessPoolExecutor(1, mp_context=spawned) as process,
    ):
        path = Path(folder) / "rows"
        write(path, max(rows), features, seed)
        found = [
            process.submit(
                scored, detector, path, n, features, fitted_on, ends, seed
            ).result()
            for n in rows
        ]
    few, many = (found[i]["megabytes"] * 2**20 for i in (0, -1))
    grown = (many - few) / (rows[-1] - rows[0])
    return {"sizes": found, "bytes a row": float(f"{grown:.3g}")}
