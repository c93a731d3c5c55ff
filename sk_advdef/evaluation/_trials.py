"""What an evaluation runs: the default attacks, and rows block by block."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import numpy as np
from sklearn.utils import _safe_indexing
from sklearn.utils.parallel import Parallel, delayed

from sk_advdef._progress import progress
from sk_advdef._torch._models import (
    genuine_classes_of,
    has_scores,
    predict,
    rejection_of,
    sampling_detector,
    torch_generators_kept,
    unfrozen,
)
from sk_advdef._torch._registry import (
    has_view,
    missing_view,
    register_views,
    views_registered,
)
from sk_advdef.attacks._apgd import APGD
from sk_advdef.attacks._base import Attack
from sk_advdef.attacks._geometry import lengths
from sk_advdef.attacks._hop_skip_jump import HopSkipJump
from sk_advdef.attacks._noise import Noise
from sk_advdef.attacks._pgd import PGD
from sk_advdef.attacks._random_search import RandomSearch
from sk_advdef.attacks._table import Table
from sk_advdef.attacks._tree_exact import TreeExact
from sk_advdef.attacks._trees import ends_in_trees, is_trees

#: Rows that are attacked together; a fixed number, so that results do not depend on
#: how many processes share the work.
ROWS_AT_A_TIME = 256


class Trial(NamedTuple):
    """An attack to run: on which model, and what its attacker knows."""

    name: str
    knows: str
    attack: Attack
    model: Any


class Found(NamedTuple):
    """What became of the rows of one block under one trial."""

    held: np.ndarray
    distortion: np.ndarray
    n_queries: np.ndarray
    seconds: float
    certified: np.ndarray | None = None


def names(attacks: list[Attack]) -> list[str]:
    """Name attacks by their classes, with a number where a class comes again."""
    kinds = [type(attack).__name__ for attack in attacks]
    again = [kinds[:i].count(kind) + 1 for i, kind in enumerate(kinds)]
    return [k if n == 1 else f"{k} {n}" for k, n in zip(kinds, again, strict=True)]


def default_trials(
    estimator: Any,
    eps: Any,
    common: dict[str, Any],
    baseline: Any,
    not_tried: list[str],
) -> list[Trial]:
    """Return what is run where nothing was asked for; tell what cannot be."""
    trials = [Trial("noise", "nothing", Noise(eps, **common), estimator)]
    baseline = undefended(estimator) if baseline is None else baseline
    if baseline is None:
        not_tried.append("rows made on an undefended model (pass baseline=).")
    elif not has_view(baseline):
        not_tried.append(
            f"rows made on the baseline: {type(missing_view(baseline)).__name__} has "
            "no differentiable view."
        )
    else:
        trials += [
            Trial(
                f"transfer ({loss})",
                "the undefended model",
                PGD(eps, loss=loss, early_stop=False, **common),
                baseline,
            )
            for loss in ("ce", "margin")
        ]
    if has_view(estimator):
        trials += [
            Trial(f"PGD ({loss})", "all", PGD(eps, loss=loss, **common), estimator)
            for loss in ("ce", "margin")
        ]
        if rejection_of(estimator) is None:
            trials += [
                Trial(
                    f"APGD ({loss})", "all", APGD(eps, loss=loss, **common), estimator
                )
                for loss in ("ce", "dlr")
            ]
        else:
            not_tried.append(
                "APGD: it is not run on what rejects unless it is given as an attack."
            )
        if sampling_detector(estimator) is not None:
            other = PGD(eps, loss="margin", masks="fresh", **common)
            trials.append(Trial("PGD, fresh masks", "all but masks", other, estimator))
    else:
        name = type(missing_view(estimator)).__name__
        not_tried.append(
            f"gradient attacks: {name} has no differentiable view "
            "(as_module.register adds one)."
        )
    rejects = rejection_of(estimator)
    if has_scores(estimator if rejects is None else rejects[0]):
        trials.append(
            Trial("RandomSearch", "scores", RandomSearch(eps, **common), estimator)
        )
    else:
        not_tried.append("RandomSearch: the estimator gives no scores.")
    exactly = is_trees(estimator)
    if trials[-1].knows != "scores" or not (exactly or has_view(estimator)):
        # also where there are scores: they may be flat
        asking = HopSkipJump(eps=eps, norm="linf", max_queries=1000, **common)
        trials.append(Trial("HopSkipJump", "labels", asking, estimator))
    if not (exactly or has_view(estimator)):
        not_tried.append("rows made on a copy that learns its answers (Transfer).")
    if exactly:
        exact = TreeExact(eps, bounds=common["bounds"], space=common["space"])
        trials.append(Trial("TreeExact", "all", exact, estimator))
    elif ends_in_trees(estimator):
        not_tried.append(
            "the exact answer of TreeExact, which does not see through the steps "
            "before these trees, or not all of their splits."
        )
    not_tried.append("other norms, larger budgets, and attacks yet to be found.")
    return trials


def undefended(estimator: Any) -> Any:
    """Find the undefended model inside a defence, where there is one."""
    rejects = rejection_of(estimator)
    if rejects is not None:
        return rejects[0]
    return getattr(unfrozen(estimator), "teacher_", None)


def run_trials(
    estimator: Any,
    X: Any,
    y: np.ndarray,
    right: np.ndarray,
    blocks: list[np.ndarray],
    trials: list[Trial],
    n_jobs: int | None,
    start: float,
    time_budget: float | None,
    verbose: int,
) -> tuple[dict[int, list[Found]], np.ndarray]:
    """Run every trial on every block, until the time is up."""
    deadline = (
        np.inf
        if time_budget is None
        else time.time() + time_budget - (time.perf_counter() - start)
    )
    tasks = (
        delayed(_attack_block)(
            estimator,
            trials,
            _safe_indexing(X, rows),
            y[rows],
            right[rows],
            deadline if number else np.inf,
            views_registered(),
        )
        for number, rows in enumerate(blocks)
    )
    results = Parallel(n_jobs=n_jobs, return_as="generator")(tasks)
    bar = progress(
        "evaluate_robustness",
        verbose,
        results,
        total=len(blocks),
        desc="rows",
        unit_scale=ROWS_AT_A_TIME,
    )
    found = {i: part for i, part in enumerate(bar) if part is not None}
    evaluated = np.zeros(len(y), dtype=bool)
    for number in found:
        evaluated[blocks[number]] = True
    return found, evaluated


def _attack_block(
    estimator: Any,
    trials: list[Trial],
    X: Any,
    y: np.ndarray,
    right: np.ndarray,
    deadline: float,
    views: dict[type, Any],
) -> list[Found] | None:
    """Run every trial on one block of rows; None if it came too late."""
    if time.time() > deadline:
        return None
    register_views(views)  # which another process does not know
    return [_attack_rows(estimator, trial, X, y, right) for trial in trials]


def _attack_rows(
    estimator: Any, trial: Trial, X: Any, y: np.ndarray, right: np.ndarray
) -> Found:
    start = time.perf_counter()
    rows = np.flatnonzero(right)
    held = right.copy()
    distortion, queries = np.full(len(y), np.nan), np.zeros(len(y), dtype=np.int64)
    if len(rows):
        part = _safe_indexing(X, rows)
        result = trial.attack.run(trial.model, part, y[rows])
        fooled, lengths_of = result.fooled, result.distortion
        if trial.model is not estimator:
            made, lengths_of = _carried_over(trial, part, y[rows], result)
            with torch_generators_kept():
                answers = predict(estimator, made)
            fooled = (answers != y[rows]) & np.isin(
                answers, genuine_classes_of(estimator)
            )
        held[rows] = ~fooled
        distortion[rows[fooled]] = lengths_of[fooled]
        queries[rows] = result.n_queries
        certified = getattr(result, "certified", None)
    seconds = time.perf_counter() - start
    if isinstance(trial.attack, TreeExact):
        proved = np.zeros(len(y), dtype=bool)
        proved[rows] = certified if len(rows) else False
        return Found(held, distortion, queries, seconds, proved)
    return Found(held, distortion, queries, seconds)


def _carried_over(
    trial: Trial, X: Any, y: np.ndarray, result: Any
) -> tuple[Any, np.ndarray]:
    """Return rows made on another model, and how far each was changed.

    Those that the other model answers wrong are left as they are by ``run``.
    """
    with torch_generators_kept():
        wrong = np.flatnonzero(predict(trial.model, X) != y)
    if not len(wrong):
        return result.X_adv, result.distortion
    part = _safe_indexing(X, wrong)
    table = Table(result.X_adv)
    made = trial.attack.rows_to_train_on(trial.model, part, y[wrong])
    values, moved = table.values.copy(), Table(made).values
    values[wrong] = moved
    changes = moved.astype(np.float64) - Table(part).values
    distortion = result.distortion.copy()
    distortion[wrong] = lengths(changes, trial.attack.norm)
    return table.restore(values), distortion
