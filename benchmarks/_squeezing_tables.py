"""Tables of what Feature Squeezing finds and what evades it."""

from typing import Any

from benchmarks._harness import Unit, markdown

#: Detection (per cent) that others measured again, at 5.27 % false positives:
#: A. Aldahdooh et al., github.com/aldahdooh/detectors_review.
ANCHOR = (67, 100)
#: False positives at which scores are compared.
RATE = 0.05

SCORES = ("joint", "bit depth", "median", "probability", "margin", "smoothness")


def table(units: list[Unit]) -> str:
    """Return the tables of RESULTS.md."""
    by_name = {unit["name"]: unit for unit in units}
    parts = []
    if "genuine" in by_name:
        parts.append(_known(by_name["genuine"]))
    ignores = [u for n, u in by_name.items() if n.startswith("ignores-")]
    knows = [u for n, u in by_name.items() if n.startswith("knows-")]
    if ignores:
        parts += [_ignoring_table(ignores), _verdict(ignores)]
    if knows:
        parts.append(_knowing_table(knows, by_name))
    return "\n\n".join(parts)


def _percent(value: Any) -> str:
    return "" if value is None else f"{100 * value:.1f}"


def _known(unit: Unit) -> str:
    figures, (data, _, epochs, counts) = unit["figures"], unit["params"]["setting"]
    return (
        f"{data}, {counts[0]} training rows, {epochs} epochs: accuracy "
        f"{_percent(figures['accuracy'])} % of {figures['test_rows']} test rows. The "
        f"detector's threshold, from {counts[1]} of them, is a distance of "
        f"{figures['threshold']:.4g}; it flags {_percent(figures['false_positives'])} "
        f"% of {figures['genuine_rows']} others, which set the thresholds of the first "
        f"table. {_percent(figures['middle'])} % of their pixels lie between 0.2 and "
        "0.8."
    )


NORMS = {
    "FGSM": "Linf",
    "PGD": "Linf",
    "RandomSearch": "Linf",
    "JSMA": "L0",
    "SigmaZero": "L0",
}


def _how(unit: Unit) -> list[str]:
    """Norm, attack and what it aims at."""
    params = unit["params"]
    attack, own = params["attack"], params["params"]
    shown = {"eps", "steps", "max_queries", "binary_search_steps"}
    told = ", ".join(f"{k} {v}" for k, v in own.items() if k in shown)
    if attack == "PGD" and own.get("random_start") is False:
        attack = "BIM"
    confidence = str(own.get("confidence", ""))
    return [
        NORMS.get(params["attack"], "L2"),
        f"{attack} {told}".strip(),
        params.get("target", "any"),
        confidence,
    ]


def _order(unit: Unit) -> tuple:
    norm, attack, target, confidence = _how(unit)
    at = ["Linf", "L2", "L0"].index(norm)
    return at, attack.partition(" ")[0], float(confidence or 0), target, attack


def _changes(figures: dict[str, Any]) -> list[str]:
    found = figures["changes"]
    forms = {"l2": ".2f", "linf": ".2f", "l0": ".0f"}
    return ["" if found[n] is None else format(found[n], f) for n, f in forms.items()]


def _ignoring_table(units: list[Unit]) -> str:
    head = [
        *("norm", "attack", "class", "confidence", "rows", "fooled %"),
        *("L2", "Linf", "pixels", "between .2 and .8 %", "probability"),
        *(f"{name} finds %" for name in SCORES),
        *("AUC joint", "evades %"),
    ]
    rows = []
    for done in sorted(units, key=_order):
        figures = done["figures"]
        found, auc = figures.get("found", {}), figures.get("auc", {})
        sure = figures.get("mean_probability")
        rows.append(
            [
                *_how(done),
                figures["rows"],
                _percent(figures["fooled"] / figures["rows"]),
                *_changes(figures),
                _percent(figures.get("middle")),
                "" if sure is None else f"{sure:.3f}",
                *(_percent(found.get(name)) for name in SCORES),
                "" if not auc else f"{auc['joint']:.3f}",
                _percent(figures["evades"]),
            ]
        )
    title = (
        "Attackers who ignore the detector; of successes, what each score finds at "
        f"{RATE:.0%} false positives (changes: means over successes):"
    )
    return f"{title}\n\n{markdown(head, rows)}"


def _verdict(units: list[Unit]) -> str:
    low, high = ANCHOR
    below = [
        f"{' '.join(filter(None, _how(unit)))} ({_percent(found['joint'])})"
        for unit in sorted(units, key=_order)
        if (found := unit["figures"].get("found")) and 100 * found["joint"] < low
    ]
    n = sum("found" in unit["figures"] for unit in units)
    said = f"{n - len(below)} of {n} attacks are found within or above that"
    said += f"; below it: {', '.join(below)}." if below else "."
    return (
        f"Others measured {low} to {high} % on MNIST at 5.27 % false positives, with "
        f"other nets and attacks. Here {said}"
    )


def _knowing_table(units: list[Unit], by_name: dict[str, Unit]) -> str:
    head = ["norm", "attack", "rows", "evades %", "the same, ignoring it, evades %"]
    head += ["L2", "Linf", "pixels", "median L2", "passes a row"]
    rows = []
    for done in sorted(units, key=_order):
        figures = done["figures"]
        norm, attack, _, _ = _how(done)
        name = done["name"].removeprefix("knows-")
        other = by_name.get(f"ignores-{name}") or by_name.get(f"ignores-{name}-0")
        ignoring = "" if other is None else _percent(other["figures"]["evades"])
        median = figures["median_l2"]
        rows.append(
            [
                *(norm, attack, figures["rows"]),
                *(_percent(figures["evades"]), ignoring),
                *_changes(figures),
                "" if median is None else f"{median:.2f}",
                f"{figures['mean_queries']:.0f}",
            ]
        )
    title = "Attackers who know the detector; rows that are wrong and accepted:"
    return f"{title}\n\n{markdown(head, rows)}"
