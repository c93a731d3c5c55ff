"""Pairs of questions whose answers should take the same time, and who answers them."""

import contextlib
import http.client
import json
import logging
import os
import socket
import tempfile
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from skorch import NeuralNetClassifier

from benchmarks._query_scenes import SECRET
from sk_advdef import (
    ConcealedClassifier,
    GuardedClassifier,
    QueryGuardMiddleware,
    QueryRefused,
    SimilarQueryDetector,
)
from sk_advdef.nets import DropoutMLP

FEATURES = 64
#: Questions asked, without being timed, before any is.
BEFORE = 300
#: Seconds that the action "delay" waits.
DELAY = 0.01
#: So many that it is never reached.
LIMIT = "1000000/hour"

Question = tuple[np.ndarray, str]
#: What of the guard's counters tells the two questions of a pair apart.
COUNTERS = {
    "repeat": "repeated_rows",
    "flagged": "suspicious_rows",
    "throttled": "refused_for_rate",
}


@dataclass
class Pair:
    """Two kinds of questions to one guard.

    ``question`` draws one of kind 0 or 1; ``counter`` goes up with those of kind 1.
    """

    guard: Any
    question: Callable[[int], Question]
    counter: str = ""

    def counted(self) -> int:
        return self.guard.stats()[self.counter] if self.counter else 0


@cache
def digits() -> tuple[np.ndarray, np.ndarray]:
    X, y = load_digits(return_X_y=True)
    return X / 16, y


@cache
def model(name: str) -> Any:
    """Return a fitted classifier of digits."""
    X, y = digits()
    net = NeuralNetClassifier(
        DropoutMLP,
        module__n_classes=10,
        criterion=torch.nn.CrossEntropyLoss,
        optimizer=torch.optim.Adam,
        lr=0.003,
        max_epochs=10,
        train_split=None,
        verbose=0,
    )
    found = {
        "logistic": LogisticRegression(C=0.1, max_iter=1000),
        "forest": RandomForestClassifier(random_state=0),
        "neighbors": KNeighborsClassifier(algorithm="kd_tree"),
        "net": net,
    }[name]
    kind = np.float32 if name == "net" else np.float64
    return found.fit(X[:900].astype(kind), y[:900])


def guarded(inner: Any, **params: Any) -> GuardedClassifier:
    with warnings.catch_warnings():
        # that an action is not quiet
        warnings.simplefilter("ignore", UserWarning)
        guard = GuardedClassifier(FrozenEstimator(inner), **params)
        guard._open()
    return guard


