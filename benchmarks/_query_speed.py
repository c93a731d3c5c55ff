"""Time and memory of what watches queries."""

import contextlib
import ctypes
import gc
import shutil
import socket
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_digits
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression

from benchmarks._harness import _cifar10, ratios, spread, time_in_turn
from benchmarks._pictures import short
from sk_advdef import GuardedClassifier, SimilarQueryDetector
from sk_advdef.concealment._postings import Run

#: Rows of one simulated run of the index.
BLOCK = 250_000


class Straightforward:
    """The description of Blacklight, step by step, without any trick."""

    def __init__(
        self, shape: tuple[int, ...], window: int = 20, size: int = 50
    ) -> None:
        self.salt = np.random.default_rng(0).integers(0, 256, int(np.prod(shape)))
        self.window, self.size, self.count = window, size, 0
        self.queries: dict[bytes, list[int]] = {}

    def observe(self, row: np.ndarray) -> int:
        """Return the most hashes in common with an earlier query, and remember this."""
        values = (255 * row.ravel() + self.salt) % 256
        cells = (np.around(values / 50) * 50).astype(np.int16)
        hashes = {
            sha256(cells[i : i + self.window].tobytes()).digest()
            for i in range(len(cells) - self.window + 1)
        }
        top = sorted(hashes, reverse=True)[: self.size]
        found: Counter[int] = Counter()
        for one in top:
            found.update(self.queries.get(one, ()))
        for one in top:
            self.queries.setdefault(one, []).append(self.count)
        self.count += 1
        return found.most_common(1)[0][1] if found else 0

    def fill(self, n: int) -> None:
        """Put in hashes at random, as those of unrelated images are."""
        rng = np.random.default_rng(1)
        for _ in range(n):
            blob = rng.bytes(32 * self.size)
            for i in range(0, len(blob), 32):
                self.queries.setdefault(blob[i : i + 32], []).append(self.count)
            self.count += 1


def images(n: int, n_fit: int, folder: Path | None, quick: bool) -> Any:
    """Return images of 32 x 32 x 3 to ask about, and others to fit on."""
    if quick:
        rng = np.random.default_rng(0)
        X = rng.integers(0, 256, (n + n_fit, 32, 32, 3))
    else:
        import os

        given = folder or os.environ.get("SK_ADVDEF_DATA") or Path(__file__).parent
        read, _ = _cifar10(Path(given))
        X = read("test", np.random.default_rng(0).permutation(10000)[: n + n_fit])
    X = X.astype(np.float32) / np.float32(255)
    return X[:n], X[n:]


def filled(detector: SimilarQueryDetector, n: int, accounts: int = 1000) -> Any:
    """Return a watch whose history holds ``n`` simulated fingerprints."""
    watch = detector._make_watch()
    history, rng = watch.history, np.random.default_rng(2)
    size = detector.sketch_size
    ids = [b"%16d" % i for i in range(accounts)]
    for start in range(0, n, BLOCK):
        count = min(BLOCK, n - start)
        tokens = rng.integers(0, 2**32, (count, size + 1), dtype=np.uint64)
        positions = np.arange(start, start + count, dtype=np.uint64)
        keys = (tokens << np.uint64(32)) | positions[:, None]
        keys = np.sort(keys.ravel())
        history.matcher.index._seal(Run(keys), None)
        now = time.time()
        for position in positions.tolist():
            code = history.shares.add(ids[position % accounts])
            history.columns.append(
                account=code,
                time=now,
                digest=np.uint64(position),
                note=-1,
                alive=True,
            )
            history.shares.link(code, position, history.columns["following"])
    history.n_alive = n
    return watch


def resident() -> float:
    """Return bytes of memory of this process; NaN where none tells.

    What is freed is given back to the system first, where the C library can.
    """
    path = Path("/proc/self/statm")
    if not path.exists():
        return float("nan")
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    return int(path.read_text(encoding="ascii").split()[1]) * 4096.0


def fitted(
    rows: np.ndarray, n: int, *, window: int | None = 20
) -> SimilarQueryDetector:
    import os

    os.environ.setdefault("SK_ADVDEF_SECRET", "the secret of a benchmark")
    return SimilarQueryDetector(
        method="fingerprint",
        window=window,
        false_positive_rate=0.01,
        max_rows=2 * n + 10**6,
        account_quota=2 * n + 10**6,
        random_state=0,
    ).fit(rows)


def monitored(
    *,
    history: int,
    plain_history: int,
    queries: int,
    rounds: int,
    quick: bool,
    folder: Any,
    **_: Any,
) -> dict[str, Any]:
    """Time of a monitored query, beside the straightforward version."""
    X, rows = images(queries * (rounds + 3), 300, folder, quick)
    detector = fitted(rows, history)
    before = resident()
    watch = filled(detector, history)
    ours_bytes = resident() - before
    stated = watch.history.nbytes
    before = resident()
    plain = Straightforward(X.shape[1:])
    plain.fill(plain_history)
    plain_bytes = resident() - before
    flat = detector._checked(X)
    at = {"ours": 0, "straightforward": 0}

    def next_rows(who: str) -> np.ndarray:
        # each query is one that was never asked
        start = at[who] % (len(X) - queries)
        at[who] += queries
        return flat[start : start + queries]

    def ours() -> None:
        for row in next_rows("ours"):
            detector._observe(row[None], ["asker"], watch)

    def straightforward() -> None:
        for row in next_rows("straightforward"):
            plain.observe(row)

    candidates = {"ours": ours, "straightforward": straightforward}
    # millions of lists of the one would be looked through in the time of the other
    gc.freeze()
    seconds = time_in_turn(candidates, rounds, at_least=0.0)
    gc.unfreeze()
    each = {n: [1000 * s / queries for s in v] for n, v in seconds.items()}
    return {
        "milliseconds": {n: spread(v) for n, v in each.items()},
        "ratios": {n: spread(v) for n, v in ratios(seconds, to="ours").items()},
        "bytes": {
            "ours, as stated": short(stated / history),
            "ours": short(ours_bytes / history),
            "straightforward": short(plain_bytes / plain_history),
        },
    }


