"""Defensive distillation on MNIST: under its paper's attack, and under those since.

The protocol of Papernot, McDaniel, Wu, Jha and Swami (arXiv:1511.04508): their net with
dropout 0.5 (two 3 x 3 convolutions of 32 channels, two of 64, 2 x 2 pooling after each
two, two hidden layers of 200), a student at the temperature on the softened answers of
a teacher at the temperature, and JSMA from the first 100 test rows that are right
towards each of the 9 wrong classes: 900 samples, at most 112 changed features. Its
abstract: success falls from 95 % to less than 0.5 %.

It deviates: fewer training rows and epochs than 60,000 and 50, as each unit's params
say; Adam instead of SGD with momentum; one seed; not all of their temperatures.

- "JSMA, softmax": theirs, by the gradient of the softmax at temperature 1 in float32,
  in which it may be exactly 0; a row without one stays as it is.
- "JSMA, log-odds": ours, by the gradient of the log-odds, which does not vanish.
- PGD on cross-entropy and on the margin of logits, Linf, 40 steps, one random start:
  accuracy left. The attack of Carlini and Wagner on the margin, untargeted, its first
  constant divided by the temperature: share fooled, and median L2 of those.
- HopSkipJump: median L2 by labels alone.
- "saturated": share of training rows whose probability rounds to 1 in float32.
- The diagnosis: what `diagnose_defense` finds at Linf 0.1.

Rows are test rows that nothing was fitted on; each attacker knows net and temperature.
A share of 100 rows is good to 10 points either way (95 %), one of 200 to 7; the 900
samples come from 100 rows.
"""

from functools import partial
from typing import Any

import numpy as np
import torch
from skorch import NeuralNetClassifier
from torch import nn

from benchmarks._distillation_tables import table
from benchmarks._harness import arguments, unit
from benchmarks._pictures import CarliniNet, pictures, short
from sk_advdef import (
    JSMA,
    PGD,
    CarliniWagnerL2,
    DistilledClassifier,
    HopSkipJump,
    as_module,
    diagnose_defense,
)
from sk_advdef._torch._net import NetClassifier

__all__ = ["main", "table"]

#: What every unit states.
SETTING = {
    "net": "C32-3x3 x2 MaxPool2 C64-3x3 x2 MaxPool2 FC200 Dropout.5 FC200 FC10, ReLU",
    "optimizer": "Adam, 0.001, batches of 128",
}
#: Temperatures by how much they tell; None is the net alone. The first are attacked in
#: all ways, the rest by JSMA and PGD.
TEMPERATURES: tuple[float | None, ...] = (None, 100.0, 1.0, 20.0)
MORE_TEMPERATURES = (5.0, 50.0)


def fitted(temperature: float | None, X: Any, y: Any, epochs: int, seed: int) -> Any:
    """Train the net alone, or distilled at a temperature."""
    net = NeuralNetClassifier(
        CarliniNet,
        module__dropout=0.5,
        criterion=nn.CrossEntropyLoss,
        optimizer=torch.optim.Adam,
        lr=1e-3,
        batch_size=128,
        max_epochs=epochs,
        iterator_train__shuffle=True,
        train_split=None,
        verbose=0,
    )
    if temperature is None:
        return NetClassifier(net, random_state=seed).fit(X, y)
    student = DistilledClassifier(net, temperature=temperature, random_state=seed)
    return student.fit(X, y)


