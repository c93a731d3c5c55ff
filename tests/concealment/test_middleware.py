"""A guard before a web application, asked as a server would ask it."""

import asyncio
import json
import math
import threading
import time
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression

from sk_advdef import GuardedClassifier, QueryGuardMiddleware, SimilarQueryDetector
from sk_advdef.concealment._memory_store import MemoryStore
from sk_advdef.concealment._store import StoreError
from tests.concealment._stores import EVERY_STORE

X, y = load_digits(return_X_y=True)
X = X / 16
model = LogisticRegression(C=0.1, max_iter=1000).fit(X[:500], y[:500])
frozen = FrozenEstimator(model)
monitor = FrozenEstimator(
    SimilarQueryDetector(false_positive_rate=0.01, random_state=0).fit(X[:1000])
)
ROW = {"inputs": X[1000:1001].tolist()}


def variants(n=20):
    rng = np.random.default_rng(0)
    return X[1000] + rng.uniform(-0.02, 0.02, (n, 64))


def watched(action, **params):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        guard = GuardedClassifier(frozen, monitor=monitor, action=action, **params)
        guard.admit(X[:1], account="warm")
    return guard


class App:
    """Answers with what it got, and keeps the scopes."""

    def __init__(self):
        self.scopes = []

    async def __call__(self, scope, receive, send):
        self.scopes.append(scope)
        if scope["type"] != "http":
            await send({"type": f"{scope['type']}.passed"})
            return
        body = b""
        while True:
            message = await receive()
            body += message["body"]
            if not message["more_body"]:
                break
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})


def http(method="POST", path="/predict", headers=(), client=("192.0.2.1", 4711)):
    headers = [(name.encode(), value.encode()) for name, value in headers]
    scope = {"type": "http", "method": method, "path": path, "http_version": "1.1"}
    return {**scope, "headers": headers, "client": client}


async def served(app, scope, *parts, ends="disconnect"):
    """Ask an application; return status, headers and body of the answer."""
    waiting = [
        {"type": "http.request", "body": part, "more_body": i < len(parts)}
        for i, part in enumerate(parts, 1)
    ]
    sent = []

    async def receive():
        if waiting:
            return waiting.pop(0)
        if ends == "hang":
            await asyncio.sleep(60)
        return {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    await app(scope, receive, send)
    if not sent:
        return None
    assert [message["type"] for message in sent] == [
        "http.response.start",
        "http.response.body",
    ]
    headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], headers, sent[1]["body"]


def ask(app, content=ROW, scope=None, **kwargs):
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    return asyncio.run(served(app, scope or http(**kwargs), body))


def test_an_admitted_request_is_answered_by_the_application():
    app = App()
    guarded = QueryGuardMiddleware(app, GuardedClassifier(frozen, limit="9/hour"))
    scope = http(headers=[("content-type", "application/json; charset=utf-8")])
    state = {"pool": object()}
    scope["state"] = state
    body = json.dumps({"inputs": X[:3].tolist(), "parameters": {}}).encode()
    assert asyncio.run(served(guarded, scope, body)) == (200, {}, body)
    seen = app.scopes[0]["state"]["guard"]
    np.testing.assert_array_equal(seen.rows, X[:3])
    assert seen.account == "192.0.2.1" and seen.suspicious.tolist() == [False] * 3
    # others may share the state that the server handed out
    assert state.keys() == {"pool"} and app.scopes[0]["state"]["pool"] is state["pool"]


@pytest.mark.parametrize(
    "content",
    [
        {"inputs": [[1, 2.5]]},
        {"instances": [[1, 2.5]]},
        {"dataframe_split": {"columns": ["a", "b"], "data": [[1, 2.5]], "index": [0]}},
    ],
)
def test_shapes_of_json(content):
    app = App()
    small = LogisticRegression().fit([[0, 0], [1, 2.5]], [0, 1])
    guarded = QueryGuardMiddleware(app, GuardedClassifier(FrozenEstimator(small)))
    assert ask(guarded, content)[0] == 200
    assert app.scopes[0]["state"]["guard"].rows.tolist() == [[1.0, 2.5]]


