"""The detector of detectors: its lesson, its score, its view, who goes past it."""

import itertools
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.compose import make_column_transformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV, ShuffleSplit
from sklearn.naive_bayes import GaussianNB
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.svm import SVC

from sk_advdef import (
    FGSM,
    JSMA,
    PGD,
    BlurSqueezer,
    CombinedDetector,
    DensityDetector,
    DropoutUncertaintyDetector,
    FeatureSpace,
    FeatureSqueezingDetector,
    RandomSearch,
    RejectingClassifier,
    as_module,
    as_score_module,
    evaluate_robustness,
    make_detection_scorer,
    rejection_robust_error,
)
from sk_advdef._torch._models import sampling_detector
from sk_advdef._torch._net import NetClassifier
from sk_advdef._torch._registry import has_view
from sk_advdef.attacks._base import Attack
from sk_advdef.detection import _combined
from sk_advdef.detection._lesson import (
    GENUINE,
    NOISY,
    default_attacks,
    grouped_folds,
    make_lesson,
    shuffled_noise,
)
from sk_advdef.detection._odds import calibrated_odds
from sk_advdef.detection._threshold import conformal_offset
from tests._instances import make_rows, small_net

X, y = make_rows(n_samples=400)
ATTACK = PGD(2.5, steps=5, bounds=None)
linear = LogisticRegression(max_iter=1000).fit(X, y)
frozen_linear = FrozenEstimator(linear)
PAIR = [
    ("density", DensityDetector()),
    ("distance", DensityDetector(method="mahalanobis")),
]
SQUEEZING = ("squeezing", FeatureSqueezingDetector(squeezers=[("b", BlurSqueezer(1))]))


def dropout(statistic="variance", **params):
    return DropoutUncertaintyDetector(n_passes=8, statistic=statistic, **params)


def make(detectors=PAIR, **params):
    given = {"attack": ATTACK, "contamination": 0.1, "cv": 0.5, "random_state": 0}
    return CombinedDetector(detectors, **given | params)


@pytest.fixture(scope="module")
def net():
    return FrozenEstimator(NetClassifier(small_net(), random_state=0).fit(X, y))


# --- the lesson


@pytest.mark.parametrize("shape", [(30,), (5, 6)])
def test_noise_is_as_long_and_as_sparse_as_the_attack(shape):
    rng = np.random.default_rng(0)
    given = rng.random((200, *shape)).astype(np.float32)
    changed = rng.random((200, *shape)) < 0.2
    changed.reshape(200, -1)[:, 7] = False
    inward = np.where(given < 0.5, 0.3, -0.3).astype(np.float32)
    attacked = np.where(changed, given + inward, given)
    noisy = shuffled_noise(given, attacked, np.random.default_rng(1))
    assert noisy.shape == given.shape

    def length(rows):
        return np.linalg.norm((rows - given).reshape(200, -1), axis=1).mean()

    assert length(noisy) == pytest.approx(length(attacked), rel=1e-4)
    share = (noisy != given).mean()
    assert 0.7 * changed.mean() < share <= changed.mean()
    assert (noisy == given).reshape(200, -1)[:, 7].all()
    assert noisy.min() >= 0 and noisy.max() <= 1
    # without aim: of a column it says nothing where the attack went
    moves, aims = (a - given for a in (noisy, attacked))
    assert abs((moves * aims).mean()) < 0.1 * (aims**2).mean()


def test_noise_that_the_range_cuts_and_noise_of_nothing():
    given, attacked = np.zeros((4, 2)), np.array([[1.0, 0], [0, 0], [0, 0], [0, 0]])
    noisy = shuffled_noise(given, attacked, np.random.default_rng(0))
    assert set(np.unique(noisy)) <= {0.0, 1.0} and (noisy[:, 1] == 0).all()
    same = shuffled_noise(given, given, np.random.default_rng(0))
    np.testing.assert_array_equal(same, given)


