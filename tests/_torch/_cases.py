"""Fitted models whose view must answer as they do, and modules they are made of."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    MaxAbsScaler,
    MinMaxScaler,
    RobustScaler,
    StandardScaler,
)
from skorch import NeuralNetBinaryClassifier, NeuralNetClassifier
from torch import nn

from sk_advdef import (
    BitDepthSqueezer,
    BlurSqueezer,
    Downscaler,
    GrayscaleSqueezer,
    JpegSqueezer,
    MedianSqueezer,
)
from sk_advdef.nets import DropoutCNN, DropoutMLP

WIDTH = 6


def make_rows(n_classes=3, n=90, width=WIDTH, seed=0):
    """Return float64 rows with unlike scales, and int64 labels of noisy blobs."""
    rng = np.random.default_rng(seed)
    y = np.arange(n, dtype=np.int64) % n_classes
    centers = rng.normal(size=(n_classes, width))
    X = centers[y] + rng.normal(size=(n, width))
    return X * np.linspace(0.5, 2, width) + np.linspace(-1, 3, width), y


def make_images(*shape, n_classes=3, n=40, seed=0):
    X, y = make_rows(n_classes, n, int(np.prod(shape)), seed)
    X = 1 / (1 + np.exp(-X))
    return X.reshape(n, *shape), y


class Probabilities(nn.Module):
    """Ends in a softmax, as skorch's default criterion expects."""

    def __init__(self, scale=1.0):
        super().__init__()
        self.linear = nn.LazyLinear(3)
        self.softmax = nn.Softmax(dim=1)
        self.scale = scale

    def forward(self, X):
        return self.softmax(self.scale * self.linear(X.flatten(1)))


class TemperedProbabilities(Probabilities):
    """Works on after its softmax, so that no logits stand behind the output."""

    def forward(self, X):
        proba = super().forward(X).sqrt()
        return proba / proba.sum(dim=1, keepdim=True)


