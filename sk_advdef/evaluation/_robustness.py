"""One call that attacks a fitted estimator in every way there is."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from sklearn.utils import _safe_indexing, check_consistent_length, column_or_1d

from sk_advdef._torch._models import (
    genuine_classes_of,
    last_step,
    predict,
    rejection_of,
    torch_generators_kept,
)
from sk_advdef._torch._registry import has_view
from sk_advdef._validation import (
    check_model,
    check_n_jobs,
    check_number,
    seed_from,
    shortened,
)
from sk_advdef.attacks._base import Attack
from sk_advdef.attacks._ddn import DDN
from sk_advdef.attacks._pgd import PGD
from sk_advdef.attacks._random_search import RandomSearch
from sk_advdef.attacks._scaled import scaled
from sk_advdef.attacks._several import never_moved
from sk_advdef.attacks._table import as_rows, text_columns
from sk_advdef.evaluation import _trials
from sk_advdef.evaluation._certified import certified_rows
from sk_advdef.evaluation._detection import detection_figures, rejection_robust_error
from sk_advdef.evaluation._intervals import wilson
from sk_advdef.evaluation._report import (
    AttackFigures,
    RobustnessReport,
)
from sk_advdef.evaluation._scores import (
    check_labels,
    check_threat,
    chosen,
    with_int_seed,
)
from sk_advdef.evaluation._trials import Found, Trial


def evaluate_robustness(
    estimator: Any,
    X: Any,
    y: Any,
    *,
    eps: Any = None,
    bounds: Any = (0.0, 1.0),
    attacks: Any = None,
    space: Any = None,
    baseline: Any = None,
    random_state: Any = None,
    n_jobs: int | None = None,
    time_budget: float | None = None,
    verbose: int = 0,
) -> RobustnessReport:
    """Attack a fitted estimator by everything at hand, and report.

    By default: noise of the same size; rows made on an undefended baseline; PGD, and
    APGD where nothing is rejected, through the whole estimator where it has a
    differentiable view, and where it rejects by dropout, PGD through fresh masks too;
    RandomSearch where there are scores, and HopSkipJump where there are none, or no
    view; and TreeExact for trees. Every attack is run on every row that is right, and
    the worst case is taken row by row. What a CertifiedClassifier can prove of the rows
    is reported beside it. Of a fitted search the estimator that it has chosen is
    attacked.

    Parameters
    ----------
    estimator : estimator
        A fitted classifier, alone, in a Pipeline, frozen, or a RejectingClassifier.
    X : array-like or DataFrame of shape (n_samples, n_features), or stacked images
        Rows inside ``bounds``, which neither the model nor a threshold has seen.
    y : array-like of shape (n_samples,)
        True labels.
    eps : float, array of floats or None, default=None
        Radius (Linf) in units of ``X``; required unless ``attacks`` or ``space`` brings
        one.
    bounds : tuple (low, high) or None, default=(0.0, 1.0)
        Box that attacked rows stay in.
    attacks : attack, list of attacks, dict of str to attack, or None, default=None
        What to run in the place of the default.
    space : FeatureSpace or None, default=None
        What may be changed in tabular data, for the default attacks.
    baseline : classifier or None, default=None
        A fitted undefended model, for the attacker who ignores the defence. None takes
        the model inside a RejectingClassifier or the teacher of a DistilledClassifier.
    random_state : int, RandomState instance or None, default=None
        Seeds the default attacks.
    n_jobs : int or None, default=None
        Processes that share blocks of 256 rows.
    time_budget : float or None, default=None
        Seconds after which no further block of rows is begun; rows cut off are "not
        evaluated" and count neither as held nor as lost. The first block and the
        figures of rejection on the rows evaluated are always made. None is no limit.
    verbose : int, default=0
        1 shows a progress bar.

    Returns
    -------
    report : RobustnessReport
        Figures by attack, the worst case per row, and what was not tried.

    Raises
    ------
    ValueError
        If neither or both of ``attacks`` and ``eps`` are given, or ``attacks`` and
        ``baseline``, if an attack does not aim at wrong answers, or if the estimator
        knows none of the labels ``y``.

    See Also
    --------
    robust_accuracy_score : The worst case alone, faster.
    diagnose_defense : Signs that an evaluation is not to be trusted.

    Notes
    -----
    The figure is an upper bound: an attack that was not run may do better.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sk_advdef import evaluate_robustness
    >>> X, y = load_iris(return_X_y=True)
    >>> model = LogisticRegression(max_iter=1000).fit(X, y)
    >>> report = evaluate_robustness(
    ...     model, X, y, eps=0.3, bounds=None, random_state=0
    ... )
    >>> [line.attack for line in report.attacks][:3]
    ['clean', 'noise', 'PGD (ce)']
    """
    check_model("evaluate_robustness", estimator)
    estimator = chosen(estimator)
    X, y = as_rows(X), column_or_1d(y)
    check_consistent_length(X, y)
    names = list(map(str, attacks)) if isinstance(attacks, dict) else None
    given = attacks if names is None else list(attacks.values())
    listed = check_threat(given, eps, space, name="attacks")
    if listed is not None and baseline is not None:
        raise ValueError(
            "Both attacks and baseline are given, and a baseline is for the default "
            "attacks. Leave one of them out."
        )
    if time_budget is not None:
        check_number(
            "evaluate_robustness",
            "time_budget",
            time_budget,
            low=0,
            closed="neither",
            otherwise=" or None",
        )
    check_n_jobs("evaluate_robustness", n_jobs)
    start = time.perf_counter()
    not_tried: list[str] = []
    if listed is None:
        seed = seed_from(random_state)
        threat = {"norm": "linf", "eps": eps, "bounds": bounds}
        if space is not None:
            brought = ("eps", "bounds")
            threat = {
                k: v
                for k, v in threat.items()
                if k not in brought or (getattr(space, k) is None)
            }
            threat["space"] = shortened(repr(space))
        common = {"bounds": bounds, "random_state": seed, "space": space}
        trials = _trials.default_trials(estimator, eps, common, baseline, not_tried)
        threat["random_state"] = random_state
    else:
        listed = [with_int_seed(attack) for attack in listed]
        trials = [
            Trial(name, attack._knows, attack, estimator)
            for name, attack in zip(names or _trials.names(listed), listed, strict=True)
        ]
        threat = {"attacks": "as given"}
        not_tried.append("anything but the attacks given.")
    if hasattr(X, "columns") and (kept := text_columns(X)):
        not_tried.append(f"changes of the columns {kept}, which are not numeric.")
    with torch_generators_kept():
        answers = predict(estimator, X)
    check_labels("evaluate_robustness", estimator, y)
    if stiff := never_moved([trial.attack for trial in trials], estimator, X, y):
        not_tried.append(
            f"changes of the columns {shortened(repr(stiff))}: they hold whole "
            "numbers, which an eps below 1 never moves. Give them an eps of 1 or more "
            "in a FeatureSpace."
        )
    right = answers == y
    blocks = np.array_split(
        np.arange(len(y)), max(1, -(-len(y) // _trials.ROWS_AT_A_TIME))
    )
    found, evaluated = _trials.run_trials(
        estimator, X, y, right, blocks, trials, n_jobs, start, time_budget, verbose
    )
    lines = [_clean_line(right[evaluated])]
    held = right & evaluated
    for number, trial in enumerate(trials):
        parts = [found[block][number] for block in sorted(found)]
        lines.append(_line(trial, parts))
        for block, results in found.items():
            held[blocks[block]] &= results[number].held
    certified, certified_by = _certified(found), "TreeExact"
    if listed is None and space is None and hasattr(last_step(estimator), "certify"):
        rows = np.flatnonzero(evaluated)
        part = _safe_indexing(X, rows), y[rows]
        certified = _bounded(estimator, *part, eps, bounds, not_tried)
        certified_by = "interval bounds"
    report = RobustnessReport(
        attacks=lines,
        held=held,
        evaluated=evaluated,
        threat={**threat, "rows": int(evaluated.sum())},
        not_tried=not_tried,
        certified=certified,
        certified_by=certified_by,
    )
    if rejection_of(estimator) is not None:
        rows = np.flatnonzero(evaluated)
        part = _safe_indexing(X, rows), y[rows]
        attacks_known = [t.attack for t in trials if t.model is estimator]
        reach = {"bounds": bounds, "space": space}
        if listed is not None:
            reach = {name: getattr(listed[0], name, None) for name in reach}
        given = estimator, *part, answers[rows], eps, reach, attacks_known
        report.rejection.update(_rejection(*given, random_state))
        if listed is None:
            given = estimator, *part, eps, reach
            report.detection.update(detection_figures(*given, random_state))
            if not report.detection:
                not_tried.append(
                    "telling attacked rows from genuine ones: the model inside has no "
                    "differentiable view, or too few attacks on it alone succeeded."
                )
    return report


def _certified(found: dict[int, list[Found]]) -> float | None:
    """Share of rows that all exact attacks have certified; None where none was run."""
    by_block = [
        [result.certified for result in results if result.certified is not None]
        for results in found.values()
    ]
    proved = [np.all(of_attacks, axis=0) for of_attacks in by_block if of_attacks]
    return float(np.concatenate(proved).mean()) if proved else None


def _bounded(
    estimator: Any, X: Any, y: Any, eps: Any, bounds: Any, not_tried: list[str]
) -> float | None:
    """Share of rows certified by interval bounds; None where there are no bounds."""
    from sk_advdef._torch._interval import NoBoundsError

    try:
        return float(certified_rows(estimator, X, y, eps, bounds=bounds).mean())
    except NoBoundsError as error:
        not_tried.append(f"a certificate: {error}")
        return None


def _clean_line(right: np.ndarray) -> AttackFigures:
    share = float(right.mean())
    return AttackFigures(
        "clean", "", share, *wilson(share, len(right)), len(right), np.nan, 0.0, 0.0
    )


def _line(trial: Trial, parts: list[Found]) -> AttackFigures:
    held = np.concatenate([part.held for part in parts])
    changes = np.concatenate([part.distortion for part in parts])
    queries = np.concatenate([part.n_queries for part in parts])
    share = float(held.mean())
    asked = queries[queries > 0]
    return AttackFigures(
        trial.name,
        trial.knows,
        share,
        *wilson(share, len(held)),
        len(held),
        float(np.nanmedian(changes)) if np.isfinite(changes).any() else np.nan,
        float(asked.mean()) if len(asked) else 0.0,
        float(sum(part.seconds for part in parts)),
        repr(trial.attack),
    )


def _rejection(
    estimator: Any,
    X: Any,
    y: np.ndarray,
    answers: np.ndarray,
    eps: Any,
    reach: dict[str, Any],
    attacks: list[Attack],
    random_state: Any,
) -> dict[str, Any]:
    """Tell what rejection costs and what it is worth."""
    rejected = ~np.isin(answers, genuine_classes_of(estimator))
    figures: dict[str, Any] = {
        "genuine rows rejected": float(rejected.mean()),
        "lost at clean rejection of": rejection_robust_error(
            estimator, X, y, attack=attacks
        ),
    }
    rows = np.flatnonzero(answers == y)
    if (eps is not None or reach["space"] is not None) and len(rows):
        kind = PGD if has_view(estimator) else RandomSearch
        whole = kind(eps, goal="reject", random_state=random_state, **reach)
        pushed = {}
        left = rows
        for share in (0.25, 0.5, 1.0):
            attack = scaled(whole, share)
            if len(left):
                result = attack.run(estimator, _safe_indexing(X, left), y[left])
                left = left[~result.fooled]
            pushed[f"{share:g} eps"] = 1 - len(left) / len(rows)
        figures["right rows that can be pushed into rejection within"] = pushed
    if has_view(estimator) and len(rows):
        attack = DDN(goal="reject", **reach)
        result = attack.run(estimator, _safe_indexing(X, rows), y[rows])
        smallest = np.where(result.fooled, result.distortion, np.inf)
        figures["smallest change (L2) that gets a right row rejected"] = {
            f"{share:.0%} of rows": float(np.quantile(smallest, share, method="higher"))
            for share in (0.1, 0.5)
        }
    return figures
