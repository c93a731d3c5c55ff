"""Several suspicions under one linear or otherwise differentiable classifier."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import nn

from sk_advdef._torch._blocks import buffer
from sk_advdef._torch._sampled import Disagreement


def _features(part: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Return what a suspicion looks at, or else itself, a row each."""
    look = getattr(part, "features", None)
    return part(x)[:, None] if look is None else look(x)


class Column(nn.Module):
    """One suspicion, as a column."""

    def __init__(self, suspicion: nn.Module) -> None:
        super().__init__()
        self.suspicion = suspicion

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """Return what the suspicion looks at."""
        return _features(self.suspicion, x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the suspicion, shape (n_samples, 1)."""
        return self.suspicion(x).double()[:, None]


class Statistics(nn.Module):
    """Several statistics of the same sub-networks, which run once for all of them.

    ``statistics`` are pairs of a function and whether it is one of logits.
    """

    def __init__(
        self,
        passes: Disagreement,
        statistics: Iterable[tuple[Callable[..., Any], bool]],
    ) -> None:
        super().__init__()
        self.passes, self.statistics = passes, list(statistics)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """Return the scores of all passes."""
        return self.passes.features(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return a column a statistic."""
        logits = self.passes.scores(x).double()
        proba = logits.softmax(dim=-1)
        columns = [
            f(logits if of_logits else proba) for f, of_logits in self.statistics
        ]
        return torch.stack(columns, dim=1).to(x.device)


class Combination(nn.Module):
    """Log-odds for "adversarial" by a classifier on the scores of several detectors.

    ``parts`` give columns of suspicion, which ``order`` sorts as the classifier knows
    them; ``location`` and ``scale`` are those of the scores, minus the suspicions.
    """

    location: torch.Tensor
    scale: torch.Tensor

    def __init__(
        self,
        parts: Iterable[nn.Module],
        order: Sequence[int],
        location: Any,
        scale: Any,
        final: nn.Module,
    ) -> None:
        super().__init__()
        self.parts, self.order, self.final = nn.ModuleList(parts), list(order), final
        self.register_buffer("location", buffer(location))
        self.register_buffer("scale", buffer(scale))

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """Return what the detectors look at, a row each, each with the same weight."""
        found = [_features(part, x).flatten(1).double() for part in self.parts]
        return torch.cat([f / f.shape[1] ** 0.5 for f in found], dim=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the log-odds, shape (n_samples,)."""
        scores = -torch.cat([part(x) for part in self.parts], dim=1)[:, self.order]
        odds = self.final(((scores - self.location) / self.scale).asinh())
        return odds[:, 1] - odds[:, 0]
