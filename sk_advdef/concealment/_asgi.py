"""The few things of ASGI that the middleware needs."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from sk_advdef.concealment._json_rows import BadRequest

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class Disconnected(Exception):
    """The client is gone, and nobody waits for an answer."""


def values_of(scope: Scope, name: bytes) -> list[bytes]:
    """Return all values of a header; the name is in lower case."""
    headers = scope.get("headers", ())
    return [bytes(value) for key, value in headers if bytes(key).lower() == name]


def check_headers(scope: Scope, max_bytes: int, *, is_json: bool) -> None:
    """Refuse what need not be read."""
    for value in values_of(scope, b"content-length"):
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
        kind = value.partition(b";")[0].strip().lower()
        if kind != b"application/json" and not kind.endswith(b"+json"):
            raise BadRequest(415, "The body must be JSON.")


async def body_of(receive: Receive, max_bytes: int, seconds: float) -> bytes:
    """Read a body, no more and no longer than is allowed."""
    parts, size = [], 0
    try:
        async with asyncio.timeout(seconds):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise Disconnected
                part = bytes(message.get("body", b""))
                size += len(part)
                if size > max_bytes:
                    raise BadRequest(413, "The body is too large.")
                parts.append(part)
                if not message.get("more_body", False):
                    return b"".join(parts)
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
