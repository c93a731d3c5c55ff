"""Disks that are full and folders that cannot be written to; files that are cut."""

import os
import signal
from types import SimpleNamespace

import joblib
import numpy as np
import pytest
from joblib.memory import CacheWarning
from sklearn.linear_model import LogisticRegression

from sk_advdef import FGSM, DensityDetector, DistilledClassifier, make_detection_scorer
from sk_advdef.__main__ import main
from sk_advdef._files import written_whole
from sk_advdef.evaluation import _audit_command
from tests._instances import make_rows
from tests.faults._disk import full_disk

X, y = make_rows(n_samples=120)


def scores(memory):
    model = DensityDetector(
        LogisticRegression(), contamination=0.1, memory=memory, random_state=0
    )
    return model.fit(X, y).score_samples(X)


def test_a_cache_on_a_full_disk_keeps_nothing_and_changes_nothing(tmp_path):
    plain = scores(None)
    with pytest.warns(CacheWarning, match="Unable to cache to disk"), full_disk():
        np.testing.assert_array_equal(scores(str(tmp_path)), plain)
    assert not list(tmp_path.rglob("output.pkl"))
    # and where there is room again it is filled as ever
    np.testing.assert_array_equal(scores(str(tmp_path)), plain)
    assert list(tmp_path.rglob("output.pkl"))


def test_a_cache_that_is_cut_short_is_made_anew(tmp_path, caplog):
    plain = scores(str(tmp_path))
    kept = list(tmp_path.rglob("output.pkl"))
    for path in kept:
        path.write_bytes(path.read_bytes()[:-100])
    np.testing.assert_array_equal(scores(str(tmp_path)), plain)
    assert "Exception while loading results" in caplog.text
    for path in kept:
        joblib.load(path)


MEMORIES = {
    "detector": lambda memory: scores(memory),
    "scorer": lambda memory: make_detection_scorer(
        FGSM(0.1, bounds=None), memory=memory
    )(DensityDetector(LogisticRegression(), contamination=0.1).fit(X, y), X, y),
    "teacher": lambda memory: DistilledClassifier(
        LogisticRegression(), memory=memory
    ).fit(X, y),
}


@pytest.mark.parametrize("name", MEMORIES)
def test_a_cache_that_has_no_place(name, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"kept in the folder of memory='.*file/below'"):
        MEMORIES[name](str(tmp_path / "file" / "below"))


@pytest.fixture
def attacked(made_by_hand, monkeypatch):
    """Stand in for an audit, and tell whether it was made."""
    made = SimpleNamespace(times=0, worst=0.5)

    def audit(args, command):
        made.times += 1
        return made_by_hand(made.worst)

    monkeypatch.setattr(_audit_command, "audit", audit)
    return made


def ask(out):
    return main(
        ["audit", "model.joblib", "rows.npz", "--eps", "0.1", "--out", str(out)]
    )


def test_an_audit_on_a_full_disk(attacked, tmp_path, capsys):
    out = tmp_path / "out"
    assert ask(out) == _audit_command.PASSED
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    capsys.readouterr()
    attacked.worst = 0.3
    with full_disk():
        assert ask(out) == _audit_command.NO_AUDIT
    said = capsys.readouterr()
    # hours of attacks are not lost: the figures are told
    assert "30.0%" in said.out
    assert "Written" not in said.out and "Traceback" not in said.err
    assert f"could not be written to {out}" in said.err
    # what was there is there still, both files of one audit, and nothing beside
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


@pytest.mark.parametrize("below", [".", "deep/er"])
def test_an_audit_without_a_place_is_refused_before_it_is_made(
    below, attacked, tmp_path, capsys
):
    (tmp_path / "file").touch()
    assert ask(tmp_path / "file" / below) == _audit_command.NO_AUDIT
    assert "no folder that can be written to" in capsys.readouterr().err
    assert attacked.times == 0


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    target = tmp_path / "report"
    target.write_text("old")
    with pytest.raises(KeyboardInterrupt), written_whole(target) as parts:
        parts[0].write_text("half")
        raise KeyboardInterrupt
    assert target.read_text() == "old" and os.listdir(tmp_path) == ["report"]
    link = tmp_path / "link"
    link.symlink_to(target)
    with written_whole(link) as parts:
        parts[0].write_text("new")
    assert link.is_symlink() and target.read_text() == "new"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_killed_while_a_file_is_written(tmp_path):
    target = tmp_path / "report"
    target.write_text("old")
    child = os.fork()
    if child == 0:
        with written_whole(target) as parts:
            parts[0].write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert target.read_text() == "old"
    # what is left of it is in nobody's way
    with written_whole(target) as parts:
        parts[0].write_text("new")
    assert target.read_text() == "new" and os.listdir(tmp_path) == ["report"]
