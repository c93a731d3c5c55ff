import os
import socket
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sk_advdef.concealment._columns import Bounds
from sk_advdef.concealment._gcra import SECOND, forced, gcra, parse_rate
from sk_advdef.concealment._memory_store import MemoryStore
from sk_advdef.concealment._sqlite_store import SqliteStore
from sk_advdef.concealment._store import END, PAGE, StoreError, open_store
from tests.concealment._stores import (
    EVERY_STORE,
    SHARED_STORE,
    append_and_read,
    entries,
    in_processes,
)

NOW = 1_800_000_000 * SECOND


class Guard:
    """Stands for whose parameters they are."""


@pytest.mark.parametrize(
    "limit, burst, interval, ahead",
    [
        ("60/minute", None, SECOND, 60),
        (" 10 / second", 3, SECOND // 10, 3),
        ("7/hour", None, 514_285_715, 7),
        ("1/day", 1, 86400 * SECOND, 1),
        ("1000000/second", None, 1, 1_000_000),
    ],
)
def test_rate(limit, burst, interval, ahead):
    rate = parse_rate(Guard(), limit, burst)
    assert (rate.interval, rate.tolerance) == (interval, interval * ahead)
    assert rate.debit(1) == interval and rate.debit(2.5) >= 2.5 * interval


@pytest.mark.parametrize(
    "limit", [60, "60", "0/minute", "1.5/minute", "-1/day", "9/week", "9999999/day", ""]
)
def test_bad_rate(limit):
    with pytest.raises(ValueError, match="'limit' parameter of Guard must be None or"):
        parse_rate(Guard(), limit, None)


@pytest.mark.parametrize("burst", [0, -1, 1.5, True, "3", 10**7])
def test_bad_burst(burst):
    with pytest.raises(ValueError, match="'burst' parameter of Guard"):
        parse_rate(Guard(), "1/second", burst)


def test_burst_of_more_than_a_lifetime():
    with pytest.raises(ValueError, match="at most 11574 with a limit of '1/day'"):
        parse_rate(Guard(), "1/day", 20_000)
    assert parse_rate(Guard(), None, None) is None


@given(
    steps=st.lists(
        st.tuples(st.integers(0, 5 * SECOND), st.integers(1, 3)), max_size=60
    ),
    ahead=st.integers(1, 6),
)
def test_gcra_is_a_bucket_that_refills(steps, ahead):
    """Equal to counting tokens: full at first, one more each second, never over."""
    until, now, tokens = 0, NOW, ahead * SECOND
    for pause, cost in steps:
        now += pause
        tokens = min(ahead * SECOND, tokens + pause)
        new, wait = gcra(until, now, cost * SECOND, ahead * SECOND)
        assert (wait <= 0) == (tokens >= cost * SECOND)
        if wait <= 0:
            until, tokens = new, tokens - cost * SECOND
        else:
            assert wait == cost * SECOND - tokens


@given(until=st.integers(0, 2 * NOW), debit=st.integers(0, NOW))
def test_debt_and_a_clock_set_back_are_bounded(until, debit):
    new = forced(until, NOW, debit, 60 * SECOND)
    assert NOW <= new <= NOW + 120 * SECOND
    assert gcra(until, NOW, SECOND, 60 * SECOND)[1] <= 61 * SECOND


@EVERY_STORE
def test_hit_takes_all_or_none(uri):
    store = open_store(Guard(), uri)
    assert store.hit({b"a": 2 * SECOND, b"b": SECOND}, 3 * SECOND, NOW) == 0
    assert store.hit({b"a": 2 * SECOND, b"b": SECOND}, 3 * SECOND, NOW) == SECOND
    # b was not charged for what a could not pay
    assert store.hit({b"b": 2 * SECOND}, 3 * SECOND, NOW) == 0
    assert store.hit({b"b": 1}, 3 * SECOND, NOW) == 1
    assert store.hit({b"a": 2 * SECOND}, 3 * SECOND, NOW + SECOND) == 0
    assert store.hit({b"a": 10 * SECOND}, 3 * SECOND, NOW + SECOND, force=True) == 0
    # debt ends at twice the tolerance
    assert store.hit({b"a": SECOND}, 3 * SECOND, NOW + SECOND) == 4 * SECOND
    assert store.hit({b"a": SECOND}, 3 * SECOND, NOW + 5 * SECOND) == 0
    store.close()


@EVERY_STORE
def test_own_clock(uri):
    store = open_store(Guard(), uri)
    assert store.hit({b"a": SECOND}, SECOND) == 0
    assert 0 < store.hit({b"a": SECOND}, SECOND) <= SECOND
    store.close()


@EVERY_STORE
def test_limit_is_exact_under_threads(uri):
    store = open_store(Guard(), uri)
    start = threading.Barrier(8)

    def ask(_):
        start.wait()
        return sum(store.hit({b"a": SECOND}, 100 * SECOND, NOW) == 0 for _ in range(40))

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(ask, range(8))) == 100
    store.close()