def test_names_of_features():
    names = ["width", "height"]
    frame = pd.DataFrame([[0.0, 0], [1, 2.5]], columns=names)
    named = LogisticRegression().fit(frame, [0, 1])
    app = App()
    guarded = QueryGuardMiddleware(app, GuardedClassifier(FrozenEstimator(named)))
    split = {"columns": names, "data": [[1, 2.5]]}
    for content in ({"dataframe_split": split}, {"inputs": [[1, 2.5]]}):
        assert ask(guarded, content)[0] == 200
        rows = app.scopes[-1]["state"]["guard"].rows
        assert rows.columns.tolist() == names and rows.to_numpy().tolist() == [[1, 2.5]]
    # the model would not take them in another order, nor of another width
    split["columns"] = names[::-1]
    assert ask(guarded, {"dataframe_split": split})[0] == 400
    assert ask(guarded, {"inputs": [[1, 2, 3]]})[0] == 400


@EVERY_STORE
def test_who_asks_too_often_is_told_when_to_ask_again(uri):
    guard = GuardedClassifier(frozen, limit="2/hour", store=uri)
    app = App()
    guarded = QueryGuardMiddleware(app, guard)
    assert [ask(guarded)[0] for _ in range(2)] == [200, 200]
    status, headers, body = ask(guarded)
    assert status == 429 and 1790 < int(headers["retry-after"]) <= 1800
    assert json.loads(body) == {"detail": "The query is refused."}
    assert int(headers["content-length"]) == len(body)
    assert ask(guarded, client=("192.0.2.2", 1))[0] == 200
    # the same counter as that of the guard
    assert len(app.scopes) == 3 and guard.stats()["refused_for_rate"] == 1


def test_similar_queries_are_refused_in_the_same_form():
    guard = watched("reject", limit="1000/hour")
    guarded = QueryGuardMiddleware(App(), guard)
    answers = [ask(guarded, {"inputs": [row.tolist()]}) for row in variants()]
    assert answers[0][0] == 200
    status, headers, body = answers[-1]
    assert status == 429 and json.loads(body) == {"detail": "The query is refused."}
    assert int(headers["retry-after"]) == math.ceil(36)
    assert guard.stats()["refused_for_similarity"] >= 10


def test_the_application_decides_on_what_is_flagged():
    app = App()
    guarded = QueryGuardMiddleware(app, watched("flag"))
    assert ask(guarded, {"inputs": variants().tolist()})[0] == 200
    suspicious = app.scopes[0]["state"]["guard"].suspicious
    assert not suspicious[0] and suspicious[10:].all()


def test_delays_hold_no_thread(monkeypatch):
    guarded = QueryGuardMiddleware(App(), watched("delay", delay=0.2), threads=1)
    content = json.dumps({"inputs": variants().tolist()}).encode()
    sleep, waiting = asyncio.sleep, asyncio.Barrier(20)

    async def all_wait(seconds):
        if seconds == 0.2:
            # goes on when all wait at once
            await waiting.wait()
        await sleep(0)

    monkeypatch.setattr(asyncio, "sleep", all_wait)

    async def all_of():
        return await asyncio.gather(
            *(served(guarded, http(), content) for _ in range(20))
        )

    answers = asyncio.run(asyncio.wait_for(all_of(), 60))
    assert [status for status, _, _ in answers] == [200] * 20


def test_no_more_wait_than_may_be_pending():
    guarded = QueryGuardMiddleware(
        App(), watched("delay", delay=0.5), threads=1, max_pending=3
    )
    content = json.dumps({"inputs": variants().tolist()}).encode()

    async def all_of():
        waiting = []
        for _ in range(5):
            waiting.append(asyncio.create_task(served(guarded, http(), content)))
            while guarded._delayed < min(len(waiting), 3) and not waiting[-1].done():
                await asyncio.sleep(0)
        fine = {"inputs": X[:1].tolist()}
        others = await served(guarded, http(), json.dumps(fine).encode())
        return others, await asyncio.gather(*waiting)

    others, answers = asyncio.run(asyncio.wait_for(all_of(), 60))
    # who is not suspected is answered all the while
    assert others[0] == 200
    assert sorted(status for status, _, _ in answers) == [200] * 3 + [503] * 2
    assert guarded._delayed == 0