def label_pair(name: str, rng: np.random.Generator) -> Pair:
    """Answer labels alone; rows of kind 1 lie closer to the boundary."""
    inner = model(name)
    X = digits()[0][900:]
    X = X.astype(np.float32) if name == "net" else X
    proba = np.sort(inner.predict_proba(X), axis=1)
    order = np.argsort(proba[:, -2] - proba[:, -1], kind="stable")
    # a quarter each
    rows = [X[order[: len(X) // 4]], X[order[-(len(X) // 4) :]]]

    def question(kind: int) -> Question:
        at = rng.integers(len(rows[kind]))
        return rows[kind][at : at + 1], "one"

    return Pair(guarded(ConcealedClassifier(FrozenEstimator(inner))), question)


def store_pair(what: str, store: str, folder: Path, rng: np.random.Generator) -> Pair:
    """Answer who asks too often, or is known, where no monitor watches."""
    uri = {"memory": "memory://", "sqlite": f"sqlite:///{folder}/guard.db"}[store]
    guard = guarded(model("logistic"), limit=LIMIT, store=uri)
    rows, names = digits()[0][900:], iter(range(10**6, 10**7))
    known = [f"{next(names)}" for _ in range(20)]
    for name in known:
        guard.predict(rows[:1], account=name)
    if what == "throttled":
        # beyond all that an hour gives back
        guard._gate().charge(known[:1], 3e6)

    def question(kind: int) -> Question:
        at = rng.integers(len(rows))
        if what == "throttled":
            name = known[1 - kind]
        else:
            name = known[rng.integers(20)] if kind else f"{next(names)}"
        return rows[at : at + 1], name

    return Pair(guard, question, COUNTERS.get(what, ""))


def monitored_pair(
    what: str, method: str, action: str, rng: np.random.Generator
) -> Pair:
    """Answer what was asked before, by whom, or what is like it."""
    monitor = SimilarQueryDetector(
        method=method, false_positive_rate=0.01, random_state=0
    ).fit(digits()[0][:1000])
    guard = guarded(
        model("logistic"),
        monitor=FrozenEstimator(monitor),
        action=action,
        delay=DELAY,
        limit=LIMIT,
    )

    def fresh() -> np.ndarray:
        return rng.random((1, FEATURES))

    asked = deque((fresh() for _ in range(BEFORE)), maxlen=BEFORE)
    for row in asked:
        guard.predict(row, account="alice")
    names, center = iter(range(10**6, 10**7)), fresh()

    def near() -> np.ndarray:
        return np.clip(center + rng.uniform(-0.004, 0.004, center.shape), 0, 1)

    if what == "flagged":
        for _ in range(20):
            with contextlib.suppress(QueryRefused):
                guard.predict(near(), account="alice")

    def question(kind: int) -> Question:
        if what == "account":
            return fresh(), "alice" if kind else f"{next(names)}"
        if what == "flagged":
            return near() if kind else fresh(), "alice"
        if what == "repeat":
            return asked[rng.integers(BEFORE)] if kind else fresh(), "alice"
        # what alice asked long ago, once, and each time by somebody else
        oldest, latest = asked[0], fresh()
        guard.predict(latest, account="alice")
        asked.append(latest)
        return oldest if kind else fresh(), f"{next(names)}"

    return Pair(guard, question, COUNTERS.get(what, ""))


def nothing_pair(rng: np.random.Generator) -> Pair:
    """Ask the same of both: what the method itself makes of noise."""
    pair = label_pair("logistic", rng)
    question = pair.question
    pair.question = lambda kind: question(0)
    return pair


def pair_of(what: str, by: str, action: str, folder: Path, seed: int) -> Pair:
    """Return a pair by its name."""
    rng = np.random.default_rng(seed)
    if what == "nothing":
        return nothing_pair(rng)
    if what == "label":
        return label_pair(by, rng)
    if by in ("memory", "sqlite"):
        return store_pair(what, by, folder, rng)
    return monitored_pair(what, by, action, rng)


@contextlib.contextmanager
def audited(folder: Path) -> Iterator[None]:
    """Write the audit log to a file, as a server would."""
    log, handler = (
        logging.getLogger("sk_advdef.audit"),
        logging.FileHandler(folder / "audit.log"),
    )
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        handler.close()


def asker(guard: Any) -> Callable[[Question], Any]:
    """Return who asks in the process itself, without anything between."""

    def ask(question: Question) -> Any:
        rows, account = question
        with contextlib.suppress(QueryRefused):
            return guard.predict(rows, account=account)
        return None

    return ask


@contextlib.contextmanager
def over_http(guard: Any) -> Iterator[Callable[[bytes, str], int]]:
    """Serve behind the middleware; yield a function that posts, and returns a status.

    The server runs in a thread, and one connection is kept open.
    """
    import uvicorn

    async def app(scope: Any, receive: Any, send: Any) -> None:
        label = guard.estimator.predict(scope["state"]["guard"].rows)[0]
        body = b"%d" % label
        headers = [(b"content-length", b"%d" % len(body))]
        start = {"type": "http.response.start", "status": 200, "headers": headers}
        await send(start)
        await send({"type": "http.response.body", "body": body})

    served = QueryGuardMiddleware(app, guard, account="x-account")
    config = uvicorn.Config(
        served, lifespan="off", ws="none", log_level="critical", access_log=False
    )
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        # else an answer in two parts waits 40 ms for an acknowledgment
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
        thread.start()
        while not server.started and thread.is_alive():
            time.sleep(0.01)
        connection = http.client.HTTPConnection(*listening.getsockname(), timeout=30)
        connection.connect()
        assert isinstance(connection.sock, socket.socket)
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def post(body: bytes, account: str) -> int:
            connection.request("POST", "/", body, {"x-account": account})
            answer = connection.getresponse()
            answer.read()
            return answer.status

        try:
            yield post
        finally:
            connection.close()
            server.should_exit = True
            thread.join(30)


@contextlib.contextmanager
def opened(
    what: str, by: str, action: str, over: str, seed: int
) -> Iterator[tuple[Pair, Callable[[int], Any], Callable[[Any], Any]]]:
    """Yield a pair, what makes a question of it ready, and what asks it."""
    os.environ.setdefault("SK_ADVDEF_SECRET", SECRET)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with audited(folder):
            pair = pair_of(what, by, action, folder, seed)
            if over == "process":
                yield pair, pair.question, asker(pair.guard)
                return
            with over_http(pair.guard) as post:

                def ready(kind: int) -> tuple[bytes, str]:
                    rows, account = pair.question(kind)
                    return json.dumps({"inputs": rows.tolist()}).encode(), account

                yield pair, ready, lambda question: post(*question)
