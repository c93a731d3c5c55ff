"""What all squeezers promise: dtypes, untouched input, names, the bad inputs."""

import pickle
import warnings

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline, make_union
from sklearn.preprocessing import StandardScaler

from sk_advdef import (
    BitDepthSqueezer,
    BlurSqueezer,
    Downscaler,
    GrayscaleSqueezer,
    JpegSqueezer,
    MedianSqueezer,
)
from tests.squeezers._cases import CASES, TOLERANCE

SQUEEZERS = {
    "blur": BlurSqueezer(1.2),
    "downscale": Downscaler(0.4),
    "shrink": Downscaler(0.4, restore=False),
    "bits": BitDepthSqueezer(3),
    "median": MedianSqueezer(3),
    "grayscale": GrayscaleSqueezer(),
    "jpeg": JpegSqueezer(),
}
LINEAR = ["blur", "downscale", "shrink"]
STACKED = ["gray", "color", "channels first", "channels between", "long and wide"]


@pytest.fixture(params=SQUEEZERS)
def squeezer(request):
    return clone(SQUEEZERS[request.param])


def with_axis(squeezer, case):
    if "channel_axis" in squeezer.get_params():
        squeezer.set_params(channel_axis=case.channel_axis)
    if "weights" in squeezer.get_params() and case.channel_of_image is not None:
        squeezer.set_params(weights=np.ones(case.shape[case.channel_axis]))
    return squeezer


# dtypes and memory


@pytest.mark.parametrize(
    ("given", "comes_out"),
    [
        (np.float32, np.float32),
        (np.float64, np.float64),
        (np.uint8, np.uint8),
        (np.float16, np.float64),
        (np.int8, np.float64),
        (np.int64, np.float64),
        (np.uint16, np.float64),
        (bool, np.float64),
        (object, np.float64),
    ],
)
def test_dtype(squeezer, given, comes_out):
    X = np.arange(40).reshape(4, 10).astype(given)
    squeezed = squeezer.fit_transform(X)
    assert type(squeezed) is np.ndarray
    assert squeezed.dtype == comes_out
    # transform goes by what it is given, not by what fit has seen.
    other = np.float64 if given == np.float32 else np.float32
    assert squeezer.transform(X.astype(other)).dtype == other


@pytest.mark.parametrize("name", LINEAR)
def test_uint8_is_rounded_not_cut(name):
    X = np.random.default_rng(0).integers(0, 256, size=(3, 9, 12), dtype=np.uint8)
    X[0], X[1] = 255, 0
    squeezer = clone(SQUEEZERS[name]).fit(X)
    exact = squeezer.transform(X.astype(np.float64))
    assert np.abs(squeezer.transform(X) - exact).max() <= 0.5 + 1e-4
    assert (squeezer.transform(X)[0] == 255).all()
    assert (squeezer.transform(X)[1] == 0).all()


@pytest.mark.parametrize("name", LINEAR)
def test_uint8_does_not_hang_on_the_batch(name):
    # So many pixels that some lie on a tie, which errors of rounding could decide.
    X = np.random.default_rng(0).integers(0, 256, size=(300, 28, 28), dtype=np.uint8)
    squeezer = clone(SQUEEZERS[name]).fit(X)
    squeezed = squeezer.transform(X)
    one_by_one = np.concatenate([squeezer.transform(image[None]) for image in X])
    np.testing.assert_array_equal(one_by_one, squeezed)


def _memmap(X, tmp_path):
    np.save(tmp_path / "X.npy", X)
    return np.load(tmp_path / "X.npy", mmap_mode="r")


MEMORY = {
    "read-only": lambda X, _: X.copy(),
    "memmap": _memmap,
    "F order": lambda X, _: np.asfortranarray(X),
    "every other row": lambda X, _: np.repeat(X, 2, axis=0)[::2],
    "reversed": lambda X, _: X[::-1, ::-1].copy()[::-1, ::-1],
    "swapped bytes": lambda X, _: X.astype(X.dtype.newbyteorder()),
}


