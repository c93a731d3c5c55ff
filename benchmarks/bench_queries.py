"""Attackers who ask: what of them is noticed, what it costs them, what it costs others.

Victims: on MNIST and CIFAR-10 (28 x 28, off the grid of its JPEG copies) small nets of
two convolutions of stride 2; on the breast cancer table, scaled to [0, 1], logistic
regression. Monitors are fitted on rows that no model has learned from, for 0.1 % of
false positives a query (0.5 % on the table, which is small) with a history of the size
stated. Attackers begin at rows that the model gets right. RandomSearch and NES (pairs
of 20 probes, sigma 0.001) have scores and a ball in Linf, HopSkipJump and foolbox's
Boundary attack labels and a ball in L2; an attack succeeds when it is told of a wrong
label inside the ball.

- *Noticed*: attackers who ignore the monitor, whose action is "flag", so that their
  queries are the same with it and without. Each has an account; the history holds
  genuine rows of others, and the attacks before. "before any alarm" counts attacks that
  had succeeded by then.
- *Nothing similar*: an attacker who asks about a thousand genuine rows, trains a copy
  on the labels, attacks the copy (PGD), and asks about the outcome.
- *False alarms*: sessions of 1,024 queries by one account, with the history at 1, 10
  and 100 times the size that the threshold was made for. Near-duplicates are 64 rows in
  16 variants each (another brightness, one level of noise). For explanation tools stand
  two samplers that ask in their way, not the tools: masks of a grid of 4 x 4 cells at
  random (LIME), and coalitions of cells by their weight (KernelSHAP). Retries are 256
  rows asked four times each.
- *Actions*: attackers who do not know of the guard, on MNIST.
- *Who knows it*: random search that adapts, after OARS (arXiv:2303.06280): any
  difference in an answer tells him that he is noticed, and he draws proposals so far
  apart that they are not. For the attacks of its authors, on their data, success was
  published as 77.6 % against Blacklight and 4.08 % against query provenance analysis
  (arXiv:2405.20641); figures here are of another attack, other data, and not comparable
  point by point.
- *Less feedback* and *knowledge*: no monitor; what scores, rounded scores, the top one
  and labels are worth to RandomSearch (HopSkipJump in Linf for labels alone), and how
  often PGD on a copy succeeds by what the attacker knows. A copy is trained on answers.
- *A guard without monitor*: ``admit`` is all that the guard does before it asks the
  model: it checks the row, finds the account and takes its debit.
- *Speed*: one monitored query of 32 x 32 x 3 with a million remembered, beside a
  straightforward version of the description of Blacklight (arXiv:2006.14042: SHA-256 of
  each window, a dict from hash to queries). Histories are filled with simulated
  fingerprints, the straightforward one with a tenth as many, for want of memory.

Shares are of as many attacks as stated; one of 50 is good to 14 points either way (95
%), one of 200 to 7. An attack that was not run may do better.
"""

import contextlib
import functools
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.frozen import FrozenEstimator

from benchmarks import _query_costs, _query_speed
from benchmarks._harness import arguments, unit
from benchmarks._pictures import short
from benchmarks._query_attacks import (
    NORMS,
    Oracle,
    Spent,
    Watcher,
    adaptive_search,
    run,
)
from benchmarks._query_clients import CLIENTS
from benchmarks._query_scenes import SETS, alarms, monitor, remembering, scene
from benchmarks._query_tables import table
from sk_advdef import GuardedClassifier

__all__ = ["main", "table"]

PACKAGES = ("foolbox", "redis")
METHODS = ("knn", "fingerprint", "provenance")
#: Units of the quick form: one of each kind, with little data.
QUICK = (
    "noticed-digits-",
    "noticed-cancer-boundary-knn",
    "unrelated-cancer",
    "honest-digits-fingerprint-shared-10",
    "honest-cancer-knn",
    "actions-random-reject",
    "actions-hop-skip-jump-decoy",
    "knows-knn-decoy",
    "knows-fingerprint-label-one",
    "knows-fingerprint-delay",
    "knows-fingerprint-reject-many",
    "feedback-top",
    "feedback-label",
    "known",
    "speed-",
)


