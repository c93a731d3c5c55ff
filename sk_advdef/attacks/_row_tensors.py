"""Tensors of rows: lengths, directions and limits, a row each."""

from __future__ import annotations

import torch


def rows_like(values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Shape a value a row so that it broadcasts over the row."""
    return values.reshape(-1, *(1,) * (like.ndim - 1))


def length(delta: torch.Tensor) -> torch.Tensor:
    """L2 norm of each row."""
    flat = delta.flatten(1)
    # the largest entry first, so that no square overflows or is lost
    numbers = torch.finfo(delta.dtype)
    peak = flat.abs().amax(dim=1).clamp(numbers.tiny, numbers.max)
    return (flat / peak[:, None]).norm(dim=1) * peak


def direction(grad: torch.Tensor) -> torch.Tensor:
    """Scale each row to length 1; a row of zeros stays."""
    grad = torch.nan_to_num(grad)
    # the largest entry first, so that tiny gradients do not square to zero
    peak = grad.abs().flatten(1).amax(dim=1)
    grad = grad / rows_like(peak.clamp_min(torch.finfo(grad.dtype).tiny), grad)
    return grad / rows_like(length(grad).clamp_min(1e-12), grad)


def clip(x: torch.Tensor, lower: torch.Tensor, upper: torch.Tensor) -> torch.Tensor:
    """Bring ``x`` into the limits."""
    return torch.minimum(torch.maximum(x, lower), upper)
