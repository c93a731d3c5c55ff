import re
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.lib.stride_tricks import sliding_window_view
from scipy.ndimage import median_filter
from skimage.filters import median as skimage_median
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline, make_union

from sk_advdef import PGD, BitDepthSqueezer, MedianSqueezer, SigmaZero
from sk_advdef.squeezers import _median_filter
from tests.squeezers._adaptive import accuracies, digits
from tests.squeezers._cases import CASES

DTYPES = [np.float32, np.float64, np.uint8]


def as_dtype(X, dtype):
    return (40 * X + 100).clip(0, 255).astype(dtype)


def sorted_windows(X, window, axes):
    """Sort all of each window and take the middle."""
    reach = [(0, 0)] * X.ndim
    for side, axis in zip(window, axes, strict=True):
        reach[axis] = (side // 2, side - 1 - side // 2)
    padded = np.pad(X, reach, mode="symmetric")
    windows = sliding_window_view(padded, window, axes).reshape(*X.shape, -1)
    return np.sort(windows, axis=-1)[..., np.prod(window) // 2]


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("window", [1, 2, 3, 4, 5, 7, 10, (2, 3), (5, 1), (1, 6)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_equals_scipy(case, window, dtype):
    if isinstance(window, tuple) and len(case.sides) == 1:
        window = max(window)
    X = as_dtype(case.samples(n=2), dtype)
    expected = median_filter(X, window, mode="reflect", axes=case.spatial)
    for arguments, rows in case.inputs(X):
        squeezer = MedianSqueezer(window, **arguments).fit(rows)
        squeezed = squeezer.transform(rows)
        assert squeezed.dtype == dtype
        np.testing.assert_array_equal(squeezed, expected.reshape(rows.shape))
    sides = window if isinstance(window, tuple) else (window,) * len(case.sides)
    assert squeezer.window_size_ == (1, *sides)[-2:]


@pytest.mark.parametrize("window", [2, 3, 5])
def test_equals_scikit_image(window):
    X = CASES["gray"].samples()
    expected = [skimage_median(x, np.ones((window, window)), mode="reflect") for x in X]
    np.testing.assert_array_equal(MedianSqueezer(window).fit_transform(X), expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["signal", "gray", "color"])
@pytest.mark.parametrize("side", [31, 45, 80])
def test_windows_wider_than_the_image(side, name, dtype):
    # scipy's own borders go wrong from eight lengths of an axis on
    case = CASES[name]
    window = (side,) if len(case.sides) == 1 else (2, side)
    X = as_dtype(case.samples(n=2), dtype)
    expected = sorted_windows(X, window, case.spatial)
    squeezed = MedianSqueezer(window, channel_axis=case.channel_axis).fit_transform(X)
    np.testing.assert_array_equal(squeezed, expected)


@given(
    X=hnp.arrays(
        st.sampled_from([np.float32, np.float64]),
        st.tuples(*(st.integers(1, side) for side in (3, 7, 7, 2))),
        elements=st.sampled_from([-np.inf, -7.5, -1, 1e-40, 1, 1.5, 1e30]),
    ).map(lambda X: np.where(np.isinf(X), X.dtype.type(-1e30), X)),
    window=st.tuples(st.integers(1, 5), st.integers(1, 5)),
)
def test_ties_and_odd_numbers(X, window):
    squeezed = MedianSqueezer(window).fit_transform(X)
    np.testing.assert_array_equal(squeezed, sorted_windows(X, window, (1, 2)))


@pytest.mark.parametrize("window", [(3, 3), (2, 2), (4, 5), (7, 7)])
@pytest.mark.parametrize("cache", [1, 1 << 12, 1 << 16])
@pytest.mark.parametrize("dtype", DTYPES)
def test_blocks_do_not_show(cache, window, dtype, monkeypatch):
    X = as_dtype(np.random.default_rng(0).normal(size=(3, 40, 17, 2)), dtype)
    expected = sorted_windows(X, window, (1, 2))
    monkeypatch.setattr(_median_filter, "CACHE", cache)
    squeezed = MedianSqueezer(window).fit_transform(X)
    np.testing.assert_array_equal(squeezed, expected)


@pytest.mark.parametrize("n_jobs", [2, -1])
def test_threads_do_not_show(n_jobs, monkeypatch):
    monkeypatch.setattr(MedianSqueezer, "_block", 1 << 12)
    X = CASES["color"].samples(n=30)
    expected = MedianSqueezer().fit_transform(X)
    squeezed = MedianSqueezer(n_jobs=n_jobs).fit_transform(X)
    np.testing.assert_array_equal(squeezed, expected)


@pytest.mark.parametrize(
    ("window", "shape"),
    [(2, (8, 600, 600)), (3, (8, 600, 600)), (3, (1, 1500, 1500)), (9, (8, 300, 300))],
)
def test_takes_at_most_twice_the_memory_of_its_input(window, shape):
    X = np.zeros(shape, dtype=np.float32)
    squeezer = MedianSqueezer(window).fit(X)
    tracemalloc.start()
    squeezer.transform(X)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # the result is one time the input, and the work on a block less than another
    assert peak <= 2 * X.nbytes


# properties

ODD = st.integers(0, 3).map(lambda half: 2 * half + 1)
IMAGES = hnp.arrays(
    np.float64,
    st.tuples(st.integers(1, 3), *(st.integers(1, 8),) * 2, st.integers(1, 2)),
    elements=st.floats(-100, 100, width=32),
)


@given(IMAGES, ODD, ODD)
def test_order_is_all_that_counts(X, height, width):
    squeezer = MedianSqueezer((height, width)).fit(X)
    squeezed = squeezer.transform(X)
    np.testing.assert_array_equal(squeezer.transform(2 * X + 1), 2 * squeezed + 1)
    np.testing.assert_array_equal(squeezer.transform(-X), -squeezed)
    turned = squeezer.transform(X[:, ::-1, ::-1])
    np.testing.assert_array_equal(turned, squeezed[:, ::-1, ::-1])
    for channel in range(X.shape[-1]):
        alone = squeezer.fit(X[..., [channel]]).transform(X[..., [channel]])
        np.testing.assert_array_equal(alone[..., 0], squeezed[..., channel])


@given(IMAGES, st.integers(1, 6))
def test_values_come_from_the_image(X, window):
    squeezed = MedianSqueezer(window).fit_transform(X)
    for before, after in zip(X.reshape(-1, 1), squeezed.reshape(-1, 1), strict=True):
        assert before.dtype == after.dtype
    for image, smooth in zip(X, squeezed, strict=True):
        assert np.isin(smooth, image).all()


def test_single_pixels_disappear_and_edges_stay():
    X = np.zeros((1, 12, 12))
    X[:, :, 6:] = 1
    noisy = X.copy()
    noisy[:, 2::4, 1::4] += 1e6
    np.testing.assert_array_equal(MedianSqueezer(3).fit_transform(noisy), X)


# inside other estimators


def test_pipelines_unions_and_columns():
    X, y = digits()
    X, y = X[:300], y[:300]
    squeezer = MedianSqueezer(2, image_shape="square")
    squeezed = squeezer.fit_transform(X)

    union = make_union(squeezer, "passthrough")
    np.testing.assert_array_equal(union.fit_transform(X), np.c_[squeezed, X])
    assert union.get_feature_names_out()[63] == "mediansqueezer__x63"

    left = ColumnTransformer(
        [("top", MedianSqueezer(2, image_shape=(4, 8)), slice(0, 32))],
        remainder="passthrough",
    ).fit(X)
    np.testing.assert_array_equal(left.transform(X)[:, 32:], X[:, 32:])
    np.testing.assert_array_equal(left.transform(X)[:, :16], squeezed[:, :16])

    pipe = make_pipeline(squeezer, BitDepthSqueezer(1, value_range=(0, 1)))
    np.testing.assert_array_equal(pipe.fit_transform(X), np.rint(squeezed))
    model = make_pipeline(pipe, LogisticRegression(max_iter=300)).fit(X, y)
    assert model.score(X, y) > 0.9


# attackers


@pytest.mark.parametrize("window", [2, 3])
@pytest.mark.parametrize(
    "attack", [PGD(0.12, steps=15), SigmaZero(steps=100)], ids=["many", "few"]
)
def test_is_worth_less_to_one_who_knows_it(window, attack):
    found = accuracies(MedianSqueezer(window, image_shape="square"), *digits(), attack)
    assert found.clean > 0.85
    # One who ignores it seems to lose; one who knows it does about as well as without.
    assert found.ignores > found.undefended + 0.15
    assert found.knows < found.ignores - 0.15
    assert found.knows < found.undefended + 0.15


# bad input


BAD = [0, -1, 2.0, np.nan, "3", None, True, (), (3, 3.0), (1, 2, 3), (3, 0), {3: 3}]


@pytest.mark.parametrize(
    ("shape", "bad", "allowed"),
    [
        ((8, 8), [*BAD, (3,)], "an int in [1, inf) or a pair (height, width) of them"),
        ((20,), [*BAD, (2, 3)], "an int in [1, inf)"),
    ],
)
def test_bad_window_size(shape, bad, allowed):
    for window in bad:
        message = (
            f"The 'window_size' parameter of MedianSqueezer must be {allowed}. "
            f"Got {window!r} instead."
        )
        with pytest.raises(ValueError, match=re.escape(message)):
            MedianSqueezer(window).fit(np.zeros((2, *shape)))


@pytest.mark.parametrize("window", [2**63, 2**25, (2**13, 2**13)])
def test_windows_larger_than_memory(window):
    with pytest.raises(ValueError, match=r"'window_size' .* at most 16777216 values"):
        MedianSqueezer(window).fit(np.zeros((2, 8, 8)))


@pytest.mark.parametrize("window", [3, np.int64(3), (3,), (1, 3), [1, 3]])
def test_windows_of_signals(window):
    X = CASES["signal"].samples()
    expected = MedianSqueezer(3).fit_transform(X)
    np.testing.assert_array_equal(MedianSqueezer(window).fit_transform(X), expected)
