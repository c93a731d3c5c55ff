import re
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sk_advdef import BitDepthSqueezer


def nearest_levels(X, bits, low, high):
    """Choose the nearest of 2 ** bits even levels by looking at all of them."""
    levels = np.linspace(low, high, 2**bits)
    return levels[np.abs(X[..., None] - levels).argmin(axis=-1)]


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8, np.int64(5)])
@pytest.mark.parametrize("value_range", [(0, 1), (-2.5, 7), np.array([0.0, 255.0])])
def test_rounds_to_the_nearest_level_and_clips(bits, value_range):
    low, high = value_range
    X = np.random.default_rng(0).uniform(2 * low - high, 2 * high - low, (40, 5))
    expected = nearest_levels(X, bits, low, high)
    squeezer = BitDepthSqueezer(bits, value_range=value_range).fit(X)
    assert squeezer.value_range_ == (low, high)
    for dtype, tolerance in [(np.float64, 1e-12), (np.float32, 1e-6)]:
        squeezed = squeezer.transform(X.astype(dtype))
        assert squeezed.dtype == dtype
        np.testing.assert_allclose(squeezed, expected, atol=tolerance * (high - low))


def test_range_is_learned_per_feature_for_rows_and_once_for_images():
    X = np.random.default_rng(0).normal(size=(20, 4, 3)) * [1, 10, 100]
    rows = BitDepthSqueezer(2).fit(X.reshape(20, -1))
    np.testing.assert_array_equal(rows.value_range_[0], X.min(axis=0).ravel())
    np.testing.assert_array_equal(rows.value_range_[1], X.max(axis=0).ravel())
    squeezed = rows.transform(X.reshape(20, -1))
    assert all(len(np.unique(column)) == 4 for column in squeezed.T)

    images = BitDepthSqueezer(2).fit(X)
    assert images.value_range_ == (X.min(), X.max())
    expected = nearest_levels(X, 2, X.min(), X.max())
    np.testing.assert_allclose(images.transform(X), expected)


def test_new_values_outside_the_learned_range_are_clipped():
    squeezer = BitDepthSqueezer(3).fit([[0.0, 5.0], [1.0, 6.0]])
    squeezed = squeezer.transform([[-9.0, 99.0], [9.0, -99.0]])
    np.testing.assert_array_equal(squeezed, [[0.0, 6.0], [1.0, 5.0]])


ODD_ONES = [-0.0, np.nextafter(1, 2), 1.0, -1e-45, np.inf, -np.inf, np.nan, 2.0]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("odd_one", [*ODD_ONES, -np.nan, -3.0])
def test_one_odd_value_among_many_in_the_range(odd_one, dtype):
    # what lies in a range from 0 on is seen at once; the rest must not be missed
    X = np.random.default_rng(0).random((30, 40)).astype(dtype)
    squeezer = BitDepthSqueezer(3, value_range=(0, 1)).fit(X)
    X[17, 5] = odd_one
    if np.isfinite(odd_one):
        expected = nearest_levels(np.clip(X, 0, 1), 3, 0, 1)
        np.testing.assert_allclose(squeezer.transform(X), expected, atol=1e-6)
    else:
        with pytest.raises(ValueError, match="Input X contains"):
            squeezer.transform(X)


def test_constant_feature_stays_constant():
    X = np.array([[3.3, 0.0], [3.3, 1.0]])
    squeezer = BitDepthSqueezer(1).fit(X)
    np.testing.assert_array_equal(squeezer.transform(X), X)
    np.testing.assert_array_equal(squeezer.transform(X + 5)[:, 0], [3.3, 3.3])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_range_of_hardly_any_width_has_one_level(dtype):
    # so little that the number of levels divided by it is infinite
    tiny = np.finfo(dtype).smallest_subnormal
    X = np.array([[7 * tiny, 0.0], [tiny, 1.0]], dtype=dtype)
    squeezed = BitDepthSqueezer(2).fit_transform(X)
    np.testing.assert_array_equal(squeezed, [[tiny, 0], [tiny, 1]])


def test_range_that_no_float_can_span_is_refused():
    X = np.array([[-1e308], [1e308]])
    message = "range of X from -1e+308 to 1e+308 is too wide for levels of float64"
    with pytest.raises(ValueError, match=re.escape(message)):
        BitDepthSqueezer().fit(X).transform(X)
    # wide for float32 alone
    squeezer = BitDepthSqueezer(1).fit(X / 2)
    np.testing.assert_array_equal(squeezer.transform(X / 2), X / 2)
    with pytest.raises(ValueError, match="too wide for levels of float32"):
        squeezer.transform(np.ones((1, 1), dtype=np.float32))