def test_accounts_from_a_header():
    guard = GuardedClassifier(frozen, limit="1/hour")
    guarded = QueryGuardMiddleware(App(), guard, account="X-Account")
    for name in ("alice", "bob", "é", ""):
        named = [("x-account", name)]
        assert [ask(guarded, headers=named)[0] for _ in range(2)] == [200, 429]
    # those who name none share one account
    assert [ask(guarded)[0] for _ in range(2)] == [200, 429]
    twice = [("X-Account", "carol"), ("x-account", "dave")]
    assert ask(guarded, headers=twice)[0] == 400
    # nobody was charged for that
    assert ask(guarded, headers=twice[:1])[0] == 200


def test_accounts_from_a_callable(caplog):
    def account(scope):
        assert threading.current_thread() is not threading.main_thread()
        return dict(scope["headers"])[b"key"].decode()

    guard = GuardedClassifier(frozen, limit="1/hour")
    guarded = QueryGuardMiddleware(App(), guard, account=account)
    for name in ("alice", "bob"):
        named = [("key", name)]
        assert [ask(guarded, headers=named)[0] for _ in range(2)] == [200, 429]
    status, _, body = ask(guarded)
    assert status == 500 and b"key" not in body and "KeyError: b'key'" in caplog.text
    wrong = QueryGuardMiddleware(App(), guard, account=lambda scope: 1.5)
    assert ask(wrong)[0] == 500


