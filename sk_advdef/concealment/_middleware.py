"""A guard before a web application."""

from __future__ import annotations

import asyncio
import logging
import re
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from sk_advdef._validation import check_number, invalid
from sk_advdef.concealment._accounts import account_id
from sk_advdef.concealment._asgi import (
    App,
    Disconnected,
    Receive,
    Room,
    Scope,
    Send,
    Share,
    answer,
    body_of,
    check_headers,
    replayed,
    values_of,
)
from sk_advdef.concealment._guarded import GuardedClassifier
from sk_advdef.concealment._json_rows import BadRequest, rows_from_json
from sk_advdef.concealment._refused import QueryRefused

logger = logging.getLogger("sk_advdef.concealment")

#: Methods whose requests ask the model nothing.
READING = ("GET", "HEAD", "OPTIONS")
REFUSED = {"rate": 429, "similar": 429, "unavailable": 503}
#: What may be the name of a header.
TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
#: Headers whose values are secrets: accounts are written to the audit log.
SECRET_HEADERS = ("authorization", "cookie", "proxy-authorization")
#: Bytes of a header that names an account.
MAX_ACCOUNT = 8192
#: What reading a body that somebody made up may raise.
MALFORMED = (TypeError, ValueError, LookupError, ArithmeticError, RecursionError)


class Admitted(NamedTuple):
    """What an application finds in ``scope["state"]["guard"]``."""

    rows: Any
    account: Any
    suspicious: np.ndarray


