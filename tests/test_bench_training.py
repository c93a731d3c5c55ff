"""The benchmark of adversarial training: its quick form, and what its tables say."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import RandomForestClassifier
from sklearn.preprocessing import MinMaxScaler

from benchmarks import (
    _harness,
    _others,
    _robust_trees,
    _training_tables,
    bench_training,
)
from benchmarks._pictures import StrideNet, pictures, trained
from benchmarks._training_nets import shifted

ROOT = Path(__file__).parents[1]


@pytest.mark.bench
def test_training_runs_quickly():
    before = sorted(_harness.RESULTS.rglob("*"))
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.bench_training", "--quick"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert not run.returncode, run.stderr
    for title in ("MNIST, Linf 0.3", "Collapse of", "Any classifier", "A class of its"):
        assert title in run.stdout
    assert "Time of an epoch" in run.stdout and "| ART |" in run.stdout
    assert sorted(_harness.RESULTS.rglob("*")) == before


def test_fused_passes_answer_as_the_model_does():
    X, y, _, _ = pictures("digits", None, 60, 10)
    model = trained(StrideNet, X, y, 1)
    plain = _others.AsNet(model, X.shape[1:])
    fused = _others.AsNet(model, X.shape[1:]).fuse(torch.tensor(X[:8]))
    for rows in (torch.tensor(X), torch.tensor(X[-1:])):  # of other batch sizes
        with torch.no_grad():
            torch.testing.assert_close(fused(rows), plain(rows))
    rows.requires_grad_()
    assert fused(rows).sum().backward() is None and rows.grad.abs().max() > 0


def test_images_are_moved_whole():
    """Nothing but where a picture lies changes, and what leaves it is gone."""
    X, y, _, _ = pictures("digits", None, 40, 10)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        moved, labels = shifted(list(zip(X, y, strict=True)), reach=2)
    assert labels.tolist() == y.tolist() and moved.dtype == torch.float32
    seen = set()
    for image, found in zip(X, moved.numpy(), strict=True):
        wide = np.pad(image, 2)
        ways = {
            (i - 2, j - 2)
            for i in range(5)
            for j in range(5)
            if np.array_equal(wide[i : i + 28, j : j + 28], found)
        }
        assert ways
        seen |= ways
    assert len(seen) > 15


def test_units_have_names_of_their_own():
    for quick in (True, False):
        names = [name for name, _, _ in bench_training.tasks(quick, None)]
        assert len(set(names)) == len(names)
    assert {name.split("-")[0] for name in names} == {
        "mnist",
        "collapse",
        "any",
        "forests",
        "class",
        "speed",
    }


def leading(attacked, certified=0.0):
    units = []
    for seed, share in enumerate(attacked):
        name = f"mnist-short-{seed}"
        figures = {"minutes": 9.5, "plain_epochs": 90.0}
        machine = {"cores": 2, "torch_threads": 2 if seed else 1}
        units.append({"name": f"{name}-train", "figures": figures, "machine": machine})
        for part in range(4):
            figures = {"rows": 2500, "clean": 0.98, "attacked": share}
            figures["certified"] = certified
            units.append({"name": f"{name}-rows-{part}", "figures": figures})
    return units


def test_the_interval_is_held_against_the_target():
    low, high = _training_tables.interval([0.89, 0.891, 0.892])
    assert low == pytest.approx(0.891 - 4.303 * 1e-3 / 3**0.5, abs=1e-6)
    assert high - 0.891 == pytest.approx(0.891 - low)
    text = _training_tables.table(leading([0.89, 0.891, 0.892]))
    assert "short, 3 seeds: 89.10%" in text and "88.5%: met" in text
    assert "OUT OF ORDER" not in text and text.count("| 10000 |") == 3
    assert "| 9.5 on 1 of 2 cores |" in text and text.count("| 9.5 |") == 2
    missed = _training_tables.table(leading([0.89, 0.91, 0.92]))
    assert "88.5%: missed" in missed
    # a single seed has no interval, and what is proved cannot exceed what is held
    assert "88.5%: missed" in _training_tables.table(leading([0.95]))
    assert "OUT OF ORDER" in _training_tables.table(leading([0.5], certified=0.6))


def test_losses_and_collapses_are_said():
    def row(before, after):
        figures = {"rounds": 2, "before": before, "after": after}
        params = {"data": "digits", "model": "svc", "eps": 0.1, "rounds": 6}
        return {"name": "any-digits-svc", "figures": figures, "params": params}

    good, bad = {"clean": 0.9, "attacked": 0.5}, {"clean": 0.9, "attacked": 0.4}
    assert "gains (+10.0" in _training_tables.table([row(bad, good)])
    assert "LOSES (-10.0" in _training_tables.table([row(good, bad)])
    assert "no change" in _training_tables.table([row(good, good)])

    def seed(number, attacked):
        figures = {"clean": 0.98, "single_step": 0.9, "attacked": attacked}
        params = {"method": "fast", "seed": number}
        figures["warned"] = False
        return {"name": f"collapse-fast-{number}", "figures": figures, "params": params}

    units = [seed(0, 0.8), seed(1, 0.1)]
    text = _training_tables.table(units)
    assert 'no collapse in 2 seeds of "fast": missed' in text
    assert "met" in _training_tables.table(units[:1])
    units = [{"name": "speed-memory", "figures": {"mebibytes": {"plain": 1, "pgd": 2}}}]
    assert "at most 1.2 times plain (2.00): missed" in _training_tables.table(units)


def test_relabelling_keeps_a_largest_set_without_conflict():
    """Beside all sets of nine rows."""
    rng = np.random.default_rng(0)

    def meets(reached, codes, rows):
        sides = [reached[rows & (codes == code)].any(axis=0) for code in (0, 1)]
        return (sides[0] & sides[1]).any()

    sets = [np.array([n >> i & 1 for i in range(9)], dtype=bool) for n in range(512)]
    for _ in range(30):
        reached, codes = rng.random((9, 5)) < 0.3, rng.integers(0, 2, 9)
        kept = _robust_trees.consistent(reached, codes)
        free = [rows.sum() for rows in sets if not meets(reached, codes, rows)]
        assert not meets(reached, codes, kept) and kept.sum() == max(free)


def test_leaves_that_are_reached():
    X, y = load_breast_cancer(return_X_y=True)
    X = MinMaxScaler().fit_transform(X)
    forest = RandomForestClassifier(3, random_state=0).fit(X, y)
    tree = forest.estimators_[0]
    reached = _robust_trees.reachable(tree.tree_, X, 0.05)
    rng = np.random.default_rng(0)
    for _ in range(20):
        moved = np.clip(X + rng.uniform(-0.05, 0.05, X.shape), 0, 1)
        assert reached[np.arange(len(X)), tree.apply(moved)].all()
    still = _robust_trees.reachable(tree.tree_, X, 0.0)
    np.testing.assert_array_equal(still.argmax(axis=1), tree.apply(X))
    assert (still.sum(axis=1) == 1).all()
    # rows that can be moved nowhere else keep their labels
    same = _robust_trees.relabelled(forest, X, y, 0.0)
    assert same.score(X, y) >= forest.score(X, y) - 0.01
    before = RandomForestClassifier(3, random_state=0).fit(X, y).estimators_[0]
    np.testing.assert_array_equal(tree.tree_.value, before.tree_.value)
