"""The detector by squeezing: its distances, its squeezers, who evades it."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn import config_context
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.compose import make_column_transformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.model_selection import GridSearchCV, ShuffleSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier

from sk_advdef import (
    PGD,
    BitDepthSqueezer,
    BlurSqueezer,
    DistilledClassifier,
    Downscaler,
    FeatureSqueezingDetector,
    GrayscaleSqueezer,
    JpegSqueezer,
    MedianSqueezer,
    RandomSearch,
    RejectingClassifier,
    as_module,
    as_score_module,
    evaluate_robustness,
    make_detection_scorer,
    rejection_robust_error,
)
from sk_advdef._torch._net import NetClassifier
from sk_advdef._torch._registry import has_view
from sk_advdef.detection import _blocks
from sk_advdef.detection._threshold import conformal_offset
from tests._instances import make_rows, small_net
from tests._torch._cases import make_net

X, y = make_rows(n_samples=200)
linear = LogisticRegression(max_iter=1000)
PAIR = [("bit_depth", BitDepthSqueezer(2)), ("median", MedianSqueezer(3))]


def make(estimator=linear, **params):
    given = {"squeezers": PAIR, "contamination": 0.1, "random_state": 0}
    return FeatureSqueezingDetector(estimator, **given | params)


def directly(model, squeezers, X):
    """Compute the distances as the paper tells, squeezer by squeezer."""
    proba = model.predict_proba(X)
    squeezed = [model.predict_proba(s.transform(X)) for s in squeezers]
    return np.stack([np.abs(proba - q).sum(axis=1) for q in squeezed], axis=1)


@pytest.mark.parametrize(
    "estimator",
    [
        linear,
        make_pipeline(StandardScaler(), RandomForestClassifier(10, random_state=0)),
        make_pipeline(StandardScaler(), small_net(max_epochs=5)),
        DistilledClassifier(small_net(max_epochs=3), temperature=2, random_state=0),
        FrozenEstimator(NetClassifier(small_net(max_epochs=5)).fit(X, y)),
    ],
    ids=["linear", "forest", "net", "distilled", "frozen net"],
)
def test_distances(estimator, global_generators, monkeypatch):
    found = make(estimator).fit(X, y)
    assert [name for name, _ in found.squeezers_] == ["bit_depth", "median"]
    expected = directly(found.estimator_, [s for _, s in found.squeezers_], X)
    distances = found.distances(X)
    assert distances.shape == (len(X), 2) and distances.dtype == np.float64
    tolerance = {"atol": 2e-6, "rtol": 1e-5}
    np.testing.assert_allclose(distances, expected, **tolerance)
    assert distances.min() >= 0 and 0.1 < distances.max() <= 2 + 1e-6
    scores = found.score_samples(X)
    np.testing.assert_allclose(scores, -expected.max(axis=1), **tolerance)
    np.testing.assert_array_equal(found.predict(X) == -1, scores < found.offset_)
    # row by row, in any order, and however few rows are squeezed at a time
    np.testing.assert_allclose(found.score_samples(X[::-1]), scores[::-1], **tolerance)
    for i in (0, 7):
        one = found.score_samples(X[i : i + 1])
        np.testing.assert_allclose(one, scores[i : i + 1], **tolerance)
    monkeypatch.setattr(_blocks, "VALUES_AT_A_TIME", 40)
    np.testing.assert_allclose(found.score_samples(X), scores, **tolerance)
    again = make(estimator).fit(X, y)
    np.testing.assert_allclose(again.score_samples(X), scores, **tolerance)


def test_a_frozen_skorch_net_as_it_is(global_generators):
    codes = np.unique(y, return_inverse=True)[1]
    with torch.random.fork_rng():
        net = make_net().fit(X.astype(np.float32), codes)
    found = make(FrozenEstimator(net)).fit(X)
    squeezers = [s for _, s in found.squeezers_]
    with torch.random.fork_rng():
        expected = directly(net, squeezers, X.astype(np.float32))
    np.testing.assert_allclose(found.distances(X), expected, atol=1e-5)


# --- which squeezers


def pixels(*shape):
    return np.random.default_rng(0).uniform(2, 6, (40, *shape)).astype(np.float32)


@pytest.mark.parametrize(
    "shape, params, n_bits, median",
    [
        ((8, 8), {}, 1, {"channel_axis": -1}),
        ((8, 8, 1), {}, 1, {"channel_axis": -1}),
        ((1, 8, 8), {"channel_axis": 0}, 1, {"channel_axis": 0}),
        ((8, 9, 3), {}, 5, {"channel_axis": -1}),
        ((3, 8, 9), {"channel_axis": 0}, 5, {"channel_axis": 0}),
        ((64,), {"image_shape": "square"}, 1, {"image_shape": (8, 8)}),
        ((48,), {"image_shape": (4, 4, 3)}, 5, {"image_shape": (4, 4, 3)}),
        ((48,), {}, 4, None),
        ((64,), {"image_shape": (64,)}, 4, None),
    ],
)
@pytest.mark.parametrize("frame", [False, True])
def test_squeezers_by_default(shape, params, n_bits, median, frame):
    X = pixels(*shape)
    if frame and X.ndim == 2:
        X = pd.DataFrame(X.astype(np.float64))
    labels = np.arange(40) % 2
    net = small_net(max_epochs=1, module__n_classes=2)
    found = make(net, squeezers=None, cv=0.5, **params).fit(X, labels)
    squeezers = dict(found.squeezers_)
    assert squeezers["bit_depth"].bits == n_bits
    low, high = squeezers["bit_depth"].value_range_
    if median is None:
        assert set(squeezers) == {"bit_depth"} and np.shape(low) == X.shape[1:]
    else:
        assert set(squeezers) == {"bit_depth", "median"}
        assert np.shape(low) == () and 2 <= low < 2.2 and 5.8 < high <= 6
        assert squeezers["median"].window_size == 2
        for name, value in median.items():
            assert getattr(squeezers["median"], name) == value
    assert found.distances(X).shape == (40, len(squeezers))
    assert found.squeezers is None


def test_bytes_and_flat_images_by_default():
    given = (pixels(6, 6) * 30).astype(np.uint8)
    model = NetClassifier(small_net(module__n_classes=2, max_epochs=1))
    frozen = FrozenEstimator(model.fit(given, np.arange(40) % 2))
    found = make(frozen, squeezers=None).fit(given)
    assert found.squeezers_[0][1].value_range_ == (0, 255)
    flat = np.full((40, 36), 3.0)
    frozen = FrozenEstimator(model.fit(flat, np.arange(40) % 2))
    found = make(frozen, squeezers=None, image_shape="square").fit(flat)
    np.testing.assert_allclose(found.distances(flat), 0, atol=1e-6)


def test_rows_that_may_be_images():
    net = small_net(max_epochs=1, module__n_classes=2)
    with pytest.warns(UserWarning, match='If they are images, pass image_shape="squ'):
        found = make(net, squeezers=None, cv=0.5).fit(pixels(64), np.arange(40) % 2)
    assert len(found.squeezers_) == 1
    with pytest.warns(UserWarning, match=r"to have 9 channels.*pass channel_axis=0"):
        make(net, squeezers=None, cv=0.5).fit(pixels(3, 8, 9), np.arange(40) % 2)


class Recorder(TransformerMixin, BaseEstimator):
    """Remembers the rows that it was fitted on."""

    def fit(self, X, y=None):
        self.seen_, self.labels_ = X, y
        return self

    def transform(self, X):
        return np.round(X)


def test_rows_for_squeezers_and_for_the_threshold():
    """No row serves two of: model, squeezers that learn, threshold; none is lost."""
    frozen = FrozenEstimator(linear.fit(X, y))
    rows = np.arange(len(X))
    split = ShuffleSplit(1, test_size=60, random_state=0)
    kept, learned = next(split.split(rows))
    for labels in (None, y):
        found = make(frozen, squeezers=[("own", Recorder())], cv=split).fit(X, labels)
        own = found.squeezers_[0][1]
        np.testing.assert_array_equal(own.seen_, X[learned])
        assert (own.labels_ is None) == (labels is None)
        expected = conformal_offset(found.score_samples(X[kept]), 0.1)
        assert found.offset_ == pytest.approx(expected, rel=1e-12)
    fixed = [
        ("bit_depth", BitDepthSqueezer(2, value_range=(-9, 9))),
        ("blur", BlurSqueezer(0.7)),
        ("frozen", FrozenEstimator(BitDepthSqueezer(3).fit(X[:20]))),
        ("rounded", FunctionTransformer(np.round)),
    ]
    found = make(frozen, squeezers=fixed).fit(X)
    expected = conformal_offset(found.score_samples(X), 0.1)
    assert found.offset_ == pytest.approx(expected, rel=1e-12)
    found = make(linear, squeezers=[("own", Recorder())], cv=split).fit(X, y)
    np.testing.assert_array_equal(found.squeezers_[0][1].seen_, X[kept])
    expected = conformal_offset(found.score_samples(X[learned]), 0.1)
    assert found.offset_ == pytest.approx(expected, rel=1e-12)


def test_search_over_squeezers():
    scorer = make_detection_scorer(PGD(2.0, steps=5, bounds=None, random_state=0))
    grid = {
        "contamination": [0.1, 0.3],
        "median__window_size": [3, 5],
        "bit_depth": [BitDepthSqueezer(1), BlurSqueezer(0.5)],
    }
    search = GridSearchCV(make(), grid, cv=2, scoring=scorer, error_score="raise")
    search.fit(X, y)
    scores = search.cv_results_["mean_test_score"]
    assert len(scores) == 8 and np.isfinite(scores).all() and np.ptp(scores) > 0
    best, params = search.best_estimator_, search.best_params_
    assert best.squeezers_[1][1].window_size == params["median__window_size"]
    assert repr(best.squeezers_[0][1]) == repr(params["bit_depth"])
    assert [s.window_size for _, s in PAIR[1:]] == [3], "the list given is left alone"


@pytest.mark.parametrize(
    "detector, error, message",
    [
        (make(SVC()), TypeError, r"SVC\(\) has no predict_proba.*CalibratedClassif"),
        (make(LinearRegression()), TypeError, "has no predict_proba"),
        (make(squeezers=[]), ValueError, "'squeezers' parameter of Feature.*not empty"),
        (make(squeezers=[BlurSqueezer()]), ValueError, r"a list of \(name, transf"),
        (make(squeezers=BlurSqueezer()), ValueError, "'squeezers' parameter"),
        (make(squeezers=[("a", BlurSqueezer)]), ValueError, "'squeezers' parameter"),
        (make(squeezers=[("a", "drop")]), ValueError, "'squeezers' parameter"),
        (make(squeezers=PAIR + PAIR), ValueError, "not unique"),
        (make(squeezers=[("cv", BlurSqueezer())]), ValueError, "conflict with constr"),
        (make(squeezers=[("a__b", BlurSqueezer())]), ValueError, "must not contain __"),
        (
            make(squeezers=[("half", Downscaler(restore=False))]),
            ValueError,
            r"'half' of Feat.* shape \(3,\) for rows of shape \(6,\).*restore=True",
        ),
        (make(squeezers=[("blur", BlurSqueezer(-1))]), ValueError, "'sigma' parameter"),
        (make(contamination=0.7), ValueError, "'contamination' parameter of Feature"),
        (make(cv=1.5), ValueError, "'cv' parameter of FeatureSqueezingDetector"),
    ],
)
def test_errors(detector, error, message):
    with pytest.raises(error, match=message):
        detector.fit(X, y)


def test_parameters_can_be_asked_for_before_they_are_checked():
    for bad in ([], None, 3, [BlurSqueezer()]):
        assert make(squeezers=bad).get_params()["squeezers"] is bad
    with pytest.raises(ValueError, match="Invalid parameter 'mean'"):
        make().set_params(mean__window_size=3)


# --- the view


SMOOTH = [
    ("blur", BlurSqueezer(0.8, image_shape=(2, 3))),
    ("small", Downscaler(0.5, image_shape=(2, 3))),
]
STEEP = [
    ("bit_depth", BitDepthSqueezer(2)),
    ("median", MedianSqueezer(2, image_shape=(2, 3))),
    ("jpeg", JpegSqueezer(50, value_range=(-9, 9), image_shape=(2, 1, 3))),
    ("gray", make_pipeline(GrayscaleSqueezer(image_shape=(2, 3)), BlurSqueezer(0.5))),
]


@pytest.mark.parametrize("squeezers", [SMOOTH, STEEP], ids=["smooth", "steep"])
@pytest.mark.parametrize(
    "estimator",
    [linear, make_pipeline(StandardScaler(), small_net(max_epochs=5))],
    ids=["linear", "net"],
)
def test_the_view_of_suspicion(estimator, squeezers):
    found = make(estimator, squeezers=squeezers).fit(X, y)
    suspicion = as_score_module(found)
    rows = torch.tensor(X[:40], requires_grad=True)
    values = suspicion(rows)
    expected = -found.score_samples(X[:40])
    np.testing.assert_allclose(values.detach(), expected, atol=2e-6)
    gradient = torch.autograd.grad(values.sum(), rows)[0].numpy()
    assert (gradient != 0).any(axis=1).mean() > 0.9
    features = suspicion.features(rows)
    assert features.shape == (40, (len(squeezers) + 1) * 3)
    of_rows = features.detach()[:, :3].double().softmax(dim=1)
    proba = found.estimator_.predict_proba(X[:40])
    np.testing.assert_allclose(of_rows, proba, atol=2e-6)
    if squeezers is STEEP:
        return  # of steps; their backward pass is that of the squeezers' own views
    suspicion.double()
    step = np.random.default_rng(0).normal(size=X[:40].shape)
    ahead, behind = (
        suspicion(torch.tensor(X[:40] + h * step)).detach().numpy()
        for h in (1e-6, -1e-6)
    )
    slope = (ahead - behind) / 2e-6
    near = np.isclose((gradient * step).sum(axis=1), slope, rtol=1e-2, atol=1e-5)
    assert near.mean() >= 0.95  # the largest has a corner where two are equal


class OneColumn(FunctionTransformer):
    """Rounds, which this package cannot know."""

    def transform(self, X):
        return np.round(X)


@pytest.mark.parametrize(
    "estimator, squeezers, part",
    [
        (linear, [("own", OneColumn())], "OneColumn"),
        (linear, [("own", make_pipeline(BlurSqueezer(), OneColumn()))], "OneColumn"),
        (SVC(probability=True, random_state=0), PAIR, "SVC"),
        (RandomForestClassifier(5, random_state=0), PAIR, "RandomForestClassifier"),
    ],
)
@pytest.mark.filterwarnings("ignore:The `probability` parameter:FutureWarning")
def test_no_gradient(estimator, squeezers, part):
    detector = make(estimator, squeezers=squeezers)
    model = RejectingClassifier(linear, detector)
    assert not has_view(model)
    model.fit(X, y)
    assert not has_view(model) and has_view(model.estimator_)
    with pytest.raises(TypeError, match=f"^{part}.* has no differentiable view"):
        as_score_module(model.detector_)
    with pytest.raises(TypeError, match=f"^{part} has no differentiable view"):
        as_module(model)
    with pytest.raises(TypeError, match="FeatureSqueezingDetector has no differ"):
        as_module(model.detector_)
    attack = RandomSearch(3.0, max_queries=40, bounds=None, random_state=0)
    result = attack.run(model, X[:40], y[:40])
    assert result.fooled.mean() > 0.15
    assert (model.detector_.predict(result.X_adv[result.fooled]) == 1).all()


def test_a_view_where_all_parts_have_one():
    for model in (
        RejectingClassifier(linear, make(None)),
        RejectingClassifier(linear, make()).fit(X, y),
        RejectingClassifier(linear, FeatureSqueezingDetector(contamination=0.2)),
    ):
        assert has_view(model)


# --- on digits


KEEPERS = [
    ("bit_depth", BitDepthSqueezer(2, value_range=(0, 1))),
    ("blur", BlurSqueezer(0.4, image_shape=(8, 8))),
]


@pytest.fixture(scope="module")
def defended(digits):
    frozen = FrozenEstimator(digits.model)
    return RejectingClassifier(frozen, make(None, squeezers=KEEPERS)).fit(
        digits.X[600:1200]
    )


def test_false_positives(digits):
    """On fresh genuine rows, over many draws of the rows for the threshold."""
    frozen = FrozenEstimator(digits.model)
    rng = np.random.default_rng(0)
    flagged, splits = [], 20
    for _ in range(splits):
        order = 600 + rng.permutation(len(digits.X) - 600)
        cal, fresh = digits.X[order[:400]], digits.X[order[400:]]
        # of 400 rows 80 tell the squeezer the range and 320 give the threshold
        found = make(frozen, squeezers=PAIR[:1], contamination=0.05).fit(cal)
        flagged.append((found.predict(fresh) == -1).mean())
    expected = 16 / 321
    variance = expected * (1 - expected) * (1 / 320 + 1 / len(fresh)) / splits
    assert abs(np.mean(flagged) - expected) < 4 * variance**0.5


def test_who_knows_evades_more_than_who_ignores(digits, defended):
    rows, labels = digits.X[1200:1400], digits.y[1200:1400]
    attack = PGD(0.12, steps=20, random_state=0)
    ignores = attack.set_params(early_stop=False).run(digits.model, rows, labels)
    detector = defended.detector_
    evades = ignores.fooled & (detector.predict(ignores.X_adv) == 1)
    caught = 1 - evades.sum() / ignores.fooled.sum()
    # against one who ignores it, it looks as if it were worth much
    assert ignores.fooled.mean() > 0.6 and caught > 0.6
    knows = attack.run(defended, rows, labels)
    assert knows.fooled.sum() > 1.5 * evades.sum()
    asks = RandomSearch(0.12, max_queries=200, random_state=0)
    assert asks.run(defended, rows, labels).fooled.sum() > evades.sum()


def test_scores_and_reports(digits, defended):
    rows, labels = digits.X[1200:1225], digits.y[1200:1225]
    report = evaluate_robustness(
        defended, rows, labels, eps=0.1, baseline=digits.model, random_state=0
    )
    assert report.worst_case_accuracy < 0.8
    attack = PGD(0.12, steps=10, random_state=0)
    errors = rejection_robust_error(defended, rows, labels, attack=attack)
    assert 0.2 < errors[0.01] <= 1 and 0.2 < errors[0.05] <= 1
    scorer = make_detection_scorer(attack, metric="roc_auc")
    assert 0.5 < scorer(defended.detector_, digits.X[1200:], digits.y[1200:]) <= 1


def test_a_frame_asked_for_elsewhere_changes_nothing():
    model = make_pipeline(StandardScaler(), LogisticRegression())
    detector = make(model, cv=0.5)
    rows, labels = pixels(6), np.arange(40) % 2
    expected = clone(detector).fit(rows, labels).score_samples(rows)
    with config_context(transform_output="pandas"):
        found = clone(detector).fit(rows, labels).score_samples(rows)
        np.testing.assert_array_equal(found, expected)
        images = pixels(6, 6)
        assert type(BlurSqueezer().fit(images).transform(images)) is np.ndarray
        assert not hasattr(BlurSqueezer().fit(images), "get_feature_names_out")


def test_columns_of_words_are_named():
    frame = pd.DataFrame({"a": [0.0, 1.0] * 20, "word": ["x", "y"] * 20})
    model = make_pipeline(
        make_column_transformer((OneHotEncoder(), ["word"]), remainder="passthrough"),
        LogisticRegression(),
    )
    labels = np.arange(40) // 2 % 2
    told = r"cannot squeeze columns that are not numeric: \['word'\]"
    with pytest.raises(ValueError, match=told):
        FeatureSqueezingDetector(model).fit(frame, labels)


def test_a_threshold_that_flags_nothing_is_told():
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 2, (600, 4)) + rng.normal(0, 0.3, (600, 4))
    labels = (rows.sum(axis=1) > 2).astype(int)
    tree = DecisionTreeClassifier(random_state=0)
    halves = ("halves", FunctionTransformer(np.negative))
    detector = FeatureSqueezingDetector(tree, squeezers=[halves], random_state=0)
    told = r"lowest score, -2, is that of \d+ of 120 held-out rows, more than contam"
    with pytest.warns(UserWarning, match=told) as caught:
        detector.fit(rows, labels)
    assert caught[0].filename == __file__
    assert (detector.predict(rows) == 1).all()
