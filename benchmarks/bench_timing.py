"""Whether the time of an answer tells what the answer itself does not.

Questions of two kinds are asked in an order drawn at random, and each answer is timed.
"AUC" is the chance that an answer of the second kind takes longer than one of the first
(0.5: the times tell nothing), with a 95 % interval from a bootstrap over stretches of
time; "of 20" is that of the medians of 20 answers each, what an attacker gains who asks
20 times; KS is the largest distance between the two distribution functions. The
difference is that of the medians.

- *label*: `ConcealedClassifier` tells labels alone; of digits that the model is sure
  of, and of those that it is least sure of (a quarter each).
- *throttled*: an account whose limit is used up, after one whose is not. That one shows
  in the answer, anyway.
- *account*: a name that nobody has used, and one that is known; with a limit alone, and
  with a monitor that remembers 300 of its rows.
- *repeat*: a new row, and an exact repeat of what the account asked before. *others*:
  the same, where somebody else asked it.
- *flagged*: rows that are like nothing before, and rows that the monitor flags, by what
  the guard does then. The action "delay" waits for 0.01 s and is there to compare.
- *nothing*: two kinds that are one. What is told there is noise.

"process" times the call itself: nobody who asks over a network measures as well.
"http" asks over a connection that is kept open to a server on the same machine (uvicorn
behind the middleware, in a thread), about the best that a neighbor in a data center can
do; there "label" and "decoy" are the application's, and "account" is a header. The
audit log goes to a file, as a server would have it. Of twenty pairs that tell nothing
the interval of one leaves out 0.5 by chance. Models are of scikit-learn's digits, 8 x 8
pixels; new rows are uniform noise. Other models, stores and machines have other times.
"""

import gc
import time
from functools import partial
from typing import Any

import numpy as np
from scipy import stats

from benchmarks._harness import Unit, arguments, markdown, unit, version
from benchmarks._pictures import short
from benchmarks._timing_scenes import opened

PACKAGES = ("uvicorn",)
#: Answers whose median an attacker takes.
TOGETHER = 20
#: Stretches of time that the bootstrap draws from, and how often it draws.
STRETCHES, DRAWS = 30, 400

#: What is hidden, by what (model, store or method), and what a guard does.
PAIRS = [
    ("nothing", "logistic", "flag"),
    *(("label", name, "flag") for name in ("logistic", "forest", "neighbors", "net")),
    *(("throttled", store, "flag") for store in ("memory", "sqlite")),
    *(("account", store, "flag") for store in ("memory", "sqlite", "knn")),
    *(("repeat", method, "flag") for method in ("knn", "fingerprint")),
    *(("others", method, "flag") for method in ("knn", "fingerprint")),
    *(("flagged", "knn", action) for action in ("flag", "label", "decoy", "delay")),
    ("flagged", "fingerprint", "flag"),
]
#: Those that are asked over HTTP too.
OVER_HTTP = [
    ("nothing", "logistic", "flag"),
    ("label", "neighbors", "flag"),
    ("account", "sqlite", "flag"),
    ("others", "knn", "flag"),
    ("flagged", "knn", "flag"),
    ("flagged", "fingerprint", "flag"),
]
QUICK = [
    ("nothing", "logistic", "flag", "process"),
    ("label", "neighbors", "flag", "process"),
    ("throttled", "sqlite", "flag", "process"),
    ("account", "memory", "flag", "process"),
    ("account", "knn", "flag", "process"),
    ("others", "knn", "flag", "process"),
    ("flagged", "knn", "delay", "process"),
    ("flagged", "fingerprint", "decoy", "process"),
    ("flagged", "knn", "flag", "http"),
]


def measure(
    *, what: str, by: str, action: str, over: str, answers: int, seed: int
) -> dict[str, Any]:
    """Time answers to questions of both kinds, in turn at random."""
    rng = np.random.default_rng(seed)
    kinds = rng.permutation(np.arange(2 * answers) % 2)
    seconds, kept = np.empty(len(kinds)), np.ones(len(kinds), dtype=bool)
    with opened(what, by, action, over, seed) as (pair, ready, ask):
        for kind in (0, 1) * 20:
            ask(ready(kind))
        gc.collect()
        gc.disable()
        try:
            for i, kind in enumerate(kinds):
                question, before = ready(kind), pair.counted()
                start = time.perf_counter()
                ask(question)
                seconds[i] = time.perf_counter() - start
                if pair.counter:
                    kept[i] = (pair.counted() - before) == kind
        finally:
            gc.enable()
    return told(seconds[kept], kinds[kept]) | {
        "kept": short(kept.mean()),
    }


