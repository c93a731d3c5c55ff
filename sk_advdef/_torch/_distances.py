"""How far a model's answers on squeezed rows are from its answers on the rows."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn


class SqueezeDistance(nn.Module):
    """The largest L1 distance between the class probabilities on rows and squeezed.

    ``view`` gives scores of shape (n_samples, n_classes), each of ``squeezers`` rows.
    """

    def __init__(self, view: nn.Module, squeezers: Iterable[nn.Module]) -> None:
        super().__init__()
        self.view, self.squeezers = view, nn.ModuleList(squeezers)

    def scores(self, x: torch.Tensor) -> torch.Tensor:
        """Return scores on ``x`` and on each squeezed, (n_squeezers + 1, n, classes).

        All go through the model as one batch.
        """
        rows = torch.cat([x, *(squeezer(x) for squeezer in self.squeezers)])
        scores = self.view(rows)
        return scores.reshape(len(self.squeezers) + 1, len(x), scores.shape[-1])

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """Return what is compared, a row each: the scores of all."""
        return self.scores(x).transpose(0, 1).flatten(1)

    def distances(self, x: torch.Tensor) -> torch.Tensor:
        """Return the distance of each squeezer, shape (n_squeezers, n_samples)."""
        proba = self.scores(x).double().softmax(dim=-1)
        return (proba[1:] - proba[0]).abs().sum(dim=-1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the largest distance, shape (n_samples,)."""
        return self.distances(x).amax(dim=0)
