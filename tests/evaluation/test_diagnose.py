import json
from functools import cache

import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.datasets import load_breast_cancer
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import IsolationForest, RandomForestClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.multiclass import OneVsRestClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from sk_advdef import (
    PGD,
    Diagnosis,
    DropoutUncertaintyDetector,
    RandomSearch,
    RejectingClassifier,
    diagnose_defense,
    make_robust_scorer,
    robust_accuracy_score,
)
from sk_advdef.evaluation import _diagnose
from sk_advdef.nets import DropoutCNN
from tests.evaluation import zoo

_, CALIBRATION, (X, Y) = zoo.rows()


@cache
def model(name):
    made = zoo.SOUND[name] if name in zoo.SOUND else zoo.BROKEN[name][0]
    return made()


def diagnosed(estimator, rows=100, **params):
    given = {"eps": zoo.EPS, "random_state": 0, "n_rows": rows}
    return diagnose_defense(estimator, X, Y, **given | params)


def names(diagnosis):
    return {finding.name for finding in diagnosis.findings}


@pytest.mark.parametrize("name", zoo.BROKEN)
def test_broken_defence_is_broken_or_flagged(name, global_generators):
    _, expected = zoo.BROKEN[name]
    found = diagnosed(model(name))
    assert expected <= names(found)
    if name in ("one_bit_inside", "signed_logits"):  # which attacks go straight through
        assert found.figures["held under PGD (margin)"] < 0.5
    if expected:
        assert found and not found.ok
    else:
        # one bit makes pixels far from the step free of change in smaller balls
        eps = 2 * zoo.EPS if name == "one_bit" else zoo.EPS
        left = robust_accuracy_score(model(name), X, Y, eps=eps, random_state=0)
        assert left <= zoo.UNDEFENDED


def test_one_bit_is_broken_to_the_known_figure():
    # 36 % is what 10 restarts, 400 steps and 5,000 queries together left
    score = robust_accuracy_score(
        model("one_bit"), X[:200], Y[:200], eps=zoo.EPS, random_state=0
    )
    assert score <= 0.36 + 0.05


@pytest.mark.parametrize("eps", [0.05, zoo.EPS])
@pytest.mark.parametrize("name", zoo.SOUND)
def test_sound_models_are_not_flagged(name, eps):
    found = diagnosed(model(name), eps=eps)
    assert found.ok and not found and not found.severe, str(found)
    assert "No sign" in str(found) or found.findings


def test_same_seed_same_diagnosis():
    first, second = (diagnosed(model("logistic"), rows=40) for _ in range(2))
    assert first.to_dict() == second.to_dict()


def test_report_reads_in_every_form(capsys):
    found = diagnosed(model("wrinkled"), eps=np.full(64, zoo.EPS), verbose=1)
    assert "checks" in capsys.readouterr().err
    as_json = json.loads(json.dumps(found.to_dict()))
    assert not as_json["ok"] and as_json["threat"]["eps"] == [zoo.EPS] * 64
    severities = [f["severity"] for f in as_json["findings"]]
    assert severities == sorted(severities, key=["severe", "warning", "note"].index)
    assert len(found.severe) == severities.count("severe") > 0
    text, page = str(found), found._repr_html_()
    for finding in found.findings:
        for part in (finding.name, finding.evidence, finding.meaning):
            assert part in text
        assert finding.name in page
    assert "0.2 to 0.2 by feature" in text


def test_trees_get_a_note_that_names_the_exact_attack(global_generators):
    forest = RandomForestClassifier(10, random_state=0).fit(*zoo.rows()[0])
    found = diagnosed(forest, rows=40)
    assert found.ok and names(found) == {"no_gradient"}
    assert "TreeExact" in found.findings[0].what_to_do
    assert 0 <= found.figures["held under all"] < 0.5


def test_model_without_view_gets_a_warning():
    found = diagnosed(KNeighborsClassifier().fit(*zoo.rows()[0]), rows=40)
    assert [f.severity for f in found.findings] == ["warning"]


class LabelsOnly(ClassifierMixin, BaseEstimator):
    def __init__(self, inner):
        self.inner, self.classes_ = inner, inner.classes_

    def predict(self, X):
        return self.inner.predict(X)


