"""Certified training on MNIST at Linf 0.3: what is proved, and what attacks leave.

Nets trained by `CertifiedClassifier` on all 60,000 training rows; certified accuracy of
all 10,000 test rows within 0.3 and [0, 1], by interval bounds that account for the
rounding of float32. Beside it, on the first 1,000 test rows, the accuracy under PGD
with the margin, APGD (ce and dlr-t) and RandomSearch with 5,000 queries, the worst case
per row, by attackers who know the net. That is an upper bound, the certificate a lower
bound of the accuracy that any attack leaves on these rows; the gap is what neither
knows.

Some nets were kept and met the standard suite of pyautoattack too, on all test rows:
APGD (cross-entropy, targeted), FAB (targeted), Square of 5,000 queries. The ramp is
flat where pixels are black or white, and hides its gradient there; so the attacker
first takes the gradient of the line without ends, then that of the net as it is. Rows
that intervals prove are not attacked, for no attack takes them; whether proofs hold was
tried on the first 1,000.

Rows that intervals leave open were asked of linear bounds too (`method="crown-ibp"`).
Those that only these prove met the same suite: one that falls would end the benchmark.

The nets are small, for two cores: convolutions with stride, batch normalization, one
hidden layer. Those "with a ramp" begin with `clip(a * x + b, 0, 1)` at each pixel, `a`
and `b` learned from a start that takes 0.3 to 0 and 0.7 to 1: black and white pixels
then come out as they are whatever an attacker adds within 0.3, and only gray ones are
uncertain. That suits MNIST, whose pixels are mostly black or white, and little else.
"wide" is trained on images moved by up to a pixel, with products in bfloat16, and is
normalized by the centers of bounds: that a wider net fits into the minutes.

Three seeds a setting; the certified share comes with the 95 % interval of the mean over
seeds (Student's t). Minutes are those of training on all cores: nets that were trained
on fewer, or while others used more than a quarter of a core, do not count for them (the
facts name the threads of each, and the cores that others used).
"""

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats
from skorch import NeuralNetClassifier
from skorch.callbacks import GradientNormClipping, LRScheduler
from torch import nn

from benchmarks import _others
from benchmarks._certified_nets import EPS, BoundedNet, steps_down, straightened
from benchmarks._harness import (
    RESULTS,
    Unit,
    arguments,
    had_all_cores,
    keep_memory,
    markdown,
    unit,
    was_alone,
)
from benchmarks._kept import fingerprint, keep, kept, lost
from benchmarks._pictures import pictures
from benchmarks._training_nets import moving
from sk_advdef import (
    APGD,
    PGD,
    CertifiedClassifier,
    RandomSearch,
    certified_accuracy_score,
    robust_accuracy_score,
)
from sk_advdef.evaluation._certified import certified_rows

SEEDS = (0, 1, 2)
ATTACKED = 1000
QUERIES = 5000
BATCH = 250
STANDARD = ["apgd-ce", "apgd-t", "fab-t", "square"]

#: Of which settings nets meet the standard suite, and are bounded by lines.
SUITED = ("long", "wide")
LINED = ("wide",)

#: Channels of two convolutions (4 x 4, stride 2), hidden units, epochs, and the rest.
SETTINGS: dict[str, dict[str, Any]] = {
    "short": {"width": [16, 32, 100], "epochs": 36, "ramp": True, "eps_train": 0.31},
    "long": {"width": [32, 64, 256], "epochs": 62, "ramp": True, "eps_train": 0.31},
    "plain": {"width": [16, 32, 100], "epochs": 36, "ramp": False, "eps_train": 0.33},
    "wide": {"width": [64, 128, 384], "epochs": 54, "ramp": True, "eps_train": 0.305}
    | {"shift": 1, "narrow": True, "normalize_by": "centers"},
}

#: Setting -> certified share wanted, and in how many minutes.
TARGETS = {"short": (0.885, 15), "long": (0.92, 60), "wide": (0.92, 60)}

#: Setting -> accuracy wanted under the standard suite, and in how many minutes.
ATTACKED_TARGETS = {"long": (0.928, 45), "wide": (0.928, 45)}


