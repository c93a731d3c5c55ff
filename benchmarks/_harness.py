"""What every benchmark needs: units kept in files, timing in turn, data, facts."""

import argparse
import ctypes
import importlib.metadata
import json
import math
import os
import platform
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS = HERE / "results"
PACKAGES = ("numpy", "scikit-learn", "skorch", "torch")

#: Cores that others may use while a unit's minutes still count.
MOST_OTHERS = 0.25

Unit = dict[str, Any]


def arguments(doc: str | None) -> argparse.Namespace:
    """Read the command line that all benchmarks share."""
    parser = argparse.ArgumentParser(description=doc)
    parser.add_argument("--quick", action="store_true", help="small sizes, for a check")
    parser.add_argument("--data", type=Path, help="folder that may hold mnist.npz")
    parser.add_argument(
        "--only", default="", metavar="START", help="units whose name starts with this"
    )
    return parser.parse_args()


def machine() -> dict[str, Any]:
    """Describe the machine, and how busy it is."""
    import torch

    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "system": f"{platform.system()} {platform.machine()}",
    }


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _used_elsewhere() -> float:
    """Return seconds of CPU that other processes have used; NaN where none tells."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return math.nan
    ticks = [int(word) for word in stat.read_text(encoding="utf-8").split()[1:9]]
    idle, waiting = ticks[3:5]
    ours = os.times()
    return (sum(ticks) - idle - waiting) / os.sysconf("SC_CLK_TCK") - sum(ours[:4])


def version(package: str) -> str | None:
    """Return the installed version of a package, or None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def versions(packages: Iterable[str] = ()) -> dict[str, Any]:
    """State versions, and which source of ours it was."""
    named = {name: version(name) for name in (*PACKAGES, *packages)}
    return {"python": platform.python_version(), **named, **_source()}


def _source() -> dict[str, Any]:
    from sk_advdef import __version__

    changed = _git("status", "--porcelain", "--", "sk_advdef")
    return {
        "sk_advdef": __version__,
        "commit": _git("rev-parse", "--short=10", "HEAD") or None,
        "changed_since": sorted(line[3:] for line in changed.splitlines()),
    }


