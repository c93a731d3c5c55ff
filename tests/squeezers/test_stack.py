import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from skimage.transform import resize_local_mean

from sk_advdef import Downscaler, stack_images
from tests.squeezers._cases import TOLERANCE

SIZES = [(9, 12), (7, 5), (1, 30), (150, 4), (6, 6)]


def images_of(*shape_of_channels, dtype=np.float64, sizes=SIZES):
    rng = np.random.default_rng(0)
    return [
        (255 * rng.random((*size, *shape_of_channels))).astype(dtype) for size in sizes
    ]


@pytest.mark.parametrize("channels", [(), (1,), (3,)])
@pytest.mark.parametrize("dtype", [*TOLERANCE, np.uint8])
@pytest.mark.parametrize("size", [(6, 6), (3, 4), (13, 140), 8])
def test_equals_scikit_image(channels, dtype, size):
    images = images_of(*channels, dtype=dtype)
    sides = (size, size) if isinstance(size, int) else size
    stacked = stack_images(images, size)
    assert stacked.dtype == dtype
    assert stacked.shape == (len(SIZES), *sides, *channels)
    expected = [
        resize_local_mean(
            image.astype(float),
            sides,
            grid_mode=True,
            preserve_range=True,
            channel_axis=-1 if channels else None,
        )
        for image in images
    ]
    tolerance = {np.float64: 1e-9, np.float32: 2e-3, np.uint8: 0.5001}[dtype]
    np.testing.assert_allclose(stacked, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("dtype", [*TOLERANCE, np.uint8])
def test_shrinks_as_downscaler_does(dtype):
    images = images_of(3, dtype=dtype, sizes=[(30, 40)] * 3)
    scaler = Downscaler(size=(7, 13), restore=False)
    expected = scaler.fit_transform(np.stack(images))
    tolerance = 0 if dtype == np.uint8 else 1e-3
    np.testing.assert_allclose(
        stack_images(images, (7, 13)), expected, rtol=0, atol=tolerance
    )


def test_whole_factors_repeat_pixels():
    (image,) = images_of(sizes=[(4, 5)])
    (large,) = stack_images([image], (8, 15))
    np.testing.assert_allclose(large, np.kron(image, np.ones((2, 3))), atol=1e-12)
    np.testing.assert_allclose(stack_images([large], (4, 5))[0], image, atol=1e-12)


@given(
    sizes=st.lists(
        st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=4
    ),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    channels=st.sampled_from([(), (2,)]),
    dtype=st.sampled_from([np.float32, np.float64, np.uint8]),
)
def test_properties(sizes, size, channels, dtype):
    images = images_of(*channels, dtype=dtype, sizes=sizes)
    before = [image.copy() for image in images]
    stacked = stack_images(iter(images), size)
    for image, copy, resized in zip(images, before, stacked, strict=True):
        np.testing.assert_array_equal(image, copy)
        rounding = 1e-3 if dtype == np.float32 else 1e-9
        assert resized.min() >= image.min() - rounding
        assert resized.max() <= image.max() + rounding
        # each image by itself
        np.testing.assert_array_equal(stack_images([image], size)[0], resized)
        if image.shape[:2] == size:
            np.testing.assert_array_equal(resized, image)
    assert not any(np.shares_memory(image, stacked) for image in images)


@pytest.mark.parametrize("axis", [0, 1, -3, -1])
def test_channel_axis(axis):
    images = images_of(3)
    expected = np.moveaxis(stack_images(images, (5, 6)), -1, axis % 3 + 1)
    moved = [np.moveaxis(image, -1, axis) for image in images]
    stacked = stack_images(moved, (5, 6), channel_axis=axis)
    np.testing.assert_allclose(stacked, expected, atol=1e-12)


@pytest.mark.parametrize(
    ("dtype", "comes_out"),
    [
        *((kind, np.float64) for kind in (np.float16, np.int64, bool, np.uint16)),
        (">f4", np.float32),
        (">f8", np.float64),
    ],
)
def test_other_dtypes(dtype, comes_out):
    stacked = stack_images([np.eye(4, dtype=dtype)], 2)
    assert stacked.dtype == comes_out
    np.testing.assert_allclose(stacked[0], np.eye(2) / 2)


def test_lists_and_arrays_of_images():
    expected = stack_images(np.ones((3, 4, 5)), 2)
    stacked = stack_images(np.ones((3, 4, 5)).tolist(), np.int64(2))
    np.testing.assert_array_equal(stacked, expected)


GRAY, COLOR = np.zeros((4, 5)), np.zeros((4, 5, 3))
NAN, INF = np.full((2, 2), np.nan), np.full((2, 2), np.inf)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], "stack_images needs at least one image. Got none."),
        (3, "The 'images' parameter of stack_images must be a sequence of images"),
        (np.array(1), "The 'images' parameter of stack_images must be a sequence"),
        ("ab", "The 'images' parameter of stack_images must be a sequence of images"),
        ([GRAY, np.zeros(5)], "images[1] has the shape (5,)"),
        ([np.zeros((1, 2, 3, 4))], "images[0] has the shape (1, 2, 3, 4)"),
        ([GRAY, np.zeros((0, 3))], "images[1] has the shape (0, 3)"),
        (
            [GRAY, GRAY, COLOR],
            "must have equal numbers of axes. images[0] has 2, images[2] has 3",
        ),
        (
            [COLOR, COLOR[..., :1]],
            "equal numbers of channels (axis 2). images[0] has 3, images[1] has 1",
        ),
        (
            [GRAY, GRAY.astype(np.uint8)],
            "equal dtypes. images[0] has float64, images[1] has uint8: convert",
        ),
        ([np.array([["a", "b"]])], "must be real numbers. Got <U1."),
        ([GRAY.astype(complex)], "must be real numbers. Got complex128."),
        ([GRAY, NAN], "Input images[1] contains NaN"),
        ([INF], "Input images[0] contains infinity"),
    ],
)
def test_bad_images(images, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        stack_images(images, (2, 2))


@pytest.mark.parametrize("size", [0, -1, 2.0, None, "2", True, (2,), (2, 0), (1, 2, 3)])
def test_bad_size(size):
    message = (
        "The 'size' parameter of stack_images must be an int in [1, inf) or a pair "
        f"(height, width) of them. Got {size!r} instead."
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        stack_images([GRAY], size)


@pytest.mark.parametrize("axis", [3, -4, 1.0, None])
def test_bad_channel_axis(axis):
    message = "The 'channel_axis' parameter of stack_images must be an int in [-3, 2]"
    with pytest.raises(ValueError, match=re.escape(message)):
        stack_images([COLOR], 2, channel_axis=axis)
