"""What squeezing the input is worth in front of a net, MNIST and CIFAR-10.

Each squeezer alone, and some pairs, stand before a small net (two convolutions of
stride 2) that was trained without them, and before one trained on squeezed rows. Rows
to attack are test rows that nothing was fitted on and that the net trained without, and
with nothing before it, gets right; the same ones for all. Where a squeezer or the other
net gets one wrong without an attack, it counts as fooled, by a change of length 0.

- *ignores*: rows made on the same net alone, as if nothing stood before it.
- *knows*: the worse for each row of attacks through the squeezer, PGD by two ways back
  through what rounds, and of the rows of the one who ignores it.
- *asks*: RandomSearch on scores, in square windows; no gradient.
- Many pixels a little: PGD in a ball (Linf), to the end of its steps, from a random
  start; figures are accuracies. As short as can be: DDN (L2); figures are median
  lengths. Who ignores the squeezer makes his change longer along itself until the
  answer is wrong. Few pixels a lot: sigma-zero (L0); for who ignores the accuracy left,
  for who knows the median number of values.
- *Confidence*: rows made on the net alone by the attack of Carlini and Wagner, with a
  growing lead of the wrong class; accuracy on those that fool the net alone.

Each accuracy under attack is that under the attack named, an upper bound; one of 200
rows is good to 7 points either way (95 %). Lengths are bounded from above only as well.
CIFAR-10 is read from copies that went through JPEG at quality 75 (or from OpenML),
cropped to 28 x 28 off their grid, with a level added or taken at random: figures are
not comparable to published ones. "JPEG alone" tells how well the mean change under JPEG
75, which asks no model, tells attacked rows from genuine ones (AUC): near 0.5 it says
nothing, near 1 noise gives itself away.
"""

import functools
from functools import partial
from typing import Any

import numpy as np
from scipy.stats import rankdata
from sklearn.pipeline import make_pipeline

from benchmarks._harness import arguments, unit
from benchmarks._pictures import StrideNet, pictures, short, trained
from benchmarks._preprocessing_tables import table
from sk_advdef import (
    DDN,
    PGD,
    BitDepthSqueezer,
    BlurSqueezer,
    CarliniWagnerL2,
    Downscaler,
    GrayscaleSqueezer,
    JpegSqueezer,
    MedianSqueezer,
    RandomSearch,
    SigmaZero,
)

__all__ = ["main", "table"]

RANGE = (0.0, 1.0)
#: By how much one who ignores the squeezer lengthens his change.
FACTORS = (1.0, 1.1, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 4.0, 6.0, 8.0)
CONFIDENCES = (0, 2, 5, 10, 20)

#: What stands before the net, as (squeezer, number) pairs.
CONDITIONS: dict[str, tuple[tuple[str, Any], ...]] = {
    "none": (),
    **{f"resolution {f}": (("resolution", f),) for f in (0.75, 0.5, 0.35, 0.25)},
    **{f"bits {b}": (("bits", b),) for b in (5, 3, 2, 1)},
    "blur 0.7": (("blur", 0.7),),
    "median 2": (("median", 2),),
    "median 3": (("median", 3),),
    "JPEG 75": (("jpeg", 75),),
    "JPEG 25": (("jpeg", 25),),
    "gray": (("gray", None),),
    "median 2, bits 3": (("median", 2), ("bits", 3)),
    "resolution 0.5, JPEG 75": (("resolution", 0.5), ("jpeg", 75)),
}

SETTING = {
    "net": "C4x4/2, C4x4/2, hidden layer; Adam, batches of 128",
    "bounds": list(RANGE),
    "rows_attacked": "right with nothing before the net",
}


def squeezer(kind: str, value: Any) -> Any:
    return {
        "resolution": lambda: Downscaler(value),
        "bits": lambda: BitDepthSqueezer(value, value_range=RANGE),
        "blur": lambda: BlurSqueezer(value),
        "median": lambda: MedianSqueezer(value),
        "jpeg": lambda: JpegSqueezer(value, value_range=RANGE),
        "gray": lambda: GrayscaleSqueezer(),
    }[kind]()


def squeezing(steps: Any, X: np.ndarray) -> list[Any]:
    """Return fitted squeezers; they learn nothing but the shape."""
    return [squeezer(*step).fit(X[:2]) for step in steps]


def squeezed(fitted: list[Any], X: np.ndarray) -> np.ndarray:
    for one in fitted:
        X = one.transform(X)
    return X


