"""Redis servers that are gone, held up, started again, full or read-only."""

import signal
import time

import pytest
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression

from sk_advdef import GuardedClassifier, QueryRefused, SimilarQueryDetector
from tests._instances import make_rows

pytestmark = pytest.mark.service

X, y = make_rows(n_samples=120)
frozen = FrozenEstimator(LogisticRegression().fit(X, y))
monitor = FrozenEstimator(
    SimilarQueryDetector(false_positive_rate=0.05, random_state=0).fit(X)
)
MODES = pytest.mark.parametrize("mode", ["closed", "open"])


def make(server, mode="closed", timeout=0.5):
    return GuardedClassifier(
        frozen,
        limit="4/hour",
        monitor=monitor,
        action="flag",
        store=server.uri(timeout),
        on_store_failure=mode,
    )


def reason(guarded):
    with pytest.raises(QueryRefused) as caught:
        guarded.predict(X[:1], account="alice")
    return caught.value.reason


def holds(guarded, mode):
    if mode == "closed":
        assert reason(guarded) == "unavailable"
    else:
        for _ in range(6):
            guarded.predict(X[:1], account="alice")
        assert guarded.stats()["answered_without_store"] >= 6


@MODES
def test_gone_at_the_start_and_there_later(mode, server):
    guarded = make(server, mode)
    holds(guarded, mode)
    server.start()
    guarded.predict(X[:4], account="alice")
    assert reason(guarded) == "rate"


@MODES
def test_gone_midway_and_started_again_without_its_state(mode, server):
    server.start()
    guarded, other = make(server, mode), make(server, mode)
    guarded.predict(X[:4], account="alice")
    assert reason(guarded) == "rate"
    server.kill()
    holds(guarded, mode)
    server.start()
    # what it kept is gone: each account has its burst again, all guards together
    guarded.predict(X[:2], account="alice")
    other.predict(X[2:4], account="alice")
    assert reason(guarded) == reason(other) == "rate"
    # what this process has seen it still remembers
    assert guarded.stats()["history_rows"] >= 4


def test_started_again_with_its_state(server):
    kept = ("--appendonly", "yes", "--appendfsync", "always")
    server.start(*kept)
    guarded = make(server)
    guarded.predict(X[:4], account="alice")
    server.kill()
    server.start(*kept)
    assert reason(guarded) == "rate"
    fresh = make(server)
    assert reason(fresh) == "rate"
    # a process that is new to it learns what the others saw
    fresh.predict(X[10:11], account="bob")
    assert fresh.stats()["history_rows"] == 5


@MODES
def test_held_up(mode, server):
    server.start()
    guarded = make(server, mode, timeout=0.1)
    guarded.predict(X[:1], account="alice")
    server.process.send_signal(signal.SIGSTOP)
    started = time.monotonic()
    holds(guarded, mode)
    # two questions a call, of 0.1 seconds each, on a machine however slow
    assert time.monotonic() - started < 30
    server.process.send_signal(signal.SIGCONT)
    for _ in range(200):
        try:
            guarded.predict(X[:1], account="bob")
            break
        except QueryRefused:
            time.sleep(0.01)
    else:
        pytest.fail("the guard did not find the server again")


REFUSALS = {
    "read-only": ["REPLICAOF", "127.0.0.1", "1"],
    "full": ["CONFIG", "SET", "maxmemory", "1"],
    "too few replicas": ["CONFIG", "SET", "min-replicas-to-write", "3"],
    "another password": ["CONFIG", "SET", "requirepass", "hunter2"],
}


@MODES
@pytest.mark.parametrize("why", REFUSALS)
def test_a_server_that_takes_nothing(why, mode, server, caplog):
    import redis

    server.start()
    guarded = make(server, mode)
    guarded.predict(X[:1], account="alice")
    with redis.Redis(port=server.port) as client:
        client.execute_command(*REFUSALS[why])
    guarded._gate().store._client.connection_pool.disconnect()
    holds(guarded, mode)
    assert "the store of a guard failed: redis: " in caplog.text


@MODES
def test_a_key_of_another_kind(mode, server):
    import redis

    server.start()
    guarded = make(server, mode)
    guarded.predict(X[:1], account="alice")
    with redis.Redis(port=server.port) as client:
        for key in client.keys("*ahead*"):
            client.delete(key)
            client.rpush(key, "what another program keeps here")
    holds(guarded, mode)
