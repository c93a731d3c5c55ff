"""The benchmark of shared work: its quick form, and what its tables say."""

import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import _harness, bench_cluster

ROOT = Path(__file__).parents[1]


@pytest.mark.bench
def test_cluster_runs_quickly_and_writes_nothing():
    before = sorted(_harness.RESULTS.rglob("*"))
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.bench_cluster", "--quick"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert not run.returncode, run.stderr
    for start in ("| search, 150", "| evaluation, 260", "| 10,000,000 |", "| dask |"):
        assert start in run.stdout
    assert sorted(_harness.RESULTS.rglob("*")) == before


def test_one_process_has_the_threads_it_is_given():
    before = torch.get_num_threads()
    with bench_cluster.one_process(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


def test_table_divides_round_by_round():
    ways = ("one thread", "threads", "loky", "dask")
    seconds = dict(zip(ways, ([10, 20], [9, 18], [6, 14], [8, 10]), strict=True))
    ratios = _harness.ratios(seconds, to="one thread")
    figures = {
        "seconds": seconds,
        "ratios": {way: _harness.spread(values) for way, values in ratios.items()},
        "tasks": 8,
        "crowding": _harness.spread([1.25]),
    }
    job = {"name": "evaluation", "params": {"rows": [1, 512]}, "figures": figures}
    one = _harness.spread([2.0])
    cost = {
        "name": "overhead",
        "params": {"sizes": [0, 1000], "tasks": [5, 4]},
        "figures": {"milliseconds": {way: [one, one] for way in ways}},
    }
    text = bench_cluster.table([cost, job])
    assert "| evaluation, 512 rows | 8 | 15.00 (10.00 to 20.00) |" in text
    assert "| 0.65 (0.60 to 0.70) | 0.65 (0.50 to 0.80) | 1.25 (" in text
    assert "| 1,000 | 4 | 2.00 (2.00 to 2.00) |" in text
    assert "Start" not in text


@pytest.mark.parametrize("differs", [2, 3])
def test_nothing_is_told_where_processes_find_something_else(differs, monkeypatch):
    def nothing(*args, **params):
        return nullcontext()

    for name in ("cluster", "no_loky_left", "parallel_config", "warm"):
        monkeypatch.setattr(bench_cluster, name, nothing)
    found = [np.ones(2) for _ in range(8)]
    timed, _ = bench_cluster.in_turn(iter(found).__next__, 1, 1)
    assert {way: len(values) for way, values in timed["seconds"].items()} == {
        "one thread": 1,
        "threads": 1,
        "loky": 1,
        "dask": 1,
    }
    found[4 + differs] = np.array([1, 2])
    with pytest.raises(AssertionError, match="not equal"):
        bench_cluster.in_turn(iter(found).__next__, 1, 1)
