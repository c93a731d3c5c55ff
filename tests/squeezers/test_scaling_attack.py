"""Image-scaling attacks: an image that becomes another one when it is made smaller.

Q. Xiao et al., "Seeing is Not Believing", USENIX Security 2019; E. Quiring et al.,
"Adversarial Preprocessing", USENIX Security 2020. The attacker knows how the image is
made smaller, writes the target where the smaller image reads, and leaves the rest.
"""

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from sk_advdef import Downscaler, stack_images
from sk_advdef.squeezers._operators import area_matrix

SMALL = 8


def sampled_points(length, new):
    """Where nearest-neighbor scaling reads: ``X[::k]`` for a whole factor k."""
    return np.arange(new) * length // new


def by_points(images):
    rows, columns = (sampled_points(side, SMALL) for side in images.shape[1:3])
    return images[:, rows][:, :, columns]


def by_area(images):
    return Downscaler(size=SMALL, restore=False).fit_transform(images)


def attacked(sources, targets):
    """Write the small targets on just the points that sampling reads."""
    images = sources.copy()
    rows, columns = (sampled_points(side, SMALL) for side in images.shape[1:3])
    images[np.ix_(range(len(images)), rows, columns)] = targets
    return images


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    return X.reshape(-1, SMALL, SMALL) / 16, y


@pytest.fixture(scope="module")
def pairs(digits):
    """Digits to start from and, for each, one of another class to become."""
    X, y = digits
    sources, targets = np.arange(100), np.arange(100, 200)
    keep = y[sources] != y[targets]
    return X[sources[keep]], y[sources[keep]], X[targets[keep]], y[targets[keep]]


@pytest.mark.parametrize("side", [64, 100, 130])
def test_sampled_points_are_the_attackers_to_write_and_areas_are_not(
    side, digits, pairs
):
    model = LogisticRegression(max_iter=1000).fit(digits[0].reshape(-1, 64), digits[1])
    small, y, targets, y_target = pairs
    sources = stack_images(small, side)
    images = attacked(sources, targets)
    changed = (images != sources).mean(axis=(1, 2))
    assert changed.max() <= (SMALL / side) ** 2 < 0.016

    def distance(a, b):
        return np.abs(a - b).mean(axis=(1, 2))

    def accuracy(images, labels):
        return model.score(images.reshape(len(images), -1), labels)

    # Sampling gives the target itself, whatever the image shows.
    np.testing.assert_array_equal(by_points(images), targets)
    assert accuracy(by_points(images), y_target) > 0.95
    assert accuracy(by_points(images), y) < 0.05

    # The mean over areas moves by the share of pixels that changed, and not more.
    honest, squeezed = by_area(sources), by_area(images)
    to_target = distance(honest, targets)
    assert (distance(squeezed, honest) <= 0.02 * to_target + 1e-9).all()
    assert (distance(squeezed, targets) >= 0.95 * to_target).all()
    assert accuracy(squeezed, y) > 0.95
    assert accuracy(squeezed, y_target) < 0.05
    # ... and so it is with the stack of images of many sizes.
    np.testing.assert_allclose(stack_images(images, SMALL), squeezed, atol=1e-12)


def test_one_who_knows_areas_must_change_as_much_as_the_target_asks(pairs):
    # The least that reaches a target: whole pixels, from 0 to 1 or back.
    small, _, targets, _ = pairs
    block = 16
    sources = np.kron(small, np.ones((block, block)))
    need = np.abs(by_area(sources) - targets).mean(axis=(1, 2))

    rng = np.random.default_rng(0)
    images, means = sources.copy(), by_area(sources)
    cells = images.reshape(-1, SMALL, block, SMALL, block).transpose(0, 1, 3, 2, 4)
    for cell in np.ndindex(cells.shape[:3]):
        pixels = cells[cell].copy().ravel()
        toward = 1.0 if targets[cell] > means[cell] else 0.0
        gain = np.abs(toward - pixels[0]) / block**2
        missing = np.abs(targets[cell] - means[cell])
        n = int(np.ceil(missing / gain - 1e-9)) if missing else 0
        pixels[rng.permutation(block**2)[:n]] = toward
        cells[cell] = pixels.reshape(block, block)
    images = cells.transpose(0, 1, 3, 2, 4).reshape(sources.shape)
    assert np.abs(by_area(images) - targets).max() <= 1 / block**2
    changed = (images != sources).mean(axis=(1, 2))
    # of all pixels, at least as large a part as the small images differ by
    assert (changed >= need - 1e-9).all()
    assert changed.min() > 10 * (SMALL / sources.shape[1]) ** 2


@pytest.mark.parametrize(("length", "new"), [(64, 8), (100, 8), (224, 32), (150, 149)])
def test_no_pixel_counts_more_than_another(length, new):
    weights = area_matrix(length, new)
    weights = weights if isinstance(weights, np.ndarray) else weights.toarray()
    np.testing.assert_allclose(weights.sum(axis=0), new / length, atol=1e-12)
    read = np.zeros(length, dtype=bool)
    read[sampled_points(length, new)] = True
    # sampling gives all the weight to as many pixels as come out
    assert read.sum() == new < length
