"""Transfer: attack another model, and see whether the first falls too."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.utils.validation import check_is_fitted

from sk_advdef._torch._models import classes_of, is_net
from sk_advdef._validation import check_number, invalid, seed_from, with_seed
from sk_advdef.attacks._base import Attack, AttackResult, Problem
from sk_advdef.attacks._free import without_ball
from sk_advdef.attacks._table import Table

#: Most times that the surrogate learns, from the second on of its own failures.
ROUNDS = 4


class Transfer(Attack):
    """Attack a surrogate that learned the model's answers, and carry the result over.

    The model is asked for labels of the given rows, of mixtures of them, and of noisy
    copies; a surrogate learns these; ``attack`` runs on the surrogate, through its
    gradient if it uses one; and the rows it makes are tried on the model. What hides
    the model's gradient does not hide its labels.

    Parameters
    ----------
    attack : attack
        What runs on the surrogate, such as ``PGD(eps=0.1)``. Its ball, box, space and
        target hold for the result. It attacks every row to the end, without early
        stop. Its parameters are set as ``attack__eps`` and so on.
    surrogate : estimator or None, default=None
        A classifier to train, or a fitted one (best in a FrozenEstimator, which
        ``clone`` leaves as it is), which must take the same rows as the model; then
        nothing is asked but whether the results fool it. None trains a small neural
        network on standardized input.
    queries : int, default=1000
        Labels asked for on top of the given rows' own, at least 1, for all rows
        together. Without use where ``surrogate`` is fitted.
    random_state : int, RandomState instance or None, default=None
        Seeds the rows asked about and the surrogate. ``attack`` has its own.

    See Also
    --------
    HopSkipJump : Asks for labels too, row by row, and needs many more of them.

    Notes
    -----
    A row's ``n_queries`` are the question what it is itself, an equal share (rounded
    up) of the ``queries`` that train the surrogate, and the final check. Answers that
    are no genuine class ("adversarial", "rejected") are not learned from.

    The attacker who only tries what fools another model is the weakest who knows the
    defence at all: never quote this attack alone.

    References
    ----------
    .. [1] N. Papernot, P. McDaniel, I. Goodfellow, S. Jha, Z. B. Celik, A. Swami,
       "Practical Black-Box Attacks against Machine Learning", AsiaCCS 2017,
       arXiv:1602.02697.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.ensemble import RandomForestClassifier
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sk_advdef import PGD, Transfer
    >>> X, y = load_iris(return_X_y=True)
    >>> model = RandomForestClassifier(n_estimators=10, random_state=0).fit(X, y)
    >>> attack = Transfer(
    ...     PGD(eps=0.8, bounds=None, random_state=0),
    ...     surrogate=LogisticRegression(max_iter=1000),
    ...     random_state=0,
    ... )
    >>> X_adv = attack.perturb(model, X, y)
    >>> model.score(X, y) > model.score(X_adv, y)
    True
    """

    _knows = "labels"

    def __init__(
        self,
        attack: Any,
        *,
        surrogate: Any = None,
        queries: int = 1000,
        random_state: Any = None,
    ) -> None:
        self.attack = attack
        self.surrogate = surrogate
        self.queries = queries
        self.random_state = random_state

    @property
    def eps(self) -> Any:
        """Radius of the attack on the surrogate."""
        return getattr(self.attack, "eps", None)

    @property
    def norm(self) -> Any:
        """Norm of the attack on the surrogate."""
        return self.attack.norm

    @property
    def bounds(self) -> Any:
        """Box of the attack on the surrogate."""
        return self.attack.bounds

    @property
    def space(self) -> Any:
        """Space of the attack on the surrogate."""
        return getattr(self.attack, "space", None)

    @property
    def targeted(self) -> Any:
        """Whether the attack on the surrogate has a target."""
        return self.attack.targeted

    @property
    def _eps_optional(self) -> bool:  # type: ignore[override]
        return bool(self.attack._eps_optional)

    @property
    def _norms(self) -> Any:  # type: ignore[override]
        return self.attack._norms

    def run(self, estimator: Any, X: Any, y: Any = None) -> AttackResult:
        """Attack each row of ``X``.

        Parameters
        ----------
        estimator : estimator
            A fitted classifier.
        X : array-like or DataFrame of shape (n_samples, n_features), or stacked images
            Rows inside ``bounds`` of the attack. Not changed.
        y : array-like of shape (n_samples,) or None, default=None
            True labels; for a targeted attack, the classes aimed at. None takes what
            the model answers on ``X`` for true.

        Returns
        -------
        result : AttackResult
            Attacked rows and what became of them.
        """
        if not isinstance(self.attack, Attack):
            raise invalid(self, "attack", "an attack of this package", self.attack)
        if getattr(self.attack, "goal", "fool") != "fool":
            raise invalid(self, "attack", 'an attack with goal="fool"', self.attack)
        a_class = isinstance(self.surrogate, type)
        if self.surrogate is not None and (
            a_class or not hasattr(self.surrogate, "predict")
        ):
            raise invalid(self, "surrogate", "a classifier or None", self.surrogate)
        return super().run(estimator, X, y)

    def _search(
        self, problem: Problem, rows: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        queries = check_number(self, "queries", self.queries, integer=True, low=1)
        seed = seed_from(self.random_state)
        values, fooled = problem.X[rows], np.zeros(len(rows), dtype=bool)
        spent = np.ones(len(rows), dtype=np.int64)
        if self.surrogate is not None and _is_fitted(self.surrogate):
            values = self._attacked(self.surrogate, problem, rows, values)
            return values, problem.is_fooled(values, rows), spent + 1
        later = min(queries // 2, (ROUNDS - 1) * len(rows))
        lessons = _Lessons(problem, np.random.default_rng(seed), seed)
        lessons.ask_around(queries - later)
        spent += math.ceil((queries - later) / len(rows))
        for round_ in range(ROUNDS):
            left = np.flatnonzero(~fooled)
            if not len(left) or (round_ and later < len(left)):
                break
            surrogate = lessons.learn(self.surrogate)
            if surrogate is None:
                break
            at = rows[left]
            values[left] = self._attacked(surrogate, problem, at, values[left])
            fooled[left] = lessons.ask(values[left], at)
            spent[left] += 1
            later -= len(left) if round_ else 0
        return values, fooled, spent

    def _attacked(
        self, surrogate: Any, problem: Problem, rows: np.ndarray, values: np.ndarray
    ) -> np.ndarray:
        """Run the attack on the surrogate for rows whose label it knows."""
        known = np.flatnonzero(np.isin(problem.y[rows], classes_of(surrogate)))
        values = values.copy()
        if len(known):
            at = rows[known]
            given = problem.table.restore(problem.X[at], at)
            made = self.attack.rows_to_train_on(surrogate, given, problem.y[at])
            values[known] = problem.settle(Table(made, keep_text=True).values, at)
        return values


def _is_fitted(estimator: Any) -> bool:
    try:
        check_is_fitted(estimator)
    except NotFittedError:
        return False
    return True


class _Lessons:
    """What the model has been asked so far, and what it said."""

    def __init__(self, problem: Problem, rng: np.random.Generator, seed: int) -> None:
        self.problem, self.rng, self.seed = problem, rng, seed
        self.free = without_ball(problem)
        self.values, self.rows = [problem.X], [np.arange(len(problem.X))]
        self.answers = [problem.predict(problem.X)]  # asked by each row before

    def ask(self, values: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Ask for labels, and tell which of them the attacker wants."""
        answers = self.problem.predict(values, rows)
        self.values.append(values)
        self.rows.append(rows)
        self.answers.append(answers)
        if self.problem.targeted:
            return answers == self.problem.y[rows]
        wrong = answers != self.problem.y[rows]
        return wrong & np.isin(answers, self.problem.genuine_classes)

    def ask_around(self, count: int) -> None:
        """Ask about noisy mixtures of two rows."""
        X, n = self.problem.X, len(self.problem.X)
        first, second = self.rng.integers(n, size=(2, count))
        shape = (count, *(1,) * (X.ndim - 1))
        share = self.rng.uniform(0, 0.5, shape) * self.rng.integers(2, size=shape)
        spread = X.std(axis=0, dtype=np.float64)
        noise = self.rng.standard_normal((count, *X.shape[1:]))
        # a feature that never varies among the rows may be changed by the attack
        noise *= self.rng.uniform(0, 0.5, shape) * np.maximum(spread, spread.mean() / 2)
        values = X[first] + share * (X[second].astype(np.float64) - X[first]) + noise
        self.ask(self.free.settle(values, first), first)

    def learn(self, surrogate: Any) -> Any:
        """Train a surrogate on the genuine answers, None where all are the same."""
        answers = np.concatenate(self.answers)
        use = np.flatnonzero(np.isin(answers, self.problem.genuine_classes))
        # from labels of type object, as mixed with others, back to those of the classes
        labels = answers[use].astype(self.problem.genuine_classes.dtype)
        count = len(np.unique(labels))
        if count < 2:
            return None
        values, rows = np.concatenate(self.values), np.concatenate(self.rows)
        given = self.problem.table.restore(values[use], rows[use])
        if surrogate is None:
            surrogate = small_net(count, batch_size=max(2, min(64, len(use) // 2)))
        surrogate = clone(surrogate)
        if is_net(surrogate):
            from sk_advdef._torch._net import with_adapter

            surrogate = with_adapter(surrogate, self.seed)
        return with_seed(surrogate, self.seed).fit(given, labels)


def small_net(n_classes: int, *, batch_size: int) -> Any:
    """Make the net that is trained where no surrogate is given."""
    import torch
    from skorch import NeuralNetClassifier

    return NeuralNetClassifier(
        standardizing_mlp,
        module__n_classes=n_classes,
        criterion=torch.nn.CrossEntropyLoss,
        optimizer=torch.optim.Adam,
        lr=0.005,
        max_epochs=30,
        batch_size=batch_size,
        # a last batch of one row has no variance
        iterator_train__drop_last=True,
        train_split=None,
        verbose=0,
    )


def standardizing_mlp(n_classes: int) -> Any:
    """Make a module with one hidden layer whose input may have any scale."""
    from torch import nn

    return nn.Sequential(
        nn.Flatten(),
        nn.LazyBatchNorm1d(affine=False),
        nn.LazyLinear(100),
        nn.ReLU(),
        nn.LazyLinear(n_classes),
    )