@pytest.mark.parametrize("memory", MEMORY)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint8])
@pytest.mark.parametrize("case", [CASES["signal"], CASES["channels first"]])
def test_input_is_left_alone(squeezer, memory, dtype, case, tmp_path):
    X = (case.samples() * 50 + 100).clip(0, 255).astype(dtype)
    given = MEMORY[memory](X, tmp_path)
    given.flags.writeable = False
    squeezer = with_axis(squeezer, case).fit(given)
    squeezed = squeezer.transform(given)
    np.testing.assert_array_equal(given, X)
    expected = squeezer.transform(X)
    tolerance = 0 if dtype == np.uint8 else 1e-4
    np.testing.assert_allclose(squeezed, expected, rtol=0, atol=tolerance)
    assert type(squeezed) is np.ndarray
    assert squeezed.flags.writeable
    assert not np.shares_memory(squeezed, given)


IDENTITIES = [
    BlurSqueezer(0),
    BlurSqueezer(0.1),
    MedianSqueezer(1),
    Downscaler(1.0),
    Downscaler(1, restore=False),
    Downscaler(size=(9, 12)),
    Downscaler(0.96),
]


@pytest.mark.parametrize("squeezer", IDENTITIES, ids=repr)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint8])
def test_nothing_to_do_gives_a_copy(squeezer, dtype):
    X = (CASES["color"].samples() * 30 + 100).astype(dtype)
    squeezed = clone(squeezer).fit_transform(X)
    np.testing.assert_array_equal(squeezed, X)
    assert not np.shares_memory(squeezed, X)


# rows, batches, precision


@pytest.mark.parametrize("case", [CASES[name] for name in STACKED], ids=STACKED)
@pytest.mark.parametrize("name", LINEAR)
def test_rows_and_stacked_images_give_the_same_numbers(name, case):
    X = case.samples()
    (rows, flat), (stacked, images) = (
        (clone(SQUEEZERS[name]).set_params(**arguments).fit(given), given)
        for arguments, given in case.inputs(X)
    )
    assert rows.image_shape_ == stacked.image_shape_ == case.shape
    np.testing.assert_array_equal(
        rows.transform(flat), stacked.transform(images).reshape(len(X), -1)
    )


@pytest.mark.parametrize("name", ["signal", "long signal", "gray", "long and wide"])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_rows_do_not_know_each_other(squeezer, name, dtype):
    X = CASES[name].samples(n=7, dtype=dtype)
    squeezer.fit(X)
    squeezed = squeezer.transform(X)
    tolerance = {"rtol": 0, "atol": TOLERANCE[dtype] / 10}
    one_by_one = np.concatenate([squeezer.transform(row[None]) for row in X])
    np.testing.assert_allclose(one_by_one, squeezed, **tolerance)
    order = np.random.default_rng(1).permutation(7)
    np.testing.assert_allclose(
        squeezer.transform(X[order]), squeezed[order], **tolerance
    )


def test_float32_agrees_with_float64(squeezer):
    X = CASES["color"].samples(dtype=np.float32)
    squeezer.fit(X)
    np.testing.assert_allclose(
        squeezer.transform(X), squeezer.transform(X.astype(np.float64)), atol=1e-5
    )


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("n", [1, 2])
def test_shape_of_the_output(squeezer, case, n):
    X = case.samples(n)
    if isinstance(squeezer, JpegSqueezer) and case.n_channels == 2:
        pytest.skip("JPEG has one channel or three")
    squeezed = with_axis(squeezer, case).fit_transform(X)
    if getattr(squeezer, "restore", True):
        assert squeezed.shape == X.shape
    else:
        expected = list(X.shape)
        for axis, side in zip(case.spatial[::-1], squeezer.size_[::-1], strict=False):
            expected[axis] = side
        assert squeezed.shape == tuple(expected)


@pytest.mark.parametrize("shape", [(2, 1), (2, 1, 1), (2, 1, 1, 3), (1, 1)])
def test_one_pixel(squeezer, shape):
    one_value = (len(shape) - 1) * (1,)
    X = np.random.default_rng(0).normal(size=(shape[0], *one_value)) * np.ones(shape)
    squeezer.fit(X)
    tolerance = 1 if isinstance(squeezer, BitDepthSqueezer) else 1e-12
    np.testing.assert_allclose(squeezer.transform(X), X, atol=tolerance)


