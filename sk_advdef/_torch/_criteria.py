"""The loss that a net's criterion stands for, on scores of classes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

#: Criteria that are cross-entropy, each of another output.
_KNOWN = (nn.CrossEntropyLoss, nn.NLLLoss, nn.BCEWithLogitsLoss)


def score_loss(net: Any) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Make the loss of scores (logits of all classes) that a net's criterion means.

    It takes labels, hard or soft, and weighs classes as the criterion does. Soft labels
    may have fewer columns than scores; what is left out has none of the probability.

    Raises
    ------
    ValueError
        If the criterion is none that can be put on scores.
    """
    criterion = net.criterion_
    kind = next((k for k in _KNOWN if isinstance(criterion, k)), None)
    if kind is None or type(criterion).forward is not kind.forward:
        names = ", ".join(f"torch.nn.{k.__name__}" for k in _KNOWN[:-1])
        raise ValueError(
            f"criterion of {type(net).__name__} must be {names} or "
            f"torch.nn.{_KNOWN[-1].__name__}: the loss is taken of scores of classes "
            "here. One of your own can be a subclass of CrossEntropyLoss, which takes "
            f"them, without predict_nonlinearity. Got {type(criterion).__name__}."
        )
    more = {"reduction": criterion.reduction}
    if kind is nn.CrossEntropyLoss:
        more["label_smoothing"] = criterion.label_smoothing

    def loss(scores: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        target = target.to(scores.device)
        if target.is_floating_point():
            target = F.pad(target, (0, scores.shape[1] - target.shape[1]))
        if kind is nn.BCEWithLogitsLoss:
            found = F.cross_entropy(
                scores, target, weight=_of_two(criterion, scores), reduction="none"
            )
            # whose mean takes no account of weights
            return found.sum() if criterion.reduction == "sum" else found.mean()
        weight = criterion.weight
        if weight is not None:
            weight = weight[: scores.shape[1]]
        return F.cross_entropy(scores, target, weight=weight, **more)

    return loss


def _of_two(criterion: Any, scores: torch.Tensor) -> torch.Tensor | None:
    if criterion.pos_weight is None:
        return None
    return scores.new_tensor([1.0, float(criterion.pos_weight)])
