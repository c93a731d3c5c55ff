"""Views of the squeezers of this package."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import nn

from sk_advdef._images import ImageLayout
from sk_advdef._torch._blocks import buffer
from sk_advdef._torch._bpda import Rounding, soft_round, straight_through
from sk_advdef.squeezers._median_filter import before, median_rank
from sk_advdef.squeezers._operators import apply_along, reflected


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
        return buffer(matrix)
    coo = matrix.tocoo()
    indices = torch.tensor(np.stack([coo.row, coo.col]), dtype=torch.int64)
    # checked once, and said so: torch warns where this is left open
    values = buffer(coo.data)
    return torch.sparse_coo_tensor(
        indices, values, coo.shape, check_invariants=True
    ).coalesce()


def separable(squeezer: Any) -> nn.Module:
    """Build the view of a BlurSqueezer or Downscaler."""
    return Separable(squeezer._layout, squeezer._operators)


class BitDepth(Rounding):
    """Rounding to even levels; by default the gradient goes straight through."""

    low: torch.Tensor
    high: torch.Tensor

    def __init__(self, low: Any, high: Any, steps: int) -> None:
        super().__init__()
        self.register_buffer("low", buffer(low))
        self.register_buffer("high", buffer(high))
        self.steps = steps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the rounded rows, in the dtype of ``x``."""
        # the very steps of the squeezer, so that no tie falls to another level
        low, high = self.low.to(x.dtype), self.high.to(x.dtype)
        # a number divided by a tensor would be multiplied with its inverse
        steps = torch.full_like(low, self.steps)
        per_unit = steps / (high - low)
        per_unit = torch.where(torch.isfinite(per_unit), per_unit, steps)
        clipped = torch.minimum(torch.maximum(x, low), high)
        levels = ((clipped - low) * per_unit).round() / per_unit + low
        levels = torch.minimum(levels, high)
        soft = x
        if self.sharpness is not None:
            # beyond the range too, so that what lies there can come back
            soft = soft_round((x - low) * per_unit, self.sharpness) / per_unit
        return straight_through(levels, soft)


def bit_depth(squeezer: Any) -> nn.Module:
    """Build the view of a BitDepthSqueezer."""
    low, high = squeezer.value_range_
    return BitDepth(low, high, squeezer._steps)


class Median(nn.Module):
    """The median of each window, whose gradient goes to the pixels that have its value.

    Pixels that share the value share the gradient: moved together, as an attack along
    the sign of the gradient moves them, they do move the median.
    """

    def __init__(self, layout: ImageLayout, window: tuple[int, int]) -> None:
        super().__init__()
        self.layout, self.window = layout, window
        for axis, (length, side) in enumerate(
            zip(layout.unfolded[:2], window, strict=True), start=1
        ):
            reach = np.arange(length + side - 1) - before(side)
            places = torch.tensor(reflected(reach, length))
            self.register_buffer(f"places{axis}", places)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the medians, in the dtype of ``x``."""
        images = self.layout.unfold(x)
        for axis in (1, 2):
            images = images.index_select(axis, getattr(self, f"places{axis}"))
        for axis, side in zip((1, 2), self.window, strict=True):
            images = images.unfold(axis, side, 1)
        windows = images.flatten(-2)
        rank = median_rank(self.window)
        exact = windows.detach().kthvalue(rank + 1, dim=-1).values
        chosen = (windows.detach() == exact[..., None]).to(x.dtype)
        share = (windows * chosen).sum(dim=-1) / chosen.sum(dim=-1)
        return self.layout.fold(straight_through(exact, share))


def median(squeezer: Any) -> nn.Module:
    """Build the view of a MedianSqueezer."""
    return Median(squeezer._layout, squeezer.window_size_)


class Grayscale(nn.Module):
    """The weighted mean of the channels, once or in each channel."""

    weights: torch.Tensor

    def __init__(self, layout: ImageLayout, weights: Any, n_channels: int) -> None:
        super().__init__()
        self.layout, self.n_channels = layout, n_channels
        self.register_buffer("weights", buffer(weights))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return gray images, in the dtype of ``x``."""
        images = self.layout.unfold(x)
        gray = (images * self.weights.to(x.dtype)).sum(dim=-1, keepdim=True)
        return self.layout.fold(gray.expand(*gray.shape[:-1], self.n_channels))


def grayscale(squeezer: Any) -> nn.Module:
    """Build the view of a GrayscaleSqueezer."""
    if squeezer.weights_ is None:
        return nn.Identity()
    n_channels = squeezer._layout_out.unfolded[2]
    return Grayscale(squeezer._layout, squeezer.weights_, n_channels)
