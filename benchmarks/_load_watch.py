"""What a process holds, as the system tells it, and how that grows."""

import contextlib
import ctypes
import gc
import os
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

MEGABYTE = 2**20


def memory(pid: int | str = "self", field: str = "VmRSS") -> int:
    """Return bytes of memory: ``VmRSS`` all, ``RssAnon`` without pages of files."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    for line in status.splitlines():
        name, _, rest = line.partition(":")
        if name == field:
            return int(rest.split()[0]) * 1024
    raise ValueError(f"the system does not tell {field} of process {pid}")


def settled() -> int:
    """Return bytes of this process, pages of files left out.

    What is freed is given back to the system first, where the C library can.
    """
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    return memory(field="RssAnon")


def held() -> dict[str, int]:
    """Return what a process may hold too many of."""
    import torch

    bytes_held = settled()
    objects = gc.get_objects()
    return {
        "bytes": bytes_held,
        "threads": len(os.listdir("/proc/self/task")),
        "files": len(os.listdir("/proc/self/fd")),
        "objects": len(objects),
        # the type, since some objects ask others what they are
        "tensors": sum(issubclass(type(one), torch.Tensor) for one in objects),
    }


class Peak:
    """The most memory of this process, pages of files left out, as often as looked."""

    def __init__(self) -> None:
        self.bytes = memory(field="RssAnon")

    def look(self) -> None:
        self.bytes = max(self.bytes, memory(field="RssAnon"))


@contextlib.contextmanager
def peak_of(every: float = 0.005) -> Iterator[Peak]:
    """Look at the memory of this process again and again."""
    found, stop = Peak(), threading.Event()

    def watch() -> None:
        while not stop.wait(every):
            found.look()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        stop.set()
        thread.join()
        found.look()


def second_half(sizes: Sequence[float], seconds: float) -> dict[str, float]:
    """Return megabytes at the start and the end, and growth over the second half.

    ``sizes`` are bytes, so many seconds apart; the slope, in megabytes an hour, is that
    of least squares.
    """
    values = np.asarray(sizes) / MEGABYTE
    half = values[len(values) // 2 :]
    slope = 0.0
    if len(half) > 1:
        slope = np.polyfit(np.arange(len(half)) * seconds / 3600, half, 1)[0]
    return {
        "start": _digits(values[0]),
        "end": _digits(values[-1]),
        "most": _digits(values.max()),
        "grown": _digits(half[-1] - half[0]),
        "an hour": _digits(slope),
    }


def _digits(value: float) -> float:
    return float(f"{value:.4g}")


def wait_until(ready: object, seconds: float, what: str) -> None:
    """Call ``ready`` until it is true."""
    until = time.monotonic() + seconds
    assert callable(ready)
    while not ready():
        if time.monotonic() > until:
            raise RuntimeError(f"{what} within {seconds} s")
        time.sleep(0.02)
