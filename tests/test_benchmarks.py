"""The benchmarks' tools, and that each benchmark runs in its quick form."""

import io
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from benchmarks import (
    _dropout_nets,
    _feinman,
    _harness,
    bench_certified,
    bench_detection,
    bench_distillation,
    bench_dropout,
    bench_squeezers,
    report,
)
from sk_advdef import JSMA, as_module

ROOT = Path(__file__).parents[1]


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setattr(_harness, "RESULTS", tmp_path)
    return tmp_path


class Counted:
    calls = 0

    def __call__(self, **params):
        self.calls += 1
        return {"sum": sum(params.values())}


def test_unit_is_written_once_and_read_from_then_on(results):
    function = Counted()
    first = _harness.unit("b", "u", {"x": 1, "y": 2}, function, False)
    again = _harness.unit("b", "u", {"x": 1, "y": 2}, function, False)
    assert function.calls == 1
    assert first == again == json.loads((results / "b" / "u.json").read_text())
    assert first["figures"] == {"sum": 3}
    assert {"params", "machine", "versions", "command", "seconds", "date"} <= set(first)
    assert {"cores", "cpu", "torch_threads", "others"} <= set(first["machine"])
    assert {"torch", "python", "sk_advdef", "commit"} <= set(first["versions"])
    assert [p.name for p in results.rglob("*.*")] == ["u.json"]


def test_unit_of_other_params_is_refused(results):
    _harness.unit("b", "u", {"x": 1}, Counted(), False)
    with pytest.raises(ValueError, match="other params"):
        _harness.unit("b", "u", {"x": 2}, Counted(), False)


def test_unit_that_fails_writes_nothing(results):
    def fail():
        raise RuntimeError("refused")

    with pytest.raises(RuntimeError, match="refused"):
        _harness.unit("b", "u", {}, fail, False)
    assert not list(results.iterdir())


def test_quick_unit_neither_reads_nor_writes(results):
    function = Counted()
    _harness.unit("b", "u", {"x": 1}, function, False)
    assert _harness.unit("b", "u", {"x": 5}, function, True)["figures"] == {"sum": 5}
    _harness.unit("b", "v", {"x": 1}, function, True)
    assert function.calls == 3
    assert [p.name for p in results.rglob("*.json")] == ["u.json"]


def test_command_names_no_folder(monkeypatch):
    words = ["/bin/python", "-m", "benchmarks.bench_b"]
    monkeypatch.setattr(sys, "orig_argv", [*words, "--data", "/some/where", "--quick"])
    assert _harness.command() == "python -m benchmarks.bench_b --data DATA --quick"
    monkeypatch.setattr(sys, "orig_argv", [*words, "--data=/some/where"])
    assert _harness.command() == "python -m benchmarks.bench_b --data=DATA"


def test_candidates_take_turns():
    order = []
    names = "abc"
    candidates = {name: (lambda name=name: order.append(name)) for name in names}
    seconds = _harness.time_in_turn(candidates, 3, at_least=0)
    assert "".join(order) == "aabbcc" + 3 * "abc"
    assert {name: len(values) for name, values in seconds.items()} == dict.fromkeys(
        names, 3
    )


def test_ratios_are_paired_by_round():
    seconds = {"a": [1.0, 2.0, 4.0], "b": [3.0, 4.0, 20.0]}
    found = _harness.ratios(seconds, to="a")
    assert found == {"a": [1, 1, 1], "b": [3, 2, 5]}
    assert _harness.spread(found["b"]) == {"median": 3, "low": 2, "high": 5}


def test_mnist_comes_from_the_folder(tmp_path, monkeypatch):
    images = np.full((3, 28, 28), 255, dtype=np.uint8)
    labels = np.array([1, 2, 3], dtype=np.uint8)
    np.savez(
        tmp_path / "mnist.npz",
        **{"x_train": images, "y_train": labels, "x_test": images, "y_test": labels},
    )
    monkeypatch.setenv("SK_ADVDEF_DATA", str(tmp_path))
    X_train, y_train, X_test, y_test = _harness.load_mnist()
    assert X_train.shape == X_test.shape == (3, 1, 28, 28)
    assert X_train.dtype == np.float32 and X_train.max() == 1
    np.testing.assert_array_equal(y_train, y_test)


