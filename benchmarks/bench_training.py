"""Adversarial training: what it leads to in minutes, for nets and for any classifier.

- *MNIST, Linf 0.3*: nets of two convolutions of stride 2. "short" is for about 10
  minutes on two cores, three seeds; "long" takes more epochs and more steps, one seed,
  and overfits, so that it was left; "shifted" is "short" on images that are moved by up
  to a pixel. Nets trained by bounds hold more, with a layer that clips pixels before
  them: see `certified`. Judged by pyautoattack
  on all 10,000 test rows: APGD-CE, targeted APGD, and Square with 5,000 queries on what
  still holds; and by the standard suite (with FAB) on 1,000. The attacker knows
  everything. The budget is also told in epochs of plain training of the same net, timed
  in the same run. The interval is Student's over seeds. Certified is what interval
  bounds prove of these nets, which were not trained for it.
- *Collapse*: seeds of "fast" and of "fgsm-rs", on the smaller net, judged by APGD
  (cross-entropy, targeted DLR) and PGD on the margin, 1,000 test rows. A net whose
  accuracy under these is below a half of what single steps leave has collapsed. "fast"
  takes noise of twice eps and a step of eps, as its paper does with an eps of 0.03;
  "calm" is "fast" with less of both and a longer warm-up of eps, chosen on seed 0.
- *Any classifier*: before and after rounds that stop when the worst case on rows held
  out has not risen for five, under one fixed stronger attack: ten times the budget of
  training and unseen seeds, together with all changes that fooled either model. PGD
  where there is a gradient, else RandomSearch; TreeExact for trees. The plain model is
  among those that the rounds choose from.
- *Forests made robust by others*, on the data of two classes, which they are for: trees
  that GROOT grows, as it comes, and robust relabelling of the leaves (Vos and Verwer
  2022), both turned into forests of scikit-learn, so that `TreeExact` can judge them.
- *A class of its own*, and confidence-calibrated training ("ccat", flagged above the
  threshold that flags 5 % of genuine rows), trained with one attack and tried with
  others: PGD on an undefended net ("ignores"), and several that know model and
  threshold, the worst case per row ("knows"): PGD on cross-entropy, on the margin and
  toward each class, RandomSearch of 5,000 queries; Carlini and Wagner as far as it
  takes. Success is a wrong answer that is accepted.
- *Speed*: an epoch of each method beside a loop written by hand, plain epochs by hand
  and by skorch, and ART's trainer; ours with all of `fit` in it. Candidates take turns.

Every accuracy under attack is an upper bound.
"""

import gc
import multiprocessing
import time
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import _others
from benchmarks import _training_loops as by_hand
from benchmarks._harness import arguments, ratios, spread, time_in_turn, unit
from benchmarks._kept import fingerprint, keep, kept
from benchmarks._pictures import StrideNet, pictures, short
from benchmarks._training_any import MODELS, SETTINGS, before_and_after, forests
from benchmarks._training_class import own_class
from benchmarks._training_nets import fitted, make_net, plain_epoch, watched
from benchmarks._training_tables import table
from sk_advdef import (
    APGD,
    PGD,
    AdversariallyAugmentedClassifier,
    certified_accuracy_score,
)

__all__ = ["main", "table"]

PACKAGES = ("pyautoattack", "adversarial-robustness-toolbox", "groot-trees")
EPS = 0.3
BATCH = 250

#: What leads: nets, attacks and training of each schedule.
SCHEDULES: dict[str, dict[str, Any]] = {
    "short": {
        "net": {"width": 32, "hidden": 128, "epochs": 16, "lr": 3e-3},
        "attack": {"eps": 0.33, "steps": 4},
        "training": {"ratio": 1.0, "eps_warmup": 5, "averaging": "ema"},
    },
    "long": {
        "net": {"width": 32, "hidden": 256, "epochs": 44, "lr": 3e-3},
        "attack": {"eps": 0.33, "steps": 7},
        "training": {"ratio": 1.0, "eps_warmup": 12, "averaging": "ema"},
    },
    "shifted": {
        "net": {"width": 32, "hidden": 128, "epochs": 16, "lr": 3e-3, "shift": 1},
        "attack": {"eps": 0.33, "steps": 4},
        "training": {"ratio": 1.0, "eps_warmup": 5, "averaging": "ema"},
    },
}

