import json

import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression

from sk_advdef import (
    DDN,
    FGSM,
    JSMA,
    PGD,
    CarliniWagnerL2,
    FeatureSpace,
    RandomSearch,
    attack_strength_test,
)
from sk_advdef.evaluation._strength import fit_readout
from sk_advdef.evaluation._strength_report import StrengthReport
from tests.evaluation import zoo
from tests.evaluation.test_diagnose import LabelsOnly, detecting, model

_, _, (X, Y) = zoo.rows()
EPS = 0.1


def strength_of(name, attack, rows=20, **params):
    estimator = model(name) if isinstance(name, str) else name
    return attack_strength_test(
        estimator, attack, X, n_rows=rows, random_state=0, **params
    )


@pytest.mark.parametrize("name", ["plain_net", "pgd_trained", "logistic"])
@pytest.mark.parametrize("loss", ["ce", "margin"])
def test_strong_attack_finds_what_is_planted(name, loss, global_generators):
    report = strength_of(name, PGD(EPS, loss=loss, random_state=0))
    assert report.rows >= 18
    assert report.success_rate >= 0.95 and report.passed
    assert report.random_rate <= 0.1


@pytest.mark.parametrize(
    "attack",
    [
        RandomSearch(EPS, max_queries=300, random_state=0),
        PGD(EPS, targeted=True, random_state=0),
        PGD(np.full(64, EPS), random_state=0),
        PGD(0.5, norm="l2", random_state=0),
    ],
)
def test_every_kind_of_attack(attack):
    assert strength_of("plain_net", attack).success_rate >= 0.95


def test_smallest_change_within_a_given_eps():
    report = strength_of("plain_net", DDN(steps=20), rows=10, eps=1.0)
    assert report.success_rate >= 0.9
    lazy = CarliniWagnerL2(steps=1, binary_search_steps=1, initial_const=1e-9)
    assert strength_of("plain_net", lazy, rows=5, eps=1.0).success_rate < 0.5


def test_crippled_attack_fails():
    report = strength_of(
        "plain_net", PGD(EPS, steps=1, step_size=0.005, random_state=0)
    )
    assert report.success_rate < 0.5 and not report.passed
    assert "too weak" in str(report)


@pytest.mark.parametrize("name", ["distilled", "saturated"])
def test_cross_entropy_fails_where_the_model_saturates_it(name):
    by_ce = strength_of(name, PGD(EPS, random_state=0), rows=40)
    by_margin = strength_of(name, PGD(EPS, loss="margin", random_state=0), rows=40)
    assert by_margin.success_rate >= 0.95
    assert by_ce.success_rate < by_margin.success_rate - 0.15
    assert not by_ce.passed


def test_gradient_that_leads_astray_fails():
    assert strength_of("wrinkled", PGD(EPS, random_state=0)).success_rate < 0.5
    search = RandomSearch(EPS, max_queries=300, random_state=0)
    assert strength_of("wrinkled", search).success_rate >= 0.9


def test_flat_scores_leave_nothing_to_plant_in():
    report = strength_of("signed_logits", PGD(0.02, random_state=0))
    assert report.rows <= 3
    if report.rows == 0:
        assert np.isnan(report.success_rate) and not report.passed


def test_of_what_rejects_the_classifier_is_tested():
    report = strength_of(detecting(), PGD(EPS, random_state=0), rows=5)
    assert report.success_rate == 1


def test_scores_alone_and_images():
    forest = RandomForestClassifier(10, random_state=0).fit(*zoo.rows()[0])
    strong = RandomSearch(EPS, max_queries=200, random_state=0)
    weak = RandomSearch(EPS, max_queries=1, random_state=0)
    rates = [
        strength_of(forest, attack, rows=8).success_rate for attack in (strong, weak)
    ]
    assert rates[0] > rates[1]
    images = X.reshape(-1, 8, 8)
    report = attack_strength_test(
        model("plain_net"), FGSM(EPS), images, n_rows=5, random_state=0
    )
    assert report.rows == 5


def test_two_classes_have_one_score():
    (X_fit, y_fit), _, _ = zoo.rows()
    binary = LogisticRegression(max_iter=1000).fit(X_fit, y_fit > 4)
    assert strength_of(binary, PGD(EPS, random_state=0)).success_rate >= 0.95


def test_report_reads_in_every_form(capsys):
    attack = PGD(EPS, random_state=0)
    report = strength_of("logistic", attack, rows=5, verbose=1)
    assert "rows" in capsys.readouterr().err
    assert report == strength_of("logistic", attack, rows=5)
    figures = json.loads(json.dumps(report.to_dict()))
    assert figures["passed"] and figures["success_rate"] == 1
    assert "needed and not enough" in str(report)
    low, high = report.interval
    assert 0 < low < high == pytest.approx(1)
    empty = StrengthReport(np.nan, np.nan, 0, 5, "PGD")
    assert "No adversarial example" in str(empty)


def test_readout_leaves_out_what_does_not_stand_apart():
    rng = np.random.default_rng(0)
    cloud = rng.standard_normal((100, 3))
    inside = np.r_[cloud, np.zeros((1, 3))]
    assert fit_readout(inside, 1) is None
    assert fit_readout(np.ones((100, 3)), 5) is None
    apart = np.r_[cloud, [[9.0, -9.0, 0.0]]]
    readout = fit_readout(apart, 1)
    read = apart @ readout.weight + readout.bias
    assert (read[:-1] < 0).all() and read[-1] > 0
    first, second = np.sort(apart[0])[:0:-1]
    assert read[0] == pytest.approx(second - first)


def test_refusals():
    logistic = model("logistic")
    with pytest.raises(TypeError, match="attack of this package"):
        attack_strength_test(logistic, "pgd", X)
    with pytest.raises(ValueError, match="has no eps"):
        attack_strength_test(logistic, DDN(), X)
    with pytest.raises(ValueError, match="norm"):
        attack_strength_test(logistic, JSMA(), X)
    with pytest.raises(ValueError, match="space=None"):
        attack_strength_test(logistic, PGD(None, space=FeatureSpace(eps=0.1)), X)
    with pytest.raises(ValueError, match="n_inner"):
        attack_strength_test(logistic, PGD(EPS), X, n_inner=1)
    with pytest.raises(TypeError, match="neither"):
        attack_strength_test(LabelsOnly(logistic), PGD(EPS), X)
