"""Clocks that jump: nobody is locked out for ever, and no limit stays open."""

import contextlib
import sqlite3

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression

from sk_advdef import GuardedClassifier, QueryRefused, SimilarQueryDetector
from sk_advdef.concealment._columns import Bounds
from sk_advdef.concealment._gcra import SECOND
from sk_advdef.concealment._history import History, Query
from sk_advdef.concealment._matching import Neighbors
from sk_advdef.concealment._memory_store import MemoryStore
from sk_advdef.concealment._store import open_store
from sk_advdef.concealment._watch import Watch
from tests._instances import make_rows
from tests.concealment._stores import EVERY_STORE, SHARED_STORE

YEAR = 365 * 86400
X, y = make_rows(n_samples=120)
frozen = FrozenEstimator(LogisticRegression().fit(X, y))


class Clock:
    def __init__(self):
        self.now = 1_800_000_000.0

    def __call__(self):
        return self.now


def passes(guarded, rows=1, account="alice"):
    try:
        guarded.predict(X[:rows], account=account)
    except QueryRefused as refused:
        assert refused.reason == "rate"
        return False
    return True


@EVERY_STORE
@pytest.mark.parametrize("jump", [-YEAR, -3600])
def test_a_clock_that_is_set_back_locks_nobody_out(jump, uri):
    clock = Clock()
    guarded = GuardedClassifier(frozen, limit="6/minute", store=uri, clock=clock)
    assert passes(guarded, 6)
    clock.now += jump
    # as one who has asked for more than he may: at most two minutes for the first row
    waited = 0
    while not passes(guarded):
        waited += 10
        clock.now += 10
        assert waited <= 120
    assert waited > 0
    # and then the limit is what it was
    clock.now += 60
    assert passes(guarded, 6) and not passes(guarded)


@EVERY_STORE
def test_a_clock_that_jumps_forward_and_is_set_right(uri):
    clock = Clock()
    guarded = GuardedClassifier(frozen, limit="6/minute", store=uri, clock=clock)
    assert passes(guarded, 6)
    clock.now += YEAR
    # one more burst, as after any pause
    assert passes(guarded, 6) and not passes(guarded)
    clock.now -= YEAR
    assert not passes(guarded)
    clock.now += 120
    assert passes(guarded)


@given(
    jumps=st.lists(
        st.tuples(st.sampled_from([0, 1, 30, YEAR, -1, -30, -YEAR]), st.integers(1, 3)),
        max_size=40,
    )
)
def test_whatever_a_clock_does_an_honest_wait_is_enough(jumps):
    store, now = MemoryStore(), 2 * YEAR * 60 * SECOND
    for jump, rows in jumps:
        now += jump * SECOND
        store.hit({b"a": rows * SECOND}, 6 * SECOND, now)
    # asks once a second, which also tells the store that the clock was set back
    for _ in range(19):
        if store.hit({b"a": 6 * SECOND}, 6 * SECOND, now) == 0:
            return
        now += SECOND
    pytest.fail("locked out for longer than three times the burst")


@SHARED_STORE
def test_a_guard_of_a_lower_limit_does_not_open_that_of_another(uri):
    clock = Clock()
    day = GuardedClassifier(frozen, limit="6/day", store=uri, clock=clock)
    second = GuardedClassifier(frozen, limit="1/second", store=uri, clock=clock)
    assert passes(day, 6) and passes(second) and not passes(second)
    clock.now += 5
    assert passes(second) and not passes(day)


def query(time, *values, account=b"a"):
    code = np.array(values, dtype=np.float32)
    return Query(account, time, hash(values) & (2**63 - 1), code)


def history(age=100.0):
    return History(Neighbors(2, 1, 10.0, "shared"), Bounds(1000, 1000, age))


def test_rows_from_a_time_to_come_grow_old():
    found = history()
    for i in range(5):
        found.observe(query(1e9 + i, i, 0))
    for i in range(5):  # set back by a year
        found.observe(query(1e9 - YEAR + i, i, 1))
    assert found.n_alive == 10
    found.observe(query(1e9 - YEAR + 105, 0, 2))
    assert found.n_alive == 1


def test_the_clock_of_one_host_does_not_make_others_forget(tmp_path):
    def watch(store):
        return Watch(history(), np.float32, store, "log")

    store = open_store("test", f"sqlite:///{tmp_path}/guard.db")
    here, elsewhere = watch(store), watch(store)
    here.observe([query(1e9, 0, 0)])
    for wrong in (YEAR, -YEAR):
        elsewhere.observe([query(1e9 + wrong, wrong, 1, account=b"b")])
        seen = here.observe([query(1e9 + 1, wrong, 2)])
        assert seen[0].score < 10.0  # it was compared to what is remembered
    assert here.history.n_alive == 5
    assert (here.history.columns["time"][:5] <= 1e9 + 1).all()
    store.close()


@pytest.mark.parametrize("lost", ["removed", "set back"])
def test_a_log_whose_numbers_begin_anew_is_read_from_its_start(lost, tmp_path):
    """What others were asked since must not be passed over."""
    path = tmp_path / "guard.db"
    store = open_store("test", f"sqlite:///{path}")
    here, elsewhere = (Watch(history(), np.float32, store, "log") for _ in range(2))
    for i in range(20):
        here.observe([query(1e9, i, 0)])
    if lost == "removed":
        for file in tmp_path.iterdir():
            file.unlink()
    else:
        with contextlib.closing(sqlite3.connect(path)) as file, file:
            file.execute("DELETE FROM log")
            file.execute("UPDATE sqlite_sequence SET seq = 5")
    for i in range(10):
        elsewhere.observe([query(1e9, i, 1, account=b"b")])
    (seen,) = here.observe([query(1e9, 0, 1.25, account=b"c")])
    assert seen.score == pytest.approx(0.25)
    assert here.history.n_alive == 31
    store.close()


def test_a_repeat_of_what_is_too_old_is_told_to_all(tmp_path):
    store = open_store("test", f"sqlite:///{tmp_path}/guard.db")
    here, elsewhere = (
        Watch(history(age=10.0), np.float32, store, "log") for _ in range(2)
    )
    for when in (1e9, 1e9 + 20):
        here.observe([query(when, 1, 0)])
    (seen,) = elsewhere.observe([query(1e9 + 21, 1, 0.25, account=b"b")])
    assert seen.score == pytest.approx(0.25)
    store.close()


def test_suspicion_survives_a_clock_that_is_set_back():
    clock = Clock()
    monitor = SimilarQueryDetector(
        false_positive_rate=0.05, max_age=60.0, random_state=0
    ).fit(X)
    guarded = GuardedClassifier(
        frozen, monitor=FrozenEstimator(monitor), action="flag", clock=clock
    )
    near = X[:1] + np.linspace(0, 1e-3, 10)[:, None]
    assert guarded.admit(near[:5], account="mallory").any()
    clock.now -= YEAR
    assert guarded.admit(near[5:], account="mallory").all()
    # and what it remembers still has an end
    clock.now += 61
    guarded.admit(X[5:6], account="alice")
    assert guarded.stats()["history_rows"] == 1