#: Seeds of each; "long" was tried once, held no more than "short", and was left.
SEEDS = {"short": 3, "long": 1, "shifted": 3}

#: The smaller net of the other units.
SMALL = {"width": 16, "hidden": 100, "epochs": 10, "lr": 3e-3}

#: Training by single steps: method, what differs from its defaults, seeds.
SINGLE_STEPS: dict[str, tuple[str, dict[str, Any], int]] = {
    "fast": ("fast", {}, 10),
    "calm": (
        "fast",
        {"noise": 1.5, "relative_step_size": 0.75, "eps_warmup": 6.0},
        10,
    ),
    "fgsm-rs": ("fgsm-rs", {}, 3),
}


def data(rows: list[int], source: str, folder: Any) -> Any:
    return pictures(source, folder, *rows)


def train(
    *,
    schedule: dict,
    seed: int,
    rows: list,
    source: str,
    name: str,
    quick: bool,
    folder: Any,
) -> dict[str, Any]:
    """Train a net and keep it."""
    X, y, X_test, y_test = data(rows, source, folder)
    epoch = plain_epoch(X, y, schedule["net"])
    start = time.perf_counter()
    model = fitted(X, y, seed, schedule)
    seconds = time.perf_counter() - start
    epoch = min(epoch, plain_epoch(X, y, schedule["net"]))
    keep("training", name, model, quick)
    return {
        "clean": short((model.predict(X_test) == y_test).mean()),
        "minutes": short(seconds / 60),
        "plain_epoch_seconds": short(epoch),
        "plain_epochs": short(seconds / epoch),
        "weights": fingerprint(model),
        "watched": watched(model),
    }


def judge(
    *,
    name: str,
    eps: float,
    part: list,
    suite: list,
    rows: list,
    source: str,
    quick: bool,
    folder: Any,
    certify: bool,
) -> dict[str, Any]:
    """Attack a part of the test rows."""
    model = kept("training", name, f"{name}-train", quick)
    _, _, X_test, y_test = data(rows, source, folder)
    X, y = X_test[slice(*part)], y_test[slice(*part)]
    net = _others.AsNet(model, X.shape[1:]).fuse(torch.tensor(X[:BATCH]))
    with _others.seeded(0):
        found = _others.auto_attack(net, X, y, eps, suite, BATCH)
    assert np.abs(found - X).max() <= eps + 1e-5
    right = model.predict(X) == y
    figures = {
        "rows": len(y),
        "clean": short(right.mean()),
        "attacked": short((right & (model.predict(found) == y)).mean()),
        "weights": fingerprint(model),
    }
    if certify:
        figures["certified"] = short(certified_accuracy_score(model, X, y, eps))
    return figures


def collapse(
    *,
    method: str,
    seed: int,
    net: dict,
    eps: float,
    rows: list,
    judged: int,
    source: str,
    folder: Any,
    training: dict | None = None,
) -> dict[str, Any]:
    """Train by a single step, and look whether that was learned alone."""
    X, y, X_test, y_test = data(rows, source, folder)
    schedule = {
        "net": net,
        "attack": {"eps": eps},
        "training": {"method": method, "eps_warmup": 0.3 * net["epochs"]}
        | (training or {}),
    }
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        model = fitted(X, y, seed, schedule)
    X, y = X_test[:judged], y_test[:judged]
    strong = [
        APGD(eps, loss="ce", random_state=0),
        APGD(eps, loss="dlr-t", random_state=0),
        PGD(eps, steps=50, loss="margin", restarts=3, random_state=0),
    ]
    single = PGD(eps, steps=1, step_size=eps, random_state=0)
    holds = model.predict(X) == y
    figures = {"clean": short(holds.mean())}
    figures["single_step"] = short((~single.run(model, X, y).fooled).mean())
    for attack in strong:
        rows_left = np.flatnonzero(holds)
        if not len(rows_left):
            break
        result = attack.run(model, X[rows_left], y[rows_left])
        holds[rows_left] = ~result.fooled
    figures |= {
        "attacked": short(holds.mean()),
        "watched": watched(model),
        "warned": any("catastrophic" in str(w.message) for w in said),
    }
    return figures


