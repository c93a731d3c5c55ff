"""How the results of sharing work with other processes are laid out."""

from typing import Any

from benchmarks._harness import Unit, markdown, spread

#: The ways, as they are named in results.
ONE, THREADS, LOKY, DASK = "one thread", "threads", "loky", "dask"


def table(units: list[Unit]) -> str:
    """Lay out a table of jobs, one of tasks and one of starting."""
    by_name = {one["name"]: one for one in units}
    parts = []
    jobs = [by_name[name] for name in ("search", "evaluation") if name in by_name]
    if jobs:
        head = ["job", "tasks", ONE, *(f"{w}, of that" for w in (THREADS, LOKY, DASK))]
        head += ["crowding"]
        parts += ["Seconds of one thread, and parts of it:"]
        parts += [markdown(head, map(_job, jobs))]
    if "overhead" in by_name:
        parts += ["Overhead of a task, milliseconds:", _overhead(by_name["overhead"])]
    if "start" in by_name:
        found = by_name["start"]["figures"]
        rows = [
            [way, _range(found[way]["start"]), _range(found[way]["close"])]
            for way in (LOKY, DASK)
        ]
        n = by_name["start"]["params"]["processes"]
        parts += [f"Start of {n} workers, seconds:"]
        parts += [markdown(["way", "until all answered", "to close"], rows)]
    return "\n\n".join(parts)


def _job(one: Unit) -> list[Any]:
    params, found = one["params"], one["figures"]
    seconds = spread(found["seconds"][ONE])
    ways = (_range(found["ratios"][way]) for way in (THREADS, LOKY, DASK))
    rows = params["rows"]
    name = f"{one['name']}, {rows if isinstance(rows, int) else rows[1]} rows"
    return [name, found["tasks"], _range(seconds), *ways, _range(found["crowding"])]


def _overhead(one: Unit) -> str:
    found = one["figures"]["milliseconds"]
    head = ["bytes given", "tasks", *found]
    rows = [
        [f"{size:,}", n, *(_range(found[way][i]) for way in found)]
        for i, (size, n) in enumerate(
            zip(one["params"]["sizes"], one["params"]["tasks"], strict=True)
        )
    ]
    return markdown(head, rows)


def _range(found: dict[str, float]) -> str:
    low, high = found["low"], found["high"]
    return f"{found['median']:.2f} ({low:.2f} to {high:.2f})"
