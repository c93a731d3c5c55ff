"""Seeding that leaves the global generators as they were.

They are one for all threads. One thread at a time draws from them under a seed, so that
the same seed gives the same numbers; what only keeps them waits for nobody, and what a
bare skorch net draws to predict meanwhile is not kept out.
"""

from __future__ import annotations

import os
import random
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

#: Seconds to wait for the turn of another thread, which may itself wait for this one.
PATIENCE = 600.0


class _Turns:
    """Whose turn it is to draw under a seed, and how often turns began or ended."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.own = threading.local()
        self.changes = 0

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for the turn; go on without where it does not come."""
        got = self.lock.acquire(timeout=PATIENCE)
        try:
            if got:
                self._change()
            else:
                warnings.warn(
                    f"Another thread has drawn under a seed for {PATIENCE:.0f} s. This "
                    "one goes on beside it: what both learn may differ from what the "
                    "seed gives alone. Train nets in processes.",
                    UserWarning,
                    stacklevel=2,
                )
            yield
        finally:
            if got:
                self._change()
                self.lock.release()

    def _change(self) -> None:
        self.changes += 1
        self.own.changes = getattr(self.own, "changes", 0) + 1

    def of_others(self) -> int:
        """Count what turns of other threads began or ended."""
        return self.changes - getattr(self.own, "changes", 0)


_turns = _Turns()


def _begin_anew() -> None:
    # another thread may have held the lock, and is not there any more
    global _turns
    _turns = _Turns()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)


def _gpus() -> list[int]:
    return list(range(torch.cuda.device_count()))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Run a block under global generators seeded with ``seed``.

    Those of torch, on the CPU and on each GPU, and those of NumPy and Python, which a
    user's net may draw from (skorch's ValidSplit does). All are put back afterwards.
    Other threads wait.
    """
    with _turns.turn():
        python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002
        with torch.random.fork_rng(devices=_gpus()):
            torch.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed % 2**32)  # noqa: NPY002
            try:
                yield
            finally:
                random.setstate(python_state)
                np.random.set_state(numpy_state)  # noqa: NPY002


@contextmanager
def kept() -> Iterator[None]:
    """Put torch's global generators back afterwards.

    Not where another thread drew under a seed meanwhile: it puts them back itself, and
    must not be given other numbers.
    """
    turns = _turns
    before = turns.of_others()
    states = torch.get_rng_state(), [torch.cuda.get_rng_state(i) for i in _gpus()]
    try:
        yield
    finally:
        if turns.lock.acquire(blocking=False):
            try:
                if turns.of_others() == before:
                    torch.set_rng_state(states[0])
                    for gpu, state in enumerate(states[1]):
                        torch.cuda.set_rng_state(state, gpu)
            finally:
                turns.lock.release()
