"""The main job on data that ships: fool classifiers of digits, and defend them."""

from __future__ import annotations

import csv
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import joblib
import numpy as np
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline

from sk_advdef._torch._models import genuine_classes_of
from sk_advdef.attacks._pgd import PGD
from sk_advdef.attacks._random_search import RandomSearch
from sk_advdef.detection._dropout import DropoutUncertaintyDetector
from sk_advdef.detection._rejecting import RejectingClassifier
from sk_advdef.evaluation._detection import (
    make_detection_scorer,
    rejection_robust_error,
)
from sk_advdef.evaluation._intervals import wilson
from sk_advdef.evaluation._scores import (
    default_attacks,
    held_rows,
    make_robust_scorer,
    robust_accuracy_score,
)
from sk_advdef.squeezers._bit_depth import BitDepthSqueezer
from sk_advdef.squeezers._blur import BlurSqueezer
from sk_advdef.squeezers._downscale import Downscaler
from sk_advdef.training._augmented import AdversariallyAugmentedClassifier
from sk_advdef.training._distilled import DistilledClassifier

#: Largest change of a pixel, where white is 1.
EPS = 0.1


@dataclass
class Size:
    """How much work the demo does."""

    test_rows: int
    queries: int
    epochs: int
    folds: int
    curve: tuple[float, ...]


FULL = Size(450, 1000, 30, 3, (0.0, 0.025, 0.05, 0.1, 0.15, 0.2))
QUICK = Size(100, 30, 12, 2, (0.0, 0.1))


@dataclass
class Judged:
    """A line of the table: shares of the test rows, and the cost of fitting."""

    model: str
    clean: float
    attacker_ignores: float
    attacker_knows: float
    low: float
    high: float
    rejected: float
    seconds_to_fit: float


def skorch_net(epochs: int) -> Any:
    """Make a small multilayer perceptron with dropout."""
    import torch
    from skorch import NeuralNetClassifier

    from sk_advdef.nets import DropoutMLP

    return NeuralNetClassifier(
        DropoutMLP,
        module__n_classes=10,
        criterion=torch.nn.CrossEntropyLoss,
        optimizer=torch.optim.Adam,
        lr=3e-3,
        max_epochs=epochs,
        batch_size=64,
        iterator_train__shuffle=True,
        train_split=None,
        verbose=0,
    )


def small_net(seed: int, epochs: int = 30) -> Any:
    """Make the same net as a classifier that is seeded."""
    from sk_advdef._torch._net import NetClassifier

    return NetClassifier(skorch_net(epochs), random_state=seed)


