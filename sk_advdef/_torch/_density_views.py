"""Views of models that compare the densities of the classes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from sk_advdef._torch._blocks import Affine, buffer


class Gaussians(nn.Module):
    """Log of each class's share in the density: Gaussians, whitened by ``maps``."""

    means: torch.Tensor
    offsets: torch.Tensor

    def __init__(self, means: Any, maps: list[Any], offsets: Any) -> None:
        super().__init__()
        self.register_buffer("means", buffer(means))
        self.register_buffer("offsets", buffer(offsets))
        for k, one in enumerate(maps):
            self.register_buffer(f"map{k}", buffer(one))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return a score a class."""
        distances = []
        for k, mean in enumerate(self.means):
            away, one = x.to(mean.dtype) - mean, getattr(self, f"map{k}")
            away = away * one if one.ndim == 1 else away @ one
            distances.append((away**2).sum(dim=1))
        return self.offsets - torch.stack(distances, dim=1) / 2


def gaussian_nb(model: Any) -> nn.Module:
    """Build the view of a GaussianNB."""
    spread = np.log(2 * np.pi * model.var_).sum(axis=1)
    offsets = np.log(model.class_prior_) - spread / 2
    return Gaussians(model.theta_, list(model.var_**-0.5), offsets)


def quadratic_discriminant_analysis(model: Any) -> nn.Module:
    """Build the view of a QuadraticDiscriminantAnalysis."""
    pairs = list(zip(model.rotations_, model.scalings_, strict=True))
    maps = [rotation * scaling**-0.5 for rotation, scaling in pairs]
    spread = np.array([np.log(scaling).sum() for _, scaling in pairs])
    return Gaussians(model.means_, maps, np.log(model.priors_) - spread / 2)


def discriminant_transform(model: Any) -> nn.Module:
    """Build the view of a LinearDiscriminantAnalysis that reduces dimensions."""
    scalings = np.asarray(model.scalings_)[:, : model._max_components]
    center = model.xbar_ if model.solver == "svd" else np.zeros(len(scalings))
    return Affine(scalings, -center @ scalings)
