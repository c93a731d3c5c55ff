"""A store for the processes of one host."""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Iterator

from sk_advdef.concealment._columns import Bounds
from sk_advdef.concealment._forking import take_part
from sk_advdef.concealment._gcra import bounded, forced, gcra
from sk_advdef.concealment._store import PAGE, Entry, StoreError

logger = logging.getLogger("sk_advdef.concealment")

TABLES = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = NORMAL;
CREATE TABLE IF NOT EXISTS ahead (key BLOB PRIMARY KEY, until INTEGER) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS by_until ON ahead (until);
CREATE TABLE IF NOT EXISTS log (
    number INTEGER PRIMARY KEY AUTOINCREMENT, stream TEXT, account BLOB, record BLOB
);
CREATE INDEX IF NOT EXISTS by_account ON log (stream, account, number);
CREATE INDEX IF NOT EXISTS by_stream ON log (stream, number);
CREATE TABLE IF NOT EXISTS marks (
    stream TEXT, slot INTEGER, number INTEGER, expires REAL, PRIMARY KEY (stream, slot)
) WITHOUT ROWID;
"""
# numbers begin at the clock, so that those of a file that was lost never come again
BEGIN_NUMBERS = """
INSERT INTO sqlite_sequence (name, seq)
SELECT 'log', ? WHERE NOT EXISTS (SELECT 1 FROM sqlite_sequence WHERE name = 'log')
"""
PURGE_EVERY = 1000
#: Counting what is too much takes time, so it is done once in so many entries.
TRIM_EVERY = 64
#: Marks in a lifetime of entries: up to which number they are how old.
MARKS = 64


#: Held while a file is made and opened, of whichever store.
_opening = threading.Lock()
#: What the parent of this process had open: neither used nor closed here.
_abandoned: list[sqlite3.Connection] = []


class SqliteStore:
    """A file with a write-ahead log; one writing transaction an operation.

    Bounds of the log may be passed by a few dozen entries a process. The file is made
    readable by its owner only. It must lie on a local disk: the write-ahead log does
    not work over a network.
    """

    is_shared = True
    fork_rank = 2

    def __init__(self, path: str, timeout: float) -> None:
        self._path, self._timeout = path, timeout
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        #: which file is open, by device and number
        self._file: tuple[int, int] | None = None
        #: the first counts: a process may end before many have come
        self._hits = PURGE_EVERY - 1
        #: of each stream since it was trimmed: how many entries, and of whom
        self._untrimmed: dict[str, tuple[int, set[bytes]]] = {}
        take_part(self)

    def _open(self) -> sqlite3.Connection:
        if self._connection is not None:
            if self._file == self._file_there():
                return self._connection
            # to go on with a file that nobody else sees would open the limit
            logger.warning(
                "the file of a store was removed or replaced, and with it what was "
                "remembered: %s",
                self._path,
            )
            self._drop()
        with _opening:
            # only where it is not there: to close a file that is open elsewhere in this
            # process would give up the locks that keep others from its journal
            with contextlib.suppress(FileExistsError):
                flags = os.O_CREAT | os.O_EXCL | os.O_RDWR
                os.close(os.open(os.path.realpath(self._path), flags, 0o600))
            connection = sqlite3.connect(
                self._path,
                timeout=self._timeout,
                isolation_level=None,
                check_same_thread=False,
            )
        self._make_tables(connection)
        self._connection = connection
        self._file = self._file_there()
        return connection

    def _file_there(self) -> tuple[int, int] | None:
        try:
            found = os.stat(self._path)
        except FileNotFoundError:
            return None
        return found.st_dev, found.st_ino

    def _drop(self) -> None:
        """Close the file, to open it anew at the next call."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(sqlite3.Error):
                connection.close()

    def _make_tables(self, connection: sqlite3.Connection) -> None:
        """Make the tables; the change to a write-ahead log does not wait by itself."""
        until = time.monotonic() + self._timeout
        while True:
            try:
                connection.executescript(TABLES)
                connection.execute(BEGIN_NUMBERS, (time.time_ns() // 1000,))
            except sqlite3.Error as error:
                if not _is_busy(error) or time.monotonic() > until:
                    connection.close()
                    raise
                time.sleep(0.01)
            else:
                return

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        if not self._lock.acquire(timeout=self._timeout):
            raise StoreError("sqlite: another thread holds the connection")
        try:
            connection = self._open()
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                # which SQLite does itself where the disk is full
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
        except (sqlite3.Error, OSError) as error:
            if not _is_busy(error):
                self._drop()
            raise StoreError(f"sqlite: {error}") from error
        finally:
            self._lock.release()

    def hit(
        self,
        debits: dict[bytes, int],
        tolerance: int,
        now: int | None = None,
        *,
        force: bool = False,
    ) -> int:
        """Take the debits of all keys, or of none."""
        with self._transaction() as connection:
            if now is None:
                now = time.time_ns() // 1000
            new, back, longest = {}, {}, 0
            for key, debit in debits.items():
                found = connection.execute(
                    "SELECT until FROM ahead WHERE key = ?", (key,)
                ).fetchone()
                until = found[0] if found else 0
                kept = bounded(until, now, tolerance)
                if kept != until:
                    back[key] = kept
                if force:
                    new[key] = forced(until, now, debit, tolerance)
                    continue
                new[key], wait = gcra(until, now, debit, tolerance)
                longest = max(longest, wait)
            if longest > 0:
                connection.executemany("REPLACE INTO ahead VALUES (?, ?)", back.items())
                return longest
            connection.executemany("REPLACE INTO ahead VALUES (?, ?)", new.items())
            self._hits += 1
            if self._hits % PURGE_EVERY == 0:
                connection.execute("DELETE FROM ahead WHERE until <= ?", (now,))
            return 0

    def append(
        self, stream: str, entries: list[Entry], cursor: int, bounds: Bounds
    ) -> tuple[int, list[tuple[int, bytes]]]:
        """Append to the log, and read what others did."""
        with self._transaction() as connection:
            numbers = [
                connection.execute(
                    "INSERT INTO log (stream, account, record) VALUES (?, ?, ?)",
                    (stream, *entry),
                ).lastrowid
                for entry in entries
            ]
            first, last = int(numbers[0] or 0), int(numbers[-1] or 0)
            now, age = time.time(), bounds.age
            connection.execute(
                "REPLACE INTO marks VALUES (?, ?, ?, ?)",
                (stream, int(now * MARKS // max(age, 1)), last, now + age),
            )
            self._forget(connection, now)
            # a process may end before it has appended so many, so the first count too
            count, accounts = self._untrimmed.get(stream, (TRIM_EVERY, set()))
            count += len(entries)
            accounts = accounts | {entry.account for entry in entries}
            if count >= TRIM_EVERY:
                self._trim(connection, stream, accounts, bounds)
                count, accounts = 0, set()
            page = self._page(connection, stream, cursor, first)
            self._untrimmed[stream] = count, accounts
            return first, page

    @staticmethod
    def _trim(
        connection: sqlite3.Connection,
        stream: str,
        accounts: set[bytes],
        bounds: Bounds,
    ) -> None:
        """Drop what is beyond the bounds of accounts and of a stream."""
        for account in accounts:
            connection.execute(
                "DELETE FROM log WHERE stream = ?1 AND account = ?2 AND number <= ("
                "SELECT number FROM log WHERE stream = ?1 AND account = ?2 "
                "ORDER BY number DESC LIMIT 1 OFFSET ?3)",
                (stream, account, bounds.quota),
            )
        connection.execute(
            "DELETE FROM log WHERE stream = ?1 AND number <= (SELECT number FROM log "
            "WHERE stream = ?1 ORDER BY number DESC LIMIT 1 OFFSET ?2)",
            (stream, bounds.rows),
        )

    @staticmethod
    def _forget(connection: sqlite3.Connection, now: float) -> None:
        """Drop what is too old, also of streams to which nobody appends any more."""
        old = connection.execute(
            "SELECT stream, MAX(number) FROM marks WHERE expires <= ? GROUP BY stream",
            (now,),
        ).fetchall()
        if old:
            forget = "DELETE FROM log WHERE stream = ? AND number <= ?"
            connection.executemany(forget, old)
            connection.execute("DELETE FROM marks WHERE expires <= ?", (now,))

    def read(self, stream: str, cursor: int, stop: int) -> list[tuple[int, bytes]]:
        """Read what others appended."""
        with self._transaction() as connection:
            self._forget(connection, time.time())
            return self._page(connection, stream, cursor, stop)

    @staticmethod
    def _page(
        connection: sqlite3.Connection, stream: str, cursor: int, stop: int
    ) -> list[tuple[int, bytes]]:
        return connection.execute(
            "SELECT number, record FROM log WHERE stream = ? AND number > ? "
            "AND number < ? ORDER BY number LIMIT ?",
            (stream, cursor, stop, PAGE),
        ).fetchall()

    # a child would take the locks of its parent on the file for its own, and hold none

    def rest(self) -> bool:
        """Close the file, and keep the lock, before a fork."""
        mine = self._lock.acquire(timeout=self._timeout + 1)
        if mine:
            self._drop()
        return mine

    def go_on(self) -> None:
        """Let others in again."""
        self._lock.release()

    def begin_anew(self) -> None:
        """Open the file anew in the child of a fork."""
        global _opening
        _opening = threading.Lock()
        if self._connection is not None:
            _abandoned.append(self._connection)
        self._lock, self._connection = threading.Lock(), None

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._drop()


def _is_busy(error: Exception) -> bool:
    """Whether another process is at work on the file, and nothing is wrong with it."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK)
    return code & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
