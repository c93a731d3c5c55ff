"""How the results under load are laid out."""

from typing import Any

from benchmarks._harness import Unit, markdown, spread

FEW, MANY = 0, -1


def table(units: list[Unit]) -> str:
    """Lay out tables of what was served, of limits, of rows and of repeats."""
    asked = [one for one in units if one["name"].startswith("serving-")]
    scored = [one for one in units if one["name"].startswith("rows-")]
    parts = []
    if asked:
        parts += ["Served:", _served(asked), "Memory of what serves, MB:"]
        parts += [_memory(asked), "Accounts above their limit:", _limits(asked)]
        parts += ["What was counted:", _books(asked)]
    if scored:
        parts += ["Rows from a file:", _rows(scored)]
    parts += [
        part
        for one in units
        if one["name"] == "repeats"
        for part in (_repeats_title(one), _repeats(one))
    ]
    return "\n\n".join(parts)


def _store(one: Unit) -> str:
    return str(one["params"]["store"])


def _served(units: list[Unit]) -> str:
    head = ["store", "held, requests a second", "asked", "minutes", "median, ms"]
    head += ["99th percentile, ms", "slowest, ms", "answers by status"]
    rows = []
    for one in units:
        params, found = one["params"], one["figures"]
        windows = found["windows"]
        statuses = found["books"]["statuses"]
        rows.append(
            [
                _store(one),
                f"{found['held']:g}",
                f"{found['rate']:g}",
                f"{params['window'] * params['windows'] / 60:.3g}",
                *(_range([w[key] for w in windows]) for key in ("median", "p99")),
                f"{max(w['slowest'] for w in windows):.0f}",
                ", ".join(
                    f"{'none' if status == '0' else status}: {n:,}"
                    for status, n in statuses.items()
                ),
            ]
        )
    return markdown(head, rows)


def _range(values: list[float]) -> str:
    found = spread(values)
    return f"{found['median']:.1f} ({found['low']:.1f} to {found['high']:.1f})"


def _memory(units: list[Unit]) -> str:
    head = ["store", "process", "first", "last", "most", "second half", "MB an hour"]
    rows = [
        [
            _store(one),
            name,
            *(f"{found[key]:.1f}" for key in ("start", "end", "most")),
            *(f"{found[key]:+.1f}" for key in ("grown", "an hour")),
        ]
        for one in units
        for name, found in one["figures"]["memory"].items()
    ]
    return markdown(head, rows)


def _limits(units: list[Unit]) -> str:
    head = ["store", "limit", "account", "asked", "let through", "allowed", "off"]
    head += ["by the store"]
    rows = []
    for one in units:
        params = one["params"]
        limit = f"{params['limit']}, burst {params['burst']}"
        rows += [
            [
                _store(one),
                limit,
                number,
                *(f"{found[key]:,}" for key in ("asked", "answered")),
                f"{found['allowed']:,.1f}",
                f"{found['off']:+.2f}",
                f"{found['by store']:,.2f}",
            ]
            for number, found in enumerate(one["figures"]["limits"], start=1)
        ]
    return markdown(head, rows)


def _books(units: list[Unit]) -> str:
    head = ["store", "asked", "answered", "refused"]
    head += ["accounts that client and log count otherwise"]
    head += ["refusals of accounts below their limit", "flagged"]
    rows = []
    for one in units:
        books = one["figures"]["books"]
        rows.append(
            [
                _store(one),
                *(_counted(books[key]) for key in ("asked", "answered", "refused")),
                f"{books['accounts that differ']} of {_accounts(one)}",
                books["refused below"],
                f"{books['flagged']:,}",
            ]
        )
    return markdown(head, rows)


def _accounts(one: Unit) -> int:
    return sum(one["figures"]["accounts"].values())


def _counted(by: dict[str, int]) -> str:
    """Tell what all count, or each by itself where they do not agree."""
    if len(set(by.values())) == 1:
        return f"{next(iter(by.values())):,} ({', '.join(by)})"
    return "**" + ", ".join(f"{name}: {n:,}" for name, n in by.items()) + "**"


def _rows(units: list[Unit]) -> str:
    head = ["detector", "rows", "MB at most", "bytes a row more", "rows a second"]
    head += ["largest difference from rows scored alone", "spread of scores"]
    rows = []
    for one in units:
        sizes = one["figures"]["sizes"]
        rows.append(
            [
                one["params"]["detector"],
                *(_of_sizes(sizes, key) for key in ("rows", "megabytes")),
                f"{one['figures']['bytes a row']:g}",
                _of_sizes(sizes, "rows a second"),
                f"{max(size['largest difference'] for size in sizes):.1g}",
                f"{sizes[MANY]['spread of scores']:.2g}",
            ]
        )
    return markdown(head, rows)


def _of_sizes(sizes: list[dict[str, Any]], key: str) -> str:
    return ", ".join(f"{size[key]:,.0f}" for size in sizes)


def _repeats_title(one: Unit) -> str:
    few, many = (one["params"]["marks"][i] for i in (FEW, MANY))
    return f"What a process holds after {few:,} and {many:,} fits and questions:"


def _repeats(one: Unit) -> str:
    head = ["of what", "MB", "grown, kB", "threads", "open files", "objects, more"]
    head += ["tensors"]
    rows = []
    for name, marks in one["figures"].items():
        few, many = marks[FEW], marks[MANY]
        grown = (many["bytes"] - few["bytes"]) / 1024
        rows.append(
            [
                name,
                f"{many['bytes'] / 2**20:.0f}",
                f"{grown:+,.0f}",
                *(_pair(few[key], many[key]) for key in ("threads", "files")),
                f"{many['objects'] - few['objects']:+,}",
                _pair(few["tensors"], many["tensors"]),
            ]
        )
    return markdown(head, rows)


def _pair(few: int, many: int) -> str:
    return f"{few}, {many}"
