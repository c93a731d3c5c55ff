"""The main job, run as a user runs it."""

import csv
import subprocess
import sys

import joblib
import numpy as np
import pytest

from sk_advdef.__main__ import main


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo")
    command = [sys.executable, "-W", "error", "-m", "sk_advdef", "demo", "--quick"]
    done = subprocess.run(
        [*command, "--out", str(out)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    with (out / "robustness.csv").open(newline="") as file:
        table = {line["model"]: line for line in csv.DictReader(file)}
    return out, done.stdout, table


def test_it_prints_what_it_writes(demo):
    _, said, table = demo
    for name, line in table.items():
        row = next(t for t in said.splitlines() if t.startswith(f"{name}  "))
        for column in ("clean", "attacker_ignores", "attacker_knows"):
            assert f"{float(line[column]):.1%}" in row


def test_figures_are_figures(demo):
    _, _, table = demo
    for line in table.values():
        clean, knows, low, high = (
            float(line[k]) for k in ("clean", "attacker_knows", "low", "high")
        )
        assert 0 <= low <= knows <= high <= 1
        assert knows <= clean
    # the models learn, and the attack bites
    assert float(table["net"]["clean"]) > 0.85
    assert float(table["net"]["attacker_knows"]) < 0.7


def test_a_linear_squeezer_is_worth_less_to_one_who_knows_it(demo):
    _, _, table = demo
    line = table["net, downscaled to 4 x 4"]
    assert float(line["attacker_knows"]) < float(line["attacker_ignores"])


def test_saved_models_answer(demo):
    out, said, _ = demo
    assert said.count("equal predictions") == 2
    rows = np.zeros((2, 64), dtype=np.float32)
    for name in ("chosen", "rejecting"):
        assert joblib.load(out / f"{name}.joblib").predict(rows).shape == (2,)


def test_picture(demo):
    image = pytest.importorskip("PIL.Image")
    with image.open(demo[0] / "robustness.png") as picture:
        assert picture.size[0] > 1000
        # not a blank page
        assert len(picture.convert("L").getcolors(256)) > 50


def test_nothing_else_is_written(demo):
    names = {path.name for path in demo[0].iterdir()}
    assert names == {
        "chosen.joblib",
        "rejecting.joblib",
        "robustness.csv",
        "robustness.png",
    }


def test_command_line(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out.strip()
    with pytest.raises(SystemExit) as stopped:
        main([])
    assert stopped.value.code == 2
