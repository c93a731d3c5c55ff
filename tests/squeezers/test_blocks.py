"""Blocks of rows, threads, memory, and squeezers one after the other."""

import subprocess
import sys
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import sklearn
from joblib import effective_n_jobs, parallel_config
from joblib.parallel import ThreadingBackend
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.utils import gen_even_slices

from sk_advdef import (
    BitDepthSqueezer,
    BlurSqueezer,
    Downscaler,
    GrayscaleSqueezer,
    JpegSqueezer,
    MedianSqueezer,
)
from sk_advdef.squeezers import _base

SQUEEZERS = {
    "blur": BlurSqueezer(),
    "downscale": Downscaler(0.4),
    "shrink": Downscaler(0.4, restore=False),
    "bits": BitDepthSqueezer(3),
    "median": MedianSqueezer(),
    "gray": GrayscaleSqueezer(),
    "jpeg": JpegSqueezer(60),
}
SHAPES = [(21, 13, 3), (32, 32, 3), (200, 150, 3), (131, 3, 140)]


@pytest.fixture(params=SQUEEZERS)
def squeezer(request):
    return clone(SQUEEZERS[request.param])


def images(*shape, dtype=np.float32):
    values = np.random.default_rng(0).uniform(0, 255, size=shape)
    return values.round().astype(dtype) if dtype == np.uint8 else values.astype(dtype)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint8])
def test_blocks_and_threads_change_no_bit(squeezer, shape, dtype, monkeypatch):
    X = images(5, *shape, dtype=dtype)
    if "channel_axis" in squeezer.get_params():
        squeezer.set_params(channel_axis=shape.index(3))
    squeezer.fit(X)
    whole = squeezer.transform(X)
    threads = clone(squeezer).set_params(n_jobs=2).fit(X)
    for rows in (1, 3):
        for fitted in (squeezer, threads):
            monkeypatch.setattr(fitted, "_block", rows * X[0].size * max(X.itemsize, 4))
            np.testing.assert_array_equal(fitted.transform(X), whole)


@pytest.mark.parametrize("width", [6, 37, 150, 784])
@pytest.mark.parametrize("name", ["blur", "downscale", "shrink", "bits", "median"])
@pytest.mark.filterwarnings("ignore:.* one-dimensional signals")
def test_signals_do_not_hang_on_the_batch(name, width):
    X = images(50, width)
    squeezer = clone(SQUEEZERS[name]).fit(X)
    squeezed = squeezer.transform(X)
    for rows in (1, 7, 31):
        parts = [squeezer.transform(X[i : i + rows]) for i in range(0, 50, rows)]
        np.testing.assert_array_equal(np.concatenate(parts), squeezed)
    order = np.random.default_rng(1).permutation(50)
    np.testing.assert_array_equal(squeezer.transform(X[order]), squeezed[order])


def peak(function):
    """Return what NumPy held at most, beside what there was, in bytes."""
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


#: Room for a few blocks and what is computed on the way.
SOME_BLOCKS = 12 << 20


@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
@pytest.mark.parametrize("n_jobs", [None, 2])
def test_memory_is_the_output_and_some_blocks(squeezer, dtype, n_jobs, tmp_path):
    X = np.lib.format.open_memmap(
        tmp_path / "X.npy", mode="w+", dtype=dtype, shape=(6000, 32, 32, 3)
    )
    X[:] = images(1, 32, 32, 3, dtype=dtype)
    X = np.load(tmp_path / "X.npy", mmap_mode="r")
    squeezer.set_params(n_jobs=n_jobs)
    assert peak(lambda: squeezer.fit(X)) < SOME_BLOCKS
    squeezed = squeezer.transform(X[:2])
    most = squeezed.nbytes * 3000 + SOME_BLOCKS * (n_jobs or 1)
    assert peak(lambda: squeezer.transform(X)) < most


