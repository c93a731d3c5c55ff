"""Squeezers: ours, ART's, scipy's, OpenCV's and Pillow's, in float32.

Batches of 28x28x1, 32x32x3 and 224x224x3, channels last, values in [0, 1]. Everything
runs on one thread but "ours, n_jobs=2", and each library as its documentation calls it:
where it takes one image at a time, in a loop. Targets are for one thread.

- "median 3x3": ours is `MedianSqueezer(3)`, ART's `SpatialSmoothing`, scipy's
  `median_filter` of the whole batch, OpenCV's `medianBlur`.
- "JPEG": quality 75; ours is `JpegSqueezer`, ART's `JpegCompression`, OpenCV's
  `imencode` and `imdecode`, Pillow alone one image after the other.
- "bit depth": 4 bits; ours is `BitDepthSqueezer`, ART's `FeatureSqueezing`; beside them
  a plain copy of the array.
- "blur": sigma 1; ours is `BlurSqueezer`, scipy's `gaussian_filter` of the whole batch,
  OpenCV's `GaussianBlur` with a kernel and a border as scipy's. ART has none.

Ours checks its input as scikit-learn does, NaN and infinity included, and that is in
its times. Before the clock starts, ours and all others must equal the reference: scipy,
Pillow, or the formula. The values of JPEG lie where rounding and ART's cutting give the
same byte; OpenCV's median repeats pixels at borders where scipy reflects them, so a
border is left out there.

Candidates run in turn, round by round, on batches that change at every call; a factor
compares two of the same round. Figures are medians, with the lowest and the highest.
Memory is what the process of a call of `transform` on a larger batch takes beside its
input, the output included, as multiples of the input.
"""

import io
import itertools
import subprocess
import sys
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage
from threadpoolctl import threadpool_limits

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
from sk_advdef import BitDepthSqueezer, BlurSqueezer, JpegSqueezer, MedianSqueezer

OURS, OURS_2 = "ours", "ours, n_jobs=2"
OTHERS = (OURS_2, "ART", "scipy", "OpenCV", "Pillow", "copy")
PACKAGES = ("adversarial-robustness-toolbox", "opencv-python-headless", "pillow")

SMALL, COLOR, LARGE = [28, 28, 1], [32, 32, 3], [224, 224, 3]
QUALITY, BITS, SIGMA = 75, 4, 1.0
#: Largest difference from the reference: rounding in float32.
TOLERANCE = 1e-5

#: How many times as fast as these ours is to be, by side of the image.
TARGETS: dict[str, dict[str, dict[int, float]]] = {
    "median 3x3": {"ART": {28: 8, 32: 8, 224: 8}, "scipy": {28: 3, 32: 3, 224: 3}},
    "JPEG": {"ART": {28: 4, 32: 4, 224: 4}},
    "bit depth": {
        "ART": {28: 8, 32: 8, 224: 8},
        "copy": {28: 1 / 3, 32: 1 / 3, 224: 1 / 3},
    },
    "blur": {"scipy": {28: 2, 32: 2, 224: 1}},
}
#: Memory beside the input, in inputs.
MOST_MEMORY = 2.0
STATUS = Path("/proc/self/status")

Way = Callable[[np.ndarray], np.ndarray]


def squeezer(kind: str) -> Any:
    """Return ours."""
    return {
        "median 3x3": MedianSqueezer(3),
        "JPEG": JpegSqueezer(QUALITY, value_range=(0, 1)),
        "bit depth": BitDepthSqueezer(BITS, value_range=(0, 1)),
        "blur": BlurSqueezer(SIGMA),
    }[kind]


def references(kind: str) -> dict[str, Way]:
    """Return those that are always there; the first is what all must equal."""
    if kind == "median 3x3":
        size = (1, 3, 3, 1)
        return {"scipy": lambda X: ndimage.median_filter(X, size, mode="reflect")}
    if kind == "JPEG":
        return {"Pillow": with_pillow}
    if kind == "bit depth":
        steps = np.float32(2**BITS - 1)
        return {"formula": lambda X: np.rint(X * steps) / steps, "copy": np.copy}
    sigmas = (0, SIGMA, SIGMA, 0)
    return {"scipy": lambda X: ndimage.gaussian_filter(X, sigmas, mode="reflect")}


def with_pillow(X: np.ndarray) -> np.ndarray:
    """Encode and decode image after image."""
    codes = np.rint(X * 255).astype(np.uint8)
    back = np.empty_like(codes)
    for image, place in zip(codes, back, strict=True):
        file = io.BytesIO()
        pixels = image[..., 0] if image.shape[-1] == 1 else image
        Image.fromarray(pixels).save(file, format="JPEG", quality=QUALITY)
        place[...] = np.asarray(Image.open(file)).reshape(place.shape)
    return back / np.float32(255)


