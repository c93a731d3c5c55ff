"""Requests that somebody made up to break a guard before a web application."""

import asyncio
import contextlib
import json
import logging
import socket
import threading
import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from sklearn.frozen import FrozenEstimator

from sk_advdef import GuardedClassifier, QueryGuardMiddleware, SimilarQueryDetector
from tests.concealment.test_middleware import ROW, App, X, ask, frozen, http, served

BODY = json.dumps(ROW).encode()
TELLS = (b"LogisticRegression", b"Guarded", b"numpy", b"64", b"Error", b"Traceback")


def guarded(app=None, guard=None, **params):
    return QueryGuardMiddleware(
        app or App(), guard or GuardedClassifier(frozen), threads=1, **params
    )


def row_of(*values):
    """Return a body whose last values are these bytes."""
    kept = b", ".join([b"1"] * (64 - len(values)) + [*values])
    return b'{"inputs": [[' + kept + b"]]}"


MALFORMED = {
    "deep enough for an array": b'{"inputs": ' + b"[" * 40 + b"1" + b"]" * 40 + b"}",
    "deep objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "deep names of columns": b'{"dataframe_split": {"data": [[1]], "columns": '
    + b"[" * 900
    + b"]" * 900
    + b"}}",
    "NaN": row_of(b"NaN"),
    "-Infinity": row_of(b"-Infinity"),
    "beyond infinity": row_of(b"-1e999999999999"),
    "beyond whole numbers": row_of(b"18446744073709551616"),
    "beyond float": row_of(b"1" + b"0" * 400, b"1.5"),
    "digits of another script": row_of("\u0663".encode()),
    "wide digits": row_of("\uff11".encode()),
    "leading zero": row_of(b"01"),
    "hexadecimal": row_of(b"0x1"),
    "underscore": row_of(b"1_0"),
    "quoted": row_of(b'"1"'),
    "a key twice, once escaped": b'{"inputs": [[1]], "\\u0069nputs": [[2]]}',
    "a key twice, deep within": BODY[:-1] + b', "x": [{"a": 1, "a": 2}]}',
    "two objects": BODY + BODY,
    "a byte after the end": BODY + b"\0",
    "byte order mark": b"\xef\xbb\xbf" + BODY,
    "UTF-32": BODY.decode().encode("utf-32"),
    "overlong UTF-8": BODY[:-1] + b', "\xc0\xaf": 1}',
    "surrogate in UTF-8": BODY[:-1] + b', "\xed\xa0\x80": 1}',
    "comment": b"/* */" + BODY,
    "trailing comma": row_of(b"1,"),
    "rows by name": b'{"inputs": {"a": [1]}}',
    "an axis too many": json.dumps({"inputs": [[[1]] * 64]}).encode(),
    "two axes too many": json.dumps({"inputs": [[[[1]]] * 64]}).encode(),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_bodies(name):
    app, guard = App(), GuardedClassifier(frozen)
    status, _, body = ask(guarded(app, guard), MALFORMED[name])
    assert status == 400 and set(json.loads(body)) == {"detail"}
    assert not any(told in body for told in TELLS)
    assert not app.scopes and guard.stats()["rows"] == 0


@pytest.mark.parametrize(
    "value", [b"1" * 300 + b".0", b"0." + b"1" * 900_000, b"1e-999999999"]
)
def test_numbers_of_many_digits_are_numbers(value):
    app = App()
    assert ask(guarded(app), row_of(value))[0] == 200
    assert app.scopes[0]["state"]["guard"].rows[0, -1] == float(value)


def test_a_long_string_takes_no_more_room_than_the_body():
    body = b'{"inputs": ["' + b"a" * 100_000 + b'"' + b', ""' * 200_000 + b"]}"
    tracemalloc.start()
    try:
        status = ask(guarded(), body)[0]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # as an array of strings they would take 80 GB
    assert status == 400 and peak < 50 * len(body)


@pytest.mark.parametrize("method", ["knn", "fingerprint", "provenance"])
def test_values_far_outside_of_all_that_was_seen(method):
    monitor = SimilarQueryDetector(
        method=method, false_positive_rate=0.05, random_state=0
    ).fit(X[:100])
    guard = GuardedClassifier(frozen, monitor=FrozenEstimator(monitor), action="flag")
    asked = guarded(guard=guard)
    for value in (1.7e308, -1.7e308, 1e39, 5e-324, -0.0, 2**63):
        for row in ([value] * 64, [0.5] * 63 + [value]):
            # in a row, and as the difference of two rows
            assert ask(asked, {"inputs": [row, row]})[0] == 200
    assert guard.stats()["rows"] == 24


@given(
    body=st.binary(max_size=60)
    | st.tuples(st.binary(max_size=8), st.integers(0, len(BODY))).map(
        lambda at: BODY[: at[1]] + at[0] + BODY[at[1] :]
    )
)
@example(BODY)
def test_any_bytes_within_a_body(body):
    status, _, answer = ask(guarded(), body)
    assert status == 400 or (status == 200 and answer == body)


HEADERS = st.lists(
    st.tuples(
        st.sampled_from(
            [b"content-type", b"Content-Length", b"CONTENT-ENCODING", b"x-account"]
        ),
        st.binary(max_size=20)
        | st.sampled_from([b"application/json; charset=", b"\xff", b"0" * 9000]),
    ),
    max_size=4,
)


@given(headers=HEADERS)
def test_any_headers(headers):
    guard = GuardedClassifier(frozen, limit="1000/hour")
    asked = guarded(guard=guard, account="X-Account")
    status, _, body = ask(asked, scope=http() | {"headers": headers})
    assert status in (200, 400, 413, 415, 431)
    assert status == 200 or not any(told in body for told in TELLS)


@pytest.mark.parametrize(
    "value, status",
    [
        ("application/json;charset=UTF-8", 200),
        ('application/json; Charset="utf8"; x=y', 200),
        ("application/json; charset=us-ascii", 200),
        ("application/json; charset=utf-16", 415),
        ("application/json; x=y; charset=utf-7", 415),
        ("application/json; charset=", 415),
        ("application/json, text/plain", 415),
        ("\u0430pplication/json", 415),
        ("", 415),
    ],
)
def test_a_charset_that_the_application_might_believe(value, status):
    assert ask(guarded(), headers=[("content-type", value)])[0] == status


@pytest.mark.parametrize(
    "values, status",
    [
        (["7", "7"], 200),
        (["7", "8"], 400),
        (["7, 7"], 400),
        (["-1"], 400),
        (["+1"], 400),
        (["\u0663"], 400),
        (["1e3"], 400),
        ([""], 400),
    ],
)
def test_lengths(values, status):
    headers = [("content-length", value) for value in values]
    assert ask(guarded(), headers=headers)[0] == status


def test_an_account_is_one_however_its_header_is_written():
    guard = GuardedClassifier(frozen, limit="1/hour")
    asked = guarded(guard=guard, account="X-Account")

    def status(*headers):
        return ask(asked, scope=http() | {"headers": headers})[0]

    assert status((b"x-account", b"alice")) == 200
    for name in (b"X-ACCOUNT", b"x-Account"):
        for value in (b"alice", b" alice", b"alice\t "):
            assert status((name, value)) == 429
    # others than she, and none of them an error
    others = (
        b"Alice",
        b"\xff\xfe",
        "al\u0131ce".encode(),
        b"a" * 8192,
        b"al\0ice",
        b"a,b",
    )
    for value in others:
        assert [status((b"x-account", value)) for _ in range(2)] == [200, 429]
    # not the header, but one that looks like it
    assert status((b"x_account", b"alice")) == 200
    assert status((b"x-account ", b"alice")) == 429
    assert status((b"x-account", b"a" * 8193)) == 431
    for twice in ([b"bob", b"bob"], [b"bob", b""], [b"bob"] * 100):
        assert status(*((b"x-account", value) for value in twice)) == 400
    assert status((b"x-account", b"bob")) == 200


def test_an_account_is_one_line_of_the_log(caplog):
    caplog.set_level(logging.INFO, "sk_advdef.audit")
    asked = guarded(guard=GuardedClassifier(frozen, limit="1/hour"), account="name")
    hostile = b'x\n{"event": "rate"}\r\x1b[2J\xff'
    scope = http() | {"headers": [(b"name", hostile)]}
    assert [ask(asked, scope=scope)[0] for _ in range(2)] == [200, 429]
    (line,) = (r.getMessage() for r in caplog.records if r.name == "sk_advdef.audit")
    assert line.isprintable() and line.isascii()
    assert json.loads(line)["accounts"] == [hostile.decode("latin-1")]


@pytest.mark.parametrize("name", ["", "x account", "x-account:", "kéy", "a\r\nb"])
def test_what_is_no_name_of_a_header(name):
    with pytest.raises(ValueError, match=r"'account' parameter .* name of a header"):
        guarded(account=name)


@pytest.mark.parametrize("name", ["Authorization", "cookie", "Proxy-Authorization"])
def test_secrets_are_no_accounts(name):
    with pytest.raises(ValueError, match=r"'account' parameter .* a digest"):
        guarded(account=name)


def test_callables_may_refuse_what_they_cannot_read():
    def account(scope):
        return dict(scope["headers"]).get(b"key", b"").decode()

    asked = guarded(account=account)
    scope = http() | {"headers": [(b"key", b"\xff")]}
    status, _, body = ask(asked, scope=scope)
    assert status == 400 and b"utf" not in body and b"ff" not in body
    assert ask(asked)[0] == 200
    asked = guarded(decode=lambda body: np.array(json.loads(body)["rows"]))
    for body in (b'{"row": 1}', b"[" * 100_000, b"[]", b"\xff", b'{"rows": 1}', b"1"):
        assert ask(asked, body)[0] == 400
    rows = [[10**400] * X.shape[1]]  # an array of objects, that no float can hold
    assert ask(asked, json.dumps({"rows": rows}).encode())[0] == 400


def test_a_decoder_that_is_broken_is_no_fault_of_the_client(caplog):
    def decode(body):
        raise AttributeError("oh")

    status, _, body = ask(guarded(decode=decode))
    assert status == 500 and b"oh" not in body and "AttributeError: oh" in caplog.text


def test_parts_that_never_end_stop_nobody_else():
    async def all_of():
        ticks = []

        async def receive():
            return {"type": "http.request", "body": b"", "more_body": True}

        async def send(message):
            sent.append(message)

        async def tick():
            while True:
                ticks.append(1)
                await asyncio.sleep(0)

        clock, sent = asyncio.create_task(tick()), []
        await guarded(body_timeout=0.05)(http(), receive, send)
        clock.cancel()
        return sent[0]["status"], len(ticks)

    status, ticks = asyncio.run(asyncio.wait_for(all_of(), 20))
    assert status == 408 and ticks > 1


def test_a_byte_now_and_then_wins_no_time():
    sent = []

    async def receive():
        await asyncio.sleep(0.01)
        return {"type": "http.request", "body": b" ", "more_body": True}

    async def send(message):
        sent.append(message)

    asked = guarded(body_timeout=0.1)(http(), receive, send)
    asyncio.run(asyncio.wait_for(asked, 20))
    assert sent[0]["status"] == 408


def test_all_bodies_together_are_bounded():
    asked = guarded(max_bytes=1000, max_total_bytes=1500, body_timeout=0.3)

    async def all_of():
        # two that hold a little each, and wait; a third would be too much
        slow = [
            asyncio.create_task(slowly(asked, b"x" * size)) for size in (800, 600, 200)
        ]
        await asyncio.sleep(0.05)
        quick = await served(asked, http(), b"x" * 200)
        return quick, await asyncio.gather(*slow)

    quick, slow = asyncio.run(all_of())
    assert quick[0] == 503 and quick[1]["retry-after"] == "1"
    assert sorted(found[0] for found in slow) == [408, 408, 503]
    # what they held is given back
    assert ask(asked, {"inputs": [[0] * 64]})[0] == 200
    assert asked._room.left == 1500


def test_what_nobody_waits_for_any_more_still_counts():
    """Who gives up again and again must not fill the queue behind the thread."""
    guard, busy = GuardedClassifier(frozen, limit="99/hour"), threading.Event()

    def who(scope):
        busy.wait(20)
        return "alice"

    bounds = {"max_pending": 2, "max_bytes": 1000, "max_total_bytes": 2000}
    asked = guarded(guard=guard, account=who, **bounds)

    async def all_of():
        tasks = [asyncio.create_task(served(asked, http(), BODY)) for _ in range(2)]
        await asyncio.sleep(0.2)
        for task in tasks:
            task.cancel()
        gone = await asyncio.gather(*tasks, return_exceptions=True)
        refused = [await served(asked, http(), BODY) for _ in range(3)]
        left = asked._room.left
        busy.set()
        while asked._pending:
            await asyncio.sleep(0.01)
        return gone, refused, left, await served(asked, http(), BODY)

    gone, refused, left, last = asyncio.run(all_of())
    assert all(isinstance(one, asyncio.CancelledError) for one in gone)
    assert [found[0] for found in refused] == [503] * 3
    assert left == 2000 - 2 * len(BODY) and asked._room.left == 2000
    assert last[0] == 200
    # one was at work when it was left; what had not begun is not charged
    assert guard.stats()["rows"] == 2


def test_a_thread_that_cannot_be_started_takes_no_place(monkeypatch):
    guard = GuardedClassifier(frozen, limit="99/hour")
    asked, start = guarded(guard=guard, max_pending=2), threading.Thread.start

    def fails(self):
        if self.name.startswith("sk_advdef-guard"):
            raise RuntimeError("can't start new thread")
        start(self)

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", fails)
        assert [ask(asked, ROW)[0] for _ in range(3)] == [500] * 3
    assert [ask(asked, ROW)[0] for _ in range(3)] == [200] * 3
    assert guard.stats()["rows"] == 3  # what was answered 500 is not charged


def test_a_loop_that_ends_first_takes_no_place():
    busy = threading.Event()

    def who(scope):
        busy.wait(20)
        return "alice"

    asked = guarded(account=who, max_pending=1)
    whole = asked._room.left

    async def leave():
        task = asyncio.create_task(served(asked, http(), BODY))
        await asyncio.sleep(0.1)
        task.cancel()

    asyncio.run(leave())
    busy.set()
    for _ in range(200):
        if not asked._pending and asked._room.left == whole:
            break
        time.sleep(0.05)
    assert ask(asked, ROW)[0] == 200 and asked._room.left == whole


async def slowly(app, part):
    """Send a part of a body, and no more."""
    sent, parts = [], [part]

    async def receive():
        if not parts:
            await asyncio.sleep(60)
        return {"type": "http.request", "body": parts.pop(), "more_body": True}

    async def send(message):
        sent.append(message)

    await app(http(), receive, send)
    return sent[0]["status"], sent[1]["body"]


@pytest.mark.parametrize("bad", [999, 1500.0, "all"])
def test_bad_room(bad):
    with pytest.raises(ValueError, match="'max_total_bytes' parameter of QueryGuard"):
        guarded(max_bytes=1000, max_total_bytes=bad)


# over a socket, to a server


@pytest.fixture(scope="module")
def address():
    uvicorn = pytest.importorskip("uvicorn")
    asked = QueryGuardMiddleware(
        App(),
        GuardedClassifier(frozen),
        account="x-account",
        max_bytes=2000,
        body_timeout=0.3,
    )
    config = uvicorn.Config(
        asked, http="h11", ws="none", lifespan="off", log_level="critical"
    )
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield listening.getsockname()
        server.should_exit = True
        thread.join(20)
    assert not thread.is_alive()


def told(address, *parts, half=False):
    """Send bytes, and return those that come back until the server closes."""
    found = b""
    to_server = socket.create_connection(address, timeout=10)
    with to_server as connection, contextlib.suppress(ConnectionError):
        for part in parts:
            connection.sendall(part)
        if half:
            connection.shutdown(socket.SHUT_WR)
        while part := connection.recv(65536):
            found += part
    return found


def head(*lines):
    known = ["POST / HTTP/1.1", "host: a", "connection: close"]
    return "\r\n".join([*known, *lines, "", ""]).encode("latin-1")


def chunk(part):
    return b"%x\r\n%s\r\n" % (len(part), part)


CHUNKED = "transfer-encoding: chunked"
SHORT = json.dumps({"inputs": [[0] * 64]}).encode()
EXACT = f"content-length: {len(SHORT)}"

#: What should come back (nothing, where the server just hangs up), and what is sent.
SENT = {
    "as it should be": (b"200", head(EXACT), SHORT),
    "in chunks": (b"200", head(CHUNKED), chunk(SHORT), chunk(b"")),
    "chunks that go on": (b"413", head(CHUNKED), *[chunk(b"x" * 512)] * 4),
    "chunks that stop": (b"408", head(CHUNKED), chunk(b"{}")),
    "a chunk without a length": (b"", head(CHUNKED), b"no\r\n"),
    "longer than it says": (b"200 400", head(EXACT), SHORT + b"GET"),
    "shorter than it says": (b"408", head(EXACT), SHORT[:9]),
    "half a body": (b"", head(EXACT), SHORT[:9]),
    "more than is taken": (b"413", head("content-length: 2001")),
    "two lengths": (b"400", head(EXACT, "content-length: 1"), SHORT),
    "a length and chunks": (b"400", head(EXACT, CHUNKED), chunk(b"")),
    "any bytes for an account": (b"200", head(EXACT, "x-account: \xff\xe9"), SHORT),
    "two accounts": (b"400", head(EXACT, "x-account: a", "X-Account: b"), SHORT),
    "an account in two lines": (b"200", head(EXACT, "x-account: a", " b"), SHORT),
    "a long account": (b"431", head(EXACT, "x-account: " + "a" * 9000), SHORT),
    "no name of a header": (b"400", head(EXACT, "x account: a"), SHORT),
}


@pytest.mark.parametrize("name", SENT)
def test_over_a_socket(address, name):
    wanted, *parts = SENT[name]
    answer = told(address, *parts, half=name == "half a body")
    if wanted:
        assert answer.split()[1] in wanted.split()
    else:
        assert not answer or answer.split()[1] in (b"400", b"408")
    assert not any(word in answer for word in TELLS)
    # and others are still served
    assert told(address, head(EXACT), SHORT).split()[1] == b"200"
