"""The audit as who asks for it meets it: files in, verdict, files and exit code out."""

import io
import json
import pickle
import re
import shlex
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import OneClassSVM
from sklearn.tree import DecisionTreeClassifier

import sk_advdef
from sk_advdef import Diagnosis
from sk_advdef.__main__ import _parser, main
from sk_advdef.evaluation import _audit, _audit_command
from sk_advdef.evaluation._audit_inputs import (
    fitted_to,
    is_ours,
    load_data,
    load_model,
    sha256,
    without_reach,
)
from sk_advdef.evaluation._diagnosis import Finding
from sk_advdef.evaluation._telling import telling_rows
from tests._instances import make_rows

NAMES = ["<script>alert(1)</script>", "income & debt", '"age"', "c", "d", "e"]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Saved models, and data of every kind."""
    folder = tmp_path_factory.mktemp("audited")
    X, y = make_rows(n_samples=90)
    y = np.char.add("<b>", y)
    frame = pd.DataFrame(X, columns=NAMES)
    # few sure rows, so that attacks have something to take
    linear = LogisticRegression(C=0.1, max_iter=1000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        joblib.dump(linear.fit(X[:60], y[:60]), folder / "model.joblib")
        tree = DecisionTreeClassifier(max_depth=4, random_state=0)
        tree.fit(frame[:60], y[:60])
    (folder / "tree.pkl").write_bytes(pickle.dumps(tree))
    np.savez(folder / "rows.npz", X=X[60:], y=y[60:], other=y[60:])
    frame.assign(**{"class": y, "id": range(90)})[60:].to_csv(
        folder / "rows.csv", index=False
    )
    return folder


@pytest.fixture(scope="module")
def made(files):
    """The folder that one audit wrote, and its exit code."""
    out = files / "out"
    given = [files / "model.joblib", files / "rows.npz"]
    words = "--trust --eps 0.6 --bounds none --rows 16 --fail-under 0.99 --out"
    return out, main(["audit", *map(str, given), *words.split(), str(out)])


@pytest.fixture(scope="module")
def told(made):
    return json.loads((made[0] / "report.json").read_text(encoding="utf-8"))


def test_figures_are_those_of_the_evaluation(files, told):
    model = joblib.load(files / "model.joblib")
    with np.load(files / "rows.npz") as data:
        X, y = data["X"][told["rows"]], data["y"][told["rows"]]
    assert told["robustness"]["clean_accuracy"] == pytest.approx(model.score(X, y))
    report = sk_advdef.evaluate_robustness(
        model, X, y, eps=0.6, bounds=None, random_state=0
    )
    assert told["robustness"]["worst_case_accuracy"] == report.worst_case_accuracy
    assert 0 < report.worst_case_accuracy < 0.99


def test_json_says_it_all(files, made, told):
    assert told["schema"] == "sk_advdef-audit-1"
    kinds = {
        "verdict": dict,
        "robustness": dict,
        "diagnosis": dict,
        "telling_rows": list,
        "feature_names": type(None),
        "rows": list,
        "model": str,
        "files": dict,
        "command": str,
        "versions": dict,
        "notes": list,
    }
    assert {k: type(v) for k, v in told.items() if k != "schema"} == kinds
    assert len(told["rows"]) == told["robustness"]["rows"] == 16
    assert told["robustness"]["not_tried"]
    assert told["files"] == {
        str(files / name): sha256(files / name) for name in ("model.joblib", "rows.npz")
    }
    assert told["command"].startswith("sk-advdef audit ") and "0.99" in told["command"]
    assert told["versions"]["sk_advdef"] == sk_advdef.__version__
    assert "16 of 30 rows were drawn (--rows)." in told["notes"]


def test_telling_rows_are_rows_of_the_data_that_fool(files, told):
    model = joblib.load(files / "model.joblib")
    with np.load(files / "rows.npz") as data:
        X, y = data["X"], data["y"]
    assert told["telling_rows"]
    for row in told["telling_rows"]:
        at, after = row["at"], np.array(row["after"])
        assert row["label"] == y[at] == model.predict(X[at : at + 1])[0]
        np.testing.assert_array_equal(row["before"], X[at])
        assert model.predict(after[None])[0] == row["answer"] != y[at]
        assert np.abs(after - X[at]).max() <= 0.6
        # not one of the changes could be left out
        for i in np.flatnonzero(after != X[at]):
            less = after.copy()
            less[i] = X[at, i]
            assert model.predict(less[None])[0] == y[at]


def test_what_a_model_of_others_would_read_or_write_is_left_out(files, tmp_path):
    X, y = make_rows(n_samples=90)
    frozen = FrozenEstimator(LogisticRegression(max_iter=1000).fit(X, y))
    detector = sk_advdef.DensityDetector(random_state=0, contamination=0.1)
    rejecting = sk_advdef.RejectingClassifier(frozen, detector).fit(X, y)
    pipe = Pipeline([("model", rejecting)])
    guard = sk_advdef.GuardedClassifier(FrozenEstimator(pipe), limit="999/second")
    guard.fit(X, y)
    expected = guard.predict(X)
    elsewhere = tmp_path / "elsewhere"
    rejecting.detector_.memory = pipe.memory = str(elsewhere)
    guard.store = f"sqlite:///{elsewhere}.db"
    hiding = make_pipeline(StandardScaler(), LogisticRegression()).fit(X, y)
    hiding.kept = {"deep": [(np.array([None, {"a": guard}]),)]}
    for name, model in {"guard": guard, "hiding": hiding}.items():
        skops_file(files / f"{name}.skops", model)
        with pytest.warns(UserWarning, match="was left out") as caught:
            opened = load_model(files / f"{name}.skops", trust=False)
        told = [re.match(r"\w+=.*? of (\w+)", str(w.message))[1] for w in caught]
        assert sorted(told) == ["DensityDetector", "GuardedClassifier", "Pipeline"]
        if name == "hiding":
            opened = opened.kept["deep"][0][0][1]["a"]
        np.testing.assert_array_equal(opened.predict(X), expected)
        assert not list(tmp_path.iterdir())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kept = load_model(files / "guard.skops", trust=True)
    assert kept.store == guard.store
    kept.predict(X)
    around = [kept]
    around.append(around)
    with pytest.warns(UserWarning, match="was left out"):
        assert without_reach(around)[0].store == "memory://"
    assert len(list(tmp_path.iterdir())) > 1


def skops_file(path, model):
    skops = pytest.importorskip("skops.io")
    skops.dump(model, path)


def test_skops_files_need_no_trust_for_what_is_known(files, capsys, monkeypatch):
    X, y = make_rows(n_samples=90)
    y = np.char.add("<b>", y)
    known = make_pipeline(StandardScaler(), LogisticRegression()).fit(X, y)
    skops_file(files / "known.skops", known)
    opened = load_model(files / "known.skops", trust=False)
    np.testing.assert_array_equal(opened.predict(X), known.predict(X))
    foreign = make_pipeline(FunctionTransformer(skops_file), LogisticRegression())
    skops_file(files / "foreign.skops", foreign)
    assert audit(files, "--eps", "1", model="foreign.skops") == _audit_command.NO_AUDIT
    said = capsys.readouterr().err
    assert "holds types that neither" in said and "skops_file" in said
    assert load_model(files / "foreign.skops", trust=True).steps
    monkeypatch.setitem(sys.modules, "skops", None)
    assert audit(files, "--eps", "1", model="known.skops") == _audit_command.NO_AUDIT
    assert "pip install skops" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name, ours",
    [
        ("sk_advdef.squeezers._blur.BlurSqueezer", True),
        ("sk_advdef._images.ImageLayout", True),
        ("sk_advdef.evaluation._audit_inputs._load_pickle", False),
        ("sk_advdef.evaluation._audit_inputs.Path", False),
        ("sk_advdef.squeezers._base.BlurSqueezer", False),
        ("sk_advdef.no_such_module.Name", False),
        ("sk_advdef_like.Name", False),
        ("os.system", False),
    ],
)
def test_what_of_a_skops_file_is_ours(name, ours):
    assert is_ours(name) == ours


def test_nothing_lost_nothing_told():
    X, y = make_rows()
    assert telling_rows(None, X, y, np.zeros(60, bool), ["unused"], 1, few=True) == []


@pytest.mark.parametrize(
    "worst, severities, limit, failures",
    [
        (0.5, [], None, 0),
        (0.5, ["severe"], None, 0),
        (0.5, ["warning", "note"], 0.5, 0),
        (0.5, ["severe"], 0.5, 1),
        (0.5, ["severe"], 0.6, 2),
        (0.5, [], 0.51, 1),
        (np.nan, [], 0.0, 1),
    ],
)
def test_verdict(made_by_hand, worst, severities, limit, failures):
    found = [Finding("name", s, "e", "m", "w") for s in severities]
    audit = made_by_hand(worst, Diagnosis(found), limit)
    assert len(audit.failures) == failures
    words = "No limit" if limit is None else "Failed" if failures else "Passed"
    assert audit.verdict.startswith(words)
    passed = audit.to_dict()["verdict"]["passed"]
    assert passed == (None if limit is None else not failures)
    json.dumps(audit.to_dict(), allow_nan=False)


def test_it_fails_and_says_so(made, capsys):
    assert made[1] == _audit_command.FAILED
    assert sorted(p.name for p in made[0].iterdir()) == ["report.html", "report.json"]


def audit(files, *words, model="tree.pkl", data="rows.csv"):
    given = [files / model, files / data, "--out", files / "x"]
    return main(["audit", *map(str, given), *words])


def test_a_table_with_names(files, capsys, monkeypatch):
    """Columns that the model does not know are left out, those fixed do not move."""
    monkeypatch.setattr(_audit, "diagnose_defense", lambda *args, **kw: Diagnosis([]))
    words = "--trust --target class --eps 1 --scale iqr --bounds data --rows 5"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        code = audit(files, *words.split(), "--fixed", "c", NAMES[0])
    said = capsys.readouterr()
    assert code == _audit_command.PASSED
    assert "left out: ['id']" in said.err
    assert "No limit was set" in said.out
    told = json.loads((files / "x" / "report.json").read_text(encoding="utf-8"))
    assert told["feature_names"] == NAMES
    assert told["telling_rows"]
    for row in told["telling_rows"]:
        for i in (0, 3):
            assert row["before"][i] == row["after"][i]
    eps = np.array(told["robustness"]["threat"]["eps"])
    X = make_rows(n_samples=90)[0][60:]
    iqr = np.subtract(*np.percentile(X, [75, 25], axis=0))
    np.testing.assert_allclose(eps, np.where([1, 0, 0, 1, 0, 0], 0, iqr))


@pytest.mark.parametrize(
    "model, data, words, error",
    [
        ("tree.pkl", "rows.csv", "--target class", "Pass --trust"),
        ("none.pkl", "rows.csv", "--trust", "There is no file"),
        ("tree.pkl", "none.csv", "--trust", "There is no file"),
        ("tree.pkl", "rows.csv", "--trust", "--target must be the column"),
        ("tree.pkl", "rows.csv", "--trust --target id", "no classes of the model"),
        ("tree.pkl", "tree.pkl", "--trust", r"must be an \.npz file"),
        ("model.joblib", "rows.npz", "--trust --target z", "has no array"),
        ("model.joblib", "objects.npz", "--trust", "cannot be read"),
        ("model.joblib", "rows.npz", "--trust --fixed 9", "columns that are not there"),
        ("model.joblib", "rows.npz", "--trust --bounds 1", "--bounds must be"),
        ("scaler.pkl", "rows.npz", "--trust", "has no predict"),
        ("outliers.pkl", "rows.npz", "--trust", "no fitted classifier"),
        ("lost.pkl", "rows.npz", "--trust", "gone_away, which cannot be imported"),
        ("model.joblib", "words.csv", "--trust --target class", "not numeric"),
        ("tree.pkl", "words.csv", "--trust --target class", "lacks columns"),
        ("model.joblib", "rows.npz", "--trust --bounds 1,0", "LOW below HIGH"),
        ("model.joblib", "cut.npz", "--trust", "cannot be read"),
        ("model.joblib", "empty.npz", "--trust", "cannot be read"),
        ("model.joblib", "two.npz", "--trust", r"labels of shape \(2,\)"),
        ("model.joblib", "none.npz", "--trust", r"rows of shape \(0, 6\)"),
        ("model.joblib", "holes.npz", "--trust", "missing or infinite"),
        ("tree.pkl", "empty.csv", "--trust --target class", "cannot be read: Empty"),
        ("tree.pkl", "latin.csv", "--trust --target class", "cannot be read: Unicode"),
        ("cut.skops", "rows.npz", "--trust", "cannot be read"),
        ("cut.pkl", "rows.npz", "--trust", "cannot be read"),
        ("model.joblib", "rows.npz", "--trust --bounds=-inf,inf", "--bounds must be"),
        ("model.joblib", "rows.npz", "--trust", "outside --bounds 0,1.*--bounds data"),
        ("tree.pkl", "rows.csv", "--trust --target class", "outside --bounds 0,1"),
        ("model.joblib", "stacked.npz", "--trust --fixed 0", "not for stacked images"),
        (
            "model.joblib",
            "rows.npz",
            "--trust --bounds none --image-shape 3,3",
            "--image-shape and --channel-axis: .* has 9 values, but X has 6",
        ),
    ],
)
def test_no_audit(files, capsys, model, data, words, error):
    if model == "scaler.pkl":
        (files / model).write_bytes(pickle.dumps(StandardScaler()))
    if model == "outliers.pkl":
        (files / model).write_bytes(pickle.dumps(OneClassSVM()))
    if model == "lost.pkl":
        (files / model).write_bytes(b"cgone_away\nModel\n.")
    if data == "objects.npz":
        np.savez(files / data, X=np.array([{}]), y=np.array([0]))
    if data == "words.csv":
        pd.DataFrame({"a": ["x"], "class": ["<b>ham"]}).to_csv(files / data)
    for name, rows, labels in (
        ("two.npz", np.zeros((3, 6)), np.zeros(2)),
        ("none.npz", np.zeros((0, 6)), np.zeros(0)),
        ("holes.npz", np.full((1, 6), np.nan), np.array(["<b>ham"])),
        ("stacked.npz", np.zeros((3, 2, 3)), np.array(["<b>ham"] * 3)),
    ):
        np.savez(files / name, X=rows, y=labels)
    for name, whole in (("cut.npz", "rows.npz"), ("cut.pkl", "tree.pkl")):
        (files / name).write_bytes((files / whole).read_bytes()[:-40])
    for name in ("empty.csv", "empty.npz"):
        (files / name).write_bytes(b"")
    (files / "latin.csv").write_bytes(b"a,class\n\xe9,ham\n")
    with zipfile.ZipFile(files / "cut.skops", "w") as archive:
        archive.writestr("schema.json", "[" * 10**5)
    code = audit(files, "--eps", "0.1", *words.split(), model=model, data=data)
    assert code == _audit_command.NO_AUDIT
    said = capsys.readouterr()
    assert re.search(error, said.err), said.err
    assert not said.out


@pytest.mark.parametrize(
    "classes, spelled",
    [
        (["NA", "None", "ok"], ["NA", "None", "ok"]),
        (["0", "1", "2"], [0, 1, 2]),
        ([0, 1, 2], ["0", "1", "2"]),
    ],
)
def test_labels_as_they_are_spelled_in_a_table(files, classes, spelled, tmp_path):
    X, y = make_rows(n_samples=90)
    codes = np.unique(y, return_inverse=True)[1]
    model = DecisionTreeClassifier(max_depth=3, random_state=0)
    model.fit(X, np.array(classes)[codes])
    path = tmp_path / "rows.csv"
    frame = pd.DataFrame(X, columns=list("abcdef"))
    frame.assign(label=np.array(spelled)[codes]).to_csv(path, index=False)
    data = fitted_to(model, load_data(path, "label"))
    np.testing.assert_array_equal(data.y, np.array(classes)[codes])
    assert data.y.dtype.kind == np.array(classes).dtype.kind


class Trap:
    """A pickle that leaves a file behind when it is opened."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def test_a_pickle_that_is_not_trusted_runs_nothing(files, tmp_path):
    left = tmp_path / "left behind"
    (files / "trap.pkl").write_bytes(pickle.dumps(Trap(str(left))))
    np.savez(files / "trap.npz", X=np.array([Trap(str(left))]), y=np.array([0]))
    assert audit(files, "--eps", "1", model="trap.pkl") == _audit_command.NO_AUDIT
    words = ["--eps", "1", "--trust"]
    assert audit(files, *words, data="trap.npz") == _audit_command.NO_AUDIT
    assert not left.exists()


