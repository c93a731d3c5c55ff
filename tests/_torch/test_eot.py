"""Random views are averaged; others are left alone."""

import random

import numpy as np
import pytest
import torch
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.ensemble import VotingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from torch import nn

from sk_advdef import as_module
from sk_advdef._torch import _registry
from sk_advdef._torch._eot import N_DRAWS, AveragedView, draws
from tests._torch._cases import make_net, make_rows


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setattr(_registry, "_registered", {})


class Noise(TransformerMixin, BaseEstimator):
    def fit(self, X, y=None):
        return self

    def transform(self, X):
        return X + np.random.normal(size=X.shape)  # noqa: NPY002

    def __sklearn_is_fitted__(self):
        return True


class NoiseView(nn.Module):
    def __init__(self, transformer=None):
        super().__init__()

    def forward(self, x):
        return x + torch.randn_like(x)


class DropoutLeftOn(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.LazyLinear(3)

    def forward(self, X):
        X = nn.functional.dropout(X, 0.5, training=True)
        return self.linear(X)


def generators():
    return torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state())  # noqa: NPY002


def mean_of_draws(view, x, n):
    return torch.stack([view(x).softmax(1) for _ in range(n)]).mean(dim=0)


@pytest.mark.parametrize("around", [False, True])
def test_a_registered_transformer_that_draws(around):
    as_module.register(Noise, NoiseView, random=True)
    X, y = make_rows()
    model = make_pipeline(Noise(), LogisticRegression())
    if around:
        model = VotingClassifier([("a", model)], voting="soft")
    view = as_module(model.fit(X, y))
    assert isinstance(view, AveragedView)
    assert view.n == N_DRAWS
    x = torch.tensor(X, requires_grad=True)
    before = generators()
    view.n = 400
    scores = view(x)
    assert generators() == before
    expected = mean_of_draws(view.view, x, 400)
    torch.testing.assert_close(scores.softmax(1), expected, rtol=0, atol=0.15)
    (gradient,) = torch.autograd.grad(scores[:, 0].sum(), x)
    assert (gradient.abs().sum(dim=1) > 0).all()


def test_answers_are_drawn_anew_and_repeat():
    as_module.register(Noise, NoiseView, random=True)
    X, y = make_rows()
    model = make_pipeline(Noise(), LogisticRegression()).fit(X, y)
    x = torch.tensor(X)
    one, two = as_module(model), as_module(model)
    first, second = one(x), one(x)
    assert not torch.equal(first, second)
    assert torch.equal(two(x), first)


def test_features_that_are_drawn_are_not_averaged():
    as_module.register(Noise, NoiseView, random=True)
    view = as_module(Noise())
    assert type(view) is NoiseView
    assert view.is_random


def test_what_is_not_said_to_draw_is_called_once():
    as_module.register(Noise, NoiseView)
    X, y = make_rows()
    view = as_module(make_pipeline(Noise(), LogisticRegression()).fit(X, y))
    assert type(view) is nn.Sequential


def test_a_net_that_leaves_dropout_on_is_noticed():
    X, y = make_rows()
    X = X.astype(np.float32)
    view = as_module(make_net(DropoutLeftOn).fit(X, y))
    x = torch.tensor(X)
    before = generators()
    assert view(x[:0]).shape == (0, 3)
    assert view.is_random is None
    scores = view(x)
    assert view.is_random
    assert generators() == before
    view.n = 500
    expected = mean_of_draws(view.view, x, 500)
    torch.testing.assert_close(view(x).softmax(1), expected, rtol=0, atol=0.1)
    torch.testing.assert_close(scores.exp().sum(dim=1), torch.ones(len(x)))


def test_a_net_says_so_itself():
    X, y = make_rows()
    net = make_net().fit(X.astype(np.float32), y)
    net.module_.is_random = True
    assert as_module(net).is_random


def test_a_net_that_draws_nothing_is_called_once():
    X, y = make_rows()
    view = as_module(make_net().fit(X.astype(np.float32), y))
    x = torch.tensor(X, dtype=torch.float32)
    assert torch.equal(view(x), view.view(x))
    assert view.is_random is False


OWN = torch.Generator().manual_seed(0)


@pytest.mark.parametrize(
    "draw",
    [
        random.random,
        np.random.random,
        lambda: torch.rand(1),
        lambda: torch.rand(1, generator=OWN),
        np.random.default_rng(0).random,
        lambda: 1.0,
    ],
)
def test_draws_from_any_generator_are_seen(draw):
    class View(nn.Module):
        def forward(self, x):
            return x * float(draw())

    found = draws(View(), torch.ones(3, 2))
    assert found == (draw() != 1.0)
