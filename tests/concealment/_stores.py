"""Which stores a test runs with, and what other processes do with them."""

import pickle
import sys
from multiprocessing import get_context

import pytest

from sk_advdef.concealment._accounts import SIZE
from sk_advdef.concealment._columns import Bounds
from sk_advdef.concealment._store import Entry, open_store

REDIS = pytest.param("redis", marks=pytest.mark.service)
EVERY_STORE = pytest.mark.parametrize("uri", ["memory", "sqlite", REDIS], indirect=True)
SHARED_STORE = pytest.mark.parametrize("uri", ["sqlite", REDIS], indirect=True)


def entries(*records, account=b"alice"):
    return [Entry(account.ljust(SIZE, b"."), record) for record in records]


def ask_until_refused(blob, row, tries):
    """How many calls of a pickled guard were answered."""
    guarded, passed = pickle.loads(blob), 0
    for _ in range(tries):
        try:
            guarded.predict(row, account="alice")
            passed += 1
        except RuntimeError:
            pass
    return passed


def append_and_read(uri, name, times):
    """Append one by one; return own numbers, and all that was read of others."""
    store, cursor, own, seen = open_store("test", uri), 0, [], {}
    for i in range(times):
        record = f"{name}-{i}".encode()
        first, page = store.append(
            "log", entries(record), cursor, Bounds(10**6, 10**6, 86400)
        )
        own.append(first)
        while True:
            seen.update(page)
            cursor = max([cursor, *(number for number, _ in page)])
            page = store.read("log", cursor, first)
            if not page:
                break
        seen[first] = record
        cursor = first
    store.close()
    return own, seen


def in_processes(function, *calls):
    """Run calls of a function side by side, each in a fresh interpreter."""
    context = get_context("forkserver" if sys.platform == "linux" else "spawn")
    if sys.platform == "linux":
        context.set_forkserver_preload(["sk_advdef.concealment._guarded"])
    with context.Pool(len(calls)) as pool:
        waiting = [pool.apply_async(function, call) for call in calls]
        return [one.get(timeout=120) for one in waiting]
