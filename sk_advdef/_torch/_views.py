"""Views of skorch nets, and of what chains transformers or puts them side by side."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from sk_advdef._torch._net_view import view_of_net
from sk_advdef._torch._parts import PARTS, fitted_branches, is_empty, is_step
from sk_advdef._torch._registry import build


def skorch_net(net: Any) -> nn.Module:
    """Take the module of a fitted skorch net, which gets rows as they are."""
    return view_of_net(net, narrowed=False)


class _Times(nn.Module):
    def __init__(self, view: nn.Module, factor: float) -> None:
        super().__init__()
        self.view, self.factor = view, factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.view(x) * self.factor


def times(view: nn.Module, factor: float) -> nn.Module:
    """Multiply the scores of a view."""
    return _Times(view, factor)


def pipeline(estimator: Any, role: str) -> nn.Module:
    """Chain the views of the steps; the last one answers."""
    return nn.Sequential(
        *(
            build(step, of_step)
            for _, step, of_step in PARTS["sklearn.Pipeline"](estimator, role)
        )
    )


def searched(search: Any) -> nn.Module:
    """Build the view of what a search has chosen."""
    return build(search.best_estimator_)


class Behind(nn.Module):
    """The suspicion of a detector behind the view of some steps."""

    def __init__(self, before: nn.Module, suspicion: nn.Module) -> None:
        super().__init__()
        self.before, self.suspicion = before, suspicion

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """Return what the detector looks at, or else what it is given, a row each."""
        look = getattr(self.suspicion, "features", nn.Flatten())
        return look(self.before(x))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the suspicion, shape (n_samples,)."""
        return self.suspicion(self.before(x))


class Branches(nn.Module):
    """Views side by side, each of some of the columns: (columns, view, weight)."""

    def __init__(self, branches: list[tuple[Any, nn.Module, float]]) -> None:
        super().__init__()
        self.views = nn.ModuleList(view for _, view, _ in branches)
        self.columns = [columns for columns, _, _ in branches]
        self.weights = [weight for _, _, weight in branches]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the columns of all branches, in their order."""
        parts = []
        for view, columns, weight in zip(
            self.views, self.columns, self.weights, strict=True
        ):
            part = view(x if columns is None else x[:, columns])
            parts.append(part if weight == 1 else part * weight)
        return torch.cat(parts, dim=1) if parts else x[:, :0]


def column_positions(columns: Any, n_columns: int, names: list[str]) -> Any:
    """Turn a choice of columns, in any way that scikit-learn takes, to positions.

    The position of a column that was given alone is a number, not a list of one.
    """
    if isinstance(columns, slice):
        start, stop = columns.start, columns.stop
        if isinstance(start, str) or isinstance(stop, str):
            # the last name of a slice is within it
            start = None if start is None else names.index(start)
            stop = None if stop is None else names.index(stop) + 1
        return list(range(n_columns))[slice(start, stop, columns.step)]
    if isinstance(columns, str):
        return names.index(columns)
    if np.ndim(columns) == 0:
        return range(n_columns)[int(columns)]
    columns = list(columns)
    if columns and isinstance(columns[0], str):
        return [names.index(name) for name in columns]
    return np.arange(n_columns)[np.asarray(columns)].tolist()


def _branch(part: Any) -> nn.Module:
    return build(part, "transform") if is_step(part) else nn.Identity()


def column_transformer(transformer: Any) -> nn.Module:
    """Put the branches of a ColumnTransformer side by side."""
    weights = transformer.transformer_weights or {}
    names = list(getattr(transformer, "feature_names_in_", ()))
    branches = []
    for name, part, columns in fitted_branches(transformer):
        if is_empty(columns) or (isinstance(part, str) and part == "drop"):
            continue
        places = column_positions(columns, transformer.n_features_in_, names)
        branches.append((places, _branch(part), weights.get(name, 1)))
    return Branches(branches)


def feature_union(union: Any) -> nn.Module:
    """Put the transformers of a FeatureUnion side by side."""
    weights = union.transformer_weights or {}
    return Branches(
        [
            (None, _branch(part), weights.get(name, 1))
            for name, part in union.transformer_list
            if not (isinstance(part, str) and part == "drop")
        ]
    )