@functools.lru_cache(maxsize=1)
def streams(
    data: str, attack: str, victims: int, budget: int, folder: Path | None
) -> list[Oracle]:
    """Return what attackers ask who are answered as if there were no guard."""
    given = scene(data, folder)
    norm = NORMS[attack]
    found = []
    for seed, (x, label) in enumerate(
        zip(given.victims[:victims], given.labels[:victims], strict=True)
    ):
        oracle = Oracle(
            given.model,
            x,
            label,
            radius=SETS[data][norm],
            norm=norm,
            budget=budget,
            keep=True,
        )
        found.append(run(attack, oracle, seed))
    return found


def summary(first: np.ndarray) -> dict[str, Any]:
    """Share noticed, and the first alarm among all, unnoticed ones at infinity."""
    ordered = np.sort(first)
    place = min(len(first) - 1, int(np.ceil(0.95 * len(first))) - 1)
    return {
        "noticed": short(np.isfinite(first).mean()),
        "median": short(np.median(first)),
        "p95": short(ordered[place]),
    }


def noticed(
    *,
    data: str,
    attack: str,
    method: str,
    history: int,
    victims: int,
    budget: int,
    folder: Path | None,
    **_: Any,
) -> dict[str, Any]:
    """When attackers are first noticed."""
    asked = streams(data, attack, victims, budget, folder)
    detector = monitor(data, method, "corroborated", history, folder)
    watch = remembering(detector, scene(data, folder).history[:history])
    first, told = np.full(len(asked), np.inf), np.full(len(asked), np.inf)
    for i, oracle in enumerate(asked):
        flagged = alarms(
            detector, watch, np.concatenate(oracle.rows), f"attacker {i}", first=True
        )
        if flagged.any():
            first[i] = flagged.argmax() + 1
        if oracle.told_at:
            told[i] = oracle.told_at
    return summary(first) | {
        "attacks": len(asked),
        "succeeds": short(np.isfinite(told).mean()),
        "before": short((told < first).mean()),
        "queries": short(np.mean([min(o.asked, budget) for o in asked])),
        "threshold": short(detector.offset_),
    }


def unrelated(
    *,
    data: str,
    history: dict[str, int],
    asks: int,
    victims: int,
    folder: Any,
    **_: Any,
) -> dict[str, Any]:
    """What is seen of one who asks about genuine rows and attacks a copy."""
    given = scene(data, folder)
    copied = _query_costs.copy_of(given.model, given.sessions[:asks], data, "label")
    X, y = given.victims[:victims], given.labels[:victims]
    made = _query_costs.attacked(copied, X, y, SETS[data]["linf"])
    figures: dict[str, Any] = {
        "agreement": short(
            (copied.predict(given.victims) == given.model.predict(given.victims)).mean()
        ),
        "succeeds": short((given.model.predict(made) != y).mean()),
        "queries": asks + len(made),
        "alarms": {},
    }
    asked = np.concatenate([given.sessions[:asks], made])
    for method, size in history.items():
        detector = monitor(data, method, "corroborated", size, folder)
        watch = remembering(detector, given.history[:size])
        flagged = alarms(detector, watch, asked, "mallory")
        figures["alarms"][method] = int(flagged.sum())
    return figures


def false_alarms(
    *,
    data: str,
    method: str,
    scope: str,
    history: int,
    times: int,
    sessions: dict[str, int],
    length: int,
    folder: Path | None,
    **_: Any,
) -> dict[str, Any]:
    """Share of queries, and of sessions, of honest clients that are flagged."""
    given = scene(data, folder)
    detector = monitor(data, method, scope, history, folder)
    size = min(history * times, len(given.history))
    watch = remembering(detector, given.history[:size])
    figures: dict[str, Any] = {"remembered": size}
    rng = np.random.default_rng(0)
    rows = given.sessions
    for name, count in sessions.items():
        flagged = []
        for i in range(count):
            # each session has rows that no other one asked
            own, rows = CLIENTS[name](rows, length, rng)
            flagged.append(alarms(detector, watch, own, f"{name} {i}"))
        figures[name] = {
            "sessions": count,
            "query": short(np.concatenate(flagged).mean()),
            "session": short(np.mean([one.any() for one in flagged])),
            "first": short(
                np.median(
                    [one.argmax() + 1 if one.any() else np.inf for one in flagged]
                )
            ),
        }
    return figures


