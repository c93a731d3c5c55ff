"""Views that are one affine map from end to end, and that map."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from sk_advdef._torch._blocks import Affine, TwoColumns
from sk_advdef._torch._interval import Interval
from sk_advdef._torch._interval_rules import kind_of, unit_of
from sk_advdef._torch._propagation import TIE
from sk_advdef._torch._transformer_views import Scale, Select
from sk_advdef._torch._views import Branches, _Times

_AFFINE = (Affine, TwoColumns, Scale, Select, Branches, _Times, nn.Identity)
_HOLDS = (nn.Sequential, nn.ModuleList)


def is_affine(view: nn.Module) -> bool:
    """Whether a view is known to be affine: a linear model behind linear steps."""
    return all(
        isinstance(part, (*_AFFINE, *_HOLDS))
        and not (isinstance(part, Scale) and part.clip is not None)
        for part in view.modules()
    )


def affine_map(view: nn.Module, n_features: int) -> tuple[np.ndarray, np.ndarray]:
    """Return ``weight`` (n_classes, n_features) and ``bias`` of an affine view."""
    zero = torch.zeros(1, n_features, dtype=torch.float64)
    slope = torch.autograd.functional.jacobian(view, zero)
    return slope[0, :, 0].double().numpy(), view(zero)[0].double().numpy()


def rounding_of(
    view: nn.Module, lower: np.ndarray, upper: np.ndarray, dtype: np.dtype
) -> np.ndarray:
    """Largest error by rounding of each score of an affine view, anywhere in boxes.

    The width of the bounds is that of the map and that of rounding, added up. What a
    softmax may round to a tie counts as an error too.
    """
    kind = kind_of(dtype)
    ends = [torch.tensor(end) for end in (lower, upper)]
    rounded, exact = (
        view(Interval(*ends, dtype=kind, unit=unit, raw=True))
        for unit in (unit_of(kind, torch.device("cpu")), 0.0)
    )
    tie = TIE * rounded.unit * (1 + rounded.magnitude.amax(dim=1, keepdim=True))
    return ((rounded.radius - exact.radius).clamp_min(0) + tie).numpy()
