"""Views of support vector machines with a kernel."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import torch
from torch import nn

from sk_advdef._torch._blocks import Affine, Deciding, TwoColumns, buffer
from sk_advdef._torch._bpda import Rounding, straight_through


class Kernel(nn.Module):
    """The kernel between rows and support vectors."""

    vectors: torch.Tensor

    def __init__(
        self, kind: str, vectors: Any, *, gamma: float, degree: float, coef0: float
    ) -> None:
        super().__init__()
        self.register_buffer("vectors", buffer(vectors))
        self.kind, self.gamma, self.degree, self.coef0 = kind, gamma, degree, coef0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return a column a support vector."""
        x = x.to(self.vectors.dtype)
        if self.kind == "rbf":
            # around their own middle, lest a far offset take the digits
            middle = self.vectors.mean(dim=0)
            x, vectors = x - middle, self.vectors - middle
            squares = (x**2).sum(dim=1, keepdim=True) + (vectors**2).sum(dim=1)
            return torch.exp(-self.gamma * (squares - 2 * (x @ vectors.T)))
        product = x @ self.vectors.T
        if self.kind == "linear":
            return product
        product = self.gamma * product + self.coef0
        return torch.tanh(product) if self.kind == "sigmoid" else product**self.degree


class OneVersusOne(Deciding, Rounding):
    """Votes of each pair of classes, with the sum of confidences to break ties.

    The gradient is that of the confidences, or of soft votes as well.
    """

    first: torch.Tensor
    second: torch.Tensor

    def __init__(self, pairs: nn.Module, n_classes: int) -> None:
        super().__init__()
        self.pairs = pairs
        index = np.array(list(combinations(range(n_classes), 2)))
        eye = np.eye(n_classes)
        self.register_buffer("first", buffer(eye[index[:, 0]]))
        self.register_buffer("second", buffer(eye[index[:, 1]]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return a score a class: votes plus a third at most for confidence."""
        margins = self.pairs(x)
        wins = (margins >= 0).to(margins.dtype)
        if self.sharpness is not None:
            wins = straight_through(wins, torch.sigmoid(self.sharpness * margins))
        votes = wins @ self.first + (1 - wins) @ self.second
        confidence = margins @ (self.first - self.second)
        return votes + confidence / (3 * (confidence.abs() + 1))


def _pair_weights(dual: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Weights of all support vectors, a column a pair of classes."""
    stops = np.cumsum(sizes)
    rows = [slice(stop - size, stop) for stop, size in zip(stops, sizes, strict=True)]
    pairs = list(combinations(range(len(sizes)), 2))
    weights = np.zeros((dual.shape[1], len(pairs)))
    for k, (i, j) in enumerate(pairs):
        weights[rows[i], k] = dual[j - 1, rows[i]]
        weights[rows[j], k] = dual[i, rows[j]]
    return weights


def svc(model: Any) -> nn.Module:
    """Build the view of an SVC or NuSVC."""
    kernel = Kernel(
        model.kernel,
        model.support_vectors_,
        gamma=model._gamma,
        degree=model.degree,
        coef0=model.coef0,
    )
    dual = buffer(model.dual_coef_).numpy()
    if len(model.classes_) == 2:
        return nn.Sequential(kernel, Affine(dual.T, model.intercept_), TwoColumns())
    weights = _pair_weights(dual, model.n_support_)
    pairs = nn.Sequential(kernel, Affine(weights, model.intercept_))
    view = OneVersusOne(pairs, len(model.classes_))
    if model.decision_function_shape == "ovo":
        view.decision = pairs
    return view
