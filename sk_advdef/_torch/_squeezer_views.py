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
from sk_advdef.squeezers._operators import apply_along


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
        low, high = self.low.to(x.dtype), self.high.to(x.dtype)
        scale = high - low
        unit = (x - low) / torch.where(scale > 0, scale, torch.ones_like(scale))
        levels = (unit.clamp(0, 1) * self.steps).round() / self.steps * scale + low
        levels = torch.minimum(torch.maximum(levels, low), high)
        soft = x
        if self.sharpness is not None:
            # beyond the range too, so that what lies there can come back
            soft = soft_round(unit * self.steps, self.sharpness) / self.steps * scale
        return straight_through(levels, soft)


def bit_depth(squeezer: Any) -> nn.Module:
    """Build the view of a BitDepthSqueezer."""
    low, high = squeezer.value_range_
    return BitDepth(low, high, squeezer._steps)
