"""Tables of what squeezing the input is worth in front of a net."""

from typing import Any

from benchmarks._harness import Unit, markdown

HEAD = [
    *("before the net", "trained", "clean %"),
    *("Linf ignores %", "Linf knows %", "Linf asks %"),
    *("L2 ignores", "L2 knows", "L0 ignores %", "L0 knows"),
]


def table(units: list[Unit]) -> str:
    """Return the tables of RESULTS.md, one set of images after the other."""
    names = dict.fromkeys(unit["params"]["data"] for unit in units)
    ordered = sorted(names, key=["mnist", "cifar10", "digits"].index)
    return "\n\n".join(
        _of_data(data, [u for u in units if u["params"]["data"] == data])
        for data in ordered
    )


def _of_data(data: str, units: list[Unit]) -> str:
    named = {unit["name"].removeprefix(f"{data}-"): unit for unit in units}
    judged = [unit for unit in units if "condition" in unit["params"]]
    judged.sort(key=_order)
    parts = [_title(units[0]["params"])]
    alone = ""
    if "jpeg-alone" in named:
        aucs = named["jpeg-alone"]["figures"]["auc"]
        told = ", ".join(f"{_norm(n)} {value:.2f}" for n, value in aucs.items())
        alone = f"JPEG alone, AUC: {told}."
    if judged:
        parts += [_judged_table(judged), _found(judged), _curves(judged), alone]
    if "confidence" in named:
        parts += [_confidence_table(named["confidence"]["figures"]), alone]
    return "\n\n".join(filter(None, parts))


def _norm(name: str) -> str:
    return {"linf": "Linf", "l2": "L2", "l0": "L0"}[name]


def _title(params: dict[str, Any]) -> str:
    spend = params["spend"]
    n_train, n_test, epochs, width = params["train"]
    return (
        f"**{params['data']}**: {n_train} training rows, {epochs} epochs, {width} "
        f"channels at first; clean accuracy of {n_test} test rows. Linf with eps "
        f"{spend['eps']:.3g}, {spend['pgd_steps']} steps, {spend['queries']} queries; "
        f"L2 in {spend['ddn_steps']} steps, L0 in {spend['sigma_zero_steps']}. "
        f"{spend['rows']} rows for Linf and L2, {spend['fewer_rows']} for questions, "
        "L0 and confidence."
    )


def _order(unit: Unit) -> tuple:
    first, *others = unit["params"]["steps"] or [["", 0]]
    kinds = ["", "resolution", "bits", "blur", "median", "jpeg", "gray"]
    down = -1 if first[0] in ("resolution", "bits", "jpeg") else 1
    return len(others), kinds.index(first[0]), down * (first[1] or 0)


def _both(unit: Unit) -> list[tuple[str, dict[str, Any]]]:
    """The net trained without, and the one trained with."""
    return list(unit["figures"].items())


def _percent(value: Any) -> str:
    return "" if value is None else f"{100 * value:.1f}"


def _length(value: Any, form: str = ".2f") -> str:
    return "none" if value is None else format(value, form)


def _judged_table(units: list[Unit]) -> str:
    rows = []
    for unit in units:
        for trained, found in _both(unit):
            name = unit["params"]["condition"]
            rows.append(
                [
                    *(name, trained if name != "none" else ""),
                    _percent(found["clean"]),
                    _percent(found["linf"]["ignores"]),
                    _percent(found["linf"]["knows"]),
                    _percent(found["asks"]["knows"]),
                    _length(found["l2"]["ignores"]),
                    _length(found["l2"]["knows"]),
                    _percent(found["l0"]["ignores"]),
                    _length(found["l0"]["knows"], ".0f"),
                ]
            )
    return markdown(HEAD, rows)


def _found(units: list[Unit]) -> str:
    """Say what the table shows: the best of all, for who ignores and who knows."""
    plain = next((u for u in units if not u["params"]["steps"]), None)
    if plain is None or len(units) < 2:
        return ""
    base = plain["figures"]["without"]
    lines = []
    for norm, key, unit_of, scale in (
        ("linf", "ignores", "points of accuracy", 100),
        ("linf", "knows", "points of accuracy", 100),
        ("asks", "knows", "points of accuracy", 100),
        ("l2", "knows", "times the length", None),
        ("l0", "knows", "times the values", None),
    ):
        gains = []
        for unit in units:
            for trained, found in _both(unit):
                value, before = found[norm][key], base[norm][key]
                if not unit["params"]["steps"] or value is None or before is None:
                    continue
                if not scale and not before:
                    continue
                gain = scale * (value - before) if scale else value / before
                cost = 100 * (found["clean"] - base["clean"])
                name = unit["params"]["condition"]
                gains.append((gain, cost, f"{name}, trained {trained}"))
        if not gains:
            continue
        gain, cost, name = max(gains)
        who = {"ignores": "one who ignores it", "knows": "one who knows it"}[key]
        what = {"linf": "Linf", "asks": "questions", "l2": "L2", "l0": "L0"}[norm]
        said = f"{gain:+.1f}" if scale else f"{gain:.2f}"
        lines.append(
            f"- {what}, {who}: at most {said} {unit_of} ({name}; clean accuracy "
            f"{cost:+.1f} points)."
        )
    return "Most that anything gained over the net alone:\n\n" + "\n".join(lines)


def _curves(units: list[Unit]) -> str:
    """Minimal distortion against resolution and bits."""
    parts = []
    for kind, full in (("resolution", 1.0), ("bits", 8)):
        points = []
        for unit in units:
            steps = unit["params"]["steps"]
            if not steps:
                points.append((full, unit["figures"]))
            elif len(steps) == 1 and steps[0][0] == kind:
                points.append((steps[0][1], unit["figures"]))
        if len(points) < 2:
            continue
        points.sort(key=lambda point: -point[0])
        head = [kind, "trained without: ignores", "knows"]
        head += ["trained with: ignores", "knows"]
        rows = []
        for value, figures in points:
            row = [f"{value:g}"]
            for trained in ("without", "with"):
                found = figures.get(trained, figures["without"])["l2"]
                row += [_length(found["ignores"]), _length(found["knows"])]
            rows.append(row)
        parts.append(f"Median L2 against {kind}:\n\n{markdown(head, rows)}")
    return "\n\n".join(parts)


def _confidence_table(figures: dict[str, Any]) -> str:
    found = figures["confidences"]
    if not found:
        return ""
    leads = sorted(found, key=float)
    head = ["before the net", *(f"lead {lead}" for lead in leads)]
    rows = [
        ["fooled alone %", *(_percent(found[lead]["fooled"]) for lead in leads)],
        ["mean L2", *(_length(found[lead]["l2"]) for lead in leads)],
    ]
    names = [name for name in found[leads[0]]["accuracy"] if name != "none"]
    falls = 0
    for name in names:
        left = [found[lead]["accuracy"][name] for lead in leads]
        falls += left[-1] < left[0]
        rows.append([name, *map(_percent, left)])
    title = "Accuracy (%) on rows that fool the net alone, against their confidence:"
    said = (
        f"From the least to the most confident rows it falls behind {falls} of "
        f"{len(names)}."
    )
    said = said if len(leads) > 1 else ""
    return f"{title}\n\n{markdown(head, rows)}\n\n{said}".rstrip()
