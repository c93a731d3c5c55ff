"""What less feedback costs who asks, and what knowledge saves him."""

from typing import Any

import numpy as np
import torch
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import make_pipeline
from torch import nn

from benchmarks._pictures import Images, StrideNet, short, trained
from benchmarks._query_scenes import SETS, scene
from sk_advdef import (
    PGD,
    ConcealedClassifier,
    HopSkipJump,
    MedianSqueezer,
    RandomSearch,
)

#: A copy may be told of fewer classes than there are.
ALL = np.arange(10)
REVEALS = ("full", "rounded", "noisy", "top", "label")


class Dense(Images):
    """Two hidden layers: an architecture that is not the victim's."""

    def __init__(self, n_values: int, hidden: int = 200) -> None:
        super().__init__(
            *(nn.Flatten(), nn.Linear(n_values, hidden), nn.ReLU()),
            *(nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 10)),
        )


def concealed(model: Any, reveal: str) -> Any:
    if reveal == "full":
        return model
    return ConcealedClassifier(FrozenEstimator(model), reveal=reveal)


def copy_of(model: Any, X: np.ndarray, data: str, reveal: str, epochs: int = 20) -> Any:
    """Train a copy on answers; of a table, logistic regression."""
    if X.ndim == 2:
        from sklearn.linear_model import LogisticRegression

        return LogisticRegression(C=100, max_iter=5000).fit(X, model.predict(X))
    sizes = {"module__channels": X.shape[3] if X.ndim == 4 else 1}
    own = SETS[data]
    if reveal == "label":
        y = model.predict(X)
        sizes["classes"] = ALL
        return trained(StrideNet, X, y, epochs, module__width=own["width"], **sizes)
    proba = concealed(model, reveal).predict_proba(X)
    return _soft(StrideNet, X, proba, epochs, module__width=own["width"], **sizes)


def _soft(
    module: Any, X: np.ndarray, proba: np.ndarray, epochs: int, **params: Any
) -> Any:
    """Train on probabilities in place of labels."""
    from skorch import NeuralNetClassifier

    net = NeuralNetClassifier(
        module,
        criterion=nn.CrossEntropyLoss,
        optimizer=torch.optim.Adam,
        lr=1e-3,
        batch_size=128,
        max_epochs=epochs,
        classes=ALL,
        iterator_train__shuffle=True,
        train_split=None,
        verbose=0,
        **params,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return net.fit(X, proba.astype(np.float32))


def attacked(model: Any, X: np.ndarray, y: np.ndarray, eps: float) -> np.ndarray:
    """Attack a copy, to the end, so that the outcome serves for another model."""
    attack = PGD(eps, steps=40, random_state=0, early_stop=False)
    return attack.run(model, X, y).X_adv


def feedback(
    *,
    data: str,
    reveal: str,
    victims: int,
    budget: int,
    asks: int,
    folder: Any,
    **_: Any,
) -> dict[str, Any]:
    """Queries until success, and agreement of a copy, by what is revealed."""
    given = scene(data, folder)
    X, y = given.victims[:victims], given.labels[:victims]
    eps = SETS[data]["linf"]
    model = concealed(given.model, reveal)
    attacks = {"random": RandomSearch(eps, max_queries=budget, random_state=0)}
    if reveal == "label":
        attacks["hop-skip-jump"] = HopSkipJump(
            max_queries=budget, norm="linf", eps=eps, start="noise", random_state=0
        )
    figures: dict[str, Any] = {}
    for name, attack in attacks.items():
        result = attack.run(model, X, y)
        spent = np.where(result.fooled, result.n_queries, np.inf)
        figures[name] = {
            "succeeds": short(result.fooled.mean()),
            "median": short(np.median(spent)),
        }
    copied = copy_of(given.model, given.sessions[:asks], data, reveal)
    made = attacked(copied, X, y, eps)
    agrees = copied.predict(given.victims) == given.model.predict(given.victims)
    figures["agreement"] = short(agrees.mean())
    figures["transfer"] = short((given.model.predict(made) != y).mean())
    return figures


KNOWN = ("nothing", "architecture", "data", "preprocessing", "weights")


def known(
    *, data: str, victims: int, asks: int, folder: Any, **_: Any
) -> dict[str, Any]:
    """Success of PGD by what the attacker knows of a net behind a median filter.

    Each line knows what the line before knows, and one thing more.
    """
    given = scene(data, folder)
    own, (X, y) = SETS[data], given.learned
    squeezer = MedianSqueezer(2).fit(X[:2])
    sizes = {"module__channels": X.shape[3] if X.ndim == 4 else 1}
    sizes |= {"module__width": own["width"], "classes": ALL}
    net = trained(StrideNet, squeezer.transform(X), y, own["epochs"], **sizes)
    victim = make_pipeline(squeezer, net)
    right = victim.predict(given.victims) == given.labels
    rows, labels = given.victims[right][:victims], given.labels[right][:victims]
    asked = given.sessions[:asks]
    told = victim.predict(asked)
    other = {"module__n_values": int(np.prod(X.shape[1:])), "classes": ALL}
    # another seed than the victim's: rows in another order
    again = np.random.default_rng(1).permutation(len(X))
    models = {
        "nothing": lambda: trained(Dense, asked, told, 20, **other),
        "architecture": lambda: trained(StrideNet, asked, told, 20, **sizes),
        "data": lambda: trained(StrideNet, X[again], y[again], own["epochs"], **sizes),
        "preprocessing": lambda: make_pipeline(
            squeezer,
            trained(
                StrideNet,
                squeezer.transform(X[again]),
                y[again],
                own["epochs"],
                **sizes,
            ),
        ),
        "weights": lambda: victim,
    }
    figures: dict[str, Any] = {}
    for what in KNOWN:
        model = models[what]()
        made = attacked(model, rows, labels, own["linf"])
        agrees = model.predict(given.victims) == victim.predict(given.victims)
        figures[what] = {
            "succeeds": short((victim.predict(made) != labels).mean()),
            "agreement": short(agrees.mean()),
        }
    return figures


def tasks(quick: bool, data: str) -> list[tuple[str, dict[str, Any], Any]]:
    """Return (name, params, function) of units."""
    victims, budget, asks = (5, 50, 100) if quick else (100, 2000, 2000)
    common = {"data": data, "victims": victims, "asks": asks, "seed": 0}
    common |= {"ball": SETS[data]["linf"], "steps": 40}
    found: list[tuple[str, dict[str, Any], Any]] = [
        (f"feedback-{reveal}", {**common, "reveal": reveal, "budget": budget}, feedback)
        for reveal in REVEALS
    ]
    return [*found, ("known", {**common, "squeezer": "median 2"}, known)]
