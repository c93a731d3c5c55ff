"""A guarded model behind uvicorn, asked at a steady rate, and its books checked."""

import contextlib
import functools
import http.client
import json
import os
import runpy
import socket
import subprocess
import sys
import tempfile
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import joblib
import numpy as np
from sklearn.datasets import load_digits

from benchmarks._load_books import held_rate, is_held, let_through, reconciled
from benchmarks._load_client import Plan
from benchmarks._load_watch import memory, second_half, wait_until
from benchmarks._query_scenes import SECRET
from benchmarks._query_speed import redis_server
from sk_advdef.concealment._gcra import SECOND, parse_rate

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "serving" / "train.py"


@functools.cache
def example_guard() -> Any:
    """Return what the serving example trains."""
    return runpy.run_path(str(EXAMPLE))["train"]("memory://")


def write_guard(
    path: Path, *, store: str, limit: str, burst: int, remembered: int, quota: int
) -> None:
    """Pickle the guard of the serving example, with another limit and store."""
    guard = example_guard()
    guard.monitor.estimator.set_params(max_rows=remembered, account_quota=quota)
    joblib.dump(guard.set_params(limit=limit, burst=burst, store=store), path)


@dataclass
class Served:
    """A server that runs."""

    port: int
    pid: int
    audit: Path

    def books(self, accounts: list[str]) -> dict[str, Any]:
        """Ask the server what it has counted."""
        asked = urllib.parse.urlencode({"account": accounts}, doseq=True)
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request("GET", f"/books?{asked}")
            answer = connection.getresponse()
            body = answer.read()
        finally:
            connection.close()
        if answer.status != 200:
            raise RuntimeError(f"the server does not tell its books: {answer.status}")
        return dict(json.loads(body))

    def events(self) -> list[dict[str, Any]]:
        """Return the lines of the audit log."""
        lines = self.audit.read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]


def environment(threads: int) -> dict[str, str]:
    shared = {"SK_ADVDEF_SECRET": SECRET, "OMP_NUM_THREADS": str(threads)}
    return {**os.environ, **shared}


@contextlib.contextmanager
def served(folder: Path, guard: Path, threads: int, arenas: int) -> Iterator[Served]:
    """Serve a pickled guard by one worker of uvicorn, in a process of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    audit = folder / "audit.log"
    own = {"GUARDED_MODEL": str(guard), "AUDIT_LOG": str(audit)}
    own["MALLOC_ARENA_MAX"] = str(arenas)
    options = ["--host", "127.0.0.1", "--port", str(port), "--no-access-log"]
    # a connection that waits for its turn is not closed
    options += ["--log-level", "warning", "--timeout-keep-alive", "600"]
    with (folder / "server.log").open("w+", encoding="utf-8") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "uvicorn", "benchmarks._load_app:app", *options],
            cwd=ROOT,
            env=environment(threads) | own,
            stdout=log,
            stderr=log,
        )

        def ready() -> bool:
            if process.poll() is not None:
                log.seek(0)
                raise RuntimeError(f"the server ended: {log.read()[-2000:]}")
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        try:
            wait_until(ready, 120, "nothing answers")
            yield Served(port, process.pid, audit)
        finally:
            process.terminate()
            process.wait()


@contextlib.contextmanager
def store_of(kind: str) -> Iterator[tuple[str, int | None]]:
    """Yield the address of a store, and the process that is the store, if any."""
    if kind == "memory":
        yield "memory://", None
        return
    with redis_server() as uri:
        if uri is None:
            raise RuntimeError("there is no redis-server")
        import redis

        with redis.Redis.from_url(uri) as client:
            pid = int(client.info("server")["process_id"])
        yield uri, pid


def asked(plan: Plan, seen: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Let a client in a process of its own ask; return what it tells at the end."""
    told: dict[str, Any] = {}
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks._load_client", json.dumps(asdict(plan))],
        cwd=ROOT,
        env=environment(1),
        stdout=subprocess.PIPE,
        text=True,
    ) as client:
        assert client.stdout is not None
        try:
            for line in client.stdout:
                told = json.loads(line)
                if "window" in told:
                    seen(told)
        except BaseException:
            client.kill()
            raise
    if client.returncode or "accounts" not in told:
        raise RuntimeError(f"the client ended with {client.returncode}")
    return told


def serving(
    *,
    store: str,
    limit: str,
    burst: int,
    remembered: int,
    quota: int,
    connections: int,
    threads: int,
    arenas: int,
    first: float,
    most: float,
    bisections: int,
    probe: float,
    fast: float,
    overdue: float,
    part: float,
    window: float,
    windows: int,
    seed: int,
) -> dict[str, Any]:
    """Find the rate that is held, and ask at a part of it for long."""
    rate = parse_rate(None, limit, burst)
    assert rate is not None
    tried: list[dict[str, Any]] = []
    seen: list[dict[str, Any]] = []
    sizes: dict[str, list[int]] = {"server": []}
    with contextlib.ExitStack() as open_:
        folder = Path(open_.enter_context(tempfile.TemporaryDirectory()))
        uri, redis_pid = open_.enter_context(store_of(store))
        path = folder / "guard.joblib"
        write_guard(
            path,
            store=uri,
            limit=limit,
            burst=burst,
            remembered=remembered,
            quota=quota,
        )
        images = folder / "images.npy"
        np.save(images, load_digits().data / 16)
        server = open_.enter_context(served(folder, path, threads, arenas))
        of = {"server": server.pid} | ({"redis": redis_pid} if redis_pid else {})
        sizes = {name: [] for name in of}

        plan = functools.partial(
            Plan,
            server.port,
            str(images),
            limit=SECOND / rate.interval,
            connections=connections,
            seed=seed,
        )

        def probed(rate: float, name: str) -> dict[str, Any]:
            seen: list[dict[str, Any]] = []
            asked(plan(rate, probe, 1, name=name), seen.append)
            return seen[0]

        def holds(rate: float) -> bool:
            told = probed(rate, f"probe-{len(tried)}")
            held = is_held(told, fast, overdue)
            tried.append({"rate": rate, "held": held} | told)
            return held

        def look(told: dict[str, Any]) -> None:
            seen.append(told | {name: memory(pid) for name, pid in of.items()})
            for name in of:
                sizes[name].append(seen[-1][name])

        probed(first, "first")  # what is made at the first question
        found = held_rate(holds, first, most, bisections)
        steady = plan(float(round(part * found)), window, windows)
        above = steady.names_above()
        before = server.books(above)
        told = asked(steady, look)
        after = server.books(above)
        events = server.events()
    return {
        "held": found,
        "tried": [{k: v for k, v in t.items() if k != "window"} for t in tried],
        "rate": steady.rate,
        "accounts": {"above": steady.above, "below": steady.n_below},
        "windows": seen,
        "memory": {name: second_half(of, window) for name, of in sizes.items()},
        "limits": let_through(told, after["ahead"], limit, burst),
        "books": reconciled(told, before, after, events),
    }