def test_a_crash_is_no_verdict(files, capsys, monkeypatch):
    def crash(*args, **params):
        raise RuntimeError("out of luck")

    monkeypatch.setattr(_audit, "evaluate_robustness", crash)
    words = ["--trust", "--eps", "1", "--target", "class", "--bounds", "none"]
    assert audit(files, *words) == _audit_command.NO_AUDIT
    assert "out of luck" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words, said",
    [
        ("--eps abc", "argument --eps: must be a number in [0, inf), got abc"),
        ("--eps 1 --fail-under x", "must be a number in [0, 1], got x"),
        ("--eps 1 --rows 2.5", "must be a whole number from 1, got 2.5"),
        ("--eps 1 --image-shape 3,x", "must be H,W or H,W,C, got 3,x"),
        ("--eps 1 --seed=-1", "must be a whole number in [0, 2**32), got -1"),
        ("--eps 1 --seed x", "must be a whole number in [0, 2**32), got x"),
        ("--eps 1 --jobs 0", "a whole number other than 0 (-1: all cores), got 0"),
    ],
)
def test_arguments_are_named(files, words, said, capsys):
    with pytest.raises(SystemExit):
        audit(files, *words.split())
    assert said in capsys.readouterr().err


class Closed(io.TextIOWrapper):
    """Where nobody reads any more."""

    def __init__(self, error, folder):
        super().__init__((folder / "nowhere").open("wb"), encoding="ascii")
        self.error = error

    def write(self, text):
        raise self.error

    def flush(self):
        pass