@EVERY_STORE
def test_numbers_are_unique_under_threads(uri):
    store = open_store(Guard(), uri)

    def append(i):
        some = entries(b"%d" % i, b"%d!" % i)
        first, _ = store.append("log", some, 0, Bounds(9999, 9999, 86400))
        return [first, first + 1]

    with ThreadPoolExecutor(8) as pool:
        numbers = [n for pair in pool.map(append, range(100)) for n in pair]
    assert len(set(numbers)) == 200
    store.close()


@SHARED_STORE
def test_nothing_is_lost_or_twice_under_processes(uri):
    calls = [(uri, name, 30) for name in "abcd"]
    answers = in_processes(append_and_read, *calls)
    numbers = [number for own, _ in answers for number in own]
    assert len(set(numbers)) == 120
    everything = {}
    for _, seen in answers:
        # all see the same record under the same number
        assert all(everything.setdefault(n, r) == r for n, r in seen.items())
    for own, seen in answers:
        assert sorted(n for n in numbers if n <= own[-1]) == sorted(seen)
    assert sorted(everything.values()) == sorted(
        f"{name}-{i}".encode() for name in "abcd" for i in range(30)
    )


@SHARED_STORE
def test_another_handle_reads_in_pages(uri):
    writer, reader = open_store(Guard(), uri), open_store(Guard(), uri)
    records = [b"%d\0\xff" % i for i in range(PAGE + 10)]
    first, others = writer.append(
        "log", entries(*records), 0, Bounds(9999, 9999, 86400)
    )
    assert others == []
    last, page = reader.append("log", entries(b"mine"), 0, Bounds(9999, 9999, 86400))
    assert last == first + len(records)
    assert page == list(enumerate(records[:PAGE], start=first))
    rest = reader.read("log", page[-1][0], last)
    assert [record for _, record in rest] == records[PAGE:]
    assert reader.read("another log", 0, last) == []
    writer.close()
    reader.close()


@SHARED_STORE
def test_a_flood_leaves_the_entries_of_others(uri):
    store = open_store(Guard(), uri)
    kept = Bounds(10_000, 100, 86400)
    store.append("log", entries(b"one", account=b"bob"), 0, kept)
    for i in range(100):
        flood = entries(*[b"%d" % i] * 10, account=b"mallory")
        last, _ = store.append("log", flood, 0, kept)
    left = [record for _, record in store.read("log", 0, last + 10)]
    assert left[0] == b"one" and 100 <= len(left) - 1 <= 100 + 128
    for _ in range(7):
        last, _ = store.append("log", entries(*[b"x"] * 20), 0, Bounds(5, 9999, 86400))
    assert len(store.read("log", 0, last + 20)) <= 5 + 128
    store.close()


@SHARED_STORE
def test_streams_that_take_turns_are_both_bounded(uri):
    store = open_store(Guard(), uri)
    for _ in range(300):
        for stream in ("one", "other"):
            store.append(stream, entries(b"x"), 0, Bounds(5, 99, 86400))
    for stream in ("one", "other"):
        assert 5 <= len(store.read(stream, 0, END)) <= 5 + 64
    store.close()


def test_sqlite_is_trimmed_by_processes_that_append_little(tmp_path):
    for _ in range(40):
        store = open_store(Guard(), f"sqlite:///{tmp_path}/guard.db")
        store.append("log", entries(b"x"), 0, Bounds(5, 99, 86400))
        left = store.read("log", 0, END)
        store.close()
    assert len(left) == 5


