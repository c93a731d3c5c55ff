"""A linear layer right after a mask that all rows share, without what it drops."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class _ShortLinear(torch.autograd.Function):
    """``linear(x * scale)``; under vmap over masks each pass takes its own columns.

    It has no backward pass: where gradients are asked for, the plain way is taken.
    """

    @staticmethod
    def forward(x: Any, scale: Any, weight: Any, bias: Any) -> torch.Tensor:
        """Return the plain product."""
        return nn.functional.linear(x * scale, weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Keep nothing."""

    @staticmethod
    def vmap(
        info: Any, in_dims: Any, x: Any, scale: Any, weight: Any, bias: Any
    ) -> tuple[torch.Tensor, int]:
        """Take the kept columns of each pass, from rows that all passes share."""
        if in_dims != (None, 0, None, None):
            if in_dims[0] is not None:
                x = x.movedim(in_dims[0], 0)
            shape = (scale.shape[0], *(1,) * (x.ndim - 2), scale.shape[-1])
            if in_dims[0] is None:
                shape = (scale.shape[0], *(1,) * (x.ndim - 1), scale.shape[-1])
            return nn.functional.linear(x * scale.reshape(shape), weight, bias), 0
        # columns become rows, which are copied in one piece; of a dropout's mask all
        # entries that are not zero are the same
        columns = x.T.contiguous()
        weights = weight.T.contiguous()
        passes = []
        for mask in scale:
            kept = mask.nonzero()[:, 0]
            part = columns.index_select(0, kept).T @ weights.index_select(0, kept)
            passes.append(part * mask.amax())
        out = torch.stack(passes)
        return out if bias is None else out + bias, 0


class MaskedLinear(nn.Module):
    """A linear layer that takes its mask from the dropout before it."""

    def __init__(self, linear: nn.Linear, masked: Any) -> None:
        super().__init__()
        self.linear = linear
        self.__dict__["masked"] = masked  # it has a place of its own

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return what the layer makes of the masked rows."""
        scale, self.__dict__["masked"].held = self.__dict__["masked"].held, None
        if scale is None:
            return self.linear(x)
        return _ShortLinear.apply(x, scale, self.linear.weight, self.linear.bias)


def followed_by_linear(
    parent: nn.Sequential, place: int
) -> tuple[str, nn.Linear] | None:
    """Find the linear layer that comes right after a place, and its name."""
    for name, child in list(parent._modules.items())[place + 1 :]:
        flat = isinstance(child, nn.Flatten) and (child.start_dim, child.end_dim) == (
            1,
            -1,
        )
        if isinstance(child, nn.Linear) and type(child) is nn.Linear:
            return name, child
        if not flat and not isinstance(child, nn.Identity):
            return None
    return None
