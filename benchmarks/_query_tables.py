"""Tables of what queries tell, and of those who ask them."""

from collections.abc import Iterable
from typing import Any

from benchmarks._harness import Unit, markdown
from benchmarks._query_costs import KNOWN

#: Published success of OARS on the data of its authors, as arXiv:2405.20641 states it.
TARGET_QUIET = 0.1
NAMES = {
    "random": "RandomSearch (scores)",
    "nes": "NES (scores)",
    "hop-skip-jump": "HopSkipJump (labels)",
    "boundary": "Boundary of foolbox (labels)",
}


def table(units: list[Unit]) -> str:
    """Return the tables of RESULTS.md, one for each kind of unit there is."""
    parts = []
    for title, prefix, layout in (
        ("Noticed, of attackers who ignore the monitor", "noticed-", _noticed),
        ("Who asks nothing similar", "unrelated-", _unrelated),
        ("False alarms: a query / a session", "honest-", _honest),
        ("Actions, attackers who do not know of the guard", "actions-", _actions),
        ("Who knows it", "knows-", _knows),
        ("Less feedback", "feedback-", _feedback),
        ("Knowledge, PGD on a copy", "known", _known),
        ("A guard without monitor", "speed-guard", _guard),
        ("A monitored query, a million remembered", "speed-monitor", _monitor),
        ("Growth", "speed-growth-", _growth),
    ):
        found = [unit for unit in units if unit["name"].startswith(prefix)]
        if found:
            parts.append(f"{title}:\n\n{layout(found)}")
    return "\n\n".join(parts)


def percent(value: Any) -> str:
    return "" if value is None else f"{100 * value:.1f} %"


def number(value: Any) -> str:
    """Lay out a count of queries; None is never."""
    return "never" if value is None else f"{value:.0f}"


def verdict(met: bool, target: str) -> str:
    return f"{target}: {'met' if met else 'missed'}"


def _ball(params: dict[str, Any]) -> str:
    ball = params["ball"]
    if isinstance(ball, dict):
        ball = ball["linf" if params["attack"] in ("random", "nes") else "l2"]
    return f"{ball:.3g}"


def _noticed(units: list[Unit]) -> str:
    lines = []
    for unit in units:
        p, f = unit["params"], unit["figures"]
        is_image = p["data"] != "cancer"
        met = f["noticed"] == 1 and f["median"] is not None and f["median"] <= 10
        lines.append(
            [
                p["data"],
                f"{NAMES[p['attack']]}, {_ball(p)}",
                p["method"],
                p["history"],
                f["attacks"],
                percent(f["noticed"]),
                number(f["median"]),
                number(f["p95"]),
                percent(f["succeeds"]),
                percent(f["before"]),
                verdict(met, "all, by query 10") if is_image else "",
            ]
        )
    head = ["data", "attack, radius", "monitor", "history", "attacks", "noticed"]
    head += ["first alarm, median", "95 %", "succeeds within the queries asked"]
    budget = units[0]["params"]["budget"]
    return f"At most {budget} queries an attack.\n\n" + markdown(
        [*head, "before any alarm", "target"], lines
    )


def _unrelated(units: list[Unit]) -> str:
    lines = [
        [
            unit["params"]["data"],
            unit["figures"]["queries"],
            percent(unit["figures"]["agreement"]),
            percent(unit["figures"]["succeeds"]),
            *(unit["figures"]["alarms"].values()),
        ]
        for unit in units
    ]
    head = ["data", "queries", "agreement of the copy", "transfer succeeds"]
    head += [f"alarms, {name}" for name in units[0]["figures"]["alarms"]]
    return markdown(head, lines)


def _honest(units: list[Unit]) -> str:
    kinds = ("shuffled", "near-duplicates", "lime", "kernelshap", "retries")
    lines = []
    for unit in units:
        p, f = unit["params"], unit["figures"]
        cells = [
            f"{percent(f[kind]['query'])} / {percent(f[kind]['session'])}"
            if kind in f
            else ""
            for kind in kinds
        ]
        name = f"{p['method']}, {p['scope']}"
        lines.append([p["data"], name, f"{f['remembered']} ({p['times']}x)", *cells])
    head = ["data", "monitor, scope", "remembered", "shuffled", "near-duplicates"]
    p = max((u["params"] for u in units), key=lambda p: sum(p["sessions"].values()))
    counts = ", ".join(f"{n} {kind}" for kind, n in p["sessions"].items())
    return (
        f"Sessions of {p['length']} queries ({counts}), fewer on the table and with "
        "long histories.\n\n"
        + markdown([*head, "as LIME asks", "as KernelSHAP asks", "retries"], lines)
    )


def _actions(units: list[Unit]) -> str:
    lines = [
        [
            f"{NAMES[p['attack']]}, {_ball(p)}",
            p["action"],
            f["attacks"],
            p["budget"],
            percent(f["flagged"]),
            percent(f["succeeds"]),
            number(f["median"]),
        ]
        for p, f in _each(units)
    ]
    head = ["attack, radius", "action", "attacks", "queries", "flagged", "succeeds"]
    return markdown([*head, "queries until success, median"], lines)