def run(
    *,
    data: str,
    rows: list[int],
    width: list[int],
    epochs: int,
    ramp: bool,
    eps_train: float,
    seed: int,
    queries: int,
    folder: Path | None,
    name: str,
    quick: bool,
    shift: int = 0,
    narrow: bool = False,
    normalize_by: str = "rows",
) -> dict[str, Any]:
    """Train one net and keep it, certify it, attack it.

    Images are moved by up to ``shift`` pixels in training; ``narrow`` nets are trained
    by products of bfloat16.
    """
    if not quick:
        keep_memory()  # of the whole process, which may be that of the tests
    n_train, n_test, n_attacked = rows
    X, y, X_test, y_test = pictures(data, folder, n_train, n_test)
    net = NeuralNetClassifier(
        BoundedNet,
        module__width=width,
        module__ramp=ramp,
        module__narrow=narrow,
        criterion=nn.CrossEntropyLoss,
        optimizer=torch.optim.Adam,
        optimizer__fused=narrow,
        lr=2e-3,
        max_epochs=epochs,
        batch_size=256,
        iterator_train__shuffle=True,
        **moving(shift),
        train_split=None,
        callbacks=[
            LRScheduler(
                torch.optim.lr_scheduler.LambdaLR,
                lr_lambda=partial(steps_down, epochs=epochs),
            ),
            GradientNormClipping(10.0),
        ],
        verbose=0,
    )
    start = time.perf_counter()
    model = CertifiedClassifier(
        net,
        eps=EPS,
        eps_train=eps_train,
        normalize_by=normalize_by,
        random_state=seed,
    ).fit(X, y)
    minutes = (time.perf_counter() - start) / 60
    keep("certified", name, model, quick)
    start = time.perf_counter()
    certified = certified_rows(model, X_test, y_test, EPS, bounds=(0, 1))
    certifying = time.perf_counter() - start
    part = X_test[:n_attacked], y_test[:n_attacked]
    suite = [
        PGD(EPS, loss="margin", random_state=seed),
        *(APGD(EPS, loss=loss, random_state=seed) for loss in ("ce", "dlr-t")),
        RandomSearch(EPS, max_queries=queries, random_state=seed),
    ]
    attacked = robust_accuracy_score(model, *part, attack=suite)
    low = certified_accuracy_score(model, *part, EPS, bounds=(0, 1))
    if low > attacked:
        raise RuntimeError(f"a certified row was broken: {low} > {attacked}")
    return {
        "clean": _share(model.predict(X_test) == y_test),
        "certified": _share(certified),
        "certified_of_attacked": round(low, 4),
        "attacked": round(attacked, 4),
        "minutes": round(minutes, 2),
        "seconds_to_certify": round(certifying, 1),
        "weights": fingerprint(model),
        "watched": [row["certified_accuracy"] for row in model.history_],
    }


def suite(
    *,
    net: str,
    data: str,
    rows: list[int],
    attacks: list[str],
    quick: bool,
    folder: Path | None,
) -> dict[str, Any]:
    """Attack what is right and not proved of all test rows, by the standard suite."""
    model = kept("certified", net, net, quick)
    _, _, X, y = pictures(data, folder, *rows)
    right = model.predict(X) == y
    certified = certified_rows(model, X, y, EPS, bounds=(0, 1))
    holds, left = right.copy(), []
    for rows_left, held in _attacked(model, X, y, right & ~certified, attacks):
        left.append(len(rows_left))
        holds[rows_left] = held
    return {
        "clean": _share(right),
        "certified": _share(certified),
        "attacked": _share(holds),
        "tried": left,
        "weights": fingerprint(model),
    }