LITTLE_MEMORY = """
import resource, sys
from pathlib import Path
import numpy as np
from sklearn.utils import gen_batches
import sk_advdef
from sk_advdef import Downscaler, GrayscaleSqueezer

X = np.load(sys.argv[1], mmap_mode="r")
kinds = {kinds}
# One of each beforehand, so that what they import is there.
for kind in kinds:
    getattr(sk_advdef, kind)().fit_transform(X[:2])
status = Path("/proc/self/status").read_text().splitlines()
(line,) = (line for line in status if line.startswith("VmData"))
most = 1024 * int(line.split()[1]) + {room}
resource.setrlimit(resource.RLIMIT_DATA, (most, most))
try:
    np.ones(X.shape, X.dtype)
except MemoryError:
    print("there is less memory than input")
for smaller in (
    Downscaler(0.1, restore=False), GrayscaleSqueezer(keep_channels=False)
):
    print(smaller.fit_transform(X).shape)
for kind in kinds:
    squeezer = getattr(sk_advdef, kind)().fit(X)
    for rows in list(gen_batches(len(X), 500))[::30]:
        assert squeezer.transform(X[rows]).shape == X[rows].shape
    print(kind)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="asks Linux")
def test_input_may_be_larger_than_memory(tmp_path):
    # a file with a hole in it: it takes no place on the disk
    X = np.lib.format.open_memmap(
        tmp_path / "X.npy", mode="w+", dtype=np.float32, shape=(20000, 32, 32, 3)
    )
    X[:9] = images(9, 32, 32, 3)
    X.flush()
    kinds = sorted({type(squeezer).__name__ for squeezer in SQUEEZERS.values()})
    code = LITTLE_MEMORY.format(kinds=kinds, room=X.nbytes // 2)
    run = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "X.npy"], capture_output=True, text=True
    )
    assert run.stdout.splitlines() == [
        "there is less memory than input",
        "(20000, 3, 3, 3)",
        "(20000, 32, 32, 1)",
        *kinds,
    ], run.stderr


@pytest.mark.parametrize("n_jobs", [None, 2])
def test_bad_values_are_found_in_any_block(squeezer, n_jobs):
    X = images(90, 32, 32, 3)
    squeezer.set_params(n_jobs=n_jobs).fit(X)
    for value, message in [(-np.inf, "contains infinity"), (np.nan, "contains NaN")]:
        X[-1, 5, 5, 1] = value
        with pytest.raises(ValueError, match=f"Input X {message}"):
            squeezer.transform(X)
    # ... and left alone where scikit-learn is told that there are none
    if isinstance(squeezer, BlurSqueezer):
        with sklearn.config_context(assume_finite=True):
            squeezed = squeezer.transform(X)
        assert np.isfinite(squeezed[:-1]).all()
        assert not np.isfinite(squeezed[-1]).all()


@pytest.mark.parametrize("name", ["blur", "bits", "median"])
def test_large_values_are_no_bad_values(name):
    X = images(3, 8, 8) * np.float32(1e30)
    assert np.isfinite(clone(SQUEEZERS[name]).fit_transform(X)).all()


def test_no_threads_at_all_is_an_error():
    with pytest.raises(ValueError, match="The 'n_jobs' parameter of BlurSqueezer"):
        BlurSqueezer(n_jobs=0).fit_transform(np.eye(3))


class ManyHosts(ThreadingBackend):
    """A backend that counts cores elsewhere, as dask's does whatever it is asked."""

    default_n_jobs = -1

    def effective_n_jobs(self, n_jobs):
        return 64


@pytest.mark.parametrize("n_jobs, opened", [(None, []), (1, []), (2, [2])])
def test_cores_of_other_hosts_are_not_counted(n_jobs, opened, monkeypatch):
    pools, done = [], []

    class Pool(ThreadPoolExecutor):
        def __init__(self, threads):
            pools.append(threads)
            super().__init__(threads)

    monkeypatch.setattr(_base, "ThreadPoolExecutor", Pool)
    blocks = list(gen_even_slices(8, 8))
    with parallel_config(backend=ManyHosts()):
        assert effective_n_jobs(n_jobs) == (1 if n_jobs == 1 else 64)
        _base.run_blocks(done.append, blocks, n_jobs)
    assert pools == opened
    assert sorted(s.start for s in done) == list(range(8))


def test_squeezers_in_a_row_are_each_applied_once_in_order():
    X = images(4, 16, 16, 3) / 255
    steps = [clone(s).fit(X) for s in (Downscaler(), BitDepthSqueezer(2))]
    for first, last in (steps, steps[::-1]):
        pipe = make_pipeline(clone(first), clone(last)).fit(X)
        squeezed = pipe.transform(X)
        once = clone(last).fit(first.transform(X)).transform(first.transform(X))
        np.testing.assert_array_equal(squeezed, once)
        twice = clone(last).fit_transform(clone(last).fit_transform(X))
        assert not np.array_equal(squeezed, twice)
