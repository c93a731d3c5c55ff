"""What holds under load: an hour of requests, ten million rows, a thousand fits.

*Served*: the guarded model of the serving example (a small net on scikit-learn's digits
behind a monitor of similar queries; flagged queries are answered as ever), pickled and
behind one worker of uvicorn on the same machine, whose C library keeps one heap for all
threads (``MALLOC_ARENA_MAX=1``, as the example sets it). A client in a process of its
own asks over connections that are kept open. Requests are due at fixed times and
latency is counted from then, so that a server that stalls is not asked less: what waits
shows. The rate is first doubled and then bisected, to one at which all are answered, 99
of 100 within 100 ms and all within a second; for the time stated the client asks at
four fifths of it. Figures are medians over minutes, and the range of minutes.

Two accounts ask at twice their limit all the time, the others at half of it at most. An
account above its limit must have been let through its burst and what the rate gives
until its last question came ("allowed"; "off" by less than a row, for rows are whole,
unless the server stalled for longer than the burst lasts); one below must never have
been refused. "by the store" is the time that the store says the account has taken up,
in rows; it begins within the latency of the first question. What the client was
answered, what the server and its audit log counted, and the rows that Redis has
numbered must be the same: "what was counted" tells one figure where they are.

*Rows from a file*: uniform noise of 20 features in float32, memory-mapped, scored in
one call. "MB at most" is memory above that before the call, pages of the file left out;
"bytes a row more" is what it grows by between the two sizes, of which the scores
themselves are 8. The first and the last thousand rows are scored alone too.

*Fits*: one estimator of each family is made, fitted on 60 rows, asked and let go, again
and again in one process; what is freed is given back to the system before memory is
read (pages of files left out). "objects" are those that Python's collector knows.
"""

import shutil
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks._harness import arguments, unit, version
from benchmarks._load_repeats import RUNS, repeats
from benchmarks._load_rows import DETECTORS, rows
from benchmarks._load_serving import serving
from benchmarks._load_tables import table

__all__ = ["main", "table"]

PACKAGES = ("fastapi", "redis", "uvicorn")


def tasks(quick: bool) -> list[tuple[str, dict[str, Any], Any]]:
    """Return name, params and function of each unit."""
    served = {"limit": "240/minute", "burst": 20, "remembered": 10_000, "quota": 100}
    served |= {"connections": 64, "threads": 1, "arenas": 1, "part": 0.8}
    served |= {"first": 50.0, "most": 3200.0, "bisections": 5, "seed": 0}
    served |= {"probe": 15.0, "fast": 100.0, "overdue": 1000.0}
    served |= {"window": 60.0, "windows": 60}
    if quick:
        served |= {"burst": 8, "first": 60.0, "most": 60.0}
        # whatever else the machine does
        served |= {"probe": 0.5, "fast": 30_000.0, "overdue": 60_000.0}
        served |= {"window": 0.5, "windows": 8}
    sizes = [2_000, 20_000] if quick else [1_000_000, 10_000_000]
    scored = {"rows": sizes, "features": 20, "fitted_on": 1000, "ends": 1000, "seed": 0}
    repeated = {"runs": list(RUNS), "rows": 60, "seed": 0}
    repeated["marks"] = [1, 2] if quick else [200, 1000]
    found: list[tuple[str, dict[str, Any], Any]] = []
    for store in ("memory", "redis"):
        found.append((f"serving-{store}", {"store": store} | served, serving))
    for name in DETECTORS:
        found.append((f"rows-{name}", {"detector": name} | scored, rows))
    found.append(("repeats", repeated, repeats))
    return found


def missing(name: str) -> str | None:
    """Say what a unit needs that is not there."""
    if not Path("/proc/self/status").exists():
        return "the system does not tell what a process holds"
    if name.startswith("serving-"):
        for package in ("fastapi", "uvicorn"):
            if version(package) is None:
                return f"{package} is not installed"
    if name == "serving-redis":
        if version("redis") is None:
            return "redis is not installed"
        if shutil.which("redis-server") is None:
            return "there is no redis-server"
    return None


def main() -> None:
    given = arguments(__doc__)
    bench = partial(unit, "load", quick=given.quick, packages=PACKAGES)
    units = []
    for name, params, function in tasks(given.quick):
        if not name.startswith(given.only):
            continue
        if why := missing(name):
            print(f"{why}, so {name} is left out")
            continue
        units.append(bench(name, params, function))
    print(table(units))


if __name__ == "__main__":
    main()
