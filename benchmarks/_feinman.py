"""The nets of the benchmark of detectors, and what attacks make of their rows.

Training and attacks take minutes and are kept in files, so that a run that was stopped
goes on after the last epoch, attack or draw of masks. The files lie in the system's
folder for such, and may be removed at any time.
"""

import functools
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import torch
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import PredefinedSplit
from skorch import NeuralNetClassifier
from torch import nn

from benchmarks._pictures import Images, pictures
from sk_advdef import (
    FGSM,
    JSMA,
    PGD,
    AdversariallyAugmentedClassifier,
    CarliniWagnerL2,
    DensityDetector,
    DropoutUncertaintyDetector,
    FeatureSqueezingDetector,
    as_module,
)
from sk_advdef._torch._fingerprint import fingerprint, remembered
from sk_advdef._torch._net import NetClassifier
from sk_advdef.detection._dropout import NAMES
from sk_advdef.detection._lesson import make_lesson
from sk_advdef.evaluation._detection import _smoothness, _top_two

#: The attacks of Feinman et al., and the constants of their repository for MNIST.
ATTACKS = ("FGSM", "BIM-A", "BIM-B", "JSMA", "CW")
#: Those that take long are run on fewer rows.
SLOW = ("JSMA", "CW")
EPS, STEP, STEPS = 0.3, 0.01, 50

#: Scores of a net that no mask changes.
FIXED = ("density", "squeezing", "probability", "margin", "smoothness")

BATCH = 250


class FeinmanNet(Images):
    """The MNIST net of Feinman et al., of this part of its width."""

    def __init__(self, part: float = 1.0) -> None:
        a, h = int(64 * part), int(128 * part)
        super().__init__(
            *(nn.Conv2d(1, a, 3), nn.ReLU(), nn.Conv2d(a, a, 3), nn.ReLU()),
            *(nn.MaxPool2d(2), nn.Dropout(0.5), nn.Flatten()),
            *(nn.Linear(144 * a, h), nn.ReLU(), nn.Dropout(0.5), nn.Linear(h, 10)),
        )


class SmallNet(Images):
    """Two 4 x 4 convolutions of stride 2 and a hidden layer, with dropout; fast."""

    def __init__(self, width: int = 16) -> None:
        super().__init__(
            *(nn.Conv2d(1, width, 4, stride=2, padding=1), nn.ReLU()),
            *(nn.Conv2d(width, 2 * width, 4, stride=2, padding=1), nn.ReLU()),
            *(nn.Flatten(), nn.Dropout(0.25), nn.Linear(98 * width, 100), nn.ReLU()),
            *(nn.Dropout(0.5), nn.Linear(100, 10)),
        )


@functools.cache
def store(quick: bool) -> Any:
    """Return where intermediate results are kept; nowhere for a quick run."""
    if quick:
        return None
    folder = Path(tempfile.gettempdir()) / "sk-advdef-bench-detection"
    return joblib.Memory(folder, verbose=0)


def kept(memory: Any, key: tuple, compute: Callable[[], Any]) -> Any:
    """Return what was computed under this key, computing it where it was not."""
    return remembered(memory, partial(fingerprint, *key), compute)


def net_of(module: type[nn.Module], **params: Any) -> NeuralNetClassifier:
    return NeuralNetClassifier(
        module,
        criterion=nn.CrossEntropyLoss,
        optimizer=torch.optim.Adam,
        lr=2e-3,
        batch_size=128,
        iterator_train__shuffle=True,
        train_split=None,
        verbose=0,
        **params,
    )


