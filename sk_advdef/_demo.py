"""The main job on data that ships: fool classifiers of digits, and defend them."""

from __future__ import annotations

import csv
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import joblib
import numpy as np
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline

from sk_advdef.attacks._pgd import PGD
from sk_advdef.attacks._random_search import RandomSearch
from sk_advdef.evaluation._scores import (
    default_attacks,
    held_rows,
    make_robust_scorer,
    robust_accuracy_score,
)
from sk_advdef.squeezers._bit_depth import BitDepthSqueezer
from sk_advdef.squeezers._blur import BlurSqueezer
from sk_advdef.squeezers._downscale import Downscaler

#: Largest change of a pixel, where white is 1.
EPS = 0.1


@dataclass
class Judged:
    """A line of the table: shares of the rows, and what it cost."""

    model: str
    clean: float
    attacker_ignores: float
    attacker_knows: float
    low: float
    high: float
    seconds: float


def small_net(seed: int) -> Any:
    """Make a small multilayer perceptron for skorch."""
    import torch
    from skorch import NeuralNetClassifier

    from sk_advdef._torch._net import NetClassifier
    from sk_advdef.nets import DropoutMLP

    net = NeuralNetClassifier(
        DropoutMLP,
        module__n_classes=10,
        criterion=torch.nn.CrossEntropyLoss,
        optimizer=torch.optim.Adam,
        lr=3e-3,
        max_epochs=20,
        batch_size=64,
        iterator_train__shuffle=True,
        train_split=None,
        verbose=0,
    )
    return NetClassifier(net, random_state=seed)


def interval(share: float, rows: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share."""
    z = 1.959964
    middle = (share + z * z / (2 * rows)) / (1 + z * z / rows)
    half = z / (1 + z * z / rows)
    half *= np.sqrt(share * (1 - share) / rows + z * z / (4 * rows * rows))
    return float(max(0, middle - half)), float(min(1, middle + half))


def judge(
    name: str, model: Any, undefended: Any, X: Any, y: Any, *, seed: int, queries: int
) -> Judged:
    """Score a fitted model clean, under the ignorant attacker and under the other."""
    start = time.perf_counter()
    right = model.predict(X) == y
    held = right.copy()
    for loss in ("ce", "margin"):
        attack = PGD(EPS, loss=loss, early_stop=False, random_state=seed)
        held &= model.predict(attack.perturb(undefended, X, y)) == y
    attacks = default_attacks(model, EPS, (0.0, 1.0), seed)
    attacks[-1].set_params(max_queries=queries, image_shape=(8, 8))
    knows = held_rows(model, X, y, attacks).mean()
    return Judged(
        name,
        float(right.mean()),
        float(held.mean()),
        float(knows),
        *interval(float(knows), len(y)),
        time.perf_counter() - start,
    )


def print_table(lines: list[Judged], rows: int, queries: int, seed: int) -> None:
    """Print the lines and say how the figures came about."""
    width = max(len(line.model) for line in lines)
    print(f"{'':{width}}   clean   attacker    attacker knows it     seconds")
    print(f"{'':{width}}           ignores it  (95 % interval)       to judge")
    for line in lines:
        print(
            f"{line.model:{width}}  {line.clean:6.1%}   {line.attacker_ignores:6.1%}"
            f"      {line.attacker_knows:6.1%} ({line.low:.1%} to {line.high:.1%})"
            f"{'':3}{line.seconds:6.1f}"
        )
    print(
        f"\nShares of {rows} test rows, seed {seed}; Linf, eps {EPS} of a range of 1.\n"
        '"Ignores it": rows made against the undefended model of the same kind, by PGD\n'
        'with 40 steps, cross-entropy and margin. "Knows it": the same through the\n'
        f"whole model, then RandomSearch with {queries} queries; worst case per row. It\n"
        "is accuracy under the strongest attack we ran: an upper bound.\n"
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


def plot(curves: dict[str, list[float]], epsilons: list[float], strip: Any) -> Any:
    """Draw accuracy against eps, and a strip of clean, attacked and squeezed digits."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "The demo draws a picture with matplotlib: pip install sk_advdef[plot]"
        ) from error
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=[1, 1.15])
    axes = left.subplots()
    for marker, (name, values) in zip("os^Dvx*", curves.items(), strict=False):
        axes.plot(epsilons, values, marker=marker, label=name)
    axes.set_xlabel("eps: largest change of a pixel (Linf, range 1)")
    axes.set_ylabel("accuracy under attack (upper bound)")
    axes.set_ylim(0, 1)
    axes.grid(alpha=0.3)
    axes.legend()
    names, images, captions = strip
    grid = right.subplots(len(names), len(images[0]))
    right.suptitle(
        f"What the attacker changes (eps {EPS}), and what the squeezer leaves"
    )
    for row, name in enumerate(names):
        for column, axis in enumerate(grid[row]):
            axis.imshow(
                images[row][column].reshape(8, 8), cmap="gray_r", vmin=0, vmax=1
            )
            axis.set_xticks([])
            axis.set_yticks([])
            axis.set_xlabel(captions[row][column], fontsize=8, labelpad=1)
        grid[row][0].set_ylabel(name, fontsize=9)
    return figure


