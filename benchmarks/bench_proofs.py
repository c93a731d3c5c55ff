"""What each method of a certificate proves of nets that were trained in several ways.

Nets for MNIST: three layers of units, two convolutions with stride and a hidden layer,
the latter trained on clean rows, on attacked ones (PGD) and by interval bounds. Of the
same 100 test rows in the same ball: the share right; right and proved to stay so by
interval bounds ("ibp"), by linear bounds on these ("crown-ibp"), and by linear bounds
of what goes into each ReLU too ("alpha-crown"); and the share that holds under PGD on
the margin (100 steps, 3 restarts), an upper bound by an attacker who knows the net. One
net each; of 100 rows a share is good to 10 points either way, but all shares of a line
are those of the same rows. Seconds a row are those of the whole method over all rows,
on one thread.
"""

import itertools
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks._harness import Unit, arguments, markdown, unit
from benchmarks._pictures import StrideNet, pictures, trained
from sk_advdef import PGD, AdversariallyAugmentedClassifier, CertifiedClassifier
from sk_advdef._torch._methods import METHODS
from sk_advdef.evaluation._certified import certified_rows

SEED = 0


class Layers(nn.Module):
    """Two hidden layers of units."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Flatten(), nn.Linear(784, width), nn.ReLU()),
            *(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10)),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits."""
        return self.layers(x)


def nets(name: str, X: np.ndarray, y: np.ndarray, epochs: int, part: float) -> Any:
    """Train a net by its name."""
    if name == "layers":
        return trained(Layers, X, y, epochs, module__width=int(100 * part))
    width = {"module__width": int(16 * part), "module__hidden": int(100 * part)}
    if name == "convolutions":
        return trained(StrideNet, X, y, epochs, **width)
    net = trained(StrideNet, X[:128], y[:128], 0, **width).set_params(max_epochs=epochs)
    if name == "adversarial":
        return AdversariallyAugmentedClassifier(
            net, attack=PGD(0.1, steps=5), eps_warmup=epochs // 3, random_state=SEED
        ).fit(X, y)
    return CertifiedClassifier(net, eps=0.1, eps_train=0.11, random_state=SEED).fit(
        X, y
    )


#: Net -> epochs, radius of the ball.
SETTINGS = {
    "layers": (8, 0.02),
    "convolutions": (8, 0.02),
    "adversarial": (12, 0.1),
    "certified": (24, 0.1),
}


def run(
    *,
    net: str,
    data: str,
    rows: list[int],
    epochs: int,
    eps: float,
    part: float,
    steps: int,
    folder: Path | None,
) -> dict[str, Any]:
    """Train a net, bound it by each method, attack it."""
    X, y, X_test, y_test = pictures(data, folder, *rows)
    model = nets(net, X, y, epochs, part)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        attack = PGD(eps, steps=steps, restarts=3, loss="margin", random_state=SEED)
        holds = ~attack.run(model, X_test, y_test).fooled
        proved, seconds = {}, {}
        for method in METHODS:
            start = time.perf_counter()
            found = certified_rows(
                model, X_test, y_test, eps, bounds=(0, 1), method=method
            )
            seconds[method] = (time.perf_counter() - start) / len(X_test)
            proved[method] = found
    finally:
        torch.set_num_threads(threads)
    order = [*proved.values(), holds, model.predict(X_test) == y_test]
    for fewer, more in itertools.pairwise(order):
        if (fewer & ~more).any():
            raise RuntimeError(f"{net}: a row was broken, or is proved by less alone")
    return {
        "clean": float(order[-1].mean()),
        "holds": float(holds.mean()),
        "proved": {name: float(share.mean()) for name, share in proved.items()},
        "seconds": {name: float(f"{value:.3g}") for name, value in seconds.items()},
    }


def tasks(quick: bool, folder: Path | None) -> list[tuple[str, dict[str, Any], Any]]:
    """Return name, params and function of each unit."""
    common: dict[str, Any] = {"data": "mnist", "rows": [20000, 100]}
    common |= {"part": 1.0, "steps": 100}
    if quick:
        common |= {"data": "digits", "rows": [200, 5], "part": 0.25, "steps": 5}
    return [
        (
            name,
            common | {"net": name, "epochs": 2 if quick else epochs, "eps": eps},
            partial(run, folder=folder),
        )
        for name, (epochs, eps) in SETTINGS.items()
    ]


def main() -> None:
    given = arguments(__doc__)
    units = [
        unit("proofs", name, params, function, given.quick)
        for name, params, function in tasks(given.quick, given.data)
        if name.startswith(given.only)
    ]
    print(table(units))


def table(units: list[Unit]) -> str:
    """Lay out a line a net."""
    head = ["net", "eps", "clean", *METHODS, "holds under PGD", "seconds a row: ibp"]
    head += METHODS[1:]
    lines = []
    for name in SETTINGS:
        for one in (found for found in units if found["name"] == name):
            figures = one["figures"]
            shares = [figures["clean"], *figures["proved"].values(), figures["holds"]]
            told = [f"{share:.0%}" for share in shares]
            told += [f"{value:.2g}" for value in figures["seconds"].values()]
            lines.append([name, one["params"]["eps"], *told])
    return markdown(head, lines)


if __name__ == "__main__":
    main()
