"""Tables of what detectors find and of what they are worth."""

from typing import Any

from benchmarks._harness import Unit, markdown

#: Combined AUC (per cent) of the paper's abstract, over data sets and all attacks.
ABSTRACT = (85, 93)
#: Combined AUC (per cent) of FGSM on MNIST in a re-run of the paper's repository:
#: pull request 7 of github.com/rfeinman/detecting-adversarial-samples.
RERUN = 82.43

NAMES = {
    "paper, others": "variance and density, others",
    "paper, same": "variance and density, same",
    "dropout, others": "statistics of dropout, others",
    "dropout, same": "statistics of dropout, same",
    "ours, others": "ours, others",
    "ours, same": "ours, same",
    "variance": "variance alone",
    "density": "density alone",
    "squeezing": "squeezing alone",
    "probability": "baseline: largest probability",
    "margin": "baseline: margin",
    "smoothness": "baseline: smoothness",
}
TITLES = {
    "auc": "AUC x 100, genuine and noisy rows",
    "tpr 5%": "found % where 5 % of genuine and noisy rows are flagged",
    "tpr 1%": "found % where 1 % of genuine and noisy rows are flagged",
    "tpr 5% genuine": "found % where 5 % of genuine rows are flagged",
}
DETECTORS = {
    "none": "",
    "softmax": "largest probability",
    "dropout": "dropout (variance)",
    "density": "density",
    "paper": "variance and density",
    "ours": "ours",
}
MODELS = {
    "small": "small, plain",
    "trained": "small, trained by PGD",
    "feinman": "of Feinman et al.",
}


def table(units: list[Unit]) -> str:
    """Return the tables of RESULTS.md."""
    kinds: dict[str, list[Unit]] = {}
    for done in units:
        name = done["name"]
        kinds.setdefault(_kind(name), []).append(done)
    parts = [make(kinds[kind]) for kind, make in TABLES.items() if kind in kinds]
    return "\n\n".join(parts)


def _kind(name: str) -> str:
    """Return the table of a unit; "paper" is also the name of a detector."""
    of_nets = [kind for kind in TABLES if kind.startswith("-")]
    others = [kind for kind in TABLES if not kind.startswith("-")]
    if name.startswith("net-"):
        return next(kind for kind in of_nets if kind in name)
    return next(kind for kind in others if name.startswith(kind))


def _percent(value: Any) -> str:
    return "" if value is None else f"{100 * value:.1f}"


def _interval(figure: list[float] | None) -> str:
    if figure is None:
        return ""
    mean, low, high = map(_percent, figure)
    return f"{mean} ({low} to {high})"


def _nets(units: list[Unit]) -> str:
    said = (
        f"seed {u['params']['seed']} {_percent(u['figures']['accuracy'])} %"
        for u in units
    )
    rows = units[0]["figures"]["test_rows"]
    return f"Accuracy of the nets on {rows} test rows: {', '.join(said)}."


def _rows(units: list[Unit]) -> str:
    head = ["net", "attack", "rows", "accuracy left %", "L2", "L2 of the noise"]
    head += ["rows to learn from", "of these fooled %"]
    lines = []
    for done in sorted(units, key=lambda u: u["params"]["seed"]):
        figures = done["figures"]
        lines.append(
            [
                *(done["params"]["seed"], done["params"]["attack"], figures["rows"]),
                _percent(figures["accuracy_left"]),
                *(f"{figures['l2']:.2f}", f"{figures['noise_l2']:.2f}"),
                figures["learned_from"],
                _percent(figures["fooled_of_these"]),
            ]
        )
    return f"What the attacks did:\n\n{markdown(head, lines)}"


def _paper(units: list[Unit]) -> str:
    columns = list(units[0]["figures"])
    lines = [
        [u["params"]["seed"], *(_interval(u["figures"][c]) for c in columns)]
        for u in units
    ]
    means = {
        c: 100 * sum(u["figures"][c][0] for u in units) / len(units) for c in columns
    }
    low, high = ABSTRACT
    verdict = (
        f"The abstract says {low} to {high} over three data sets; here all attacks "
        f"together give {means['all']:.1f}, {_against(means['all'], high)} its top. A "
        f"re-run of the repository gave {RERUN} for FGSM; here it is "
        f"{means['FGSM']:.1f}, {_against(means['FGSM'], RERUN)} that."
    )
    title = "As the paper scores it (in sample), combined AUC x 100:"
    return f"{title}\n\n{markdown(['net', *columns], lines)}\n\n{verdict}"


