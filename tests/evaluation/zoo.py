"""Defences that do not defend, and two models whose figures can be trusted."""

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from torch import nn
from torch.nn import functional

from sk_advdef import (
    PGD,
    AdversariallyAugmentedClassifier,
    BitDepthSqueezer,
    DistilledClassifier,
    RejectingClassifier,
)
from sk_advdef.detection._base import Detector
from sk_advdef.nets import DropoutMLP
from tests.attacks.common import fitted, net

#: An undefended net keeps about 1 % of its right rows within it.
EPS = 0.2
#: Share of right rows that a broken defence may keep.
UNDEFENDED = 0.1


def rows():
    """Digits in [0, 1]: to train on, for thresholds, and to attack."""
    X, y = load_digits(return_X_y=True)
    X = (X / 16).astype(np.float32)
    order = np.random.default_rng(0).permutation(len(X))
    X, y = X[order], y[order]
    return (X[:1200], y[:1200]), (X[1200:1400], y[1200:1400]), (X[1400:], y[1400:])


class Plain(DropoutMLP):
    """Where a defence is on in evaluation mode only."""

    def forward(self, x):
        logits = super().forward(x if self.training else self.before(x))
        return logits if self.training else self.after(logits)

    def before(self, x):
        return x

    def after(self, logits):
        return logits


class Saturated(Plain):
    def after(self, logits):
        return 1000 * logits


class SignedLogits(Plain):
    """+1 for the class, -1 for all others."""

    def after(self, logits):
        top = logits.topk(2, dim=1).values.mean(dim=1, keepdim=True)
        return torch.sign(logits - top)


class OneBitInput(Plain):
    """Rounds inside the net, where no view knows of it."""

    def before(self, x):
        return torch.round(x)


class DropoutLeftOn(Plain):
    def before(self, x):
        return functional.dropout(x, 0.5, training=True)


class RandomResize(Plain):
    """Shrinks the image at random and puts it anywhere."""

    def before(self, x):
        size = int(torch.randint(6, 9, ()))
        images = functional.interpolate(x.reshape(-1, 1, 8, 8), size=(size, size))
        left, top = (int(torch.randint(0, 9 - size, ())) for _ in range(2))
        pad = (left, 8 - size - left, top, 8 - size - top)
        return functional.pad(images, pad).reshape(len(x), -1)


class Wrinkled(Plain):
    """Ripples too small to matter, with a gradient that drowns all others."""

    def before(self, x):
        return x + 0.02 * torch.sin(2000 * x)


class Probabilities(Plain):
    """A softmax that the criterion puts another one on."""

    def forward(self, x):
        return super().forward(x).softmax(dim=1)


