"""Copies of modules."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn


def copied(module: nn.Module, instead: Mapping[int, Any] | None = None) -> Any:
    """Return a deep copy of a module.

    ``instead`` holds, by ``id``, what stands in the copy for a part of the module, such
    as a tensor for itself, which is then shared.
    """
    memo = dict(instead or {})
    for part in module.modules():
        for value in vars(part).values():
            # computed anew at each call, as by the older weight_norm; torch copies none
            if torch.is_tensor(value) and value.grad_fn is not None:
                memo.setdefault(id(value), value.detach())
    return copy.deepcopy(module, memo)
