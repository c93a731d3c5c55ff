"""Views of linear models and of scikit-learn's own multilayer perceptron."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy.sparse import issparse
from torch import nn

from sk_advdef._torch._blocks import Affine, Deciding, TwoColumns
from sk_advdef._torch._bpda import Rounding, straight_through


class OneVersusRest(Deciding, Rounding):
    """Scores whose softmax is the normalized sigmoid of each decision value.

    Where that is flat, for values far from 0, the second way back is along the values.
    """

    def __init__(self, decision: nn.Module) -> None:
        super().__init__()
        self.decision = decision

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the log of each class's own probability."""
        decision = self.decision(x)
        logs = nn.functional.logsigmoid(decision)
        return logs if self.sharpness is None else straight_through(logs, decision)


def linear(model: Any, *, times: float = 1.0) -> nn.Module:
    """Build the view of a model that decides by ``coef_`` and ``intercept_``."""
    coef = model.coef_.toarray() if issparse(model.coef_) else model.coef_
    coef = times * np.atleast_2d(coef)
    intercept = np.broadcast_to(times * model.intercept_, len(coef))
    return nn.Sequential(Affine(coef.T, intercept), TwoColumns())


def _normalized(model: Any, *, apart: bool) -> nn.Module:
    scores = linear(model)
    return OneVersusRest(scores) if apart and len(model.classes_) > 2 else scores


def logistic_regression(model: Any) -> nn.Module:
    """Build the view of a LogisticRegression or LogisticRegressionCV."""
    # not the attribute, which a model from before scikit-learn 1.8 may still have
    multi_class = model.get_params().get("multi_class")
    if multi_class == "multinomial" and len(model.classes_) == 2:
        # before scikit-learn 1.8 the softmax of -d and d, which are 2 d apart
        return linear(model, times=2.0)
    return _normalized(model, apart=model.solver == "liblinear" or multi_class == "ovr")


def sgd_classifier(model: Any) -> nn.Module:
    """Build the view of an SGDClassifier."""
    return _normalized(model, apart=model.loss == "log_loss")


_ACTIVATIONS = {
    "identity": nn.Identity,
    "logistic": nn.Sigmoid,
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
}


def mlp_classifier(model: Any) -> nn.Module:
    """Build the view of an MLPClassifier."""
    layers: list[nn.Module] = []
    for weight, bias in zip(model.coefs_, model.intercepts_, strict=True):
        layers += [Affine(weight, bias), _ACTIVATIONS[model.activation]()]
    return nn.Sequential(*layers[:-1], TwoColumns())