def _each(units: list[Unit]) -> Iterable[tuple[dict[str, Any], dict[str, Any]]]:
    return ((unit["params"], unit["figures"]) for unit in units)


def _knows(units: list[Unit]) -> str:
    lines = []
    for p, f in _each(units):
        quiet = p["action"] in ("flag", "decoy")
        lines.append(
            [
                p["method"],
                p["action"],
                f"{p['accounts']}, {p['scope']}",
                f["attacks"],
                percent(f["succeeds"]),
                number(f["median"]),
                percent(f["flagged"]),
                percent(f["unnoticed"]),
                f"{f['seconds']:.0f}",
                verdict(f["succeeds"] < TARGET_QUIET, "below 10 %") if quiet else "",
            ]
        )
    head = ["monitor", "action", "accounts, scope", "attacks", "succeeds"]
    head += ["queries until success, median", "flagged", "attacks never flagged"]
    p = units[0]["params"]
    return (
        f"{p['data']}, Linf {p['ball']:g}, {p['budget']} queries; delays: a second.\n\n"
        + markdown([*head, "seconds of delay an attack", "target"], lines)
    )


def _feedback(units: list[Unit]) -> str:
    lines = []
    for p, f in _each(units):
        for name in ("random", "hop-skip-jump"):
            if name in f:
                copied = [percent(f["agreement"]), percent(f["transfer"])]
                lines.append(
                    [
                        p["reveal"],
                        NAMES[name],
                        percent(f[name]["succeeds"]),
                        number(f[name]["median"]),
                        *(copied if name == "random" else ["", ""]),
                    ]
                )
    head = ["revealed", "attack", "succeeds", "queries until success, median"]
    p = units[0]["params"]
    return (
        f"{p['data']}, Linf {p['ball']:g}, {p['victims']} rows, at most {p['budget']} "
        f"queries; a copy learns {p['asks']} answers.\n\n"
        + markdown([*head, "agreement of a copy", "PGD on the copy succeeds"], lines)
    )


def _known(units: list[Unit]) -> str:
    p, f = units[0]["params"], units[0]["figures"]
    names = {"nothing": f"nothing, but {p['asks']} answers"}
    lines = [
        [
            names.get(w, f"and {w}"),
            percent(f[w]["succeeds"]),
            percent(f[w]["agreement"]),
        ]
        for w in KNOWN
    ]
    return f"{p['data']}, Linf {p['ball']:g}, {p['victims']} rows.\n\n" + markdown(
        ["what is known", "succeeds", "agreement of the copy"], lines
    )


def _spread(found: dict[str, float]) -> str:
    return f"{found['median']:.3g} ({found['low']:.3g} to {found['high']:.3g})"


def _guard(units: list[Unit]) -> str:
    f = units[0]["figures"]
    micros = f["microseconds"]
    met = verdict(micros["guard.admit"]["median"] < 20, "below 20")
    lines = [
        [name, _spread(found), met if name == "guard.admit" else ""]
        for name, found in micros.items()
    ]
    lines.append(["guard.predict less model.predict", _spread(f["added"]), ""])
    if "redis" in f:
        trips = f["redis"]["round trips a call"]
        lines.append(
            [
                f"throttle in Redis, {trips:g} round trips",
                f"{f['redis']['microseconds']:.3g}",
                verdict(trips == 1, "one round trip"),
            ]
        )
    return markdown(["a call of one row", "microseconds", "target"], lines)


def _monitor(units: list[Unit]) -> str:
    f = units[0]["figures"]
    size = f["bytes"]
    targets = {
        "ours": verdict(f["milliseconds"]["ours"]["median"] < 0.5, "below 0.5 ms")
        + "; "
        + verdict(
            (size["ours"] or size["ours, as stated"]) <= 400, "at most 400 bytes"
        ),
        "straightforward": verdict(
            f["ratios"]["straightforward"]["median"] >= 6, "at least 6 times ours"
        ),
    }
    remembered = {n: units[0]["params"][k] for n, k in _HISTORIES.items()}
    lines = [
        [
            name,
            remembered[name],
            _spread(f["milliseconds"][name]),
            _spread(f["ratios"][name]),
            number(size[name]),
            target,
        ]
        for name, target in targets.items()
    ]
    head = ["", "remembered", "milliseconds a query", "times ours"]
    return markdown([*head, "bytes a query", "target"], lines)


_HISTORIES = {"ours": "history", "straightforward": "plain_history"}


def _growth(units: list[Unit]) -> str:
    lines = [
        [
            f"{p['history']:,}",
            *(f"{f[name]:.3g}" for name in ("median", "mean", "p95", "slowest")),
            number(f["stated"]),
            number(f["bytes"]),
        ]
        for p, f in _each(units)
    ]
    head = ["remembered", "ms a query, median", "mean", "95 %", "slowest"]
    return markdown([*head, "bytes a query, stated", "resident"], lines)