def jpeg_copies(folder, n):
    """Write what stands for the copies of CIFAR-10: gray rising from left to right."""
    image = np.repeat(np.arange(32, dtype=np.uint8)[None, :, None] * 8, 32, axis=0)
    stream = io.BytesIO()
    Image.fromarray(np.repeat(image, 3, axis=2)).save(stream, "JPEG", quality=95)
    one = np.frombuffer(stream.getvalue(), dtype=np.uint8)
    parts = {}
    for part in ("train", "test"):
        parts[f"jpeg_{part}"] = np.tile(one, n)
        parts[f"offsets_{part}"] = len(one) * np.arange(n + 1)
        parts[f"y_{part}"] = np.arange(n, dtype=np.uint8)
    np.savez(folder / "cifar10_jpeg.npz", **parts)


def test_cifar10_comes_from_the_folder_off_the_grid_and_dithered(tmp_path, monkeypatch):
    jpeg_copies(tmp_path, 9)
    monkeypatch.setenv("SK_ADVDEF_DATA", str(tmp_path))
    X, y, X_test, y_test = _harness.load_cifar10(n_train=5, n_test=20)
    assert X.shape == (5, 28, 28, 3) and X_test.shape == (9, 28, 28, 3)
    assert X.dtype == np.float32 and sorted(y_test) == list(range(9))
    assert len(set(y)) == 5 and list(y) != sorted(y)
    levels = X * 255
    np.testing.assert_allclose(levels, np.rint(levels), atol=1e-4)
    # the fourth column of the copies comes first, give or take a level and JPEG
    np.testing.assert_allclose(levels.mean((0, 1, 3))[:3], [24, 32, 40], atol=2)
    assert {-1, 0, 1} <= set(np.rint(levels[0] - levels[1]).astype(int).ravel())
    again = _harness.load_cifar10(n_train=5, n_test=20)
    np.testing.assert_array_equal(X, again[0])


def test_report_is_what_results_say():
    if not report.TARGET.exists() and not report.units():
        pytest.skip("there are no results yet")
    assert report.TARGET.read_text(encoding="utf-8") == report.text(), (
        "RESULTS.md is generated: run python -m benchmarks.report"
    )


def test_results_name_no_folder_of_a_machine():
    for path in _harness.RESULTS.rglob("*.json"):
        command = json.loads(path.read_text(encoding="utf-8"))["command"]
        assert not re.search(r"(^|\s|=)/", command), path


@pytest.mark.bench
def test_dropout_runs_quickly_and_writes_nothing():
    before = sorted(_harness.RESULTS.glob("dropout/*"))
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks", "dropout", "--quick"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert not run.returncode, run.stderr
    assert sorted(_harness.RESULTS.glob("dropout/*")) == before
    rows = [x.split("|") for x in run.stdout.splitlines() if x.startswith("| 8 ")]
    assert len(rows) == 4  # nets
    for column, package in ((6, "baal"), (7, "torch-uncertainty")):
        installed = _harness.version(package) is not None
        for cells in rows:
            assert ("not installed" in cells[column]) is not installed
        assert (f"{package} is not installed" in run.stdout) is not installed
    assert "Memory of 50 passes" in run.stdout and "Search on 100" in run.stdout


def test_dropout_table_says_what_is_met():
    setting = {"batch": 256, "passes": 50, "rounds": 1}
    seconds = {"one forward pass": 1, "loop": 60.0, "ours, passes": 2}
    seconds["ours, score_samples"] = 2.6
    spreads = {name: _harness.spread([value]) for name, value in seconds.items()}
    figures = {
        "max_difference_same_masks": 1e-7,
        "milliseconds": spreads,
        "ratios": spreads,
        "seconds": {name: [value] for name, value in seconds.items()},
        "left_out": {"torch-uncertainty": "cannot be imported: no lightning"},
    }
    case = _dropout_nets.CASES["MNIST net"]
    speed = {"name": "x", "params": setting | case.setting, "figures": figures}
    memory = {
        "name": "memory",
        "params": {"passes": 50, "sizes": [1, 10]},
        "figures": {"megabytes": [100.0, 111.0], "seconds": [1.0, 2.0]},
    }
    text = bench_dropout.table([speed, memory])
    assert "| not run | cannot be imported: no lightning |" in text
    assert "ours, passes at most 2.5 forward passes: 2.00, met" in text
    assert "ours, score_samples at most 2.5 forward passes: 2.60, missed" in text
    assert "at least 30 times as fast as loop: 30.0, met" in text
    assert "at least 8 times as fast as baal with cache: not measured" in text
    assert "Slower than the loop: nowhere" in text
    assert "1.11 times as much, at most 1.1 times: missed" in text