# properties

SHAPES = st.tuples(
    st.integers(1, 3), st.integers(1, 8), st.integers(1, 8), st.integers(1, 3)
)
LINEAR_SQUEEZERS = st.one_of(
    st.builds(BlurSqueezer, st.floats(0, 5)),
    st.builds(Downscaler, st.floats(0, 1, exclude_min=True), restore=st.booleans()),
)


@given(LINEAR_SQUEEZERS, SHAPES, st.sampled_from([*TOLERANCE]), st.integers(0, 99))
def test_weighted_means(squeezer, shape, dtype, seed):
    X = np.random.default_rng(seed).uniform(-1, 1, size=shape).astype(dtype)
    squeezer = squeezer.fit(X)
    squeezed = squeezer.transform(X)
    rounding = 20 * np.finfo(dtype).eps
    assert (squeezed.max((1, 2)) <= X.max((1, 2)) + rounding).all()
    assert (squeezed.min((1, 2)) >= X.min((1, 2)) - rounding).all()

    constant = np.broadcast_to(X[:, :1, :1], shape)
    flat = squeezer.transform(constant)
    np.testing.assert_allclose(
        flat, np.broadcast_to(X[:, :1, :1], flat.shape), atol=rounding
    )
    # Linear: what a gradient attack relies on.
    np.testing.assert_allclose(
        squeezer.transform(X - 2 * constant), squeezed - 2 * flat, atol=4 * rounding
    )


@given(
    size=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    blocks=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    restore=st.booleans(),
    seed=st.integers(0, 99),
)
def test_whole_factors_keep_the_mean(size, blocks, restore, seed):
    sides = [side * block for side, block in zip(size, blocks, strict=True)]
    X = np.random.default_rng(seed).normal(size=(2, *sides, 2))
    squeezed = Downscaler(size=size, restore=restore).fit_transform(X)
    np.testing.assert_allclose(squeezed.mean((1, 2)), X.mean((1, 2)), atol=1e-12)
    again = Downscaler(size=size, restore=restore).fit_transform(squeezed)
    np.testing.assert_allclose(again, squeezed, atol=1e-12)


# names and containers

NAMES = ["a", "b", "c", "d", "e"]


@pytest.fixture
def frame():
    X = np.random.default_rng(0).normal(size=(4, 5))
    return pd.DataFrame(X, columns=NAMES, index=[3, 1, 4, 8])


def test_names_of_features(squeezer, frame):
    squeezer.fit(frame)
    names = squeezer.get_feature_names_out()
    assert names.dtype == object
    restores = getattr(squeezer, "restore", True)
    assert list(names) == (NAMES if restores else ["downscaler0", "downscaler1"])
    np.testing.assert_array_equal(squeezer.feature_names_in_, NAMES)

    squeezer.fit(frame.to_numpy())
    unnamed = [f"x{i}" for i in range(5)] if restores else list(names)
    assert list(squeezer.get_feature_names_out()) == unnamed


def test_names_given_by_hand(frame):
    squeezer = BlurSqueezer().fit(frame.to_numpy())
    assert list(squeezer.get_feature_names_out(NAMES)) == NAMES
    with pytest.raises(ValueError, match="input_features should have length"):
        squeezer.get_feature_names_out(NAMES[:2])
    with pytest.raises(ValueError, match="input_features is not equal to"):
        Downscaler().fit(frame).get_feature_names_out(NAMES[::-1])


def test_names_of_a_small_color_image():
    X = np.zeros((2, 4 * 6 * 3))
    squeezer = Downscaler(restore=False, image_shape=(4, 6, 3)).fit(X)
    names = squeezer.get_feature_names_out()
    assert len(names) == squeezer.transform(X).shape[1] == 2 * 3 * 3
    assert names[-1] == "downscaler17"


