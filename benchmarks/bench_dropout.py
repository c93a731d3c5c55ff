"""Fifty and a hundred dropout passes: sampled sub-networks, a loop, other libraries.

Four nets in float32: the MNIST and the CIFAR-10 net of Feinman et al.
(arXiv:1703.00410), of which most comes before the first dropout; a small residual net
with a dropout in each block; a small transformer with four in each layer. Weights and
rows are random, which take as long as trained ones; the last layer's weights are made
larger, so that probabilities are spread like a trained net's.

- "one pass": the net as it is, in eval mode.
- "loop": dropout switched on, a pass after the other.
- "baal with cache": `MCDropoutModule(MCCachingModule(net))`, a pass after the other in
  a `ModelWrapper` with `replicate_in_memory=False`, as its documentation tells.
- "torch-uncertainty": `mc_dropout(net, on_batch=False)`, a pass after the other, from
  its module alone, since the package wants lightning and torchvision; all passes as one
  batch, which is its default, would take gigabytes.
- "ours, passes": masks drawn and logits of all passes, as `DropoutUncertaintyDetector`
  gets them.
- "ours, score_samples": the detector from rows to scores.

Candidates run in turn, round by round, on batches that change at every call; a ratio
compares two of the same round. Figures are medians, with the lowest and the highest.
Where "loop of 10" is said, the loop and torch-uncertainty were timed over 10 passes and
taken that many times more. Before the clock starts, on 64 rows, our probabilities must
equal those of a loop under the same masks, and all candidates must disagree about as
much.

*Memory* is the peak beside the rows themselves while the detector scores them, each
size in a process of its own. *Search* is `GridSearchCV` over `contamination`, with
`memory=` in the detector and in its scorer: it trains the MNIST net, attacks and scores
on each fold, once whatever the number of values.
"""

import copy
import importlib.metadata
import importlib.util
import itertools
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV
from sklearn.utils import gen_batches
from skorch import NeuralNetClassifier
from torch import nn

from benchmarks._dropout_nets import BY_NET, CASES, FeinmanNet, classifier
from benchmarks._dropout_tables import (
    BAAL,
    DETECTOR,
    FORWARD,
    LOOP,
    PASSES,
    UNCERTAINTY,
    table,
)
from benchmarks._harness import arguments, ratios, spread, time_in_turn, unit, version
from benchmarks._pictures import pictures
from sk_advdef import FGSM, DropoutUncertaintyDetector, make_detection_scorer
from sk_advdef._torch._sampled import SampledNet

__all__ = ["main", "table"]

#: Largest difference of probabilities under the same masks: rounding.
TOLERANCE = 1e-5
#: Rows that candidates are compared on.
CHECKED_ROWS = 64

STATUS = Path("/proc/self/status")

Passes = Callable[[torch.Tensor], torch.Tensor]


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


def uncertainty_passes(net: nn.Module, n_passes: int) -> Passes:
    """Return torch-uncertainty's way, results as (n_passes, n_samples, n_classes)."""
    model = (
        _mc_dropout_module()
        .mc_dropout(copy.deepcopy(net), n_passes, on_batch=False)
        .eval()
    )
    return lambda x: model(x).unflatten(0, (n_passes, len(x)))


def _mc_dropout_module() -> Any:
    """Load torch-uncertainty's module alone: all of it wants lightning, torchvision."""
    place = "torch_uncertainty/methods/mc_dropout.py"
    files = importlib.metadata.files("torch-uncertainty") or []
    for file in files:
        if file.as_posix() == place:
            spec = importlib.util.spec_from_file_location("mc_dropout", file.locate())
            if spec is not None and spec.loader is not None:
                module = importlib.util.module_from_spec(spec)
                spec.loader.exec_module(module)
                return module
    raise ImportError(f"it has no {place}")


def our_passes(net: nn.Module, n_passes: int, seed: int) -> Passes:
    """Return the passes of the detector, which draws its masks at every call."""

    def passes(x: torch.Tensor) -> torch.Tensor:
        sampled = SampledNet(net, x[:2], n_passes=n_passes, seed=seed)
        blocks = gen_batches(len(x), sampled.rows_at_a_time())
        return torch.cat([sampled.scores(x[rows]) for rows in blocks], dim=1)

    return passes


