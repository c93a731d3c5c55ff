"""What the benchmark of load reckons, and that its quick form runs."""

import asyncio
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import _harness, bench_load
from benchmarks._load_books import held_rate, is_held, let_through, reconciled
from benchmarks._load_client import Plan, Tally, ask
from benchmarks._load_watch import MEGABYTE, held, memory, peak_of, second_half
from sk_advdef.concealment._gcra import parse_rate
from sk_advdef.concealment._memory_store import MemoryStore

ROOT = Path(__file__).parents[1]
told_by_the_system = pytest.mark.skipif(
    bench_load.missing("repeats") is not None, reason="the system does not tell"
)


def plan(**params):
    given = {"port": 0, "images": "", "rate": 60.0, "window": 1.0, "windows": 10}
    return Plan(**given | {"limit": 4.0, "connections": 4} | params)


# --- which rate is held


@pytest.mark.parametrize(
    "truth, most, found, tried",
    [
        (230, 3200, 225, [50, 100, 200, 400, 300, 250, 225]),
        (1e9, 300, 300, [50, 100, 200, 300]),
        (50, 3200, 50, [50, 100, 75, 62, 56]),
    ],
)
def test_a_rate_is_doubled_then_bisected(truth, most, found, tried):
    asked = []

    def holds(rate):
        asked.append(rate)
        return rate <= truth

    assert held_rate(holds, 50.0, float(most), 3) == found
    assert asked == tried


def test_a_rate_that_is_too_high_from_the_first_is_told():
    with pytest.raises(RuntimeError, match="not even 50"):
        held_rate(lambda rate: False, 50.0, 100.0, 3)


def test_what_counts_as_held():
    told = {"p99": 99.0, "slowest": 900.0, "statuses": {"200": 8, "429": 2}}
    assert is_held(told, 100, 1000)
    assert not is_held(told | {"p99": 100.0}, 100, 1000)
    assert not is_held(told | {"slowest": 1000.0}, 100, 1000)
    for status in ("0", "500", "503"):
        assert not is_held(told | {"statuses": {"200": 9, status: 1}}, 100, 1000)


# --- who asks, and how long it took


@pytest.mark.parametrize("rate", [17.0, 48.0, 333.0])
def test_accounts_ask_above_and_below_their_limit(rate):
    given = plan(rate=rate)
    asked = Counter(given.account(i) for i in range(given.n_requests))
    above = {name: asked.pop(name) for name in given.names_above()}
    assert all(abs(n / 10 - 8) <= 0.2 for n in above.values())
    assert len(asked) == given.n_below
    assert all(n / 10 <= 2.2 for n in asked.values())
    assert sum(asked.values()) + sum(above.values()) == given.n_requests
    with pytest.raises(ValueError, match="too few"):
        plan(rate=15.0)


def test_windows_are_told_once_all_of_them_is_answered():
    tally = Tally(plan(rate=20.0, windows=2))
    told = [
        tally.add(i, 0.001, 0.01 * (i + 1), 200 + 229 * (i == 3), [i, i + 1])
        for i in (*range(1, 25), 0)
    ]
    assert told[:-1] == [None] * 24
    assert told[-1]["window"] == 0 and told[-1]["statuses"] == {"200": 19, "429": 1}
    assert told[-1]["median"] == 105 and told[-1]["slowest"] == 200
    assert told[-1]["sent late"] == 1
    account = plan(rate=20.0).account(0)
    assert tally.first[account] == [0, 1] and tally.last[account] > [1, 2]


async def stalling(stall, answer, plan_of):
    """Ask a server that waits before its first answer; return what is told."""
    waited = []

    async def serve(reader, writer):
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = int(head.split(b"content-length:")[1].split()[0])
                body = json.loads(await reader.readexactly(length))
                assert np.shape(body["instances"]) == (1, 64)
                if not waited:
                    waited.append(1)
                    await asyncio.sleep(stall)
                writer.write(answer)
        except asyncio.IncompleteReadError:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        told = []
        given = plan_of(server.sockets[0].getsockname()[1])
        tally = await ask(given, told.append)
    return told, tally