def _attacked(
    model: Any, X: np.ndarray, y: np.ndarray, tried: np.ndarray, attacks: list[str]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Attack rows by a gradient of their own, and those that hold by the net's.

    Yields the rows attacked, and whether each is still answered rightly.
    """
    tried = np.flatnonzero(tried)
    for asked in (straightened(model), model):
        held = np.ones(len(tried), dtype=bool)
        if len(tried):
            X_left, y_left = X[tried], y[tried]
            net = _others.AsNet(asked, X.shape[1:])
            with _others.seeded(0):
                found = _others.auto_attack(net, X_left, y_left, EPS, attacks, BATCH)
            assert np.abs(found - X_left).max() <= EPS + 1e-5
            held = model.predict(found) == y_left
        yield tried, held
        tried = tried[held]


def lines(
    *,
    net: str,
    data: str,
    rows: list[int],
    attacks: list[str],
    quick: bool,
    folder: Path | None,
) -> dict[str, Any]:
    """Prove more test rows by linear bounds, and attack those that only these prove."""
    model = kept("certified", net, net, quick)
    _, _, X, y = pictures(data, folder, *rows)
    proved, seconds = {}, {}
    for method in ("ibp", "crown-ibp"):
        start = time.perf_counter()
        proved[method] = certified_rows(model, X, y, EPS, bounds=(0, 1), method=method)
        seconds[method] = time.perf_counter() - start
    more = proved["crown-ibp"] & ~proved["ibp"]
    for tried, held in _attacked(model, X, y, more, attacks):
        if not held.all():
            raise RuntimeError(f"certified rows were broken: {tried[~held]}")
    open_rows = int((model.predict(X) == y).sum() - proved["ibp"].sum())
    return {
        "by_intervals": _share(proved["ibp"]),
        "certified": _share(proved["crown-ibp"]),
        "open": open_rows,
        "seconds": round(seconds["crown-ibp"] - seconds["ibp"], 1),
        "weights": fingerprint(model),
    }


def _share(rows: np.ndarray) -> float:
    return round(float(rows.mean()), 4)


def tasks(quick: bool, folder: Path | None) -> list[tuple[str, dict[str, Any], Any]]:
    """Return name, params and function of each unit."""
    function = partial(run, folder=folder, quick=quick)
    if quick:
        tiny = {"width": [4, 4, 16], "epochs": 3, "ramp": True, "eps_train": 0.1}
        few = {"data": "digits", "rows": [300, 60, 10], "seed": 0, "queries": 20}
        judged = {"net": "short-0", "data": "digits", "rows": few["rows"][:2]}
        judged |= {"attacks": STANDARD[:1]}
        return [
            ("short-0", few | tiny, partial(function, name="short-0")),
            ("short-0-suite", judged, partial(suite, folder=folder, quick=quick)),
            ("short-0-lines", judged, partial(lines, folder=folder, quick=quick)),
        ]
    rows = [60000, 10000, ATTACKED]
    common = {"data": "mnist", "rows": rows, "queries": QUERIES}
    nets = [
        (
            name := f"{kind}-{seed}",
            common | setting | {"seed": seed},
            partial(function, name=name),
        )
        for kind, setting in SETTINGS.items()
        for seed in SEEDS
    ]
    common = {"data": "mnist", "rows": rows[:2], "attacks": STANDARD}
    judges = [
        (
            f"{kind}-{seed}-{judge.__name__}",
            common | {"net": f"{kind}-{seed}"},
            partial(judge, folder=folder, quick=quick),
        )
        for judge, kinds in ((suite, SUITED), (lines, LINED))
        for kind in kinds
        for seed in SEEDS
    ]
    return nets + judges


def missing(params: dict[str, Any], quick: bool) -> str | None:
    """Say what a unit needs that is not there."""
    if "net" in params:
        return lost("certified", params["net"], quick)
    if params.get("narrow") and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return "this CPU has no instructions for bfloat16, without which it takes days"
    return None


def main() -> None:
    given = arguments(__doc__)
    units = []
    for name, params, function in tasks(given.quick, given.data):
        if not name.startswith(given.only):
            continue
        if (RESULTS / "certified" / f"{name}.json").exists() or not (
            why := missing(params, given.quick)
        ):
            units.append(unit("certified", name, params, function, given.quick))
        else:
            print(f"{why}, so {name} is left out")
    print(table(units))


def interval(values: list[float]) -> tuple[float, float]:
    """Return the 95 % interval of a mean over seeds; all there is of one seed."""
    if len(values) < 2:
        return 0.0, 1.0
    half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1)
    half /= len(values) ** 0.5
    return float(np.mean(values) - half), float(np.mean(values) + half)


def table(units: list[Unit]) -> str:
    """Lay out a line a setting, and one a net that met the standard suite."""
    suites, lined = (
        [one for one in units if one["name"].endswith(end)]
        for end in ("-suite", "-lines")
    )
    nets = [one for one in units if one not in suites + lined]
    parts = [_nets(nets)]
    if suites:
        parts.append(f"The standard suite, all test rows:\n\n{_suites(suites, nets)}")
    if lined:
        parts.append(f"Linear bounds, all test rows:\n\n{_lines(lined, nets)}")
    return "\n\n".join(parts)


def _nets(units: list[Unit]) -> str:
    by_setting: dict[str, list[Unit]] = {}
    for one in units:
        by_setting.setdefault(one["name"].rpartition("-")[0], []).append(one)
    head = ["net", "epochs", "seeds", "minutes", "clean", "certified", "interval"]
    head += ["certified of the attacked", "under attack at most", "gap", "target"]
    return markdown(head, [_line(name, some) for name, some in by_setting.items()])


def _suites(suites: list[Unit], units: list[Unit]) -> str:
    _check_nets(suites, units)
    rows = []
    for one in suites:
        figures = one["figures"]
        shares = [figures[key] for key in ("clean", "attacked", "certified")]
        tried = ", ".join(map(str, figures["tried"]))
        rows.append([one["params"]["net"], *(f"{s:.2%}" for s in shares), tried])
    head = ["net", "clean", "attacked: an upper bound", "certified"]
    head += ["rows attacked: by a gradient of its own, as it is"]
    told = _over_seeds(suites, units, "attacked", "under attack", ATTACKED_TARGETS)
    return "\n\n".join([markdown(head, rows), *told])


def _lines(lined: list[Unit], units: list[Unit]) -> str:
    _check_nets(lined, units)
    rows = []
    for one in lined:
        figures = one["figures"]
        shares = [figures[key] for key in ("by_intervals", "certified")]
        told = [str(figures["open"]), f"{figures['seconds']:.0f}"]
        rows.append([one["params"]["net"], *(f"{s:.2%}" for s in shares), *told])
    head = ["net", "certified by intervals", "and by linear bounds"]
    head += ["rows asked of these", "seconds"]
    by_seeds = _over_seeds(lined, units, "certified", "certified", TARGETS)
    return "\n\n".join([markdown(head, rows), *by_seeds])


def _check_nets(judged: list[Unit], units: list[Unit]) -> None:
    """Refuse what was said of other nets than there are."""
    weights = {one["name"]: one["figures"].get("weights") for one in units}
    for one in judged:
        name, found = one["params"]["net"], one["figures"]["weights"]
        if weights.get(name) not in (None, found):
            raise ValueError(f"{one['name']} judged another net than {name} is now.")


def _over_seeds(
    judged: list[Unit],
    units: list[Unit],
    key: str,
    told_as: str,
    targets: dict[str, tuple[float, int]],
) -> list[str]:
    """Tell the interval over seeds of each setting that has all, and its target."""
    nets = {one["name"]: one for one in units}
    by_setting: dict[str, list[float]] = {}
    for one in judged:
        setting = one["params"]["net"].rpartition("-")[0]
        by_setting.setdefault(setting, []).append(one["figures"][key])
    found = []
    for name, shares in by_setting.items():
        if name not in targets or len(shares) < len(SEEDS):
            continue
        low, high = interval(shares)
        wanted, minutes = targets[name]
        timed = [
            nets[key]["figures"]["minutes"]
            for key in (f"{name}-{seed}" for seed in SEEDS)
            if key in nets and had_all_cores(nets[key]) and was_alone(nets[key])
        ]
        met = low >= wanted and timed and max(timed) <= minutes
        told = "not timed" if not timed else f"at most {max(timed):.1f} minutes"
        found.append(
            f"{name}, {len(shares)} seeds: {np.mean(shares):.2%} {told_as}, "
            f"interval {low:.2%} to {high:.2%}, {told}; lower end at least "
            f"{wanted:.1%} in {minutes} minutes: {'met' if met else 'missed'}"
        )
    return found


def _line(name: str, units: list[Unit]) -> list[str]:
    def mean(key: str) -> float:
        return float(np.mean([one["figures"][key] for one in units]))

    params = units[0]["params"]
    low, high = interval([one["figures"]["certified"] for one in units])
    net = "/".join(map(str, params["width"])) + " with a ramp" * params["ramp"]
    gap = mean("attacked") - mean("certified_of_attacked")
    timed = [one for one in units if had_all_cores(one) and was_alone(one)]
    minutes = np.mean([one["figures"]["minutes"] for one in timed]) if timed else None
    seeds = str(len(units))
    if len(timed) < len(units):
        seeds += f", {len(timed)} timed"
    return [
        f"{name}: {net}, trained at {params['eps_train']}",
        str(params["epochs"]),
        seeds,
        "?" if minutes is None else f"{minutes:.1f}",
        f"{mean('clean'):.2%}",
        f"{mean('certified'):.2%}",
        "one seed" if len(units) < 2 else f"{low:.2%} to {high:.2%}",
        f"{mean('certified_of_attacked'):.1%}",
        f"{mean('attacked'):.1%}",
        f"{gap:.1%}",
        _verdict(name, params["data"], low, minutes, len(units)),
    ]


def _verdict(
    name: str, data: str, low: float, minutes: float | None, n_seeds: int
) -> str:
    """Hold the lower end of the interval against what is wanted."""
    if name not in TARGETS or data != "mnist":
        return ""
    wanted, time_wanted = TARGETS[name]
    if n_seeds < len(SEEDS) or minutes is None:
        return (
            f"{wanted:.1%} in {time_wanted} min: open, {n_seeds} of {len(SEEDS)} seeds"
        )
    met = low >= wanted and minutes <= 1.1 * time_wanted
    return f"{wanted:.1%} in {time_wanted} min: {'met' if met else 'missed'}"


if __name__ == "__main__":
    main()
