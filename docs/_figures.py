"""Draw the pictures of the guide from benchmarks/results, at each build."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt

RESULTS = Path(__file__).resolve().parent.parent / "benchmarks" / "results"

#: Told apart by those who do not see all colors, on white and on black.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00")
STYLE = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": plt.cycler(
        color=COLORS,
        marker=["o", "s", "^", "D", "v"],
        linestyle=["-", "--"] * 2 + [":"],
    ),
    "figure.constrained_layout.use": True,
    # the pages are also shown on black
    "savefig.facecolor": "white",
    "svg.hashsalt": "sk_advdef",
}


def unit(benchmark: str, name: str) -> dict[str, Any]:
    """Return the figures of a unit."""
    path = RESULTS / benchmark / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8"))["figures"]


def precision() -> plt.Figure:
    """Length of the least change against resolution and against bits."""
    given = {
        "resolution, share of the side": [0.25, 0.35, 0.5, 0.75],
        "bits": [1, 2, 3, 5],
    }
    figure, axes = plt.subplots(2, 2, figsize=(8, 5.5), sharey="row")
    for row, (data, title) in zip(
        axes, [("mnist", "MNIST"), ("cifar10", "CIFAR-10")], strict=True
    ):
        nothing = unit("preprocessing", f"{data}-none")["without"]["l2"]["knows"]
        for ax, (what, values) in zip(row, given.items(), strict=True):
            word = what.partition(",")[0]
            found = [
                unit("preprocessing", f"{data}-{word}-{value}")["without"]["l2"]
                for value in values
            ]
            for who in ("ignores", "knows"):
                ax.plot(values, [f[who] for f in found], label=f"who {who} it")
            line = {"color": "gray", "linewidth": 1, "marker": "", "linestyle": ":"}
            ax.axhline(nothing, label="no squeezer", **line)
            ax.set(title=title, xlabel=what, xticks=values)
        row[0].set_ylim(bottom=0)
        row[0].set_ylabel("median L2 of the change")
    axes[0, 1].legend(frameon=False)
    return figure


def confidence() -> plt.Figure:
    """Accuracy behind squeezers against the lead of the wrong class."""
    figure, axes = plt.subplots(1, 2, figsize=(8, 3.3), sharey=True)
    shown = ("bits 1", "bits 2", "median 2", "resolution 0.5", "JPEG 75")
    for ax, (data, title) in zip(
        axes, [("mnist", "MNIST"), ("cifar10", "CIFAR-10")], strict=True
    ):
        found = unit("preprocessing", f"{data}-confidence")["confidences"]
        leads = [float(lead) for lead in found]
        for name in shown:
            accuracy = [100 * f["accuracy"][name] for f in found.values()]
            ax.plot(leads, accuracy, label=name)
        ax.set(title=title, xlabel="lead of the wrong class (logits)")
    axes[0].set_ylabel("right behind the squeezer, %")
    axes[1].legend(frameon=False)
    return figure


def distillation() -> plt.Figure:
    """Success against a distilled net, by two gradients of one attack."""
    temperatures = (1, 5, 20, 50, 100)
    found = [unit("distillation", f"temperature-{t}-seed-0") for t in temperatures]
    figure, ax = plt.subplots(figsize=(6, 3.3))
    for key, label in (
        ("softmax", "gradient of the softmax, as in its paper"),
        ("log_odds", "gradient of the log-odds"),
    ):
        ax.plot(temperatures, [100 * f[key]["success"] for f in found], label=label)
    ax.set(xscale="log", xticks=temperatures, ylim=(0, 105))
    ax.set_xticklabels(temperatures)
    ax.minorticks_off()
    ax.set(xlabel="temperature", ylabel="targeted JSMA succeeds, %")
    ax.legend(frameon=False, loc="center right")
    return figure


def asking() -> plt.Figure:
    """What attackers reach by asking, by what is revealed and by what is known."""
    revealed = {
        "scores": unit("queries", "feedback-full")["random"],
        "the top one": unit("queries", "feedback-top")["random"],
        "rounded": unit("queries", "feedback-rounded")["random"],
        "noisy": unit("queries", "feedback-noisy")["random"],
        "labels": unit("queries", "feedback-label")["random"],
    }
    known = unit("queries", "known")
    words = {"nothing": "answers alone"} | {
        key: f"and {key}" for key in known if key != "nothing"
    }
    figure, axes = plt.subplots(1, 2, figsize=(8, 3), sharex=True)
    _bars(axes[0], {k: v["succeeds"] for k, v in revealed.items()})
    axes[0].set_title("by what is revealed (RandomSearch)", fontsize=10)
    _bars(axes[1], {words[k]: v["succeeds"] for k, v in known.items()})
    axes[1].set_title("by what is known (PGD on a copy)", fontsize=10)
    for ax in axes:
        ax.set(xlim=(0, 100), xlabel="attacks that succeed, %")
    return figure


def _bars(ax: Any, shares: dict[str, float]) -> None:
    names = list(shares)[::-1]
    bars = ax.barh(names, [100 * shares[name] for name in names], color=COLORS[0])
    ax.bar_label(bars, fmt="%.0f", padding=2)


PICTURES: dict[str, Callable[[], plt.Figure]] = {
    "asking": asking,
    "confidence": confidence,
    "distillation": distillation,
    "precision": precision,
}


def draw(folder: Path) -> None:
    """Write all pictures into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, make in PICTURES.items():
        with matplotlib.rc_context(STYLE):
            figure = make()
            figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
        plt.close(figure)