def test_latency_counts_from_when_a_request_was_due(tmp_path):
    """One connection: all that were due while the server stalled have waited."""
    np.save(tmp_path / "images.npy", np.zeros((3, 64)))

    def plan_of(port):
        return plan(
            port=port,
            images=str(tmp_path / "images.npy"),
            rate=100.0,
            window=0.5,
            windows=1,
            connections=1,
        )

    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
    (told,), tally = asyncio.run(stalling(0.4, answer, plan_of))
    assert told["statuses"] == {"200": 50}
    assert told["slowest"] >= 400
    # half of all were due in the first 0.25 s, so that they waited for 0.15 s or more
    assert told["median"] >= 140
    assert sum(counts["200"] for counts in tally.accounts.values()) == 50


def test_who_is_not_answered_is_told(tmp_path):
    np.save(tmp_path / "images.npy", np.zeros((3, 64)))

    def plan_of(port):
        images = str(tmp_path / "images.npy")
        return plan(port=port, images=images, window=0.2, windows=1, connections=2)

    (told,), _ = asyncio.run(stalling(0.0, b"nonsense\r\n\r\n", plan_of))
    assert told["statuses"] == {"0": 12}


# --- the books


def asked_of_a_store(limit, burst, seconds, jitter=0.0):
    """Ask a store as the two accounts above their limit do, at times of our own."""
    rate = parse_rate(None, limit, burst)
    given = plan(rate=16.0, limit=1e6 / rate.interval, windows=seconds)
    tally, store, rng = Tally(given), MemoryStore(), np.random.default_rng(0)
    for i in range(given.n_requests):
        due = i / given.rate
        now = int((1000 + due + jitter * rng.random()) * 1e6)
        key = given.account(i).encode()
        wait = store.hit({key: rate.debit(1)}, rate.tolerance, now)
        clock = [now / 1e6 - 0.002, now / 1e6 + 0.002]
        tally.add(i, 0.0, 0.0, 429 if wait > 0 else 200, clock)
    told = {"accounts": tally.accounts, "first": tally.first, "last": tally.last}
    return told, {name: store._ahead[name.encode()] for name in given.names_above()}


@pytest.mark.parametrize("jitter", [0.0, 0.05])
@pytest.mark.parametrize("burst", [3, 20])
def test_a_limit_lets_through_what_it_says(burst, jitter):
    told, ahead = asked_of_a_store("240/minute", burst, 60, jitter)
    for found in let_through(told, ahead, "240/minute", burst):
        assert found["asked"] == 480
        assert found["allowed"] == pytest.approx(burst + 4 * 59.875, abs=0.3)
        assert -1 < found["off"] < 0.3
        assert found["by store"] == pytest.approx(found["answered"], abs=0.05)


def test_a_row_too_many_is_told():
    told, ahead = asked_of_a_store("240/minute", 20, 60)
    name = next(iter(ahead))
    told["accounts"][name]["200"] += 2
    found = let_through(told, ahead, "240/minute", 20)[0]
    assert found["off"] > 0.99
    assert found["answered"] - found["by store"] > 1.9


def books(rows, refused, appended):
    counted = {"rows": rows, "refused_for_rate": refused, "suspicious_rows": 1}
    return {"counted": counted, "appended": appended, "ahead": {}}


def test_books_agree_or_do_not():
    accounts = {"s-above-0": {"200": 5, "429": 3}, "s-below-0": {"200": 4}}
    events = [{"event": "rate", "accounts": ["s-above-0"], "rows": 1}] * 3
    events += [{"event": "rate", "accounts": ["probe"], "rows": 1}]
    events += [{"event": "similar", "accounts": ["s-below-0"], "rows": [0]}]
    told = {"accounts": accounts}
    found = reconciled(told, books(10, 1, 70), books(22, 4, 79), events)
    assert found["asked"] == {"client": 12, "server": 12}
    assert found["answered"] == {"client": 9, "server": 9, "store": 9}
    assert found["refused"] == {"client": 3, "server": 3, "log": 3}
    assert not found["accounts that differ"] and not found["refused below"]
    # one is lost, one counted twice, one refused that should not be
    accounts["s-below-0"] = {"200": 3, "429": 1}
    found = reconciled(told, books(10, 1, None), books(23, 4, None), events)
    assert found["asked"] == {"client": 12, "server": 13}
    assert found["answered"] == {"client": 8, "server": 10}
    assert found["accounts that differ"] == 1 and found["refused below"] == 1


