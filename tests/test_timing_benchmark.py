"""What the benchmark of timing calls told, and that its pairs are what they say."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import _harness, bench_timing
from benchmarks._timing_scenes import opened

ONE_OF_EACH = list({pair[0]: pair for pair in bench_timing.PAIRS}.values())
ROOT = Path(__file__).parents[1]


def test_auc():
    kinds = np.array([0, 1, 0, 1])
    assert bench_timing.auc(np.array([1.0, 2, 1, 2]), kinds) == 1
    assert bench_timing.auc(np.array([2.0, 1, 2, 1]), kinds) == 0
    assert bench_timing.auc(np.array([1.0, 1, 1, 1]), kinds) == 0.5
    assert bench_timing.auc(np.array([1.0, 2, 3, 1]), kinds) == (0.5 + 1) / 4


def test_a_small_difference_is_told_and_none_is_not():
    rng = np.random.default_rng(0)
    kinds = rng.permutation(np.arange(4000) % 2)
    noise = rng.lognormal(size=4000) + np.sin(np.arange(4000) / 500) / 5
    none, some = (bench_timing.told(noise + d * kinds, kinds) for d in (0, 0.3))
    assert none["low"] < 0.5 < none["high"] and none["ks"] < 0.06
    assert 0.5 < some["low"] < some["auc"] < some["high"] < 0.7
    # who takes the median of many is told more
    assert some["auc"] + 0.1 < some["of_few"]
    with pytest.raises(RuntimeError, match="too few"):
        bench_timing.told(noise[kinds == 0], kinds[kinds == 0])


@pytest.mark.parametrize("pair", ONE_OF_EACH)
def test_questions_are_of_the_kind_they_should_be(pair, monkeypatch):
    monkeypatch.setenv("SK_ADVDEF_SECRET", "long enough for a test")
    with opened(*pair, "process", 0) as (scene, ready, ask):
        for kind in (0, 1, 1, 0, 1):
            question, before = ready(kind), scene.counted()
            ask(question)
            assert scene.counted() - before == (kind if scene.counter else 0)
        told = [ready(kind)[1] for kind in (0, 0, 1, 1)]
    if pair[0] == "account":
        # new names each time, against known ones
        assert len({*told[:2]}) == 2 and not {*told[:2]} & {*told[2:]}


def test_table_says_what_is_told():
    def unit(what, over, low, high):
        params = {"what": what, "by": "knn", "action": "flag", "over": over}
        figures = {"auc": 0.6, "low": low, "high": high, "of_few": 0.7, "ks": 0.1}
        figures |= {"microseconds": [10.0, 12.5], "kept": 1.0}
        return {"params": params, "figures": figures}

    units = [unit("flagged", "http", 0.4, 0.6), unit("flagged", "process", 0.51, 0.7)]
    *_, first, second = bench_timing.table(units).splitlines()
    assert first.startswith("| process |") and first.endswith("| +2 | yes |")
    assert second.startswith("| http |") and second.endswith("| no |")


@pytest.mark.bench
def test_timing_runs_quickly():
    before = sorted(_harness.RESULTS.glob("timing/*"))
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.bench_timing", "--quick"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert not run.returncode, run.stderr
    assert "| process | nothing |" in run.stdout
    installed = _harness.version("uvicorn") is not None
    assert ("| http | flagged |" in run.stdout) is installed
    assert sorted(_harness.RESULTS.glob("timing/*")) == before
