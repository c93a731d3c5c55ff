"""Nets that clip and round within themselves, and nets that are sure of themselves."""

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from skorch import NeuralNetClassifier
from torch import nn
from torch.nn import functional as F

from sk_advdef import (
    APGD,
    DDN,
    FGSM,
    JSMA,
    PGD,
    ConcealedClassifier,
    DeepFool,
    RandomSearch,
    SigmaZero,
    robust_accuracy_score,
)
from sk_advdef._torch._bpda import Through
from sk_advdef._torch._models import class_scores, logits_of

WIDTH, EPS = 12, 0.45
#: What a net does with its input, from [0, 1] to [0, 1], flat where rows are.
FIRST = {
    "clamp": lambda x: ((x - 0.3) / 0.4).clamp(0, 1),
    "clip": lambda x: torch.clip((x - 0.3) / 0.4, 0, 1),
    "two ends": lambda x: ((x - 0.3) / 0.4).clamp_min(0).clamp_max(1),
    "hardtanh": lambda x: F.hardtanh((x - 0.3) / 0.4, 0.0, 1.0),
    "hardsigmoid": lambda x: F.hardsigmoid((x - 0.5) * 15),
    "round": lambda x: (x * 3).round() / 3,
    "floor": lambda x: torch.floor(x * 2.99) / 2,
}


class Flat(nn.Module):
    """A linear model behind a function that is flat near black and white."""

    def __init__(self, first, scale=1.0):
        super().__init__()
        self.first = first
        self.last = nn.Linear(WIDTH, 2, bias=False)
        sign = torch.ones(WIDTH) - 2 * (torch.arange(WIDTH) % 2)
        self.last.weight.data = scale * torch.stack([sign, -sign]) / WIDTH
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return self.last(self.first(x))


def net_of(first, scale=1.0):
    return NeuralNetClassifier(
        Flat(first, scale), criterion=nn.CrossEntropyLoss, classes=[0, 1]
    ).initialize()


def rows(n=20):
    """Black and white pixels; one more of the two kinds is white than of the other."""
    rng = np.random.default_rng(0)
    X, y = np.zeros((n, WIDTH), np.float32), np.arange(n) % 2
    for row, label in zip(X, y, strict=True):
        row[2 * rng.permutation(WIDTH // 2)[: 3 - label]] = 1
        row[2 * rng.permutation(WIDTH // 2)[: 2 + label] + 1] = 1
    return X, y


X, y = rows()


@pytest.mark.parametrize("name", FIRST)
@pytest.mark.parametrize(
    "attack",
    [
        FGSM(EPS, loss="margin"),
        PGD(EPS, random_start=False),
        PGD(EPS, loss="margin", steps=20, random_state=0),
        APGD(EPS, steps=20, random_state=0),
        DDN(),
        DeepFool(),
        JSMA(theta=1.0),
        SigmaZero(),
    ],
    ids=lambda attack: type(attack).__name__,
)
def test_gradients_go_through_what_a_net_clips_and_rounds(attack, name):
    """At every one of these rows the gradient is exactly 0."""
    net = net_of(FIRST[name])
    right = net.predict(X) == y
    assert right.all()
    given = torch.tensor(X, requires_grad=True)
    net.module_(given).sum().backward()
    assert not given.grad.any()
    result = attack.run(net, X[right], y[right])
    assert result.fooled.all()
    assert (net.predict(result.X_adv) != y[right]).all()


def test_what_is_not_flat_costs_nothing_more():
    """The second way is for nets that were seen to hold values."""
    still = PGD(1e-6, steps=5, random_state=0)
    counts = {}
    for name, first in {
        "smooth": torch.sigmoid,
        "relu": torch.relu,
        "never reached": lambda x: x.clamp(-9, 9),
        "in place": lambda x: F.hardtanh(x.clone(), 0.3, 0.7, inplace=True),
        "flat": FIRST["clamp"],
    }.items():
        net = net_of(first)
        right = net.predict(X) == y
        result = still.run(net, X[right], y[right])
        counts[name] = set(result.n_queries[~result.fooled].tolist())
        assert net.module_.calls and type(net.module_).__call__ is nn.Module.__call__
    once = counts.pop("smooth")
    assert counts.pop("flat") == {2 * n - 1 for n in once}
    assert all(count == once for count in counts.values())


def test_what_goes_through_keeps_its_values():
    """Infinities have no difference, and a sign of NaN is 0."""
    given = torch.tensor([-np.inf, -2.0, -0.3, 0.0, 0.3, 2.0, np.inf, np.nan])
    for first in (*FIRST.values(), torch.sign, torch.trunc, torch.ceil):
        with Through(straight=True) as mode:
            found = first(given.clone().requires_grad_())
        torch.testing.assert_close(
            found.detach(), first(given), rtol=0, atol=0, equal_nan=True
        )
        assert mode.flat


def test_training_rows_are_made_by_the_gradient_as_it_is():
    net = net_of(FIRST["clamp"])
    made = PGD(EPS, random_start=False).rows_to_train_on(net, X, y)
    np.testing.assert_array_equal(made, X)


@pytest.mark.parametrize("around", [lambda net: net, make_pipeline, FrozenEstimator])
def test_a_net_that_is_sure_hides_nothing(around):
    """The softmax of float32 is exactly 0 for classes far behind."""
    attack = RandomSearch(EPS, max_queries=200, random_state=0)
    found = []
    for scale in (1.0, 2.0**14):
        net = net_of(lambda x: x, scale)
        if scale > 1:
            assert (net.predict_proba(X).min(axis=1) == 0).all()
        found.append(attack.run(around(net), X, y))
    for name in ("fooled", "n_queries"):
        np.testing.assert_array_equal(*(getattr(result, name) for result in found))
    assert found[0].fooled.mean() > 0.5


def test_logits_are_those_of_the_net_behind_what_is_before_it():
    net = net_of(lambda x: x, 3.0)
    scaler = StandardScaler().fit(X)
    pipe = Pipeline([("scale", scaler), ("net", net)])
    for model in (net, pipe, FrozenEstimator(pipe)):
        logits = logits_of(model)(X)
        np.testing.assert_allclose(
            log_softmax(logits, axis=1), class_scores(model, X), atol=1e-5
        )
    hidden = ConcealedClassifier(FrozenEstimator(net))
    within = make_pipeline(FunctionTransformer(), pipe)
    for model in (scaler, hidden, within):
        assert logits_of(model) is None


def test_accuracy_of_a_sure_net_with_a_ramp():
    """Where both the gradient and the probabilities hide something."""
    net = net_of(FIRST["clamp"], 1e4)
    right = net.predict(X) == y
    score = robust_accuracy_score(net, X[right], y[right], eps=EPS, random_state=0)
    assert score == 0
