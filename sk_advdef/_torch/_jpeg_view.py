"""View of JpegSqueezer: Pillow's JPEG forward, a differentiable JPEG backward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy.fft import dct
from torch import nn
from torch.nn import functional

from sk_advdef._torch._blocks import buffer
from sk_advdef._torch._bpda import Rounding, soft_round, straight_through
from sk_advdef.squeezers._jpeg_codec import quantization_tables

#: RGB to Y, Cb, Cr: a row each. Colors lie around 128.
TO_LIGHT_AND_COLOR = np.array(
    [
        [0.299, 0.587, 0.114],
        [-0.168736, -0.331264, 0.5],
        [0.5, -0.418688, -0.081312],
    ]
)


class Jpeg(Rounding):
    """JPEG; the gradient goes straight through it, or through soft coefficients."""

    low: torch.Tensor
    per_unit: torch.Tensor
    tables: torch.Tensor
    transform: torch.Tensor
    mixing: torch.Tensor

    def __init__(self, squeezer: Any) -> None:
        super().__init__()
        self.squeezer = squeezer
        low, high = squeezer.value_range_
        self.register_buffer("low", buffer(low))
        self.register_buffer("per_unit", buffer(255 / ((high - low) or 1)))
        tables = quantization_tables(int(squeezer.quality))
        self.register_buffer("tables", buffer(np.stack(tables)))
        self.register_buffer("transform", buffer(dct(np.eye(8), axis=0, norm="ortho")))
        self.register_buffer("mixing", buffer(TO_LIGHT_AND_COLOR))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the rows that JPEG gives back, in the dtype of ``x``."""
        soft = x if self.sharpness is None else self.soft(x)
        return straight_through(self.exact(x), soft)

    def exact(self, x: torch.Tensor) -> torch.Tensor:
        """Return what the squeezer itself makes of the rows."""
        known = x.dtype if x.dtype == torch.float64 else torch.float32
        rows = np.ascontiguousarray(x.detach().to("cpu", known).numpy())
        squeezed = np.empty_like(rows)
        self.squeezer._squeeze(rows, squeezed)
        return torch.from_numpy(squeezed).to(x)

    def soft(self, x: torch.Tensor) -> torch.Tensor:
        """Return JPEG with softly rounded coefficients, and no other rounding."""
        sharpness = self.sharpness

        def rounded(coefficients: torch.Tensor) -> torch.Tensor:
            return soft_round(coefficients, sharpness or 0.0)

        return self.differentiable(x, rounded)

    def differentiable(
        self, x: torch.Tensor, rounded: Callable[[torch.Tensor], torch.Tensor]
    ) -> torch.Tensor:
        """Return JPEG as a chain of linear maps around a rounding of coefficients."""
        layout = self.squeezer._layout
        per_unit, low = self.per_unit.to(x.dtype), self.low.to(x.dtype)
        pixels = _clipped((layout.unfold(x) - low) * per_unit)
        if pixels.shape[-1] == 1:
            pixels = self._coded(pixels[..., 0], 0, rounded)[..., None]
        else:
            pixels = self._colored(pixels, rounded)
        return layout.fold(_clipped(pixels) / per_unit + low)

    def _colored(self, pixels: torch.Tensor, rounded: Any) -> torch.Tensor:
        mixing = self.mixing.to(pixels.dtype)
        height, width = pixels.shape[1:3]
        light, *colors = (pixels @ mixing.T).unbind(-1)
        stack = _filled(torch.cat(colors), 2)
        stored = functional.avg_pool2d(stack[:, None], 2)[:, 0]
        stored = self._coded(stored + 128, 1, rounded) - 128
        # 3/4 of the nearest and 1/4 of the next, as libjpeg brings them back
        wide = functional.interpolate(stored[:, None], scale_factor=2, mode="bilinear")
        blue, red = wide[:, 0, :height, :width].chunk(2)
        planes = [self._coded(light, 0, rounded), blue, red]
        return torch.stack(planes, dim=-1) @ torch.linalg.inv(mixing).T

    def _coded(self, planes: torch.Tensor, kind: int, rounded: Any) -> torch.Tensor:
        n, height, width = planes.shape
        filled = _filled(planes, 8)
        blocks = filled.reshape(n, filled.shape[1] // 8, 8, -1, 8).transpose(2, 3) - 128
        transform = self.transform.to(planes.dtype)
        table = self.tables[kind].to(planes.dtype)
        coefficients = rounded(transform @ blocks @ transform.T / table) * table
        blocks = transform.T @ coefficients @ transform + 128
        return blocks.transpose(2, 3).reshape(filled.shape)[:, :height, :width]


def _clipped(pixels: torch.Tensor) -> torch.Tensor:
    # The gradient goes on, so that what lies beyond can come back.
    return straight_through(pixels.clamp(0, 255), pixels)


def _filled(planes: torch.Tensor, side: int) -> torch.Tensor:
    """Repeat the last row and column up to whole blocks."""
    for axis in (1, 2):
        length = planes.shape[axis]
        places = torch.arange(-(-length // side) * side, device=planes.device)
        planes = planes.index_select(axis, places.clamp(max=length - 1))
    return planes


def jpeg(squeezer: Any) -> nn.Module:
    """Build the view of a JpegSqueezer."""
    return Jpeg(squeezer)
