"""What fuzzing has found, one plain case each, where it is of several parts."""

import threading

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import KFold
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier

import sk_advdef
from sk_advdef import (
    FGSM,
    PGD,
    AdversariallyAugmentedClassifier,
    CertifiedClassifier,
    CombinedDetector,
    ConcealedClassifier,
    DensityDetector,
    DistilledClassifier,
    FeatureSpace,
    FeatureSqueezingDetector,
    GuardedClassifier,
    RejectingClassifier,
    SimilarQueryDetector,
    Transfer,
    TreeExact,
)
from sk_advdef._progress import progress
from tests._instances import make_rows, small_net

X, y = make_rows(n_samples=90)
codes = np.unique(y, return_inverse=True)[1]
linear = LogisticRegression(max_iter=1000).fit(X, y)
frozen = FrozenEstimator(linear)
tree = DecisionTreeClassifier(max_depth=2, random_state=0).fit(X, codes)
density = DensityDetector(contamination=0.2, random_state=0)


# --- labels


@pytest.mark.parametrize(
    "estimator",
    [
        DistilledClassifier(linear),
        AdversariallyAugmentedClassifier(linear),
        density,
        DensityDetector(frozen),
        RejectingClassifier(linear, density),
        ConcealedClassifier(linear),
        GuardedClassifier(linear),
    ],
    ids=lambda e: type(e).__name__,
)
def test_labels_of_several_kinds(estimator):
    mixed = np.array(["ham", 1], dtype=object)[np.arange(len(X)) % 2]
    with pytest.raises(TypeError, match=r"labels in y must be all .* Got int, str"):
        estimator.fit(X, mixed)


@pytest.mark.parametrize("labels", [[None] * 3, ["ham", 1, None]])
def test_labels_that_an_attack_cannot_compare(labels):
    with pytest.raises(TypeError, match="of the kind of the model's classes"):
        FGSM(0.1, bounds=None).run(linear, X[:3], np.array(labels, dtype=object))


# --- rows


@pytest.mark.parametrize("shape", [(0, 6), (3, 0)])
def test_frames_without_rows_or_columns(shape):
    frame = pd.DataFrame(np.empty(shape))
    detector = FeatureSqueezingDetector(frozen, contamination=0.2).fit(X)
    message = r"0 (sample|feature)\(s\)|0 features"
    with pytest.raises(ValueError, match=message):
        detector.predict(frame)
    with pytest.raises(ValueError, match=message):
        sk_advdef.robust_accuracy_score(linear, frame, y[: shape[0]], eps=0.1)
    with pytest.raises(ValueError, match=message):
        FGSM(0.1, bounds=None).run(linear, frame)


class Rows:
    """An array only by conversion: rows of it cannot be picked."""

    def __init__(self, values):
        self.values = values

    def __len__(self):
        return len(self.values)

    def __array__(self, dtype=None, copy=None):
        return np.array(self.values, dtype=dtype)


def test_what_only_becomes_an_array_can_be_scored():
    given, labels = Rows(X[:20]), y[:20]
    seeded = {"eps": 0.3, "bounds": None, "random_state": 0}
    assert sk_advdef.robust_accuracy_score(
        linear, given, labels, **seeded
    ) == sk_advdef.robust_accuracy_score(linear, X[:20], labels, **seeded)
    report = sk_advdef.evaluate_robustness(
        linear, given, labels, attacks=FGSM(0.3, bounds=None)
    )
    assert report.evaluated.all()
    threat = {"eps": 0.1, "bounds": None}
    assert sk_advdef.certified_accuracy_score(linear, given, labels, **threat) > 0


