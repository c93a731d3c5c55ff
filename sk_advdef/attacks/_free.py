"""The same problem with the box alone for a limit."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np

from sk_advdef.attacks._base import Problem
from sk_advdef.attacks._geometry import check_bounds, limits


def without_ball(problem: Problem) -> Problem:
    """Return a copy in which rows may go as far as box and space allow."""
    free = copy.copy(problem)
    free.eps = np.asarray(np.inf)
    # each feature by itself, so that no length is taken in vain
    free.norm = "linf"
    space = getattr(problem.attack, "space", None)
    box = None
    if space is None or space.bounds is None:
        box = check_bounds(problem.attack, problem.attack.bounds, problem.X)
    if space is None:
        assert box is not None
        free.lower, free.upper = limits(problem.X, free.eps, *problem.table.held(*box))
    else:
        from sk_advdef.attacks._space_rules import Rules

        wide = dataclasses.replace(space, eps=None)
        free.rules = Rules(wide, problem.table, box=box, norm=free.norm)
        free.lower, free.upper = free.rules.lower, free.rules.upper
    return free
