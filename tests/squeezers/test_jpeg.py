"""JPEG against Pillow itself, image by image."""

import builtins
import io
import re
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from sk_advdef import PGD, JpegSqueezer
from sk_advdef.squeezers import _jpeg_codec


def pillow(image, quality):
    """Encode and decode one image of shape (height, width[, channels])."""
    file = io.BytesIO()
    gray = image.ndim == 3 and image.shape[2] == 1
    Image.fromarray(image[..., 0] if gray else image).save(
        file, format="JPEG", quality=quality
    )
    return np.asarray(Image.open(file)).reshape(image.shape)


def one_by_one(images, quality):
    return np.stack([pillow(image, quality) for image in images])


def pictures(n, height, width, channels=None, seed=0):
    """Return smooth images, noise, and black and white, as uint8."""
    rng = np.random.default_rng(seed)
    shape = (height, width) if channels is None else (height, width, channels)
    noise = rng.integers(0, 256, size=(n, *shape))
    ramp = np.linspace(0, 255, int(np.prod(shape))).reshape(shape)
    kinds = [noise, (noise + 7 * ramp) / 8, 255 * (noise > 100)]
    images = [kinds[i % 3][i] for i in range(n)]
    return np.round(np.stack(images)).astype(np.uint8)


SHAPES = [
    (28, 28),
    (28, 28, 1),
    (32, 32, 3),
    (28, 28, 3),
    (33, 21, 3),
    (15, 40, 3),
    (16, 5, 3),
    (3, 4, 3),
    (2, 2, 3),
    (1, 1, 3),
    (1, 1),
    (5, 1),
    (7, 70),
    (120, 90),
    (112, 100, 3),
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("quality", [1, 30, 75, 100])
def test_equals_pillow_byte_for_byte(shape, quality):
    X = pictures(7, *shape)
    squeezed = JpegSqueezer(quality).fit_transform(X)
    assert squeezed.dtype == np.uint8
    np.testing.assert_array_equal(squeezed, one_by_one(X, quality))


@given(
    n=st.integers(1, 5),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    channels=st.sampled_from([1, 3]),
    quality=st.integers(1, 100),
    seed=st.integers(0, 99),
)
def test_many_at_once_are_as_alone(n, height, width, channels, quality, seed):
    X = pictures(n, height, width, channels, seed)
    found = _jpeg_codec.recompressed(X, quality)
    np.testing.assert_array_equal(found, one_by_one(X, quality))


@pytest.mark.parametrize("shape", [(9, 11, 1), (32, 32, 3)])
def test_images_that_fill_more_than_one_jpeg(shape, monkeypatch):
    X = pictures(50, *shape)
    expected = one_by_one(X, 75)
    monkeypatch.setattr(_jpeg_codec, "LONGEST_SIDE", 200)
    np.testing.assert_array_equal(_jpeg_codec.recompressed(X, 75), expected)


def test_a_codec_that_works_otherwise_gets_images_one_by_one(monkeypatch):
    assert _jpeg_codec._tiles_are_exact()
    X = pictures(6, 16, 16, 3)
    expected = one_by_one(X, 75)
    # another way to bring colors back, as older codecs have it
    monkeypatch.setattr(_jpeg_codec, "wider", lambda c, w: c.repeat(2, -1)[..., :w])
    _jpeg_codec._tiles_are_exact.cache_clear()
    try:
        assert not _jpeg_codec._tiles_are_exact()
        np.testing.assert_array_equal(_jpeg_codec.recompressed(X, 75), expected)
    finally:
        _jpeg_codec._tiles_are_exact.cache_clear()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "value_range", [(0, 1), (0, 255), (-1, 1), np.array([-2.5, 7.0])]
)
@pytest.mark.parametrize("shape", [(14, 9), (16, 12, 3)])
def test_floats_are_clipped_rounded_coded_and_brought_back(value_range, shape, dtype):
    low, high = value_range
    width = high - low
    X = np.random.default_rng(0).uniform(low - width / 2, high + width / 2, (5, *shape))
    X = X.astype(dtype)
    squeezer = JpegSqueezer(60, value_range=value_range).fit(X)
    assert squeezer.value_range_ == (low, high)
    squeezed = squeezer.transform(X)
    assert squeezed.dtype == dtype
    codes = np.rint((np.clip(X.astype(float), low, high) - low) / width * 255)
    expected = low + one_by_one(codes.astype(np.uint8), 60) / 255 * width
    tolerance = 1e-12 if dtype == np.float64 else 1e-6
    np.testing.assert_allclose(squeezed, expected, atol=tolerance * width, rtol=0)
    assert squeezed.min() >= low and squeezed.max() <= high