#: candidates of other libraries -> package and way
OTHERS = {
    BAAL: ("baal", baal_passes),
    UNCERTAINTY: ("torch-uncertainty", uncertainty_passes),
}


def others(net: nn.Module, n_passes: int) -> tuple[dict[str, Passes], dict[str, str]]:
    """Return the ways of other libraries, and why the rest is left out."""
    ways, left_out = {}, {}
    for name, (package, build) in OTHERS.items():
        if version(package) is None:
            left_out[name] = "not installed"
            print(f"{package} is not installed, so it is left out")
            continue
        try:
            ways[name] = build(net, n_passes)
        except ImportError as error:
            left_out[name] = f"cannot be imported: {error}"
            print(f"{package} {left_out[name]}")
    return ways, left_out


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
    *,
    net: str,
    batch: int,
    passes: int,
    rounds: int,
    at_least: float,
    seed: int,
    loop_passes_timed: int | None = None,
    **_: Any,
) -> dict[str, Any]:
    """Check and time all candidates on a net at one batch size."""
    torch.manual_seed(seed)
    case = CASES[BY_NET[net]]
    model = classifier(case, seed)
    module = model.net_.module_.eval()
    generator = np.random.default_rng(seed)
    # two batches, in turn: a cache that outlives a call must not help
    batches = [generator.random((batch, *case.shape), np.float32) for _ in range(2)]
    libraries, left_out = others(module, passes)
    ways = {LOOP: loop_passes(module, passes), **libraries}
    ways[PASSES] = our_passes(module, passes, seed)
    found = check(module, ways, torch.tensor(batches[0][:CHECKED_ROWS]), seed)

    times = dict.fromkeys((FORWARD, *ways, DETECTOR), 1.0)
    if loop_passes_timed is not None:
        ways[LOOP] = loop_passes(module, loop_passes_timed)
        if UNCERTAINTY in ways:
            ways[UNCERTAINTY] = uncertainty_passes(module, loop_passes_timed)
        for name in {LOOP, UNCERTAINTY} & set(ways):
            times[name] = passes / loop_passes_timed
    frozen = FrozenEstimator(model)
    detector = DropoutUncertaintyDetector(frozen, n_passes=passes, random_state=seed)
    detector.fit(batches[0])
    candidates = {FORWARD: on_tensors(module, batches)}
    candidates |= {name: on_tensors(way, batches) for name, way in ways.items()}
    rows = itertools.cycle(batches)
    candidates[DETECTOR] = lambda: detector.score_samples(next(rows))
    timed = time_in_turn(candidates, rounds, at_least=at_least)
    seconds = {
        name: [times[name] * s for s in values] for name, values in timed.items()
    }
    return found | {
        "left_out": left_out,
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


def memory(*, sizes: list[int], passes: int, seed: int, **_: Any) -> dict[str, Any]:
    """Measure the peak beside the rows, in MB, and the seconds, size by size."""
    if not STATUS.exists():
        return {"megabytes": None, "seconds": None}
    peaks, seconds = [], []
    for rows in sizes:
        code = (
            f"from benchmarks.bench_dropout import peak; peak({rows}, {passes}, {seed})"
        )
        run = subprocess.run(
            [sys.executable, "-c", code],
            cwd=Path(__file__).parents[1],
            capture_output=True,
            text=True,
            check=True,
        )
        one, two = map(float, run.stdout.split()[-2:])
        peaks.append(one)
        seconds.append(two)
    return {"megabytes": peaks, "seconds": seconds}


def peak(rows: int, passes: int, seed: int) -> None:
    """Print the memory and the time of a scoring: run in a process of its own."""
    case = CASES["MNIST net"]
    model = FrozenEstimator(classifier(case, seed))
    X = np.random.default_rng(seed).random((rows, *case.shape), np.float32)
    before = _status("VmRSS")
    detector = DropoutUncertaintyDetector(model, n_passes=passes, random_state=seed)
    detector.fit(X[:1000])
    start = time.perf_counter()
    detector.score_samples(X)
    seconds = time.perf_counter() - start
    print(f"{(_status('VmHWM') - before) / 1e6:.4g} {seconds:.4g}")


def _status(name: str) -> int:
    """Return a line of what Linux tells about this process, in bytes."""
    (line,) = (x for x in STATUS.read_text().splitlines() if x.startswith(f"{name}:"))
    return 1024 * int(line.split()[1])


def search(
    *,
    data: str,
    rows: int,
    epochs: int,
    passes: int,
    values: int,
    folds: int,
    eps: float,
    seed: int,
    folder: Any,
    **_: Any,
) -> dict[str, Any]:
    """Time searches over one value and over many, each from an empty memory."""
    X, y, _X, _y = pictures(data, folder, rows, 1)
    seconds = {}
    for n in (1, values):
        with tempfile.TemporaryDirectory() as kept, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of joblib, on what is slow to keep
            detector = DropoutUncertaintyDetector(
                NeuralNetClassifier(
                    FeinmanNet,
                    criterion=nn.CrossEntropyLoss,
                    optimizer=torch.optim.Adam,
                    lr=1e-3,
                    batch_size=128,
                    max_epochs=epochs,
                    iterator_train__shuffle=True,
                    train_split=None,
                    verbose=0,
                ),
                n_passes=passes,
                memory=kept,
                random_state=seed,
            )
            found = GridSearchCV(
                detector,
                {"contamination": np.linspace(0.01, 0.5, n).tolist()},
                scoring=make_detection_scorer(FGSM(eps), memory=kept),
                cv=folds,
            )
            start = time.perf_counter()
            found.fit(X[:, None], y)
            seconds[n] = time.perf_counter() - start
    one, many = seconds.values()
    return {
        "seconds": [float(f"{s:.4g}") for s in (one, many)],
        "ratio": float(f"{many / one:.4g}"),
    }


def tasks(quick: bool, folder: Any) -> list[tuple[str, dict[str, Any], Any]]:
    """Return (name, params, function) of all units."""
    sizes = [(256, 50, 5), (1024, 50, 4), (256, 100, 4), (1024, 100, 3)]
    common: dict[str, Any] = {"at_least": 0.3, "loop_passes_timed": 10, "seed": 0}
    if quick:
        # Of fewer passes, spreads say little about the share that is dropped.
        sizes, common["at_least"] = [(8, 30, 2)], 0.005
        common["loop_passes_timed"] = 2
    units: list[tuple[str, dict[str, Any], Any]] = []
    for net, case in CASES.items():
        for batch, passes, rounds in sizes:
            start = "batch" if net == "MNIST net" else net.split()[0].lower()
            name = f"{start}-{batch}" + f"-{passes}" * (passes != 50)
            own = {"batch": batch, "passes": passes, "rounds": rounds, **common}
            if name == "batch-256":  # in full, which says what the short loops miss
                del own["loop_passes_timed"]
                own["rounds"] = 9
            units.append((name, own | case.setting, measure))
    own = {"sizes": [10_000, 100_000], "passes": 50, "seed": 0}
    if quick:
        own["sizes"] = [50, 100]
    setting = CASES["MNIST net"].setting
    units.append(("memory", own | setting, memory))
    own = {"data": "mnist", "rows": 3000, "epochs": 5, "values": 50, "folds": 2}
    if quick:
        own |= {"data": "digits", "rows": 100, "epochs": 1, "values": 2}
    own |= {"passes": 50, "eps": 0.2, "seed": 0}
    setting = {"net": setting["net"], "optimizer": "Adam, 0.001, batches of 128"}
    units.append(("search", own | setting, partial(search, folder=folder)))
    return units


def main() -> None:
    given = arguments(__doc__)
    packages = [package for package, _ in OTHERS.values()]
    run = partial(unit, "dropout", quick=given.quick, packages=packages)
    units = [
        run(name=name, params=params, function=function)
        for name, params, function in tasks(given.quick, given.data)
        if name.startswith(given.only)
    ]
    print(table(units))


if __name__ == "__main__":
    main()