@functools.cache
def net_of(data: str, steps: Any, train: tuple, folder: Any) -> Any:
    """Train a net on squeezed rows."""
    n_train, n_test, epochs, width = train
    X, y, _, _ = pictures(data, folder, n_train, n_test)
    X = squeezed(squeezing(steps, X), X)
    sizes = {"module__channels": X.shape[3] if X.ndim == 4 else 1}
    return trained(StrideNet, X, y, epochs, module__width=width, **sizes)


def jpeg_change(X: np.ndarray) -> np.ndarray:
    """Return the mean change of each row under JPEG at quality 75."""
    fitted = squeezing((("jpeg", 75),), X)
    change = np.abs(squeezed(fitted, X) - X)
    return change.reshape(len(X), -1).mean(axis=1)


def auc(genuine: np.ndarray, attacked: np.ndarray) -> float:
    """Share of pairs in which the attacked row has the larger value."""
    ranks = rankdata(np.r_[genuine, attacked])[len(genuine) :]
    above = ranks.sum() - len(attacked) * (len(attacked) + 1) / 2
    return short(above / (len(genuine) * len(attacked)))


def right(model: Any, X: np.ndarray, y: np.ndarray) -> float:
    return short((model.predict(X) == y).mean())


def norms(delta: np.ndarray) -> np.ndarray:
    return np.linalg.norm(delta.reshape(len(delta), -1).astype(np.float64), axis=1)


def lengthened(model: Any, X: np.ndarray, X_adv: np.ndarray, y: np.ndarray) -> Any:
    """Length at which a change, made longer along itself, fools a model, a row each."""
    shortest = np.where(model.predict(X) == y, np.inf, 0.0)
    for factor in FACTORS:
        tried = np.clip(X + np.float32(factor) * (X_adv - X), *RANGE)
        fooled = (model.predict(tried) != y) & np.isinf(shortest)
        shortest[fooled] = norms(tried - X)[fooled]
    return shortest


