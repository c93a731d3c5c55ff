import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from skimage.color import rgb2gray
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline, make_union

from sk_advdef import PGD, Downscaler, GrayscaleSqueezer
from sk_advdef.squeezers._grayscale import ONE, whole_weights
from tests.squeezers._adaptive import accuracies, tinted_digits
from tests.squeezers._cases import CASES, TOLERANCE

LIKE_SKIMAGE = (0.2125, 0.7154, 0.0721)
COLORED = ["color", "channels first", "channels between", "wide color"]


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_equals_scikit_image(dtype):
    X = np.random.default_rng(0).random((4, 9, 12, 3)).astype(dtype)
    gray = GrayscaleSqueezer(weights=LIKE_SKIMAGE, keep_channels=False).fit_transform(X)
    assert gray.dtype == dtype
    np.testing.assert_allclose(gray[..., 0], rgb2gray(X), rtol=0, atol=1e-6)


def test_bytes_are_those_of_pillow():
    # all greens and blues with some reds: near each tie there is a color
    red, green, blue = np.meshgrid(
        np.arange(0, 256, 5), np.arange(256), np.arange(256), indexing="ij"
    )
    X = np.stack([red, green, blue], axis=-1).astype(np.uint8)
    expected = [np.asarray(Image.fromarray(image).convert("L")) for image in X]
    squeezed = GrayscaleSqueezer(keep_channels=False).fit_transform(X)
    assert squeezed.dtype == np.uint8
    np.testing.assert_array_equal(squeezed[..., 0], expected)