@pytest.mark.parametrize("library", [pd, pl])
def test_set_output(squeezer, frame, library):
    given = frame if library is pd else pl.DataFrame(frame.to_dict("list"))
    values = clone(squeezer).fit(frame).transform(frame)
    squeezer.set_output(transform=library.__name__)
    squeezed = squeezer.fit_transform(given)
    assert isinstance(squeezed, library.DataFrame)
    np.testing.assert_array_equal(squeezed.to_numpy(), values)
    assert list(squeezed.columns) == list(squeezer.get_feature_names_out())
    if library is pd:
        assert list(squeezed.index) == [3, 1, 4, 8]
    # Plain arrays come out as frames too.
    with pytest.warns(UserWarning, match="does not have valid feature names"):
        assert isinstance(squeezer.transform(frame.to_numpy()), library.DataFrame)


def test_frames_keep_their_dtype(squeezer, frame):
    squeezer.set_output(transform="pandas")
    squeezed = squeezer.fit_transform(frame.astype(np.float32))
    assert set(squeezed.dtypes) == {np.dtype(np.float32)}


def test_other_names_are_refused(squeezer, frame):
    squeezer.fit(frame)
    with pytest.raises(ValueError, match="feature names should match"):
        squeezer.transform(frame.rename(columns={"a": "z"}))


# inside other estimators


def test_in_feature_unions(squeezer, frame):
    alone = clone(squeezer).fit(frame)
    union = make_union(squeezer, "passthrough").set_output(transform="pandas")
    squeezed = union.fit_transform(frame)
    expected = np.c_[alone.transform(frame), frame]
    np.testing.assert_array_equal(squeezed, expected)
    step = union.transformer_list[0][0]
    names = [f"{step}__{name}" for name in alone.get_feature_names_out()]
    assert list(squeezed.columns) == names + [f"passthrough__{name}" for name in NAMES]


def test_in_column_transformers(squeezer, frame):
    expected = clone(squeezer).fit_transform(frame[["d", "b"]])
    columns = ColumnTransformer(
        [("some", squeezer, ["d", "b"])], remainder="passthrough", n_jobs=2
    )
    squeezed = columns.set_output(transform="pandas").fit_transform(frame)
    width = expected.shape[1]
    np.testing.assert_array_equal(squeezed.iloc[:, :width], expected)
    np.testing.assert_array_equal(squeezed.iloc[:, width:], frame[["a", "c", "e"]])


def test_in_pipelines_and_searches(squeezer, frame):
    X = np.concatenate([frame, frame + 1, frame - 1])
    pipe = make_pipeline(StandardScaler(), squeezer, LogisticRegression())
    name = pipe.steps[1][0]
    search = GridSearchCV(pipe, {f"{name}__n_jobs": [None, 2]}, cv=2)
    search.fit(X, [0, 1] * 6)
    scores = search.cv_results_["mean_test_score"]
    assert scores[0] == scores[1]
    again = pickle.loads(pickle.dumps(search))
    np.testing.assert_array_equal(again.predict_proba(X), search.predict_proba(X))


# bad inputs, in scikit-learn's own words


@pytest.mark.parametrize(
    ("X", "message"),
    [
        ([[1.0, np.nan]], "Input X contains NaN"),
        ([[1.0, np.inf]], "Input X contains infinity"),
        ([[[1.0, np.nan]]], "Input X contains NaN"),
        (sparse.csr_array(np.eye(2)), "Sparse data was passed"),
        ([["a", "b"]], "could not convert string to float"),
        (np.array([[1j, 2.0]]), "Complex data not supported"),
        (np.zeros((0, 2)), "0 sample"),
        (np.zeros((0, 2, 2)), "0 sample"),
        (np.zeros((2, 0)), "0 feature"),
        ([1.0, 2.0], "Expected 2D array, got 1D array"),
    ],
)
def test_bad_input(squeezer, X, message):
    with pytest.raises((ValueError, TypeError), match=message):
        clone(squeezer).fit(X)
    squeezer.fit(np.zeros((2, 1, 2)) if np.shape(X) == (1, 1, 2) else np.eye(2))
    with pytest.raises((ValueError, TypeError), match=message):
        squeezer.transform(X)