# --- what a process holds


def test_growth_of_the_second_half():
    sizes = [100, 200, 300, 302, 304, 306]
    found = second_half([MEGABYTE * size for size in sizes], 60)
    assert found["grown"] == 4 and found["an hour"] == pytest.approx(120)
    assert (found["start"], found["end"], found["most"]) == (100, 306, 306)
    assert second_half([MEGABYTE], 60)["grown"] == 0


@told_by_the_system
def test_what_is_held_shows():
    before = held()
    with open(os.devnull, encoding="ascii") as file:
        kept = [torch.zeros(3), file]
        after = held()
    assert after["tensors"] == before["tensors"] + 1
    assert after["files"] == before["files"] + 1
    assert after["threads"] == before["threads"] and kept


@told_by_the_system
def test_a_peak_is_of_memory_without_pages_of_files(tmp_path):
    size = 64 * MEGABYTE
    (tmp_path / "rows").write_bytes(bytes(size))
    rows = np.memmap(tmp_path / "rows", mode="r")
    before = memory(field="RssAnon")
    with peak_of(0.001) as peak:
        assert not rows.any()
    assert peak.bytes - before < size / 2
    with peak_of(0.001) as peak:
        np.ones(size, np.uint8).sum()
    assert peak.bytes - before > size / 2
    with pytest.raises(ValueError, match="does not tell Nothing"):
        memory(field="Nothing")


# --- all of it


def test_table_says_where_books_differ():
    limits = {"account": "a", "asked": 9, "answered": 5, "allowed": 5.5}
    limits |= {"off": -0.5, "by store": 5.01}
    books = {"statuses": {"0": 1, "200": 5, "429": 4}}
    books |= {"asked": {"client": 9, "server": 9}, "refused": {"client": 4, "log": 4}}
    books |= {"answered": {"client": 5, "server": 6}}
    books |= {"accounts that differ": 1, "refused below": 0, "flagged": 0}
    window = {"median": 2.0, "p99": 9.0, "slowest": 11.0}
    figures = {
        "held": 100.0,
        "rate": 80.0,
        "windows": [window, window | {"median": 4.0}],
        "accounts": {"above": 2, "below": 3},
        "memory": {"server": second_half([MEGABYTE, 3 * MEGABYTE], 60)},
        "limits": [limits],
        "books": books,
    }
    params = {"store": "redis", "limit": "1/second", "burst": 2}
    params |= {"window": 60.0, "windows": 2}
    one = {"name": "serving-redis", "params": params, "figures": figures}
    text = bench_load.table([one])
    assert "| redis | 100 | 80 | 2 | 3.0 (2.0 to 4.0) |" in text
    assert "none: 1, 200: 5, 429: 4" in text
    assert "9 (client, server) | **client: 5, server: 6** | 4 (client, log)" in text
    assert "| 1 of 5 |" in text


@pytest.mark.bench
def test_load_runs_quickly():
    before = sorted(_harness.RESULTS.glob("load/*"))
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.bench_load", "--quick"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert not run.returncode, run.stderr
    for name, *_ in bench_load.tasks(quick=True):
        row = name.removeprefix("serving-").removeprefix("rows-")
        row = "What a process holds" if name == "repeats" else f"\n| {row} |"
        assert (row in run.stdout) is (bench_load.missing(name) is None)
    # nothing is lost or counted twice
    assert "**" not in run.stdout
    assert sorted(_harness.RESULTS.glob("load/*")) == before
