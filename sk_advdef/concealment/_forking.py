"""What a fork has to find at rest, and what a child of it begins anew.

A child has no thread but the one that forked: a lock that another held stays locked in
it for ever, and what that one was changing stays half changed.
"""

from __future__ import annotations

import os
import threading
from typing import Any, Protocol
from weakref import WeakSet

#: Seconds for which a fork waits for one thing to come to rest.
PATIENCE = 3.0


class Forks(Protocol):
    """What takes part in forks; of lower rank comes to rest first."""

    fork_rank: int

    def rest(self) -> bool:
        """Come to rest before a fork; tell whether that could be had."""

    def go_on(self) -> None:
        """Go on in the parent, if it came to rest."""

    def begin_anew(self) -> None:
        """Make new locks, and let go of what is the parent's, in the child."""


_things: WeakSet[Any] = WeakSet()
_registering = threading.Lock()
_forking = threading.local()


class Locked:
    """Something under one lock, which forks find at rest."""

    fork_rank = 1

    def __init__(self) -> None:
        self._lock = threading.Lock()
        take_part(self)

    def rest(self) -> bool:
        """Finish what is at work, before a fork."""
        return self._lock.acquire(timeout=PATIENCE)

    def go_on(self) -> None:
        """Let others in again."""
        self._lock.release()

    def begin_anew(self) -> None:
        """Make the lock anew in the child of a fork."""
        self._lock = threading.Lock()


def take_part(thing: Forks) -> None:
    """Let a thing take part in all forks from now on."""
    with _registering:
        _things.add(thing)


def _before() -> None:
    _forking.resting = []
    with _registering:
        things = sorted(_things, key=lambda thing: thing.fork_rank)
    for thing in things:
        if thing.rest():
            # one by one: what a signal interrupts must know who rests already
            _forking.resting.append(thing)


def _in_parent() -> None:
    while resting := getattr(_forking, "resting", []):
        resting.pop().go_on()


def _in_child() -> None:
    global _registering
    _registering = threading.Lock()
    _forking.resting = []
    for thing in list(_things):
        thing.begin_anew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before, after_in_parent=_in_parent, after_in_child=_in_child
    )
