"""One attack or several, as users give them."""

from __future__ import annotations

from typing import Any

from sk_advdef._validation import invalid
from sk_advdef.attacks._base import Attack, Problem
from sk_advdef.attacks._table import Table


def attacks_in(value: Any) -> list[Any]:
    """Return what a list or tuple holds, or the one thing that was given, as a list."""
    return list(value) if isinstance(value, (list, tuple)) else [value]


def attacks_of(owner: Any) -> list[Attack] | None:
    """Return the checked ``attack`` of an estimator as a list, None where it is None.

    A list must not be empty.
    """
    if owner.attack is None:
        return None
    attacks = attacks_in(owner.attack)
    if not attacks or not all(isinstance(one, Attack) for one in attacks):
        allowed = "an attack of this package, a list of them, not empty, or None"
        raise invalid(owner, "attack", allowed, owner.attack)
    return attacks


def never_moved(attacks: list[Any], estimator: Any, X: Any, y: Any) -> list[Any]:
    """Return whole-number columns that may move, and that no attack can move by 1."""
    spaces = any(getattr(attack, "space", None) is not None for attack in attacks)
    if not (spaces or Table(X, keep_text=True, copy=False).whole.any()):
        return []
    stiff: list[Any] | None = None
    for attack in attacks:
        brought = getattr(getattr(attack, "space", None), "eps", None)
        if getattr(attack, "eps", None) is None and brought is None:
            return []  # no ball keeps anything in place
        found = Problem(attack, estimator, X, y).never_moved()
        stiff = found if stiff is None else [name for name in stiff if name in found]
    return stiff or []