@pytest.mark.filterwarnings("ignore:(overflow|invalid value):RuntimeWarning")
def test_rows_too_large_for_the_model():
    model = LogisticRegression(max_iter=1000).fit(X, y)
    model.coef_ = np.full(model.coef_.shape, 1e3) * [1, -1, 1, -1, 1, -1]
    huge = np.full((2, 6), 1e308)
    assert np.isnan(model.predict_proba(huge)).all()
    # no detector makes a verdict of that, and nobody shows it
    fitted = FeatureSqueezingDetector(FrozenEstimator(model), contamination=0.2)
    fitted.fit(X)
    for ask in (fitted.predict, fitted.score_samples):
        with pytest.raises(ValueError, match="no score for some rows of X"):
            ask(huge)
    with pytest.raises(RuntimeError, match="could not answer this input"):
        ConcealedClassifier(FrozenEstimator(model), reveal="top").predict_proba(huge)


@pytest.mark.filterwarnings("ignore:(overflow|invalid value|divide):RuntimeWarning")
@pytest.mark.parametrize("method", ["kernel_density", "mahalanobis"])
def test_scores_are_finite_as_far_as_floats_go(method):
    fitted = DensityDetector(
        contamination=0.2, method=method, random_state=0
    ).fit(X, y)  # fmt: skip
    far = np.full((1, 6), 1e300)
    assert np.isfinite(fitted.score_samples(far)).all()
    assert fitted.predict(far) == [-1]
    assert fitted.predict_proba(far)[0, 0] == 1


# --- parameters


@pytest.mark.parametrize("bad", ["net", {}, StandardScaler(), LogisticRegression])
@pytest.mark.parametrize(
    "make",
    [
        lambda bad: density.__class__(bad),
        lambda bad: FeatureSqueezingDetector(bad),
        lambda bad: RejectingClassifier(bad, density),
        lambda bad: ConcealedClassifier(bad),
        lambda bad: GuardedClassifier(bad),
        lambda bad: CertifiedClassifier(bad, eps=0.1),
    ],
)
def test_what_is_no_classifier(make, bad):
    with pytest.raises(ValueError, match=r"'estimator' parameter of .* a classifier"):
        make(bad).fit(X, y)


@pytest.mark.parametrize(
    "ask",
    [
        lambda bad: FGSM(0.1).run(bad, X, y),
        lambda bad: sk_advdef.robust_accuracy_score(bad, X, y, eps=0.1),
        lambda bad: sk_advdef.certified_accuracy_score(bad, X, y, 0.1),
        lambda bad: sk_advdef.evaluate_robustness(bad, X, y, eps=0.1),
        lambda bad: sk_advdef.attack_strength_test(bad, FGSM(0.1), X),
    ],
)
@pytest.mark.parametrize("bad", [None, 3, LogisticRegression])
def test_what_cannot_be_asked(ask, bad):
    with pytest.raises(ValueError, match=r"'estimator' parameter of .* with predict"):
        ask(bad)


@pytest.mark.parametrize(
    "cv",
    [b"ham", torch.ones(3), KFold, np.array([1, 2])],
    ids=lambda value: repr(value).partition(" at ")[0],
)
def test_what_is_no_splitter(cv):
    with pytest.raises(ValueError, match="'cv' parameter of DensityDetector"):
        DensityDetector(cv=cv).fit(X, y)


@pytest.mark.parametrize(
    "bad",
    [np.ones(3), pd.Series([1, 2]), np.inf, object(), True, b"ham"],
    ids=lambda value: repr(value).partition(" at ")[0],
)
def test_what_is_no_label(bad):
    trained = AdversariallyAugmentedClassifier(
        LogisticRegression(), attack=PGD(0.3, steps=2, bounds=None)
    )
    with pytest.raises(ValueError, match="'adversarial_label' parameter"):
        trained.set_params(adversarial_label=bad).fit(X, codes)
    rejecting = RejectingClassifier(linear, density, reject_label=bad)
    with pytest.raises(ValueError, match="'reject_label' parameter"):
        rejecting.fit(X, codes)


