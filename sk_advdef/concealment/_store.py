"""Where guards keep what they must remember, from one thread to many hosts."""

from __future__ import annotations

from typing import NamedTuple, Protocol
from urllib.parse import parse_qsl, urlsplit

from sk_advdef._validation import invalid
from sk_advdef.concealment._columns import Bounds
from sk_advdef.concealment._secrets import is_name

#: Records read at once.
PAGE = 2000
#: A number that comes after all.
END = 2**53

URIS = '"memory://", "sqlite:///file" or "redis://host:port/db"'


class StoreError(RuntimeError):
    """A store did not answer, or not in time."""


class Entry(NamedTuple):
    """What is remembered of one query: for whom, in 16 bytes, and what."""

    account: bytes
    record: bytes


class Store(Protocol):
    """What every store does. Each method is atomic, and raises StoreError."""

    #: Whether other processes write to it too.
    is_shared: bool

    def hit(
        self,
        debits: dict[bytes, int],
        tolerance: int,
        now: int | None = None,
        *,
        force: bool = False,
    ) -> int:
        """Take the debits of all keys, or of none; return microseconds to wait, or 0.

        ``now=None`` asks the store's own clock. ``force`` takes them in any case.
        """

    def append(
        self, stream: str, entries: list[Entry], cursor: int, bounds: Bounds
    ) -> tuple[int, list[tuple[int, bytes]]]:
        """Append entries with consecutive numbers; return the first of these.

        And of what others appended, (number, record) after ``cursor`` and before that,
        at most PAGE. The bounds hold about; the oldest go. Entries grow old by the
        store's own clock.
        """

    def read(self, stream: str, cursor: int, stop: int) -> list[tuple[int, bytes]]:
        """Return records after ``cursor`` and before ``stop``, at most PAGE."""

    def close(self) -> None:
        """Let go of files and sockets."""


def _invalid(owner: object, uri: object, more: str = "") -> Exception:
    """Word the error for a URI, without what may be a password in it."""
    if isinstance(uri, str):
        bare, query, _ = uri.partition("?")
        _, user, host = bare.rpartition("@")
        uri = f"{user and '...@'}{host}{query and '?...'}"
    return invalid(owner, "store", f"{URIS}{more}", uri)


def open_store(owner: object, uri: object) -> Store:
    """Open the store that a URI names."""
    if not isinstance(uri, str) or "://" not in uri:
        raise _invalid(owner, uri)
    try:
        parts = urlsplit(uri)
        _ = parts.port  # raises where it is none
    except ValueError:
        raise _invalid(owner, uri) from None
    if parts.password or parts.username:
        raise ValueError(
            f"The 'store' parameter of {type(owner).__name__} must not hold a user or "
            "a password, since parameters are shown and saved. Put the password into "
            "an environment variable and name it: redis://host/0?password_env=NAME."
        )
    try:
        options = dict(parse_qsl(parts.query, strict_parsing=True, max_num_fields=8))
        timeout = float(options.pop("timeout", 2.0))
    except ValueError:
        if parts.query:
            raise _invalid(owner, uri) from None
        options, timeout = {}, 2.0
    if not 0 < timeout <= 3600:
        raise _invalid(owner, uri, " with a timeout in (0, 3600] seconds")
    if not is_name(options.get("password_env", "NAME")):
        raise _invalid(owner, uri, "; password_env names an environment variable")
    if parts.scheme == "memory" and not (parts.netloc or parts.path or options):
        from sk_advdef.concealment._memory_store import MemoryStore

        return MemoryStore()
    path = parts.path[1:]
    if parts.scheme == "sqlite" and path and not parts.netloc and not options:
        if path == ":memory:":
            raise _invalid(owner, uri)
        from sk_advdef.concealment._sqlite_store import SqliteStore

        return SqliteStore(path, timeout)
    known = {"password_env", "prefix"}
    if parts.scheme in ("redis", "rediss") and parts.netloc and known >= options.keys():
        from sk_advdef.concealment._redis_store import RedisStore

        bare = f"{parts.scheme}://{parts.netloc}{parts.path}"
        return RedisStore(bare, timeout, **options)
    raise _invalid(owner, uri)