def test_sqlite_forgets_what_is_too_old_in_all_streams(tmp_path, monkeypatch):
    now = [1e9]
    monkeypatch.setattr("sk_advdef.concealment._sqlite_store.time.time", lambda: now[0])
    bounds = Bounds(10**6, 10**6, 100.0)
    store = open_store(Guard(), f"sqlite:///{tmp_path}/guard.db")
    for _ in range(10):
        store.append("left", entries(b"a refit later nobody reads it"), 0, bounds)
    for second in range(250):
        now[0] += 1.0
        store.append("log", entries(b"%d" % second), 0, bounds)
    assert store.read("left", 0, END) == []
    left = [int(record) for _, record in store.read("log", 0, END)]
    # none is lost too early; removed is what is too old, once in 64 entries
    assert left[-100:] == list(range(150, 250)) and len(left) <= 100 + 64 + 2
    with sqlite3.connect(tmp_path / "guard.db") as connection:
        assert connection.execute("SELECT COUNT(*) FROM marks").fetchone()[0] <= 110
    connection.close()
    store.close()


@pytest.mark.parametrize("age", [1e-9, 1e300])
def test_any_age_can_be_stored(age, tmp_path):
    store = open_store(Guard(), f"sqlite:///{tmp_path}/guard.db")
    store.append("log", entries(b"x"), 0, Bounds(9, 9, age))
    store.close()


@pytest.mark.service
@pytest.mark.parametrize("age", [1e-9, 1e300])
def test_redis_takes_any_age(age, redis_uri):
    store = open_store(Guard(), f"{redis_uri}?prefix=age{age}")
    first, _ = store.append("log", entries(b"x"), 0, Bounds(9, 9, age))
    assert store.read("log", 0, first + 1) == [(first, b"x")]
    store.close()


@pytest.mark.service
def test_redis_forgets_what_is_too_old(redis_uri):
    import redis

    store = open_store(Guard(), f"{redis_uri}?prefix=old")
    bounds = Bounds(10**6, 10**6, 1.0)
    store.append("left", entries(b"x"), 0, bounds)
    store.append("log", entries(b"old"), 0, bounds)
    for i in range(30):
        time.sleep(0.05)
        store.append("log", entries(b"%d" % i, account=b"%d" % i), 0, bounds)
    left = [record for _, record in store.read("log", 0, END)]
    assert b"old" not in left and left[-1] == b"29"
    client = redis.Redis.from_url(redis_uri)
    for _ in range(200):
        if not client.keys("old:*"):
            break
        time.sleep(0.05)
    else:
        pytest.fail("keys of logs that nobody uses any more are kept")
    client.close()
    store.close()


def test_memory_forgets_keys_whose_time_has_passed():
    store = MemoryStore()
    for i in range(5000):
        store.hit({b"%d" % i: SECOND}, SECOND, NOW + i * SECOND)
    assert len(store._ahead) <= 1025
    # a key that still waits is never dropped
    store = MemoryStore()
    store.hit({b"a": 10**6 * SECOND}, 10**6 * SECOND, NOW)
    for i in range(3000):
        store.hit({b"%d" % i: SECOND}, SECOND, NOW + i * SECOND)
    assert store.hit({b"a": 10**6 * SECOND}, 10**6 * SECOND, NOW) > 0


def test_no_account_is_over_its_quota_for_being_another_at_the_trim(tmp_path):
    store = SqliteStore(str(tmp_path / "guard.db"), 2.0)
    bounds = Bounds(2000, 10, 86400)
    for i in range(50):
        store.append("log", entries(b"victim", account=b"%d" % i), 0, bounds)
    store.close()
    store.append("log", entries(b"other", account=b"eve"), 0, bounds)
    store._untrimmed.clear()  # as of a process that begins
    for _ in range(60):
        store.append("log", entries(b"other", account=b"eve"), 0, bounds)
        store.append("log", entries(*[b"flood"] * 63, account=b"mallory"), 0, bounds)
    left = [record for _, record in store.read("log", 0, END)]
    assert left.count(b"victim") == 50
    assert left.count(b"flood") <= 10 + 64 and left.count(b"other") <= 10 + 64
    store.close()


