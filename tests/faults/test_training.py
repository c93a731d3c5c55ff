"""Adversarial training that is killed, and goes on from a checkpoint of skorch."""

import json
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from sk_advdef import PGD, DistilledClassifier
from tests.faults._disk import full_disk
from tests.faults._killed import (
    EPOCHS,
    TRAININGS,
    X,
    augmented,
    net_in,
    trained,
    weights_of,
    y,
)


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """Folders with what was left of each training by SIGKILL in its fourth epoch."""
    folder = tmp_path_factory.mktemp("killed")
    subprocess.run(
        [sys.executable, "-m", "tests.faults._killed", str(folder)],
        cwd=Path(__file__).parents[2],
        check=True,
        timeout=900,
    )
    return {name: folder / str(i) for i, name in enumerate(TRAININGS)}


@pytest.mark.parametrize("name", TRAININGS)
def test_killed_training_goes_on_as_if_nothing_had_been(name, killed, tmp_path):
    assert len(json.loads((killed[name] / "history.json").read_text())) == 3
    went_on = trained(name, killed[name])
    never_killed = trained(name, tmp_path)
    for one, other in zip(weights_of(went_on), weights_of(never_killed), strict=True):
        np.testing.assert_array_equal(one, other)
    assert len(went_on.history_) == EPOCHS
    timed = {"dur"}
    for one, other in zip(went_on.history_, never_killed.history_, strict=True):
        assert {k: v for k, v in one.items() if k not in timed} == {
            k: v for k, v in other.items() if k not in timed
        }


def test_a_training_that_is_over_is_not_trained_on(tmp_path):
    once = trained("SWA", tmp_path)
    again = trained("SWA", tmp_path)
    for one, other in zip(weights_of(once), weights_of(again), strict=True):
        np.testing.assert_array_equal(one, other)
    assert again.history_ == once.history_


OTHERS = {
    "rows": ({}, X + 1),
    "attack": ({"attack": PGD(0.3, bounds=None)}, X),
    "seed": ({"random_state": 1}, X),
    "none": ({"random_state": None}, X),
}


@pytest.mark.parametrize("other", OTHERS)
def test_a_checkpoint_of_another_training_is_refused(other, tmp_path):
    params, rows = OTHERS[other]
    start = {} if other != "none" else params
    augmented(net_in(tmp_path).set_params(max_epochs=1), **start).fit(X, y)
    with pytest.raises(ValueError, match=r"of another training.*a dirname of its own"):
        augmented(net_in(tmp_path), **params).fit(rows, y)


def test_a_teacher_is_no_checkpoint_of_its_student(tmp_path):
    net = net_in(tmp_path / "student")
    with pytest.raises(ValueError, match="of another training"):
        DistilledClassifier(net, random_state=0).fit(X, y)
    # each with a folder of its own
    net, teacher = net_in(tmp_path / "own"), net_in(tmp_path / "teacher")
    model = DistilledClassifier(net, teacher=teacher, random_state=0)
    first, again = model.fit(X, y).predict_proba(X), model.fit(X, y).predict_proba(X)
    np.testing.assert_array_equal(first, again)


def test_a_checkpoint_without_the_state_of_training_is_refused(tmp_path):
    bare = {"f_training": None}
    augmented(net_in(tmp_path, **bare).set_params(max_epochs=1)).fit(X, y)
    with pytest.raises(ValueError, match=r'Checkpoint\(\.\.\., f_training="training'):
        augmented(net_in(tmp_path, **bare)).fit(X, y)


def test_files_of_two_epochs_do_not_go_together(tmp_path):
    written_over = {"f_params": "params.pt", "f_training": "training.pt"}
    augmented(net_in(tmp_path, **written_over)).fit(X, y)
    history = tmp_path / "history.json"
    history.write_text(json.dumps(json.loads(history.read_text())[:3]))
    with pytest.raises(ValueError, match=r"history of 3 epochs and a training of 6"):
        augmented(net_in(tmp_path, **written_over)).fit(X, y)


def test_a_full_disk_leaves_the_last_checkpoint_and_is_told(tmp_path):
    names = ("params", "optimizer", "training")
    files = {f"f_{name}": f"{name}.pt" for name in names}
    augmented(net_in(tmp_path, **files).set_params(max_epochs=1)).fit(X, y)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    net = net_in(tmp_path, **files).set_params(max_epochs=2)
    with warnings.catch_warnings(record=True) as caught, full_disk(64):
        warnings.simplefilter("always")
        model = augmented(net).fit(X, y)
    for name in before:
        told = f"could not be written to {tmp_path / name}"
        assert any(told in str(warning.message) for warning in caught), name
    assert model.predict(X).shape == y.shape
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_file_that_torch_wrote_in_part_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.save", lambda _, path: Path(path).write_bytes(b"PK.."))
    net = net_in(tmp_path, f_params="params.pt").set_params(max_epochs=1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        augmented(net).fit(X, y)
    told = [str(w.message) for w in caught if "written in part" in str(w.message)]
    assert any(f"could not be written to {tmp_path / 'params.pt'}" in t for t in told)
    assert not (tmp_path / "params.pt").exists()


def test_a_mistyped_file_of_a_checkpoint_is_told(tmp_path):
    with pytest.warns(UserWarning, match=r"could not be written.*'net\.trainig_'"):
        augmented(net_in(tmp_path, f_trainig="t.pt")).fit(X, y)