class OneLogit(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.LazyLinear(1)

    def forward(self, X):
        return self.linear(X.flatten(1)).squeeze(1)


class WithExtras(nn.Module):
    """Returns a tuple, of which skorch takes the first."""

    def __init__(self):
        super().__init__()
        self.mlp = DropoutMLP(3, hidden=(8,))

    def forward(self, X):
        return self.mlp(X), X.mean()


class FirstOutput(NeuralNetClassifier):
    def get_loss(self, y_pred, y_true, *args, **kwargs):
        return super().get_loss(y_pred[0], y_true, *args, **kwargs)


def half_softmax(output):
    return torch.softmax(output / 2, dim=1)


def make_net(module=DropoutMLP, cls=NeuralNetClassifier, **params):
    if module in (DropoutMLP, DropoutCNN):
        params = {"module__n_classes": 3, **params}
    if cls is NeuralNetClassifier:
        params.setdefault("criterion", nn.CrossEntropyLoss)
    defaults = {"train_split": None, "max_epochs": 3, "lr": 0.1, "verbose": 0}
    return cls(module, **{**defaults, **params})


@dataclass(frozen=True)
class Case:
    """A model, its data, and down to which probability float32 can tell its log.

    The view answers as ``predict_proba``, as ``decision_function`` or just as
    ``predict`` does: ``answers`` is "proba", "decision", or "label".
    """

    model: Any
    data: tuple[np.ndarray, np.ndarray] | None = None
    smallest: float = 1e-6
    smooth: bool = True
    dtype: type = np.float64
    answers: str = "proba"

    def fit(self):
        X, y = make_rows() if self.data is None else self.data
        with torch.random.fork_rng(), warnings.catch_warnings():
            # defaults that scikit-learn is about to change
            warnings.simplefilter("ignore", FutureWarning)
            torch.manual_seed(0)
            model = self.model.fit(X.astype(self.dtype), y)
        return model, X.astype(self.dtype)


def _net(module=DropoutMLP, *, data=None, smallest=1e-6, smooth=False, **params):
    return Case(make_net(module, **params), data, smallest, smooth, np.float32)


def before(*steps, data=None, smooth=True):
    return Case(make_pipeline(*steps, LogisticRegression()), data, smooth=smooth)


class Flatten(TransformerMixin, BaseEstimator):
    """Rows from images, with a view of its own."""

    def fit(self, X, y=None):
        return self

    def transform(self, X):
        return np.asarray(X).reshape(len(X), -1)

    def _as_module(self):
        return nn.Flatten()

    def __sklearn_is_fitted__(self):
        return True


def _mlp(activation, n_classes):
    mlp = MLPClassifier((7, 5), activation=activation, max_iter=400, random_state=0)
    # few steps are enough: it is not for accuracy
    mlp.set_params(solver="adam", tol=0.05, n_iter_no_change=2)
    data = make_rows(n_classes)
    return Case(mlp, data, smooth=activation != "relu")


CASES = {
    # nets
    "net logits": _net(),
    "net probabilities": _net(Probabilities, criterion=nn.NLLLoss),
    "net saturated": _net(Probabilities, criterion=nn.NLLLoss, module__scale=30.0),
    "net tempered": _net(TemperedProbabilities, criterion=nn.NLLLoss, smallest=1e-4),
    # 1 - p in float32 is what skorch answers for the first class
    "net one logit": _net(
        OneLogit,
        cls=NeuralNetBinaryClassifier,
        data=(make_rows(2)[0], make_rows(2)[1].astype(np.float32)),
        smallest=1e-2,
    ),
    "net nonlinearity": _net(predict_nonlinearity=half_softmax, smallest=1e-4),
    "net tuple": _net(WithExtras, cls=FirstOutput, criterion=nn.CrossEntropyLoss),
    "net of images": _net(DropoutCNN, data=make_images(9, 7)),
    "net in pipeline": Case(
        make_pipeline(StandardScaler(), BitDepthSqueezer(), make_net()),
        smooth=False,
        dtype=np.float32,
    ),
    # structure
    "passthrough": before("passthrough", StandardScaler(), "passthrough"),
    "nested": before(make_pipeline(StandardScaler(), "passthrough", MinMaxScaler())),
    "frozen last step": Case(
        make_pipeline(
            StandardScaler(), FrozenEstimator(LogisticRegression().fit(*make_rows()))
        )
    ),
    "frozen": Case(FrozenEstimator(LogisticRegression().fit(*make_rows()))),
    "frozen twice": Case(
        FrozenEstimator(
            FrozenEstimator(
                make_pipeline(StandardScaler(), LogisticRegression()).fit(*make_rows())
            )
        )
    ),
    # squeezers
    "blur rows": before(BlurSqueezer()),
    "blur gray": before(BlurSqueezer(2.0, image_shape=(2, 3))),
    "blur color": before(BlurSqueezer(image_shape=(1, 2, 3))),
    "blur color first": before(BlurSqueezer(image_shape=(3, 1, 2), channel_axis=0)),
    "blur off": before(BlurSqueezer(0)),
    "blur long": before(BlurSqueezer(), data=make_rows(width=150)),
    "blur long image": before(
        BlurSqueezer(image_shape=(2, 131)), data=make_rows(width=262)
    ),
    "blur stacked": before(BlurSqueezer(), Flatten(), data=make_images(5, 4)),
    "blur stacked color": before(
        BlurSqueezer(channel_axis=0), Flatten(), data=make_images(3, 5, 4)
    ),
    "downscale rows": before(Downscaler(0.4)),
    "downscale smaller": before(Downscaler(size=2, restore=False)),
    "downscale color": before(
        Downscaler(image_shape=(5, 4, 3), restore=False),
        data=make_rows(width=60),
    ),
    "downscale long": before(Downscaler(), data=make_rows(width=140)),
    "downscale stacked": before(
        Downscaler(size=(2, 3), restore=False), Flatten(), data=make_images(5, 4)
    ),
    "downscale stacked long": before(
        Downscaler(), Flatten(), data=make_images(2, 130, 2)
    ),
    "median rows": before(MedianSqueezer()),
    "median even gray": before(MedianSqueezer(2, image_shape=(2, 3))),
    "median color first": before(
        MedianSqueezer((2, 3), image_shape=(3, 5, 4), channel_axis=0),
        data=make_rows(width=60),
    ),
    "median wide": before(MedianSqueezer(5, image_shape=(1, 2, 3))),
    "median stacked": before(MedianSqueezer(), Flatten(), data=make_images(5, 4)),
    "median stacked color": before(
        MedianSqueezer(), Flatten(), data=make_images(5, 4, 3)
    ),
    "gray rows": before(GrayscaleSqueezer()),
    "gray color": before(GrayscaleSqueezer(image_shape=(1, 2, 3))),
    "gray color first": before(
        GrayscaleSqueezer(image_shape=(3, 1, 2), channel_axis=0, keep_channels=False)
    ),
    "gray stacked": before(
        GrayscaleSqueezer(keep_channels=False), Flatten(), data=make_images(5, 4, 3)
    ),
    "bits learned": before(BitDepthSqueezer(), smooth=False),
    "bits given": before(BitDepthSqueezer(2, value_range=(-1, 2)), smooth=False),
    "bits stacked": before(
        BitDepthSqueezer(1), Flatten(), data=make_images(3, 2), smooth=False
    ),
    "jpeg rows": before(JpegSqueezer(90), smooth=False),
    "jpeg color": before(JpegSqueezer(image_shape=(1, 2, 3)), smooth=False),
    "jpeg stacked": before(
        JpegSqueezer(channel_axis=0), Flatten(), data=make_images(3, 9, 4), smooth=False
    ),
    # scalers
    "standard": before(StandardScaler()),
    "standard no mean": before(StandardScaler(with_mean=False)),
    "standard no std": before(StandardScaler(with_std=False)),
    "standard neither": before(StandardScaler(with_mean=False, with_std=False)),
    "min max": before(MinMaxScaler(feature_range=(-2, 5))),
    "min max clip": before(MinMaxScaler(clip=True), smooth=False),
    "max abs": before(MaxAbsScaler()),
    "robust": before(RobustScaler(quantile_range=(10, 80), unit_variance=True)),
    "robust no center": before(RobustScaler(with_centering=False)),
    "robust no scale": before(RobustScaler(with_scaling=False)),
    # linear and multilayer models
    "logistic binary": Case(LogisticRegression(), make_rows(2)),
    "logistic no intercept": Case(LogisticRegression(fit_intercept=False)),
    "logistic liblinear": Case(LogisticRegression(solver="liblinear"), make_rows(2)),
    "logistic sure": Case(LogisticRegression(C=1e4, max_iter=2000)),
    "logistic strings": Case(
        LogisticRegression(), (make_rows()[0], np.array(["c", "a", "b"] * 30))
    ),
    "logistic subset": Case(
        LogisticRegression(), (make_rows()[0], np.array([7, 2] * 45))
    ),
    **{
        f"mlp {activation} {k}": _mlp(activation, k)
        for activation in ("identity", "logistic", "relu", "tanh")
        for k in (2, 3)
    },
}
if "clip" in MaxAbsScaler().get_params():
    CASES["max abs clip"] = before(MaxAbsScaler(clip=True), smooth=False)