def with_art(kind: str) -> Way | None:
    """Return ART's, if it has one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what ART imports
        from art.defences import preprocessor as art

    if kind == "median 3x3":
        defence = art.SpatialSmoothing(window_size=3)
    elif kind == "JPEG":
        defence = art.JpegCompression(clip_values=(0, 1), quality=QUALITY)
    elif kind == "bit depth":
        defence = art.FeatureSqueezing(clip_values=(0, 1), bit_depth=BITS)
    else:
        return None
    return lambda X: defence(X)[0]


def with_opencv(kind: str) -> Way | None:
    """Return OpenCV's, if it has one, image after image."""
    import cv2

    cv2.setNumThreads(1)
    quality = [cv2.IMWRITE_JPEG_QUALITY, QUALITY]

    def jpeg(image: np.ndarray) -> Any:
        # its colors are in the order blue, green, red
        codes = np.rint(image * 255).astype(np.uint8)[..., ::-1]
        _, code = cv2.imencode(".jpg", codes, quality)
        back: Any = cv2.imdecode(code, cv2.IMREAD_UNCHANGED)
        return back[..., ::-1] / np.float32(255) if back.ndim == 3 else back / 255

    radius = int(4 * SIGMA + 0.5)
    size = (2 * radius + 1, 2 * radius + 1)
    ways: dict[str, Callable[[np.ndarray], Any]] = {
        "median 3x3": lambda image: cv2.medianBlur(image, 3),
        "JPEG": jpeg,
        "blur": lambda image: cv2.GaussianBlur(
            image, size, SIGMA, borderType=cv2.BORDER_REFLECT
        ),
    }
    if kind not in ways:
        return None

    def run(X: np.ndarray) -> np.ndarray:
        out = np.empty_like(X)
        for image, place in zip(X, out, strict=True):
            place[...] = ways[kind](image).reshape(place.shape)
        return out

    return run


def candidates(kind: str, X: np.ndarray) -> dict[str, Way]:
    """Return all that can be compared here, ours first."""
    ways: dict[str, Way] = {
        OURS: squeezer(kind).fit(X).transform,
        OURS_2: squeezer(kind).set_params(n_jobs=2).fit(X).transform,
    }
    for name, package, build in (
        ("ART", "adversarial-robustness-toolbox", with_art),
        ("OpenCV", "opencv-python-headless", with_opencv),
    ):
        if version(package) is None:
            print(f"{name} is not installed, so it is left out")
        elif (way := build(kind)) is not None:
            ways[name] = way
    return ways | references(kind)


def check(kind: str, ways: dict[str, Way], X: np.ndarray) -> dict[str, float]:
    """Refuse to time what does not do the same; return differences."""
    name, reference = next(iter(references(kind).items()))
    expected = reference(X)
    differences = {}
    for candidate, way in ways.items():
        if candidate in (name, "copy"):
            continue
        found, wanted = way(X), expected
        if (kind, candidate) == ("median 3x3", "OpenCV"):
            found, wanted = found[:, 1:-1, 1:-1], expected[:, 1:-1, 1:-1]
        difference = float(np.abs(found - wanted).max())
        if not difference <= TOLERANCE:
            raise RuntimeError(
                f"{kind}: {candidate} is {difference:.2g} from {name}, more than "
                f"{TOLERANCE}: nothing is reported."
            )
        differences[candidate] = float(f"{difference:.2g}")
    return differences


def batches(n: int, shape: list[int], seed: int) -> list[np.ndarray]:
    """Return two batches of smooth images with noise."""
    rng = np.random.default_rng(seed)
    height, width, _ = shape
    waves = (
        np.sin(np.arange(height) / 5)[:, None, None]
        * np.cos(np.arange(width) / 7)[:, None]
    )
    found = []
    for _ in range(2):
        noise = rng.normal(size=(n, *shape)) / 10
        codes = np.rint(255 * np.clip(0.5 + waves / 3 + noise, 0, 0.99))
        # where ART, which cuts, and we, who round, take the same byte
        found.append(((codes + 0.25) / 255).astype(np.float32))
    return found


def measure(
    *,
    kind: str,
    shape: list[int],
    images: int,
    memory_images: int,
    rounds: int,
    at_least: float,
    seed: int,
    **_: Any,
) -> dict[str, Any]:
    """Check and time all candidates for one kind on images of one size."""
    two = batches(images, shape, seed)
    with threadpool_limits(1):
        ways = candidates(kind, two[0])
        differences = check(kind, ways, two[0])
        ways.pop("formula", None)
        runs = {name: on_batches(way, two) for name, way in ways.items()}
        seconds = time_in_turn(runs, rounds, at_least=at_least)
    micro = {n: spread(1e6 * s / images for s in v) for n, v in seconds.items()}
    return {
        "max_difference": differences,
        "microseconds_an_image": micro,
        "factors": {n: spread(v) for n, v in ratios(seconds, to=OURS).items()},
        "memory_in_inputs": memory(kind, [memory_images, *shape]),
    }


