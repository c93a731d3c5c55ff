"""Weights of a net in training: kept, averaged, and moved for a while."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from sk_advdef._torch._copies import copied


def tensors(module: nn.Module) -> list[torch.Tensor]:
    """Return all weights and buffers themselves."""
    return [t.detach() for t in (*module.parameters(), *module.buffers())]


def kept(module: nn.Module) -> list[torch.Tensor]:
    """Copy all weights and buffers."""
    return [t.clone() for t in tensors(module)]


def restore(module: nn.Module, values: Iterable[torch.Tensor]) -> None:
    """Write weights and buffers back, in place."""
    for tensor, value in zip(tensors(module), values, strict=True):
        tensor.copy_(value)


@contextmanager
def swapped(module: nn.Module, values: list[torch.Tensor] | None) -> Iterator[None]:
    """Let a module have other weights for a while; None changes nothing."""
    if values is None:
        yield
        return
    own = kept(module)
    restore(module, values)
    try:
        yield
    finally:
        restore(module, own)


class Average:
    """Mean of weights over training.

    "ema": exponential, an update a batch, shorter at first. "swa": the plain mean of
    the weights at the ends of epochs.
    """

    def __init__(self, kind: str, decay: float) -> None:
        self.kind, self.decay = kind, decay
        self.count = 0
        self.values: list[torch.Tensor] | None = None

    def update(self, module: nn.Module) -> None:
        """Take the weights of this moment in."""
        now = tensors(module)
        self.count += 1
        if self.values is None:
            self.values = [t.clone() for t in now]
            return
        share = 1 / self.count
        if self.kind == "ema":
            share = max(1 - self.decay, 9 / (9 + self.count))
        for mean, value in zip(self.values, now, strict=True):
            if mean.is_floating_point():
                mean.lerp_(value, share)
            else:
                mean.copy_(value)


def has_batch_norm(module: nn.Module) -> bool:
    """Whether a module learns statistics of what goes through it."""
    return any(_learns(m) for m in module.modules())


def _learns(module: nn.Module) -> bool:
    return isinstance(module, _BatchNorm) and module.running_mean is not None


def relearn_statistics(
    module: nn.Module, batches: Iterable[Any], forward: Callable[[Any], Any]
) -> None:
    """Let BatchNorm see batches with the weights as they are, and average over them."""
    layers: list[Any] = [m for m in module.modules() if _learns(m)]
    momenta = [m.momentum for m in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # torch's word for the plain mean
    was = module.training
    module.train()
    for batch in batches:  # which are attacked, and need gradients for that
        with torch.no_grad():
            forward(batch)
    module.train(was)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum


@contextmanager
def moved(weights: list[Any], changes: list[torch.Tensor]) -> Iterator[None]:
    """Add to weights for a while."""
    own = [w.detach().clone() for w in weights]
    with torch.no_grad():
        for weight, change in zip(weights, changes, strict=True):
            weight.add_(change)
    try:
        yield
    finally:
        with torch.no_grad():
            for weight, value in zip(weights, own, strict=True):
                weight.copy_(value)


def twin_of(net: Any) -> Any:
    """Copy a net in training, with weights of its own, to be looked at only."""
    twin = copy.copy(net)
    vars(twin)["module_"] = copied(net.module_)
    return twin
