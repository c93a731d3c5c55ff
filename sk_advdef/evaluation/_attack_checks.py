"""Checks that compare attacks with each other: figures in, finding out.

Counts are of rows, ``n`` is the number of rows attacked. A weaker attack that takes
rows which a stronger one left is a sign that the stronger one fails.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from sk_advdef.evaluation._diagnosis import Finding

#: Share of rows that chance lets a weaker attack take from a stronger one, and the
#: fewest rows that count.
MISSED, FEWEST_MISSED = 0.05, 3


def is_many(count: int, n: int, share: float = MISSED) -> bool:
    """Whether ``count`` of ``n`` rows are more than chance explains."""
    return count >= max(FEWEST_MISSED, share * n)


class _Weaker(NamedTuple):
    name: str
    how: str
    meaning: str
    what_to_do: str


_MASKED = (
    "The gradient leads astray: it is hidden, broken, or of another model than the one "
    "that answers. What gradient attacks leave is no measure of the defence."
)
#: Attacks that are weaker than 40 steps along the gradient, where it is any good.
WEAKER = {
    "noise": _Weaker(
        "noise_beats_gradient",
        "random noise of the same size",
        _MASKED,
        "Look for rounding, randomness and steps in the model, and for errors in the "
        "registered view.",
    ),
    "single step": _Weaker(
        "single_step_beats_iterative",
        "a single step (FGSM)",
        "Forty steps are worse than one: the loss is jagged around the rows, as "
        "training on single steps makes it (arXiv 1802.00420).",
        "Use more steps of smaller size, restarts and APGD, and attacks that only ask.",
    ),
    "queries": _Weaker(
        "queries_beat_gradient",
        "attacks that only ask (RandomSearch, HopSkipJump)",
        _MASKED,
        "Report the worst case over both kinds; give the model a gradient that leads "
        "somewhere (BPDA, EOT), and query attacks more queries.",
    ),
    "transfer": _Weaker(
        "transfer_beats_gradient",
        "rows made on another model",
        _MASKED,
        "Include Transfer in every evaluation, and repair the view.",
    ),
}


def weaker_attack(
    kind: str, missed: int, n: int, fell: int | None = None
) -> Finding | None:
    """Rows that fell to a weaker attack, and not to PGD with either loss.

    ``kind`` is a key of ``WEAKER``, ``fell`` how many rows PGD took. Where it took
    fewer than were left to the weaker one, these count however many rows hold.
    """
    more = fell is not None and missed >= FEWEST_MISSED and missed > fell
    if not (more or is_many(missed, n)):
        return None
    weaker = WEAKER[kind]
    return Finding(
        weaker.name,
        "severe",
        f"{missed} of {n} rows ({missed / n:.1%}) fell to {weaker.how} and not to 40 "
        "steps along the gradient.",
        weaker.meaning,
        weaker.what_to_do,
    )


#: Share of rows that the margin may take and the cross-entropy not. They aim at
#: different things: of a linear model they may differ in a tenth of the rows.
LOSS_GAP = 0.25


def cross_entropy_works(missed: int, n: int) -> Finding | None:
    """Rows that fell to PGD on the margin, and not to PGD on the cross-entropy."""
    if not is_many(missed, n, LOSS_GAP):
        return None
    return Finding(
        "cross_entropy_fails",
        "warning",
        f"{missed} of {n} rows ({missed / n:.1%}) fell to PGD on the margin and not to "
        "PGD on the cross-entropy.",
        "The cross-entropy's gradient is masked, mostly by saturated scores. Figures "
        "from it alone, as most papers have them, are too high.",
        'Report loss="margin" or APGD(loss="dlr-t"), never the cross-entropy alone.',
    )


def steps_suffice(gained: int, n: int, steps: int) -> Finding | None:
    """Rows that fell to ``steps`` steps and not to 40."""
    if not is_many(gained, n):
        return None
    return Finding(
        "more_steps_help",
        "warning",
        f"{gained} of {n} rows ({gained / n:.1%}) fell to {steps} steps and not to 40.",
        "The attack had not come to its end; neither may the longer one have.",
        "Double the steps until nothing changes, add restarts, use APGD.",
    )


#: Share of rows whose loss may still rise, and the part of the whole rise that in the
#: last tenth of the steps counts as rising.
RISING_ROWS, RISING_PART = 0.25, 0.05


def has_converged(rising: int, n: int) -> Finding | None:
    """Rows not fooled whose loss was still rising at the end of the attack."""
    if not is_many(rising, n, RISING_ROWS):
        return None
    return Finding(
        "incomplete_optimization",
        "note",
        f"In {rising} of {n} rows ({rising / n:.1%}) that were not fooled the last "
        f"tenth of the steps brought over {RISING_PART:.0%} of the whole rise.",
        "The attack stopped on its way up (arXiv 2106.09947).",
        "Use more steps or a larger step size, and see whether more rows fall.",
    )


def nothing_passed_by(passed: int, n: int) -> Finding | None:
    """Rows fooled on the way whose result is not adversarial (silent success)."""
    if not is_many(passed, n):
        return None
    return Finding(
        "silent_success",
        "warning",
        f"On the way to {passed} of {n} rows ({passed / n:.1%}) that count as held, "
        "predict was fooled.",
        "The attack went through adversarial points and returned another one, so that "
        "success does not show (arXiv 2106.09947).",
        "Ask predict at every step, and make the loss rank points as predict does.",
    )


def view_is_believed(failed: int, n: int) -> Finding | None:
    """Rows that the view takes for fooled and ``predict`` does not."""
    if not is_many(failed, n):
        return None
    return Finding(
        "fooled_in_view_only",
        "warning",
        f"{failed} of {n} rows ({failed / n:.1%}) are adversarial by the view's scores "
        "and not by predict.",
        "The attack ends on the view's boundary, which is not that of predict: "
        "rounding, randomness or a step that the view leaves out.",
        "Let the attack go on past the boundary (a confidence), and repair the view.",
    )


#: Rise of accuracy with eps that deserves a warning, and that is severe.
WEAKER_WARNING, WEAKER_SEVERE = 0.05, 0.2


def falls_with_eps(accuracy: Mapping[float, float], n: int) -> Finding | None:
    """Accuracy by size of the ball, in parts of eps, that rises with the ball."""
    sizes = sorted(accuracy)
    rises = [
        (accuracy[large] - accuracy[small], small, large)
        for i, small in enumerate(sizes)
        for large in sizes[i + 1 :]
    ]
    worst, small, large = max(rises)
    if not is_many(round(worst * n), n, WEAKER_WARNING):
        return None
    return Finding(
        "larger_eps_is_weaker",
        "severe" if worst >= WEAKER_SEVERE else "warning",
        f"Accuracy under PGD is {accuracy[small]:.1%} within {small:g} eps and "
        f"{accuracy[large]:.1%} within {large:g} eps.",
        "The larger ball holds all points of the smaller, so the attack fails in it.",
        "Use more steps and restarts, and take the worst case over smaller eps.",
    )


#: Share of right rows that may be left when all of the box is allowed.
LEFT_IN_BOX = 0.1


def falls_to_chance(left: int, n: int) -> Finding | None:
    """Rows that hold although the attacker may replace them altogether."""
    if not is_many(left, n, LEFT_IN_BOX):
        return None
    return Finding(
        "holds_at_any_eps",
        "severe",
        f"With eps as large as the box {left} of {n} rows ({left / n:.1%}) hold.",
        "Any row can be replaced by one of another class there, so only the attack's "
        "failure keeps them.",
        "Repair the attack before quoting a figure at a smaller eps.",
    )


def search_is_fair(
    attack: str, own: float, worst: float, *, gradient: bool
) -> Finding | None:
    """Find a search whose scorer attacked with one attack alone.

    ``own`` is the accuracy under that attack and ``worst`` under several.
    """
    masked = own - worst
    if not gradient and masked < LOSS_GAP:
        return None
    return Finding(
        "search_selected_masking" if masked >= LOSS_GAP else "search_by_one_attack",
        "severe" if masked >= LOSS_GAP else "warning",
        f"The search was scored by {attack} alone: {own:.1%} accuracy under it, "
        f"{worst:.1%} under the default attacks at the same eps.",
        "A search by one attack selects models that hide from it."
        + (" This one does." if masked >= LOSS_GAP else ""),
        "Search with make_robust_scorer(eps=...), the worst case over attacks.",
    )