def papers_jsma(
    view: nn.Module, X: np.ndarray, targets: np.ndarray, n_changes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Raise pairs of features by the Jacobian of the softmax in float32, to 1 each.

    Probabilities sum to one, so that of a pair the target gains what all others lose,
    and the two features with the largest gradients make the best pair. Returns which
    rows reach their target, and how many features changed.
    """
    x = torch.tensor(X.reshape(len(X), -1))
    wanted = torch.tensor(targets)
    changed = torch.zeros(x.shape, dtype=torch.bool)
    reached = torch.zeros(len(x), dtype=torch.bool)
    rows = torch.arange(len(x))
    for step in range(n_changes // 2 + 1):
        now = x[rows].requires_grad_()
        proba = view(now.reshape(-1, *X.shape[1:])).softmax(dim=1)
        of_target = proba.gather(1, wanted[rows, None])
        gradient = torch.autograd.grad(of_target.sum(), now)[0]
        done = proba.argmax(dim=1) == wanted[rows]
        reached[rows[done]] = True
        open_ = ~changed[rows] & (x[rows] < 1)
        gains, pair = gradient.masked_fill(~open_, -torch.inf).topk(2)
        going = ~done & (gains.sum(dim=1) > 0)
        rows, pair = rows[going], pair[going]
        if step == n_changes // 2 or not len(rows):
            break
        x[rows[:, None], pair] = 1.0
        changed[rows[:, None], pair] = True
    return reached.numpy(), changed.sum(dim=1).numpy()


def towards_all(X: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return each row nine times, and the wrong classes."""
    targets = np.stack([np.delete(np.arange(10), label) for label in y])
    return np.repeat(X, 9, axis=0), targets.ravel()


def distil(
    *,
    data: str,
    counts: list[int],
    temperature: float | None,
    epochs: int,
    in_full: bool,
    rows: dict[str, int],
    steps: dict[str, int],
    eps: list[float],
    seed: int,
    folder: Any,
    **_: Any,
) -> dict[str, Any]:
    """Train at one temperature, and attack."""
    X, y, X_test, y_test = pictures(data, folder, *counts)
    model = fitted(temperature, X, y, epochs, seed)
    right = model.predict(X_test) == y_test
    X_right, y_right = X_test[right], y_test[right]
    proba = model.predict_proba(X[:1000]).max(axis=1).astype(np.float32)
    n = rows["jsma"]
    starts, targets = towards_all(X_right[:n], y_right[:n])
    reached, changed = papers_jsma(as_module(model), starts, targets, steps["jsma"])
    # half a feature more, against rounding
    gamma = (steps["jsma"] + 0.5) / X[0].size
    ours = JSMA(targeted=True, gamma=gamma).run(model, starts, targets)
    n = rows["pgd"]
    left = {
        f"{loss} {radius}": short(
            1
            - PGD(radius, steps=steps["pgd"], loss=loss, random_state=seed)
            .run(model, X_test[:n], y_test[:n])
            .fooled.mean()
        )
        for radius in eps
        for loss in ("ce", "margin")
    }
    figures = {
        "accuracy": short(right.mean()),
        "test_rows": len(X_test),
        "saturated": short((proba == 1).mean()),
        "samples": len(starts),
        "softmax": _jsma(reached, changed),
        "log_odds": _jsma(ours.fooled, ours.distortion),
        "pgd": left,
        "pgd_rows": n,
    }
    if in_full:
        figures |= _in_full(model, X_right, y_right, temperature, rows, steps, seed)
    return figures


def _jsma(reached: np.ndarray, changed: np.ndarray) -> dict[str, Any]:
    return {
        "success": short(reached.mean()),
        "features": short(changed[reached].mean()) if reached.any() else None,
    }


def _in_full(
    model: Any,
    X: np.ndarray,
    y: np.ndarray,
    temperature: float | None,
    rows: dict[str, int],
    steps: dict[str, int],
    seed: int,
) -> dict[str, Any]:
    """Run the attacks of least change, and the diagnosis."""
    n = rows["carlini_wagner"]
    strong = CarliniWagnerL2(
        steps=steps["carlini_wagner"],
        binary_search_steps=5,
        learning_rate=0.05,
        initial_const=0.1 / (temperature or 1),
    ).run(model, X[:n], y[:n])
    n = rows["hop_skip_jump"]
    asked = HopSkipJump(max_queries=steps["hop_skip_jump"], random_state=seed)
    labels = asked.run(model, X[:n], y[:n])
    found = diagnose_defense(
        model, X, y, eps=0.1, n_rows=rows["diagnosis"], random_state=seed
    )
    return {
        "carlini_wagner": {
            "fooled": short(strong.fooled.mean()),
            "median_l2": short(np.median(strong.distortion[strong.fooled])),
            "rows": len(strong.fooled),
        },
        "hop_skip_jump": {
            "median_l2": short(np.median(labels.distortion)),
            "queries": steps["hop_skip_jump"],
            "rows": len(labels.fooled),
        },
        "diagnosis": [[f.name, f.severity] for f in found.findings],
    }


def tasks(quick: bool) -> list[tuple[str, dict[str, Any]]]:
    """Return (name, params) of all units, the most telling first."""
    common: dict[str, Any] = {
        "data": "mnist",
        "counts": [10000, 2000],
        "epochs": 10,
        "rows": {"jsma": 100, "pgd": 200, "carlini_wagner": 100},
        "steps": {"jsma": 112, "pgd": 40, "carlini_wagner": 200},
        "eps": [0.1, 0.3],
        "seed": 0,
    }
    common["rows"] |= {"hop_skip_jump": 50, "diagnosis": 50}
    common["steps"] |= {"hop_skip_jump": 2000}
    temperatures = [(t, True) for t in TEMPERATURES]
    temperatures += [(t, False) for t in MORE_TEMPERATURES]
    if quick:
        common |= {"data": "digits", "counts": [400, 60], "epochs": 2}
        common["rows"] = dict.fromkeys(common["rows"], 3)
        common["steps"] = dict.fromkeys(common["steps"], 10) | {"hop_skip_jump": 60}
        temperatures = [(None, False), (100.0, True)]
    units = []
    for temperature, in_full in temperatures:
        name = "alone" if temperature is None else f"temperature-{temperature:g}"
        own = {"temperature": temperature, "in_full": in_full}
        units.append((f"{name}-seed-{common['seed']}", own | common | SETTING))
    return units


def main() -> None:
    given = arguments(__doc__)
    run = partial(unit, "distillation", quick=given.quick)
    units = [
        run(name, params, partial(distil, folder=given.data))
        for name, params in tasks(given.quick)
        if name.startswith(given.only)
    ]
    print(table(units))


if __name__ == "__main__":
    main()