def guarded(
    data: str, method: str, scope: str, history: int, action: str, folder: Path | None
) -> GuardedClassifier:
    """Return a guard that remembers nothing yet."""
    detector = monitor(data, method, scope, history, folder)
    return GuardedClassifier(
        FrozenEstimator(scene(data, folder).model),
        monitor=FrozenEstimator(detector),
        action=action,
        delay=0.0,
    )


def victims_of(data: str, norm: str, count: int, budget: int, folder: Any) -> Any:
    """Yield a seed and an oracle, the guard left out."""
    given = scene(data, folder)
    for seed in range(count):
        yield (
            seed,
            Oracle(
                given.model,
                given.victims[seed],
                given.labels[seed],
                radius=SETS[data][norm],
                norm=norm,
                budget=budget,
            ),
        )


def outcome(oracles: list[Oracle]) -> dict[str, Any]:
    told = np.array([o.told_at or np.inf for o in oracles])
    return {
        "attacks": len(oracles),
        "succeeds": short(np.isfinite(told).mean()),
        "median": short(np.median(told)),
        "refused": short(
            sum(o.refused for o in oracles) / sum(o.asked for o in oracles)
        ),
    }


def actions(
    *,
    data: str,
    attack: str,
    method: str,
    history: int,
    action: str,
    victims: int,
    budget: int,
    folder: Path | None,
    **_: Any,
) -> dict[str, Any]:
    """Attacks that still succeed, by one who does not know of the guard."""
    oracles, suspicious = [], []
    for seed, oracle in victims_of(data, NORMS[attack], victims, budget, folder):
        if action != "none":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)
                guard = guarded(data, method, "corroborated", history, action, folder)
                guard._open()
            oracle.guard = guard
        oracles.append(run(attack, oracle, seed))
        suspicious.append(0 if oracle.guard is None else _flagged(oracle.guard))
    asked = [min(o.asked, budget) for o in oracles]
    return outcome(oracles) | {"flagged": short(sum(suspicious) / sum(asked))}


def _flagged(guard: GuardedClassifier) -> int:
    return guard.stats()["suspicious_rows"]


def knows(
    *,
    data: str,
    method: str,
    history: int,
    action: str,
    accounts: str,
    scope: str,
    victims: int,
    budget: int,
    folder: Path | None,
    **_: Any,
) -> dict[str, Any]:
    """Attacks that still succeed, by one who knows of the guard."""
    oracles, waited, suspicious = [], 0.0, []
    for seed, oracle in victims_of(data, "linf", victims, budget, folder):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            guard = guarded(data, method, scope, history, action, folder)
            guard._open()
        oracle.guard = guard
        watcher = Watcher(oracle, action, accounts, delay=1.0)
        with contextlib.suppress(Spent):
            adaptive_search(watcher, seed=seed)
        oracles.append(oracle)
        waited += watcher.waited
        suspicious.append(_flagged(guard))
    asked = [min(o.asked, budget) for o in oracles]
    return outcome(oracles) | {
        "flagged": short(sum(suspicious) / sum(asked)),
        "unnoticed": short(np.mean([n == 0 for n in suspicious])),
        "seconds": short(waited / len(oracles)),
    }


