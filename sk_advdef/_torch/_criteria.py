"""The loss that a net's criterion stands for, on scores of classes."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

#: Criteria that are cross-entropy, each of another output.
_KNOWN = (nn.CrossEntropyLoss, nn.NLLLoss, nn.BCEWithLogitsLoss)


class ScoreLoss:
    """The loss of scores (logits of all classes) that a net's criterion means.

    It takes labels, hard or soft, and weighs classes as the criterion does. Soft labels
    may have fewer columns than scores; what is left out has none of the probability.

    Parameters
    ----------
    net : skorch net
        The net, initialized.

    Raises
    ------
    ValueError
        If the criterion is none that can be put on scores.
    """

    def __init__(self, net: Any) -> None:
        criterion = self.criterion = net.criterion_
        self.kind = next((k for k in _KNOWN if isinstance(criterion, k)), None)
        name, of = type(criterion).__name__, f"criterion of {type(net).__name__}"
        if self.kind is None or type(criterion).forward is not self.kind.forward:
            names = ", ".join(f"torch.nn.{k.__name__}" for k in _KNOWN[:-1])
            raise ValueError(
                f"{of} must be {names} or torch.nn.{_KNOWN[-1].__name__}: the loss is "
                "taken of scores of classes here. One of your own can be a subclass of "
                "CrossEntropyLoss, which takes them, without predict_nonlinearity. "
                f"Got {name}."
            )
        if getattr(criterion, "ignore_index", -1) >= 0:
            raise ValueError(f"{of} must ignore no class. Got {criterion}.")
        if self.kind is nn.BCEWithLogitsLoss and criterion.weight is not None:
            raise ValueError(
                f"{of} must weigh classes by pos_weight, not rows by weight. "
                f"Got {criterion.weight!r}."
            )

    def __call__(self, scores: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the loss of a batch, reduced as the criterion does."""
        criterion, target = self.criterion, target.to(scores.device)
        if target.is_floating_point():
            target = F.pad(target, (0, scores.shape[1] - target.shape[1]))
        if self.kind is nn.BCEWithLogitsLoss:
            weight = criterion.pos_weight
            if weight is not None:
                weight = scores.new_tensor([1.0, float(weight)])
            found = F.cross_entropy(scores, target, weight=weight, reduction="none")
            # whose mean takes no account of weights
            return found.sum() if criterion.reduction == "sum" else found.mean()
        weight = criterion.weight
        return F.cross_entropy(
            scores,
            target,
            weight=None if weight is None else weight[: scores.shape[1]],
            reduction=criterion.reduction,
            label_smoothing=getattr(criterion, "label_smoothing", 0.0),
        )
