"""The exact answer for trees."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from joblib import Parallel, delayed, effective_n_jobs

from sk_advdef._progress import progress
from sk_advdef._torch._models import torch_generators_kept
from sk_advdef._validation import check_n_jobs, check_number, check_verbose
from sk_advdef.attacks._base import Attack, Problem
from sk_advdef.attacks._tree_result import TreeExactResult
from sk_advdef.attacks._tree_solver import Solver, Verdict
from sk_advdef.attacks._trees import parts_of, read


class TreeExact(Attack):
    """The exact answer for trees, by mixed-integer programming.

    Each row is broken, with an example that the model's own ``predict`` confirms, or
    certified: nothing within ball, box and space changes the answer; or unknown where
    the time limit came first [1]_. Which leaves a row can reach often decides it
    without any programming.

    The estimator is a DecisionTreeClassifier, ExtraTreeClassifier,
    RandomForestClassifier, ExtraTreesClassifier, GradientBoostingClassifier or
    HistGradientBoostingClassifier (without splits on categories) of scikit-learn,
    alone, frozen, or the last step of a Pipeline whose other steps are scalers
    (standard, min-max, max-abs, robust) or BitDepthSqueezer; it does not see through
    encoders or a ColumnTransformer. Rounding in these steps and in the trees is taken
    into account.

    Parameters
    ----------
    eps : float, array of floats that fits one sample, or None
        Radius of the ball, in [0, inf), in units of ``X``. An array gives each feature
        a radius of its own; for ``norm="l2"`` the ball is then an ellipsoid.
    norm : {"linf", "l2"}, default="linf"
        Norm of the ball.
    bounds : tuple (low, high) or None, default=(0.0, 1.0)
        Box that results stay in: two numbers, or arrays with a value a feature; None
        for no box.
    time_limit : float, default=10.0
        Seconds a row, in (0, inf).
    targeted : bool, default=False
        Whether ``y`` names the classes to reach instead of those to leave.
    n_jobs : int or None, default=None
        Number of processes that share the rows, as in joblib.
    verbose : int, default=0
        Above 0, a progress bar over rows.
    space : FeatureSpace or None, default=None
        What may be changed in tabular data. Either it or ``eps`` says how far features
        move: ``eps=None`` is for a space that does. Where it brings bounds, they take
        the place of ``bounds``. Relations need ``norm="linf"``.

    See Also
    --------
    RandomSearch : What an attacker finds by asking, for any model.

    Notes
    -----
    A certificate is about one row, one ball and one model, and about rows of the dtype
    of ``X``: whole numbers where that holds no others. It holds for the model as it
    predicts here: where scores of two classes are equal up to rounding, the order in
    which a forest adds its trees can decide, and ``predict`` is asked.

    The time grows with the number of thresholds within reach; it is exponential in the
    worst case.

    References
    ----------
    .. [1] A. Kantchelian, J. D. Tygar, A. D. Joseph, "Evasion and Hardening of Tree
       Ensemble Classifiers", ICML 2016, arXiv:1509.07892.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.ensemble import RandomForestClassifier
    >>> from sk_advdef import TreeExact
    >>> X, y = load_iris(return_X_y=True)
    >>> model = RandomForestClassifier(n_estimators=10, random_state=0).fit(X, y)
    >>> result = TreeExact(eps=0.3, bounds=None).run(model, X[::5], y[::5])
    >>> bool((result.fooled ^ result.certified).all())
    True
    """

    def __init__(
        self,
        eps: Any,
        *,
        norm: str = "linf",
        bounds: Any = (0.0, 1.0),
        time_limit: float = 10.0,
        targeted: bool = False,
        n_jobs: int | None = None,
        verbose: int = 0,
        space: Any = None,
    ) -> None:
        self.eps = eps
        self.norm = norm
        self.bounds = bounds
        self.time_limit = time_limit
        self.targeted = targeted
        self.n_jobs = n_jobs
        self.verbose = verbose
        self.space = space

    def run(self, estimator: Any, X: Any, y: Any = None) -> TreeExactResult:
        """Decide each row of ``X``.

        Parameters
        ----------
        estimator : estimator
            A fitted model of trees.
        X : array-like or DataFrame of shape (n_samples, n_features)
            Rows inside ``bounds``. Not changed.
        y : array-like of shape (n_samples,) or None, default=None
            True labels; for a targeted attack, the classes aimed at. None takes what
            the model answers on ``X`` for true.

        Returns
        -------
        result : TreeExactResult
            What became of the rows. One that is wrong from the start is fooled; one
            that is neither fooled nor certified is unknown.
        """
        parts_of(estimator)
        with torch_generators_kept():
            problem = Problem(self, estimator, X, y)
            fooled = problem.is_fooled(problem.X)
            certified = np.zeros(len(fooled), dtype=bool)
            values = problem.X.copy()
            n_queries = np.ones(len(fooled), dtype=np.int64)
            rows = np.flatnonzero(~fooled & (problem.columns >= 0))
            for row, verdict in zip(rows, self._decided(problem, rows), strict=True):
                values[row], fooled[row], certified[row] = verdict[:3]
                n_queries[row] += verdict.n_queries
            plain = problem.result(values, fooled, n_queries)
            return TreeExactResult(**vars(plain), certified=certified)

    def _search(
        self, problem: Problem, rows: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        verdicts = list(self._decided(problem, rows))
        values = np.stack([v.values for v in verdicts])
        fooled = np.array([v.fooled for v in verdicts])
        return values, fooled, 1 + np.array([v.n_queries for v in verdicts])

    def _decided(self, problem: Problem, rows: np.ndarray) -> Iterator[Verdict]:
        limit = check_number(
            self, "time_limit", self.time_limit, low=0, closed="neither"
        )
        check_verbose(self, self.verbose)
        check_n_jobs(self, self.n_jobs)
        if not len(rows):
            return
        steps, model = parts_of(problem.estimator)
        rules = problem.rules
        if self.norm == "l2" and rules is not None and rules.relations:
            raise ValueError(
                'TreeExact needs norm="linf" where the space has relations: within an '
                "L2 ball these are no linear program."
            )
        ensemble = read(model)
        solver = Solver(problem, ensemble, steps, model)
        _agree(problem, solver, rows)
        n_jobs = effective_n_jobs(self.n_jobs)
        parts = np.array_split(rows, min(len(rows), 8 * n_jobs if n_jobs > 1 else 1))
        with progress(self, self.verbose, total=len(rows), desc="TreeExact") as bar:
            if n_jobs == 1:
                for row in rows:
                    yield solver.decide(row, limit)
                    bar.update()
                return
            jobs = (delayed(_decide)(solver, part, limit) for part in parts)
            for found in Parallel(n_jobs=n_jobs, return_as="generator")(jobs):
                yield from found
                bar.update(len(found))


def _decide(solver: Solver, rows: np.ndarray, limit: float) -> list[Verdict]:
    return [solver.decide(row, limit) for row in rows]


def _agree(problem: Problem, solver: Solver, rows: np.ndarray) -> None:
    """Make sure that the trees were read as they answer."""
    answers = np.searchsorted(problem.classes, problem.predict(problem.X[rows], rows))
    for row, answer in zip(rows, answers, strict=True):
        scores = solver.scores(problem.X[row].astype(np.float64))[1]
        if scores[answer] < scores.max() - 1e-6 * max(1, np.abs(scores).max()):
            raise RuntimeError(
                f"The trees of {problem.estimator!r} say {scores} of row {row}, which "
                "is not what predict answers: TreeExact cannot judge this model."
            )
