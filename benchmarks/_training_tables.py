"""The tables of the benchmark of adversarial training."""

from typing import Any

import numpy as np
from scipy import stats

from benchmarks._harness import Unit, had_all_cores, markdown

#: What the lower end of the interval is to reach, by schedule.
TARGETS = {"short": 0.885}


def table(units: list[Unit]) -> str:
    """Return the tables of RESULTS.md, one for each family of units there is."""
    parts = []
    for title, prefix, layout in (
        ("MNIST, Linf 0.3, accuracy (attacked: an upper bound)", "mnist-", _leading),
        ("Collapse of single steps", "collapse-", _collapse),
        ("Any classifier, before and after rounds", "any-", _any),
        ("Forests made robust by others", "forests-", _forests),
        ("A class of its own", "class-", _own_class),
        ("Time of an epoch", "speed-", _speed),
    ):
        found = [u for u in units if u["name"].startswith(prefix)]
        if found:
            parts.append(f"{title}:\n\n{layout(found)}")
    return "\n\n".join(parts)


def _verdict(met: bool, target: str) -> str:
    return f"{target}: {'met' if met else 'missed'}"


def _share(value: float | None) -> str:
    return "none" if value is None else f"{value:.1%}"


def interval(values: list[float]) -> tuple[float, float]:
    """Student's 95 % interval of the mean; a single value has none."""
    if len(values) < 2:
        return float("-inf"), float("inf")
    half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    return float(np.mean(values) - half), float(np.mean(values) + half)


def _leading(units: list[Unit]) -> str:
    nets: dict[str, dict[str, Any]] = {}
    for u in units:
        net, _, kind = u["name"].partition("-train")[0].rpartition("-")
        if u["name"].endswith("-train"):
            nets.setdefault(u["name"].removesuffix("-train"), {})["train"] = u
        elif kind == "standard":
            nets.setdefault(net, {})["standard"] = u
        else:
            name = u["name"].partition("-rows-")[0]
            nets.setdefault(name, {}).setdefault("rows", []).append(u)
    lines, reached = [], {}
    for name, found in nets.items():
        schedule = name.split("-")[1]
        whole = _together(found.get("rows", []))
        train = found.get("train", {}).get("figures", {})
        if whole["rows"] >= 10000 and schedule in TARGETS:
            reached.setdefault(schedule, []).append(whole["attacked"])
        ordered = whole["clean"] >= whole["attacked"] >= whole["certified"]
        standard = found.get("standard", {}).get("figures", {})
        lines.append(
            [
                name.removeprefix("mnist-"),
                _minutes(found["train"]) if train else "?",
                f"{train['plain_epochs']:.0f}" if train else "?",
                whole["rows"],
                *(_share(whole[k]) for k in ("clean", "attacked", "certified")),
                _share(standard["attacked"]) if standard else "not run",
                "" if ordered else "OUT OF ORDER",
            ]
        )
    head = ["net", "minutes", "plain epochs", "rows", "clean", "attacked", "certified"]
    text = markdown([*head, "standard suite, 1,000 rows", ""], lines)
    for schedule, values in reached.items():
        low, high = interval(values)
        target = TARGETS[schedule]
        seeds = f"{schedule}, {len(values)} seeds: {np.mean(values):.2%}"
        wanted = f"lower end at least {target:.1%}"
        text += f"\n\n{seeds}, interval {low:.2%} to {high:.2%}; "
        text += _verdict(low >= target, wanted)
    return text


def _minutes(u: Unit) -> str:
    """Minutes of training, and on how much of the machine."""
    machine, text = u["machine"], f"{u['figures']['minutes']:.1f}"
    if not had_all_cores(u):
        text += f" on {machine['torch_threads']} of {machine['cores']} cores"
    return text


def _together(units: list[Unit]) -> dict[str, float]:
    figures = [u["figures"] for u in units]
    rows = sum(f["rows"] for f in figures)
    found: dict[str, float] = {"rows": rows}
    for key in ("clean", "attacked", "certified"):
        total = sum(f[key] * f["rows"] for f in figures)
        found[key] = total / rows if rows else 0.0
    return found


def collapsed(figures: dict[str, Any]) -> bool:
    """Whether strong attacks leave less than half of what single steps leave."""
    return figures["attacked"] < figures["single_step"] / 2


def _collapse(units: list[Unit]) -> str:
    lines = []
    for u in sorted(units, key=lambda u: (_kind(u), u["params"]["seed"])):
        f, p = u["figures"], u["params"]
        lines.append(
            [
                _kind(u),
                p["seed"],
                *(_share(f[k]) for k in ("clean", "single_step", "attacked")),
                "collapsed" if collapsed(f) else "no",
                "yes" if f["warned"] else "no",
            ]
        )
    head = ["method", "seed", "clean", "single step", "strong attacks", "collapse"]
    text = markdown([*head, "warned in training"], lines)
    for kind in ("fast", "calm"):
        seeds = [u["figures"] for u in units if _kind(u) == kind]
        if seeds:
            none = not any(map(collapsed, seeds))
            target = f'no collapse in {len(seeds)} seeds of "{kind}"'
            text += "\n\n" + _verdict(none, target)
    return text


