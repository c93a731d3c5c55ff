"""The view of JpegSqueezer: exact forward, two ways back."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.pipeline import make_pipeline
from sklearn.svm import SVC

from sk_advdef import JpegSqueezer, as_module
from sk_advdef._torch._bpda import anneal, annealed
from tests._torch.test_bpda import rows_left

CASES = {
    "gray": ((3, 20, 13), {}),
    "color": ((3, 17, 22, 3), {}),
    "channels first": ((3, 3, 16, 24), {"channel_axis": 0}),
    "rows": ((3, 8 * 9 * 3), {"image_shape": (8, 9, 3)}),
    "signal": ((3, 30), {}),
}


def smooth(shape):
    """Return images that a JPEG changes little."""
    waves = np.sin(np.linspace(0, 9, int(np.prod(shape)))).reshape(shape)
    return 0.5 + 0.3 * waves + 0.1 * np.random.default_rng(0).random(shape)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("value_range", [(0, 1), (-3, 5), None])
def test_exact_forward_and_straight_gradient(name, dtype, value_range):
    shape, arguments = CASES[name]
    X = smooth(shape).astype(dtype)
    squeezer = JpegSqueezer(40, value_range=value_range, **arguments).fit(X)
    rng = np.random.default_rng(1)
    for rows in (X, (X + rng.normal(size=shape)).astype(dtype)):
        x = torch.tensor(rows, requires_grad=True)
        view = as_module(squeezer)
        out = view(x)
        np.testing.assert_array_equal(out.detach(), squeezer.transform(rows))
        weights = torch.tensor(rng.normal(size=shape).astype(dtype))
        (gradient,) = torch.autograd.grad((out * weights).sum(), x)
        assert torch.equal(gradient, weights)
        with annealed(view):
            anneal(view, 0.5)
            soft = view(x)
            assert torch.equal(soft, out)
            (other,) = torch.autograd.grad((soft * weights).sum(), x)
        assert other.dtype == x.dtype
        assert torch.isfinite(other).all()
        assert not torch.allclose(other, gradient)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("quality", [10, 75])
def test_differentiable_jpeg_is_near_the_real_one(name, quality):
    shape, arguments = CASES[name]
    # whole numbers, as Pillow has them: a fine JPEG changes no more than rounding does
    X = np.rint(255 * smooth(shape))
    squeezer = JpegSqueezer(quality, value_range=(0, 255), **arguments).fit(X)
    view, x = as_module(squeezer), torch.tensor(X)
    hard = np.rint(view.differentiable(x, torch.round).numpy())
    real = squeezer.transform(X)
    # Pillow rounds colors too, which moves some coefficients to the next step.
    share = 0.25 if squeezer.image_shape_.count(3) else 0.1
    assert np.abs(hard - real).mean() < share * np.abs(real - X).mean()


def test_without_rounding_gray_comes_back_unchanged():
    X = smooth((2, 11, 18))
    squeezer = JpegSqueezer(75, value_range=(0, 1)).fit(X)
    found = as_module(squeezer).differentiable(torch.tensor(X), lambda c: c)
    np.testing.assert_allclose(found, X, atol=1e-12)


def test_soft_way_back_is_that_of_finite_differences():
    X = smooth((1, 9, 10, 3))
    squeezer = JpegSqueezer(60, value_range=(0, 1)).fit(X)
    view = as_module(squeezer)
    view.sharpness = 2.0
    x = torch.tensor(X, requires_grad=True)
    assert torch.autograd.gradcheck(view.soft, x, fast_mode=True, rtol=1e-4)


def test_fitted_with_names_and_on_bytes():
    import pandas as pd

    X = pd.DataFrame(smooth((4, 12)), columns=[f"pixel{i}" for i in range(12)])
    squeezer = JpegSqueezer(30, image_shape=(3, 4)).fit(X)
    out = as_module(squeezer)(torch.tensor(X.to_numpy()))
    np.testing.assert_array_equal(out, squeezer.transform(X))

    codes = (255 * smooth((2, 9, 9))).astype(np.uint8)
    squeezer = JpegSqueezer(30).fit(codes)
    out = as_module(squeezer)(torch.tensor(codes.astype(np.float32)))
    np.testing.assert_array_equal(out, squeezer.transform(codes))


def test_soft_coefficients_fool_rows_that_the_straight_way_leaves():
    X, y = load_digits(return_X_y=True)
    X = X / 16
    jpeg = JpegSqueezer(20, value_range=(0, 1), image_shape=(8, 8))
    model = make_pipeline(jpeg, SVC(kernel="linear")).fit(X[:600], y[:600])
    X, y = X[1200:1350], y[1200:1350]
    usual = rows_left(model, X, y, soft=False)
    soft = rows_left(model, X, y, soft=True)
    assert soft.sum() <= usual.sum() - 30