class BatchNormInTraining(nn.Module):
    """Takes mean and spread from the rows that are asked together."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 10))

    def forward(self, x):
        spread = x.std(dim=0, correction=0) + 0.1
        return self.layers((x - x.mean(dim=0)) / spread)


class KWinners(nn.Module):
    """Only the largest activations go on (k-winners-take-all)."""

    def __init__(self, hidden=400, k=20):
        super().__init__()
        self.first, self.last = nn.Linear(64, hidden), nn.Linear(hidden, 10)
        self.k = k

    def forward(self, x):
        h = self.first(x)
        least = h.topk(self.k, dim=1).values[:, -1:]
        return self.last(torch.where(h >= least, h, torch.zeros_like(h)))


class Suspicion(nn.Module):
    def __init__(self, gallery, radius):
        super().__init__()
        self.gallery, self.radius = torch.tensor(gallery), radius

    def forward(self, x):
        distance = torch.cdist(x, self.gallery.to(x.dtype)).amin(dim=1)
        return self.radius - (distance - self.radius / 2).abs()


class NearGenuineRows(Detector):
    """Knows genuine rows by heart, and flags what lies beside them and nothing else."""

    def __init__(self, estimator, *, radius=1.5):
        self.estimator, self.radius = estimator, radius

    def fit(self, X, y=None):
        self.estimator_ = self.estimator
        self._rows(X, reset=True)
        self.gallery_ = np.asarray(X)
        self.offset_, self.scale_ = -(0.5 * self.radius + 1e-3), self.radius
        return self

    def _raw_scores(self, X):
        found = self._as_score_module()(torch.tensor(np.asarray(X)))
        return -found.numpy().astype(np.float64)

    def _as_score_module(self):
        return Suspicion(self.gallery_, self.radius)


class Everything(NearGenuineRows):
    """Flags all there is."""

    def predict(self, X):
        return np.full(len(X), -1)

    def decision_function(self, X):
        return np.full(len(X), -1.0)


class WrongView(LogisticRegression):
    """Answers by one model, and shows the gradient of another."""

    def fit(self, X, y):
        super().fit(X, y)
        rng = np.random.default_rng(0)
        self.shown_ = rng.permutation(self.coef_.ravel()).reshape(self.coef_.shape)
        return self

    def predict(self, X):
        return super().predict(X)

    def _as_module(self):
        layer = nn.Linear(self.coef_.shape[1], len(self.classes_))
        layer.weight.data = torch.tensor(self.shown_, dtype=torch.float32)
        layer.bias.data = torch.tensor(self.intercept_, dtype=torch.float32)
        return layer


def undefended(module=DropoutMLP, **params):
    if issubclass(module, DropoutMLP):
        params = {"module__n_classes": 10, "module__dropout": 0.2, **params}
    return net(module, **params)


def rejecting(detector_of):
    (X, y), _, (X_test, _) = rows()
    model = FrozenEstimator(fitted(undefended(), X, y))
    detector = detector_of(model).fit(X_test)
    return RejectingClassifier(model, FrozenEstimator(detector)).fit(X_test)


def trained(estimator):
    (X, y), _, _ = rows()
    return fitted(estimator, X, y)


#: name -> what makes it, and what must be found; nothing for what the default attacks
#: break to the level of an undefended net
BROKEN = {
    "distilled": (
        lambda: trained(DistilledClassifier(undefended(), temperature=100.0)),
        {"vanishing_cross_entropy", "saturated_scores", "cross_entropy_fails"},
    ),
    "one_bit": (
        lambda: trained(
            make_pipeline(BitDepthSqueezer(bits=1, value_range=(0, 1)), undefended())
        ),
        set(),
    ),
    "one_bit_inside": (
        lambda: trained(undefended(OneBitInput)),
        {"zero_gradient"},
    ),
    "k_winners": (lambda: trained(undefended(KWinners)), set()),
    "dropout_left_on": (
        lambda: trained(undefended(DropoutLeftOn)),
        {"outputs_change"},
    ),
    "signed_logits": (
        lambda: trained(undefended(SignedLogits)),
        {"zero_gradient"},
    ),
    "random_resize": (lambda: trained(undefended(RandomResize)), {"outputs_change"}),
    "near_rows_only": (
        lambda: rejecting(NearGenuineRows),
        {"rejects_noise", "flags_near_rows_only", "queries_beat_gradient"},
    ),
    "rejects_everything": (
        lambda: rejecting(Everything),
        {"rejects_genuine", "useless_when_clean", "few_rows"},
    ),
    "saturated": (
        lambda: trained(undefended(Saturated)),
        {"vanishing_cross_entropy", "saturated_scores", "cross_entropy_fails"},
    ),
    "wrinkled": (
        lambda: trained(undefended(Wrinkled)),
        {"queries_beat_gradient", "transfer_beats_gradient", "holds_at_any_eps"},
    ),
    "probabilities": (
        lambda: trained(undefended(Probabilities, max_epochs=30)),
        {"probabilities_as_scores"},
    ),
    "batch_norm": (
        lambda: trained(undefended(BatchNormInTraining)),
        {"depends_on_batch"},
    ),
    "wrong_view": (
        lambda: trained(WrongView(C=0.1, max_iter=1000)),
        {"view_disagrees", "fooled_in_view_only", "queries_beat_gradient"},
    ),
}
SOUND = {
    "pgd_trained": lambda: trained(
        AdversariallyAugmentedClassifier(
            undefended(max_epochs=30),
            attack=PGD(EPS, steps=10, random_state=0),
            random_state=0,
        )
    ),
    "logistic": lambda: trained(LogisticRegression(C=0.1, max_iter=1000)),
    "plain_net": lambda: trained(undefended()),
}