def test_lesson():
    attacks = [FGSM(0.8, bounds=None), ATTACK]
    lesson = make_lesson(frozen_linear, attacks, X, seed=0)
    assert [len(b) for b in lesson.blocks] == np.unique(
        np.cumsum(np.r_[True, np.diff(lesson.kind) != 0]), return_counts=True
    )[1].tolist()
    answers = linear.predict(X)
    for number, attack in enumerate(attacks):
        block = np.concatenate(lesson.blocks)[lesson.kind == number]
        source = lesson.source[lesson.kind == number]
        # from what the model answers, right or wrong, and only what changed it
        assert (linear.predict(block) != answers[source]).all()
        assert lesson.fooled[number] == len(block) / len(X)
        assert np.abs(block - X[source]).max() <= attack.eps + 1e-9
        expected = np.linalg.norm(block - X[source], axis=1).mean()
        assert lesson.attack_l2[number] == pytest.approx(expected)
    assert 0 < lesson.fooled[0] < lesson.fooled[1]
    np.testing.assert_allclose(lesson.noise_l2, lesson.attack_l2, rtol=1e-3)
    assert (lesson.kind == NOISY).sum() == (lesson.kind >= 0).sum()
    np.testing.assert_array_equal(lesson.source[lesson.kind == GENUINE], range(len(X)))
    again = make_lesson(frozen_linear, attacks, X, seed=0)
    for one, other in zip(lesson.blocks, again.blocks, strict=True):
        np.testing.assert_array_equal(one, other)


def test_copies_of_a_row_never_part():
    lesson = make_lesson(linear, [FGSM(0.8, bounds=None), ATTACK], X, seed=0)
    scored = []
    for learned, out in grouped_folds(lesson, 5, seed=0):
        assert not set(lesson.source[learned]) & set(lesson.source[out])
        scored.append(out)
        attacked = len(np.unique(lesson.source[out][lesson.kind[out] >= 0]))
        assert abs(attacked - 0.2 * len(np.unique(lesson.source[lesson.kind >= 0]))) < 1
    np.testing.assert_array_equal(
        np.sort(np.concatenate(scored)), range(len(lesson.kind))
    )


def test_attacks_that_fail_count_with_a_warning():
    weak = FGSM(1e-3, bounds=None)
    with pytest.warns(UserWarning, match=r"FGSM\(.*fooled the model on \d of 400 rows"):
        lesson = make_lesson(linear, [weak], X, seed=0)
    assert (lesson.kind == 0).sum() == len(X) and lesson.fooled[0] < 0.02


def test_attacks_by_default():
    early, late = default_attacks(frozen_linear, X)
    assert early.early_stop and not late.early_stop
    np.testing.assert_allclose(early.eps, 0.1 * np.ptp(X, axis=0))
    np.testing.assert_array_equal(early.bounds, [X.min(axis=0), X.max(axis=0)])
    image, _ = default_attacks(frozen_linear, X.reshape(-1, 2, 3))
    assert image.eps == pytest.approx(0.1 * np.ptp(X))
    forest = RandomForestClassifier(5, random_state=0).fit(X, y)
    (asking,) = default_attacks(forest, X)
    assert isinstance(asking, RandomSearch)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*fooled the model on")
        found = make(estimator=FrozenEstimator(forest), attack=None).fit(X, y)
    assert isinstance(found.attacks_[0], RandomSearch)


# --- odds


def test_odds_of_two_normal_densities():
    """Of N(m, s) against N(-m, s) the log-odds are 2 m / s^2 times the value."""
    rng = np.random.default_rng(0)
    positive = np.arange(40000) % 4 == 0  # rare, which must not matter
    values = rng.normal(np.where(positive, 1.5, -1.5), 2.0)
    slope, intercept = calibrated_odds(values, positive)
    assert slope == pytest.approx(0.75, rel=0.03) and abs(intercept) < 0.03
    moved = calibrated_odds(1e3 * values + 7, positive)
    assert moved[0] == pytest.approx(slope / 1e3, rel=1e-3)
    assert moved[1] == pytest.approx(intercept - 7 * slope / 1e3, abs=1e-3)


