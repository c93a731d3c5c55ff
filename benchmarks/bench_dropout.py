"""Fifty dropout passes: sampled sub-networks, a loop, and baal's cache.

The MNIST net of Feinman et al. (arXiv:1703.00410): two 3x3 convolutions of 64 channels
without padding, max-pooling, dropout 0.5, a layer of 128, dropout 0.5, 10 logits; in
float32. Weights and rows are random, which take as long as trained ones; the last
layer's weights are times 30, so that probabilities are spread like a trained net's.

- "one forward pass": the net as it is, in eval mode.
- "loop": dropout switched on, a pass after the other.
- "baal with cache": `MCDropoutModule(MCCachingModule(net))`, a pass after the other in
  a `ModelWrapper` with `replicate_in_memory=False`, as its documentation tells.
- "ours, passes": masks drawn and logits of all passes, as `DropoutUncertaintyDetector`
  gets them.
- "ours, score_samples": the detector from rows to scores.

Candidates run in turn, round by round, on batches that change at every call; a ratio
compares two of the same round. Figures are medians, with the lowest and the highest.
Before the clock starts, our probabilities must equal those of a loop under the same
masks, and all candidates must disagree about as much.
"""

import copy
import itertools
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from sklearn.frozen import FrozenEstimator
from sklearn.utils import gen_batches
from skorch import NeuralNetClassifier
from torch import nn

from benchmarks._harness import (
    Unit,
    arguments,
    markdown,
    ratios,
    spread,
    time_in_turn,
    unit,
    version,
)
from sk_advdef import DropoutUncertaintyDetector
from sk_advdef._torch._net import NetClassifier
from sk_advdef._torch._sampled import SampledNet

FORWARD = "one forward pass"
LOOP = "loop"
BAAL = "baal with cache"
PASSES = "ours, passes"
DETECTOR = "ours, score_samples"

#: Forward passes that ours may take, at which batch.
TARGET, TARGET_BATCH = 3.0, 256
#: Largest difference of probabilities under the same masks: rounding.
TOLERANCE = 1e-5

SETTING = {
    "net": "C64-3x3 ReLU C64-3x3 ReLU MaxPool2 Dropout.5 FC128 ReLU Dropout.5 FC10",
    "weights": "random, of the last layer times 30",
    "rows": "uniform in [0, 1], 28x28",
    "dtype": "float32",
}

Passes = Callable[[torch.Tensor], torch.Tensor]


class FeinmanNet(nn.Sequential):
    """The MNIST net of Feinman et al., to logits."""

    def __init__(self) -> None:
        super().__init__(
            *(nn.Conv2d(1, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3), nn.ReLU()),
            *(nn.MaxPool2d(2), nn.Dropout(0.5), nn.Flatten()),
            *(nn.Linear(9216, 128), nn.ReLU(), nn.Dropout(0.5), nn.Linear(128, 10)),
        )


def classifier(seed: int) -> NetClassifier:
    """Return a fitted classifier around the net, with random weights."""
    net = NeuralNetClassifier(
        FeinmanNet,
        criterion=nn.CrossEntropyLoss,
        max_epochs=0,
        train_split=None,
        verbose=0,
    )
    rows = np.zeros((10, 1, 28, 28), dtype=np.float32)
    model = NetClassifier(net, random_state=seed).fit(rows, np.arange(10))
    with torch.no_grad():
        model.net_.module_[-1].weight.mul_(30)
    return model


def loop_passes(net: nn.Module, n_passes: int) -> Passes:
    """Return a loop over a copy of the net with its dropout on."""
    net = copy.deepcopy(net).eval()
    for module in net.modules():
        if isinstance(module, nn.Dropout):
            module.train()
    return lambda x: torch.stack([net(x) for _ in range(n_passes)])