def _git(*command: str) -> str:
    try:
        run = subprocess.run(
            ["git", *command], cwd=HERE, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return run.stdout.rstrip()


def command() -> str:
    """Return the command that runs now, without anybody's folders."""
    words = ["python", *sys.orig_argv[1:]]
    for i, word in enumerate(words):
        if word == "--data" and i + 1 < len(words):
            words[i + 1] = "DATA"
        elif word.startswith("--data="):
            words[i] = "--data=DATA"
    return shlex.join(words)


def keep_memory() -> None:
    """Tell glibc to keep what is freed, on Linux.

    It gives large blocks back to the system, and in virtual machines it takes long to
    get each page of them again.
    """
    if sys.platform != "linux":
        return
    tell = getattr(ctypes.CDLL(None), "mallopt", None)
    if tell is not None:
        trim_threshold, mmap_threshold, arena_max = -1, -3, -8
        for what in (trim_threshold, mmap_threshold):
            tell(what, 2**31 - 1)
        tell(arena_max, 1)


def unit(
    benchmark: str,
    name: str,
    params: dict[str, Any],
    function: Callable[..., dict[str, Any]],
    quick: bool,
    *,
    packages: Iterable[str] = (),
) -> Unit:
    """Return a unit from its file, or run ``function(**params)`` and write the file.

    A quick run neither reads nor writes files. ``packages`` are those whose versions
    matter beside the usual ones.
    """
    path = RESULTS / benchmark / f"{name}.json"
    params = json.loads(json.dumps(params))
    if not quick and path.exists():
        kept: Unit = json.loads(path.read_text(encoding="utf-8"))
        if kept["params"] != params:
            raise ValueError(
                f"{path.relative_to(RESULTS)} is from other params than {params}. "
                "Remove it to run it again."
            )
        return kept
    # all of it before the run: the source may change under a long one
    facts = {"machine": machine(), "versions": versions(packages)}
    used, start = _used_elsewhere(), time.perf_counter()
    figures = function(**params)
    seconds = time.perf_counter() - start
    others = (_used_elsewhere() - used) / seconds
    facts["machine"]["others"] = None if math.isnan(others) else round(others, 2)
    done: Unit = {
        "benchmark": benchmark,
        "name": name,
        "params": params,
        "figures": figures,
        **facts,
        "command": command(),
        "seconds": round(seconds, 1),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    if not quick:
        _write(path, json.dumps(done, indent=1) + "\n")
    return done


def _write(path: Path, text: str) -> None:
    """Write all or nothing: a file that is there counts as done."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


def time_in_turn(
    candidates: dict[str, Callable[[], Any]], rounds: int, *, at_least: float = 0.3
) -> dict[str, list[float]]:
    """Time candidates in turn, A B C A B C, so that all meet the same machine.

    Before the first round each is called twice, to warm up and to learn how often to
    call it in a turn that lasts ``at_least`` seconds.

    Returns
    -------
    seconds : dict of str to list of float
        Seconds of one call, mean over each turn; one value a round.
    """
    calls = {name: _calls(run, at_least) for name, run in candidates.items()}
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, run in candidates.items():
            seconds[name].append(_seconds(run, calls[name]))
    return seconds


def _calls(run: Callable[[], Any], at_least: float) -> int:
    run()
    return max(1, math.ceil(at_least / _seconds(run, 1)))


def _seconds(run: Callable[[], Any], calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        run()
    return (time.perf_counter() - start) / calls


def ratios(seconds: dict[str, list[float]], to: str) -> dict[str, list[float]]:
    """Divide by the candidate ``to``, round by round."""
    return {
        name: [value / base for value, base in zip(values, seconds[to], strict=True)]
        for name, values in seconds.items()
    }


def spread(values: Iterable[float]) -> dict[str, float]:
    """Return median and range, to four digits."""
    values = list(values)
    found = {
        "median": statistics.median(values),
        "low": min(values),
        "high": max(values),
    }
    return {name: float(f"{value:.4g}") for name, value in found.items()}


def had_all_cores(one: Unit) -> bool:
    """Whether torch had a thread for each core while a unit ran."""
    return one["machine"]["torch_threads"] >= one["machine"]["cores"]


def was_alone(one: Unit) -> bool:
    """Whether others left the cores to a unit, so that its minutes say something."""
    return (one["machine"].get("others") or 0.0) <= MOST_OTHERS


def markdown(head: list[str], rows: Iterable[Iterable[Any]]) -> str:
    """Lay out a table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def load_mnist(folder: Path | str | None = None) -> tuple[Any, Any, Any, Any]:
    """Return X_train, y_train, X_test, y_test.

    Images are float32 in [0, 1], shape (n, 1, 28, 28). They are from ``mnist.npz`` in
    ``folder`` or the environment's SK_ADVDEF_DATA, with x_train, y_train, x_test and
    y_test; where there is none, from OpenML.
    """
    import numpy as np

    folder = Path(folder or os.environ.get("SK_ADVDEF_DATA") or HERE / "data")
    if (folder / "mnist.npz").exists():
        with np.load(folder / "mnist.npz") as data:
            X, y = (
                np.concatenate([data[f"{k}_train"], data[f"{k}_test"]]) for k in "xy"
            )
            n_train = len(data["y_train"])
    else:
        from sklearn.datasets import fetch_openml

        X, y = fetch_openml(
            "mnist_784", version=1, return_X_y=True, as_frame=False, data_home=folder
        )
        n_train = 60000
    X = X.reshape(-1, 1, 28, 28).astype(np.float32) / np.float32(255)
    y = y.astype(np.int64)
    return X[:n_train], y[:n_train], X[n_train:], y[n_train:]


def load_cifar10(
    folder: Path | str | None = None, n_train: int = 50000, n_test: int = 10000
) -> tuple[Any, Any, Any, Any]:
    """Return X_train, y_train, X_test, y_test: some rows of each part, at random.

    Images are float32 in [0, 1], shape (n, 28, 28, 3). They are from
    ``cifar10_jpeg.npz`` in ``folder`` or the environment's SK_ADVDEF_DATA, which holds
    copies that went through JPEG, or from OpenML. The copies lie on JPEG's grid of 8 x
    8 pixels and have little fine detail, so that JPEG again leaves them alone and
    betrays whatever was added: the images are cropped to another grid (3 pixels from
    the top and the left), a level is added or taken at random, and they are rounded to
    whole levels. That is done to either source.
    """
    import numpy as np

    folder = Path(folder or os.environ.get("SK_ADVDEF_DATA") or HERE / "data")
    rng = np.random.default_rng(0)
    images, labels = _cifar10(folder)
    loaded = []
    for part, n in (("train", n_train), ("test", n_test)):
        y = labels(part)
        chosen = rng.permutation(len(y))[:n]
        X = images(part, chosen)[:, 3:31, 3:31].astype(np.int16)
        X = np.clip(X + rng.integers(-1, 2, X.shape), 0, 255)
        loaded += [X.astype(np.float32) / np.float32(255), y[chosen].astype(np.int64)]
    return tuple(loaded)


def _cifar10(folder: Path) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Return functions for images (part, positions) and for labels (part)."""
    import io

    import numpy as np

    if (folder / "cifar10_jpeg.npz").exists():
        from PIL import Image

        data = np.load(folder / "cifar10_jpeg.npz")

        def decoded(part: str, chosen: Any) -> Any:
            stream, at = data[f"jpeg_{part}"], data[f"offsets_{part}"]
            files = (io.BytesIO(stream[at[i] : at[i + 1]].tobytes()) for i in chosen)
            return np.stack([np.asarray(Image.open(f).convert("RGB")) for f in files])

        return decoded, lambda part: data[f"y_{part}"]
    from sklearn.datasets import fetch_openml

    X, y = fetch_openml(
        "CIFAR_10", version=1, return_X_y=True, as_frame=False, data_home=folder
    )
    X = X.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    rows = {"train": slice(50000), "test": slice(50000, None)}
    return lambda part, chosen: X[rows[part]][chosen], lambda part: y[rows[part]]
