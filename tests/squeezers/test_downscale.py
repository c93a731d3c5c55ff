import re

import numpy as np
import pytest
from skimage.transform import downscale_local_mean, resize_local_mean

from sk_advdef import Downscaler
from tests.squeezers._cases import CASES, TOLERANCE


def resized(images, case, sides):
    return np.array(
        [
            resize_local_mean(
                image,
                sides,
                grid_mode=True,
                preserve_range=True,
                channel_axis=case.channel_of_image,
            )
            for image in images
        ]
    )


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("factor", [0.2, 1 / 3, 0.5, 0.77, 0.99])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_equals_scikit_image(case, factor, dtype):
    X = case.samples()
    sides = tuple(max(1, round(side * factor)) for side in case.sides)
    small = resized(X, case, sides)
    tolerance = {"rtol": 0, "atol": TOLERANCE[dtype]}
    for arguments, given in case.inputs(X.astype(dtype)):
        scaler = Downscaler(factor, **arguments).fit(given)
        assert scaler.size_ == (1, *sides)[-2:]
        restored = scaler.transform(given)
        assert restored.dtype == dtype
        expected = resized(small, case, case.sides).reshape(given.shape)
        np.testing.assert_allclose(restored, expected, **tolerance)

        shrunk = Downscaler(factor, restore=False, **arguments).fit_transform(given)
        assert shrunk.dtype == dtype
        expected = small if given.ndim > 2 else small.reshape(len(small), -1)
        np.testing.assert_allclose(shrunk, expected, **tolerance)


@pytest.mark.parametrize(("shape", "blocks"), [((8, 12), (2, 2)), ((160, 9), (4, 3))])
def test_whole_factors_are_means_of_blocks(shape, blocks):
    X = np.random.default_rng(0).normal(size=(2, *shape))
    size = tuple(side // block for side, block in zip(shape, blocks, strict=True))
    expected = [downscale_local_mean(image, blocks) for image in X]
    shrunk = Downscaler(size=size, restore=False).fit_transform(X)
    np.testing.assert_allclose(shrunk, expected, atol=1e-12)
    restored = Downscaler(size=size).fit_transform(X)
    np.testing.assert_allclose(restored, np.kron(expected, np.ones(blocks)), atol=1e-12)


@pytest.mark.parametrize(
    ("shape", "arguments", "size"),
    [
        ((8, 12), {"size": 5}, (5, 5)),
        ((8, 12), {"size": np.int64(5)}, (5, 5)),
        ((8, 12), {"size": (3, 4)}, (3, 4)),
        ((8, 12), {"size": [8, 12]}, (8, 12)),
        ((8, 12), {"factor": 0.01}, (1, 1)),
        ((8, 12), {"factor": np.float32(0.25)}, (2, 3)),
        ((8, 12), {"factor": 1}, (8, 12)),
        ((20,), {"size": 5}, (1, 5)),
        ((20,), {"size": (5,)}, (1, 5)),
        ((20,), {"size": (1, 5)}, (1, 5)),
        ((20,), {"factor": 0.3}, (1, 6)),
    ],
)
def test_size(shape, arguments, size):
    X = np.random.default_rng(0).normal(size=(2, *shape))
    scaler = Downscaler(restore=False, **arguments).fit(X)
    assert scaler.size_ == size
    assert scaler.transform(X).shape == (2, *size[-len(shape) :])


@pytest.mark.parametrize("factor", [0, -0.5, 1.01, np.nan, np.inf, "0.5", None, True])
@pytest.mark.parametrize("size", [None, 2])
def test_bad_factor(factor, size):
    message = (
        f"The 'factor' parameter of Downscaler must be a float in (0, 1]. "
        f"Got {factor!r} instead."
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        Downscaler(factor, size=size).fit(np.eye(3))


@pytest.mark.parametrize("restore", [1, 0, None, "yes"])
def test_bad_restore(restore):
    message = "^The 'restore' parameter of Downscaler must be a bool. Got "
    with pytest.raises(ValueError, match=message):
        Downscaler(restore=restore).fit(np.eye(3))


BAD_SIZES = [0, -2, 2.0, np.nan, "3", True, (), (2, 2.0), (1, 2, 3)]
BAD_SIZES += [((1, 2), 3), {2: 3}]


@pytest.mark.parametrize(
    ("shape", "sizes"),
    [
        ((8, 12), [*BAD_SIZES, 9, (3, 13), (3,), (True, 2)]),
        ((20,), [*BAD_SIZES, 21, (2, 5), (1, 21)]),
    ],
)
def test_bad_size(shape, sizes):
    limit = "20" if shape == (20,) else "(8, 12)"
    for size in sizes:
        message = (
            "The 'size' parameter of Downscaler must be None, a positive int or a pair "
            f"of them, at most the size {limit} of the input. Got {size!r} instead."
        )
        with pytest.raises(ValueError, match=re.escape(message)):
            Downscaler(size=size).fit(np.zeros((2, *shape)))