def _kind(unit: Unit) -> str:
    """Name of a way to train by single steps."""
    return unit["name"].removeprefix("collapse-").rpartition("-")[0]


def _any(units: list[Unit]) -> str:
    lines = []
    for u in units:
        f, p = u["figures"], u["params"]
        before, after = f["before"], f["after"]
        gain = after["attacked"] - before["attacked"]
        verdict = "gains" if gain > 0.005 else "LOSES" if gain < -0.005 else "no change"
        exact = "no trees"
        if "exact" in after:
            exact = (
                f"{_share(before['exact'])} / {_share(before['certified'])} -> "
                f"{_share(after['exact'])} / {_share(after['certified'])} "
                f"({after['exact_rows']} rows)"
            )
        lines.append(
            [
                p["data"],
                p["model"],
                p["eps"],
                f"{_share(before['clean'])} -> {_share(after['clean'])}",
                f"{_share(before['attacked'])} -> {_share(after['attacked'])}",
                exact,
                f"{f['rounds']} of {p['rounds']}",
                f"{verdict} ({100 * gain:+.1f} points)",
            ]
        )
    head = ["data", "model", "eps", "clean", "attacked"]
    head += ["TreeExact: not broken / certified", "rounds", ""]
    return markdown(head, lines)


def _forests(units: list[Unit]) -> str:
    head = ["data", "eps", "forest", "clean", "attacked", "TreeExact: not broken"]
    lines = [
        [u["params"]["data"], u["params"]["eps"], name]
        + [_share(f[k]) for k in ("clean", "attacked", "exact", "certified")]
        + [f["exact_rows"]]
        for u in units
        for name, f in u["figures"].items()
    ]
    return markdown([*head, "certified", "rows of TreeExact"], lines)


def _own_class(units: list[Unit]) -> str:
    lines = []
    for u in units:
        f, p = u["figures"], u["params"]
        kind = "its own label" if p["kind"] == "label" else "ccat"
        clean = f"{_share(f['clean'])}, flags {_share(f['clean_flagged'])}"
        for name, figures in f.items():
            if isinstance(figures, dict):
                each = ", ".join(f"{k} {_share(v)}" for k, v in figures["by"].items())
                cells = [_share(figures[k]) for k in ("ignores", "found", "knows")]
                lines.append([kind, clean, name, f["rows"], *cells, each])
    head = ["model", "clean rows", "reach", "rows", "evades: ignores", "of those found"]
    return markdown([*head, "evades: knows", "of these"], lines)


def _speed(units: list[Unit]) -> str:
    lines, verdicts = [], []
    for u in units:
        f = u["figures"]
        if "mebibytes" in f:
            sizes = f["mebibytes"]
            worst = max(sizes.values()) / sizes["plain"]
            told = ", ".join(f"{name} {size:.0f}" for name, size in sizes.items())
            verdicts.append(f"Peak of a process, MiB: {told}")
            verdicts.append(
                _verdict(worst <= 1.2, f"at most 1.2 times plain ({worst:.2f})")
            )
            continue
        method = u["params"]["method"]
        for name, seconds in f["seconds"].items():
            lines.append(
                [
                    method,
                    name,
                    f"{seconds['median']:.2f} ({seconds['low']:.2f} to "
                    f"{seconds['high']:.2f})",
                    *(f"{f[to][name]['median']:.2f}" for to in _TO),
                ]
            )
        hand = f["to hand"]["ours"]["median"]
        verdicts.append(
            _verdict(hand <= 1.10, f"{method}, at most 1.10 times by hand ({hand:.2f})")
        )
        if method == "fast":
            for to in ("to plain", "to skorch"):
                ratio = f[to]["ours"]["median"]
                wanted = f"fast, at most 2.15 {to.replace('to ', 'times plain by ')}"
                wanted = wanted.replace("by plain", "by hand")
                verdicts.append(_verdict(ratio <= 2.15, f"{wanted} ({ratio:.2f})"))
        if "ART" in f["to hand"]:
            ahead = f["seconds"]["ours"]["median"] < f["seconds"]["ART"]["median"]
            verdicts.append(_verdict(ahead, f"{method}, ahead of ART"))
    head = ["method", "", "seconds", "to plain by hand", "to plain by skorch"]
    text = markdown([*head, "to the method by hand"], lines) if lines else ""
    return "\n\n".join(filter(None, [text, *verdicts]))


_TO = ("to plain", "to skorch", "to hand")