def baal_passes(net: nn.Module, n_passes: int) -> Passes:
    """Return baal's way, results as (n_passes, n_samples, n_classes)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what baal imports
        from baal.bayesian.caching_utils import MCCachingModule
        from baal.bayesian.dropout import MCDropoutModule
        from baal.modelwrapper import ModelWrapper, TrainingArgs

    model = MCDropoutModule(MCCachingModule(copy.deepcopy(net))).eval()
    args = TrainingArgs(replicate_in_memory=False, use_cuda=False)
    wrapper = ModelWrapper(model, args)
    return lambda x: wrapper.predict_on_batch(x, n_passes).permute(2, 0, 1)


def our_passes(net: nn.Module, n_passes: int, seed: int) -> Passes:
    """Return the passes of the detector, which draws its masks at every call."""

    def passes(x: torch.Tensor) -> torch.Tensor:
        sampled = SampledNet(net, x[:2], n_passes=n_passes, seed=seed)
        blocks = gen_batches(len(x), sampled.rows_at_a_time())
        return torch.cat([sampled.scores(x[rows]) for rows in blocks], dim=1)

    return passes


def same_masks(net: nn.Module, x: torch.Tensor, n_passes: int, seed: int) -> Any:
    """Return logits of a loop under the masks of ours, by hooks on the net itself."""
    net = copy.deepcopy(net).eval()
    masks = SampledNet(net, x[:2], n_passes=n_passes, seed=seed).masks
    passes = []
    for i in range(n_passes):
        hooks = [
            net.get_submodule(name).register_forward_hook(
                lambda module, given, out, mask=calls[0][0][i]: out * mask
            )
            for name, calls in masks
        ]
        passes.append(net(x))
        for hook in hooks:
            hook.remove()
    return torch.stack(passes)


def proba(logits: torch.Tensor) -> torch.Tensor:
    return logits.double().softmax(dim=-1)


def check(net: nn.Module, ways: dict[str, Passes], x: Any, seed: int) -> dict[str, Any]:
    """Refuse to time what does not do the same."""
    with torch.inference_mode():
        passes = {name: proba(way(x)) for name, way in ways.items()}
        n_passes = len(passes[PASSES])
        masked = proba(same_masks(net, x, n_passes, seed))
    difference = float((passes[PASSES] - masked).abs().max())
    if not difference <= TOLERANCE:
        raise RuntimeError(
            f"Under the same masks our probabilities are {difference:.2g} from those "
            f"of a loop, more than {TOLERANCE}: nothing is reported."
        )
    spreads = {name: float(p.std(0).mean()) for name, p in passes.items()}
    for name, value in spreads.items():
        if not 0.5 < value / spreads[LOOP] < 2:
            raise RuntimeError(f"{name} drops other shares than the loop: {spreads}")
    return {
        "max_difference_same_masks": float(f"{difference:.2g}"),
        "mean_std_over_passes": {n: float(f"{v:.4g}") for n, v in spreads.items()},
    }


def measure(
    *, batch: int, passes: int, rounds: int, at_least: float, seed: int, **_: Any
) -> dict[str, Any]:
    """Check and time all candidates at one batch size."""
    torch.manual_seed(seed)
    model = classifier(seed)
    net = model.net_.module_.eval()
    generator = np.random.default_rng(seed)
    # two batches, in turn: a cache that outlives a call must not help
    batches = [generator.random((batch, 1, 28, 28), np.float32) for _ in range(2)]
    ways = {LOOP: loop_passes(net, passes)}
    if version("baal") is None:
        print("baal is not installed, so it is left out; `make bench` installs it")
    else:
        ways[BAAL] = baal_passes(net, passes)
    ways[PASSES] = our_passes(net, passes, seed)
    found = check(net, ways, torch.tensor(batches[0]), seed)

    frozen = FrozenEstimator(model)
    detector = DropoutUncertaintyDetector(frozen, n_passes=passes, random_state=seed)
    detector.fit(batches[0])
    candidates = {FORWARD: on_tensors(net, batches)}
    candidates |= {name: on_tensors(way, batches) for name, way in ways.items()}
    rows = itertools.cycle(batches)
    candidates[DETECTOR] = lambda: detector.score_samples(next(rows))
    seconds = time_in_turn(candidates, rounds, at_least=at_least)
    return found | {
        "milliseconds": {n: spread(1000 * s for s in v) for n, v in seconds.items()},
        "ratios": {n: spread(v) for n, v in ratios(seconds, to=FORWARD).items()},
        "seconds": {n: [float(f"{s:.4g}") for s in v] for n, v in seconds.items()},
    }


def on_tensors(way: Passes, batches: list[np.ndarray]) -> Callable[[], Any]:
    """Return a call of ``way`` on the next batch."""
    rows = itertools.cycle([torch.tensor(batch) for batch in batches])

    @torch.inference_mode()
    def run() -> Any:
        return way(next(rows))

    return run


def table(units: list[Unit]) -> str:
    """Return the tables of RESULTS.md, a batch size each."""
    by_batch = sorted(units, key=lambda unit: unit["params"]["batch"])
    return "\n\n".join(map(_table, by_batch))


def _table(unit: Unit) -> str:
    params, figures = unit["params"], unit["figures"]
    title = (
        f"Batch {params['batch']}, {params['passes']} passes, "
        f"{params['rounds']} rounds; largest difference of probabilities under the "
        f"same masks {figures['max_difference_same_masks']:.1g}:"
    )
    rows = [_row(name, unit) for name in (FORWARD, LOOP, BAAL, PASSES, DETECTOR)]
    head = ["", "milliseconds", "in forward passes", "target"]
    return f"{title}\n\n{markdown(head, rows)}"


def _row(name: str, unit: Unit) -> list[str]:
    figures = unit["figures"]
    if name not in figures["ratios"]:
        return [name, "not installed", "", ""]
    times, ratio = figures["milliseconds"][name], figures["ratios"][name]
    target = ""
    if name in (PASSES, DETECTOR) and unit["params"]["batch"] == TARGET_BATCH:
        met = "met" if ratio["median"] <= TARGET else "missed"
        target = f"at most {TARGET:g}: {met}"
    return [name, _range(times, ".1f"), _range(ratio, ".2f"), target]


def _range(found: dict[str, float], form: str) -> str:
    median, low, high = (format(found[k], form) for k in ("median", "low", "high"))
    return f"{median} ({low} to {high})"


def main() -> None:
    quick = arguments(__doc__).quick
    run = partial(unit, "dropout", function=measure, quick=quick, packages=["baal"])
    sizes = [(256, 9), (1024, 5)]
    params = {"passes": 50, "at_least": 0.3}
    if quick:
        sizes, params = [(32, 2)], {"passes": 5, "at_least": 0.01}
    units = [
        run(
            name=f"batch-{batch}",
            params={"batch": batch, "rounds": rounds, "seed": 0, **params, **SETTING},
        )
        for batch, rounds in sizes
    ]
    print(table(units))


if __name__ == "__main__":
    main()
