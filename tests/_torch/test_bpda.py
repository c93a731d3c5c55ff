"""The ways back through steps."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.ensemble import VotingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.svm import SVC
from torch import nn

from sk_advdef import BitDepthSqueezer, BlurSqueezer, as_module
from sk_advdef._torch._bpda import (
    SHARPNESS,
    Rounding,
    anneal,
    annealed,
    rounding_modules,
    soft_round,
)
from tests._torch._cases import make_rows

MODELS = {
    "bits": make_pipeline(BlurSqueezer(), BitDepthSqueezer(2), LogisticRegression()),
    "svc": SVC(gamma=0.1),
    "votes": VotingClassifier([("a", LogisticRegression()), ("b", GaussianNB())]),
}


def gradient_at(view, X):
    x = torch.tensor(X, requires_grad=True)
    scores = view(x)
    return scores.detach(), torch.autograd.grad(scores[:, 0].sum(), x)[0]


@pytest.mark.parametrize("name", MODELS)
def test_annealing_changes_gradients_only(name):
    X, y = make_rows()
    view = as_module(MODELS[name].fit(X, y))
    assert len(rounding_modules(view)) == 1
    exact, usual = gradient_at(view, X)
    gradients = [usual]
    with annealed(view):
        for progress in (0.2, 0.6, 1):
            anneal(view, progress)
            scores, gradient = gradient_at(view, X)
            assert torch.equal(scores, exact)
            assert torch.isfinite(gradient).all()
            assert not any(torch.equal(gradient, other) for other in gradients)
            gradients.append(gradient)
        anneal(view, None)
        assert torch.equal(gradient_at(view, X)[1], usual)
        anneal(view, 1)
    assert torch.equal(gradient_at(view, X)[1], usual)
    assert not rounding_modules(as_module(LogisticRegression().fit(X, y)))


@pytest.mark.parametrize("sharpness", SHARPNESS)
def test_soft_round(sharpness):
    x = torch.linspace(-3, 3, 241, dtype=torch.float64)
    soft = soft_round(x, sharpness)
    assert (soft.diff() > 0).all()
    whole = torch.arange(-3.0, 4.0, dtype=torch.float64)
    torch.testing.assert_close(soft_round(whole, sharpness), whole)
    assert (soft - x).abs().max() < 0.5
    inside = (x + 1e-3).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: soft_round(x, sharpness), inside)


def test_soft_round_nears_the_identity_and_the_step():
    x = torch.linspace(-2.9, 2.9, 61)
    torch.testing.assert_close(soft_round(x, 1e-2), x, rtol=0, atol=1e-4)
    torch.testing.assert_close(soft_round(x, 1e3), x.round(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("bits", [1, 4])
def test_bits_have_the_derivative_of_a_soft_step(bits):
    X, _ = make_rows()
    squeezer = BitDepthSqueezer(bits, value_range=(-2, 3)).fit(X)
    view = as_module(squeezer)
    anneal(view, 0.3)
    (module,) = rounding_modules(view)
    x = torch.tensor(X, requires_grad=True)
    (gradient,) = torch.autograd.grad(view(x).sum(), x)
    steps = 2**bits - 1

    def soft(values):
        units = torch.tensor((values + 2) / 5 * steps)
        return soft_round(units, module.sharpness).numpy() * 5 / steps

    expected = (soft(X + 1e-6) - soft(X - 1e-6)) / 2e-6
    np.testing.assert_allclose(gradient.numpy(), expected, rtol=1e-5)


class Rounded(Rounding):
    def forward(self, x):
        return self.rounded(x)


def test_rounding_of_ones_own():
    view = nn.Sequential(Rounded())
    x = torch.tensor([[0.4, 0.6, 2.5, -1.2]], requires_grad=True)
    for progress in (None, 0.5):
        anneal(view, progress)
        out = view(x)
        assert torch.equal(out, x.round())
        (gradient,) = torch.autograd.grad(out.sum(), x)
        assert torch.equal(gradient, torch.ones_like(x)) == (progress is None)
    assert gradient[0, 2] > gradient[0, 0] > gradient[0, 3] > 0


def test_state_comes_back_after_an_error():
    view = nn.Sequential(Rounded(), Rounded())
    view[0].sharpness = 3.0
    with pytest.raises(KeyError), annealed(view):
        anneal(view, 0)
        raise KeyError
    assert [m.sharpness for m in rounding_modules(view)] == [3.0, None]


def rows_left(model, X, y, *, soft, eps=0.1, steps=20):
    """Return which rows a plain attack with one way back leaves right."""
    view, x = as_module(model), torch.tensor(X)
    left = model.predict(X) == y
    for step in range(steps):
        if soft:
            anneal(view, step / steps)
        x = x.detach().requires_grad_()
        loss = nn.functional.cross_entropy(view(x), torch.tensor(y), reduction="sum")
        x = x + 2.5 * eps / steps * torch.autograd.grad(loss, x)[0].sign()
        x = torch.tensor(X) + (x - torch.tensor(X)).clamp(-eps, eps)
        left &= model.predict(x.detach().numpy()) == y
    return left


@pytest.mark.parametrize("name", ["svc", "bits"])
def test_soft_steps_fool_rows_that_the_usual_way_leaves(name):
    X, y = load_digits(return_X_y=True)
    X = X / 16
    blur = BlurSqueezer(0.7, image_shape=(8, 8))
    bits = BitDepthSqueezer(1, value_range=(0, 1))
    model = SVC() if name == "svc" else make_pipeline(blur, bits, SVC(kernel="linear"))
    model.fit(X[:600], y[:600])
    X, y = X[1200:1350], y[1200:1350]
    usual = rows_left(model, X, y, soft=False)
    soft = rows_left(model, X, y, soft=True)
    assert (usual & soft).sum() <= usual.sum() - 5