def speed(
    *,
    method: str,
    rows: list,
    size: int,
    rounds: int,
    art: bool,
    source: str,
    folder: Any,
) -> dict[str, Any]:
    """Time of an epoch."""
    X, y, _, _ = data(rows, source, folder)
    tensors = torch.tensor(X), torch.tensor(y)

    def hand(name: str) -> Any:
        module = StrideNet()
        return lambda: by_hand.epoch(name, module, *tensors, EPS, size, 1e-3)

    def net() -> Any:
        return make_net(len(X), epochs=1, lr=1e-3, batch=size, cycle=False)

    def ours() -> None:
        ratio = 1.0 if method == "pgd" else None
        AdversariallyAugmentedClassifier(
            net(),
            attack=PGD(EPS, steps=4),
            method=method,
            ratio=ratio,
            steps=4,
            random_state=0,
        ).fit(X, y)

    candidates = {
        "plain by hand": hand("plain"),
        "plain by skorch": lambda: net().fit(X, y),
        "by hand": hand(method),
        "ours": ours,
    }
    if art:
        module = StrideNet()
        candidates["ART"] = lambda: by_hand.epoch_of_art(module, X, y, EPS, size, 1e-3)
    with _others.seeded(0):
        seconds = time_in_turn(candidates, rounds, at_least=0.0)
    return {
        "seconds": {name: spread(v) for name, v in seconds.items()},
        "to plain": {n: spread(v) for n, v in ratios(seconds, "plain by hand").items()},
        "to skorch": {
            n: spread(v) for n, v in ratios(seconds, "plain by skorch").items()
        },
        "to hand": {n: spread(v) for n, v in ratios(seconds, "by hand").items()},
    }


def _peak(queue: Any, method: str, rows: list, source: str, folder: Any) -> None:
    X, y, _, _ = data(rows, source, folder)
    gc.collect()
    # the highest so far is that of loading the rows: begin anew from what is held now
    Path("/proc/self/clear_refs").write_text("5")
    net = make_net(len(X), epochs=1, lr=1e-3, cycle=False)
    if method == "plain":
        net.fit(X, y)
    else:
        ratio = 1.0 if method == "pgd" else None
        AdversariallyAugmentedClassifier(
            net, attack=PGD(EPS, steps=4), method=method, ratio=ratio, steps=4
        ).fit(X, y)
    status = Path("/proc/self/status").read_text().splitlines()
    (peak,) = (line.split()[1] for line in status if line.startswith("VmHWM:"))
    queue.put(int(peak) / 1024)


def memory(*, methods: list, rows: list, source: str, folder: Any) -> dict[str, Any]:
    """Peak of a process that trains for an epoch, in MiB, data and libraries in it."""
    context = multiprocessing.get_context("spawn")
    figures = {}
    for method in methods:
        queue = context.SimpleQueue()
        process = context.Process(
            target=_peak, args=(queue, method, rows, source, folder)
        )
        process.start()
        figures[method] = short(queue.get())
        process.join()
    return {"mebibytes": figures}


Task = tuple[str, dict[str, Any], Any]