def _against(value: float, anchor: float) -> str:
    return "above" if value > anchor else "below"


def _held_out(units: list[Unit]) -> str:
    return "\n\n".join(map(_held_out_of, units))


def _held_out_of(unit: Unit) -> str:
    figures, seed = unit["figures"], unit["params"]["seed"]
    attacks = list(figures["lead"])
    parts = []
    for metric, title in TITLES.items():
        lines = [
            [
                NAMES[way],
                *(_interval(figures["ways"][way][a][metric]) for a in attacks),
            ]
            for way in NAMES
        ]
        leads = [figures["lead"][a][metric] for a in attacks]
        lines.append(["lead of ours, others", *map(_interval, leads)])
        lines.append(["useful", *("yes" if lead[1] > 0 else "no" for lead in leads)])
        head = [f"net {seed}, {title}", *attacks]
        parts.append(markdown(head, lines))
    n = ", ".join(f"{a} {figures['successes'][a]}" for a in attacks)
    title = f"Held out, of an attacker who ignores the detector (successes: {n}):"
    return "\n\n".join([title, *parts])


def _knows(units: list[Unit]) -> str:
    head = ["net", "eps", "rejects by", "rows", "accuracy %"]
    head += ["lost %, no rejection", "lost % at 1 %", "at 5 %"]
    head += ["ignoring the detector, at 1 %", "at 5 %"]
    lines = []
    for done in units:
        params, figures = done["params"], done["figures"]
        model = params.get("model", "feinman")
        by = DETECTORS.get(params.get("detector", ""), "dropout (variance), hinges")
        by += ", attacked longer" * ("restarts" in params)
        error, blind = figures["error"], figures.get("ignoring", {})
        lines.append(
            [
                *(MODELS[model], params["eps"], by, figures["rows"]),
                _percent(figures.get("accuracy")),
                *(_percent(error.get(level)) for level in ("0", "0.01", "0.05")),
                *(_percent(blind.get(level)) for level in ("0.01", "0.05")),
            ]
        )
    title = (
        "Who knows it; a share of 200 rows is good to 7 points either way (95 %), one "
        "of 100 to 10:"
    )
    return f"{title}\n\n{markdown(head, sorted(lines, key=_order))}{_verdict(units)}"


def _order(line: list[Any]) -> tuple:
    names = [*DETECTORS.values(), "ours, attacked longer"]
    at = names.index(line[2]) if line[2] in names else len(names)
    return list(MODELS.values()).index(line[0]), at


def _verdict(units: list[Unit]) -> str:
    """Compare the best combination with the trained net under a softmax threshold."""
    found = {
        u["params"].get("detector"): u["figures"]["error"]
        for u in units
        if u["params"].get("model") == "trained"
    }
    if not {"softmax", "ours"} <= set(found):
        return ""
    said = []
    for level in ("0.01", "0.05"):
        gain = 100 * (found["softmax"][level] - found["ours"][level])
        met = "met" if gain >= 3 else "missed"
        said.append(f"{gain:+.1f} points at {level} clean rejection ({met})")
    return (
        "\n\nTarget: the trained net with the best combination loses 3 points less "
        f"than with a threshold on the largest probability. Gain: {', '.join(said)}."
    )


def _masks(units: list[Unit]) -> str:
    head = ["attack", "statistic", "AUC x 100, shared", "independent"]
    head += ["difference", "beyond its interval", "spread over draws"]
    lines = [
        [
            *(attack, name),
            *(_percent(f[kind]) for kind in ("shared", "independent")),
            f"{100 * f['difference']:+.2f} ± {100 * f['half_interval']:.2f}",
            "yes" if abs(f["difference"]) > f["half_interval"] else "no",
            " and ".join(f"{100 * s:.2f}" for s in f["spread"]),
        ]
        for done in units
        for attack, statistics in done["figures"].items()
        for name, f in statistics.items()
    ]
    title = "Shared against independent masks, successful attacks against their rows:"
    return f"{title}\n\n{markdown(head, lines)}"


TABLES: dict[str, Any] = {
    "-training": _nets,
    "-rows-": _rows,
    "-paper": _paper,
    "-held-out": _held_out,
    "knows-": _knows,
    "masks": _masks,
}
