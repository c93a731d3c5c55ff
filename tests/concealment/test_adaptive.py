"""Attackers who know of the guard: what they lose, and what is seen of them."""

import warnings

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression

from sk_advdef import GuardedClassifier, QueryRefused, SimilarQueryDetector

EPS, BUDGET, VICTIMS = 0.2, 200, 12

X, y = load_digits(return_X_y=True)
order = np.random.default_rng(0).permutation(len(X))
X, y = X[order] / 16, y[order]
model = LogisticRegression(C=0.1, max_iter=1000).fit(X[:500], y[:500])
right = 1500 + np.flatnonzero(model.predict(X[1500:]) == y[1500:])[:VICTIMS]


def search(guard, x, label, rng, accounts, adapts):
    """Random search on scores; one who adapts asks further apart after a refusal."""
    low, high = np.maximum(x - EPS, 0), np.minimum(x + EPS, 1)
    best, lead, share, account = x, -np.inf, 1.0, 0
    for query in range(BUDGET):
        tried = best.copy()
        at = rng.choice(len(x), max(1, int(share * len(x))), replace=False)
        tried[at] = np.where(rng.random(len(at)) < 0.5, low[at], high[at])
        account = query if accounts == "many" else account
        try:
            proba = guard.predict_proba(tried[None], account=account)[0]
        except QueryRefused:
            account += accounts == "next"
            share = min(1.0, 1.3 * share) if adapts else share
            continue
        share = max(0.05, 0.93 * share)
        ahead = np.delete(proba, label).max() - proba[label]
        if ahead > lead:
            best, lead = tried, ahead
        if lead > 0:
            return True
    return False


def outcome(method, scope, action, accounts="one", adapts=False):
    """Return the shares of attacks that succeed and that are noticed."""
    monitor = SimilarQueryDetector(
        method=method, scope=scope, false_positive_rate=0.005, random_state=0
    ).fit(X[:1200])
    wins, noticed = [], []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for seed, row in enumerate(right):
            guard = GuardedClassifier(
                FrozenEstimator(model), monitor=FrozenEstimator(monitor), action=action
            )
            rng = np.random.default_rng(seed)
            wins.append(search(guard, X[row], y[row], rng, accounts, adapts))
            noticed.append(guard.stats()["suspicious_rows"] > 0)
    return np.mean(wins), np.mean(noticed)


@pytest.fixture(scope="module")
def unguarded():
    guard = GuardedClassifier(FrozenEstimator(model))
    return np.mean(
        [
            search(guard, X[row], y[row], np.random.default_rng(seed), "one", False)
            for seed, row in enumerate(right)
        ]
    )


@pytest.mark.parametrize("method", ["knn", "provenance"])
@pytest.mark.parametrize("adapts", [False, True])
def test_rejection_hardly_slows_the_attack(method, adapts, unguarded):
    wins, _ = outcome(method, "account", "reject", adapts=adapts)
    assert unguarded > 0.7
    assert wins >= unguarded - 0.25


@pytest.mark.parametrize("method", ["knn", "fingerprint", "provenance"])
def test_many_accounts_are_seen_by_none_but_the_shared_scope(method, unguarded):
    wins, noticed = outcome(method, "corroborated", "reject", accounts="many")
    assert noticed == 0 and wins == unguarded
    wins, noticed = outcome(method, "shared", "reject", accounts="many")
    assert noticed > 0


def test_another_account_after_each_refusal(unguarded):
    wins, noticed = outcome("fingerprint", "account", "reject", accounts="next")
    assert noticed > 0 and wins >= unguarded - 0.25


def test_an_attack_that_is_flagged_goes_on_as_before(unguarded):
    wins, noticed = outcome("fingerprint", "account", "flag")
    assert wins == unguarded and noticed > 0
