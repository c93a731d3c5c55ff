"""Attackers who only ask: what they ask, what they are told, and when they have it."""

import contextlib
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from torch import nn

from benchmarks._others import seeded
from sk_advdef import HopSkipJump, QueryRefused, RandomSearch

#: Norm of the ball that each attack has to reach.
NORMS = {"random": "linf", "nes": "linf", "hop-skip-jump": "l2", "boundary": "l2"}


class Fast(ClassifierMixin, BaseEstimator):
    """A trained net that answers single rows without skorch's loops over batches."""

    def __init__(self, net: Any) -> None:
        self.net = net
        self.classes_ = net.classes_

    def predict_proba(self, X: Any) -> np.ndarray:
        with torch.inference_mode():
            logits = self.net.module_(torch.from_numpy(np.asarray(X, np.float32)))
            return torch.softmax(logits.double(), dim=1).numpy()

    def predict(self, X: Any) -> np.ndarray:
        return self.classes_[self.predict_proba(X).argmax(axis=1)]


class Spent(Exception):
    """All queries are spent, or there is nothing left to ask for."""


class Oracle(ClassifierMixin, BaseEstimator):
    """What one attacker asks about one row, and when it is adversarial.

    A query counts as a success if it lies in the ball around ``x``, the model's own
    label is wrong, and the attacker is told so. Then, or when ``budget`` queries are
    asked, ``Spent`` ends the attack, whatever it is.
    """

    def __init__(
        self,
        model: Any,
        x: np.ndarray,
        label: Any,
        *,
        radius: float,
        norm: str,
        budget: int,
        guard: Any = None,
        keep: bool = False,
        stop: bool = True,
    ) -> None:
        self.model, self.x, self.label = model, x, label
        self.radius, self.norm, self.budget = radius, norm, budget
        self.guard, self.keep, self.stop = guard, keep, stop
        self.classes_ = model.classes_
        self.asked, self.told_at, self.refused = 0, 0, 0
        self.rows: list[np.ndarray] = []

    def within(self, X: np.ndarray) -> np.ndarray:
        apart = (X.astype(np.float64) - self.x).reshape(len(X), -1)
        order = np.inf if self.norm == "linf" else 2
        return np.linalg.norm(apart, order, axis=1) <= self.radius + 1e-6

    def _note(self, X: np.ndarray, told: np.ndarray) -> None:
        """Count queries; ``told`` is the column that each answer names."""
        columns = self.model.predict_proba(X).argmax(axis=1)
        wrong = (self.classes_[columns] != self.label) & (told == columns)
        hits = np.flatnonzero(wrong & self.within(X))
        if self.keep:
            self.rows.append(np.array(X[: self.budget - self.asked], dtype=np.float32))
        if len(hits) and not self.told_at and self.asked + hits[0] < self.budget:
            self.told_at = self.asked + int(hits[0]) + 1
        self.asked += len(X)
        if self.asked >= self.budget or (self.told_at and self.stop):
            raise Spent

    def _guarded(self, method: str, row: np.ndarray, account: Any) -> np.ndarray:
        """Ask about one row; who is refused takes it that nothing has changed."""
        try:
            return getattr(self.guard, method)(row, account=account)
        except QueryRefused:
            self.refused += 1
            own = np.array([self.label])
            if method == "predict":
                return own
            return (own[:, None] == self.classes_).astype(np.float64)

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        if self.guard is None:
            proba = self.model.predict_proba(X)
            self._note(X, proba.argmax(axis=1))
            return proba
        return np.concatenate([self._one("predict_proba", row[None]) for row in X])

    def predict(self, X: np.ndarray) -> np.ndarray:
        if self.guard is None:
            columns = self.model.predict_proba(X).argmax(axis=1)
            self._note(X, columns)
            return self.classes_[columns]
        return np.concatenate([self._one("predict", row[None]) for row in X])

    def _one(self, method: str, row: np.ndarray) -> np.ndarray:
        found = self._guarded(method, row, "mallory")
        if method == "predict":
            told = np.searchsorted(self.classes_, found)
        else:
            told = found.argmax(axis=1)
        self._note(row, told)
        return found


def random_search(oracle: Oracle, *, seed: int) -> None:
    attack = RandomSearch(
        oracle.radius, max_queries=oracle.budget, interior=False, random_state=seed
    )
    attack.run(oracle, oracle.x[None], np.array([oracle.label]))


def hop_skip_jump(oracle: Oracle, *, seed: int) -> None:
    attack = HopSkipJump(
        max_queries=oracle.budget,
        eps=oracle.radius,
        norm="l2",
        start="noise",
        random_state=seed,
    )
    attack.run(oracle, oracle.x[None], np.array([oracle.label]))