def test_sqlite_forgets_keys_though_processes_are_short(tmp_path):
    path = str(tmp_path / "guard.db")
    for life in range(4):
        store = SqliteStore(path, 2.0)
        for i in range(50):
            store.hit({b"%d-%d" % (life, i): 1}, SECOND, NOW + life * SECOND)
        store.close()
    with closing(sqlite3.connect(path)) as file:
        assert file.execute("SELECT COUNT(*) FROM ahead").fetchone()[0] <= 51


def test_sqlite_forgets_what_is_too_old_where_few_append(tmp_path):
    store = SqliteStore(str(tmp_path / "guard.db"), 2.0)
    brief = Bounds(99, 99, 0.1)
    store.append("log", entries(*[b"old"] * 5), 0, brief)
    time.sleep(0.3)
    store.append("log", entries(b"new"), 0, brief)
    assert [record for _, record in store.read("log", 0, END)] == [b"new"]
    store.close()


def test_sqlite_forgets_keys_whose_time_has_passed(tmp_path):
    store = SqliteStore(str(tmp_path / "guard.db"), 2.0)
    for i in range(1001):
        store.hit({b"%d" % i: SECOND}, SECOND, NOW + i * SECOND)
    with sqlite3.connect(tmp_path / "guard.db") as connection:
        assert connection.execute("SELECT COUNT(*) FROM ahead").fetchone()[0] < 10
    connection.close()
    store.close()


def test_sqlite_file_is_the_owners_own(tmp_path):
    store = open_store(Guard(), f"sqlite:///{tmp_path}/guard.db")
    store.hit({b"a": 1}, 1)
    for path in tmp_path.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
    store.close()


ELSEWHERE = """
import sys
from sk_advdef.concealment._sqlite_store import SqliteStore
store = SqliteStore(sys.argv[1], 2.0)
print(store.hit({b"a": int(sys.argv[2])}, int(sys.argv[2]), int(sys.argv[3])))
store.close()
"""


def waits_elsewhere(path):
    """Microseconds that a process of its own is told to wait."""
    arguments = [str(path), str(3600 * SECOND), str(NOW)]
    found = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, *arguments],
        check=True,
        capture_output=True,
        text=True,
    )
    return int(found.stdout)


def test_two_handles_in_one_process_keep_their_locks(tmp_path):
    """Who closes a file elsewhere must not take the journal away from under them."""
    path, hour = tmp_path / "guard.db", 3600 * SECOND
    one, other = (SqliteStore(str(path), 2.0) for _ in range(2))
    one.hit({b"x": 1}, hour, NOW)
    other.hit({b"x": 1}, hour, NOW)
    assert waits_elsewhere(path) == 0  # it takes the whole hour, and closes the file
    assert path.with_name("guard.db-wal").exists()
    assert one.hit({b"a": hour}, hour, NOW) == hour
    assert one.hit({b"b": hour}, hour, NOW) == 0
    assert waits_elsewhere(path) == hour
    fresh = SqliteStore(str(path), 2.0)
    assert fresh.hit({b"b": hour}, hour, NOW) == hour
    for store in (one, other, fresh):
        store.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_of_a_fork_has_locks_of_its_own(tmp_path):
    path, hour = tmp_path / "guard.db", 3600 * SECOND
    store = SqliteStore(str(path), 2.0)
    store.hit({b"x": 1}, hour, NOW)
    ask, answer = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.close(ask[1])  # or it would wait for itself where the parent fails
        store.hit({b"x": 1}, hour, NOW)
        os.write(answer[1], b".")
        os.read(ask[0], 1)  # until the parent has closed the file
        os._exit(0 if store.hit({b"a": hour}, hour, NOW) == 0 else 1)
    os.read(answer[0], 1)
    store.hit({b"x": 1}, hour, NOW)
    store.close()
    left = path.with_name("guard.db-wal").exists()
    os.write(ask[1], b".")
    assert os.waitpid(child, 0)[1] == 0 and left
    assert waits_elsewhere(path) == hour
    for end in (*ask, *answer):
        os.close(end)