def test_odds_of_what_tells_nothing_and_of_what_tells_all():
    positive = np.arange(60) % 2 == 0
    assert calibrated_odds(np.ones(60), positive) == (0.0, 0.0)
    assert calibrated_odds(np.where(positive, -1.0, 1.0), positive) == (0.0, 0.0)
    slope, intercept = calibrated_odds(np.where(positive, 1.0, -1.0), positive)
    assert slope + intercept == pytest.approx(np.log(31), rel=1e-2)  # Platt's target


# --- the score


def test_the_score_is_that_of_the_final_estimator(net):
    named = [("u", dropout()), *PAIR, SQUEEZING]
    found = make(named, estimator=net).fit(X, y)
    scores = found.detector_scores(X)
    for column, (_, detector) in zip(scores.T, found.detectors_, strict=True):
        np.testing.assert_allclose(column, detector.score_samples(X), rtol=1e-6)
    genuine = scores[_rows_attacked(found)]
    low, median, high = np.quantile(genuine, [0.25, 0.5, 0.75], axis=0)
    final = found.final_estimator_
    assert final.class_weight == "balanced"
    odds = np.arcsinh((scores - median) / (high - low)) @ final.coef_[0]
    np.testing.assert_allclose(
        found.score_samples(X), -odds - final.intercept_[0], rtol=1e-5, atol=1e-6
    )
    assert (final.coef_[0] <= 0).sum() >= 3, "what looks genuine is less suspicious"
    np.testing.assert_allclose(
        found.score_samples(X[::-1])[::-1], found.score_samples(X)
    )


def _rows_attacked(found):
    """Find again which rows trained the final estimator, by the way the split goes."""
    seen = []
    original = _combined.make_lesson

    def spy(model, attacks, X, *rest):
        seen.append(X)
        return original(model, attacks, X, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_combined, "make_lesson", spy)
        clone(found).fit(X, y)
    return positions(seen[0])


def positions(rows):
    return np.array([int(np.flatnonzero((row == X).all(axis=1))[0]) for row in rows])


@pytest.mark.parametrize("kind", ["frozen", "fitted", "rejecting"])
def test_no_row_serves_twice(kind, monkeypatch):
    fitted, learned, attacked = [], [], []

    class Spied(LogisticRegression):
        def fit(self, X, y):
            fitted.append(X)
            return super().fit(X, y)

    def spy(function, into, at):
        def call(*args):
            into.append(args[at])
            return function(*args)

        return call

    monkeypatch.setattr(
        DensityDetector, "_fit_scores", spy(DensityDetector._fit_scores, learned, 1)
    )
    lesson = spy(_combined.make_lesson, attacked, 2)
    monkeypatch.setattr(_combined, "make_lesson", lesson)
    split = ShuffleSplit(1, test_size=160, random_state=0)
    first, held = next(split.split(X))
    model = {"frozen": frozen_linear, "fitted": Spied(max_iter=1000), "rejecting": None}
    found = make(estimator=model[kind], cv=split)
    if kind == "rejecting":
        outer = RejectingClassifier(Spied(max_iter=1000), found).fit(X, y)
        found = outer.detector_
        assert {d.estimator_.estimator for _, d in found.detectors_} == {
            outer.estimator_
        }
    else:
        found.fit(X, y)
    if kind != "frozen":
        assert len(fitted) == 1, "one model for all"
        np.testing.assert_array_equal(np.sort(positions(fitted[0])), np.sort(first))
    assert len(learned) == 2 and len(attacked) == 1
    for rows in learned:
        np.testing.assert_array_equal(np.sort(positions(rows)), np.sort(first))
    rows = positions(attacked[0])
    assert len(rows) == 80 and set(rows) < set(held)
    threshold = np.setdiff1d(held, rows)
    scores = found.score_samples(X[threshold])
    assert found.offset_ == pytest.approx(conformal_offset(scores, 0.1), rel=1e-9)


