"""Densities of hidden features as suspicion that a gradient leads through."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from sk_advdef._torch._blocks import buffer


def _squared_distances(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    squares = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * (a @ b.T)
    return squares.clamp_min(0)


class OfClass(nn.Module):
    """A score of the squared distances to the rows of the predicted class."""

    center: torch.Tensor
    rows: torch.Tensor

    def __init__(
        self, near: Any, score: Callable[[torch.Tensor], torch.Tensor]
    ) -> None:
        super().__init__()
        self.register_buffer("center", buffer(near.center))
        self.register_buffer("rows", buffer(near.rows))
        self.bounds, self.score = near.bounds, score

    def forward(self, features: torch.Tensor, predicted: torch.Tensor) -> torch.Tensor:
        """Return a score a row, higher for nearer."""
        found = features.new_zeros(len(features))
        away = features - self.center
        for k in predicted.unique().tolist():
            start, stop = self.bounds[k]
            mine = (predicted == k).nonzero()[:, 0]
            squares = _squared_distances(away[mine], self.rows[start:stop])
            found = found.index_put((mine,), self.score(squares))
        return found


class LogKernelDensity:
    """Log-density under Gaussian kernels of one bandwidth."""

    def __init__(self, bandwidth: float, normalizer: float) -> None:
        self.bandwidth, self.normalizer = bandwidth, normalizer

    def __call__(self, squares: torch.Tensor) -> torch.Tensor:
        """Return a log-density a row."""
        total = (squares / self.bandwidth / self.bandwidth / -2).logsumexp(dim=1)
        return total - math.log(squares.shape[1]) - self.normalizer


class KthDistance:
    """Minus the distance to the k-th nearest row."""

    def __init__(self, n_neighbors: int) -> None:
        self.n_neighbors = n_neighbors

    def __call__(self, squares: torch.Tensor) -> torch.Tensor:
        """Return a score a row."""
        k = min(self.n_neighbors, squares.shape[1])
        kth = squares.topk(k, dim=1, largest=False).values[:, -1]
        # a root has no slope at zero
        return -torch.where(kth > 0, kth, torch.ones_like(kth)).sqrt() * (kth > 0)


class Nearest(nn.Module):
    """Minus the squared distance to the nearest of Gaussians of one covariance."""

    center: torch.Tensor
    means: torch.Tensor
    whiten: torch.Tensor

    def __init__(self, gaussian: Any) -> None:
        super().__init__()
        center = gaussian.means[0]
        self.register_buffer("center", buffer(center))
        means = (gaussian.means - center) @ gaussian.whiten
        self.register_buffer("means", buffer(means))
        self.register_buffer("whiten", buffer(gaussian.whiten))

    def forward(self, features: torch.Tensor, predicted: Any = None) -> torch.Tensor:
        """Return a score a row, higher for nearer."""
        white = (features - self.center) @ self.whiten
        return -((white[:, None] - self.means) ** 2).sum(dim=2).amin(dim=1)


class Relative(nn.Module):
    """Distance to all rows together less the distance to the nearest class."""

    def __init__(self, classes: nn.Module, background: nn.Module) -> None:
        super().__init__()
        self.classes, self.background = classes, background

    def forward(self, features: torch.Tensor, predicted: Any = None) -> torch.Tensor:
        """Return a score a row, higher for nearer."""
        return self.classes(features) - self.background(features)


class DensitySuspicion(nn.Module):
    """Minus the mean, over layers, of their densities in units of their own.

    ``look`` gives class scores and a list of features; each of ``densities`` takes
    features and the predicted class of each row.
    """

    def __init__(
        self,
        look: nn.Module,
        densities: Iterable[nn.Module],
        location: Any,
        scale: Any,
    ) -> None:
        super().__init__()
        self.look, self.densities = look, nn.ModuleList(densities)
        self.location, self.scale = list(map(float, location)), list(map(float, scale))

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """Return what the densities look at, a row each: the features of all layers."""
        return torch.cat(self.look(x)[1], dim=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the suspicion, shape (n_samples,)."""
        scores, features = self.look(x)
        predicted = scores.argmax(dim=1)
        parts = zip(self.densities, features, self.location, self.scale, strict=True)
        total = [(density(f, predicted) - at) / by for density, f, at, by in parts]
        return -torch.stack(total).mean(dim=0)
