"""Feature Squeezing on MNIST: what it finds, and what evades it on purpose.

The protocol of Xu, Evans and Qi (arXiv:1704.01155): the joint detector of 1 bit and a 2
x 2 median (largest L1 distance between class probabilities), FGSM at 0.3, BIM at 0.3 in
10 steps of 0.06, the L2 attack of Carlini and Wagner, JSMA with theta 1 and gamma 0.1.
It deviates: the net is Carlini's at half the width without dropout; rows are test rows
that the net gets right, more than 100 of them; the attack of Carlini and Wagner has
fewer steps and is run untargeted too; DeepFool is untargeted without overshoot;
sigma-zero stands for their L0 attack, and their Linf attack is left out.

- *Attackers who ignore the detector*: the share of successful adversarial rows that
  each score finds, with its threshold where it flags 5 % of the same genuine test rows,
  which neither the net nor the detector was fitted on. Beside the joint detector stand
  its squeezers alone and three scores that need no squeezer: the largest class
  probability, the margin of scores, and smoothness, which asks no model. "evades" is
  the share of all rows that is wrong and accepted at the detector's own threshold.
- *Attackers who know it*: the share of rows that is wrong and accepted, joint evasion.
  They go through the model, the squeezers and the threshold. PGD joins class and
  detector in four ways, and takes two ways back through the rounding; DDN and the
  attack of Carlini and Wagner take "rejected" for one more class, and also try wrong
  classes of growing confidence; RandomSearch only asks for scores.

Only the second table says what the detector is worth: success is joint evasion. An
attack that was not run may evade more. A share of 100 rows is good to 10 points either
way (95 %), one of 400 to 5.
"""

import functools
from functools import partial
from typing import Any

import numpy as np
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import roc_auc_score

from benchmarks._harness import arguments, unit
from benchmarks._pictures import CarliniNet, lengths, pictures, short, trained
from benchmarks._squeezing_tables import RATE, SCORES, table
from sk_advdef import (
    DDN,
    FGSM,
    JSMA,
    PGD,
    CarliniWagnerL2,
    DeepFool,
    FeatureSqueezingDetector,
    RandomSearch,
    RejectingClassifier,
    SigmaZero,
)
from sk_advdef.evaluation._detection import _smoothness, _top_two, tpr_at_fpr

__all__ = ["main", "table"]

#: What every unit states.
SETTING = {
    "net": "Carlini's MNIST net at half the width, Adam, batches of 128",
    "detector": "1 bit and 2 x 2 median, largest L1 distance",
    "contamination": RATE,
}


@functools.cache
def parts(data: str, part: float, epochs: int, counts: tuple, folder: Any) -> Any:
    """Return net, detector, genuine rows for thresholds, rows to attack and labels."""
    n_train, n_cal, n_genuine, n_rest = counts
    X, y, X_test, y_test = pictures(data, folder, n_train, n_cal + n_genuine + n_rest)
    net = trained(CarliniNet, X, y, epochs, module__part=part)
    detector = FeatureSqueezingDetector(FrozenEstimator(net), random_state=0)
    detector.fit(X_test[:n_cal])
    stop = n_cal + n_genuine
    genuine, rows, labels = X_test[n_cal:stop], X_test[stop:], y_test[stop:]
    right = net.predict(rows) == labels
    return net, detector, genuine, rows[right], labels[right]


def scores_of(net: Any, detector: Any, X: np.ndarray) -> dict[str, np.ndarray]:
    """Return each score of rows, higher for more genuine."""
    distances = detector.distances(X)
    two = _top_two(net, X)
    columns = [-distances.max(1), *-distances.T, two[:, 1], two[:, 1] - two[:, 0]]
    return dict(zip(SCORES, [*columns, _smoothness(X)], strict=True))


def middle(X: np.ndarray) -> float:
    """Share of pixels between 0.2 and 0.8."""
    return short(((X > 0.2) & (X < 0.8)).mean())


def genuine_rows(*, folder: Any, setting: list, **_: Any) -> dict[str, Any]:
    """What is known before any attack."""
    net, detector, genuine, _, _ = parts(*_as_key(setting), folder)
    *_, X_test, y_test = pictures(setting[0], folder, *_counts(setting))
    return {
        "accuracy": short((net.predict(X_test) == y_test).mean()),
        "test_rows": len(X_test),
        "threshold": short(-detector.offset_),
        "interquartile_range": short(detector.scale_),
        "false_positives": short((detector.predict(genuine) == -1).mean()),
        "genuine_rows": len(genuine),
        "middle": middle(genuine),
    }


def _counts(setting: list) -> tuple[int, int]:
    n_train, *others = setting[3]
    return n_train, sum(others)


def _as_key(setting: list) -> tuple:
    data, part, epochs, counts = setting
    return data, part, epochs, tuple(counts)


def attack_of(name: str, params: dict[str, Any]) -> Any:
    kinds = {
        k.__name__: k
        for k in (FGSM, PGD, CarliniWagnerL2, JSMA, DeepFool, SigmaZero, DDN)
    }
    kinds["RandomSearch"] = RandomSearch
    return kinds[name](**params)