def test_detectors_of_their_own_and_frozen_ones(net):
    ready = FrozenEstimator(DensityDetector(frozen_linear, random_state=0).fit(X, y))
    own = DensityDetector(LogisticRegression(max_iter=1000), random_state=0)
    found = make([("ready", ready), ("own", own), ("u", dropout())], estimator=net)
    found.fit(X, y)
    assert found.detectors_[0][1] is ready
    assert isinstance(found.detectors_[1][1].estimator_, LogisticRegression)
    assert found.detectors_[2][1].estimator_ is net
    scores = found.detector_scores(X)
    np.testing.assert_allclose(scores[:, 0], ready.estimator.score_samples(X))
    view = as_score_module(found)(torch.tensor(X)).numpy()
    np.testing.assert_allclose(view, -found.score_samples(X), rtol=1e-4, atol=1e-5)
    # where nothing has to be learned, all rows are for the two halves
    only = make([("ready", ready), ("u", dropout())], estimator=net).fit(X)
    assert len(_rows_attacked(only)) == 200


def test_dropout_detectors_share_their_passes(net, monkeypatch):
    alone = [
        make([("u", dropout(s))], estimator=net) for s in ("variance", "logit_margin")
    ]
    expected = [d.fit(X).detector_scores(X)[:, 0] for d in alone]
    runs = []
    original = DropoutUncertaintyDetector._passes
    monkeypatch.setattr(
        DropoutUncertaintyDetector,
        "_passes",
        lambda self, X: runs.append(1) or original(self, X),
    )
    named = [("a", dropout()), ("d", PAIR[0][1]), ("b", dropout("logit_margin"))]
    found = make(named, estimator=net).fit(X, y)
    runs.clear()
    scores = found.detector_scores(X)
    assert len(runs) == 1
    np.testing.assert_allclose(scores[:, [0, 2]].T, expected, rtol=1e-6)
    apart = [("a", dropout(random_state=1)), ("b", dropout(random_state=2))]
    found = make(apart, estimator=net).fit(X)
    runs.clear()
    found.detector_scores(X)
    assert len(runs) == 2
    assert make(named).masks == "fixed" and make().masks is None


def test_fresh_masks(net, tmp_path):
    named = [("u", dropout(masks="fresh")), PAIR[0]]
    found = make(named, estimator=net, memory=str(tmp_path)).fit(X, y)
    assert found.masks == "fresh" and found.__sklearn_tags__().non_deterministic
    assert (found.score_samples(X) != found.score_samples(X)).any()


# --- the probability


def test_prior():
    """Said probabilities come true on new rows, at another share than in training."""
    rows = make_rows(n_samples=3000)[0]
    found = make(estimator=frozen_linear, prior=0.1, cv=0.8).fit(rows[:2000])
    result = ATTACK.run(linear, rows[2000:])
    said = [
        found.predict_proba(r)[:, 0] for r in (rows[2000:], result.X_adv[result.fooled])
    ]
    weight = np.repeat([0.9 / len(said[0]), 0.1 / len(said[1])], list(map(len, said)))
    said, truth = np.concatenate(said), np.repeat([0, 1], list(map(len, said)))
    assert np.average(said, weights=weight) == pytest.approx(0.1, abs=0.02)
    edges = [0, 0.02, 0.1, 0.3, 1.01]
    checked = 0
    for low, high in itertools.pairwise(edges):
        inside = (said >= low) & (said < high)
        if inside.sum() > 50:
            happened = np.average(truth[inside], weights=weight[inside])
            assert happened == pytest.approx(
                np.average(said[inside], weights=weight[inside]), abs=0.12
            )
            checked += 1
    assert checked >= 3
    other = clone(found).set_params(prior=0.5).fit(rows[:2000])
    np.testing.assert_array_equal(other.predict(rows), found.predict(rows))
    assert (other.predict_proba(rows)[:, 0] > found.predict_proba(rows)[:, 0]).all()
    plain = clone(found).set_params(prior=None).fit(rows[:2000])
    at = plain.predict_proba(rows)[:, 1] >= 0.5
    np.testing.assert_array_equal(at, plain.predict(rows) == 1)
    np.testing.assert_allclose(found.predict_proba(rows).sum(axis=1), 1)


