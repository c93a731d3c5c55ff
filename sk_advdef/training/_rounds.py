"""Adversarial training of classifiers that are no nets: rounds of attack and refit."""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import numpy as np
from sklearn.base import clone
from sklearn.utils import _safe_indexing

from sk_advdef._progress import progress
from sk_advdef._torch._models import classes_of
from sk_advdef._validation import shortened, with_seed
from sk_advdef.attacks._base import Attack
from sk_advdef.attacks._several import never_moved
from sk_advdef.attacks._table import Table
from sk_advdef.training._base import kept_together, stacked


class WithGenuine:
    """A fitted model, and which of its classes are genuine."""

    def __init__(self, model: Any, genuine: np.ndarray) -> None:
        self.model, self.classes_ = model, classes_of(model)
        self.genuine_classes_ = np.intersect1d(genuine, self.classes_)
        for name in ("predict", "predict_proba", "decision_function"):
            if hasattr(model, name):
                setattr(self, name, getattr(model, name))

    def _as_module(self) -> Any:
        from sk_advdef._torch._registry import build

        return build(self.model)

    def _missing_view(self) -> Any:
        from sk_advdef._torch._registry import missing_view

        return missing_view(self.model)


def _known(model: Any, genuine: np.ndarray) -> Any:
    """Return the model itself where all of its classes are genuine."""
    return (
        model
        if np.isin(classes_of(model), genuine).all()
        else (WithGenuine(model, genuine))
    )


class Fitted(NamedTuple):
    """What came out of the rounds."""

    model: Any
    history: list[dict[str, float]]


class HeldOut:
    """Rows that no model learns from, and every change of them that fooled one.

    The model of a round is judged by an attack on itself and by all that fooled any
    other one, also those that came later.
    """

    def __init__(self, X: Any, y: np.ndarray, genuine: np.ndarray) -> None:
        self.X, self.y, self.genuine = X, y, genuine
        self.best: Any = None
        self.best_holds = np.zeros(len(y), dtype=bool)
        self.found: list[tuple[np.ndarray, Any]] = []

    def judge(self, model: Any, attack: Attack) -> float:
        """Take a model in, and return the share of rows that it holds."""
        holds = np.asarray(model.predict(self.X)) == self.y
        for rows, changed in self.found:
            holds[rows] &= self._withstands(model, rows, changed)
        rows = np.flatnonzero(holds)
        if len(rows):
            known = _known(model, self.genuine)
            part = _safe_indexing(self.X, rows)
            result = attack.run(known, part, self.y[rows])
            holds[rows] = ~result.fooled
            taken = rows[result.fooled]
            if len(taken):
                changed = _safe_indexing(result.X_adv, np.flatnonzero(result.fooled))
                self.found.append((taken, changed))
                if self.best is not None:
                    lasts = self._withstands(self.best, taken, changed)
                    self.best_holds[taken] &= lasts
        if self.best is None or holds.mean() > self.best_holds.mean():
            self.best, self.best_holds = model, holds
        return float(holds.mean())

    def _withstands(self, model: Any, rows: np.ndarray, changed: Any) -> np.ndarray:
        answers = np.asarray(model.predict(changed))
        return (answers == self.y[rows]) | ~np.isin(answers, self.genuine)


def fit_in_rounds(
    owner: Any,
    model: Any,
    X: Any,
    y: np.ndarray,
    attacks: list[Attack],
    held: tuple[Any, np.ndarray] | None,
    seed: int,
) -> Fitted:
    """Refit on the rows and on those attacked in each round before.

    ``model`` is fitted on ``X`` already. With rows held out, rounds end when their
    worst case has not risen for long, and the best model is kept.
    """
    rng = np.random.default_rng(seed)
    genuine = owner.genuine_classes_
    if stiff := never_moved(attacks, _known(model, genuine), X, y):
        warnings.warn(
            f"No attack changes the columns {shortened(repr(stiff))} in training: they "
            "hold whole numbers, which an eps below 1 never moves. Give the attack an "
            "eps of 1 or more there, or a FeatureSpace.",
            UserWarning,
            stacklevel=5,
        )
    judge = None if held is None else HeldOut(*held, genuine)
    if judge is not None and owner.adversarial_label is None:
        # one without the class can be none of the best
        judge.judge(model, _with_seed(attacks[0], seed, owner.rounds))
    sources = [np.arange(len(y))]
    blocks, labels = [X], [y]
    history: list[dict[str, float]] = []
    count = max(1, round(owner._ratio() * len(y)))
    waited = 0
    bar = progress(owner, owner.verbose, range(owner.rounds), desc="rounds")
    for turn in bar:
        attack = _with_seed(attacks[turn % len(attacks)], seed, turn)
        rows = rng.permutation(len(y))[:count]
        part, truth = _safe_indexing(X, rows), y[rows]
        attacked = attack.rows_to_train_on(_known(model, genuine), part, truth)
        answers = np.asarray(model.predict(attacked))
        held_rows = (answers == truth) | ~np.isin(answers, genuine)
        reached = {
            "clean_accuracy": float((model.predict(part) == truth).mean()),
            "attacked_accuracy": float(held_rows.mean()),
        }
        own = owner.adversarial_label
        if own is not None:
            # what stayed as it was is genuine
            changed = np.flatnonzero(_differ(attacked, part))
            if not len(changed) and len(blocks) == 1:
                raise ValueError(
                    f"{attack!r} changed no row, so that none belongs to the class "
                    f"{own!r} of {type(owner).__name__}. Take another attack or a "
                    "larger eps."
                )
            rows, attacked = rows[changed], _safe_indexing(attacked, changed)
            truth = np.full(len(rows), own, y.dtype)
        sources.append(rows)
        blocks.append(attacked)
        labels.append(truth)
        model = with_seed(clone(owner.estimator), seed)
        order = kept_together(
            model, np.concatenate(sources), np.random.default_rng(seed)
        )
        model.fit(_safe_indexing(stacked(blocks), order), np.concatenate(labels)[order])
        if judge is not None:
            reached["held_out_accuracy"] = judge.judge(model, attack)
            waited = 0 if judge.best is model else waited + 1
        history.append(reached)
        bar.set_postfix({k.rpartition("_")[0]: f"{v:.3f}" for k, v in reached.items()})
        if waited >= owner.n_iter_no_change:
            break
    return Fitted(model if judge is None else judge.best, history)


def _differ(changed: Any, rows: Any) -> np.ndarray:
    tables = [Table(X, keep_text=True, copy=False) for X in (changed, rows)]
    values = tables[0].values != tables[1].values
    return values.reshape(len(values), -1).any(axis=1)


def _with_seed(attack: Attack, seed: int, turn: int) -> Attack:
    """Give an attack other starts in each round, the same for the same seed."""
    if "random_state" not in attack.get_params():
        return attack
    drawn = np.random.SeedSequence([seed, turn]).generate_state(1)[0] >> 1
    return clone(attack).set_params(random_state=int(drawn))
