"""Seeding that leaves the global generators as they were."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Run a block under global generators seeded with ``seed``.

    Those of torch, on the CPU and on each GPU, and those of NumPy and Python, which a
    user's net may draw from (skorch's ValidSplit does). All are put back afterwards.
    """
    devices = list(range(torch.cuda.device_count()))
    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)  # noqa: NPY002