def on_batches(way: Way, two: list[np.ndarray]) -> Callable[[], Any]:
    """Return a call on the next batch: a cache that outlives a call must not help."""
    rows = itertools.cycle(two)
    return lambda: way(next(rows))


def memory(kind: str, shape: list[int]) -> float | None:
    """Return the peak beside the input, in inputs; None where no system tells."""
    if not STATUS.exists():
        return None
    code = f"from benchmarks.bench_squeezers import peak; peak({kind!r}, {shape})"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    return float(run.stdout)


def peak(kind: str, shape: list[int]) -> None:
    """Print the memory that a call took: run in a process of its own."""
    X = np.full(shape, 0.5, dtype=np.float32)
    X[...] += np.linspace(0, 0.4, shape[1], dtype=np.float32)[:, None, None]
    with threadpool_limits(1):
        fitted = squeezer(kind).fit(X[:2])
        fitted.transform(X[:2])
        before = _status("VmRSS")
        fitted.transform(X)
    print(f"{(_status('VmHWM') - before) / X.nbytes:.3g}")


def _status(name: str) -> int:
    """Return a line of what Linux tells about this process, in bytes."""
    (line,) = (x for x in STATUS.read_text().splitlines() if x.startswith(f"{name}:"))
    return 1024 * int(line.split()[1])


def table(units: list[Unit]) -> str:
    """Return the tables of RESULTS.md, a kind each."""
    parts = []
    for kind in TARGETS:
        found = [unit for unit in units if unit["params"]["kind"] == kind]
        found.sort(key=lambda unit: (unit["params"]["shape"], unit["params"]["images"]))
        if found:
            parts.append(_table(kind, found))
    return "\n\n".join(parts)


def _table(kind: str, units: list[Unit]) -> str:
    rows = [row for unit in units for row in _rows(unit)]
    head = ["images", "", "microseconds an image", "times ours", "target"]
    ahead = []
    for known in units:
        factor = known["figures"]["factors"].get("OpenCV", {"median": 1})["median"]
        if factor < 1:
            ahead.append(f"{_batch(known)} ({1 / factor:.1f} times as fast as ours)")
    note = f"\n\nOpenCV is ahead at {', '.join(ahead)}." if ahead else ""
    return f"{kind}:\n\n{markdown(head, rows)}{note}"


def _batch(unit: Unit) -> str:
    params = unit["params"]
    return f"{params['images']} of {'x'.join(map(str, params['shape']))}"


def _rows(unit: Unit) -> list[list[str]]:
    figures, kind = unit["figures"], unit["params"]["kind"]
    rows = []
    for name in (OURS, *OTHERS):
        if name in figures["factors"]:
            times = figures["microseconds_an_image"][name], figures["factors"][name]
            rows.append([*(_range(found) for found in times), _target(name, unit)])
        elif name in TARGETS[kind] or (name == "OpenCV" and kind != "bit depth"):
            rows.append(["not installed", "", ""])
        else:
            continue
        rows[-1][:0] = [_batch(unit), name]
    return rows


def _target(name: str, unit: Unit) -> str:
    figures, params = unit["figures"], unit["params"]
    if name == OURS:
        return _met(
            figures["memory_in_inputs"], f"memory at most {MOST_MEMORY:g} inputs"
        )
    if name not in TARGETS[params["kind"]]:
        return ""
    least = TARGETS[params["kind"]][name][params["shape"][0]]
    met = "met" if figures["factors"][name]["median"] >= least else "missed"
    return f"at least {least:.3g}: {met}"


def _met(inputs: float | None, target: str) -> str:
    if inputs is None:
        return "memory not measured"
    met = "met" if inputs <= MOST_MEMORY else "missed"
    return f"{target}: {inputs:.2f}, {met}"


def _range(found: dict[str, float]) -> str:
    median, low, high = (f"{found[k]:.3g}" for k in ("median", "low", "high"))
    return f"{median} ({low} to {high})"


def main() -> None:
    quick = arguments(__doc__).quick
    run = partial(unit, "squeezers", function=measure, quick=quick, packages=PACKAGES)
    # batches that a cache holds, and batches as large as a test set
    sizes = [(SMALL, 1000, 7), (COLOR, 1000, 7), (LARGE, 32, 7)]
    sizes += [(SMALL, 10000, 5), (COLOR, 10000, 5), (LARGE, 200, 5)]
    params = {"at_least": 0.3, "seed": 0}
    if quick:
        sizes, params = [(COLOR, 20, 2)], {"at_least": 0.01, "seed": 0}
    units = []
    for kind, (shape, images, rounds) in itertools.product(TARGETS, sizes):
        # 160 MB: blocks and what Python takes are small beside it
        many = images if quick else round(4e7 / np.prod(shape))
        name = f"{kind.replace(' ', '-').lower()}-{shape[0]}-{images}"
        known = {"kind": kind, "shape": shape, "images": images, "memory_images": many}
        units.append(run(name=name, params=known | {"rounds": rounds} | params))
    print(table(units))


if __name__ == "__main__":
    main()