class Demo:
    """One run of the demo: the rows, the models so far, and what became of them."""

    def __init__(self, size: Size, seed: int) -> None:
        self.size, self.seed = size, seed
        X, y = load_digits(return_X_y=True)
        X = (X / 16).astype(np.float32)
        X_rest, self.X_test, y_rest, self.y_test = train_test_split(
            X, y, test_size=size.test_rows, random_state=seed, stratify=y
        )
        self.X_fit, self.X_cal, self.y_fit, self.y_cal = train_test_split(
            X_rest, y_rest, test_size=300, random_state=seed, stratify=y_rest
        )
        self.fitted: dict[str, Any] = {}
        self.lines: list[Judged] = []

    def defences(self) -> Iterator[tuple[str, str, Any]]:
        """Name each model, the undefended one of its kind, and make it."""
        regression = LogisticRegression(C=0.1, max_iter=1000)
        net = small_net(self.seed, self.size.epochs)
        training = PGD(EPS, steps=7, random_state=self.seed)
        trained = AdversariallyAugmentedClassifier(
            net.net, attack=training, random_state=self.seed
        )
        squeezers = {
            "downscaled to 4 x 4": Downscaler(0.5, image_shape=(8, 8)),
            "blurred": BlurSqueezer(0.7, image_shape=(8, 8)),
            "1 bit a pixel": BitDepthSqueezer(1, value_range=(0, 1)),
        }
        for kind, model in {"regression": regression, "net": net}.items():
            yield kind, kind, model
            for name, squeezer in squeezers.items():
                yield f"{kind}, {name}", kind, make_pipeline(squeezer, clone(model))
        yield (
            "net, distilled (T = 20)",
            "net",
            DistilledClassifier(net.net, temperature=20, random_state=self.seed),
        )
        yield "net, adversarially trained", "net", trained
        yield (
            "net, trained so, 1 bit a pixel",
            "net",
            make_pipeline(squeezers["1 bit a pixel"], clone(trained)),
        )
        detector = DropoutUncertaintyDetector(random_state=self.seed)
        watched = {
            "net, dropout rejects": "net",
            "net, trained so, dropout rejects": "net, adversarially trained",
        }
        for name, of in watched.items():
            yield (
                name,
                "net",
                RejectingClassifier(FrozenEstimator(self.fitted[of]), detector),
            )

    def fit_and_judge(self) -> None:
        """Fit every model; score it clean and under both attackers."""
        for name, kind, model in self.defences():
            start = time.perf_counter()
            if isinstance(model, RejectingClassifier):
                model.fit(self.X_cal, self.y_cal)
            else:
                model.fit(self.X_fit, self.y_fit)
            seconds = time.perf_counter() - start
            self.fitted[name] = model
            self.lines.append(self.judge(name, model, self.fitted[kind], seconds))
            print(f"  {len(self.lines):2}  {name}", flush=True)

    def judge(self, name: str, model: Any, undefended: Any, seconds: float) -> Judged:
        """Score a fitted model under the attacker who ignores it and who knows it."""
        X, y = self.X_test, self.y_test
        answers = model.predict(X)
        held = answers == y
        for loss in ("ce", "margin"):
            attack = PGD(EPS, loss=loss, early_stop=False, random_state=self.seed)
            held &= self.not_fooled(model, attack.perturb(undefended, X, y))
        attacks = default_attacks(model, EPS, (0.0, 1.0), self.seed)
        attacks[-1].set_params(max_queries=self.size.queries, image_shape=(8, 8))
        knows = float(held_rows(model, X, y, attacks).mean())
        rejected = ~np.isin(answers, genuine_classes_of(model))
        return Judged(
            name,
            float((answers == y).mean()),
            float(held.mean()),
            knows,
            *wilson(knows, len(y)),
            float(rejected.mean()),
            seconds,
        )

    def not_fooled(self, model: Any, X: np.ndarray) -> np.ndarray:
        """Whether the answer to an attacked row is right, or a rejection."""
        answers = model.predict(X)
        return (answers == self.y_test) | ~np.isin(answers, genuine_classes_of(model))

    def attackers(self, queries: int) -> list[Any]:
        """Make the attacks of a search: gradients, and scores in a few queries."""
        return [
            PGD(EPS, loss="ce", random_state=self.seed),
            PGD(EPS, loss="margin", random_state=self.seed),
            RandomSearch(EPS, max_queries=queries, random_state=self.seed),
        ]

    def search(self, model: Any, grid: dict[str, list[Any]]) -> GridSearchCV:
        """Search a parameter of a defence for the worst case."""
        scoring = {
            "clean": "accuracy",
            "attacked": make_robust_scorer(self.attackers(self.size.queries // 5)),
        }
        return GridSearchCV(
            model, grid, scoring=scoring, refit="attacked", cv=self.size.folds
        ).fit(self.X_fit, self.y_fit)

    def searches(self) -> Any:
        """Search a squeezer's bits and a temperature; judge the chosen Pipeline again.

        The verdict comes from a stronger attack on rows that no search has seen.
        """
        regression = LogisticRegression(C=0.1, max_iter=1000)
        pipe = make_pipeline(BitDepthSqueezer(value_range=(0, 1)), regression)
        by_bits = self.search(pipe, {"bitdepthsqueezer__bits": [1, 2, 3, 4]})
        print_search("bits", by_bits)
        distilled = DistilledClassifier(
            skorch_net(self.size.epochs), random_state=self.seed
        )
        print_search("temperature", self.search(distilled, {"temperature": [1, 20]}))
        chosen = by_bits.best_estimator_
        strong = [
            PGD(EPS, steps=100, restarts=3, loss=loss, random_state=self.seed + 1)
            for loss in ("ce", "margin")
        ]
        queries = 3 * self.size.queries
        strong.append(
            RandomSearch(
                EPS, max_queries=queries, image_shape=(8, 8), random_state=self.seed + 1
            )
        )
        again = robust_accuracy_score(chosen, self.X_test, self.y_test, attack=strong)
        near = np.abs(self.X_test - 0.5) <= EPS
        print(
            f"  chosen: {by_bits.best_params_['bitdepthsqueezer__bits']} bit(s), "
            f"{again:.1%} on the test rows under a stronger attack (100 steps,\n"
            f"  3 restarts, {queries} queries, another seed). Few bits hold here as "
            f"the digits are\n  nearly black and white: at 1 bit, an attacker can push "
            f"only {near.mean():.1%} of the pixels across.\n"
        )
        return chosen

    def search_contamination(self) -> None:
        """Search the share of genuine rows that a detector may flag."""
        frozen = FrozenEstimator(self.fitted["net"])
        attack = PGD(EPS, early_stop=False, random_state=self.seed)
        search = GridSearchCV(
            DropoutUncertaintyDetector(frozen, random_state=self.seed),
            {"contamination": [0.02, 0.05, 0.1, 0.2]},
            scoring=make_detection_scorer(attack),
            cv=self.size.folds,
        ).fit(self.X_cal, self.y_cal)
        scores = search.cv_results_["mean_test_score"]
        values = search.cv_results_["param_contamination"]
        told = ", ".join(f"{v:g}: {s:.1%}" for v, s in zip(values, scores, strict=True))
        print(f"  contamination of the dropout detector, balanced accuracy: {told}")
        print("  (by an attacker who ignores the detector)")
        defended = self.fitted["net, dropout rejects"]
        errors = rejection_robust_error(
            defended, self.X_test, self.y_test, attack=self.attackers(100)
        )
        told = ", ".join(f"{e:.1%} at {r:.0%}" for r, e in errors.items())
        print(f"  lost to the one who knows it, at equal clean rejection: {told}\n")

    def picture(self) -> Any:
        """Draw accuracy against eps, and digits clean, attacked and squeezed."""
        shown = slice(0, 250)
        X, y = self.X_test[shown], self.y_test[shown]
        curves = {
            name: [
                robust_accuracy_score(
                    self.fitted[name],
                    X,
                    y,
                    attack=default_attacks(
                        self.fitted[name], eps, (0.0, 1.0), self.seed
                    )[:2],
                )
                for eps in self.size.curve
            ]
            for name in (
                "net",
                "net, blurred",
                "net, 1 bit a pixel",
                "net, distilled (T = 20)",
                "net, adversarially trained",
            )
        }
        strip = digits_strip(
            self.fitted["net"], self.fitted["net, blurred"], self.X_test, self.y_test
        )
        return plot(curves, self.size.curve, strip)


def print_search(name: str, search: GridSearchCV) -> None:
    """Print what a search found for each value of its parameter."""
    results = search.cv_results_
    told = (
        f"{next(iter(params.values()))}: {clean:.1%} clean, {attacked:.1%} attacked"
        for params, clean, attacked in zip(
            results["params"],
            results["mean_test_clean"],
            results["mean_test_attacked"],
            strict=True,
        )
    )
    print(f"  {name}: {'; '.join(told)}")


def print_table(lines: list[Judged], size: Size, seed: int) -> None:
    """Print the lines and say how the figures came about."""
    width = max(len(line.model) for line in lines)
    print()
    print(f"{'':{width}}           attacker    attacker knows it    genuine   seconds")
    print(f"{'':{width}}   clean   ignores it  (95 % interval)      rejected  to fit")
    for line in lines:
        print(
            f"{line.model:{width}}  {line.clean:6.1%}   {line.attacker_ignores:6.1%}"
            f"      {line.attacker_knows:6.1%} ({line.low:5.1%} to {line.high:5.1%})"
            f"   {line.rejected:5.1%}   {line.seconds_to_fit:5.1f}"
        )
    print(
        f"""
Shares of {size.test_rows} test rows, seed {seed}; Linf, eps {EPS} of a range of 1.
"Ignores it": rows made against the undefended model of the same kind, by PGD with 40
steps, cross-entropy and margin. "Knows it": the same through the whole model, then
RandomSearch with {size.queries} queries; worst case per row. Both are accuracy under
the strongest attack we ran: an upper bound. A rejected clean row counts as lost, a
rejected attacked row as held.
"""
    )


def save_table(lines: list[Judged], path: Path) -> None:
    """Write the lines as CSV."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(asdict(lines[0])))
        writer.writeheader()
        writer.writerows(asdict(line) for line in lines)


def predict_elsewhere(path: Path, X: np.ndarray) -> np.ndarray:
    """Open a saved model in a new process and return what it predicts."""
    rows, answers = path.with_name("rows.npy"), path.with_name("answers.npy")
    np.save(rows, X)
    code = (
        "import sys, joblib, numpy as np; model, rows, answers = sys.argv[1:]; "
        "np.save(answers, joblib.load(model).predict(np.load(rows)))"
    )
    command = [sys.executable, "-c", code, *map(str, (path, rows, answers))]
    subprocess.run(command, check=True)
    predicted = np.load(answers)
    rows.unlink()
    answers.unlink()
    return predicted


def save_and_reopen(model: Any, path: Path, X: np.ndarray) -> None:
    """Pickle a model, and see that it answers the same in a new process."""
    joblib.dump(model, path)
    if not np.array_equal(predict_elsewhere(path, X), model.predict(X)):
        raise RuntimeError(f"{path} answers otherwise in a new process.")
    print(f"  {path}: equal predictions on {len(X)} rows in a new process")


def plot(curves: dict[str, list[float]], epsilons: Any, strip: Any) -> Any:
    """Draw accuracy against eps, and a strip of clean, attacked and squeezed digits."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "The demo draws a picture with matplotlib: pip install sk_advdef[plot]"
        ) from error
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subfigures(1, 2, squeeze=False, width_ratios=[1, 1.15])[0]
    axes = left.subplots()
    for marker, (name, values) in zip("os^Dv", curves.items(), strict=True):
        axes.plot(epsilons, values, marker=marker, label=name)
    axes.set_xlabel("eps: largest change of a pixel (Linf, range 1)")
    axes.set_ylabel("accuracy under attack (upper bound)")
    axes.set_ylim(0, 1)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    names, images, captions = strip
    grid = right.subplots(len(names), len(images[0]))
    right.suptitle(f"What an attacker changes (eps {EPS}), and what blur leaves")
    for row, name in enumerate(names):
        for column, axis in enumerate(grid[row]):
            image = images[row][column].reshape(8, 8)
            axis.imshow(image, cmap="gray_r", vmin=0, vmax=1)
            axis.set_xticks([])
            axis.set_yticks([])
            axis.set_xlabel(captions[row][column], fontsize=8, labelpad=1)
        grid[row][0].set_ylabel(name, fontsize=9)
    return figure


def digits_strip(model: Any, defended: Any, X: Any, y: Any) -> Any:
    """Pick rows that fool the undefended model, and show what the squeezer makes."""
    right = np.flatnonzero(model.predict(X) == y)
    result = PGD(EPS, random_state=0).run(model, X[right], y[right])
    picked = np.flatnonzero(result.fooled)[:6]
    clean, attacked = X[right][picked], result.X_adv[picked]
    squeezed = defended[:-1].transform(attacked)
    answers = (
        model.predict(clean),
        model.predict(attacked),
        defended.predict(attacked),
    )
    captions = [[f"read as {a}" for a in row] for row in answers]
    return (
        ["clean", "attacked", "attacked,\nblurred"],
        [clean, attacked, squeezed],
        captions,
    )


def run(out: Path, *, quick: bool = False, seed: int = 0) -> list[Judged]:
    """Run the whole job, print the story, and write into ``out``."""
    start = time.perf_counter()
    out.mkdir(parents=True, exist_ok=True)
    demo = Demo(QUICK if quick else FULL, seed)
    print(
        f"digits: {len(demo.X_fit)} rows to fit on, {len(demo.X_cal)} for thresholds, "
        f"{len(demo.X_test)} to judge by\n\nFitting and attacking:"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        demo.fit_and_judge()
        print_table(demo.lines, demo.size, seed)
        print("Searching a defence's strength, by the worst case:")
        chosen = demo.searches()
        demo.search_contamination()
        demo.picture().savefig(out / "robustness.png", dpi=120)
    save_table(demo.lines, out / "robustness.csv")
    print("Saving:")
    save_and_reopen(chosen, out / "chosen.joblib", demo.X_test)
    rejecting = demo.fitted["net, dropout rejects"]
    save_and_reopen(rejecting, out / "rejecting.joblib", demo.X_test)
    print(f"  {out / 'robustness.csv'} and {out / 'robustness.png'}")
    print(f"\n{time.perf_counter() - start:.0f} s in all")
    return demo.lines