MALFORMED = {
    "empty": b"",
    "no json": b"{",
    "no object": b"[[1]]",
    "no key": b'{"rows": [[1]]}',
    "two keys": b'{"inputs": [[1]], "instances": [[2]]}',
    "a key twice": b'{"inputs": [[1]], "inputs": [[2]]}',
    "too deep to read": b'{"inputs": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "too deep for an array": b'{"inputs": ' + b"[" * 90 + b"1" + b"]" * 90 + b"}",
    "other width": b'{"inputs": [[1, 2, 3]]}',
    "ragged": b'{"inputs": [[1, 2], [3]]}',
    "one row flat": json.dumps({"inputs": X[0].tolist()}).encode(),
    "no rows": b'{"inputs": []}',
    "a number": b'{"inputs": 1}',
    "text": json.dumps({"inputs": [["1"] * 64]}).encode(),
    "null": json.dumps({"inputs": [[None] * 64]}).encode(),
    "objects": b'{"inputs": [{"a": 1}]}',
    "NaN": json.dumps({"inputs": [[math.nan] * 64]}).encode(),
    "infinity": b'{"inputs": [[' + b"1, " * 63 + b"1e999]]}",
    "huge": b'{"inputs": [[' + b"1, " * 63 + b"1" * 400 + b"]]}",
    "endless": b'{"inputs": [[' + b"1, " * 63 + b"1" * 9000 + b"]]}",
    "other encoding": json.dumps(ROW).encode("utf-16"),
    "no encoding": b'{"inputs": "\xff"}',
    "split without columns": b'{"dataframe_split": {"data": [[1]]}}',
    "split too wide": b'{"dataframe_split": {"columns": ["a"], "data": [[1, 2]]}}',
    "split of a list": b'{"dataframe_split": [[1]]}',
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_bodies(name):
    guard = GuardedClassifier(frozen, limit="1/hour")
    app = App()
    guarded = QueryGuardMiddleware(app, guard)
    status, _, body = ask(guarded, MALFORMED[name])
    assert status == 400 and set(json.loads(body)) == {"detail"}
    for told in (b"LogisticRegression", b"Guarded", b"64", b"Error", b"Traceback"):
        assert told not in body
    # nothing is charged, and nothing reaches the application
    assert not app.scopes and guard.stats()["rows"] == 0
    assert ask(guarded)[0] == 200


def test_more_rows_than_an_account_may_ever_ask():
    guarded = QueryGuardMiddleware(App(), GuardedClassifier(frozen, limit="2/hour"))
    assert ask(guarded, {"inputs": X[:3].tolist()})[0] == 400
    assert ask(guarded, {"inputs": X[:2].tolist()})[0] == 200


def test_more_rows_than_a_request_may_hold():
    guard = GuardedClassifier(frozen)
    guarded = QueryGuardMiddleware(App(), guard, max_rows=2)
    assert ask(guarded, {"inputs": X[:3].tolist()})[0] == 413
    assert ask(guarded, {"inputs": X[:2].tolist()})[0] == 200
    assert guard.stats()["rows"] == 2


@given(body=st.binary(max_size=80) | st.text(max_size=40).map(str.encode))
@example(json.dumps(ROW).encode())
def test_any_bytes(body):
    guarded = QueryGuardMiddleware(App(), GuardedClassifier(frozen), threads=1)
    status, _, answer = ask(guarded, body)
    assert status in (200, 400) and (status == 400 or answer == body)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
)


@given(key=st.sampled_from(["inputs", "instances", "dataframe_split"]), value=JSON)
def test_any_json(key, value):
    guarded = QueryGuardMiddleware(App(), GuardedClassifier(frozen), threads=1)
    assert ask(guarded, {key: value})[0] == 400


@pytest.mark.parametrize(
    "headers, status",
    [
        ([("content-length", "101")], 413),
        ([("content-length", "9" * 5000)], 413),
        ([("content-length", "1_0")], 400),
        ([("content-encoding", "gzip")], 415),
        ([("content-type", "text/plain")], 415),
        ([("content-type", "application/json"), ("content-type", "text/html")], 400),
    ],
)
def test_headers_that_need_no_body(headers, status):
    guarded = QueryGuardMiddleware(App(), GuardedClassifier(frozen), max_bytes=100)
    # the body never comes
    asked = served(guarded, http(headers=headers), ends="hang")
    found, _, _ = asyncio.run(asyncio.wait_for(asked, 5))
    assert found == status


@pytest.mark.parametrize(
    "headers",
    [
        [("content-length", "099")],
        [("content-encoding", "identity")],
        [("content-type", "application/problem+JSON")],
    ],
)
def test_headers_that_pass(headers):
    guarded = QueryGuardMiddleware(App(), GuardedClassifier(frozen))
    assert ask(guarded, headers=headers)[0] == 200


def test_bodies_in_parts_are_bounded_whatever_they_claim():
    app = App()
    guarded = QueryGuardMiddleware(app, GuardedClassifier(frozen), max_bytes=2000)
    body = json.dumps({"inputs": [[0] * 64]}).encode()
    parts = [body[i : i + 7] for i in range(0, len(body), 7)]
    assert asyncio.run(served(guarded, http(), *parts)) == (200, {}, body)
    lying = http(headers=[("content-length", "10")])
    status, headers, _ = asyncio.run(served(guarded, lying, *[b"x" * 500] * 5))
    assert status == 413 and headers["connection"] == "close" and len(app.scopes) == 1


def test_slow_bodies():
    guarded = QueryGuardMiddleware(
        App(), GuardedClassifier(frozen), body_timeout=0.05, max_pending=1
    )
    scope = http() | {"http_version": "2"}

    async def both():
        slow = asyncio.create_task(served(guarded, scope, ends="hang"))
        await asyncio.sleep(0)
        # who is slow is in nobody's way
        quick = await served(guarded, http(), json.dumps(ROW).encode())
        return await slow, quick

    slow, quick = asyncio.run(both())
    assert slow[0] == 408 and "connection" not in slow[1] and quick[0] == 200


def test_clients_that_go_away():
    guard = GuardedClassifier(frozen)
    app = App()
    guarded = QueryGuardMiddleware(app, guard)
    assert asyncio.run(served(guarded, http())) is None

    async def half(scope):
        messages = [
            {"type": "http.request", "body": b'{"inputs"', "more_body": True},
            {"type": "http.disconnect"},
        ]

        async def receive():
            return messages.pop(0)

        async def send(message):
            raise AssertionError("nobody listens")

        await guarded(scope, receive, send)

    asyncio.run(half(http()))
    assert not app.scopes and guard.stats()["calls"] == 0


def test_the_application_hears_of_a_client_that_goes_away_later():
    heard = []

    async def app(scope, receive, send):
        heard.extend([await receive(), await receive()])

    guarded = QueryGuardMiddleware(app, GuardedClassifier(frozen))
    ask(guarded)
    assert [message["type"] for message in heard] == ["http.request", "http.disconnect"]


@pytest.mark.parametrize("kind", ["lifespan", "websocket"])
def test_other_scopes_pass(kind):
    app, sent = App(), []
    guarded = QueryGuardMiddleware(app, GuardedClassifier(frozen, limit="1/hour"))

    async def send(message):
        sent.append(message)

    for _ in range(3):
        asyncio.run(guarded({"type": kind}, None, send))
    assert app.scopes == [{"type": kind}] * 3 and len(sent) == 3


def test_what_reads_and_what_is_exempt_passes():
    app = App()
    guarded = QueryGuardMiddleware(
        app, GuardedClassifier(frozen), exempt_paths=["/health"]
    )
    passing = [http("GET"), http("HEAD"), http("OPTIONS"), http(path="/health")]
    for scope in passing:
        assert ask(guarded, b"anything", scope) == (200, {}, b"anything")
    assert app.scopes == passing
    for scope in (http("PUT"), http("post"), http(path="/health/")):
        assert ask(guarded, b"anything", scope)[0] == 400


class Slow(MemoryStore):
    """A store that takes its time."""

    def hit(self, *args, **kwargs):
        time.sleep(0.1)
        return super().hit(*args, **kwargs)


def test_a_slow_store_stops_nobody_else():
    guard = GuardedClassifier(frozen, limit="100/hour")
    guarded = QueryGuardMiddleware(App(), guard, threads=2, max_pending=4)
    guard._gate().store = Slow()
    ticks = []

    async def tick():
        while True:
            ticks.append(time.monotonic())
            await asyncio.sleep(0.005)

    async def all_of():
        clock = asyncio.create_task(tick())
        body = json.dumps(ROW).encode()
        answers = await asyncio.gather(
            *(served(guarded, http(), body) for _ in range(6))
        )
        clock.cancel()
        return answers

    answers = asyncio.run(all_of())
    assert sorted(status for status, _, _ in answers) == [200] * 4 + [503] * 2
    assert next(h for s, h, _ in answers if s == 503)["retry-after"] == "1"
    # the loop ran while the store slept
    assert len(ticks) > 5
    # and what was taken up is given back
    assert ask(guarded)[0] == 200


class Failing(MemoryStore):
    """A store that is down."""

    def hit(self, *args, **kwargs):
        raise StoreError("down")


@pytest.mark.parametrize("mode, status", [("closed", 503), ("open", 200)])
def test_a_store_that_fails(mode, status):
    guard = GuardedClassifier(frozen, limit="9/hour", on_store_failure=mode)
    guarded = QueryGuardMiddleware(App(), guard)
    guard._gate().store = Failing()
    assert ask(guarded)[0] == status


def test_rows_in_another_form():
    app = App()
    guarded = QueryGuardMiddleware(
        app,
        GuardedClassifier(frozen),
        decode=lambda body: [[float(word) for word in body.split(b",")]],
    )
    body = b",".join(b"%f" % value for value in X[0])
    assert ask(guarded, body, headers=[("content-type", "text/csv")]) == (200, {}, body)
    assert ask(guarded, b"one,two")[0] == 400


def test_what_is_wrong_with_a_guard_shows_at_once(monkeypatch):
    app = App()
    with monkeypatch.context() as patched:
        patched.setenv("SK_ADVDEF_SECRET", "short")
        with pytest.raises(ValueError, match="SK_ADVDEF_SECRET"):
            QueryGuardMiddleware(app, GuardedClassifier(frozen, limit="9/hour"))
    with pytest.raises(NotFittedError):
        QueryGuardMiddleware(app, GuardedClassifier(LogisticRegression()))
    with pytest.raises(ValueError, match="'limit' parameter of GuardedClassifier"):
        QueryGuardMiddleware(app, GuardedClassifier(frozen, limit="many"))


def test_names_need_pandas(monkeypatch):
    frame = pd.DataFrame(X[:200]).add_prefix("pixel ")
    named = FrozenEstimator(LogisticRegression(max_iter=500).fit(frame, y[:200]))
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    with pytest.raises(ImportError, match="needs pandas"):
        QueryGuardMiddleware(App(), GuardedClassifier(named))


@pytest.mark.parametrize(
    "bad",
    [
        {"guard": model},
        {"account": 5},
        {"decode": "json"},
        {"exempt_paths": "/health"},
        {"max_bytes": 0},
        {"max_rows": 0},
        {"body_timeout": 0},
        {"max_pending": 1.5},
        {"threads": 0},
    ],
)
def test_bad_parameters(bad):
    (name,) = bad
    params = {"guard": GuardedClassifier(frozen)} | bad
    with pytest.raises(ValueError, match=f"'{name}' parameter of QueryGuardMiddleware"):
        QueryGuardMiddleware(App(), **params)