def test_a_link_to_nowhere_is_the_owners_own(tmp_path):
    (tmp_path / "guard.db").symlink_to(tmp_path / "elsewhere.db")
    store = SqliteStore(str(tmp_path / "guard.db"), 2.0)
    store.hit({b"a": 1}, 1)
    assert stat.S_IMODE((tmp_path / "elsewhere.db").stat().st_mode) == 0o600
    store.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_that_finds_no_rest(tmp_path):
    """Whoever holds the lock at the fork is not there to give it back in the child."""
    store = SqliteStore(str(tmp_path / "guard.db"), 0.1)
    store.hit({b"x": 1}, SECOND)
    store._lock.acquire()
    child = os.fork()
    if child == 0:
        os._exit(0 if store.hit({b"x": 1}, SECOND) == 0 else 1)
    assert os.waitpid(child, 0)[1] == 0
    with pytest.raises(StoreError, match="another thread holds"):
        store.hit({b"x": 1}, SECOND)
    store._lock.release()
    assert store.hit({b"x": 1}, SECOND) == 0
    store.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_forks_while_threads_ask(tmp_path):
    store, stop = SqliteStore(str(tmp_path / "guard.db"), 2.0), threading.Event()
    asked = [0] * 4

    def ask(i):
        while not stop.is_set():
            store.hit({b"x": 1}, 3600 * SECOND)
            asked[i] += 1

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(len(asked))]
    for thread in threads:
        thread.start()
    for _ in range(20):
        child = os.fork()
        if child == 0:
            os._exit(0 if store.hit({b"x": 1}, 3600 * SECOND) == 0 else 1)
        assert os.waitpid(child, 0)[1] == 0
    stop.set()
    for thread in threads:
        thread.join()
    assert min(asked) > 0
    store.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_sqlite_after_a_fork(tmp_path):
    store = open_store(Guard(), f"sqlite:///{tmp_path}/guard.db")
    assert store.hit({b"a": SECOND}, 2 * SECOND, NOW) == 0
    child = os.fork()
    if child == 0:
        waited = store.hit({b"a": SECOND}, 2 * SECOND, NOW)
        os._exit(0 if waited == 0 else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert store.hit({b"a": SECOND}, 2 * SECOND, NOW) == SECOND
    store.close()


def test_locked_sqlite_fails_in_time(tmp_path):
    path = tmp_path / "guard.db"
    store = open_store(Guard(), f"sqlite:///{path}?timeout=0.05")
    store.hit({b"a": 1}, 1)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match=r"sqlite: .*locked"):
        store.hit({b"a": 1}, 1)
    fresh = open_store(Guard(), f"sqlite:///{path}?timeout=0.05")
    with pytest.raises(StoreError, match="sqlite"):
        fresh.hit({b"a": 1}, 1)
    with store._lock, pytest.raises(StoreError, match="another thread"):
        store.hit({b"a": 1}, 1)
    other.execute("ROLLBACK")
    other.close()
    assert store.hit({b"b": 1}, 1) == 0
    fresh.close()
    store.close()


def test_sqlite_that_cannot_be_written(tmp_path):
    store = open_store(Guard(), f"sqlite:///{tmp_path}/no/such/folder/guard.db")
    with pytest.raises(StoreError, match=r"sqlite: .*No such file"):
        store.append("log", entries(b"x"), 0, Bounds(1, 1, 86400))
    (tmp_path / "not.db").write_text(
        "not a database, but long enough to look like " * 9
    )
    broken = open_store(Guard(), f"sqlite:///{tmp_path}/not.db?timeout=0.05")
    with pytest.raises(StoreError, match="sqlite: file is not a database"):
        broken.hit({b"a": 1}, 1)


def test_redis_that_is_not_there_or_says_nothing():
    pytest.importorskip("redis")
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        port = deaf.getsockname()[1]
        store = open_store(Guard(), f"redis://127.0.0.1:{port}/0?timeout=0.05")
        with pytest.raises(StoreError, match="redis: "):
            store.hit({b"a": 1}, 1)
        deaf.listen()
        started = time.monotonic()
        with pytest.raises(StoreError, match="redis: "):
            store.read("log", 0, 9)
        assert time.monotonic() - started < 20
        store.close()


