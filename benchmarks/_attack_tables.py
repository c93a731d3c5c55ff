"""The tables of the attacks' benchmark."""

from typing import Any

from benchmarks._harness import Unit, markdown


def table(units: list[Unit]) -> str:
    """Return the tables of RESULTS.md, one for each kind of unit there is."""
    parts = []
    for title, prefix, layout in (
        ("Linf, accuracy left (an upper bound each)", "linf-", _linf),
        ("Forest, accuracy left", "forest-", _forest),
        ("L2, median length and share fooled", "l2-", _smallest),
        ("JSMA", "jsma", _jsma),
        ("Time of PGD, 40 steps", "pgd-time-", _pgd),
        ("HopSkipJump, labels only", "hop-skip-jump", _labels),
    ):
        found = [u for u in units if u["name"].startswith(prefix)]
        if found:
            parts.append(f"{title}:\n\n{layout(found)}")
    return "\n\n".join(parts)


def _verdict(met: bool, target: str) -> str:
    return f"{target}: {'met' if met else 'missed'}"


def _linf(units: list[Unit]) -> str:
    lines = []
    for u in units:
        p, f = u["params"], u["figures"]
        met = f["ours"] <= f["standard"] + 0.005 + 1e-9
        shares = ["clean", "standard", "ours", "evaluate_robustness"]
        shares.append("robust_accuracy_score")
        lines.append(
            [
                p["model"],
                p["eps"],
                p["rows"],
                *(f"{f[name]:.1%}" for name in shares),
                ", ".join(f["suite"]),
                _verdict(met, "ours at most 0.5 points above standard"),
            ]
        )
    head = ["model", "eps", "rows", "clean", "standard", "ours"]
    head += ["`evaluate_robustness`", "`robust_accuracy_score`"]
    return markdown([*head, "standard suite", "target"], lines)


def _forest(units: list[Unit]) -> str:
    lines = []
    for u in units:
        p, f = u["params"], u["figures"]
        met = f["ours"] <= f["exact"] + 0.02 + 1e-9
        lines.append(
            [
                p["eps"],
                p["rows"],
                p["queries"],
                f"{f['clean']:.1%}",
                f"{f['exact']:.1%}",
                f["undecided"],
                f"{f['ours']:.1%}",
                _verdict(met, "at most 2 points above exact"),
            ]
        )
    head = ["eps", "rows", "queries", "clean", "TreeExact", "undecided"]
    return markdown([*head, "RandomSearch", "target"], lines)


def _smallest(units: list[Unit]) -> str:
    lines = []
    for u in units:
        for name in ("DDN", "CW"):
            ours, theirs = (u["figures"][f"{name}, {w}"] for w in ("ours", "foolbox"))
            met = ours["median"] <= 1.02 * theirs["median"]
            lines.append(
                [
                    u["params"]["model"],
                    u["params"]["rows"],
                    name,
                    *(f"{x['median']:.4g} ({x['fooled']:.1%})" for x in (ours, theirs)),
                    _verdict(met, "at most 1.02 of foolbox's"),
                ]
            )
    return markdown(["model", "rows", "attack", "ours", "foolbox", "target"], lines)


def _ratio(figures: dict[str, Any], name: str) -> str:
    ratio = figures["ratios"][name]
    return f"{ratio['median']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})"


def _jsma(units: list[Unit]) -> str:
    figures = units[0]["figures"]
    ours, theirs = figures["ours"], figures["ART"]
    stronger = ours["fooled"] >= theirs["fooled"] and ours["pixels"] <= theirs["pixels"]
    targets = {
        "ours": _verdict(stronger, "as many rows with as few pixels as ART"),
        "ART": _verdict(figures["ratios"]["ART"]["median"] >= 5, "5 times ours"),
    }
    lines = [
        [
            who,
            f"{figures[who]['fooled']:.1%}",
            figures[who]["pixels"],
            f"{figures['seconds'][who]['median']:.3g}",
            _ratio(figures, who),
            targets[who],
        ]
        for who in ("ours", "ART")
    ]
    head = ["", "fooled", "mean pixels changed", "seconds", "times ours", "target"]
    return markdown(head, lines)


def _pgd(units: list[Unit]) -> str:
    lines = []
    for u in units:
        f = u["figures"]
        others = [who for who in f["ratios"] if who != "ours"]
        fastest = min(others, key=lambda who: f["ratios"][who]["median"])
        early = u["params"]["model"] == "mnist-undefended"
        need = 2.0 if early else 1.0
        for who in ("ours", *others):
            target = ""
            if who == fastest:
                met = f["ratios"][who]["median"] >= need
                target = _verdict(met, f"at least {need:g} times ours")
            lines.append(
                [
                    u["params"]["model"],
                    who,
                    f"{f['left'][who]:.1%}",
                    f"{f['seconds'][who]['median']:.3g}",
                    _ratio(f, who),
                    target,
                ]
            )
    head = ["model", "", "accuracy left", "seconds", "times ours", "target"]
    return markdown(head, lines)


def _labels(units: list[Unit]) -> str:
    f = units[0]["figures"]
    met = f["ratios"]["ART"]["median"] >= 5
    lines = [
        [
            who,
            f["queries"],
            f[who]["median"],
            f"{f['seconds'][who]['median']:.3g}",
            _ratio(f, who),
            _verdict(met, "5 times ours") if who == "ART" else "",
        ]
        for who in ("ours", "ART")
    ]
    head = ["", "queries a row", "median L2", "seconds", "times ours", "target"]
    return markdown(head, lines)