def test_labels_alone_are_enough():
    found = diagnosed(LabelsOnly(model("logistic")), rows=40)
    assert names(found) == {"no_gradient"}
    assert found.figures["taken by queries, not by PGD"] > 0.3


def test_constant_answers_are_useless():
    found = diagnosed(DummyClassifier().fit(*zoo.rows()[0]), rows=40)
    assert {"useless_when_clean", "few_rows"} <= names(found)


def test_frames_and_no_bounds():
    columns = [f"p{i}" for i in range(64)]
    frame = pd.DataFrame(X.astype(float), columns=columns)
    (X_fit, y_fit), _, _ = zoo.rows()
    known = pd.DataFrame(X_fit.astype(float), columns=columns)
    fitted = LogisticRegression(C=0.1, max_iter=1000).fit(known, y_fit)
    found = diagnose_defense(
        fitted, frame, Y, eps=0.1, bounds=None, n_rows=40, random_state=0
    )
    assert found.ok
    assert found.figures["held within the whole box"] == 0


def test_images():
    (X_fit, y_fit), _, _ = zoo.rows()
    net = zoo.undefended(DropoutCNN, module__n_classes=10, module__dropout=0.2)
    fitted = zoo.fitted(net.set_params(max_epochs=6), X_fit.reshape(-1, 8, 8), y_fit)
    found = diagnose_defense(
        fitted, X.reshape(-1, 8, 8), Y, eps=0.1, n_rows=40, random_state=0
    )
    assert not found.severe


def detecting(**params):
    net = FrozenEstimator(model("plain_net"))
    detector = DropoutUncertaintyDetector(
        net, n_passes=5, contamination=0.1, random_state=0, **params
    )
    return RejectingClassifier(net, detector).fit(*CALIBRATION)


def test_detector_with_fixed_masks(monkeypatch, global_generators):
    monkeypatch.setattr(_diagnose, "REJECTING_ROWS", 6)
    found = diagnosed(detecting())
    assert not names(found) & {"outputs_change", "rejects_genuine", "rejects_noise"}
    assert any("silent" in text for text in found.not_checked)
    assert found.figures["genuine rows rejected"] < 0.2


def test_masks_that_matter(monkeypatch):
    monkeypatch.setattr(_diagnose, "REJECTING_ROWS", 2)
    monkeypatch.setattr(_diagnose.checks, "CHANGED_VERDICTS", -1)
    assert "depends_on_masks" in names(diagnosed(detecting(), rows=8))


def test_fresh_masks_are_seen(monkeypatch):
    monkeypatch.setattr(_diagnose, "REJECTING_ROWS", 2)
    found = diagnosed(detecting(masks="fresh"))
    assert "outputs_change" in names(found)


def test_detector_without_view():
    net = FrozenEstimator(model("plain_net"))
    detector = FarFromGray(net).fit(*CALIBRATION)
    assert not hasattr(detector, "_as_score_module")
    found = diagnosed(RejectingClassifier(net, FrozenEstimator(detector)).fit(X), 30)
    assert "no_gradient" in names(found)


class FarFromGray(zoo.Detector):
    def __init__(self, estimator, *, contamination=0.05, random_state=0):
        self.estimator = estimator
        self.contamination = contamination
        self.random_state = random_state

    def _raw_scores(self, X):
        return np.linalg.norm(X - 0.5, axis=1).astype(np.float64)


@pytest.fixture(scope="module")
def searched():
    X_fit, y_fit = (part[:400] for part in zoo.rows()[0])

    def search(attack, estimator, grid, **params):
        with pytest.warns(UserWarning, match="One attack alone"):
            scorer = make_robust_scorer(attack)
        params = {"scoring": scorer, "cv": 2, **params}
        return zoo.fitted(GridSearchCV(estimator, grid, **params), X_fit, y_fit)

    return search


def test_search_that_selected_masking(searched):
    # the more saturated, the better it hides from the cross-entropy
    net = zoo.undefended(Scaled, module__n_classes=10, max_epochs=20)
    search = searched(PGD(0.1, random_state=0), net, {"module__scale": [1.0, 1000.0]})
    assert search.best_params_ == {"module__scale": 1000.0}
    found = diagnosed(search, eps=0.1)
    assert "search_selected_masking" in names(found) and found.severe