# --- the view


@pytest.mark.parametrize(
    "final",
    [
        None,
        LogisticRegression(C=0.1),
        make_pipeline(StandardScaler(), SVC(C=0.5)),
        MLPClassifier((4,), max_iter=40, alpha=1.0),
        GaussianNB(),
    ],
    ids=["default", "linear", "svc", "mlp", "bayes"],
)
@pytest.mark.filterwarnings("ignore:.*hasn't converged")
def test_the_view_of_suspicion(net, final):
    named = [
        *(("a", dropout()), PAIR[0], ("b", dropout("logit_margin"))),
        *(SQUEEZING, PAIR[1]),
    ]
    found = make(named, estimator=net, final_estimator=final).fit(X, y)
    suspicion = as_score_module(found)
    rows = torch.tensor(X[:60], requires_grad=True)
    values = suspicion(rows)
    expected = -found.score_samples(X[:60])
    np.testing.assert_allclose(values.detach(), expected, rtol=1e-3, atol=1e-4)
    features = suspicion.features(rows)
    # passes, hidden features, passes once only, scores squeezed and not, hidden again
    assert features.shape == (60, 8 * 3 + 16 + 2 * 3 + 16)
    gradient = torch.autograd.grad(values.sum(), rows)[0].numpy()
    assert np.isfinite(gradient).all() and (gradient != 0).any(axis=1).all()
    if final is not None:
        return
    suspicion.double()
    step = np.random.default_rng(0).normal(size=X[:60].shape)
    ahead, behind = (
        suspicion(torch.tensor(X[:60] + h * step)).detach().numpy()
        for h in (1e-6, -1e-6)
    )
    slope = (ahead - behind) / 2e-6
    near = np.isclose((gradient * step).sum(axis=1), slope, rtol=1e-2, atol=1e-4)
    assert near.mean() >= 0.95  # ReLU and the largest of several have corners


def test_no_gradient():
    forest = RandomForestClassifier(10, random_state=0)
    by_trees = make(final_estimator=forest)
    model = RejectingClassifier(LogisticRegression(max_iter=1000), by_trees)
    assert not has_view(model) and has_view(model.set_params(detector=make()))
    model.set_params(detector=by_trees).fit(X, y)
    assert model._missing_view() is model.detector_.final_estimator_
    with pytest.raises(TypeError, match=r"^RandomForestClassifier.*no differentiable"):
        as_score_module(model.detector_)
    with pytest.raises(TypeError, match=r"^RandomForestClassifier.*no differentiable"):
        as_module(model)
    attack = RandomSearch(3.0, max_queries=40, bounds=None, random_state=0)
    assert attack.run(model, X[:60], y[:60]).fooled.any()
    inside = RejectingClassifier(forest, make(attack=attack)).fit(X, y)
    assert inside._missing_view() is inside.estimator_
    own = make([("d", DensityDetector(forest))], attack=attack)
    found = RejectingClassifier(linear, own).fit(X, y)
    assert isinstance(found._missing_view(), RandomForestClassifier)


# --- parameters, searches, memory


def test_search_over_named_parameters():
    scorer = make_detection_scorer(ATTACK.set_params(random_state=0), metric="roc_auc")
    grid = {
        "density__bandwidth": [3.0],
        "distance": [DensityDetector(method="nearest_neighbors"), PAIR[1][1]],
        "final_estimator__C": [1e-3, 1.0],
    }
    detector = make(estimator=linear, final_estimator=LogisticRegression())
    search = GridSearchCV(detector, grid, cv=2, scoring=scorer, error_score="raise")
    search.fit(X, y)
    scores = search.cv_results_["mean_test_score"]
    assert len(scores) == 4 and (scores > 0.5).all() and np.ptp(scores) > 0
    best, params = search.best_estimator_, search.best_params_
    assert best.detectors_[0][1].bandwidth == params["density__bandwidth"]
    chosen = best.final_estimator_.get_params()
    assert chosen["C"] == params["final_estimator__C"]
    assert PAIR[0][1].bandwidth == "auto", "the list given is left alone"


