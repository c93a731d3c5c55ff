"""How far training lets rows move: a ball, a box or a space, batch by batch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from sklearn.base import clone

from sk_advdef._validation import check_option
from sk_advdef.attacks._base import Attack, Problem, space_of
from sk_advdef.attacks._geometry import NORMS, check_bounds, check_eps
from sk_advdef.attacks._gradient import Snap
from sk_advdef.attacks._pgd import PGD
from sk_advdef.attacks._row_tensors import direction, length, rows_like
from sk_advdef.attacks._scaled import scaled


class Room:
    """A batch of rows, and where each may go. Sizes are in radii.

    ``center`` is never changed; tensors that are clipped or put inside are, to spare
    copies. Without a space a point stands for itself. ``costless`` marks features whose
    change has no length, so that an L2 ball does not hold them.
    """

    def __init__(
        self,
        center: torch.Tensor,
        eps: Any,
        low: Any,
        high: Any,
        norm: str,
        costless: torch.Tensor | None = None,
    ) -> None:
        self.center, self.eps, self.norm = center, eps, norm
        self.low, self.high, self.costless = low, high, costless
        self._ends: tuple[torch.Tensor, torch.Tensor] | None = None

    def uniform(self, radii: float, generator: torch.Generator) -> torch.Tensor:
        """Draw changes uniformly in a ball of ``radii`` radii."""
        drawn = torch.empty_like(self.center)
        if self.norm == "linf" and isinstance(self.eps, float):
            size = radii * self.eps
            return drawn.uniform_(-size, size, generator=generator)
        if self.norm == "linf":
            return drawn.uniform_(-radii, radii, generator=generator).mul_(self.eps)
        drawn.normal_(generator=generator)
        far = drawn.new_empty(len(drawn)).uniform_(generator=generator)
        far = radii * far ** (1 / drawn[0].numel())
        return drawn * rows_like(far / length(drawn).clamp_min(1e-12), drawn) * self.eps

    def boxed(self, x: torch.Tensor) -> torch.Tensor:
        """Clip to the box alone."""
        return x if self.low is None else x.clamp_(self.low, self.high)

    def inside(self, x: torch.Tensor) -> torch.Tensor:
        """Move to the nearest place in ball and box."""
        if self.norm == "l2":
            change = x - self.center
            if not isinstance(self.eps, float) or not self.eps:
                # no length tells where eps is 0
                change = change * (self.eps > 0)
            over = self.lengths(x).clamp_min(1)
            moved = self.center + change / rows_like(over, x)
            if self.costless is not None:
                moved = torch.where(self.costless, x, moved)
            return self.boxed(moved)
        if self._ends is None:
            self._ends = (
                self.boxed(self.center - self.eps),
                self.boxed(self.center + self.eps),
            )
        return x.clamp_(*self._ends)

    def lengths(self, x: torch.Tensor) -> torch.Tensor:
        """Length of each row's change, in radii."""
        eps = torch.as_tensor(self.eps, dtype=x.dtype)
        unit = torch.where(eps > 0, (x - self.center) / eps, 0.0)
        if self.norm == "linf":
            return unit.flatten(1).abs().amax(dim=1)
        return length(self._charged(unit))

    def _charged(self, change: torch.Tensor) -> torch.Tensor:
        return change if self.costless is None else change.masked_fill(self.costless, 0)

    def up(self, x: torch.Tensor, grad: torch.Tensor, size: Any) -> torch.Tensor:
        """Go up the gradient as steeply as the norm allows; may leave the room.

        ``size`` is a float or holds one a row. ``grad`` is used up.
        """
        grad = grad.nan_to_num_()
        if self.norm == "linf":
            way = grad.sign_()
        else:
            way = direction(self._charged(grad * self.eps))
            if self.costless is not None:
                way = torch.where(self.costless, grad.sign(), way)
        if torch.is_tensor(size):
            size = rows_like(size, x)
        if isinstance(size, float) and isinstance(self.eps, float):
            # a step beyond all numbers of float32 goes to the end of the room
            longest = torch.finfo(x.dtype).max
            return torch.add(x, way, alpha=min(size * self.eps, longest))
        return x + size * self.eps * way

    def point(self, x: torch.Tensor) -> torch.Tensor:
        """Return the rows that ``x`` stands for."""
        return x


class SpaceRoom(Room):
    """Rows of a table, and what a FeatureSpace lets become of them."""

    def __init__(self, problem: Problem, norm: str) -> None:
        center = torch.tensor(problem.X)
        eps, low, high = (
            torch.tensor(np.asarray(v), dtype=center.dtype)
            for v in (problem.eps, problem.lower, problem.upper)
        )
        costless = torch.tensor(problem.rules.costless)
        super().__init__(center, eps, low, high, norm, costless)
        self.snap = Snap(problem, np.arange(len(problem.X)))
        self.gain: torch.Tensor | None = None

    def up(self, x: torch.Tensor, grad: torch.Tensor, size: Any) -> torch.Tensor:
        """Go up the gradient; remember what a rise of each feature is worth."""
        grad = self.snap.pull(grad)
        self.gain = self.snap.worth(grad, self.gain)
        return super().up(x, grad, size)

    def point(self, x: torch.Tensor) -> torch.Tensor:
        """Return the rows of the space that ``x`` stands for."""
        return self.snap(x.detach(), torch.arange(len(x)), self.gain)


class Reach:
    """What all methods but "pgd" take from an attack: norm, eps and box, or a space."""

    def __init__(self, attack: Attack, X: np.ndarray, codes: np.ndarray, model: Any):
        self.attack, self.model = attack, model
        self.norm = check_option(attack, "norm", attack.norm, NORMS)
        self.space = space_of(attack)
        if self.space is not None:
            Problem(self._threat(1.0), model, X, codes)  # all rows are checked once
            return
        self.eps: Any = check_eps(attack, attack.eps, X.shape[1:])
        self.low: Any = None
        self.high: Any = None
        if attack.bounds is not None:
            low, high = check_bounds(attack, attack.bounds, X)
            self.low, self.high = _as_operands(low, high, X.dtype)

    def _threat(self, part: float) -> Attack:
        attack = self.attack
        threat = PGD(attack.eps, norm=self.norm, bounds=attack.bounds, space=self.space)
        return scaled(threat, part)

    def room(self, x: torch.Tensor, y: torch.Tensor, part: float) -> Room:
        """Return where a batch may go, at a part of the radius."""
        if self.space is not None:
            given = x.numpy(), y.numpy()
            return SpaceRoom(Problem(self._threat(part), self.model, *given), self.norm)
        eps = self.eps * part
        eps = float(eps) if eps.ndim == 0 else torch.tensor(eps, dtype=x.dtype)
        return Room(x, eps, self.low, self.high, self.norm)


def _as_operands(low: np.ndarray, high: np.ndarray, dtype: np.dtype) -> tuple[Any, Any]:
    if low.ndim == high.ndim == 0:
        return float(low), float(high)
    low, high = np.broadcast_arrays(low, high)
    ends = (torch.from_numpy(end.astype(dtype)) for end in (low, high))
    return tuple(ends)  # type: ignore[return-value]


def with_names(attack: Attack, names: Any) -> Attack:
    """Let the space of an attack know the columns of an array by these names."""
    space = attack.get_params(deep=False).get("space")
    if space is None or space.feature_names is not None or names is None:
        return attack
    return clone(attack).set_params(space=replace(space, feature_names=names))
