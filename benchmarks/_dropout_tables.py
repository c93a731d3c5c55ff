"""Tables of what dropout passes cost."""

from typing import Any

from benchmarks._dropout_nets import BY_NET
from benchmarks._harness import Unit, markdown, ratios, spread

FORWARD = "one forward pass"
LOOP = "loop"
BAAL = "baal with cache"
UNCERTAINTY = "torch-uncertainty"
PASSES = "ours, passes"
DETECTOR = "ours, score_samples"

#: The case that has targets: net, rows in a batch, passes.
AIMED = ("MNIST net", 256, 50)
#: Forward passes that ours may take there, and how many times ours others should take.
MOST_PASSES, LEAST = 2.5, {LOOP: 30.0, BAAL: 8.0}
#: Peak memory at the larger number of rows, in that at the smaller.
MOST_MEMORY = 1.1
#: Time of a search over many values, in that of one.
MOST_SEARCH = 1.3


def table(units: list[Unit]) -> str:
    """Return the tables of RESULTS.md: a net each, then memory and search."""
    by_name = {unit["name"]: unit for unit in units}
    speed = [unit for unit in units if "batch" in unit["params"]]
    parts = []
    for net in BY_NET.values():
        found = [unit for unit in speed if BY_NET[unit["params"]["net"]] == net]
        if found:
            parts.append(_table(net, sorted(found, key=_order)))
    parts += [_targets(unit) for unit in speed if _case(unit) == AIMED]
    if speed:
        parts.append(_slower(speed))
    if "memory" in by_name:
        parts.append(_memory(by_name["memory"]))
    if "search" in by_name:
        parts.append(_search(by_name["search"]))
    return "\n\n".join(parts)


def _case(unit: Unit) -> tuple[str, int, int]:
    params = unit["params"]
    return BY_NET[params["net"]], params["batch"], params["passes"]


def _order(unit: Unit) -> tuple[int, int]:
    return unit["params"]["passes"], unit["params"]["batch"]


def _table(net: str, units: list[Unit]) -> str:
    title = f"{net}, {units[0]['params']['net']}: milliseconds, and in forward passes:"
    ways = (LOOP, BAAL, UNCERTAINTY, PASSES, DETECTOR)
    head = [
        "batch",
        "passes",
        "rounds",
        "one pass",
        *ways,
        "loop / ours",
        "baal / ours",
    ]
    return f"{title}\n\n{markdown(head, (_row(unit, ways) for unit in units))}"


def _row(unit: Unit, ways: tuple[str, ...]) -> list[Any]:
    params, figures = unit["params"], unit["figures"]
    rounds = str(params["rounds"])
    if "loop_passes_timed" in params:
        rounds += f", loop of {params['loop_passes_timed']}"
    cells = [_milliseconds(figures["milliseconds"][FORWARD])]
    for name in ways:
        if name not in figures["ratios"]:
            cells.append(figures.get("left_out", {}).get(name, "not run"))
            continue
        times = _milliseconds(figures["milliseconds"][name])
        cells.append(f"{times}; {_range(figures['ratios'][name])}")
    ahead = _ahead(unit)
    cells += [_range(ahead[name]) if name in ahead else "" for name in (LOOP, BAAL)]
    return [params["batch"], params["passes"], rounds, *cells]


def _ahead(unit: Unit) -> dict[str, dict[str, float]]:
    """Return how many times our passes the others take."""
    times = ratios(unit["figures"]["seconds"], to=PASSES)
    return {name: spread(values) for name, values in times.items()}


def _milliseconds(found: dict[str, float]) -> str:
    return format(found["median"], ".1f")


def _range(found: dict[str, float]) -> str:
    median, low, high = (format(found[k], ".3g") for k in ("median", "low", "high"))
    return f"{median} ({low} to {high})"


def _verdict(met: bool) -> str:
    return "met" if met else "missed"


def _targets(unit: Unit) -> str:
    net, batch, passes = AIMED
    own, ahead = unit["figures"]["ratios"], _ahead(unit)
    said = [
        f"{name} at most {MOST_PASSES:g} forward passes: {own[name]['median']:.2f}, "
        f"{_verdict(own[name]['median'] <= MOST_PASSES)}"
        for name in (PASSES, DETECTOR)
    ]
    for name, least in LEAST.items():
        text = f"at least {least:g} times as fast as {name}: "
        if name in ahead:
            median = ahead[name]["median"]
            text += f"{median:.1f}, {_verdict(median >= least)}"
        else:
            text += "not measured"
        said.append(text)
    lines = "\n".join(f"- {line}" for line in said)
    return f"Targets on the {net}, batch {batch}, {passes} passes:\n\n{lines}"


def _slower(units: list[Unit]) -> str:
    slower = [
        f"{net}, batch {batch}, {passes} passes ({ahead:.2f} times ours)"
        for unit in units
        for net, batch, passes in [_case(unit)]
        if (ahead := _ahead(unit)[LOOP]["median"]) < 1
    ]
    most = max(u["figures"]["max_difference_same_masks"] for u in units)
    return (
        f"Slower than the loop: {'; '.join(slower) or 'nowhere'}. Largest difference "
        f"of probabilities under the same masks: {most:.1g}."
    )


def _memory(unit: Unit) -> str:
    figures, params = unit["figures"], unit["params"]
    if figures["megabytes"] is None:
        return "Memory: not measured, this system does not tell."
    told = "; ".join(
        f"{rows} rows, {mega:.4g} MB in {seconds:.4g} s"
        for rows, mega, seconds in zip(
            params["sizes"], figures["megabytes"], figures["seconds"], strict=True
        )
    )
    small, large = figures["megabytes"]
    return (
        f"Memory of {params['passes']} passes beside the rows: {told}; "
        f"{large / small:.2f} times as much, at most {MOST_MEMORY:g} times: "
        f"{_verdict(large <= MOST_MEMORY * small)}."
    )


def _search(unit: Unit) -> str:
    figures, params = unit["figures"], unit["params"]
    one, many = figures["seconds"]
    return (
        f"Search on {params['rows']} rows of {params['data']}, {params['folds']} "
        f"folds, {params['epochs']} epochs, {params['passes']} passes, FGSM at "
        f"{params['eps']:g}: {one:.4g} s for one value of contamination, {many:.4g} s "
        f"for {params['values']}; {figures['ratio']:.2f} times as long, at most "
        f"{MOST_SEARCH:g} times: {_verdict(figures['ratio'] <= MOST_SEARCH)}."
    )