def test_values_beyond_the_range_do_not_wrap():
    X = np.full((2, 8, 8), 1.02, dtype=np.float32)
    X[1] = -0.02
    squeezed = JpegSqueezer(value_range=(0, 1)).fit_transform(X)
    np.testing.assert_array_equal(squeezed[0], 1)
    np.testing.assert_array_equal(squeezed[1], 0)
    gray = np.full((1, 8, 8), 127.9)
    squeezed = JpegSqueezer(100, value_range=(0, 255)).fit_transform(gray)
    np.testing.assert_array_equal(squeezed, 128)


def test_range_is_one_pair_also_for_images_in_rows():
    X = np.random.default_rng(0).normal(size=(6, 5, 4)) * 3
    rows = JpegSqueezer(image_shape=(5, 4)).fit(X.reshape(6, -1))
    stacked = JpegSqueezer().fit(X)
    assert rows.value_range_ == stacked.value_range_ == (X.min(), X.max())
    flat = rows.transform(X.reshape(6, -1))
    np.testing.assert_array_equal(flat, stacked.transform(X).reshape(6, -1))


def test_uint8_has_the_range_of_bytes():
    X = pictures(4, 8, 8) // 2 + 20
    after_floats = JpegSqueezer().fit(X / 1000)
    np.testing.assert_array_equal(after_floats.transform(X), one_by_one(X, 75))
    assert JpegSqueezer(value_range=(0, 1)).fit(X).value_range_ == (0, 255)


def test_constant_images_stay_as_they_are():
    X = np.full((2, 8, 8), 0.3)
    np.testing.assert_array_equal(JpegSqueezer().fit_transform(X), X)


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_channel_axis(axis):
    X = pictures(4, 16, 16, 3)
    expected = one_by_one(X, 75)
    given = np.moveaxis(X, -1, 1 + axis % 3)
    squeezed = JpegSqueezer(channel_axis=axis).fit_transform(given)
    np.testing.assert_array_equal(np.moveaxis(squeezed, 1 + axis % 3, -1), expected)


def test_a_signal_is_an_image_of_height_one():
    X = pictures(5, 1, 70)[:, 0]
    squeezed = JpegSqueezer(20).fit_transform(X)
    np.testing.assert_array_equal(squeezed, one_by_one(X[:, None], 20)[:, 0])


@pytest.mark.parametrize("channels", [2, 4])
def test_other_channels_are_refused(channels):
    message = (
        f"takes gray images (one channel or none) and RGB images (three channels). Got "
        f"{channels} channels in images of shape (8, 9, {channels}); channel_axis=-1"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        JpegSqueezer().fit(np.zeros((2, 8, 9, channels)))


def test_sides_that_jpeg_cannot_store_are_refused():
    with pytest.raises(
        ValueError, match=r"sides of at most 65500 pixels\. Got .*\(65501"
    ):
        JpegSqueezer().fit(np.zeros((1, 65501), dtype=np.uint8))


@pytest.mark.parametrize("quality", [0, 101, -1, 75.0, "75", None, True, np.nan])
def test_bad_quality(quality):
    message = (
        "The 'quality' parameter of JpegSqueezer must be an int in [1, 100]. "
        f"Got {quality!r} instead."
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        JpegSqueezer(quality).fit(np.zeros((2, 8, 8)))


def test_bad_value_range():
    message = "The 'value_range' parameter of JpegSqueezer must be a pair"
    with pytest.raises(ValueError, match=message):
        JpegSqueezer(value_range=(1, 0)).fit(np.zeros((2, 8, 8)))


def test_without_pillow_the_error_names_the_extra(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.partition(".")[0] == "PIL":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    monkeypatch.delitem(sys.modules, "PIL.Image", raising=False)
    with pytest.raises(ImportError, match=r'pip install "sk_advdef\[images\]"'):
        JpegSqueezer().fit(np.zeros((2, 8, 8)))


def test_what_it_is_worth_against_an_attacker_who_knows_it():
    X, y = load_digits(return_X_y=True)
    X = X / 16
    plain = LogisticRegression(max_iter=2000).fit(X[:600], y[:600])
    jpeg = JpegSqueezer(10, value_range=(0, 1), image_shape="square")
    squeezed = make_pipeline(jpeg, LogisticRegression(max_iter=2000))
    squeezed.fit(X[:600], y[:600])
    X, y = X[1200:1300], y[1200:1300]
    attack = PGD(0.1, steps=20, random_state=0)
    ignores = squeezed.score(attack.perturb(plain, X, y), y)
    knows = squeezed.score(attack.perturb(squeezed, X, y), y)
    assert squeezed.score(X, y) > 0.85
    assert ignores > knows + 0.2
