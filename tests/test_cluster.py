"""A dask cluster of processes finds what one process finds."""

import dataclasses
import os
import time

import dask
import dask.array as da
import joblib
import numpy as np
import psutil
import pytest
import torch
from dask.distributed import Client, LocalCluster, get_task_stream
from sklearn.ensemble import RandomForestClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from sk_advdef import (
    PGD,
    AdversariallyAugmentedClassifier,
    BitDepthSqueezer,
    DropoutUncertaintyDetector,
    RandomSearch,
    RejectingClassifier,
    TreeExact,
    evaluate_robustness,
    make_robust_scorer,
)
from sk_advdef._torch._net import NetClassifier
from sk_advdef.evaluation import _trials
from tests._instances import make_rows, small_net

ANYWHERE = {"bounds": None, "random_state": 0}
ASKING = RandomSearch(0.6, max_queries=20, **ANYWHERE)


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    """A client of two workers; they must be gone afterwards."""
    with (
        LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            processes=True,
            memory_limit=None,
            dashboard_address="127.0.0.1:0",
            local_directory=tmp_path_factory.mktemp("dask"),
        ) as cluster,
        Client(cluster) as client,
    ):
        workers = list(client.run(os.getpid).values())
        assert len({os.getpid(), *workers}) == 3
        yield client
    deadline = time.monotonic() + 30
    while any(map(psutil.pid_exists, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(psutil.pid_exists, workers))


@pytest.fixture
def on_cluster(client):
    """Run a function with joblib's dask backend, and make sure that workers ran it."""

    def run(function):
        with get_task_stream(client) as stream, joblib.parallel_config(backend="dask"):
            found = function()
        assert any("batch_of_" in str(task["key"]) for task in stream.data)
        return found

    return run


def rows():
    X, y = make_rows(n_samples=120)
    return X.astype(np.float32), y


def test_a_worker_has_one_thread(client):
    assert set(client.run(torch.get_num_threads).values()) == {1}


def test_search(on_cluster):
    X, y = rows()
    attack = PGD(0.3, steps=3, **ANYWHERE)
    pipe = make_pipeline(
        BitDepthSqueezer(3),
        AdversariallyAugmentedClassifier(
            small_net(max_epochs=3), attack=attack, random_state=0
        ),
    )
    params = {
        "param_grid": [
            {"bitdepthsqueezer__bits": [1]},
            {"adversariallyaugmentedclassifier__attack__eps": [0.6]},
        ],
        "scoring": {
            "clean": "accuracy",
            "robust": make_robust_scorer([attack, ASKING]),
        },
        "refit": "robust",
        "cv": 2,
        "error_score": "raise",
    }
    here = GridSearchCV(pipe, **params).fit(X, y)
    there = on_cluster(lambda: GridSearchCV(pipe, **params).fit(X, y))
    assert len({*here.cv_results_["mean_test_robust"]}) > 1
    for name, values in here.cv_results_.items():
        if "time" not in name:
            np.testing.assert_array_equal(there.cv_results_[name], values, name)
    assert there.best_params_ == here.best_params_
    np.testing.assert_array_equal(there.predict_proba(X), here.predict_proba(X))


def rejecting():
    """A classifier that rejects by dropout of its net."""
    X, y = rows()
    net = NetClassifier(small_net(max_epochs=8), random_state=0).fit(X, y)
    detector = DropoutUncertaintyDetector(
        n_passes=4, contamination=0.05, random_state=0
    )
    return RejectingClassifier(FrozenEstimator(net), detector).fit(X, y)


def forest():
    """A model of which TreeExact asks for further tasks, from within a task."""
    return RandomForestClassifier(5, max_depth=3, random_state=0).fit(*rows())


@pytest.mark.parametrize(
    "make, attack",
    [
        (rejecting, PGD(0.6, steps=3, **ANYWHERE)),
        (forest, TreeExact(0.6, bounds=None)),
    ],
)
def test_evaluation(make, attack, on_cluster, monkeypatch):
    monkeypatch.setattr(_trials, "ROWS_AT_A_TIME", 6)
    model, (X, y) = make(), rows()

    def evaluate():
        report = evaluate_robustness(
            model, X[:12], y[:12], attacks=[attack, ASKING], **ANYWHERE
        )
        found = dataclasses.asdict(report)
        assert all(line.pop("seconds") >= 0 for line in found["attacks"])
        return found

    here, there = evaluate(), on_cluster(evaluate)
    assert 0 < here["held"].sum() < here["evaluated"].sum() == 12
    np.testing.assert_equal(there, here)


@pytest.mark.parametrize("method", ["predict", "decision_function"])
def test_blocks_of_rows(method, client):
    X, _ = rows()
    detector = rejecting().detector_
    answers = da.from_array(X, chunks=(25, -1)).map_blocks(
        lambda rows, model: getattr(model, method)(rows),
        dask.delayed(detector),
        drop_axis=1,
        dtype=np.float64,
        meta=np.empty(0),
    )
    with get_task_stream(client) as stream:
        found = answers.compute()
    assert any("lambda" in str(task["key"]) for task in stream.data)
    expected = getattr(detector, method)(X)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