class Subject:
    """A net of Feinman et al., its rows, and all that is made of them.

    ``held`` are test rows for detectors and thresholds, ``X`` others that the net gets
    right, on which detectors are judged.
    """

    def __init__(self, setting: dict[str, Any], seed: int, folder: Any, quick: bool):
        self.setting, self.seed, self.memory = setting, seed, store(quick)
        counts = setting["train"], setting["held"] + setting["pool"]
        parts = pictures(setting["data"], folder, *counts)
        self.X_train, self.y_train, X, y = parts
        self.held = X[: setting["held"]]
        self.model = self._trained()
        rest, labels = X[setting["held"] :], y[setting["held"] :]
        right = self.model.predict(rest) == labels
        self.accuracy, self.n_rest = float(right.mean()), len(rest)
        self.X = rest[right][: setting["rows"]]
        self.y = labels[right][: setting["rows"]]

    def _key(self, *more: Any) -> tuple:
        return (sorted(self.setting.items()), self.seed, *more)

    def _trained(self) -> NetClassifier:
        """Train by Adadelta, an epoch at a time; the same seed gives the same net."""
        setting = self.setting
        net = net_of(FeinmanNet, module__part=setting["part"], max_epochs=0)
        model = NetClassifier(net, random_state=self.seed)
        model.fit(self.X_train[:20], np.arange(20) % 10)
        module = model.net_.module_
        optimizer = torch.optim.Adadelta(module.parameters(), lr=1.0, rho=0.95)
        told = setting["data"], setting["part"], setting["train"], self.seed
        for number in range(setting["epochs"]):
            run = partial(self._epoch, module, optimizer, number)
            weights, state = kept(self.memory, ("epoch", *told, number), run)
            module.load_state_dict(weights)
            optimizer.load_state_dict(state)
        module.eval()
        return model

    def _epoch(self, module: nn.Module, optimizer: Any, number: int) -> Any:
        X, y = torch.tensor(self.X_train), torch.tensor(self.y_train)
        with torch.random.fork_rng():
            torch.manual_seed(1000 * self.seed + number)
            module.train()
            for rows in torch.randperm(len(X)).split(128):
                optimizer.zero_grad()
                with torch.autocast("cpu", torch.bfloat16):
                    loss = nn.functional.cross_entropy(module(X[rows]), y[rows])
                loss.backward()
                optimizer.step()
        module.eval()
        return module.state_dict(), optimizer.state_dict()

    @property
    def frozen(self) -> FrozenEstimator:
        """The net as detectors take it."""
        return FrozenEstimator(self.model)

    def sources(self, attack: str) -> int:
        """Number of rows, the first ones, that an attack is run on."""
        n = self.setting["few"] if attack in SLOW else self.setting["rows"]
        return min(n, len(self.X))

    # --- rows to judge by, as the paper's repository makes them

    def attacked(self, attack: str) -> np.ndarray:
        """Return attacked test rows, successes and failures."""
        compute = partial(self._attacked, attack)
        return kept(self.memory, ("attacked", *self._key(attack)), compute)

    def _attacked(self, attack: str) -> np.ndarray:
        n = self.sources(attack)
        X, y = self.X[:n], self.y[:n]
        if attack == "FGSM":
            return FGSM(EPS).perturb(self.model, X, y)
        if attack.startswith("BIM"):
            both = partial(bim, self.model, X, y)
            found = kept(self.memory, ("bim", *self._key()), both)
            return found[attack == "BIM-B"]
        if attack == "JSMA":
            rng = np.random.default_rng(self.seed)
            aims = (y + rng.integers(1, 10, n)) % 10
            return JSMA(targeted=True).perturb(self.model, X, aims)
        return CarliniWagnerL2(**self.setting["cw"]).perturb(self.model, X, y)

    def noisy(self, attack: str) -> np.ndarray:
        """Return the same rows with noise as large as what the attack changed."""
        attacked = self.attacked(attack)
        X, rng = self.X[: len(attacked)], np.random.default_rng(self.seed)
        if attack == "JSMA":
            return with_white_pixels(X, attacked, rng)
        return with_gaussian_noise(X, attacked, rng)

    # --- rows to learn from, as CombinedDetector makes them

    @functools.cached_property
    def lesson(self) -> Any:
        """Rows that combinations learn from: half of those held."""
        bim_of = partial(
            PGD, EPS, steps=STEPS, step_size=STEP, random_start=False, random_state=0
        )
        attacks = [FGSM(EPS), bim_of(), bim_of(early_stop=False), JSMA()]
        attacks.append(CarliniWagnerL2(**self.setting["cw"]))
        rows = self.held[: len(self.held) // 2]
        return make_lesson(self.model, attacks, rows, self.seed, self.memory)

    @functools.cached_property
    def blocks(self) -> dict[str, np.ndarray]:
        """All rows that are scored, by what they are."""
        named = {"genuine": self.X}
        for attack in ATTACKS:
            named[attack] = self.attacked(attack)
            named[f"{attack} noise"] = self.noisy(attack)
        parts = iter(self.lesson.blocks)
        named["learn genuine"] = next(parts)
        for attack in ATTACKS:
            named[f"learn {attack} noise"] = next(parts)
            named[f"learn {attack}"] = next(parts)
        return named

    # --- scores, higher for more genuine

    @functools.cached_property
    def fixed(self) -> dict[str, dict[str, np.ndarray]]:
        """Scores that no mask changes: {name: {block: scores}}."""
        return kept(self.memory, ("fixed", *self._key()), self._fixed)

    def _fixed(self) -> dict[str, dict[str, np.ndarray]]:
        # densities are fitted on the training rows, as in the paper
        rows = np.concatenate([self.X_train, self.held])
        labels = np.concatenate([self.y_train, self.model.predict(self.held)])
        fold = np.repeat([-1, 0], [len(self.X_train), len(self.held)])
        density = DensityDetector(
            self.frozen, bandwidth=self.setting["bandwidth"], cv=PredefinedSplit(fold)
        ).fit(rows, labels)
        squeezing = FeatureSqueezingDetector(self.frozen, random_state=0)
        squeezing.fit(self.held)
        ways = {
            "density": density.score_samples,
            "squeezing": squeezing.score_samples,
            "probability": lambda rows: _top_two(self.model, rows)[:, 1],
            "margin": lambda rows: np.diff(_top_two(self.model, rows))[:, 0],
            "smoothness": _smoothness,
        }
        return {
            name: {block: way(rows) for block, rows in self.blocks.items()}
            for name, way in ways.items()
        }

    def draw(self, number: int) -> dict[str, dict[str, np.ndarray]]:
        """Scores by dropout under one draw of masks: {name: {block: scores}}."""
        compute = partial(self._draw, number)
        return kept(self.memory, ("draw", *self._key(number)), compute)

    def _draw(self, number: int) -> dict[str, dict[str, np.ndarray]]:
        detector = DropoutUncertaintyDetector(
            self.frozen, n_passes=self.setting["passes"], random_state=number
        ).fit(self.held[:100])
        found = {b: -detector.statistics(rows) for b, rows in self.blocks.items()}
        return {
            name: {block: columns[:, i] for block, columns in found.items()}
            for i, name in enumerate(NAMES)
        }


def bim(model: Any, X: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First iterate that is misclassified, else the last; and the last iterate."""
    view, codes = as_module(model), torch.tensor(y)
    firsts, lasts = [], []
    for start in range(0, len(X), BATCH):
        rows = slice(start, start + BATCH)
        center, label = torch.tensor(X[rows]), codes[rows]
        x, first = center, center.clone()
        found = torch.zeros(len(x), dtype=torch.bool)
        for _ in range(STEPS):
            x = x.detach().requires_grad_()
            scores = view(x)
            found |= scores.detach().argmax(dim=1) != label
            loss = nn.functional.cross_entropy(scores, label, reduction="sum")
            x = x.detach() + STEP * torch.autograd.grad(loss, x)[0].sign()
            x = torch.clamp(x, center - EPS, center + EPS).clamp(0, 1)
            first[~found] = x[~found]
        firsts.append(first.numpy())
        lasts.append(x.numpy())
    return np.concatenate(firsts), np.concatenate(lasts)


def mean_l2(X: np.ndarray, other: np.ndarray) -> float:
    """Mean L2 length of changes."""
    return float(np.linalg.norm((X - other).reshape(len(X), -1), axis=1).mean())


def with_gaussian_noise(
    X: np.ndarray, attacked: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Add Gaussian noise, cut to [0, 1], of the attack's mean L2 length."""
    noise, wanted = rng.standard_normal(X.shape, np.float32), mean_l2(attacked, X)
    low, high = 0.0, 2.0
    for _ in range(20):
        middle = (low + high) / 2
        short = mean_l2(np.clip(X + middle * noise, 0, 1), X) < wanted
        low, high = (middle, high) if short else (low, middle)
    return np.clip(X + np.float32(high) * noise, 0, 1)


def with_white_pixels(
    X: np.ndarray, attacked: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Set as many random pixels below 0.99 to 1 as the attack changed."""
    flat = X.reshape(len(X), -1).copy()
    changed = (attacked != X).reshape(len(X), -1).sum(axis=1)
    for row, n in zip(flat, changed, strict=True):
        dark = np.flatnonzero(row < 0.99)
        row[rng.permutation(dark)[:n]] = 1
    return flat.reshape(X.shape)


@functools.cache
def small_net(kind: str, width: int, train: tuple, folder: Any, quick: bool) -> Any:
    """Return a small net with dropout, as it is or trained by PGD at 0.2."""
    data, n_train, epochs, held = train
    X, y, _, _ = pictures(data, folder, n_train, held)
    net = net_of(SmallNet, module__width=width, max_epochs=epochs)

    def plain() -> Any:
        return NetClassifier(net, random_state=0).fit(X, y)

    def hardened() -> Any:
        attack = PGD(0.2, steps=5, step_size=0.08, random_state=0)
        trained = AdversariallyAugmentedClassifier(
            net, attack=attack, ratio=1.0, random_state=0
        )
        return trained.fit(X, y)

    fit = {"small": plain, "trained": hardened}[kind]
    return kept(store(quick), ("small net", kind, width, train), fit)