def tasks(quick: bool, folder: Any) -> list[Task]:
    """Return name, params and function of each unit."""
    source = "digits" if quick else "mnist"
    rows = [150, 40] if quick else [60000, 10000]
    common = {"rows": rows, "source": source}
    unkept = {"folder": folder}
    small = SMALL | ({"epochs": 1} if quick else {})
    judged = 10 if quick else 1000
    found: list[Task] = []
    for name, schedule in list(SCHEDULES.items())[: 1 if quick else None]:
        if quick:
            schedule = schedule | {"net": schedule["net"] | {"epochs": 1, "width": 4}}
        for seed in range(1 if quick else SEEDS[name]):
            found += _leading(
                f"mnist-{name}-{seed}", schedule, seed, common, quick, folder
            )
    for name, (method, training, seeds) in SINGLE_STEPS.items():
        params = {"method": method, "net": small, "eps": EPS, "judged": judged} | common
        params |= {"training": training} if training else {}
        found += [
            (
                f"collapse-{name}-{s}",
                params | {"seed": s},
                partial(collapse, **unkept),
            )
            for s in range(1 if quick else seeds)
        ]
    for name, (eps, n_train, n_test) in SETTINGS.items():
        if quick and name != "cancer":
            continue
        sizes = (
            {"n_train": 60, "n_test": 20}
            if quick
            else {"n_train": n_train, "n_test": n_test}
        )
        rest = {"budget": 3 if quick else 40, "rounds": 1 if quick else 12}
        rest["exact_rows"] = 5 if quick else 100
        for model in ["forest"] if quick else MODELS:
            params = {"data": name, "model": model, "eps": eps, **sizes, **rest}
            found.append(
                (f"any-{name}-{model}", params, partial(before_and_after, **unkept))
            )
        if name == "cancer":
            params = {"data": name, "eps": eps, **sizes, **rest}
            found.append((f"forests-{name}", params, partial(forests, **unkept)))
    for kind in ("label", "ccat"):
        params = {"kind": kind, "net": small, "eps": EPS, "steps": 2 if quick else 7}
        params |= {"judged": judged, "attacked": judged // 5} | common
        params |= {"queries": 5 if quick else 5000, "attack_steps": 2 if quick else 40}
        found.append((f"class-{kind}", params, partial(own_class, **unkept)))
    for method in ("fast", "fgsm-rs", "pgd", "trades", "free"):
        params = {"method": method, "size": 128, "rounds": 1 if quick else 3}
        params |= {"art": method == "pgd"} | common
        if not quick or method == "pgd":
            found.append((f"speed-{method}", params, partial(speed, **unkept)))
    methods = ["plain", "fast", "pgd", "trades", "free"]
    if not quick:
        found.append(
            ("speed-memory", {"methods": methods} | common, partial(memory, **unkept))
        )
    return found


def _leading(
    name: str, schedule: dict, seed: int, common: dict, quick: bool, folder: Any
) -> list[Task]:
    """Training of one net, its judges part by part, and the standard suite."""
    unkept = {"folder": folder, "quick": quick}
    params = {"schedule": schedule, "seed": seed, "name": name} | common
    found: list[Task] = [(f"{name}-train", params, partial(train, **unkept))]
    n_test, parts = common["rows"][1], 1 if quick else 4
    size = n_test // parts
    suite = ["apgd-ce", "apgd-t"] + ([] if quick else ["square"])
    judges = [
        (f"{name}-rows-{i}", [i * size, (i + 1) * size], suite, True)
        for i in range(parts)
    ]
    if not quick:
        standard = ["apgd-ce", "apgd-t", "fab-t", "square"]
        judges.append((f"{name}-standard", [0, 1000], standard, False))
    for title, part, attacks, certify in judges:
        params = {"name": name, "eps": EPS, "part": part, "suite": attacks} | common
        function = partial(judge, **unkept, certify=certify)
        found.append((title, params, function))
    return found


def main() -> None:
    given = arguments(__doc__)
    run = partial(unit, "training", quick=given.quick, packages=PACKAGES)
    units = [
        run(name, params, function)
        for name, params, function in tasks(given.quick, given.data)
        if name.startswith(given.only)
    ]
    print(table(units))


if __name__ == "__main__":
    main()
