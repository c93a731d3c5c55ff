"""What it costs to share work: joblib's loky and dask beside one process.

Two jobs, each done in four ways:

- "one thread": one process, in which torch and BLAS have one thread.
- "threads": one process, in which they have as many threads as others have processes.
- "loky": joblib's own processes, one thread each, started before the clock.
- "dask": a `LocalCluster` of as many workers on the same machine, one thread each,
  started before the clock; joblib's dask backend. dask's own `MALLOC_TRIM_THRESHOLD_`,
  which slows torch, is unset, as docs/scaling.md advises.

*Search* is `GridSearchCV` over a Pipeline of a squeezer and adversarial training of a
small net, scored by accuracy and by accuracy under attack; its tasks are candidates
times folds. *Evaluation* is one `evaluate_robustness` of such a Pipeline; its tasks are
blocks of 256 rows. Ways run in turn, round by round, and a ratio compares two of the
same round: figures are medians, with the lowest and the highest, without a first round
that each process needs to import. Nothing is reported unless loky and dask find exactly
what one thread finds.

*Crowding* is what the machine itself takes: how much longer the same arithmetic takes
in each worker while all of them do it, than in one while the others wait. Virtual cores
may share a real one; at 2 with two workers, nothing can be won by sharing.

*Overhead* is what a task costs beyond itself: functions that do nothing, each with an
array of its own, one to a worker at a time; seconds divided by tasks. joblib puts short
tasks together where it may, so this is the most that is paid.

*Start* is the time from nothing until each worker has imported torch and this package
and answered, and the time until all are closed.

All is on one machine, where a network costs nothing, and where processes cannot be
faster than one thread by more than their number.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from joblib import Parallel, delayed, parallel_config
from joblib.externals.loky import get_reusable_executor
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from skorch import NeuralNetClassifier
from threadpoolctl import threadpool_limits
from torch import nn

from benchmarks._cluster_tables import DASK, LOKY, ONE, THREADS, table
from benchmarks._harness import arguments, ratios, spread, unit, version
from benchmarks._pictures import StrideNet, pictures
from sk_advdef import (
    APGD,
    PGD,
    AdversariallyAugmentedClassifier,
    BitDepthSqueezer,
    RandomSearch,
    evaluate_robustness,
    make_robust_scorer,
)

__all__ = ["main", "table"]

PACKAGES = ("dask", "distributed", "joblib")
#: Bytes that a task is given.
SIZES = (0, 1_000_000, 10_000_000)


@contextmanager
def one_process(threads: int) -> Iterator[None]:
    """One process with so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with threadpool_limits(threads):
            yield
    finally:
        torch.set_num_threads(before)


def loky(processes: int) -> parallel_config:
    """Use processes of joblib's own, a thread each; they stay for the next use."""
    return parallel_config("loky", n_jobs=processes, inner_max_num_threads=1)


@contextmanager
def no_loky_left() -> Iterator[None]:
    """End joblib's own processes afterwards."""
    try:
        yield
    finally:
        get_reusable_executor().shutdown(wait=True, kill_workers=True)


@contextmanager
def cluster(processes: int) -> Iterator[None]:
    """Start a cluster on this machine, of workers with a thread each."""
    import dask
    from dask.distributed import Client, LocalCluster

    # Else all processes started from here on, loky's too, give memory back after each
    # batch and fault it in again.
    kept = {"distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": None}
    with (
        dask.config.set(kept),
        LocalCluster(
            n_workers=processes,
            threads_per_worker=1,
            processes=True,
            memory_limit=None,
            dashboard_address="127.0.0.1:0",
        ) as workers,
        Client(workers),
    ):
        yield


def _threads(pause: float) -> int:
    """Import what the jobs need; long enough for each worker to get such a task."""
    import sk_advdef

    assert sk_advdef.evaluate_robustness
    time.sleep(pause)
    return torch.get_num_threads()


def warm(processes: int) -> None:
    """Have each worker import what is needed, and see that it has one thread."""
    tasks = (delayed(_threads)(0.3) for _ in range(2 * processes))
    found = set(Parallel(batch_size=1)(tasks))
    if found != {1}:
        raise RuntimeError(f"workers have {found} threads, not one each")