@pytest.mark.parametrize(
    ("fitted_on", "then", "message"),
    [
        ((2, 5), (2, 6), "X has 6 features, but {} is expecting 5 features as input"),
        ((2, 5, 6), (2, 4, 6), "X has 4 features, but {} is expecting 5 features"),
        (
            (2, 5, 6),
            (2, 5, 7),
            r"X has samples of shape \(5, 7\), but {} is expecting the shape \(5, 6\) "
            "that it was fitted on.",
        ),
        ((2, 5, 6), (2, 5, 6, 1), r"shape \(5, 6, 1\), but {} .* \(5, 6\) that"),
        ((2, 5, 6, 3), (2, 5, 6, 1), r"shape \(5, 6, 1\), but {} .* \(5, 6, 3\) that"),
        ((2, 5), (2, 5, 6), r"shape \(5, 6\), but {} .* \(5,\) that"),
        ((2, 5, 6), (2, 5), r"shape \(5,\), but {} .* \(5, 6\) that"),
    ],
)
def test_every_axis_is_checked(squeezer, fitted_on, then, message):
    squeezer.fit(np.zeros(fitted_on))
    with pytest.raises(ValueError, match=message.format(type(squeezer).__name__)):
        squeezer.transform(np.zeros(then))


@pytest.mark.parametrize("name", LINEAR)
@pytest.mark.parametrize(
    ("shape", "arguments", "message"),
    [
        ((2, 12), {"image_shape": "circle"}, "The 'image_shape' parameter"),
        ((2, 12), {"image_shape": "square"}, "needs a width that is a square number"),
        ((2, 12), {"image_shape": (3, 5)}, "has 15 values, but X has 12 features"),
        ((2, 3, 4), {"image_shape": "square"}, "does not fit X"),
        ((2, 3, 4), {"channel_axis": 3}, "The 'channel_axis' parameter"),
        ((2, 3, 4, 5, 6), {}, "Got an array of shape"),
    ],
)
def test_bad_images(name, shape, arguments, message):
    squeezer = clone(SQUEEZERS[name]).set_params(**arguments)
    with pytest.raises(ValueError, match=message):
        squeezer.fit(np.zeros(shape))


def test_bit_depth_takes_any_number_of_axes():
    assert BitDepthSqueezer(1).fit_transform(np.zeros((2, 3, 4, 5, 6))).ndim == 5


@pytest.mark.parametrize("name", LINEAR)
def test_warning_for_rows_that_look_like_images(name):
    squeezer, X = clone(SQUEEZERS[name]), np.zeros((2, 64))
    with pytest.warns(UserWarning, match="64 = 8 \\* 8 features") as caught:
        squeezer.fit(X)
    assert [warning.filename for warning in caught] == [__file__]
    assert squeezer.image_shape_ == (64,)
    for image_shape in ["square", (8, 8), (4, 16), (4, 4, 4), (64,)]:
        squeezer.set_params(image_shape=image_shape).fit(X)
    # Only fit warns, and element-wise rounding has no need to.
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        squeezer.set_params(image_shape=None).fit(X).transform(X)
        BitDepthSqueezer().fit(X)
    assert len(caught) == 1


BROKEN = {
    "blur": {"sigma": -1},
    "downscale": {"factor": 2},
    "shrink": {"size": 99},
    "bits": {"bits": 0},
    "median": {"window_size": 0},
    "grayscale": {"weights": ()},
    "jpeg": {"quality": 0},
}


@pytest.mark.parametrize("name", SQUEEZERS)
def test_not_fitted(name):
    squeezer, X = clone(SQUEEZERS[name]), np.eye(4)
    with pytest.raises(NotFittedError):
        squeezer.transform(X)
    with pytest.raises(NotFittedError):
        squeezer.get_feature_names_out()
    # ... nor is it after a fit that failed.
    with pytest.raises(ValueError, match="parameter of"):
        squeezer.set_params(**BROKEN[name]).fit(X)
    with pytest.raises(NotFittedError):
        squeezer.transform(X)


@pytest.mark.parametrize("name", SQUEEZERS)
def test_fit_forgets_the_fit_before(name):
    X, images = CASES["signal"].samples(), CASES["color"].samples()
    refitted = clone(SQUEEZERS[name]).fit(X).fit(images)
    fresh = clone(SQUEEZERS[name]).fit(images)
    np.testing.assert_array_equal(refitted.transform(images), fresh.transform(images))