def test_searches_attack_once(tmp_path, monkeypatch):
    runs, original = [], Attack.run
    monkeypatch.setattr(
        Attack, "run", lambda self, *args: runs.append(1) or original(self, *args)
    )
    detector = make(
        estimator=frozen_linear,
        final_estimator=LogisticRegression(),
        memory=str(tmp_path),
        prior=0.5,
    ).fit(X, y)
    assert len(runs) == 1
    plain = clone(detector).set_params(memory=None)
    for change in (
        {"contamination": 0.3},
        {"prior": 0.01},
        {"final_estimator__C": 1e-3},
        {"density__bandwidth": 2.0},
    ):
        runs.clear()
        kept = clone(detector).set_params(**change).fit(X, y)
        assert not runs, change
        expected = clone(plain).set_params(**change).fit(X, y)
        np.testing.assert_allclose(kept.predict_proba(X), expected.predict_proba(X))
    runs.clear()
    clone(detector).set_params(attack__eps=2.0).fit(X, y)
    assert len(runs) == 1


@pytest.mark.parametrize(
    "detector, error, message",
    [
        (make([]), ValueError, "'detectors' parameter of CombinedDetector.*not empty"),
        (make(DensityDetector()), ValueError, r"a list of \(name, detector of this"),
        (make([DensityDetector()]), ValueError, "'detectors' parameter"),
        (make([("a", linear)]), ValueError, "'detectors' parameter"),
        (make([("a", DensityDetector)]), ValueError, "'detectors' parameter"),
        (make(PAIR + PAIR), ValueError, "not unique"),
        (make([("prior", DensityDetector())]), ValueError, "conflict with constr"),
        (make([("a__b", DensityDetector())]), ValueError, "must not contain __"),
        (make([("x", make())]), TypeError, "would learn from the same rows"),
        (make(attack=[]), ValueError, "'attack' parameter of CombinedDetector"),
        (make(attack="pgd"), ValueError, "'attack' parameter"),
        (make(attack=[ATTACK, 3]), ValueError, "'attack' parameter"),
        (make(final_estimator=LinearRegression()), TypeError, "has neither"),
        (make(final_estimator=LinearRegression), ValueError, "'final_estimator' para"),
        (make(prior=1.0), ValueError, r"'prior' .* in \(0, 1\) or None"),
        (make(contamination=0), ValueError, "'contamination' parameter"),
        (make(cv=1.5), ValueError, "'cv' parameter"),
        (make([("u", dropout())]), TypeError, "needs a net with dropout"),
        (make(cv=2 / 400), ValueError, "2 rows are left .* at least 3 are needed"),
        (make(attack=PGD(1, targeted=True, bounds=None)), ValueError, "needs y"),
    ],
)
def test_errors(detector, error, message):
    with pytest.raises(error, match=message):
        detector.fit(X, y)


def test_parameters_can_be_asked_for_before_they_are_checked():
    for bad in ([], None, 3, [DensityDetector()]):
        detector = make(bad)
        assert detector.get_params()["detectors"] is bad and detector.masks is None
    with pytest.raises(ValueError, match="Invalid parameter 'nothing'"):
        make().set_params(nothing__cv=3)


def test_three_rows_are_enough():
    with pytest.warns(UserWarning, match="held-out rows cannot tell"):
        found = make(estimator=frozen_linear, attack=PGD(9.0, bounds=None), cv=3 / 400)
        found.fit(X)
    assert found.offset_ == -np.inf and (found.predict(X) == 1).all()


def test_frames_with_text_columns():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(X[:, :3], columns=list("abc"))
    frame["kind"] = rng.choice(["u", "v"], len(X))
    model = make_pipeline(
        make_column_transformer((OneHotEncoder(), ["kind"]), remainder="passthrough"),
        LogisticRegression(max_iter=1000),
    )
    space = FeatureSpace(eps={"a": 2.0, "b": 2.0}, bounds=None)
    attack = RandomSearch(None, space=space, bounds=None, max_queries=60)
    detector = make([("density", DensityDetector())], estimator=model, attack=attack)
    detector.fit(frame, y)
    assert detector.auc_[0] > 0.5 and detector.noise_l2_[0] > 0
    assert set(detector.predict(frame)) == {-1, 1}


