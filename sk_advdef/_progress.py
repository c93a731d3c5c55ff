"""Progress bars."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

from sk_advdef._validation import check_verbose


class Bar(tqdm):
    """A bar of tqdm that starts no thread.

    tqdm's own thread looks after bars that have not moved for long; it starts with the
    first bar, shown or not, and lives as long as the process.
    """

    monitor_interval = 0


def progress(
    owner: object, verbose: Any, iterable: Iterable[Any] | None = None, **params: Any
) -> Bar:
    """Return a bar that is shown where ``verbose`` asks for it."""
    return Bar(iterable, disable=not check_verbose(owner, verbose), **params)
