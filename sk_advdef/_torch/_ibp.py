"""Training by interval bounds: where it starts, how it grows, what holds it together.

Shi et al., "Fast Certified Robust Training with Short Warmup", 2021, arXiv:2103.17268.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from skorch.utils import to_tensor
from torch import nn

from sk_advdef._torch._bounds import worst_margins
from sk_advdef._torch._criteria import ScoreLoss
from sk_advdef._torch._interval import Interval
from sk_advdef._torch._interval_layers import normalizes
from sk_advdef._torch._net import LiveModel
from sk_advdef._torch._net_view import output_kind, view_of_net
from sk_advdef._torch._propagation import propagate

#: What the regularizers ask for: bounds at most 1 / 0.5 times as wide as at the input,
#: and half as much weight on the rarer of active and inactive units as on the other.
TOLERANCE = 0.5

#: Part of the ramp that is curved, and its power.
CURVED, POWER = 0.25, 4

#: Modules whose weights are drawn anew.
_WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)

#: Lower, upper, center and radius of what goes into each activation.
Trace = list[tuple[torch.Tensor, ...]]


def initialize_for_bounds(module: nn.Module) -> None:
    """Draw weights under which bounds neither grow nor shrink from layer to layer.

    Normal with standard deviation ``sqrt(2 pi) / n`` for ``n`` inputs, no bias.
    """
    for part in module.modules():
        if isinstance(part, _WEIGHTED):
            n = part.weight[0].numel()
            nn.init.normal_(part.weight, std=math.sqrt(2 * math.pi) / n)
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def smooth_ramp(t: float) -> float:
    """Part of eps at time ``t``, 0 to 1: slow at first, straight from a quarter on."""
    if t >= 1:
        return 1.0
    # a * t ** 4, then a line of the same value and slope at the joint, 1 at the end
    slope = 1 / (CURVED / POWER + 1 - CURVED)
    if t < CURVED:
        return slope * CURVED / POWER * (max(t, 0.0) / CURVED) ** POWER
    return slope * (CURVED / POWER + t - CURVED)


def regularization(trace: Trace, radius: torch.Tensor) -> torch.Tensor:
    """Penalize bounds that explode and layers of units that are all on or all off."""
    total = radius.new_zeros(())
    if not trace:
        return total
    for lower, upper, center, half in trace:
        tightness = half.mean().clamp_min(1e-12)
        total = total + nn.functional.relu(TOLERANCE - radius / tightness)
        total = total + _imbalance(lower, upper, center)
    return total / (TOLERANCE * len(trace))


def _imbalance(
    lower: torch.Tensor, upper: torch.Tensor, center: torch.Tensor
) -> torch.Tensor:
    """Tell how far units that are surely on outweigh those surely off, or less."""
    mean = center.mean()
    apart = center - mean
    # compared into floats, which are several times as fast to multiply by as bools
    surely_on = torch.gt(lower.detach(), 0, out=torch.empty_like(lower))
    surely_off = torch.lt(upper.detach(), 0, out=torch.empty_like(upper))
    on, off = (_sums(apart, mean, which) for which in (surely_on, surely_off))
    total = center.new_zeros(())
    for a, b in ((on[0], -off[0]), (on[1], off[1])):
        # where one of the two has no unit at all there is nothing to balance
        if float(a.detach()) > 0 and float(b.detach()) > 0:
            total = total + nn.functional.relu(TOLERANCE - torch.minimum(a / b, b / a))
    return total


def _sums(
    apart: torch.Tensor, mean: torch.Tensor, which: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Add up centers of some units, and their squared distances from the mean."""
    part = apart * which
    spread = torch.vdot(part.flatten(), apart.flatten())
    return part.sum() + mean * which.sum(), spread


