"""A linear layer right after a mask that all rows share, without what it drops."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

#: Columns that a product should have at least, and passes that share products at most.
COLUMNS_AT_LEAST, PASSES_TOGETHER = 256, 5


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
            x = x if in_dims[0] is None else x.movedim(in_dims[0], 0)
            return nn.functional.linear(x * scale[:, None], weight, bias), 0
        # columns become rows, which are copied in one piece
        columns, weights = x.T.contiguous(), weight.T.contiguous()
        together = (len(columns) // COLUMNS_AT_LEAST).bit_length() - 1
        together = min(max(1, together), PASSES_TOGETHER)
        passes = [kept_products(columns, weights, m) for m in scale.split(together)]
        out = torch.cat(passes)
        return out if bias is None else out + bias, 0


def kept_products(
    columns: torch.Tensor, weights: torch.Tensor, masks: torch.Tensor
) -> torch.Tensor:
    """Return ``columns.T @ (weights * mask)`` for each of a few masks.

    Columns that the same passes keep make one product, which each of these passes
    adds: g passes cost less than one product of all columns, not g of the kept ones.
    All entries of a dropout's mask that are not zero are the same.
    """
    kept = masks != 0
    bits = 2 ** torch.arange(len(masks), device=masks.device)
    codes = (kept * bits[:, None]).sum(dim=0)
    order, ends = (
        codes.argsort(stable=True),
        codes.bincount(minlength=2 ** len(masks)).cumsum(0),
    )
    stops = ends.tolist()
    order = order[stops[0] :]  # what no pass keeps comes first
    columns, weights = columns.index_select(0, order), weights.index_select(0, order)
    out = columns.new_zeros(len(masks), columns.shape[1], weights.shape[1])
    for code in range(1, len(stops)):
        part = slice(stops[code - 1] - stops[0], stops[code] - stops[0])
        if part.start == part.stop:
            continue
        product = columns[part].T @ weights[part]
        for i in range(len(out)):
            if code >> i & 1:
                out[i] += product
    return out * masks.amax(dim=1)[:, None, None]


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
        if x.ndim > 2:  # tokens, each with a mask of its own
            return self.linear(x * scale)
        return _ShortLinear.apply(
            x, scale.flatten(), self.linear.weight, self.linear.bias
        )


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