def _arithmetic() -> float:
    """Return seconds of some, the same each time."""
    square = torch.full((600, 600), 1e-3)
    start = time.perf_counter()
    for _ in range(400):
        square @ square
    return time.perf_counter() - start


def crowding(processes: int) -> float:
    """Return by how much all workers at once are slower than one."""
    alone, together = (
        np.mean(Parallel(batch_size=1)(delayed(_arithmetic)() for _ in range(n)))
        for n in (1, processes)
    )
    return float(together / alone)


def in_turn(
    run: Callable[[], Any], processes: int, rounds: int
) -> tuple[dict[str, Any], Any]:
    """Time a job in each way, after a round untimed; return what it finds too."""
    ways: dict[str, Callable[[], Any]] = {
        ONE: partial(one_process, 1),
        THREADS: partial(one_process, processes),
        LOKY: partial(loky, processes),
        DASK: partial(parallel_config, "dask"),
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    crowded = []
    with cluster(processes), no_loky_left():
        for number in range(rounds + 1):
            found = {}
            for way, using in ways.items():
                with using():
                    if way in (LOKY, DASK):
                        warm(processes)
                    began = time.perf_counter()
                    found[way] = run()
                    if number:
                        seconds[way].append(time.perf_counter() - began)
            with parallel_config("dask"):
                crowded.append(crowding(processes))
            for way in (LOKY, DASK):
                np.testing.assert_equal(found[way], found[ONE])
    return {
        "seconds": {n: [float(f"{s:.4g}") for s in v] for n, v in seconds.items()},
        "ratios": {n: spread(v) for n, v in ratios(seconds, to=ONE).items()},
        "crowding": spread(crowded),
    }, found[ONE]


def defended(eps: float, epochs: int, steps: int, seed: int) -> Any:
    """Return the Pipeline that both jobs are about."""
    net = NeuralNetClassifier(
        StrideNet,
        criterion=nn.CrossEntropyLoss,
        optimizer=torch.optim.Adam,
        lr=1e-3,
        batch_size=128,
        max_epochs=epochs,
        iterator_train__shuffle=True,
        train_split=None,
        verbose=0,
    )
    attack = PGD(eps, steps=steps, random_state=seed)
    return make_pipeline(
        BitDepthSqueezer(3, value_range=(0, 1)),
        AdversariallyAugmentedClassifier(net, attack=attack, random_state=seed),
    )


def search(
    *,
    data: str,
    rows: int,
    eps: float,
    epochs: int,
    steps: int,
    queries: int,
    bits: list[int],
    rates: list[float],
    folds: int,
    processes: int,
    rounds: int,
    seed: int,
    folder: Path | None,
) -> dict[str, Any]:
    """Time a search."""
    X, y, *_ = pictures(data, folder, rows, 1)
    attacks = [
        PGD(eps, steps=steps, random_state=seed),
        RandomSearch(eps, max_queries=queries, random_state=seed),
    ]
    step = "adversariallyaugmentedclassifier"
    searching = GridSearchCV(
        defended(eps, epochs, steps, seed),
        {"bitdepthsqueezer__bits": bits, f"{step}__estimator__lr": rates},
        scoring={"clean": "accuracy", "attacked": make_robust_scorer(attacks)},
        refit=False,
        cv=folds,
        error_score="raise",
    )

    def run() -> Any:
        results = searching.fit(X, y).cv_results_
        return {k: v for k, v in results.items() if k.startswith(("mean_t", "split"))}

    timed, found = in_turn(run, processes, rounds)
    return timed | {
        "tasks": len(bits) * len(rates) * folds,
        "best": float(f"{found['mean_test_attacked'].max():.4g}"),
    }


def evaluation(
    *,
    data: str,
    rows: list[int],
    eps: float,
    epochs: int,
    steps: int,
    queries: int,
    processes: int,
    rounds: int,
    seed: int,
    folder: Path | None,
) -> dict[str, Any]:
    """Time an evaluation."""
    X, y, X_test, y_test = pictures(data, folder, *rows)
    model = defended(eps, epochs, steps, seed).fit(X, y)
    attacks = [
        PGD(eps, loss="margin", random_state=seed),
        APGD(eps, random_state=seed),
        RandomSearch(eps, max_queries=queries, random_state=seed),
    ]

    def run() -> Any:
        report = evaluate_robustness(model, X_test, y_test, attacks=attacks)
        lines = [dataclasses.asdict(line) for line in report.attacks]
        for line in lines:
            del line["seconds"]
        return {"held": report.held, "attacks": lines}

    timed, found = in_turn(run, processes, rounds)
    return timed | {
        "tasks": -(-len(y_test) // 256),
        "best": float(f"{found['held'].mean():.4g}"),
    }


def _nothing(array: np.ndarray) -> int:
    return len(array)


def overhead(
    *, sizes: list[int], tasks: list[int], processes: int, rounds: int
) -> dict[str, Any]:
    """Measure milliseconds of tasks that do nothing, by the bytes they are given."""
    ways: dict[str, Any] = {
        ONE: partial(parallel_config, n_jobs=1),
        LOKY: partial(loky, processes),
        DASK: partial(parallel_config, "dask"),
    }
    found: dict[str, Any] = {way: [] for way in ways}
    with cluster(processes), no_loky_left():
        for size, n in zip(sizes, tasks, strict=True):
            taken: dict[str, list[float]] = {way: [] for way in ways}
            for _ in range(rounds):
                for way, using in ways.items():
                    arrays = [np.zeros(size, np.uint8) for _ in range(n)]
                    with using():
                        if way != ONE:
                            warm(processes)
                        start = time.perf_counter()
                        Parallel(batch_size=1)(map(delayed(_nothing), arrays))
                        taken[way].append(1e3 * (time.perf_counter() - start) / n)
            for way, values in taken.items():
                found[way].append(spread(values))
    return {"milliseconds": found}


def start(*, processes: int, rounds: int) -> dict[str, Any]:
    """Measure seconds until all workers have answered, and until all are closed."""

    ways: dict[str, tuple[Any, Any]] = {
        LOKY: (no_loky_left, partial(loky, processes)),
        DASK: (partial(cluster, processes), partial(parallel_config, "dask")),
    }
    found: dict[str, Any] = {way: {"start": [], "close": []} for way in ways}
    for _ in range(rounds):
        for way, (opened, using) in ways.items():
            began = time.perf_counter()
            with opened():
                with using():
                    warm(processes)
                ready = time.perf_counter()
            found[way]["start"].append(ready - began)
            found[way]["close"].append(time.perf_counter() - ready)
    return {
        way: {name: spread(values) for name, values in taken.items()}
        for way, taken in found.items()
    }


def tasks(quick: bool, folder: Path | None) -> list[tuple[str, dict[str, Any], Any]]:
    """Return name, params and function of each unit."""
    common: dict[str, Any] = {"processes": 2, "rounds": 1 if quick else 2}
    short = common | {"rounds": 1 if quick else 5}
    job = {"data": "mnist", "eps": 0.1, "epochs": 2, "steps": 5, "queries": 100}
    if quick:
        job |= {"data": "digits", "epochs": 1, "steps": 2, "queries": 5}
    job |= common | {"seed": 0}
    of_search = {"rows": 150 if quick else 2000, "folds": 2 if quick else 3}
    of_search |= {"bits": [1, 3], "rates": [1e-3] if quick else [1e-3, 3e-3]}
    rows = [150, 260] if quick else [4000, 1024]
    n_tasks = [8, 4, 2] if quick else [1000, 200, 40]
    return [
        ("search", job | of_search, partial(search, folder=folder)),
        ("evaluation", job | {"rows": rows}, partial(evaluation, folder=folder)),
        ("overhead", short | {"sizes": list(SIZES), "tasks": n_tasks}, overhead),
        ("start", short, start),
    ]


def main() -> None:
    given = arguments(__doc__)
    if version("distributed") is None:
        print("dask.distributed is not installed: nothing to run")
        return
    units = [
        unit("cluster", name, params, function, given.quick, packages=PACKAGES)
        for name, params, function in tasks(given.quick, given.data)
        if name.startswith(given.only)
    ]
    print(table(units))


if __name__ == "__main__":
    main()