class QueryGuardMiddleware:
    """Throttle and watch the queries that a web application is sent.

    A request is read, the rows in it go through ``guard.admit``, and the application
    answers, whatever it is: this is ASGI and nothing else, for FastAPI, Starlette,
    BentoML, LitServe and the scoring server of MLflow alike. Who is refused gets 429
    and ``Retry-After``.

    Parameters
    ----------
    app : ASGI application
        What answers.
    guard : GuardedClassifier
        The guard, fitted or around what is frozen. Its limit, monitor, store and
        ``action`` count: "reject" and "delay" are done here; "flag", "label" and
        "decoy" are left to the application.
    account : str, callable or None, default=None
        Who asks. A str is the name of a header, a callable gets the scope of ASGI in a
        thread and returns a str, bytes, int or None; where it raises a ValueError the
        answer is 400. None is the address that the server tells.
    decode : callable or None, default=None
        Makes rows from the body (bytes), in a thread; where it raises a ValueError,
        TypeError, LookupError, ArithmeticError or RecursionError the answer is 400.
        None reads JSON with one of ``inputs``, ``instances`` (lists of rows) and
        ``dataframe_split`` (``columns`` and ``data``).
    exempt_paths : sequence of str, default=()
        Paths that pass unread, such as "/health"; exactly these.
    max_bytes : int, default=1_000_000
        Bytes of a body, at least 1.
    max_rows : int, default=1000
        Rows of a request, at least 1. While they are compared to earlier ones, others
        wait.
    body_timeout : float, default=10.0
        Seconds in which the whole body must come, in (0, inf).
    max_pending : int, default=128
        Requests that wait for a thread or are in one, at least 1; others are answered
        503. As many again may wait for ``delay``.
    threads : int, default=8
        Threads that read rows and ask the store, at least 1, so that the event loop
        never waits.
    max_total_bytes : int or None, default=None
        Bytes of all bodies that are being read or checked, at least ``max_bytes``;
        where these are taken the answer is 503. None: as many as ``max_pending`` bodies
        of ``max_bytes``.

    Raises
    ------
    ValueError
        If a parameter is not of the kind described, or the guard is not ready.
    ImportError
        If the features of the model have names and pandas is missing.

    See Also
    --------
    GuardedClassifier : The guard; around a model, without a server, it is enough.

    Notes
    -----
    *Who asks.* A header that clients can set is no account: they would take another for
    each query, or that of somebody else. Name a header only if a proxy before the
    application sets it anew at each request, and nobody reaches the application past
    the proxy. A header that comes twice is answered 400, one of more than 8192 bytes
    431, one that is missing counts as the account None, which all share that give no
    name; space around a name does not count, upper and lower case differ. The
    address is what the server tells: uvicorn takes it from ``X-Forwarded-For`` where
    the peer is its own host or one of ``FORWARDED_ALLOW_IPS``, so the proxy must set
    that header anew too, or uvicorn run with ``--no-proxy-headers``; then all behind a
    proxy have one account. Accounts are written to the audit log: of a key or a token,
    let a callable make a digest.

    *What is read.* All requests but GET, HEAD and OPTIONS, which the application must
    not answer with a prediction; web sockets and lifespan pass. A body that is
    malformed, too large, too deep, too slow, compressed or not JSON is answered by a
    4xx with words that tell nothing of the model; the application never sees it. What
    two readers of JSON could read in two ways is refused too. Rows with an axis too
    many are told by a monitor or by a model of scikit-learn's own; before another model
    the application gets them, as it gets images.

    *What is bounded.* Bytes, rows and seconds of a body, and bytes of all bodies
    together. Who sends slowly takes up a connection and what has come of the body for
    ``body_timeout``, so limit connections where they are accepted (``uvicorn
    --limit-concurrency``), or let a proxy read bodies first.

    *What the application gets.* The request as it came, and in
    ``scope["state"]["guard"]`` (with Starlette and FastAPI ``request.state.guard``) a
    tuple ``(rows, account, suspicious)``. To answer exactly the rows that were watched,
    take them from there. Let it ask the model itself: a guard around it as well would
    count each row twice.

    **What an adaptive attacker does to it**: what he does to `GuardedClassifier`. Here
    he also looks for a way past: a path or a method that is not watched, a key from
    which the application takes rows and this does not, many addresses.

    Examples
    --------
    >>> import asyncio
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.frozen import FrozenEstimator
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sk_advdef import GuardedClassifier, QueryGuardMiddleware
    >>> X, y = load_iris(return_X_y=True)
    >>> model = LogisticRegression(max_iter=1000).fit(X, y)
    >>> async def app(scope, receive, send):
    ...     label = model.predict(scope["state"]["guard"].rows)[0]
    ...     await send({"type": "http.response.start", "status": 200, "headers": []})
    ...     await send({"type": "http.response.body", "body": b"%d" % label})
    >>> guard = GuardedClassifier(FrozenEstimator(model), limit="1/hour")
    >>> guarded_app = QueryGuardMiddleware(app, guard)
    >>> async def receive():
    ...     body = b'{"inputs": [[5.1, 3.5, 1.4, 0.2]]}'
    ...     return {"type": "http.request", "body": body, "more_body": False}
    >>> async def send(message):
    ...     print(message.get("status", message.get("body")))
    >>> scope = {"type": "http", "method": "POST", "path": "/predict", "headers": []}
    >>> asyncio.run(guarded_app(scope, receive, send))
    200
    b'0'
    >>> asyncio.run(guarded_app(scope, receive, send))
    429
    b'{"detail": "The query is refused."}'
    """

    def __init__(
        self,
        app: App,
        guard: GuardedClassifier,
        *,
        account: str | Callable[[Scope], Any] | None = None,
        decode: Callable[[bytes], Any] | None = None,
        exempt_paths: Sequence[str] = (),
        max_bytes: int = 1_000_000,
        max_rows: int = 1000,
        body_timeout: float = 10.0,
        max_pending: int = 128,
        threads: int = 8,
        max_total_bytes: int | None = None,
    ) -> None:
        if not isinstance(guard, GuardedClassifier):
            raise invalid(self, "guard", "a GuardedClassifier", guard)
        if not (account is None or callable(account) or isinstance(account, str)):
            allowed = "the name of a header, a callable or None"
            raise invalid(self, "account", allowed, account)
        if isinstance(account, str):
            self._check_header(account)
        if decode is not None and not callable(decode):
            raise invalid(self, "decode", "a callable or None", decode)
        if isinstance(exempt_paths, (str, bytes)):
            raise invalid(self, "exempt_paths", "a sequence of paths", exempt_paths)
        for name, value in (
            ("max_bytes", max_bytes),
            ("max_rows", max_rows),
            ("max_pending", max_pending),
            ("threads", threads),
        ):
            check_number(self, name, value, integer=True, low=1)
        check_number(self, "body_timeout", body_timeout, low=0, closed="neither")
        if max_total_bytes is None:
            max_total_bytes = max_bytes * max_pending
        check_number(
            self,
            "max_total_bytes",
            max_total_bytes,
            integer=True,
            low=max_bytes,
            otherwise=" or None",
        )
        self.app, self.guard = app, guard
        self._account = account
        self._exempt = frozenset(exempt_paths)
        self._max_bytes, self._max_rows = max_bytes, max_rows
        self._body_timeout = body_timeout
        self._max_pending, self._pending, self._delayed = max_pending, 0, 0
        self._counting = threading.Lock()
        self._room = Room(max_total_bytes)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="sk_advdef-guard")
        # what is wrong with the guard shows now, and not as an answer to a client
        guard._open()
        self._is_json = decode is None
        self._decode = self._default_decode() if decode is None else decode

    def _check_header(self, name: str) -> None:
        if not TOKEN.fullmatch(name):
            raise invalid(self, "account", "the name of a header", name)
        if name.lower() in SECRET_HEADERS:
            raise ValueError(
                f"The 'account' parameter of {type(self).__name__} must not be "
                f"{name!r}, whose values are secrets: accounts are written to the "
                "audit log. Pass a callable that returns whose they are, or a digest."
            )

    def _default_decode(self) -> Callable[[bytes], Any]:
        names = getattr(self.guard, "feature_names_in_", None)
        if names is None:
            return rows_from_json
        try:
            import pandas  # noqa: F401 - to fail early
        except ImportError as error:
            raise ImportError(
                "QueryGuardMiddleware needs pandas before a model whose features have "
                "names. Install it, or pass decode=."
            ) from error
        listed = [str(name) for name in names]
        return lambda body: rows_from_json(body, listed)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection of ASGI.

        Parameters
        ----------
        scope : dict
            What is asked.
        receive : callable
            Awaits the next message of the client.
        send : callable
            Sends a message to the client.
        """
        if (
            scope["type"] != "http"
            or scope["method"].upper() in READING
            or scope["path"] in self._exempt
        ):
            await self.app(scope, receive, send)
            return
        try:
            check_headers(scope, self._max_bytes, is_json=self._is_json)
            with self._room.share() as share:
                seconds = self._body_timeout
                body = await body_of(receive, self._max_bytes, seconds, share.take)
                admitted = await self._admitted(scope, body, share)
            if self.guard.action == "delay" and admitted.suspicious.any():
                await self._delay()
        except Disconnected:
            return
        except BadRequest as bad:
            await answer(scope, send, bad.status, bad.detail)
            return
        except QueryRefused as refused:
            status = REFUSED[refused.reason]
            wait = refused.retry_after
            await answer(scope, send, status, "The query is refused.", wait)
            return
        except Exception:
            logger.exception("a request could not be checked")
            await answer(scope, send, 500, "The request could not be checked.")
            return
        # a dict of its own: servers let requests share that of the lifespan
        state = {**scope.get("state", {}), "guard": admitted}
        await self.app({**scope, "state": state}, replayed(body, receive), send)

    async def _admitted(self, scope: Scope, body: bytes, share: Share) -> Admitted:
        """Let a request through, or raise; the work is done in a thread.

        It counts until it is done, also where nobody waits for it any more.
        """
        if self._pending >= self._max_pending:
            raise QueryRefused("unavailable", 1.0)
        left = threading.Event()

        def check() -> Admitted:
            if left.is_set():
                raise Disconnected
            return self._check(scope, body)

        with self._counting:
            self._pending += 1
        try:
            job = self._pool.submit(check)
        except BaseException:
            left.set()  # without a thread it may be queued all the same
            self._done()
            raise
        # by the thread: the loop may be closed before
        job.add_done_callback(self._done)
        work = asyncio.wrap_future(job)
        try:
            await asyncio.wait([work])
        except asyncio.CancelledError:
            left.set()
            share.held_by = job
            # or asyncio says that nobody asked what became of it
            work.add_done_callback(lambda work: work.cancelled() or work.exception())
            raise
        return work.result()

    def _done(self, _: object = None) -> None:
        with self._counting:
            self._pending -= 1

    async def _delay(self) -> None:
        """Wait, and keep the bodies of no more than some that do."""
        if self._delayed >= self._max_pending:
            raise QueryRefused("unavailable", 1.0)
        self._delayed += 1
        try:
            await asyncio.sleep(self.guard.delay)
        finally:
            self._delayed -= 1

    def _check(self, scope: Scope, body: bytes) -> Admitted:
        """Do all that takes time."""
        account = self._account_of(scope)
        account_id(self, account)
        rows = self._rows_of(body)
        try:
            call = self.guard._checked_call(rows, account)
        except (TypeError, ValueError, OverflowError):
            logger.debug("a request was malformed", exc_info=True)
            call = None
        if call is None:
            raise BadRequest(400, "The rows are not such as the model takes.")
        suspicious = self.guard._admit(call)
        self.guard._refuse(suspicious)
        return Admitted(rows, account, suspicious)

    def _rows_of(self, body: bytes) -> Any:
        try:
            rows = self._decode(body)
            n_rows = len(rows)
        except MALFORMED:
            logger.debug("a body was malformed", exc_info=True)
            n_rows = None
        if n_rows is None:
            raise BadRequest(400, "The rows are not such as the model takes.")
        if n_rows > self._max_rows:
            raise BadRequest(413, "These are too many rows.")
        return rows

    def _account_of(self, scope: Scope) -> Any:
        if callable(self._account):
            try:
                return self._account(scope)
            except ValueError:
                logger.debug("an account was malformed", exc_info=True)
            raise BadRequest(400, "It cannot be told who asks.")
        if self._account is None:
            client = scope.get("client")
            return None if client is None else str(client[0])
        found = values_of(scope, self._account.lower().encode("latin-1"))
        if len(found) > 1:
            raise BadRequest(400, "A header comes twice.")
        if not found:
            return None
        if len(found[0]) > MAX_ACCOUNT:
            raise BadRequest(431, "A header is too long.")
        return found[0].strip(b" \t").decode("latin-1")