class Scaled(zoo.Plain):
    def __init__(self, n_classes, scale=1.0, dropout=0.5):
        super().__init__(n_classes, dropout=dropout)
        self.scale = scale

    def after(self, logits):
        return self.scale * logits


def test_search_by_one_gradient_attack(searched):
    search = searched(
        PGD(0.1, random_state=0),
        LogisticRegression(max_iter=1000),
        {"C": [0.1, 1.0]},
        scoring=None,
    )
    found = diagnosed(search.best_estimator_, rows=40, search=search)
    assert any("the search" in text for text in found.not_checked)
    with pytest.warns(UserWarning, match="One attack alone"):
        scorer = make_robust_scorer(PGD(0.1, random_state=0))
    search.set_params(scoring={"a": "accuracy", "r": scorer}, refit="r")
    search.fit(*(part[:200] for part in zoo.rows()[0]))
    found = diagnosed(search, rows=40)
    assert names(found) == {"search_by_one_attack"}
    assert not found.severe and found


@pytest.mark.parametrize(
    "scorer", [{"eps": 0.1}, {"attack": [PGD(0.1), RandomSearch(0.1, max_queries=5)]}]
)
def test_search_by_several_attacks_is_fine(scorer):
    search = GridSearchCV(
        LogisticRegression(max_iter=1000),
        {"C": [0.1]},
        scoring=make_robust_scorer(**scorer),
        cv=2,
    ).fit(*(part[:150] for part in zoo.rows()[0]))
    assert "search_by_one_attack" not in names(diagnosed(search, rows=40))


@pytest.mark.filterwarnings("ignore:One attack alone")
def test_search_by_queries_alone_on_a_forest():
    search = GridSearchCV(
        RandomForestClassifier(5, random_state=0),
        {"max_depth": [4]},
        scoring=make_robust_scorer(RandomSearch(0.1, max_queries=50)),
        cv=2,
    ).fit(*(part[:150] for part in zoo.rows()[0]))
    assert names(diagnosed(search, rows=40)) <= {
        "no_gradient",
        "few_rows",
        "search_selected_masking",
    }


def test_refuses_what_is_no_classifier():
    with pytest.raises(TypeError, match="fitted classifier"):
        diagnosed(IsolationForest().fit(X))
    with pytest.raises(ValueError, match="n_rows"):
        diagnosed(model("logistic"), rows=0)


def test_features_of_many_units_do_not_cry_wolf():
    """The whole box is each feature's own range, not that of the widest."""
    X, y = load_breast_cancer(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(X))
    X, y = X[order], y[order]
    honest = make_pipeline(StandardScaler(), SVC()).fit(X[:400], y[:400])
    box = X.min(axis=0), X.max(axis=0)
    found = diagnose_defense(
        honest, X[400:], y[400:], eps=0.1 * X.std(axis=0), bounds=box, random_state=0
    )
    assert not found.severe, found


def test_ensembles_that_are_no_trees():
    model = OneVsRestClassifier(KNeighborsClassifier()).fit(*zoo.rows()[0])
    found = diagnosed(model, rows=30)
    finding = next(f for f in found.findings if f.name == "no_gradient")
    assert finding.severity == "warning" and "TreeExact" not in finding.what_to_do
    assert any("Transfer" in words for words in found.not_checked)


def test_rows_of_one_class_tell_nothing_of_use():
    fitted = model("logistic")
    of_one = np.flatnonzero((Y[0] == Y) & (fitted.predict(X) == Y))[:30]
    found = diagnose_defense(fitted, X[of_one], Y[of_one], eps=0.05, random_state=0)
    assert "useless_when_clean" not in names(found)


@pytest.mark.parametrize(
    "eps", [np.float32(0.1), np.full(64, 0.1), pd.Series([0.1] * 64)]
)
def test_any_threat_is_json(eps):
    box = [np.zeros(64), np.ones(64)]
    state = np.random.RandomState(0)
    found = diagnosed(model("logistic"), rows=3, eps=eps, bounds=box)
    told = Diagnosis([], {}, found.threat | {"random_state": state}).to_dict()
    assert json.loads(json.dumps(told))["threat"]["bounds"][0] == [0.0] * 64
