"""The field's checklists as code: is a figure under attack to be trusted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.utils import _safe_indexing, check_consistent_length, column_or_1d

from sk_advdef._progress import progress
from sk_advdef._torch._models import (
    has_scores,
    last_step,
    torch_generators_kept,
    with_gradients,
)
from sk_advdef._torch._registry import has_view
from sk_advdef._validation import check_number, seed_from
from sk_advdef.attacks._base import Attack
from sk_advdef.attacks._fgsm import FGSM
from sk_advdef.attacks._hop_skip_jump import HopSkipJump
from sk_advdef.attacks._noise import Noise
from sk_advdef.attacks._pgd import PGD, GradientAttack
from sk_advdef.attacks._random_search import RandomSearch
from sk_advdef.attacks._table import as_rows
from sk_advdef.attacks._transfer import Transfer
from sk_advdef.attacks._trees import is_trees
from sk_advdef.evaluation import _attack_checks as compare
from sk_advdef.evaluation import _checks as checks
from sk_advdef.evaluation import _measure as measure
from sk_advdef.evaluation._diagnosis import SEVERITIES, Diagnosis, Finding
from sk_advdef.evaluation._scores import RobustScorer, as_attacks, chosen

#: Steps of the attack that shows whether 40 were enough.
LONG = 200
#: Queries a row of attacks that ask for scores, and for labels.
QUERIES, LABEL_QUERIES = 500, 1000
#: Rows that attacks on labels alone, and on detectors, are run on at most.
LABEL_ROWS, REJECTING_ROWS = 25, 50
#: Size, in parts of eps, of the noise that genuine rows must bear.
NOISE_PART = 0.25


@with_gradients
def diagnose_defense(
    estimator: Any,
    X: Any,
    y: Any,
    *,
    eps: Any,
    bounds: Any = (0.0, 1.0),
    random_state: Any = None,
    n_rows: int = 200,
    search: Any = None,
    verbose: int = 0,
) -> Diagnosis:
    """Look for signs that attacks fail without the defence being any good.

    Accuracy under attack is an upper bound, and most published bounds fell because an
    attack had failed for reasons of its own. This runs the checklists of the field
    ([1]_, [2]_, [3]_) and says of each sign found what was measured, what it means and
    what to do.

    Parameters
    ----------
    estimator : estimator
        A fitted classifier, alone, in a Pipeline, frozen, or a RejectingClassifier; or
        a fitted search, which also stands for ``search``.
    X : array-like or DataFrame of shape (n_samples, n_features), or stacked images
        Rows inside ``bounds``, which neither the model nor a threshold has seen.
    y : array-like of shape (n_samples,)
        True labels.
    eps : float or array of floats
        Radius (Linf) that the defence is evaluated at, in units of ``X``.
    bounds : tuple (low, high) or None, default=(0.0, 1.0)
        Box that attacked rows stay in.
    random_state : int, RandomState instance or None, default=None
        Seeds the choice of rows and the attacks.
    n_rows : int, default=200
        Number of rows to use at most, drawn at random, at least 1. Estimators that
        reject are attacked on the first 50 right ones of them.
    search : GridSearchCV or another fitted search, or None, default=None
        The search that chose the estimator. If its scorer was
        :func:`make_robust_scorer` with one attack alone, the chosen model is attacked
        otherwise, to see whether the search selected masking.
    verbose : int, default=0
        1 shows a progress bar.

    Returns
    -------
    diagnosis : Diagnosis
        ``findings``, the worst first; ``ok`` if none is worse than a note.

    Raises
    ------
    TypeError
        If the estimator is no classifier.

    See Also
    --------
    evaluate_robustness : The figures themselves.
    attack_strength_test : Whether an attack finds what is there to be found.

    Notes
    -----
    Checked are: outputs that change between calls, with the company in a batch, or with
    redrawn masks; a view that is missing or disagrees with ``predict``; zero or
    non-finite gradients; saturated scores and cross-entropies; probabilities for
    logits; PGD (40 steps, both losses) against noise, a single step, 200 steps,
    RandomSearch (500 queries), HopSkipJump (1000 queries on 25 rows) and Transfer;
    success on the way that the result does not show; a loss that still rises at the
    end; accuracy at 0.5, 1 and 2 eps and in the whole box; and whether what rejects
    rejects genuine rows, noisy rows, or nothing but small changes.

    No finding is no proof: what no check looks at is not found.

    References
    ----------
    .. [1] N. Carlini et al., "On Evaluating Adversarial Robustness", 2019,
       arXiv:1902.06705.
    .. [2] M. Pintor et al., "Indicators of Attack Failure: Debugging and Improving
       Optimization of Adversarial Examples", NeurIPS 2022, arXiv:2106.09947.
    .. [3] F. Croce, M. Hein, "Reliable evaluation of adversarial robustness with an
       ensemble of diverse parameter-free attacks", ICML 2020, arXiv:2003.01690; the
       flags of its code.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.tree import DecisionTreeClassifier
    >>> from sk_advdef import diagnose_defense
    >>> X, y = load_iris(return_X_y=True)
    >>> model = DecisionTreeClassifier(random_state=0).fit(X, y)
    >>> diagnosis = diagnose_defense(
    ...     model, X[::3], y[::3], eps=0.3, bounds=None, random_state=0
    ... )
    >>> [(finding.name, finding.severity) for finding in diagnosis.findings]
    [('no_gradient', 'note')]
    """
    n_rows = check_number("diagnose_defense", "n_rows", n_rows, integer=True, low=1)
    if search is None and hasattr(estimator, "best_estimator_"):
        search = estimator
    estimator = chosen(estimator)
    if not hasattr(estimator, "predict") or (
        not hasattr(last_step(estimator), "classes_")
    ):
        raise TypeError(
            f"diagnose_defense takes a fitted classifier. Got {estimator!r}; put a "
            "detector into a RejectingClassifier."
        )
    X, y = as_rows(X), column_or_1d(y)
    check_consistent_length(X, y)
    seed = seed_from(random_state)
    at = np.arange(len(y))
    if len(at) > n_rows:
        at = np.sort(np.random.default_rng(seed).permutation(len(at))[:n_rows])
    X, y = _safe_indexing(X, at), y[at]
    with torch_generators_kept():
        work = _Work(measure.Subject(estimator, X, y, eps, bounds, seed), search)
        bar = progress(
            "diagnose_defense",
            verbose,
            work.stages(),
            total=work.n_stages,
            desc="checks",
        )
        found = [f for part in bar for f in part if f is not None]
    found.sort(key=lambda f: SEVERITIES.index(f.severity))
    threat = {"norm": "linf", "eps": eps, "bounds": bounds, "rows": len(y)}
    threat["random_state"] = random_state
    return Diagnosis(found, work.figures, threat, work.not_checked)


class _Work:
    """The checks one after the other; later ones use what earlier ones found."""

    n_stages = 7

    def __init__(self, subject: measure.Subject, search: Any) -> None:
        self.subject, self.search = subject, search
        self.figures: dict[str, float] = {}
        self.not_checked: list[str] = []
        self.steady = True
        right = subject.right
        #: rows that attacks are run on; those on detectors take four ways each
        self.rows = right[:REJECTING_ROWS] if subject.problem.detector else right
        self.held = np.ones(len(self.rows), dtype=bool)
        self.by_size: dict[float, float] = {}

    def stages(self) -> Iterator[list[Finding | None]]:
        """Run the checks, stage by stage."""
        yield self._answers()
        yield self._rejection()
        yield self._view()
        if len(self.rows):
            yield self._gradient_attacks()
            yield self._weaker_attacks()
            yield self._sizes()
            yield self._search()

    def _run(self, attack: Attack, at: np.ndarray) -> tuple[np.ndarray, Any]:
        """Attack some rows; return who is fooled, and the rows made."""
        if not len(at):
            return np.zeros(0, dtype=bool), None
        result = attack.run(self.subject.estimator, *self.subject.rows(at))
        return result.fooled, result.X_adv

    def _settings(self) -> dict[str, Any]:
        return {"bounds": self.subject.bounds, "random_state": self.subject.seed}

    def _answers(self) -> list[Finding | None]:
        s = self.subject
        labels, scores = measure.changed_between_calls(s.estimator, s.X)
        self.figures["labels changed between calls"] = labels
        self.steady = labels <= checks.CHANGED_LABELS
        clean = len(s.right) / len(s.y)
        self.figures["clean accuracy"] = clean
        largest = np.unique(s.y, return_counts=True)[1].max() / len(s.y)
        found = [
            checks.repeats(labels, scores),
            checks.beats_constant(clean, float(largest)),
            checks.has_rows(len(s.right)),
        ]
        if self.steady:
            changed = measure.changed_by_company(s.estimator, s.X, s.answers)
            found.append(checks.ignores_company(changed))
        else:
            self.not_checked.append("dependence on the batch: answers are random.")
        masks = measure.changed_by_masks(s)
        if masks is not None:
            found.append(checks.ignores_masks(masks))
        return found

    def _rejection(self) -> list[Finding | None]:
        s = self.subject
        if not s.rejects:
            return []
        rejected = float((~np.isin(s.answers, s.genuine)).mean())
        self.figures["genuine rows rejected"] = rejected
        found = [checks.accepts_genuine(rejected)]
        if len(s.right):
            beside = measure.rejected_beside(s, NOISE_PART)
            self.figures["noisy rows rejected"] = beside
            nowhere = measure.accepted_from_nowhere(s)
            self.figures["random rows accepted"] = nowhere
            found.append(checks.accepts_noisy(beside, NOISE_PART))
            found.append(checks.flags_far_rows(beside, nowhere))
        return found

    def _view(self) -> list[Finding | None]:
        s = self.subject
        found = [checks.has_gradient(s.missing, trees=is_trees(s.estimator))]
        if s.view is not None:
            seen = measure.measure_gradients(s)
            self.figures["saturated rows"] = seen.saturated
            found += [
                checks.gradient_flows(seen.zero, seen.bad),
                checks.cross_entropy_flows(seen.ce_dead, seen.zero + seen.bad),
                checks.is_unsaturated(seen.saturated),
                checks.are_logits(seen.probabilities),
            ]
        return found

    def _gradient_attacks(self) -> list[Finding | None]:
        s, n = self.subject, len(self.rows)
        if s.view is None:
            return []
        by_ce, _ = self._run(PGD(s.eps, **self._settings()), self.rows)
        by_margin, X_adv = self._run(
            PGD(s.eps, loss="margin", **self._settings()), self.rows
        )
        self.by_size[1.0] = 1 - float(by_margin.mean())
        self.held &= ~by_ce & ~by_margin
        self.figures["held under PGD (ce)"] = 1 - float(by_ce.mean())
        self.figures["held under PGD (margin)"] = self.by_size[1.0]
        found = [compare.cross_entropy_works(int((by_margin & ~by_ce).sum()), n)]
        if self.steady:
            clean = measure.view_differs(s, s.X)
            found.append(checks.view_agrees(clean, measure.view_differs(s, X_adv)))
        else:
            self.not_checked.append("view against predict: answers are random.")
        if s.problem.detector is not None:
            self.not_checked.append(
                "silent success and a rising loss: not defined beside a detector."
            )
            return found
        ahead = measure.view_margin(s, X_adv, self.rows) > 0
        found.append(compare.view_is_believed(int((ahead & ~by_margin).sum()), n))
        left = self.rows[self.held]
        if len(left):
            path = measure.walk(s, left)
            rising = path.rising(compare.RISING_PART) & ~path.fooled
            found.append(compare.has_converged(int(rising.sum()), len(left)))
            found.append(compare.nothing_passed_by(int(path.fooled.sum()), n))
        return found

    def _weaker_attacks(self) -> list[Finding | None]:
        s, n, settings = self.subject, len(self.rows), self._settings()
        left = self.rows[self.held]
        taken = {"noise": self._run(Noise(s.eps, draws=20, **settings), left)[0]}
        taken["queries"] = np.zeros(len(left), dtype=bool)
        if has_scores(s.problem.model):
            attack = RandomSearch(s.eps, max_queries=QUERIES, **settings)
            taken["queries"] |= self._run(attack, left)[0]
        if not s.missing and s.view is not None:
            taken["single step"] = np.zeros(len(left), dtype=bool)
            for loss in ("ce", "margin"):
                attack = FGSM(s.eps, loss=loss, bounds=s.bounds)
                taken["single step"] |= self._run(attack, left)[0]
            taken["transfer"] = self._transferred(left)
        else:
            self.not_checked.append("rows made on a copy (Transfer): there is no view.")
        rest = left[~taken["queries"]]
        few = rest[:LABEL_ROWS]
        if len(rest) > len(few):
            self.not_checked.append(
                f"labels: HopSkipJump asked about {len(few)} of {len(rest)} rows that "
                "held."
            )
        labels = HopSkipJump(
            max_queries=LABEL_QUERIES, norm="linf", eps=s.eps, **settings
        )
        fooled, _ = self._run(labels, few)
        taken["queries"][np.isin(left, few[fooled])] = True
        self.figures |= {
            f"taken by {kind}, not by PGD": float(fell.sum() / n)
            for kind, fell in taken.items()
        }
        found = []
        if s.view is not None:
            found = [
                compare.weaker_attack(kind, int(fell.sum()), n, n - len(left))
                for kind, fell in taken.items()
            ]
            longer = PGD(s.eps, steps=LONG, loss="margin", **settings)
            gained = int(self._run(longer, left)[0].sum())
            found.append(compare.steps_suffice(gained, n, LONG))
        everything = np.any(list(taken.values()), axis=0)
        self.figures["held under all"] = float((len(left) - everything.sum()) / n)
        return found

    def _transferred(self, left: np.ndarray) -> np.ndarray:
        s, settings = self.subject, self._settings()
        climb = PGD(s.eps, loss="margin", early_stop=False, **settings)
        attacks = [Transfer(climb, random_state=s.seed)]
        teacher = getattr(last_step(s.estimator), "teacher_", None)
        if teacher is not None and has_view(teacher):
            attacks.append(Transfer(climb, surrogate=FrozenEstimator(teacher)))
        return np.any([self._run(attack, left)[0] for attack in attacks], axis=0)

    def _sizes(self) -> list[Finding | None]:
        s, n = self.subject, len(self.rows)
        low, high = measure.box_of(s.problem.X, s.bounds)
        box = np.maximum(high - low, s.problem.eps)
        settings, fell = self._settings(), ~self.held
        if s.view is None:
            kinds: list[Any] = [RandomSearch(box, max_queries=QUERIES, **settings)]
            if not has_scores(s.problem.model):
                return []
        else:
            kinds = [PGD(box, loss=loss, **settings) for loss in ("margin", "ce")]
            for part in (0.5, 2.0):
                attack = PGD(part * s.problem.eps, loss="margin", **settings)
                fooled, _ = self._run(attack, self.rows)
                self.by_size[part] = 1 - float(fooled.mean())
                fell |= fooled
        # within the box lie all balls in it, and where the gradient vanishes far from
        # all rows only smaller ones show a way
        if s.view is not None:
            kinds += [PGD(p * box, loss="margin", **settings) for p in (0.3, 0.1)]
        for attack in kinds:
            left = np.flatnonzero(~fell)
            fell[left] = self._run(attack, self.rows[left])[0]
        self.figures |= {
            f"held within {size:g} eps": held for size, held in self.by_size.items()
        }
        self.figures["held within the whole box"] = 1 - float(fell.mean())
        found = [compare.falls_to_chance(int((~fell).sum()), n)]
        if self.by_size:
            found.append(compare.falls_with_eps(self.by_size, n))
        return found

    def _search(self) -> list[Finding | None]:
        scorer = getattr(self.search, "scorer_", None)
        if isinstance(scorer, dict):
            scorer = scorer.get(getattr(self.search, "refit", None))
        if self.search is not None and not isinstance(scorer, RobustScorer):
            self.not_checked.append(
                "the search: its scorer was not made by make_robust_scorer."
            )
            return []
        if scorer is None or scorer.attack is None:
            return []
        attacks = as_attacks(scorer.attack)
        if len(attacks) > 1:
            return []
        attack = clone(attacks[0])
        fooled, _ = self._run(attack, self.rows)
        own = ~fooled
        eps = getattr(attack, "eps", None)
        eps, settings = self.subject.eps if eps is None else eps, self._settings()
        kinds: list[Attack] = []
        if self.subject.view is not None:
            kinds = [PGD(eps, loss=loss, **settings) for loss in ("ce", "margin")]
        if has_scores(self.subject.problem.model):
            kinds.append(RandomSearch(eps, max_queries=QUERIES, **settings))
        worst = own.copy()
        for other in kinds:
            worst[worst] = ~self._run(other, self.rows[worst])[0]
        return [
            compare.search_is_fair(
                repr(attack),
                float(own.mean()),
                float(worst.mean()),
                gradient=isinstance(attack, GradientAttack),
            )
        ]