def auc(seconds: np.ndarray, kinds: np.ndarray) -> float:
    """Return the chance that one of kind 1 takes longer than one of kind 0."""
    ranks = stats.rankdata(seconds)
    n, k = int((kinds == 1).sum()), int((kinds == 0).sum())
    return float((ranks[kinds == 1].sum() - n * (n + 1) / 2) / (n * k))


def medians(seconds: np.ndarray, size: int) -> np.ndarray:
    """Return the medians of so many that follow each other."""
    whole = len(seconds) // size * size
    return np.asarray(np.median(seconds[:whole].reshape(-1, size), axis=1))


def told(seconds: np.ndarray, kinds: np.ndarray) -> dict[str, Any]:
    """Return how well times, in the order they were taken, tell two kinds apart."""
    first, second = seconds[kinds == 0], seconds[kinds == 1]
    if min(len(first), len(second)) < TOGETHER:
        raise RuntimeError("too few questions were of the kind that they should be")
    few = [medians(part, TOGETHER) for part in (first, second)]
    of_few = np.concatenate(few), np.repeat([0, 1], [len(part) for part in few])
    n = min(STRETCHES, len(seconds) // 16)
    stretches = np.array_split(np.arange(len(seconds)), n)
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(DRAWS):
        chosen = rng.integers(n, size=n)
        at = np.concatenate([stretches[i] for i in chosen])
        drawn.append(auc(seconds[at], kinds[at]))
    low, high = np.quantile(drawn, [0.025, 0.975])
    return {
        "auc": short(auc(seconds, kinds)),
        "low": short(low),
        "high": short(high),
        "of_few": short(auc(*of_few)),
        "ks": short(stats.ks_2samp(first, second).statistic),
        "microseconds": [short(1e6 * np.median(part)) for part in (first, second)],
    }


def tasks(quick: bool) -> list[tuple[str, dict[str, Any]]]:
    """Return name and params of each unit."""
    if quick:
        chosen, answers = QUICK, {"process": 40, "http": 40}
    else:
        chosen = [(*pair, "process") for pair in PAIRS]
        chosen += [(*pair, "http") for pair in OVER_HTTP]
        answers = {"process": 4000, "http": 2000}
    keys = ("what", "by", "action", "over")
    return [
        ("-".join((one[3], *one[:3])), dict(zip(keys, one, strict=True)) | rest)
        for one in chosen
        for rest in [{"answers": answers[one[3]], "seed": 0}]
    ]


def table(units: list[Unit]) -> str:
    """Lay out a line a pair."""
    head = ["asked by", "hidden", "by", "action", "AUC", "95 % interval", "of 20"]
    head += ["KS", "microseconds", "difference", "told"]
    order = {pair: i for i, pair in enumerate(PAIRS)}
    rows = []
    for one in sorted(units, key=partial(_place, order)):
        params, found = one["params"], one["figures"]
        first, second = found["microseconds"]
        apart = "no" if found["low"] <= 0.5 <= found["high"] else "yes"
        rows.append(
            [
                *(params[key] for key in ("over", "what", "by")),
                params["action"] if params["what"] == "flagged" else "",
                f"{found['auc']:.3f}",
                f"{found['low']:.3f} to {found['high']:.3f}",
                f"{found['of_few']:.2f}",
                f"{found['ks']:.2f}",
                f"{first:.0f}, {second:.0f}",
                f"{second - first:+.0f}",
                apart,
            ]
        )
    return f'"told" is "no" where the interval holds 0.5.\n\n{markdown(head, rows)}'


def _place(order: dict[Any, int], one: Unit) -> tuple[bool, int]:
    params = one["params"]
    pair = tuple(params[key] for key in ("what", "by", "action"))
    return params["over"] == "http", order.get(pair, 99)


def main() -> None:
    given = arguments(__doc__)
    units = []
    for name, params in tasks(given.quick):
        if not name.startswith(given.only):
            continue
        if params["over"] == "http" and version("uvicorn") is None:
            print(f"uvicorn is not installed, so {name} is left out")
            continue
        units.append(
            unit("timing", name, params, measure, given.quick, packages=PACKAGES)
        )
    print(table(units))


if __name__ == "__main__":
    main()