@pytest.mark.bench
def test_squeezers_run_quickly():
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.bench_squeezers", "--quick"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert not run.returncode, run.stderr
    lines = run.stdout.splitlines()
    for kind in bench_squeezers.TARGETS:
        assert f"{kind}:" in lines
    opencv = [line for line in lines if "| OpenCV |" in line]
    installed = _harness.version("opencv-python-headless") is not None
    assert len(opencv) == 3  # none for bit depth
    assert all(("not installed" in line) is not installed for line in opencv)


def test_squeezers_that_differ_are_not_timed():
    X = np.linspace(0, 0.9, 2 * 8 * 8, dtype=np.float32).reshape(2, 8, 8, 1)
    ways = {"ours": lambda X: X + 1e-3}
    for kind in bench_squeezers.TARGETS:
        with pytest.raises(RuntimeError, match=f"{kind}: ours is .* nothing is"):
            bench_squeezers.check(kind, ways, X)


def test_squeezers_table_says_what_is_met_and_where_opencv_is_ahead():
    def unit(side, factors, memory):
        alike = {name: _harness.spread([value]) for name, value in factors.items()}
        figures = {
            "factors": alike,
            "microseconds_an_image": alike,
            "memory_in_inputs": memory,
        }
        params = {"kind": "blur", "shape": [side, side, 1], "images": 9}
        return {"params": params, "figures": figures}

    units = [
        unit(28, {"ours": 1, "scipy": 1.5}, None),
        unit(224, {"ours": 1, "scipy": 1.5, "OpenCV": 0.5}, 2.5),
    ]
    text = bench_squeezers.table(units)
    targets = [line.split("|")[-2].strip() for line in text.splitlines()[4:9]]
    assert targets == [
        "memory not measured",
        "at least 2: missed",
        "",
        "memory at most 2 inputs: 2.50, missed",
        "at least 1: met",
    ]
    assert "| 9 of 28x28x1 | OpenCV | not installed |" in text
    assert text.endswith("ahead at 9 of 224x224x1 (2.0 times as fast as ours).")


