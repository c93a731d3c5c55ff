"""Attacks with a part of their reach."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from sklearn.base import clone

from sk_advdef.attacks._base import Attack


def scaled(attack: Attack, part: float) -> Attack:
    """Return an attack with ``part`` of its reach."""
    if part == 1:
        return attack
    attack = clone(attack)
    params = attack.get_params(deep=False)
    for name in ("eps", "step_size"):
        if params.get(name) is not None:
            attack.set_params(**{name: np.multiply(params[name], part)[()]})
    space = params.get("space")
    if space is not None and space.eps is not None:
        attack.set_params(space=replace(space, eps=_times(space.eps, part)))
    return attack


def _times(eps: Any, part: float) -> Any:
    if isinstance(eps, Mapping):
        return {name: value * part for name, value in eps.items()}
    return np.multiply(eps, part).tolist()