@pytest.mark.parametrize("bits", [1, 3, 8, 9, 16])
def test_uint8_has_the_range_of_bytes(bits):
    X = np.arange(20, 220, dtype=np.uint8).reshape(2, 10, 10)
    squeezer = BitDepthSqueezer(bits).fit(X)
    assert squeezer.value_range_ == (0, 255)
    squeezed = squeezer.transform(X)
    assert squeezed.dtype == np.uint8
    expected = np.rint(nearest_levels(X.astype(float), bits, 0, 255))
    np.testing.assert_array_equal(squeezed, expected)
    # ... also where fit saw other values: the range of bytes is never learned.
    after_floats = BitDepthSqueezer(bits).fit(X / 255.0)
    np.testing.assert_array_equal(after_floats.transform(X), squeezed)


@given(
    X=hnp.arrays(
        st.sampled_from([np.float32, np.float64]),
        hnp.array_shapes(min_dims=2, max_dims=3, max_side=6),
        elements=st.floats(-1000, 1000, width=32, allow_subnormal=False),
    ),
    bits=st.integers(1, 8),
)
def test_properties(X, bits):
    squeezer = BitDepthSqueezer(bits, value_range=(-500, 500)).fit(X)
    squeezed = squeezer.transform(X)
    assert squeezed.min() >= -500
    assert squeezed.max() <= 500
    assert len(np.unique(squeezed)) <= 2**bits
    np.testing.assert_array_equal(squeezer.transform(squeezed), squeezed)
    step = 1000 / (2**bits - 1)
    change = np.abs(squeezed - np.clip(X, -500, 500)).max()
    assert change <= step / 2 + 1e-3
    order = np.argsort(X, axis=None)
    assert (np.diff(squeezed.ravel()[order]) >= 0).all()


@given(
    X=hnp.arrays(
        np.float32,
        st.tuples(st.integers(1, 6), st.integers(1, 4)),
        elements=st.floats(-100, 100, width=32),
    ),
    bits=st.integers(1, 8),
)
def test_learned_range_is_kept(X, bits):
    squeezed = BitDepthSqueezer(bits).fit_transform(X)
    low, high = X.min(axis=0), X.max(axis=0)
    assert ((low <= squeezed) & (squeezed <= high)).all()
    # The ends of the range are levels.
    np.testing.assert_array_equal(squeezed.min(axis=0), low)
    np.testing.assert_allclose(squeezed.max(axis=0), high, atol=1e-4)


@pytest.mark.parametrize("bits", [0, 17, -1, 2.0, np.nan, "3", None, True])
def test_bad_bits(bits):
    message = (
        "The 'bits' parameter of BitDepthSqueezer must be an int in [1, 16]. "
        f"Got {bits!r} instead."
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        BitDepthSqueezer(bits).fit(np.eye(3))


@pytest.mark.parametrize(
    "value_range",
    [(1, 0), (1, 1), (0, np.inf), (np.nan, 1), (0,), (0, 1, 2), 5, "01", (False, 1)],
)
@pytest.mark.parametrize("dtype", [np.float64, np.uint8])
def test_bad_value_range(value_range, dtype):
    message = (
        "The 'value_range' parameter of BitDepthSqueezer must be a pair (low, high) of "
        f"numbers, low < high. Got {value_range!r} instead."
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        BitDepthSqueezer(value_range=value_range).fit(np.eye(3, dtype=dtype))


@pytest.mark.parametrize("stacked", [False, True])
def test_floats_up_to_one_after_bytes(stacked):
    X = np.random.default_rng(0).integers(0, 256, (20, 36), dtype=np.uint8)
    X = X.reshape(-1, 6, 6) if stacked else X
    squeezer = BitDepthSqueezer(3).fit(X)
    told = "BitDepthSqueezer was fitted on values from 0 to 255, .* divided by 255"
    with pytest.warns(UserWarning, match=told) as caught:
        squeezer.transform(X / 255)
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for rows in (X, X.astype(float), 0.0 * X):
            squeezer.transform(rows)
        BitDepthSqueezer(3).fit(X / 255).transform(X / 255)
