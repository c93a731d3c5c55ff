"""Rows of dask arrays, as they are and by blocks, and more rows than memory."""

import os
import subprocess
import sys
from pathlib import Path

import dask
import dask.array as da
import joblib
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from sk_advdef import (
    PGD,
    BitDepthSqueezer,
    DistilledClassifier,
    DropoutUncertaintyDetector,
    MedianSqueezer,
    RejectingClassifier,
    evaluate_robustness,
)
from tests._instances import INSTANCES, assert_same_outputs, outputs, small_net

ONE_OF_EACH = {type(instance.estimator): instance for instance in INSTANCES[::-1]}


def by_blocks(ask, X, like):
    """Ask by blocks of rows; answers are of the shape and the dtype of ``like``."""
    if like.ndim == X.ndim:
        shape = {"chunks": (X.chunks[0], *((n,) for n in like.shape[1:]))}
    else:
        shape = {"drop_axis": list(range(1, X.ndim))}
    meta = np.empty((0,) * like.ndim, like.dtype)
    return X.map_blocks(ask, dtype=like.dtype, meta=meta, **shape)


@pytest.mark.parametrize(
    "instance",
    [pytest.param(i, id=str(i), marks=i.marks) for i in ONE_OF_EACH.values()],
)
def test_dask_arrays_are_arrays(instance):
    X, y = instance.data()
    rows, labels = da.from_array(X, chunks=(25, -1)), da.from_array(y, chunks=25)
    fitted = clone(instance.estimator).fit(X, y)
    expected = outputs(fitted, X)
    with dask.config.set(scheduler="synchronous"):
        assert_same_outputs(outputs(fitted, rows), expected)
        again = clone(instance.estimator).fit(rows, labels)
        assert_same_outputs(outputs(again, X), expected)
    blocks = {
        method: by_blocks(getattr(fitted, method), rows, answers)
        for method, answers in expected.items()
    }
    assert {m: lazy.shape for m, lazy in blocks.items()} == {
        m: answers.shape for m, answers in expected.items()
    }
    (found,) = dask.compute(blocks, scheduler="threads", num_workers=2)
    assert_same_outputs(found, expected)


def test_stacked_images_by_blocks():
    images = np.random.default_rng(0).random((20, 8, 8), dtype=np.float32)
    squeezer = MedianSqueezer(3).fit(images)
    expected = squeezer.transform(images)
    rows = da.from_array(images, chunks=(7, -1, -1))
    found = by_blocks(squeezer.transform, rows, expected)
    np.testing.assert_array_equal(found.compute(scheduler="synchronous"), expected)


def test_attacks_and_evaluation_take_dask_arrays():
    X, y = INSTANCES[0].data()
    linear = LogisticRegression().fit(X, y)
    rows, labels = da.from_array(X, chunks=(25, -1)), da.from_array(y, chunks=25)
    attack = PGD(0.5, steps=3, bounds=None, random_state=0)
    with dask.config.set(scheduler="synchronous"):
        found = attack.perturb(linear, rows, labels)
        report = evaluate_robustness(linear, rows, labels, attacks=attack, bounds=None)
    assert type(found) is np.ndarray
    np.testing.assert_array_equal(found, attack.perturb(linear, X, y))
    held = evaluate_robustness(linear, X, y, attacks=attack, bounds=None).held
    assert 0 < held.sum() < len(y)
    np.testing.assert_array_equal(report.held, held)


LITTLE_MEMORY = """
import resource, sys
from pathlib import Path

import dask, dask.array as da, joblib, numpy as np
from sklearn.utils import gen_batches

path, models, answers = sys.argv[1:]
X = np.load(path, mmap_mode="r")
models = joblib.load(models)


def ask(method, block_info):
    start, stop = block_info[None]["array-location"][0]
    return method(np.load(path, mmap_mode="r")[start:stop])


def by_dask(method, n_rows, dtype):
    chunks = da.core.normalize_chunks(2000, (n_rows,))
    meta = np.empty(0, dtype)
    return da.map_blocks(ask, method, chunks=chunks, dtype=dtype, meta=meta).compute()


def by_hand(method, n_rows):
    blocks = gen_batches(n_rows, 2000)
    return np.concatenate([method(X[rows]) for rows in blocks])


dask.config.set(scheduler="synchronous")
methods = {
    f"{name} {method}": getattr(model, method)
    for name, model in models.items()
    for method in ("predict", "decision_function")
    if hasattr(model, method)
}
# Once beforehand, so that what they import and keep is there.
dtypes = {name: by_hand(method, 10).dtype for name, method in methods.items()}
for name, method in methods.items():
    by_dask(method, 10, dtypes[name])
status = Path("/proc/self/status").read_text().splitlines()
(line,) = (line for line in status if line.startswith("VmData"))
most = 1024 * int(line.split()[1]) + X.nbytes // 2
resource.setrlimit(resource.RLIMIT_DATA, (most, most))
try:
    models["squeezed"].predict(X)
except MemoryError:
    print("there is less memory than rows")
found = {}
for name, method in methods.items():
    found[name] = by_dask(method, len(X), dtypes[name])
    if name.startswith("squeezed"):
        np.testing.assert_array_equal(by_hand(method, len(X)), found[name])
joblib.dump(found, answers)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="asks Linux")
def test_rows_may_be_larger_than_memory(tmp_path):
    rng = np.random.default_rng(0)
    seen = rng.random((200, 784), dtype=np.float32)
    y = (seen[:, :400].sum(axis=1) > 200).astype(np.int64)
    linear = LogisticRegression(C=0.01)
    net = DistilledClassifier(small_net(max_epochs=5), temperature=1, random_state=0)
    net.fit(seen, y)
    detector = DropoutUncertaintyDetector(
        FrozenEstimator(net), n_passes=8, contamination=0.2, random_state=0
    ).fit(seen)
    squeezer = BitDepthSqueezer(2, value_range=(0, 1))
    models = {
        "squeezed": make_pipeline(squeezer, linear).fit(seen, y),
        "detector": detector,
        "rejecting": RejectingClassifier(FrozenEstimator(net), detector).fit(seen, y),
    }
    joblib.dump(models, tmp_path / "models.joblib")
    # a file with a hole in it: it takes no place on the disk
    X = np.lib.format.open_memmap(
        tmp_path / "X.npy", mode="w+", dtype=np.float32, shape=(32000, 784)
    )
    X[-100:] = seen[:100]
    X.flush()
    names = ("X.npy", "models.joblib", "answers.joblib")
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", LITTLE_MEMORY, *names],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert run.stdout == "there is less memory than rows\n", run.stderr
    for name, answers in joblib.load(tmp_path / "answers.joblib").items():
        model, method = name.split()
        expected = getattr(models[model], method)(X[-101:])
        assert len(answers) == len(X)
        assert len(set(answers[:-100])) == 1
        for found, wanted in ((answers[-101:], expected), (answers[:1], expected[:1])):
            if method == "predict":
                np.testing.assert_array_equal(found, wanted)
            else:
                np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