@pytest.mark.parametrize("name", COLORED)
@pytest.mark.parametrize("dtype", [*TOLERANCE, np.uint8])
@pytest.mark.parametrize("keep", [True, False])
def test_is_the_weighted_mean(name, dtype, keep):
    case = CASES[name]
    axis = case.channel_axis % 3 + 1
    X = (40 * case.samples() + 100).clip(0, 255).astype(dtype)
    weights = np.arange(1, X.shape[axis] + 1)
    gray = np.average(X.astype(float), axis=axis, weights=weights)
    expected = np.expand_dims(gray, axis)
    if keep:
        expected = np.repeat(expected, X.shape[axis], axis=axis)
    tolerance = 0.51 if dtype == np.uint8 else 1e-4
    for arguments, rows in case.inputs(X):
        squeezer = GrayscaleSqueezer(
            weights=weights, keep_channels=keep, **arguments
        ).fit(rows)
        np.testing.assert_allclose(squeezer.weights_, weights / weights.sum())
        squeezed = squeezer.transform(rows)
        assert squeezed.dtype == dtype
        if rows.ndim == 2:
            squeezed = squeezed.reshape(expected.shape)
        np.testing.assert_allclose(squeezed, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("shape", [(37,), (5, 6), (5, 6, 1)])
@pytest.mark.parametrize("dtype", [*TOLERANCE, np.uint8])
def test_gray_stays_as_it_is(shape, keep, dtype):
    X = (np.random.default_rng(0).random((3, *shape)) * 255).astype(dtype)
    squeezer = GrayscaleSqueezer(keep_channels=keep).fit(X)
    assert squeezer.weights_ is None
    squeezed = squeezer.transform(X)
    np.testing.assert_array_equal(squeezed, X)
    assert not np.shares_memory(squeezed, X)


@given(
    st.lists(st.floats(0, 10), min_size=1, max_size=30).filter(lambda w: sum(w) > 0.1),
    st.integers(0, 99),
)
def test_properties(weights, seed):
    X = np.random.default_rng(seed).integers(0, 256, (2, 3, 4, len(weights)))
    for dtype in (np.uint8, np.float32, np.float64):
        images = X.astype(dtype)
        squeezer = GrayscaleSqueezer(weights=weights).fit(images)
        squeezed = squeezer.transform(images)
        rounding = 1e-3 if dtype == np.float32 else 1e-9
        rounding = 0 if dtype == np.uint8 else rounding
        assert (squeezed >= images.min(axis=-1, keepdims=True) - rounding).all()
        assert (squeezed <= images.max(axis=-1, keepdims=True) + rounding).all()
        # gray has no color to lose
        again = squeezer.transform(squeezed)
        np.testing.assert_allclose(again, squeezed, rtol=0, atol=rounding)
    assert sum(whole_weights(np.array(weights) / sum(weights))) == ONE


def test_rows_do_not_know_each_other():
    X = CASES["color"].samples(n=50, dtype=np.float32)
    squeezer = GrayscaleSqueezer().fit(X)
    one_by_one = np.concatenate([squeezer.transform(image[None]) for image in X])
    np.testing.assert_array_equal(one_by_one, squeezer.transform(X))


# names and other estimators


def test_names_of_features():
    X = np.random.default_rng(0).random((4, 2 * 5 * 3))
    given = [f"pixel{i}" for i in range(30)]
    squeezer = GrayscaleSqueezer(image_shape=(2, 5, 3)).fit(X)
    assert list(squeezer.get_feature_names_out(given)) == given
    squeezer.set_params(keep_channels=False).fit(X)
    names = squeezer.get_feature_names_out()
    assert list(names) == [f"grayscalesqueezer{i}" for i in range(10)]
    assert squeezer.transform(X).shape == (4, 10)


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize(("shape", "axis"), [((2, 5, 3), -1), ((3, 2, 5), 0)])
def test_pipelines_unions_and_columns(keep, shape, axis):
    X = np.random.default_rng(0).random((40, 30))
    squeezer = GrayscaleSqueezer(
        image_shape=shape, channel_axis=axis, keep_channels=keep
    )
    squeezed = squeezer.fit_transform(X)
    union = make_union(squeezer, "passthrough").fit(X)
    np.testing.assert_array_equal(union.transform(X), np.c_[squeezed, X])
    assert len(union.get_feature_names_out()) == squeezed.shape[1] + 30
    columns = ColumnTransformer(
        [("image", squeezer, slice(2, 32))], remainder="passthrough"
    )
    wide = np.c_[np.zeros((40, 2)), X]
    np.testing.assert_array_equal(
        columns.fit_transform(wide), np.c_[squeezed, np.zeros((40, 2))]
    )
    # stacked, the channel axis stays where the next step looks for it
    stacked = make_pipeline(
        squeezer.set_params(image_shape=None), Downscaler(1, channel_axis=axis)
    )
    images = stacked.fit_transform(X.reshape(-1, *shape))
    assert images.ndim == 4
    np.testing.assert_array_equal(images.reshape(40, -1), squeezed)


def test_set_output():
    X = np.random.default_rng(0).random((4, 30))
    squeezer = GrayscaleSqueezer(image_shape=(2, 5, 3), keep_channels=False)
    frame = squeezer.set_output(transform="pandas").fit_transform(X)
    assert list(frame.columns) == list(squeezer.get_feature_names_out())


# attackers


def test_is_worth_less_to_one_who_knows_it():
    squeezer = GrayscaleSqueezer(image_shape=(8, 8, 3))
    found = accuracies(squeezer, *tinted_digits(), PGD(0.1, steps=15))
    assert found.clean > 0.9
    assert found.ignores > found.undefended + 0.15
    assert found.knows < found.ignores - 0.15
    assert found.knows < found.undefended + 0.1


def test_changes_of_color_disappear():
    X, y = tinted_digits()
    squeezer = GrayscaleSqueezer(image_shape=(8, 8, 3))
    model = make_pipeline(squeezer, LogisticRegression(max_iter=300)).fit(X, y)
    # red up and green down: as bright as before
    shift = 0.05 * np.array([0.587, -0.299, 0])
    moved = (X.reshape(-1, 3) + shift).reshape(X.shape)
    np.testing.assert_allclose(
        model.predict_proba(moved), model.predict_proba(X), atol=1e-9
    )


# bad input

BAD_WEIGHTS = [(), 3, "rgb", None, [[1, 2, 3]], (1, -1, 1), (0, 0, 0), (1, np.nan, 1)]
BAD_WEIGHTS += [(1, np.inf, 1), (1, "a", 2)]


@pytest.mark.parametrize("weights", BAD_WEIGHTS)
def test_bad_weights(weights):
    message = (
        "The 'weights' parameter of GrayscaleSqueezer must be a sequence of floats in "
        f"[0, inf), one a channel, not all 0. Got {weights!r} instead."
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        GrayscaleSqueezer(weights=weights).fit(np.zeros((2, 4, 4, 3)))


@pytest.mark.parametrize("keep", [1, None, "yes"])
def test_bad_keep_channels(keep):
    message = "^The 'keep_channels' parameter of GrayscaleSqueezer must be a bool. Got "
    with pytest.raises(ValueError, match=message):
        GrayscaleSqueezer(keep_channels=keep).fit(np.zeros((2, 4, 4, 3)))


@pytest.mark.parametrize("channels", [2, 4])
def test_other_numbers_of_channels(channels):
    message = f"has 3 weights, but the images have {channels} channels: .*channel_axis="
    with pytest.raises(ValueError, match=message):
        GrayscaleSqueezer().fit(np.zeros((2, 4, 4, channels)))
