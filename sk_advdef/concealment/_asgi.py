"""The few things of ASGI that the middleware needs."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import threading
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from concurrent.futures import Future
from typing import Any

from sk_advdef.concealment._json_rows import BadRequest
from sk_advdef.concealment._refused import QueryRefused

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

#: Ways to write UTF-8, and what is a part of it.
CHARSETS = (b"utf-8", b"utf8", b"us-ascii")


class Disconnected(Exception):
    """The client is gone, and nobody waits for an answer."""


class Room:
    """Bytes that the bodies of all requests may take together."""

    def __init__(self, size: int) -> None:
        self.left = size
        self._lock = threading.Lock()

    def take(self, size: int) -> bool:
        """Take bytes, or give them back where there are less than none; tell if so."""
        with self._lock:
            if size > self.left:
                return False
            self.left -= size
            return True

    @contextlib.contextmanager
    def share(self) -> Iterator[Share]:
        """Yield a share of the room, which is given back in the end."""
        share = Share(self)
        try:
            yield share
        finally:
            if share.held_by is None:
                share.give_back()
            else:
                share.held_by.add_done_callback(lambda _: share.give_back())


class Share:
    """What one request takes of a room, until work that it left behind is done."""

    def __init__(self, room: Room) -> None:
        self._room, self._size = room, 0
        self.held_by: Future[Any] | None = None

    def take(self, size: int) -> None:
        """Take bytes, or refuse."""
        if not self._room.take(size):
            raise QueryRefused("unavailable", 1.0)
        self._size += size

    def give_back(self) -> None:
        """Give all back."""
        self._room.take(-self._size)
        self._size = 0


def values_of(scope: Scope, name: bytes) -> list[bytes]:
    """Return all values of a header; the name is in lower case."""
    headers = scope.get("headers", ())
    return [bytes(value) for key, value in headers if bytes(key).lower() == name]


def check_headers(scope: Scope, max_bytes: int, *, is_json: bool) -> None:
    """Refuse what need not be read."""
    lengths = values_of(scope, b"content-length")
    if len(set(lengths)) > 1:
        raise BadRequest(400, "A header comes twice.")
    for value in lengths:
        if not value.isdigit():
            raise BadRequest(400, "The length of the body is not a number.")
        # as text, since a number of so many digits takes time to read
        digits = value.lstrip(b"0")
        if len(digits) > 15 or int(digits or b"0") > max_bytes:
            raise BadRequest(413, "The body is too large.")
    for value in values_of(scope, b"content-encoding"):
        if value.strip().lower() not in (b"", b"identity"):
            raise BadRequest(415, "The body must not be compressed.")
    kinds = values_of(scope, b"content-type")
    if len(kinds) > 1:
        raise BadRequest(400, "A header comes twice.")
    for value in kinds if is_json else ():
        kind, *more = (part.strip().lower() for part in value.split(b";"))
        if kind != b"application/json" and not kind.endswith(b"+json"):
            raise BadRequest(415, "The body must be JSON.")
        for one in more:
            name, _, charset = one.partition(b"=")
            # the application might read it as it is told
            if name.strip() == b"charset" and charset.strip(b' "') not in CHARSETS:
                raise BadRequest(415, "The body must be in UTF-8.")


async def body_of(
    receive: Receive, max_bytes: int, seconds: float, take: Callable[[int], None]
) -> bytes:
    """Read a body, no more and no longer than is allowed."""
    body = bytearray()
    try:
        async with asyncio.timeout(seconds):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise Disconnected
                part = message.get("body", b"")
                if len(body) + len(part) > max_bytes:
                    raise BadRequest(413, "The body is too large.")
                take(len(part))
                body += part
                if not message.get("more_body", False):
                    return bytes(body)
                # parts that are there already would else let neither the clock run
                # nor others be served, and empty ones without end
                await asyncio.sleep(0)
    except TimeoutError:
        pass
    raise BadRequest(408, "The body came too slowly.")


def replayed(body: bytes, receive: Receive) -> Receive:
    """Return a ``receive`` that gives the body once more, and then what comes."""
    waiting = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return waiting.pop() if waiting else await receive()

    return again


async def answer(
    scope: Scope, send: Send, status: int, detail: str, wait: float | None = None
) -> None:
    """Send a status with a line of JSON."""
    body = json.dumps({"detail": detail}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"cache-control", b"no-store"),
    ]
    if wait is not None:
        headers.append((b"retry-after", b"%d" % max(1, math.ceil(wait))))
    if status in (408, 413) and str(scope.get("http_version", "")).startswith("1"):
        # what is left of the body is not read
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