# --- on digits


EARLY = PGD(0.15, steps=20, random_state=0)
LATE = clone(EARLY).set_params(early_stop=False)
KINDS = [
    ("variance", dropout()),
    ("lead", dropout("logit_margin")),
    ("density", DensityDetector()),
]


@pytest.fixture(scope="module")
def defended(digits):
    detector = make(KINDS, attack=[EARLY, LATE], contamination=0.1, cv=0.6)
    outer = RejectingClassifier(FrozenEstimator(digits.model), detector)
    return outer.fit(digits.X[600:1300], digits.y[600:1300])


def test_together_they_see_what_one_alone_misses(digits, defended):
    found = defended.detector_
    genuine, labels = digits.X[1300:], digits.y[1300:]
    for attack in (EARLY, LATE, JSMA()):  # the last was not trained with
        result = attack.run(digits.model, genuine, labels)
        rows = result.X_adv[result.fooled]
        truth = np.repeat([0, 1], [len(genuine), len(rows)])
        both = np.concatenate([genuine, rows])
        auc = roc_auc_score(truth, -found.score_samples(both))
        alone = [roc_auc_score(truth, -s) for s in found.detector_scores(both).T]
        assert auc > 0.85 and auc > max(alone) - 0.04, (attack, auc, alone)
    # what was judged out of fold comes true on new rows
    assert found.auc_.shape == (2,) and (found.auc_ > 0.85).all()
    assert (found.fooled_ > 0.8).all()
    np.testing.assert_allclose(found.noise_l2_, found.attack_l2_, rtol=0.02)


def test_false_positives(digits):
    """On fresh genuine rows, over draws of the rows of all parts."""
    model = FrozenEstimator(
        LogisticRegression(max_iter=1000).fit(digits.X[:600], digits.y[:600])
    )
    rng = np.random.default_rng(0)
    flagged, attack = [], FGSM(0.15)
    for _ in range(8):
        order = 600 + rng.permutation(len(digits.X) - 600)
        found = make(KINDS[2:], estimator=model, attack=attack, cv=0.8)
        found.fit(digits.X[order[:750]])
        flagged.append((found.predict(digits.X[order[750:]]) == -1).mean())
    expected = 30 / 301
    deviation = (expected * (1 - expected) * (1 / 300 + 1 / 447) / 8) ** 0.5
    assert abs(np.mean(flagged) - expected) < 4 * deviation


def test_who_knows_it_goes_past_it_more_often(digits, defended):
    rows, labels = digits.X[1300:1370], digits.y[1300:1370]
    ignores = LATE.run(digits.model, rows, labels)
    detector = defended.detector_
    past = ignores.fooled & (detector.predict(ignores.X_adv) == 1)
    assert ignores.fooled.mean() > 0.8 and past.mean() < 0.6
    knows = clone(EARLY).set_params(steps=10).run(defended, rows, labels)
    answers = defended.predict(knows.X_adv)
    np.testing.assert_array_equal(knows.fooled, (answers != labels) & (answers != -1))
    assert knows.fooled.sum() > 1.2 * past.sum()
    fewer, short = (rows[:30], labels[:30]), clone(EARLY).set_params(steps=5)
    errors = rejection_robust_error(defended, *fewer, attack=short)
    assert errors[0.01] >= errors[0.05] > past.mean()


def test_report(digits, defended):
    rows, labels = digits.X[1300:1308], digits.y[1300:1308]
    attacks = {"fresh": PGD(0.15, steps=6, masks="fresh", random_state=0)}
    report = evaluate_robustness(defended, rows, labels, attacks=attacks)
    assert [line.attack for line in report.attacks] == ["clean", "fresh"]
    assert report.worst_case_accuracy < report.attacks[0].share
    # asked of by the default attacks, which go through fresh masks then
    assert sampling_detector(defended) is defended.detector_
