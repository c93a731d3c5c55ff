"""Each check by itself, on both sides of its threshold."""

import pytest

from sk_advdef.evaluation import _attack_checks as compare
from sk_advdef.evaluation import _checks as checks

FLAGGED = {
    "outputs_change": [
        (checks.repeats, (0.01, 0.5), "severe"),
        (checks.repeats, (0.0, 0.5), "warning"),
    ],
    "depends_on_batch": [(checks.ignores_company, (0.01,), "severe")],
    "depends_on_masks": [(checks.ignores_masks, (0.06,), "warning")],
    "view_disagrees": [
        (checks.view_agrees, (0.03, 0.0), "severe"),
        (checks.view_agrees, (0.0, 0.03), "severe"),
    ],
    "zero_gradient": [
        (checks.gradient_flows, (0.1, 0.0), "severe"),
        (checks.gradient_flows, (0.0, 0.1), "severe"),
    ],
    "vanishing_cross_entropy": [(checks.cross_entropy_flows, (0.2, 0.1), "warning")],
    "saturated_scores": [
        (checks.is_unsaturated, (0.1,), "note"),
        (checks.is_unsaturated, (0.5,), "warning"),
    ],
    "probabilities_as_scores": [(checks.are_logits, (True,), "warning")],
    "useless_when_clean": [(checks.beats_constant, (0.1, 0.1), "warning")],
    "few_rows": [(checks.has_rows, (29,), "note")],
    "rejects_genuine": [
        (checks.accepts_genuine, (0.21,), "warning"),
        (checks.accepts_genuine, (0.51,), "severe"),
    ],
    "rejects_noise": [
        (checks.accepts_noisy, (0.21, 0.25), "warning"),
        (checks.accepts_noisy, (0.51, 0.25), "severe"),
    ],
    "flags_near_rows_only": [(checks.flags_far_rows, (0.21, 0.5), "severe")],
    "cross_entropy_fails": [(compare.cross_entropy_works, (50, 200), "warning")],
    "more_steps_help": [(compare.steps_suffice, (10, 200, 400), "warning")],
    "incomplete_optimization": [(compare.has_converged, (50, 200), "note")],
    "silent_success": [(compare.nothing_passed_by, (10, 200), "warning")],
    "fooled_in_view_only": [(compare.view_is_believed, (10, 200), "warning")],
    "larger_eps_is_weaker": [
        (compare.falls_with_eps, ({0.5: 0.5, 1.0: 0.4, 2.0: 0.46}, 200), "warning"),
        (compare.falls_with_eps, ({2.0: 0.9, 0.5: 0.6, 1.0: 0.4}, 200), "severe"),
    ],
    "holds_at_any_eps": [(compare.falls_to_chance, (20, 200), "severe")],
    "noise_beats_gradient": [(compare.weaker_attack, ("noise", 10, 200), "severe")],
    "single_step_beats_iterative": [
        (compare.weaker_attack, ("single step", 10, 200), "severe")
    ],
    "queries_beat_gradient": [
        (compare.weaker_attack, ("queries", 3, 20), "severe"),
        (compare.weaker_attack, ("queries", 4, 200, 3), "severe"),
    ],
    "transfer_beats_gradient": [
        (compare.weaker_attack, ("transfer", 10, 200), "severe")
    ],
}
FINE = [
    (checks.repeats, (0.005, 0.0)),
    (checks.ignores_company, (0.005,)),
    (checks.ignores_masks, (0.05,)),
    (checks.view_agrees, (0.02, 0.02)),
    (checks.gradient_flows, (0.05, 0.04)),
    (checks.cross_entropy_flows, (0.5, 0.45)),
    (checks.is_unsaturated, (0.09,)),
    (checks.are_logits, (False,)),
    (checks.beats_constant, (0.11, 0.1)),
    (checks.has_rows, (30,)),
    (checks.accepts_genuine, (0.2,)),
    (checks.accepts_noisy, (0.2, 0.25)),
    (checks.flags_far_rows, (0.1, 1.0)),
    (checks.flags_far_rows, (1.0, 0.4)),
    (compare.cross_entropy_works, (49, 200)),
    (compare.steps_suffice, (9, 200, 400)),
    (compare.has_converged, (49, 200)),
    (compare.nothing_passed_by, (2, 20)),
    (compare.view_is_believed, (9, 200)),
    (compare.falls_with_eps, ({0.5: 0.5, 1.0: 0.4, 2.0: 0.44}, 200)),
    (compare.falls_to_chance, (19, 200)),
    (compare.weaker_attack, ("queries", 2, 20)),
    (compare.weaker_attack, ("queries", 4, 200, 4)),
    (compare.weaker_attack, ("queries", 2, 200, 0)),
]


@pytest.mark.parametrize(
    ("name", "check", "figures", "severity"),
    [(name, *case) for name, cases in FLAGGED.items() for case in cases],
)
def test_flagged(name, check, figures, severity):
    found = check(*figures)
    assert (found.name, found.severity) == (name, severity)
    assert found.evidence and found.meaning and found.what_to_do
    assert "robust" not in f"{found.evidence} {found.meaning}"


@pytest.mark.parametrize(("check", "figures"), FINE)
def test_fine(check, figures):
    assert check(*figures) is None


def test_no_gradient():
    assert checks.has_gradient("", trees=False) is None
    assert checks.has_gradient("none", trees=True).severity == "note"
    assert checks.has_gradient("none", trees=False).severity == "warning"


def test_search():
    masked = compare.search_is_fair("PGD", 0.6, 0.3, gradient=True)
    assert (masked.name, masked.severity) == ("search_selected_masking", "severe")
    alone = compare.search_is_fair("PGD", 0.6, 0.5, gradient=True)
    assert (alone.name, alone.severity) == ("search_by_one_attack", "warning")
    assert compare.search_is_fair("search", 0.6, 0.5, gradient=False) is None
