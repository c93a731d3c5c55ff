"""Files that are there whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def written_whole(*targets: Path) -> Iterator[list[Path]]:
    """Yield paths to write to, which take the places of the targets at the end.

    Where writing fails, or the process is killed, what lay there before still does.
    """
    # a link stays one: what it points at is replaced, in its own folder
    places = [Path(os.path.realpath(target)) for target in targets]
    parts = [place.with_name(f"{place.name}.part") for place in places]
    try:
        yield parts
        for part, place in zip(parts, places, strict=True):
            part.replace(place)
    except BaseException:
        for part in parts:
            with suppress(OSError):
                part.unlink()
        raise