def nes(
    oracle: Oracle,
    *,
    seed: int,
    samples: int = 20,
    sigma: float = 0.001,
    step: float = 0.02,
) -> None:
    """Gradients from pairs of probes (Ilyas et al. 2018, arXiv:1804.08598)."""
    rng = np.random.default_rng(seed)
    x = oracle.x.astype(np.float64)
    low, high = np.maximum(x - oracle.radius, 0), np.minimum(x + oracle.radius, 1)
    column = int(np.searchsorted(oracle.classes_, oracle.label))
    point = x.copy()
    oracle.predict_proba(point[None])
    while True:
        noise = rng.normal(size=(samples // 2, *x.shape))
        noise = np.concatenate([noise, -noise])
        scores = np.log(oracle.predict_proba(point + sigma * noise) + 1e-300)
        lead = np.delete(scores, column, axis=1).max(axis=1) - scores[:, column]
        gradient = np.tensordot(lead, noise, axes=1)
        point = np.clip(point + step * np.sign(gradient), low, high)
        oracle.predict_proba(point[None])


class _AsNet(nn.Module):
    def __init__(self, oracle: Oracle) -> None:
        super().__init__()
        self.oracle = oracle

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        labels = self.oracle.predict(x.numpy())
        return torch.from_numpy(labels[:, None] == self.oracle.classes_).float()


def boundary(oracle: Oracle, *, seed: int) -> None:
    """The Boundary attack of foolbox, from a blend with noise."""
    import foolbox

    start = foolbox.attacks.LinearSearchBlendedUniformNoiseAttack(
        directions=50, steps=30
    )
    attack = foolbox.attacks.BoundaryAttack(init_attack=start, steps=oracle.budget)
    model = foolbox.PyTorchModel(_AsNet(oracle).eval(), bounds=(0, 1), device="cpu")
    column = int(np.searchsorted(oracle.classes_, oracle.label))
    with seeded(seed):
        x = torch.from_numpy(oracle.x[None].astype(np.float32))
        try:
            attack(model, x, torch.tensor([column]), epsilons=None)
        except ValueError as error:  # no noise was answered otherwise
            if "init_attack" not in str(error):
                raise


ATTACKS: dict[str, Callable[..., None]] = {
    "random": random_search,
    "hop-skip-jump": hop_skip_jump,
    "boundary": boundary,
    "nes": nes,
}


def run(attack: str, oracle: Oracle, seed: int) -> Oracle:
    """Run an attack until it ends, or is ended."""
    with contextlib.suppress(Spent):
        ATTACKS[attack](oracle, seed=seed)
    return oracle


class Watcher:
    """What an attacker who knows of the guard sees: answers, and that he is noticed.

    Any difference serves him (after OARS, Feng et al. 2023, arXiv:2303.06280): a
    refusal, an answer that took long, probabilities that became a label. Where answers
    may be decoys he asks again from another account with the last bit changed, and
    takes two labels that differ for a sign. ``accounts="many"`` gives each query an
    account of its own.
    """

    def __init__(
        self, oracle: Oracle, action: str, accounts: str, delay: float
    ) -> None:
        self.oracle, self.action, self.accounts = oracle, action, accounts
        self.delay, self.waited = delay, 0.0
        self._names = itertools.count()

    def ask(self, row: np.ndarray) -> tuple[np.ndarray | None, bool]:
        """Return probabilities or None, and whether he sees that he is noticed."""
        proba = self._ask(row, self._account())
        if self.action == "decoy":
            bent = np.nextafter(row, np.float32(0.5)).astype(np.float32)
            again = self._ask(bent, next(self._names))
            if proba.argmax() != again.argmax():
                return again, True
            return proba, False
        if proba is None:
            return None, True
        if self.action == "delay":
            return proba, self._was_delayed
        return proba, bool(self.action == "label" and proba.max() == 1)

    def _account(self) -> Any:
        return next(self._names) if self.accounts == "many" else "mallory"

    def _ask(self, row: np.ndarray, account: Any) -> Any:
        oracle = self.oracle
        before = self._suspicious()
        try:
            proba = oracle.guard.predict_proba(row[None], account=account)
        except QueryRefused:
            oracle.refused += 1
            oracle._note(row[None], np.array([-1]))
            return None
        # the clock of the benchmark does not wait
        self._was_delayed = self.action == "delay" and self._suspicious() > before
        self.waited += self.delay * self._was_delayed
        oracle._note(row[None], proba.argmax(axis=1))
        return proba[0]

    def _suspicious(self) -> int:
        return self.oracle.guard.stats()["suspicious_rows"]


def adaptive_search(watcher: Watcher, *, seed: int) -> None:
    """Random search that keeps so far from its own queries that it is not noticed.

    First the share of the row that a proposal changes is found by halving, so that at
    most half of the proposals are noticed; then proposals that are noticed are drawn
    anew, from a larger share.
    """
    oracle = watcher.oracle
    rng = np.random.default_rng(seed)
    x = oracle.x.astype(np.float32)
    low = np.maximum(x - np.float32(oracle.radius), 0)
    high = np.minimum(x + np.float32(oracle.radius), 1)
    column = int(np.searchsorted(oracle.classes_, oracle.label))

    def proposal(center: np.ndarray, share: float) -> np.ndarray:
        corner = np.where(rng.random(x.shape) < 0.5, low, high)
        return np.where(_window(rng, x.shape, share), corner, center)

    smallest, largest = 0.01, 1.0
    for _ in range(5):
        share = np.sqrt(smallest * largest)
        noticed = sum(watcher.ask(proposal(x, share))[1] for _ in range(4))
        smallest, largest = (share, largest) if noticed > 2 else (smallest, share)
    share, best, lead = largest, x, -np.inf
    while True:
        tried = proposal(best, share)
        proba, noticed = watcher.ask(tried)
        share = min(1.0, 1.3 * share) if noticed else max(0.01, 0.97 * share)
        if proba is None:
            continue
        found = np.delete(proba, column).max() - proba[column]
        if found > lead or (found == lead and not noticed):
            best, lead = tried, found


def _window(rng: np.random.Generator, shape: tuple[int, ...], share: float) -> Any:
    """Draw a square window of an image, or some features of a row."""
    if len(shape) == 1:
        return rng.random(shape) < share
    side = max(1, round(np.sqrt(share) * min(shape[:2])))
    top, left = (int(rng.integers(0, n - side + 1)) for n in shape[:2])
    inside = np.zeros(shape, dtype=bool)
    inside[top : top + side, left : left + side] = True
    return inside