def digits_strip(model: Any, defended: Any, X: Any, y: Any, seed: int) -> Any:
    """Pick rows that fool the undefended model, and show what the squeezer makes."""
    right = np.flatnonzero(model.predict(X) == y)
    result = PGD(EPS, random_state=seed).run(model, X[right], y[right])
    picked = np.flatnonzero(result.fooled)[:6]
    clean, attacked = X[right][picked], result.X_adv[picked]
    squeezed = defended[:-1].transform(attacked)
    captions = [
        [f"{answer}" for answer in answers]
        for answers in (
            model.predict(clean),
            model.predict(attacked),
            defended.predict(attacked),
        )
    ]
    names = ["clean", "attacked", "attacked,\nsqueezed"]
    return names, [clean, attacked, squeezed], captions


def run(out: Path, *, quick: bool = False, seed: int = 0) -> list[Judged]:
    """Run the whole job, print the story, and write into ``out``."""
    start = time.perf_counter()
    out.mkdir(parents=True, exist_ok=True)
    X, y = load_digits(return_X_y=True)
    X = (X / 16).astype(np.float32)
    X_fit, X_test, y_fit, y_test = train_test_split(
        X, y, test_size=200 if quick else 500, random_state=seed, stratify=y
    )
    queries = 100 if quick else 1000
    print(f"digits: {len(X_fit)} rows to fit on, {len(X_test)} to judge by\n")

    kinds = {
        "logistic regression": LogisticRegression(C=0.1, max_iter=1000),
        "small net": small_net(seed),
    }
    squeezers = {
        "": None,
        "downscaled to 4 x 4": Downscaler(0.5, image_shape=(8, 8)),
        "blurred": BlurSqueezer(0.7, image_shape=(8, 8)),
        "1 bit a pixel": BitDepthSqueezer(1, value_range=(0, 1)),
    }
    lines, fitted = [], {}
    for kind, classifier in kinds.items():
        for squeezer_name, squeezer in squeezers.items():
            name = f"{kind}, {squeezer_name}" if squeezer_name else kind
            model = clone(classifier)
            if squeezer is not None:
                model = make_pipeline(clone(squeezer), model)
            fitted[name] = model.fit(X_fit, y_fit)
            lines.append(
                judge(
                    name,
                    model,
                    fitted[kind],
                    X_test,
                    y_test,
                    seed=seed,
                    queries=queries,
                )
            )
    print_table(lines, len(y_test), queries, seed)
    save_table(lines, out / "robustness.csv")

    print("Searching a squeezer's strength for the worst case (3 folds):")
    pipe = make_pipeline(
        BlurSqueezer(image_shape=(8, 8)), LogisticRegression(C=0.1, max_iter=1000)
    )
    grid = {"blursqueezer__sigma": [0.0, 0.7] if quick else [0.0, 0.4, 0.7, 1.0]}
    search = GridSearchCV(
        pipe,
        grid,
        scoring={
            "clean": "accuracy",
            "robust": make_robust_scorer(eps=EPS, random_state=seed),
        },
        refit="robust",
        cv=3,
        n_jobs=2,
    ).fit(X_fit, y_fit)
    for i, params in enumerate(search.cv_results_["params"]):
        clean, robust = (
            search.cv_results_[f"mean_test_{score}"][i] for score in ("clean", "robust")
        )
        print(
            f"  sigma {params['blursqueezer__sigma']:.1f}: clean {clean:.1%}, "
            f"accuracy under attack {robust:.1%}"
        )
    chosen = search.best_estimator_
    strong = [
        PGD(EPS, steps=100, restarts=3, loss="ce", random_state=seed + 1),
        PGD(EPS, steps=100, restarts=3, loss="margin", random_state=seed + 1),
        RandomSearch(
            EPS, max_queries=3 * queries, image_shape=(8, 8), random_state=seed + 1
        ),
    ]
    again = robust_accuracy_score(chosen, X_test, y_test, attack=strong)
    print(
        f"Chosen: sigma {search.best_params_['blursqueezer__sigma']:.1f}. On "
        f"{len(y_test)} rows that the search never saw, under a stronger attack (100 "
        f"steps, 3 restarts,\n{3 * queries} queries, another seed): {again:.1%}\n"
    )

    epsilons = [0.0, 0.05, 0.1] if quick else [0.0, 0.025, 0.05, 0.1, 0.15, 0.2]
    shown = 100 if quick else 250
    curves = {
        name: [
            robust_accuracy_score(
                fitted[name],
                X_test[:shown],
                y_test[:shown],
                attack=default_attacks(fitted[name], eps, (0.0, 1.0), seed)[:2],
            )
            for eps in epsilons
        ]
        for name in (
            "logistic regression",
            "logistic regression, blurred",
            "small net",
            "small net, blurred",
        )
    }
    strip = digits_strip(
        fitted["small net"], fitted["small net, blurred"], X_test, y_test, seed
    )
    plot(curves, epsilons, strip).savefig(out / "robustness.png", dpi=120)

    saved = out / "chosen.joblib"
    joblib.dump(chosen, saved)
    same = np.array_equal(predict_elsewhere(saved, X_test), chosen.predict(X_test))
    if not same:
        raise RuntimeError(f"{saved} answers otherwise in a new process.")
    print(
        f"Saved {saved}, opened it in a new process: equal predictions on {len(X_test)} "
        f"rows.\nWrote {out / 'robustness.csv'} and {out / 'robustness.png'}. "
        f"{time.perf_counter() - start:.0f} s in all."
    )
    return lines