@pytest.mark.parametrize("error", [BrokenPipeError(), OSError(28, "No space left")])
def test_the_report_is_written_though_nobody_listens(
    error, files, tmp_path, monkeypatch
):
    monkeypatch.setattr(_audit, "diagnose_defense", lambda *args, **kw: Diagnosis([]))
    monkeypatch.setattr(sys, "stdout", Closed(error, tmp_path))
    out = tmp_path / "grö\u00dfe"
    words = "--trust --target class --eps 1 --bounds data --rows 5 --fail-under 0"
    given = [files / "tree.pkl", files / "rows.csv", "--out", out]
    code = main(["audit", *map(str, given), *words.split()])
    assert code == _audit_command.PASSED
    assert sorted(p.name for p in out.iterdir()) == ["report.html", "report.json"]


def test_a_terminal_that_knows_few_letters(files, tmp_path, monkeypatch):
    monkeypatch.setattr(_audit, "diagnose_defense", lambda *args, **kw: Diagnosis([]))
    kept = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(kept, encoding="ascii"))
    words = "--trust --target class --eps 1 --bounds data --rows 5"
    given = [files / "tree.pkl", files / "rows.csv", "--out", tmp_path / "größe"]
    assert main(["audit", *map(str, given), *words.split()]) == _audit_command.PASSED
    assert b"gr\\xf6\\xdfe" in kept.getvalue()


