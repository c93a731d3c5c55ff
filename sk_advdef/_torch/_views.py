"""Differentiable views: of Pipelines, squeezers, and scikit-learn's own estimators."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import nn

from sk_advdef._images import ImageLayout
from sk_advdef._torch._net import view_of_net
from sk_advdef._torch._registry import NoViewError, build
from sk_advdef.squeezers._operators import apply_along


def pipeline(estimator: Any) -> nn.Module:
    """Chain the views of the steps."""
    steps = [s for _, s in estimator.steps if s is not None and s != "passthrough"]
    return nn.Sequential(*(build(step) for step in steps))


def skorch_net(net: Any) -> nn.Module:
    """Take the module of a fitted skorch net."""
    return view_of_net(net)


def _buffer(values: Any) -> torch.Tensor:
    return torch.tensor(np.asarray(values, dtype=np.float64))


class Linear(nn.Module):
    """Scores that are linear in the rows; one column becomes two."""

    coef: torch.Tensor
    intercept: torch.Tensor

    def __init__(self, coef: Any, intercept: Any) -> None:
        super().__init__()
        self.register_buffer("coef", _buffer(coef))
        self.register_buffer("intercept", _buffer(intercept))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return float64 scores."""
        return two_columns(x.to(self.coef.dtype) @ self.coef.T + self.intercept)


def two_columns(scores: torch.Tensor) -> torch.Tensor:
    """Turn one decision value ``d`` a row into the scores [-d / 2, d / 2]."""
    if scores.shape[1] > 1:
        return scores
    return torch.cat([-scores / 2, scores / 2], dim=1)


class _Times(nn.Module):
    def __init__(self, view: nn.Module, factor: float) -> None:
        super().__init__()
        self.view, self.factor = view, factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.view(x) * self.factor


def times(view: nn.Module, factor: float) -> nn.Module:
    """Multiply the scores of a view."""
    return _Times(view, factor)


class OneVersusRest(nn.Module):
    """Scores whose softmax is the normalized sigmoid of each decision value."""

    def __init__(self, decision: nn.Module) -> None:
        super().__init__()
        self.decision = decision

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the log of each class's own probability."""
        return nn.functional.logsigmoid(self.decision(x))


def logistic_regression(model: Any) -> nn.Module:
    """Build the view of a LogisticRegression."""
    scores = Linear(model.coef_, np.broadcast_to(model.intercept_, len(model.coef_)))
    one_versus_rest = len(model.classes_) > 2 and (
        model.solver == "liblinear" or getattr(model, "multi_class", None) == "ovr"
    )
    return OneVersusRest(scores) if one_versus_rest else scores


_ACTIVATIONS = {
    "identity": nn.Identity,
    "logistic": nn.Sigmoid,
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
}


class _Affine(nn.Module):
    weight: torch.Tensor
    bias: torch.Tensor

    def __init__(self, weight: Any, bias: Any) -> None:
        super().__init__()
        self.register_buffer("weight", _buffer(weight))
        self.register_buffer("bias", _buffer(bias))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.to(self.weight.dtype) @ self.weight + self.bias


class _TwoColumns(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return two_columns(x)


def mlp_classifier(model: Any) -> nn.Module:
    """Build the view of an MLPClassifier."""
    if model.out_activation_ == "logistic" and model.n_outputs_ > 1:
        raise NoViewError(
            "An MLPClassifier with several labels a row has no differentiable view."
        )
    layers: list[nn.Module] = []
    for weight, bias in zip(model.coefs_, model.intercepts_, strict=True):
        layers += [_Affine(weight, bias), _ACTIVATIONS[model.activation]()]
    return nn.Sequential(*layers[:-1], _TwoColumns())


class _Scale(nn.Module):
    """``(x - shift) / scale``, clipped where the scaler clips."""

    scale: torch.Tensor | None
    shift: torch.Tensor | None

    def __init__(self, scale: Any = None, shift: Any = None, clip: Any = None) -> None:
        super().__init__()
        self.register_buffer("scale", None if scale is None else _buffer(scale))
        self.register_buffer("shift", None if shift is None else _buffer(shift))
        self.clip = clip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.shift is not None:
            x = x - self.shift.to(x.dtype)
        if self.scale is not None:
            x = x / self.scale.to(x.dtype)
        return x if self.clip is None else x.clamp(*self.clip)


def standard_scaler(scaler: Any) -> nn.Module:
    """Build the view of a StandardScaler."""
    return _Scale(scaler.scale_, scaler.mean_ if scaler.with_mean else None)


def max_abs_scaler(scaler: Any) -> nn.Module:
    """Build the view of a MaxAbsScaler."""
    return _Scale(
        scaler.scale_, clip=(-1, 1) if getattr(scaler, "clip", False) else None
    )


def min_max_scaler(scaler: Any) -> nn.Module:
    """Build the view of a MinMaxScaler."""
    clip = scaler.feature_range if scaler.clip else None
    return _Scale(1 / scaler.scale_, -scaler.min_ / scaler.scale_, clip)


def robust_scaler(scaler: Any) -> nn.Module:
    """Build the view of a RobustScaler."""
    return _Scale(scaler.scale_, scaler.center_)


class Separable(nn.Module):
    """A linear operator along the height and one along the width of each image."""

    def __init__(self, layout: ImageLayout, operators: Any) -> None:
        super().__init__()
        self.layout = layout
        for axis, operator in zip((1, 2), operators, strict=True):
            self.register_buffer(f"operator{axis}", _operator(operator))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the squeezed rows, in the dtype of ``x``."""
        images = self.layout.unfold(x)
        for axis in (1, 2):
            operator = getattr(self, f"operator{axis}")
            if operator is not None:
                images = apply_along(operator.to(x.dtype), images, axis)
        return self.layout.fold(images)


def _operator(matrix: Any) -> torch.Tensor | None:
    if matrix is None:
        return None
    if not sparse.issparse(matrix):
        return _buffer(matrix)
    coo = matrix.tocoo()
    indices = torch.tensor(np.stack([coo.row, coo.col]), dtype=torch.int64)
    # checked once, and said so: torch warns where this is left open
    values = _buffer(coo.data)
    return torch.sparse_coo_tensor(
        indices, values, coo.shape, check_invariants=True
    ).coalesce()


def separable(squeezer: Any) -> nn.Module:
    """Build the view of a BlurSqueezer or Downscaler."""
    return Separable(squeezer._layout, squeezer._operators)


class BitDepth(nn.Module):
    """Rounding to even levels, with the gradient passed straight through."""

    low: torch.Tensor
    high: torch.Tensor

    def __init__(self, low: Any, high: Any, steps: int) -> None:
        super().__init__()
        self.register_buffer("low", _buffer(low))
        self.register_buffer("high", _buffer(high))
        self.steps = steps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the rounded rows, in the dtype of ``x``."""
        low, high = self.low.to(x.dtype), self.high.to(x.dtype)
        scale = high - low
        unit = (x - low) / torch.where(scale > 0, scale, torch.ones_like(scale))
        levels = (unit.clamp(0, 1) * self.steps).round() / self.steps * scale + low
        levels = torch.minimum(torch.maximum(levels, low), high)
        return levels.detach() + (x - x.detach())


def bit_depth(squeezer: Any) -> nn.Module:
    """Build the view of a BitDepthSqueezer."""
    low, high = squeezer.value_range_
    return BitDepth(low, high, squeezer._steps)