class BoundedSteps:
    """The training steps of a net, by the worst scores that bounds allow.

    Parameters
    ----------
    net : skorch net
        The net, initialized.
    live : LiveModel
        The net with what rows go through before it.
    n_classes : int
        Number of classes.
    eps : float or array
        Radius at the end of the ramp.
    box : tuple of arrays (low, high)
        Ends of what input can be.
    ramp : float
        Epochs in which the radius grows.
    clean_weight : float
        Weight of the loss on clean rows.
    regularization : float
        Weight of the regularizers at the start of the ramp.
    by_rows : bool
        Whether batch normalization takes its statistics from the clean rows.
    """

    def __init__(
        self,
        net: Any,
        live: LiveModel,
        n_classes: int,
        *,
        eps: Any,
        box: tuple[Any, Any],
        ramp: float,
        clean_weight: float,
        regularization: float,
        by_rows: bool,
    ) -> None:
        self.net, self.live, self.ramp = net, live, ramp
        self.kind = output_kind(net)
        self.loss = None if self.kind == "logits" else ScoreLoss(net)
        self.view = view_of_net(net, n_classes, live=True)
        self.eps, self.low, self.high = (self._tensor(v) for v in (eps, *box))
        self.clean_weight, self.regularization = clean_weight, regularization
        self.points = clean_weight > 0 or (by_rows and normalizes(net.module_))
        self.epoch, self.batch, self.batches = -1, 0, 1
        #: part of the radius reached
        self.share = 0.0
        self._scores: Interval | None = None
        self._penalty: Any = 0.0

    def _tensor(self, value: Any) -> torch.Tensor:
        return torch.as_tensor(value, dtype=torch.float64, device=self.net.device)

    def hooks(self) -> dict[str, Any]:
        """Return the methods of the net to put functions around."""
        names = ("on_epoch_begin", "get_iterator", "train_step", "infer", "get_loss")
        return {name: getattr(self, f"_{name}") for name in names}

    def _on_epoch_begin(self, original: Any, *args: Any, **params: Any) -> Any:
        # which a checkpoint may have brought
        self.epoch, self.batch = len(self.net.history), 0
        self.live.renew()
        return original(*args, **params)

    def _get_iterator(self, original: Any, dataset: Any, training: bool = False) -> Any:
        iterator = original(dataset, training=training)
        if training and hasattr(iterator, "__len__"):
            self.batches = max(1, len(iterator))
        return iterator

    def _train_step(self, original: Any, batch: Any, **params: Any) -> Any:
        # at the end of the batch, so that the last one of the ramp has all of it
        self.batch += 1
        time = self.epoch + min(1.0, self.batch / self.batches)
        self.share = smooth_ramp(time / self.ramp) if self.ramp else 1.0
        return original(batch, **params)

    def _infer(self, original: Any, x: Any, **params: Any) -> Any:
        if not self.net.module_.training:
            return original(self.live.inputs(x), **params)
        rows = to_tensor(x, device=self.net.device)
        scores = self._bounded(rows)
        self._scores = scores
        known = scores.center if scores.point is None else scores.point
        return self._as_output(known)

    def _bounded(self, rows: torch.Tensor) -> Interval:
        trace: Trace = []
        weight = self.regularization * (1 - self.share)
        radius, low, high = (v.to(rows.dtype) for v in (self.eps, self.low, self.high))
        radius = radius * self.share
        box = Interval(
            torch.maximum(rows - radius, low),
            torch.minimum(rows + radius, high),
            dtype=rows.dtype,
            point=rows if self.points else None,
            seen=trace if weight > 0 else None,
        )
        box = propagate(self.live.before, box)
        scores = propagate(self.view, box)
        self._penalty = 0.0
        if weight > 0:
            self._penalty = weight * regularization(trace, box.radius.mean())
        return scores

    def _as_output(self, scores: torch.Tensor) -> torch.Tensor:
        """Return scores as the module would, for callbacks that look at them."""
        if self.kind == "binary":
            return scores[:, 1] - scores[:, 0]
        return scores if self.kind == "logits" else scores.softmax(dim=1)

    def _get_loss(
        self, original: Any, y_pred: Any, y_true: Any, *args: Any, **params: Any
    ) -> Any:
        if not (params.get("training") and self._scores is not None):
            return original(y_pred, y_true, *args, **params)
        scores, self._scores = self._scores, None
        labels = y_true.to(scores.lower.device).long()

        def loss_of(found: torch.Tensor) -> Any:
            if self.loss is not None:
                return self.loss(found, labels)
            return original(found, labels, *args, **params)

        loss = loss_of(-worst_margins(scores, labels))
        if self.clean_weight and scores.point is not None:
            clean = loss_of(scores.point)
            loss = self.clean_weight * clean + (1 - self.clean_weight) * loss
        return loss + self._penalty