@pytest.mark.parametrize(
    "bad",
    [0, 1.0, True, "2", object(), np.ones(2)],
    ids=lambda value: repr(value).partition(" at ")[0],
)
def test_what_is_no_number_of_jobs(bad):
    message = "'n_jobs' parameter of .* int"
    with pytest.raises(ValueError, match=message):
        sk_advdef.BlurSqueezer(n_jobs=bad).fit(X)
    with pytest.raises(ValueError, match=message):
        TreeExact(0.1, bounds=None, n_jobs=bad).run(tree, X, codes)
    with pytest.raises(ValueError, match=message):
        sk_advdef.evaluate_robustness(linear, X, y, eps=0.1, n_jobs=bad)


@pytest.mark.parametrize(
    "bad",
    [-1, 0.5, None, "no", pd.Series([1, 2])],
    ids=lambda value: repr(value).partition(" at ")[0],
)
def test_what_is_no_verbosity(bad):
    trained = AdversariallyAugmentedClassifier(linear, rounds=1, verbose=bad)
    with pytest.raises(ValueError, match="'verbose' parameter of Adv"):
        trained.fit(X, y)


def test_bars_start_no_thread(capsys):
    before = {thread.name for thread in threading.enumerate()}
    for verbose in (False, 1, np.True_):
        assert list(progress("some function", verbose, range(3))) == [0, 1, 2]
    assert {thread.name for thread in threading.enumerate()} <= before
    assert capsys.readouterr().err.count("3/3") == 2


@pytest.mark.parametrize("memory", ["", "a\0b", "\ud800", 3, {}])
def test_what_is_no_memory(memory, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="'memory' parameter of DensityDetector"):
        DensityDetector(memory=memory).fit(X, y)
    assert not list(tmp_path.iterdir())


def test_parts_that_are_named_wrongly():
    for detector, name in (
        (CombinedDetector([("density", density)]), "detectors"),
        (FeatureSqueezingDetector(), "squeezers"),
    ):
        with pytest.raises(ValueError, match=f"'{name}' parameter of"):
            detector.set_params(**{name: [("ham", 1, 2)]})
    with pytest.raises(ValueError, match="'teacher' parameter of Distilled"):
        DistilledClassifier(linear, teacher=LogisticRegression).fit(X, y)
    with pytest.raises(ValueError, match="'surrogate' parameter of Transfer"):
        Transfer(FGSM(0.1, bounds=None), surrogate=3).run(linear, X, y)
    with pytest.raises(ValueError, match="'encoder' parameter of Similar"):
        SimilarQueryDetector(encoder=torch.nn.Identity().to).fit(X)
    with pytest.raises(ValueError, match="'encoder' parameter of Similar"):
        SimilarQueryDetector(encoder=pd.Series([1, 2])).fit(X)


@pytest.mark.parametrize(
    "params",
    [
        {"feature_names": 3},
        {"feature_names": [[], []]},
        {"immutable": np.array(1)},
        {"increasing": torch.tensor(1)},
        {"decreasing": [[1]]},
        {"integer": b"ham"},
        {"one_hot": torch.tensor(1)},
        {"relations": torch.ones(2)},
    ],
    ids=str,
)
def test_what_names_no_columns(params):
    with pytest.raises(ValueError, match=f"'{next(iter(params))}' parameter of Feat"):
        FeatureSpace(**params)


def test_names_for_fewer_columns():
    space = FeatureSpace(eps=0.1, feature_names=["a", "b"])
    with pytest.raises(ValueError, match="has 2 names for the 6 columns"):
        space.check(X)


def test_training_that_runs_away():
    net = small_net(optimizer=torch.optim.SGD, lr=1e30, max_epochs=3)
    with pytest.raises(ValueError, match=r"Training left layers.* Lower lr=1e"):
        DistilledClassifier(net, random_state=0).fit(X, y)


@pytest.mark.filterwarnings("ignore:.* held-out rows cannot tell:UserWarning")
def test_a_share_smaller_than_any_number_of_rows():
    detector = DensityDetector(contamination=5e-324, random_state=0).fit(X, y)
    assert detector.offset_ == -np.inf