@pytest.mark.bench
@pytest.mark.parametrize(
    "name, titles",
    [
        (
            "squeezing",
            ["Attackers who ignore", "Others measured", "Attackers who know"],
        ),
        ("preprocessing", ["Most that anything gained", "Median L2 against bits"]),
        ("distillation", ["The paper's abstract", "Attacks of least change"]),
        ("proofs", ["| certified | 0.1 |", "holds under PGD"]),
    ],
)
def test_what_squeezing_is_worth_runs_quickly(name, titles):
    before = sorted(_harness.RESULTS.glob(f"{name}/*"))
    run = subprocess.run(
        [sys.executable, "-m", f"benchmarks.bench_{name}", "--quick"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert not run.returncode, run.stderr
    assert all(title in run.stdout for title in titles)
    if name == "preprocessing":
        assert run.stdout.count("JPEG alone, AUC") == 2  # a line beside each table
    assert sorted(_harness.RESULTS.glob(f"{name}/*")) == before


@pytest.mark.bench
def test_queries_run_quickly():
    before = sorted(_harness.RESULTS.glob("queries/*"))
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.bench_queries", "--quick"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert not run.returncode, run.stderr
    for title in (
        "Noticed, of attackers who ignore",
        "Who asks nothing similar",
        "False alarms",
        "Actions, attackers who do not know",
        "Who knows it",
        "Less feedback",
        "Knowledge",
        "A guard without monitor",
        "A monitored query",
        "Growth",
    ):
        assert title in run.stdout
    assert sorted(_harness.RESULTS.glob("queries/*")) == before


@pytest.mark.bench
def test_detection_runs_quickly():
    before = sorted(_harness.RESULTS.glob("detection/*"))
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.bench_detection", "--quick"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert not run.returncode, run.stderr
    for title in ("As the paper", "Held out", "Who knows it", "Shared against"):
        assert title in run.stdout
    assert sorted(_harness.RESULTS.glob("detection/*")) == before


def test_independent_masks_disagree_as_shared_ones_do():
    rng = np.random.default_rng(0)
    X, y = rng.random((40, 28, 28), np.float32), np.arange(40) % 10
    net = _feinman.net_of(_feinman.FeinmanNet, module__part=0.1, max_epochs=0)
    model = _feinman.NetClassifier(net, random_state=0).fit(X, y)
    with torch.no_grad():
        model.net_.module_.layers[-1].weight.mul_(20)
    detector = _feinman.DropoutUncertaintyDetector(
        _feinman.FrozenEstimator(model), n_passes=100, random_state=0
    ).fit(X)
    (apart,) = bench_detection.independent(model, [X], 100, seed=0)
    shared = detector.statistics(X)
    assert apart.shape == shared.shape and (apart != shared).any()
    np.testing.assert_allclose(apart.mean(0), shared.mean(0), rtol=0.25)


def test_noise_of_the_paper_is_as_long_as_the_attack():
    rng = np.random.default_rng(0)
    X = rng.random((30, 28, 28), np.float32)
    attacked = np.clip(X + 0.2, 0, 1)
    noisy = _feinman.with_gaussian_noise(X, attacked, rng)
    wanted = _feinman.mean_l2(attacked, X)
    assert abs(_feinman.mean_l2(noisy, X) - wanted) < 1e-2 * wanted
    attacked = X.copy()
    attacked[:, 3, 4:9] = 1
    white = _feinman.with_white_pixels(X, attacked, rng)
    np.testing.assert_array_equal((white != X).sum((1, 2)), (attacked != X).sum((1, 2)))
    assert (white[white != X] == 1).all()


@pytest.mark.bench
def test_attacks_run_quickly():
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.bench_attacks", "--quick"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert not run.returncode, run.stderr
    for title in ("Linf, accuracy", "Forest, accuracy", "L2, median", "HopSkipJump"):
        assert title in run.stdout


@pytest.mark.bench
def test_attacks_can_be_run_in_parts():
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.bench_attacks", "--quick", "--only=forest"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert not run.returncode, run.stderr
    assert "Forest, accuracy" in run.stdout and "HopSkipJump" not in run.stdout


@pytest.mark.bench
def test_certified_runs_quickly():
    before = sorted(_harness.RESULTS.rglob("*"))
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.bench_certified", "--quick"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert not run.returncode, run.stderr
    assert sorted(_harness.RESULTS.rglob("*")) == before
    assert "one seed" in run.stdout and "4/4/16 with a ramp" in run.stdout
    assert "The standard suite" in run.stdout and "Linear bounds" in run.stdout


def test_certified_holds_the_interval_against_the_target():
    def unit(seed, certified, threads=2):
        params = {"data": "mnist", "width": [1, 2, 3], "ramp": False, "epochs": 7}
        figures = {"clean": 0.97, "certified": certified, "minutes": 12.0}
        figures |= {"attacked": 0.91, "certified_of_attacked": 0.9}
        params |= {"eps_train": 0.33}
        if threads < 2:
            figures["minutes"] = 24.0
        machine = {"cores": 2, "torch_threads": threads}
        found = {"params": params, "figures": figures, "machine": machine}
        return {"name": f"short-{seed}"} | found

    met = [unit(seed, 0.89 + seed / 1000) for seed in range(3)]
    low, high = bench_certified.interval([0.89, 0.891, 0.892])
    assert low == pytest.approx(0.891 - 4.303 * 1e-3 / 3**0.5, abs=1e-6)
    lines = bench_certified.table(met).splitlines()
    assert f"{low:.2%} to {high:.2%}" in lines[2] and lines[2].endswith("met |")
    apart = [unit(0, 0.88), unit(1, 0.95), unit(2, 0.9)]
    assert "missed" in bench_certified.table(apart)
    assert "| 1.0% |" in lines[2]
    on_one = unit(2, 0.892, threads=1)
    line = bench_certified.table([*met[:2], on_one]).splitlines()[2]
    assert "| 3, 2 timed | 12.0 |" in line and line.endswith("met |")
    assert "| ? |" in bench_certified.table([on_one])
    beside = unit(2, 0.892)
    beside["machine"]["others"] = 0.5
    line = bench_certified.table([*met[:2], beside]).splitlines()[2]
    assert "| 3, 2 timed | 12.0 |" in line


def test_certified_holds_what_the_suite_left_against_its_target():
    def units(attacked, minutes=40.0, threads=2, weights="a"):
        machine = {"cores": 2, "torch_threads": threads}
        found = []
        for seed, share in enumerate(attacked):
            params = {"data": "mnist", "width": [1, 2, 3], "ramp": True, "epochs": 7}
            params["eps_train"] = 0.31
            figures = {"clean": 0.98, "certified": 0.92, "minutes": minutes}
            figures |= {"attacked": 0.93, "certified_of_attacked": 0.92, "weights": "a"}
            net = {"params": params, "figures": figures, "machine": machine}
            found.append({"name": f"long-{seed}"} | net)
            figures = {"clean": 0.98, "certified": 0.92, "attacked": share}
            figures |= {"tried": [600, 90], "weights": weights}
            params = {"net": f"long-{seed}"}
            suite = {"params": params, "figures": figures, "machine": machine}
            found.append({"name": f"long-{seed}-suite"} | suite)
            figures = {"by_intervals": 0.92, "certified": share - 0.002}
            figures |= {"open": 600, "seconds": 88.8, "weights": weights}
            lines = {"params": params, "figures": figures, "machine": machine}
            found.append({"name": f"long-{seed}-lines"} | lines)
        return found

    table = bench_certified.table(units([0.93, 0.931, 0.932]))
    assert "| long-1 | 98.00% | 93.10% | 92.00% | 600, 90 |" in table
    assert "93.10% under attack, interval 92.85% to 93.35%" in table
    assert "lower end at least 92.8% in 45 minutes: met" in table
    assert "| long-1 | 92.00% | 92.90% | 600 | 89 |" in table
    assert table.endswith("lower end at least 92.0% in 60 minutes: met")
    for missed in (
        units([0.929, 0.93, 0.931]),
        units([0.93, 0.931, 0.932], minutes=50.0),
        units([0.93, 0.931, 0.932], threads=1),
    ):
        assert "in 45 minutes: missed\n" in bench_certified.table(missed)
    assert "lower end" not in bench_certified.table(units([0.93, 0.931]))
    with pytest.raises(ValueError, match="another net than long-0"):
        bench_certified.table(units([0.93], weights="b"))


@pytest.mark.parametrize("steepness", [1, 1000])
def test_papers_jsma_is_ours_until_the_softmax_saturates(steepness):
    X, y = load_digits(return_X_y=True)
    X = (X / 16).astype(np.float32)
    model = LogisticRegression(C=0.1, max_iter=1000).fit(X[:1000], y[:1000])
    model.coef_ *= steepness
    model.intercept_ *= steepness
    right = np.flatnonzero(model.predict(X) == y)[-10:]
    starts, targets = bench_distillation.towards_all(X[right], y[right])
    assert len(starts) == 90 and (targets != np.repeat(y[right], 9)).all()
    view = as_module(model).float()
    reached, changed = bench_distillation.papers_jsma(view, starts, targets, 8)
    ours = JSMA(targeted=True, gamma=8.5 / 64).run(model, starts, targets)
    assert 0.2 < ours.fooled.mean() < 1
    if steepness == 1:
        np.testing.assert_array_equal(reached, ours.fooled)
        np.testing.assert_array_equal(changed[reached], ours.distortion[reached])
    else:  # the gradient is 0 in float32, and rows stay as they are
        assert reached.mean() < 0.1
        assert (changed[~reached] == 0).mean() > 0.8


def test_distillation_table_says_whether_it_was_reproduced():
    def done(temperature, softmax, log_odds, l2):
        figures = {
            "accuracy": 0.98,
            "test_rows": 10,
            "saturated": 0.5,
            "samples": 900,
            "softmax": {"success": softmax, "features": None},
            "log_odds": {"success": log_odds, "features": 30.0},
            "pgd": {"ce 0.1": 0.7, "margin 0.1": 0.1},
            "pgd_rows": 200,
            "carlini_wagner": {"fooled": 1.0, "median_l2": 1.2, "rows": 10},
            "hop_skip_jump": {"median_l2": l2, "queries": 9, "rows": 10},
            "diagnosis": [["saturated_scores", "warning"]],
        }
        _, params = bench_distillation.tasks(quick=False)[0]
        params = params | {"temperature": temperature, "in_full": True}
        return {"name": "x", "params": params, "figures": figures}

    units = [done(100.0, 0.004, 0.9, 2.2), done(None, 0.95, 0.96, 2.0)]
    text = bench_distillation.table(units)
    assert "from 95.0 % to 0.4 % at temperature 100 (reproduced)" in text
    assert "by the log-odds, from 96.0 % to 90.0 %" in text
    assert "in that without a defence: 1.21 at 100" in text
    assert "| saturated_scores (warning) |" in text
    worse = bench_distillation.table([done(100.0, 0.006, 0.9, 2.2), units[1]])
    assert "(not reproduced)" in worse