def tasks(quick: bool) -> list[tuple[str, dict[str, Any], Any]]:
    """Return (name, params, function) of all units, the most telling first."""
    found: list[tuple[str, dict[str, Any], Any]] = []
    sizes = {"knn": 200, "fingerprint": 400, "provenance": 200}
    victims, budget, sets = 200, 300, ("mnist", "cifar10", "cancer")
    if quick:
        sizes = dict.fromkeys(METHODS, 50)
        victims, budget, sets = 3, 60, ("digits", "cancer")
    first = sets[0]
    for data in sets:
        own = {"data": data, "victims": victims, "budget": budget, "seeds": "0.."}
        own |= {"ball": {n: SETS[data][n] for n in ("linf", "l2")}}
        own["victims"] = min(victims, 100) if data == "cancer" else victims
        for attack in NORMS:
            for method in METHODS:
                params = {**own, "attack": attack, "method": method}
                params["history"] = _size(data, method, sizes)
                found.append((f"noticed-{data}-{attack}-{method}", params, noticed))
        sizes_here = {method: _size(data, method, sizes) for method in METHODS}
        asks = {
            "history": sizes_here,
            "asks": 100 if data == "cancer" or quick else 1000,
        }
        found.append((f"unrelated-{data}", {**own, **asks}, unrelated))
    found += _guards(quick, first, sizes)
    found += _honest(quick, sets, sizes)
    found += _query_costs.tasks(quick, first)
    found += _query_speed.tasks(quick)
    return [task for task in found if not quick or task[0].startswith(QUICK)]


def _size(data: str, method: str, sizes: dict[str, int]) -> int:
    """Return the size of a history; the table has few rows to make it of."""
    return min(sizes[method], 200) if data == "cancer" else sizes[method]


def _guards(quick: bool, data: str, sizes: dict[str, int]) -> list[Any]:
    """Units with a guard that acts; who is only flagged is answered as ever."""
    victims, budget = (2, 40) if quick else (25, 2000)
    found: list[Any] = []
    for attack, tried in (
        ("random", ("none", "reject", "label", "flag", "decoy")),
        ("hop-skip-jump", ("none", "reject", "decoy")),
    ):
        for action in tried:
            params = {"data": data, "attack": attack, "method": "fingerprint"}
            params |= {"history": sizes["fingerprint"], "action": action}
            params |= {"victims": victims, "budget": budget, "seeds": "0.."}
            params |= {"ball": SETS[data][NORMS[attack]]}
            found.append((f"actions-{attack}-{action}", params, actions))
    victims, budget = (2, 40) if quick else (20, 500)
    for method in METHODS:
        tried = ("reject", "decoy", "label")
        if method == "fingerprint":
            tried += ("delay", "flag")
        for action in tried:
            for accounts, scope in (("one", "corroborated"), ("many", "shared")):
                if action in ("delay", "flag") and accounts == "many":
                    continue
                params = {"data": data, "method": method, "history": sizes[method]}
                params |= {"action": action, "accounts": accounts, "scope": scope}
                params |= {"victims": victims, "budget": budget, "seeds": "0.."}
                params |= {"ball": SETS[data]["linf"]}
                name = f"knows-{method}-{action}-{accounts}"
                found.append((name, params, knows))
    return found


def _honest(quick: bool, sets: tuple[str, ...], sizes: dict[str, int]) -> list[Any]:
    found: list[Any] = []
    for data in sets:
        for method in METHODS:
            if data == "cifar10" and method != "fingerprint":
                continue  # minutes each, for rows that the method is not made for
            for scope in ("shared", "corroborated"):
                for times in (1, 10, 100):
                    if data == "cancer" and times > 1:
                        continue  # has too few rows
                    long = times == 100 and method != "fingerprint"
                    sessions = {"shuffled": 2 if long else 8, "near-duplicates": 1}
                    sessions |= {"lime": 1, "kernelshap": 1, "retries": 1}
                    if quick:
                        sessions["shuffled"] = 2
                    length = 32 if quick else 1024
                    if data == "cancer":
                        sessions, length = {"shuffled": 1, "retries": 1}, 128
                    params = {"data": data, "method": method, "scope": scope}
                    size = _size(data, method, sizes)
                    params |= {"history": size, "times": times}
                    params |= {"sessions": sessions, "length": length, "seed": 0}
                    name = f"honest-{data}-{method}-{scope}-{times}"
                    found.append((name, params, false_alarms))
    return found


def main() -> None:
    given = arguments(__doc__)
    bench = partial(unit, "queries", quick=given.quick, packages=PACKAGES)
    units = [
        bench(name, params, partial(function, folder=given.data))
        for name, params, function in tasks(given.quick)
        if name.startswith(given.only)
    ]
    print(table(units))


if __name__ == "__main__":
    main()
