"""Copies of modules answer as these do, and share what is asked for and no more."""

import copy

import numpy as np
import pytest
import torch
from sklearn.frozen import FrozenEstimator
from skorch import NeuralNetClassifier
from torch import nn

from sk_advdef import (
    PGD,
    AdversariallyAugmentedClassifier,
    DensityDetector,
    DropoutUncertaintyDetector,
    as_module,
)
from sk_advdef._torch._copies import copied
from tests._instances import make_rows

X, y = make_rows(n_samples=150)
X = X.astype(np.float32)


class OldNorm(nn.Module):
    """A net whose weights are computed anew at each call and kept till the next."""

    def __init__(self):
        super().__init__()
        old = nn.utils.weight_norm
        self.first = old(nn.Linear(X.shape[1], 16))
        self.dropout = nn.Dropout(0.3)
        self.last = old(nn.Linear(16, 5))

    def forward(self, x):
        return self.last(self.dropout(self.first(x).relu()))


pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")


def test_computed_weights():
    with torch.random.fork_rng():
        module = OldNorm().eval()
    rows = torch.from_numpy(X)
    module(rows)
    with pytest.raises(RuntimeError, match="deepcopy"):
        copy.deepcopy(module)
    twin = copied(module)
    torch.testing.assert_close(twin(rows), module(rows), rtol=0, atol=0)
    before = module(rows).detach()
    with torch.no_grad():
        twin.last.bias.add_(1)
        twin.first.weight_g.mul_(2)
    torch.testing.assert_close(module(rows), before, rtol=0, atol=0)
    assert not torch.allclose(twin(rows), before + 1)  # the new weight counts
    shared = copied(module, {id(p): p for p in module.parameters()})
    assert shared.last.bias is module.last.bias and shared.last is not module.last


def test_all_that_looks_into_a_net():
    net = NeuralNetClassifier(
        OldNorm, criterion=nn.CrossEntropyLoss, train_split=None, verbose=0, lr=0.1
    )
    trained = AdversariallyAugmentedClassifier(
        net, attack=PGD(0.05, steps=2, bounds=None), random_state=0
    ).fit(X, y)
    scores = as_module(trained)(torch.from_numpy(X)).softmax(dim=1)
    proba = trained.predict_proba(X)
    np.testing.assert_allclose(scores.detach(), proba, rtol=0, atol=1e-6)
    frozen = FrozenEstimator(trained)
    for detector in (
        DropoutUncertaintyDetector(frozen, random_state=0),
        DensityDetector(frozen),
    ):
        assert np.isfinite(detector.fit(X, y).score_samples(X)).all()
