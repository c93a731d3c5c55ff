import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from sk_advdef import BlurSqueezer, Downscaler
from tests.squeezers._cases import CASES, TOLERANCE


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("sigma", [0.1, 0.3, 1, 2.7, 40.0])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_equals_scipy(case, sigma, dtype):
    X = case.samples()
    expected = gaussian_filter(
        X, sigma, mode="reflect", truncate=4.0, axes=case.spatial
    )
    for arguments, given in case.inputs(X.astype(dtype)):
        squeezed = BlurSqueezer(sigma, **arguments).fit_transform(given)
        assert squeezed.dtype == dtype
        np.testing.assert_allclose(
            squeezed, expected.reshape(given.shape), rtol=0, atol=TOLERANCE[dtype]
        )


def test_wide_blur_is_the_mean():
    X = CASES["color"].samples()
    squeezed = BlurSqueezer(sigma=1e5).fit_transform(X)
    mean = np.broadcast_to(X.mean(axis=(1, 2), keepdims=True), X.shape)
    np.testing.assert_allclose(squeezed, mean, atol=1e-5)


@pytest.mark.parametrize("sigma", [1e12, 1e300])
def test_blur_wider_than_memory(sigma):
    X = CASES["signal"].samples()
    squeezed = BlurSqueezer(sigma).fit_transform(X)
    mean = np.broadcast_to(X.mean(axis=1, keepdims=True), X.shape)
    np.testing.assert_allclose(squeezed, mean, atol=1e-6)


@pytest.mark.parametrize("sigma", [-1, -0.5, np.inf, np.nan, "1", None, True, [1.0]])
def test_bad_sigma(sigma):
    message = (
        r"^The 'sigma' parameter of BlurSqueezer must be a float in \[0, inf\)\. Got "
    )
    with pytest.raises(ValueError, match=message):
        BlurSqueezer(sigma).fit(np.eye(3))


@pytest.mark.parametrize("sigma", [np.float32(0.5), np.int64(2), np.float64(1.5)])
def test_sigma_may_be_a_numpy_scalar(sigma):
    X = CASES["signal"].samples()
    expected = BlurSqueezer(float(sigma)).fit_transform(X)
    np.testing.assert_array_equal(BlurSqueezer(sigma).fit_transform(X), expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("squeezer", [BlurSqueezer(0.7), BlurSqueezer(3), Downscaler()])
def test_means_of_the_largest_numbers_are_numbers(squeezer, dtype):
    largest = np.finfo(dtype).max
    rng = np.random.default_rng(0)
    X = -largest * rng.uniform(0.99, 1, (40, 2, 3)).astype(dtype)
    X[:20] = -largest
    found = squeezer.fit(X).transform(X)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found[:20], X[:20], rtol=1e-5)
