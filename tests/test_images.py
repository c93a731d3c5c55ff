import math
import re
import warnings

import numpy as np
import pytest
import torch
from sklearn.base import BaseEstimator

from sk_advdef import nets
from sk_advdef._images import ImageLayout, check_channel_axis, resolve_layout


class Owner(BaseEstimator):
    """Stands for any estimator that takes images."""


def layout_of(shape_of_X, image_shape=None, channel_axis=-1):
    return resolve_layout(Owner(), shape_of_X, image_shape, channel_axis)


@pytest.mark.parametrize(
    ("shape_of_X", "image_shape", "channel_axis", "shape", "unfolded"),
    [
        # rows
        ((5, 63), None, -1, (63,), (1, 63, 1)),
        ((5, 64), (64,), -1, (64,), (1, 64, 1)),
        ((5, 64), "square", -1, (8, 8), (8, 8, 1)),
        ((5, 1), "square", -1, (1, 1), (1, 1, 1)),
        ((5, 64), np.str_("square"), -1, (8, 8), (8, 8, 1)),
        ((5, 64), (4, 16), -1, (4, 16), (4, 16, 1)),
        ((5, 64), [np.int64(4), 16], -1, (4, 16), (4, 16, 1)),
        ((5, 60), (4, 5, 3), -1, (4, 5, 3), (4, 5, 3)),
        ((5, 60), (4, 5, 3), 2, (4, 5, 3), (4, 5, 3)),
        ((5, 60), (3, 4, 5), 0, (3, 4, 5), (4, 5, 3)),
        ((5, 60), (4, 3, 5), 1, (4, 3, 5), (4, 5, 3)),
        ((5, 60), (4, 3, 5), np.int64(-2), (4, 3, 5), (4, 5, 3)),
        # stacked images
        ((5, 4, 6), None, -1, (4, 6), (4, 6, 1)),
        ((5, 4, 6), (4, 6), -1, (4, 6), (4, 6, 1)),
        ((5, 8, 8), "square", -1, (8, 8), (8, 8, 1)),
        ((5, 4, 6, 3), None, -1, (4, 6, 3), (4, 6, 3)),
        ((5, 3, 4, 6), None, 0, (3, 4, 6), (4, 6, 3)),
        ((5, 3, 4, 6), (3, 4, 6), -3, (3, 4, 6), (4, 6, 3)),
        ((5, 3, 6, 6), "square", 0, (3, 6, 6), (6, 6, 3)),
    ],
)
def test_layout(shape_of_X, image_shape, channel_axis, shape, unfolded):
    layout = layout_of(shape_of_X, image_shape, channel_axis)
    assert layout.shape == shape
    assert all(type(side) is int for side in layout.shape)
    assert layout.unfolded == unfolded
    assert layout.stacked == (len(shape_of_X) > 2)

    X = np.arange(np.prod(shape_of_X)).reshape(shape_of_X)
    images = layout.unfold(X)
    assert images.shape == (5, *unfolded)
    np.testing.assert_array_equal(layout.fold(images), X)
    # The channels are where channel_axis says, not merely in a place of that size.
    if len(shape) == 3:
        color = np.moveaxis(X.reshape(5, *shape), channel_axis % 3 + 1, -1)
        np.testing.assert_array_equal(images, color)
    # Images of another size fold in the same order.
    small = images[:, :1, : unfolded[1] // 2 + 1]
    folded = layout.fold(small)
    assert folded.shape[0] == 5
    assert folded.ndim == len(shape_of_X)
    assert sorted(folded.ravel()) == sorted(small.ravel())


@pytest.mark.parametrize("channel_axis", [-1, 0, 1])
@pytest.mark.parametrize("stacked", [True, False])
def test_tensors_unfold_and_fold_like_arrays(channel_axis, stacked):
    import torch

    layout = ImageLayout((3, 4, 5), channel_axis % 3, stacked)
    X = np.arange(120.0).reshape((2, 3, 4, 5) if stacked else (2, 60))
    images = layout.unfold(torch.tensor(X))
    np.testing.assert_array_equal(images, layout.unfold(X))
    np.testing.assert_array_equal(layout.fold(images), X)


@pytest.mark.parametrize("side", [8, 9, 28, 100])
def test_square_widths_warn(side):
    width = side**2
    message = (
        f"Owner takes rows of {width} = {side} * {side} features as one-dimensional "
        'signals. If they are images, pass image_shape="square" or a tuple such as '
        f"image_shape=({side}, {side}); if they are signals, pass "
        f"image_shape=({width},) to silence this warning."
    )
    with pytest.warns(UserWarning, match=f"^{re.escape(message)}$"):
        assert layout_of((5, width)).shape == (width,)


@pytest.mark.parametrize("axis, shape", [(-1, (32, 32, 3)), (0, (3, 32, 32))])
def test_widths_of_color_images_warn(axis, shape):
    told = (
        f"3072 = {' * '.join(map(str, shape))} features as one-dimensional signals. If "
        f"they are images, pass a tuple such as image_shape={shape}; if"
    )
    with pytest.warns(UserWarning, match=re.escape(told)):
        layout_of((5, 3072), channel_axis=axis)


@pytest.mark.parametrize(
    "shape, axis, other", [((3, 32, 30), -1, 0), ((1, 8, 8), 2, 0), ((9, 8, 4), 0, -1)]
)
def test_channels_at_the_other_end(shape, axis, other):
    told = f"to have {shape[axis]} channels, as .* pass channel_axis={other}; to a net"
    for shape_of_X, image_shape in [
        ((5, *shape), None),
        ((5, math.prod(shape)), shape),
    ]:
        with pytest.warns(UserWarning, match=told):
            layout_of(shape_of_X, image_shape, axis)
    with pytest.warns(UserWarning, match=f"^DropoutCNN takes.*{told}"):
        nets.DropoutCNN(2, channel_axis=axis)(torch.zeros(2, *shape))


@pytest.mark.parametrize(
    "shape, axis",
    [((32, 32, 3), -1), ((3, 32, 32), 0), ((32, 3, 32), 1), ((4, 4, 9), -1)],
)
def test_likely_channels_are_silent(shape, axis):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layout_of((5, *shape), None, axis)
        model = nets.DropoutCNN(2, channel_axis=axis)
        model(torch.zeros(2, *shape))


@pytest.mark.parametrize("width", [1, 2, 4, 9, 16, 25, 36, 49, 63, 65, 80, 82, 783])
def test_other_widths_are_silent(width):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert layout_of((5, width)).shape == (width,)


BAD_SHAPES = ["squared", b"square", "", 8, 8.0, True, (), (2, 2, 2, 2)]
BAD_SHAPES += [(8, 0), (-8, -8), (8.0, 8), (True, 64), ("8", "8")]


@pytest.mark.parametrize("image_shape", BAD_SHAPES)
@pytest.mark.parametrize("shape_of_X", [(5, 64), (5, 8, 8)])
def test_bad_image_shape(image_shape, shape_of_X):
    message = (
        "The 'image_shape' parameter of Owner must be \"square\", a tuple of 1 to 3 "
        f"positive ints, or None. Got {image_shape!r} instead."
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        layout_of(shape_of_X, image_shape)


@pytest.mark.parametrize(
    ("shape_of_X", "image_shape", "message"),
    [
        (
            (5, 63),
            "square",
            'image_shape="square" of Owner needs a width that is a square number. X '
            "has 63 features; pass the shape as a tuple (height, width) or (height, "
            "width, channels).",
        ),
        (
            (5, 63),
            (8, 8),
            "image_shape=(8, 8) of Owner has 64 values, but X has 63 features a row.",
        ),
        ((5, 64), (8, 8, 3), "has 192 values, but X has 64 features a row."),
        (
            (5, 4, 6),
            (6, 4),
            "image_shape=(6, 4) of Owner does not fit X, whose images have the shape "
            "(4, 6).",
        ),
        ((5, 4, 6), (24,), "image_shape=(24,) of Owner does not fit X"),
        ((5, 4, 6), "square", "image_shape='square' of Owner does not fit X"),
        ((5, 4, 4, 3), (4, 4), "image_shape=(4, 4) of Owner does not fit X"),
        (
            (5, 2, 3, 4, 3),
            None,
            "Owner takes rows (n_samples, n_features) or stacked images (n_samples, "
            "height, width) with or without a channel axis. Got an array of shape "
            "(5, 2, 3, 4, 3).",
        ),
    ],
)
def test_shapes_that_do_not_fit(shape_of_X, image_shape, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        layout_of(shape_of_X, image_shape)


def test_square_goes_by_the_channel_axis():
    with pytest.raises(ValueError, match="does not fit X"):
        layout_of((5, 6, 6, 3), "square", channel_axis=0)


@pytest.mark.parametrize(
    ("given", "axis"), [(-3, 0), (-2, 1), (-1, 2), (0, 0), (1, 1), (2, 2)]
)
def test_channel_axis(given, axis):
    assert check_channel_axis(Owner(), given) == axis


@pytest.mark.parametrize("channel_axis", [3, -4, None, 1.0, "last", True, np.nan])
def test_bad_channel_axis(channel_axis):
    message = (
        "The 'channel_axis' parameter of Owner must be an int in [-3, 2]. "
        f"Got {channel_axis!r} instead."
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        layout_of((5, 4, 6), channel_axis=channel_axis)