def test_a_hair_below_the_limit_reads_below(made_by_hand):
    found = made_by_hand(0.5, Diagnosis([]), 0.5001)
    assert "50.00%, below 50.01%" in found.failures[0]


@pytest.mark.parametrize(
    "words",
    ["", "--eps -1", "--eps 1 --fail-under 2", "--eps 1 --rows 0", "--eps nan"],
)
def test_wrong_arguments(files, words, capsys):
    with pytest.raises(SystemExit) as stopped:
        audit(files, *words.split())
    assert stopped.value.code == 2
    assert "usage: sk-advdef audit" in capsys.readouterr().err


def test_commands_of_the_docs_are_commands():
    text = (Path(__file__).parents[2] / "docs" / "audit.md").read_text(encoding="utf-8")
    found = re.findall(r"^sk-advdef (audit (?:\\\n|.)+)$", text, re.MULTILINE)
    assert len(found) >= 2
    for command in found:
        words = shlex.split(command.replace("\\\n", " "))
        assert _parser().parse_args(words).command == "audit"


def test_help_loads_nothing_heavy():
    code = (
        "import sys\nfrom sk_advdef.__main__ import main\n"
        "try:\n    main(['audit', '--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'numpy', 'sklearn', 'torch', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "exit codes:" in done.stdout