def ignoring(
    *,
    attack: str,
    params: dict[str, Any],
    target: str,
    rows: int,
    setting: list,
    folder: Any,
    **_: Any,
) -> dict[str, Any]:
    """Attack the net alone, and see which score finds the successes."""
    net, detector, genuine, X, y = parts(*_as_key(setting), folder)
    X, y = X[:rows], y[:rows]
    aim = y
    if target == "next":
        aim = (y + 1) % 10
    elif target == "least likely":
        aim = net.predict_proba(X).argmin(axis=1)
    runner = attack_of(attack, params | {"targeted": target != "any"})
    result = runner.run(net, X, aim)
    adversarial = result.X_adv[result.fooled]
    # no rows, no detector: it wants at least one
    accepted = detector.predict(adversarial) == 1 if len(adversarial) else []
    figures = {
        "rows": len(X),
        "fooled": int(result.fooled.sum()),
        "changes": lengths(X[result.fooled], adversarial),
        "evades": short(np.sum(accepted) / len(X)),
    }
    if not result.fooled.any():
        return figures
    known, seen = (scores_of(net, detector, rows) for rows in (genuine, adversarial))
    truth = np.r_[np.ones(len(genuine)), np.zeros(len(adversarial))]
    return figures | {
        "middle": middle(adversarial),
        "mean_probability": short(np.exp(seen["probability"]).mean()),
        "found": {n: short(tpr_at_fpr(known[n], seen[n], RATE)) for n in SCORES},
        "auc": {
            n: short(roc_auc_score(truth, np.r_[known[n], seen[n]])) for n in SCORES
        },
    }


def knowing(
    *,
    attack: str,
    params: dict[str, Any],
    rows: int,
    setting: list,
    folder: Any,
    **_: Any,
) -> dict[str, Any]:
    """Attack the classifier that rejects, through net, squeezers and threshold."""
    net, detector, _, X, y = parts(*_as_key(setting), folder)
    X, y = X[:rows], y[:rows]
    frozen = FrozenEstimator(net), FrozenEstimator(detector)
    defended = RejectingClassifier(*frozen).fit(X[:1])
    result = attack_of(attack, params).run(defended, X, y)
    delta = (result.X_adv.astype(np.float64) - X).reshape(len(X), -1)
    l2 = np.linalg.norm(delta[result.fooled], axis=1)
    return {
        "rows": len(X),
        "rejected_clean": short((detector.predict(X) == -1).mean()),
        "evades": short(result.fooled.mean()),
        "changes": lengths(X[result.fooled], result.X_adv[result.fooled]),
        "median_l2": short(np.median(l2)) if len(l2) else None,
        "mean_queries": short(result.n_queries.mean()),
    }


def tasks(quick: bool) -> list[tuple[str, dict[str, Any], Any]]:
    """Return (name, params, function) of all units."""
    setting = ["mnist", 0.5, 4, [60000, 4000, 4000, 2000]]
    many, some, few, steps = 400, 200, 100, 1
    if quick:
        setting = ["digits", 0.25, 8, [1000, 200, 400, 197]]
        many, some, few, steps = 20, 10, 10, 10
    bim = {"steps": 10, "random_start": False, "early_stop": False}
    pgd = {"steps": 50 // steps, "random_state": 0}
    cw = {
        "binary_search_steps": 5 if steps == 1 else 2,
        "steps": 300 // steps,
        "learning_rate": 0.05,
        "initial_const": 0.1,
    }
    ignores: list[tuple[str, str, dict[str, Any], str, int]] = [
        ("fgsm", "FGSM", {"eps": 0.3}, "any", many),
        ("bim", "PGD", {"eps": 0.3, "step_size": 0.06, **bim}, "any", many),
        *(
            (f"pgd-{e}", "PGD", {"eps": e, "early_stop": False, **pgd}, "any", some)
            for e in (0.1, 0.2, 0.3)
        ),
        ("deepfool", "DeepFool", {}, "any", some),
        ("ddn", "DDN", {"steps": 100 // steps}, "any", some),
        *(
            (f"cw-{k}", "CarliniWagnerL2", {"confidence": k, **cw}, "any", few)
            for k in (0, 10, 20, 40)
        ),
        *(
            (
                f"cw-10-{target.split()[0]}",
                "CarliniWagnerL2",
                {"confidence": 10, **cw},
                target,
                few,
            )
            for target in ("next", "least likely")
        ),
        ("jsma", "JSMA", {"theta": 1.0, "gamma": 0.1}, "any", some),
        ("jsma-next", "JSMA", {"theta": 1.0, "gamma": 0.1}, "next", some),
        ("sigma-zero", "SigmaZero", {"steps": 300 // steps}, "any", some),
    ]
    queries = {"max_queries": 500 // steps, "random_state": 0}
    knows: list[tuple[str, str, dict[str, Any], int]] = [
        *((f"pgd-{e}", "PGD", {"eps": e, **pgd}, some) for e in (0.1, 0.2, 0.3)),
        ("ddn", "DDN", {"steps": 100 // steps}, some),
        ("cw", "CarliniWagnerL2", cw | {"binary_search_steps": 3}, few // 2),
        ("random-search", "RandomSearch", {"eps": 0.3, **queries}, few),
    ]
    common = {"setting": setting, **SETTING}
    units: list[tuple[str, dict[str, Any], Any]] = [("genuine", common, genuine_rows)]
    for name, attack, params, target, rows in ignores:
        own = {"attack": attack, "params": params, "target": target, "rows": rows}
        units.append((f"ignores-{name}", own | common, ignoring))
    for name, attack, params, rows in knows:
        own = {"attack": attack, "params": params, "rows": rows}
        units.append((f"knows-{name}", own | common, knowing))
    return units


def main() -> None:
    given = arguments(__doc__)
    run = partial(unit, "squeezing", quick=given.quick)
    units = [
        run(name, params, partial(function, folder=given.data))
        for name, params, function in tasks(given.quick)
        if name.startswith(given.only)
    ]
    print(table(units))


if __name__ == "__main__":
    main()
