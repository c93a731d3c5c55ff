"""What the benchmark of queries counts as a success, as noticed, and as honest."""

import warnings

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression

from benchmarks import bench_queries
from benchmarks._query_attacks import ATTACKS, NORMS, Oracle, Spent, Watcher, run
from benchmarks._query_clients import CLIENTS
from benchmarks._query_speed import Straightforward
from sk_advdef import GuardedClassifier, SimilarQueryDetector

X, y = load_digits(return_X_y=True)
X = (X / 16).astype(np.float32)
model = LogisticRegression(C=0.1, max_iter=1000).fit(X[:500], y[:500])
monitor = FrozenEstimator(
    SimilarQueryDetector(false_positive_rate=0.01, random_state=0).fit(X[:1000])
)
ROW = 1000 + int(np.flatnonzero(model.predict(X[1000:]) == y[1000:])[0])


def oracle(**params):
    given = {"radius": 0.3, "norm": "linf", "budget": 50} | params
    return Oracle(model, X[ROW], y[ROW], **given)


def guard(action):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        found = GuardedClassifier(
            FrozenEstimator(model), monitor=monitor, action=action, delay=0.0
        )
        found._open()
    return found


def wrong_row(radius):
    """Return a row of another label, so far away."""
    run_on = oracle(budget=2000, radius=radius, keep=True)
    run("random", run_on, 0)
    return run_on.rows[-1][-1]


def test_a_success_is_wrong_told_and_in_the_ball():
    wrong = wrong_row(0.3)
    assert model.predict(wrong[None]) != y[ROW]
    for asked, told in ((oracle(), 2), (oracle(radius=0.01), 0)):
        asked.predict(X[ROW][None])
        if told:
            with pytest.raises(Spent):
                asked.predict(wrong[None])
        else:
            asked.predict(wrong[None])
        assert asked.told_at == told and asked.asked == 2
    with pytest.raises(Spent):
        oracle(budget=3).predict(np.repeat(X[ROW][None], 3, axis=0))
    # one beyond the budget does not count
    late = oracle(budget=1)
    with pytest.raises(Spent):
        late.predict(np.stack([X[ROW], wrong]))
    assert late.told_at == 0


def test_who_is_refused_is_told_nothing():
    asked = oracle(guard=guard("reject"), budget=100)
    rng = np.random.default_rng(0)
    rows = X[ROW] + rng.uniform(-0.02, 0.02, (20, 64)).astype(np.float32)
    proba = asked.predict_proba(rows)
    assert asked.refused >= 10
    assert (proba.max(axis=1) == 1).sum() == asked.refused
    assert (asked.predict(rows) == y[ROW]).all()


@pytest.mark.parametrize("action", ["reject", "delay", "label", "flag", "decoy"])
def test_what_an_attacker_sees(action):
    asked = oracle(guard=guard(action), budget=500, stop=False)
    watcher = Watcher(asked, action, "one", delay=1.0)
    rng = np.random.default_rng(0)
    rows = X[ROW] + rng.uniform(-0.02, 0.02, (20, 64)).astype(np.float32)
    seen = [watcher.ask(row)[1] for row in rows]
    flagged = asked.guard.stats()["suspicious_rows"]
    assert flagged >= 10 and not seen[0]
    if action in ("flag", "decoy"):
        # near the row all decoys say what the model says
        assert not any(seen)
    else:
        assert sum(seen) == flagged and all(seen[10:])
    assert watcher.waited == (flagged if action == "delay" else 0)


@pytest.mark.parametrize("attack", ATTACKS)
def test_attacks_stay_within_what_they_may_ask(attack):
    asked = run(attack, oracle(norm=NORMS[attack], keep=True, budget=40), 0)
    rows = np.concatenate(asked.rows)
    assert len(rows) <= 40 and rows.min() >= -0.01 and rows.max() <= 1.01


def test_the_first_alarms_are_summed_up_with_those_that_never_came():
    first = np.array([2, 3, 3, np.inf])
    assert bench_queries.summary(first) == {"noticed": 0.75, "median": 3, "p95": None}
    first = np.arange(1.0, 101)
    assert bench_queries.summary(first)["p95"] == 95


def test_honest_clients_ask_what_they_say():
    rng = np.random.default_rng(0)
    images = rng.random((300, 28, 28)).astype(np.float32)
    for name, client in CLIENTS.items():
        asked, left = client(images, 64, rng)
        assert asked.shape == (64, 28, 28) and asked.dtype == np.float32, name
        assert len(left) < 300 and (left[-1] == images[-1]).all()
    retries, _ = CLIENTS["retries"](images, 64, rng)
    assert len(np.unique(retries, axis=0)) == 16
    coalitions, _ = CLIENTS["kernelshap"](images, 2000, rng)
    shown = (coalitions != images[0].mean()).mean(axis=(1, 2)) * 16
    # Shapley's kernel: the weight of sizes s falls as 1 / (s (16 - s))
    share = np.bincount(np.rint(shown).astype(int), minlength=17) / 2000
    weight = 1 / (np.arange(1, 16) * np.arange(15, 0, -1))
    np.testing.assert_allclose(share[1:16], weight / weight.sum(), atol=0.04)


def test_the_straightforward_version_counts_hashes_in_common():
    rng = np.random.default_rng(0)
    plain, image = Straightforward((8, 8, 3)), rng.random((8, 8, 3))
    assert plain.observe(image) == 0
    assert plain.observe(image) == 50
    other = image.copy()
    other[:2] = rng.random((2, 8, 3))
    assert 0 < plain.observe(other) < 50
    assert plain.observe(rng.random((8, 8, 3))) == 0
