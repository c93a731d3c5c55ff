"""SQLite stores that are full, gone, cut, locked or read-only, and those killed."""

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import time

import pytest
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression

from sk_advdef import GuardedClassifier, QueryRefused, SimilarQueryDetector
from sk_advdef.concealment._columns import Bounds
from sk_advdef.concealment._gcra import SECOND
from sk_advdef.concealment._sqlite_store import SqliteStore
from sk_advdef.concealment._store import StoreError
from tests._instances import make_rows
from tests.concealment._stores import entries
from tests.faults._disk import full_disk

NOW = 1_800_000_000 * SECOND
X, y = make_rows(n_samples=120)
frozen = FrozenEstimator(LogisticRegression().fit(X, y))
monitor = FrozenEstimator(
    SimilarQueryDetector(false_positive_rate=0.05, random_state=0).fit(X)
)


@pytest.fixture
def store(tmp_path):
    found = SqliteStore(str(tmp_path / "guard.db"), 0.2)
    yield found
    found.close()


@pytest.fixture
def guard(tmp_path):
    def make(mode="closed", **params):
        return GuardedClassifier(
            frozen,
            store=f"sqlite:///{tmp_path}/guard.db?timeout=0.2",
            on_store_failure=mode,
            action="flag",
            **{"limit": "4/hour"} | params,
        )

    return make


def refused(ask):
    with pytest.raises(QueryRefused) as caught:
        ask(X[:1], account="alice")
    return caught.value.reason


def holds(guarded, mode):
    """A guard whose store fails does what it was told to."""
    if mode == "closed":
        assert refused(guarded.predict) == "unavailable"
        assert guarded.stats()["refused_as_unavailable"] >= 1
    else:
        for _ in range(6):
            assert guarded.predict(X[:1], account="alice").shape == (1,)
        assert guarded.stats()["answered_without_store"] >= 6


MODES = pytest.mark.parametrize("mode", ["closed", "open"])


@MODES
def test_full(mode, guard, caplog):
    guarded = guard(mode, monitor=monitor)
    guarded.predict(X[:1], account="alice")
    with full_disk(10):
        holds(guarded, mode)
    assert "the store of a guard failed: sqlite: " in caplog.text
    # with room again it goes on where it was, by itself
    guarded.predict(X[1:4], account="alice")
    assert refused(guarded.predict) == "rate"


def test_full_in_the_middle_takes_all_or_none(store):
    store.append("log", entries(b"x"), 0, Bounds(99, 99, 86400))
    with full_disk(1 << 16), pytest.raises(StoreError, match="sqlite: "):
        store.append("log", entries(*[b"y" * 4000] * 40), 0, Bounds(99, 99, 86400))
    first, _ = store.append("log", entries(b"z"), 0, Bounds(99, 99, 86400))
    assert store.read("log", 0, first) == [(first - 1, b"x")]


@MODES
def test_cut_while_it_is_in_use(mode, guard, tmp_path):
    guarded = guard(mode)
    guarded.predict(X[:1], account="alice")
    with contextlib.closing(sqlite3.connect(tmp_path / "guard.db")) as other:
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    (tmp_path / "guard.db").write_bytes(b"no database " * 500)
    (tmp_path / "guard.db-wal").unlink(missing_ok=True)
    holds(guarded, mode)
    # what to do: take the file away
    for path in tmp_path.glob("guard.db*"):
        path.unlink()
    guarded.predict(X[:4], account="alice")
    assert refused(guarded.predict) == "rate"


def test_removed_while_it_is_in_use(guard, tmp_path, caplog):
    """Two processes that go on with two files would each let a whole limit pass."""
    one, other = guard(), guard()
    one.predict(X[:4], account="alice")
    assert refused(other.predict) == "rate"
    for path in tmp_path.glob("guard.db*"):
        path.unlink()
    # what was remembered is gone, and that is told
    one.predict(X[:2], account="alice")
    assert "was removed or replaced" in caplog.text
    other.predict(X[:2], account="alice")
    assert refused(one.predict) == refused(other.predict) == "rate"


@MODES
def test_folder_removed(mode, guard, tmp_path):
    guarded = guard(mode)
    guarded.predict(X[:1], account="alice")
    for path in tmp_path.iterdir():
        path.unlink()
    tmp_path.rmdir()
    holds(guarded, mode)
    tmp_path.mkdir()
    guarded.predict(X[:4], account="alice")


@MODES
def test_locked_by_another_process(mode, guard, tmp_path):
    guarded = guard(mode)
    guarded.predict(X[:1], account="alice")
    code = (
        "import sqlite3, sys\n"
        "c = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "c.execute('BEGIN EXCLUSIVE'); print('locked', flush=True); input()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "guard.db")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        other.stdout.readline()
        started = time.monotonic()
        holds(guarded, mode)
        # six calls at most, of 0.2 seconds each, on a machine however slow
        assert time.monotonic() - started < 30
        other.kill()
    guarded.predict(X[:3], account="alice")
    assert refused(guarded.predict) == "rate"


def in_a_fork(run):
    """Run in a child that may be killed; return what became of it."""
    child = os.fork()
    if child == 0:
        code = 1
        with contextlib.suppress(BaseException):
            run()
            code = 0
        os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


FORK = pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
QUIET = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


@FORK
@QUIET
def test_killed_in_the_middle_of_a_write(store):
    """What was answered is kept, what was not is not, and the file is whole."""

    def run():
        assert store.hit({b"a": SECOND}, 3 * SECOND, NOW) == 0
        with store._transaction() as connection:
            connection.execute("REPLACE INTO ahead VALUES (?, ?)", (b"a", NOW * 2))
            connection.execute("REPLACE INTO ahead VALUES (?, ?)", (b"b", NOW * 2))
            os.kill(os.getpid(), signal.SIGKILL)

    assert in_a_fork(run) == -signal.SIGKILL
    assert store.hit({b"b": 3 * SECOND}, 3 * SECOND, NOW) == 0
    assert store.hit({b"a": 2 * SECOND}, 3 * SECOND, NOW) == 0
    assert store.hit({b"a": 1}, 3 * SECOND, NOW) == 1
    with store._transaction() as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


@FORK
@QUIET
def test_read_only(tmp_path_factory):
    folder = tmp_path_factory.mktemp("read-only")
    path = folder / "guard.db"
    store = SqliteStore(str(path), 0.2)
    store.hit({b"a": 1}, SECOND, NOW)
    store.close()

    def run():
        if os.geteuid() == 0:  # whom permissions do not hold back
            os.setuid(65534)
        with pytest.raises(StoreError, match=r"sqlite: .*(readonly|ermission)"):
            SqliteStore(str(path), 0.2).hit({b"a": 1}, SECOND, NOW)

    parents = [p for p in folder.parents if p.stat().st_uid == os.getuid()]
    modes = {p: p.stat().st_mode for p in parents if p.stat().st_mode & 0o001 == 0}
    path.chmod(0o444)
    folder.chmod(0o555)
    try:
        for parent in modes:
            parent.chmod(modes[parent] | 0o011)
        assert in_a_fork(run) == 0
    finally:
        for parent, mode in modes.items():
            parent.chmod(mode)
        folder.chmod(0o755)


def test_a_key_pressed_in_a_transaction_leaves_none_open(store):
    with pytest.raises(KeyboardInterrupt), store._transaction() as connection:
        connection.execute("REPLACE INTO ahead VALUES (?, ?)", (b"a", NOW * 2))
        raise KeyboardInterrupt
    assert not store._lock.locked()
    assert store.hit({b"a": SECOND}, SECOND, NOW) == 0