def growth(*, history: int, queries: int, quick: bool, folder: Any, **_: Any) -> Any:
    """Time and memory of a monitored query as the history grows."""
    X, rows = images(queries, 300, folder, quick)
    detector = fitted(rows, history)
    before = resident()
    watch = filled(detector, history)
    used = resident() - before
    flat = detector._checked(X)
    spent = []
    for row in flat:
        start = time.perf_counter()
        detector._observe(row[None], ["asker"], watch)
        spent.append(1000 * (time.perf_counter() - start))
    return {
        "median": short(np.median(spent)),
        "p95": short(np.quantile(spent, 0.95)),
        "slowest": short(max(spent)),
        "mean": short(np.mean(spent)),
        "bytes": short(used / history),
        "stated": short(watch.history.nbytes / history),
    }


@contextlib.contextmanager
def redis_server() -> Iterator[str | None]:
    """Start a server of its own; None where there is none."""
    command = shutil.which("redis-server")
    if command is None:
        yield None
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        server = subprocess.Popen(
            [command, "--port", str(port), "--bind", "127.0.0.1", "--save", ""],
            cwd=folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            for _ in range(500):
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.01)
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            server.terminate()
            server.wait()


def guard(*, rounds: int, calls: int, folder: Any, **_: Any) -> dict[str, Any]:
    """Time that a guard without monitor adds to a call of one row."""
    X, y = load_digits(return_X_y=True)
    model = LogisticRegression(max_iter=500).fit(X[:500] / 16, y[:500])
    row = X[:1] / 16
    frozen = FrozenEstimator(model)
    limited = GuardedClassifier(frozen, limit="1000000/second")
    gate = _gate_of(limited)
    ways = {
        "model.predict": lambda: model.predict(row),
        "guard.predict": lambda: limited.predict(row, account="a"),
        "guard.admit": lambda: limited.admit(row, account="a"),
        "of which the limit": lambda: gate.throttle(["a"]),
    }
    seconds = time_in_turn(
        {name: partial(_often, way, calls) for name, way in ways.items()}, rounds
    )
    micros = {n: [1e6 * s / calls for s in v] for n, v in seconds.items()}
    both = zip(micros["guard.predict"], micros["model.predict"], strict=True)
    figures: dict[str, Any] = {
        "microseconds": {n: spread(v) for n, v in micros.items()},
        "added": spread(a - b for a, b in both),
    }
    with redis_server() as uri:
        if uri is not None:
            figures["redis"] = _redis(uri, frozen, row, calls)
    return figures


def _gate_of(guarded: GuardedClassifier) -> Any:
    guarded._open()
    return guarded._gate()


def _often(way: Any, calls: int) -> None:
    for _ in range(calls):
        way()


def _redis(uri: str, frozen: Any, row: np.ndarray, calls: int) -> dict[str, Any]:
    """Commands that a call sends, and its time."""
    import redis

    limited = GuardedClassifier(frozen, limit="1000000/second", store=uri)
    limited.predict(row, account="a")
    with redis.Redis.from_url(uri) as client:
        before = client.info("stats")["total_commands_processed"]
        start = time.perf_counter()
        _often(lambda: _gate_of(limited).throttle(["a"]), calls)
        spent = time.perf_counter() - start
        after = client.info("stats")["total_commands_processed"]
        client.config_resetstat()
        sent = client.info("commandstats")
        _often(lambda: _gate_of(limited).throttle(["a"]), calls)
        sent = client.info("commandstats")
    trips = sum(
        entry["calls"]
        for name, entry in sent.items()
        if name.startswith("cmdstat_eval")
    )
    return {
        "round trips a call": short(trips / calls),
        # those that the script itself runs are counted too
        "commands a call": short((after - before - 1) / calls),
        "microseconds": short(1e6 * spent / calls),
    }


def tasks(quick: bool) -> list[tuple[str, dict[str, Any], Any]]:
    """Return (name, params, function) of units."""
    size = 3000 if quick else 1_000_000
    common = {"shape": [32, 32, 3], "window": 20, "sketch": 50, "quick": quick}
    queries, rounds = (5, 2) if quick else (200, 9)
    found: list[tuple[str, dict[str, Any], Any]] = [
        ("speed-guard", {"rounds": rounds, "calls": 200, "store": "memory"}, guard),
        (
            "speed-monitor",
            # a million in plain Python would take more than ten gigabytes
            {**common, "history": size, "plain_history": size // 10}
            | {"queries": queries, "rounds": rounds},
            monitored,
        ),
    ]
    sizes = (1000, 4000) if quick else (10_000, 100_000, 1_000_000, 10_000_000)
    queries = 20 if quick else 2500
    for history in sizes:
        params = {**common, "history": history, "queries": queries}
        found.append((f"speed-growth-{history:09d}", params, growth))
    return found
