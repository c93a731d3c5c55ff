"""Views of scikit-learn's transformers."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from sk_advdef._torch._blocks import Affine, buffer
from sk_advdef._torch._bpda import straight_through


class Scale(nn.Module):
    """``(x - shift) / scale``, clipped where the scaler clips."""

    scale: torch.Tensor | None
    shift: torch.Tensor | None

    def __init__(self, scale: Any = None, shift: Any = None, clip: Any = None) -> None:
        super().__init__()
        self.register_buffer("scale", None if scale is None else buffer(scale))
        self.register_buffer("shift", None if shift is None else buffer(shift))
        self.clip = clip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the scaled rows, in the dtype of ``x``."""
        if self.shift is not None:
            x = x - self.shift.to(x.dtype)
        if self.scale is not None:
            x = x / self.scale.to(x.dtype)
        if self.clip is None:
            return x
        clipped = x.clamp(*self.clip)
        # rounding puts the largest value a little past the end, where no slope is
        slopes = isinstance(x, torch.Tensor) and x.requires_grad
        return straight_through(clipped, x) if slopes else clipped


def standard_scaler(scaler: Any) -> nn.Module:
    """Build the view of a StandardScaler."""
    return Scale(scaler.scale_, scaler.mean_ if scaler.with_mean else None)


def max_abs_scaler(scaler: Any) -> nn.Module:
    """Build the view of a MaxAbsScaler."""
    clip = (-1, 1) if getattr(scaler, "clip", False) else None
    return Scale(scaler.scale_, clip=clip)


def min_max_scaler(scaler: Any) -> nn.Module:
    """Build the view of a MinMaxScaler."""
    clip = scaler.feature_range if scaler.clip else None
    # which may be float32, while the rows are not
    scale = scaler.scale_.astype(np.float64)
    return Scale(1 / scale, -scaler.min_ / scale, clip)


def robust_scaler(scaler: Any) -> nn.Module:
    """Build the view of a RobustScaler."""
    return Scale(scaler.scale_, scaler.center_)


class Normalize(nn.Module):
    """Rows of length one; those of length zero stay."""

    def __init__(self, norm: str) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the rows, each divided by its length."""
        if self.norm == "l2":
            squares = (x**2).sum(dim=1, keepdim=True)
            # the root has no gradient at zero
            length = torch.where(squares > 0, squares, 1).sqrt() * (squares > 0)
        elif self.norm == "l1":
            length = x.abs().sum(dim=1, keepdim=True)
        else:
            length = x.abs().amax(dim=1, keepdim=True)
        return x / torch.where(length < 10 * torch.finfo(x.dtype).eps, 1, length)


def normalizer(transformer: Any) -> nn.Module:
    """Build the view of a Normalizer."""
    return Normalize(transformer.norm)


def function_transformer(transformer: Any) -> nn.Module:
    """Build the view of a FunctionTransformer that has no function."""
    return nn.Identity()


def pca(transformer: Any) -> nn.Module:
    """Build the view of a PCA or IncrementalPCA."""
    weight = np.asarray(transformer.components_).T
    mean = transformer.mean_
    # rounded to the dtype of fit, as scikit-learn does
    middle = np.zeros(weight.shape[1]) if mean is None else (mean[None] @ weight)[0]
    weight, bias = weight.astype(np.float64), -middle.astype(np.float64)
    if transformer.whiten:
        spread = np.sqrt(transformer.explained_variance_)
        spread = np.maximum(spread, np.finfo(spread.dtype).eps).astype(np.float64)
        weight, bias = weight / spread, bias / spread
    return Affine(weight, bias)


def truncated_svd(transformer: Any) -> nn.Module:
    """Build the view of a TruncatedSVD."""
    weight = np.asarray(transformer.components_).T
    return Affine(weight, np.zeros(weight.shape[1]))


class Select(nn.Module):
    """Some of the columns."""

    columns: torch.Tensor

    def __init__(self, columns: Any) -> None:
        super().__init__()
        self.register_buffer("columns", torch.tensor(np.asarray(columns, np.int64)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the columns; one given as a number loses its axis."""
        return x[:, self.columns]


def selector(transformer: Any) -> nn.Module:
    """Build the view of whatever selects features by ``get_support``."""
    return Select(transformer.get_support(indices=True))


class Impute(nn.Module):
    """Statistics in the place of what is missing, and columns that say where."""

    statistics: torch.Tensor
    kept: torch.Tensor
    marked: torch.Tensor | None

    def __init__(self, missing: float, statistics: Any, kept: Any, marked: Any) -> None:
        super().__init__()
        self.missing = missing
        self.register_buffer("statistics", buffer(statistics))
        self.register_buffer("kept", torch.tensor(kept))
        self.register_buffer("marked", None if marked is None else torch.tensor(marked))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the rows completed, in the dtype of ``x``."""
        missing = x.isnan() if np.isnan(self.missing) else x == self.missing
        full = torch.where(missing, self.statistics.to(x.dtype), x)[:, self.kept]
        if self.marked is None:
            return full
        return torch.cat([full, missing[:, self.marked].to(x.dtype)], dim=1)


def simple_imputer(imputer: Any) -> nn.Module:
    """Build the view of a SimpleImputer of numbers."""
    statistics = np.asarray(imputer.statistics_, dtype=np.float64)
    kept = np.flatnonzero(imputer.keep_empty_features | ~np.isnan(statistics))
    marked = imputer.indicator_.features_ if imputer.add_indicator else None
    return Impute(float(imputer.missing_values), statistics, kept, marked)