@functools.cache
def to_attack(data: str, train: tuple, folder: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the test rows that the net gets right with nothing before it."""
    _, _, X, y = pictures(data, folder, *train[:2])
    known = net_of(data, (), train, folder).predict(X) == y
    return X[known], y[known]


@functools.cache
def made_alone(data: str, steps: Any, train: tuple, folder: Any, spend: tuple) -> Any:
    """Attack the net trained behind ``steps``, alone: by norm, rows made."""
    net = net_of(data, steps, train, folder)
    attacks = attacks_of(dict(spend))
    X, y = to_attack(data, train, folder)
    found = {}
    for norm, (attack, n) in attacks.items():
        if norm == "asks":
            continue
        if norm == "linf":
            attack.set_params(early_stop=False)
        found[norm] = attack.run(net, X[:n], y[:n]).X_adv
    return found


def attacks_of(spend: dict[str, Any]) -> dict[str, tuple[Any, int]]:
    """Return attack and number of rows, by norm."""
    eps, many, few = spend["eps"], spend["rows"], spend["fewer_rows"]
    return {
        "linf": (PGD(eps, steps=spend["pgd_steps"], random_state=0), many),
        "l2": (DDN(steps=spend["ddn_steps"]), many),
        "l0": (SigmaZero(steps=spend["sigma_zero_steps"]), few),
        "asks": (
            RandomSearch(eps, max_queries=spend["queries"], random_state=0),
            few,
        ),
    }


def condition(
    *, data: str, steps: list, train: list, spend: dict[str, Any], folder: Any, **_: Any
) -> dict[str, Any]:
    """Judge one condition, before the net trained without it and the one with it."""
    steps = tuple(map(tuple, steps))
    figures = {"without": _judged(data, steps, (), train, spend, folder)}
    if steps:
        figures["with"] = _judged(data, steps, steps, train, spend, folder)
    return figures


def _judged(
    data: str, steps: Any, learned: Any, train: list, spend: dict, folder: Any
) -> dict[str, Any]:
    _, _, X, y = pictures(data, folder, *train[:2])
    net = net_of(data, learned, tuple(train), folder)
    model = make_pipeline(*squeezing(steps, X), net)
    key = tuple(sorted(spend.items()))
    alone = made_alone(data, learned, tuple(train), folder, key)
    figures: dict[str, Any] = {"clean": right(model, X, y)}
    X, y = to_attack(data, tuple(train), folder)
    for norm, (attack, n) in attacks_of(spend).items():
        rows, labels = X[:n], y[:n]
        result = attack.run(model, rows, labels)
        if norm == "asks":
            figures[norm] = {"knows": short(1 - result.fooled.mean())}
            continue
        # who knows the squeezer can do what one does who does not
        made = alone[norm]
        fooled = model.predict(made) != labels
        left = short(1 - fooled.mean())
        if norm == "linf":
            both = fooled | result.fooled
            figures[norm] = {"ignores": left, "knows": short(1 - both.mean())}
            continue
        through = np.where(result.fooled, result.distortion, np.inf)
        if norm == "l2":
            along = lengthened(model, rows, made, labels)
            left = short(np.median(along))
        else:
            changed = (made != rows).reshape(n, -1).sum(axis=1)
            along = np.where(fooled, changed, np.inf)
        knows = short(np.median(np.minimum(through, along)))
        figures[norm] = {"ignores": left, "knows": knows}
    return figures


def confidence(
    *, data: str, train: list, spend: dict[str, Any], folder: Any, **_: Any
) -> dict[str, Any]:
    """Accuracy behind each condition, of rows that fool the net alone for sure."""
    net = net_of(data, (), tuple(train), folder)
    X, y = (
        part[: spend["fewer_rows"]] for part in to_attack(data, tuple(train), folder)
    )
    figures: dict[str, Any] = {"rows": len(X), "confidences": {}}
    for lead in CONFIDENCES:
        attack = CarliniWagnerL2(
            confidence=lead,
            binary_search_steps=spend["cw_searches"],
            steps=spend["cw_steps"],
            learning_rate=0.05,
            initial_const=0.1,
        )
        result = attack.run(net, X, y)
        made, labels = result.X_adv[result.fooled], y[result.fooled]
        if not len(made):
            continue
        left = {
            name: right(make_pipeline(*squeezing(steps, X), net), made, labels)
            for name, steps in conditions(X).items()
        }
        figures["confidences"][str(lead)] = {
            "fooled": short(result.fooled.mean()),
            "l2": short(norms(made - X[result.fooled]).mean()),
            "accuracy": left,
        }
    return figures


def jpeg_alone(
    *, data: str, train: list, spend: dict[str, Any], folder: Any, **_: Any
) -> dict[str, Any]:
    """What the mean change under JPEG tells, by norm of the attack on the net alone."""
    _, _, X, _ = pictures(data, folder, *train[:2])
    key = tuple(sorted(spend.items()))
    genuine = jpeg_change(X[spend["rows"] :])
    made = made_alone(data, (), tuple(train), folder, key)
    aucs = {norm: auc(genuine, jpeg_change(rows)) for norm, rows in made.items()}
    return {"auc": aucs, "genuine_rows": len(genuine)}


def conditions(X: np.ndarray) -> dict[str, Any]:
    """Return the conditions that suit images of this shape."""
    color = X.ndim == 4
    return {name: s for name, s in CONDITIONS.items() if name != "gray" or color}


def tasks(quick: bool) -> list[tuple[str, dict[str, Any], Any]]:
    """Return (name, params, function) of all units."""
    spend = {"rows": 200, "fewer_rows": 100, "pgd_steps": 20, "ddn_steps": 50}
    spend |= {"sigma_zero_steps": 150, "queries": 300, "cw_searches": 4}
    spend |= {"cw_steps": 150}
    #: rows to train on and to test on, epochs, channels of the first convolution
    sets = {"mnist": ([20000, 2000, 4, 16], 0.1)}
    sets["cifar10"] = ([40000, 2000, 8, 32], round(2 / 255, 6))
    if quick:
        spend = {"rows": 20, "fewer_rows": 10, "pgd_steps": 3, "ddn_steps": 8}
        spend |= {"sigma_zero_steps": 8, "queries": 5, "cw_searches": 3, "cw_steps": 60}
        sets = {"digits": ([1000, 200, 6, 4], 0.1)}
    units: list[tuple[str, dict[str, Any], Any]] = []
    for data, (train, eps) in sets.items():
        common = {"data": data, "train": train, "spend": spend | {"eps": eps}}
        common |= SETTING
        units.append((f"{data}-jpeg-alone", common, jpeg_alone))
        shape = np.empty((0, 28, 28, 3) if data == "cifar10" else (0, 28, 28))
        for name, steps in conditions(shape).items():
            if quick and name not in ("none", "median 2", "bits 1", "resolution 0.5"):
                continue
            own = {"condition": name, "steps": steps, **common}
            units.append((f"{data}-{_file(name)}", own, condition))
        common |= {"confidences": CONFIDENCES}
        units.append((f"{data}-confidence", common, confidence))
    return units


def _file(name: str) -> str:
    return name.lower().replace(", ", "-and-").replace(" ", "-")


def main() -> None:
    given = arguments(__doc__)
    run = partial(unit, "preprocessing", quick=given.quick, packages=["pillow"])
    units = [
        run(name, params, partial(function, folder=given.data))
        for name, params, function in tasks(given.quick)
        if name.startswith(given.only)
    ]
    print(table(units))


if __name__ == "__main__":
    main()