@pytest.mark.service
def test_redis_asks_once_for_each_operation(redis_uri):
    import redis

    store = open_store(Guard(), f"{redis_uri}?prefix=once")
    store.hit({b"a": 1}, 1)
    store.append("log", entries(b"x"), 0, Bounds(9, 9, 86400))
    client = redis.Redis.from_url(redis_uri)
    before = client.info("stats")["total_reads_processed"]
    for _ in range(50):
        store.hit({b"a": 1, b"b": 1}, 1)
    for _ in range(50):
        store.append("log", entries(b"x", b"y"), 0, Bounds(9, 9, 86400))
    # and one more for each question of how many there were
    assert client.info("stats")["total_reads_processed"] - before <= 102
    client.close()
    store.close()


@pytest.mark.service
def test_redis_keeps_no_list_of_an_account_without_entries(redis_uri):
    import redis

    store = open_store(Guard(), f"{redis_uri}?prefix=lists")
    client = redis.Redis.from_url(redis_uri)
    few = Bounds(20, 5, 86400)
    for i in range(300):
        for times in range(1 + i % 3):
            account = b"%d" % i
            store.append("log", entries(b"%d" % times, account=account), 0, few)
    left = store.read("log", 0, END)
    assert len(left) == 20 and left[-1][1] == b"2"
    lists = client.keys("lists:*:of:*")
    assert sum(client.llen(key) for key in lists) == 20
    # and a lower quota holds at once
    for _ in range(9):
        store.append("log", entries(b"x", account=b"bob"), 0, Bounds(99, 9, 86400))
    store.append("log", entries(b"y", account=b"bob"), 0, Bounds(99, 3, 86400))
    own = [record for _, record in store.read("log", 0, END) if record in b"xy"]
    assert own == [b"x", b"x", b"y"]
    client.close()
    store.close()


@SHARED_STORE
@pytest.mark.parametrize("less", [10.0, 3600.0])
def test_who_remembers_for_less_takes_nothing_that_is_young(less, uri):
    store = open_store(Guard(), uri)
    for i in range(70):
        store.append("log", entries(b"%d" % i), 0, Bounds(10**4, 10**4, 86400.0))
    for i in range(70, 140):
        store.append("log", entries(b"%d" % i), 0, Bounds(10**4, 10**4, less))
    assert len(store.read("log", 0, END)) == 140
    store.close()


@pytest.mark.service
def test_redis_that_lost_everything_gives_no_number_twice(redis_uri):
    import redis

    store = open_store(Guard(), f"{redis_uri}?prefix=lost")
    first, _ = store.append("log", entries(b"x", b"y"), 0, Bounds(9, 9, 86400))
    client = redis.Redis.from_url(redis_uri)
    client.flushall()
    again, _ = store.append("log", entries(b"z"), 0, Bounds(9, 9, 86400))
    assert again > first + 1
    client.close()
    store.close()


@pytest.mark.parametrize(
    "uri",
    [
        None,
        "memory",
        "memory://host",
        "sqlite://",
        "sqlite:///",
        "sqlite:///:memory:",
        "sqlite://host/file",
        "sqlite:///file?mode=ro",
        "sqlite:///file?timeout=0",
        "sqlite:///file?timeout=soon",
        "redis:///0",
        "redis://host/0?db=1",
        "mongodb://host",
    ],
)
def test_bad_uri(uri):
    with pytest.raises(ValueError, match="'store' parameter of Guard must be"):
        open_store(Guard(), uri)


@pytest.mark.parametrize("who", [":hunter2@", "me:hunter2@"])
def test_a_password_in_the_uri_is_refused_and_not_repeated(who):
    with pytest.raises(ValueError, match="password_env=NAME") as caught:
        open_store(Guard(), f"redis://{who}host/0")
    assert "hunter2" not in str(caught.value)


def test_password_from_the_environment(monkeypatch):
    pytest.importorskip("redis")
    uri = "redis://host/0?password_env=MY_PASSWORD"
    monkeypatch.delenv("MY_PASSWORD", raising=False)
    with pytest.raises(ValueError, match=r"MY_PASSWORD .* is not set"):
        open_store(Guard(), uri)
    monkeypatch.setenv("MY_PASSWORD", "hunter2")
    store = open_store(Guard(), uri)
    assert store._client.connection_pool.connection_kwargs["password"] == "hunter2"
    store.close()


def test_redis_package_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(ImportError, match=r'pip install "sk_advdef\[redis\]"'):
        open_store(Guard(), "redis://host/0")
