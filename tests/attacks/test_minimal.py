"""Attacks that look for the smallest change: their contract, and how small it is."""

import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import OutlierMixin, clone
from sklearn.datasets import load_breast_cancer, load_iris
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from sk_advdef import (
    DDN,
    JSMA,
    CarliniWagnerL2,
    DeepFool,
    DropoutUncertaintyDetector,
    HopSkipJump,
    RejectingClassifier,
    SigmaZero,
    as_module,
)
from sk_advdef._torch import _registry
from sk_advdef.attacks import _minimal
from sk_advdef.attacks._minimal import HALVINGS
from tests.attacks.common import fitted, net
from tests.attacks.test_common import Normed, linear_model
from tests.attacks.test_strength import Single

MINIMAL = {
    "deepfool": DeepFool(),
    "deepfool-linf": DeepFool(norm="linf", n_candidates=3),
    "ddn": DDN(steps=20),
    "carlini-wagner": CarliniWagnerL2(
        binary_search_steps=4, steps=40, learning_rate=0.1, initial_const=0.1
    ),
    "jsma": JSMA(gamma=0.4),
    "jsma-down": JSMA(gamma=0.4, theta=-0.4),
    "sigma-zero": SigmaZero(steps=40),
}
every_attack = pytest.mark.parametrize(
    "attack", [pytest.param(a, id=name) for name, a in MINIMAL.items()]
)
ORDER = {"l0": 0, "l2": 2, "linf": np.inf}


def lengths(X_adv, X, norm):
    delta = (np.asarray(X_adv, float) - np.asarray(X, float)).reshape(len(X), -1)
    return np.linalg.norm(delta, ORDER[norm], axis=1)


@every_attack
def test_result(attack, linear, digits):
    X, y = digits.X, digits.y
    result = attack.run(linear, X, y)
    np.testing.assert_array_equal(result.fooled, linear.predict(result.X_adv) != y)
    assert result.fooled.all()
    np.testing.assert_allclose(
        result.distortion, lengths(result.X_adv, X, attack.norm), rtol=1e-12
    )
    assert result.X_adv.min() >= 0 and result.X_adv.max() <= 1
    wrong = linear.predict(X) != y
    np.testing.assert_array_equal(result.X_adv[wrong], X[wrong])
    assert (result.n_queries[wrong] == 1).all() and (result.n_queries[~wrong] > 1).all()
    np.testing.assert_array_equal(attack.perturb(linear, X, y), result.X_adv)
    trained_on = attack.rows_to_train_on(linear, X, y)
    np.testing.assert_allclose(trained_on, result.X_adv, atol=1e-12)


@every_attack
def test_row_that_holds_is_unchanged(attack, digits):
    """A model that answers the same to all, whatever its scores."""
    model = linear_model(np.zeros(64))
    model.intercept_ = np.array([3.0])
    X = digits.X[:5]
    result = attack.run(model, X, np.ones(5, int))
    assert not result.fooled.any() and (result.distortion == 0).all()
    np.testing.assert_array_equal(result.X_adv, X)
    trained_on = attack.rows_to_train_on(model, X, np.ones(5, int))
    np.testing.assert_array_equal(trained_on, X)


@pytest.mark.parametrize("dtype", ["float16", "float32", "uint8", "int64"])
@every_attack
def test_box_and_dtype(attack, dtype, digits):
    unit = 1 if dtype.startswith("float") else 240
    model = make_pipeline(
        StandardScaler(with_std=False), LogisticRegression(C=0.1, max_iter=3000)
    )
    model.fit(digits.X_fit, digits.y_fit)
    model[0].mean_ = model[0].mean_ * unit
    model[1].coef_ = model[1].coef_ / unit
    X = (digits.X * unit).astype(dtype)
    attack = clone(attack).set_params(bounds=(0, unit))
    for name in {"theta", "init_eps"} & set(attack.get_params()):
        attack.set_params(**{name: attack.get_params()[name] * unit})
    result = attack.run(model, X, digits.y)
    assert type(result.X_adv) is np.ndarray
    assert result.X_adv.dtype == dtype and result.X_adv.shape == X.shape
    assert result.X_adv.min() >= 0 and result.X_adv.max() <= unit
    np.testing.assert_array_equal(
        result.fooled, model.predict(result.X_adv) != digits.y
    )
    assert result.fooled.mean() > 0.95


@every_attack
def test_no_box_and_bounds_per_feature(attack, linear, digits):
    fixed = np.arange(64) % 4 == 0
    low, high = np.where(fixed, -np.inf, 0), np.where(fixed, np.inf, 1)
    for bounds in (None, (low, high)):
        free = clone(attack).set_params(bounds=bounds)
        result = free.run(linear, digits.X, digits.y)
        assert result.fooled.mean() > 0.85
        if bounds is not None:
            assert (result.X_adv >= low).all() and (result.X_adv <= high).all()


@every_attack
def test_feature_without_room_stays(attack, linear, digits):
    """A box that is a point in some features."""
    X = digits.X.copy()
    closed = np.arange(64) % 3 == 0
    X[:, closed] = 0.25
    y = linear.predict(X)
    bounds = (np.where(closed, 0.25, 0), np.where(closed, 0.25, 1))
    result = clone(attack).set_params(bounds=bounds).run(linear, X, y)
    assert (result.X_adv[:, closed] == 0.25).all()
    assert result.fooled.mean() > 0.9


@every_attack
def test_does_not_touch(attack, digits, global_generators):
    X = digits.X.astype(np.float32)[:30]
    before = X.copy()
    model = fitted(
        net(Normed, max_epochs=1), digits.X_fit.astype(np.float32), digits.y_fit
    )
    module = model.module_.train()
    state = {k: v.clone() for k, v in module.state_dict().items()}
    params = attack.get_params()
    attack.run(model, X, digits.y[:30])
    assert all(torch.equal(v, state[k]) for k, v in module.state_dict().items())
    assert attack.get_params() == params and vars(attack) == params
    np.testing.assert_array_equal(X, before)
    assert pickle.loads(pickle.dumps(attack)).get_params() == params
    assert repr(clone(attack)) == repr(attack)


@every_attack
def test_rows_stand_alone(attack, linear, digits):
    """Neither the batch nor the rows that follow matter."""
    whole = attack.run(FrozenEstimator(linear), digits.X, digits.y)
    parts = clone(attack).set_params(batch_size=7).run(linear, digits.X, digits.y)
    few = attack.run(linear, digits.X[:13], digits.y[:13])
    for other, n in ((parts, 100), (few, 13)):
        np.testing.assert_allclose(other.X_adv, whole.X_adv[:n], atol=1e-9)
        np.testing.assert_array_equal(other.fooled, whole.fooled[:n])
        np.testing.assert_array_equal(other.n_queries, whole.n_queries[:n])


@every_attack
def test_images_frames_and_labels(attack, cnn, linear, digits):
    images = digits.X.astype(np.float32).reshape(-1, 8, 8)[:30]
    result = attack.run(cnn, images)
    assert result.X_adv.shape == images.shape and result.X_adv.dtype == np.float32
    np.testing.assert_array_equal(
        result.fooled, cnn.predict(result.X_adv) != cnn.predict(images)
    )
    assert result.fooled.mean() > 0.8
    named = LogisticRegression(C=0.1, max_iter=1000)
    frame = pd.DataFrame(digits.X_fit).add_prefix("pixel ")
    named.fit(frame, [f"digit {i}" for i in digits.y_fit])
    frame = pd.DataFrame(digits.X, index=range(7, 107)).add_prefix("pixel ")
    X_adv = attack.perturb(named, frame, [f"digit {i}" for i in digits.y])
    assert isinstance(X_adv, pd.DataFrame) and X_adv.index.equals(frame.index)
    expected = attack.perturb(linear, digits.X, digits.y)
    np.testing.assert_allclose(X_adv.to_numpy(), expected, atol=1e-6)


@every_attack
def test_targeted(attack, linear, digits):
    target = (digits.y + 1) % 10
    aimed = clone(attack).set_params(targeted=True)
    result = aimed.run(linear, digits.X, target)
    hit = linear.predict(result.X_adv) == target
    np.testing.assert_array_equal(result.fooled, hit)
    assert hit.mean() > 0.85
    free = attack.run(linear, digits.X, digits.y)
    both = result.fooled & free.fooled
    assert np.median(result.distortion[both]) > np.median(free.distortion[both])
    with pytest.raises(ValueError, match=r"targeted=True\) needs y"):
        aimed.run(linear, digits.X)


@pytest.mark.parametrize("label", [17, -1])
@every_attack
def test_unknown_label_is_lost_from_the_start(attack, label, linear, digits):
    result = attack.run(linear, digits.X[:3], np.array([label] * 3))
    assert result.fooled.all() and (result.n_queries == 1).all()


@pytest.mark.parametrize(
    "attack",
    [
        DeepFool(norm="l0"), DeepFool(steps=0), DeepFool(overshoot=-1),
        DeepFool(n_candidates=0), DDN(steps=0), DDN(init_eps=0), DDN(gamma=1),
        CarliniWagnerL2(confidence=-1), CarliniWagnerL2(binary_search_steps=0),
        CarliniWagnerL2(steps=0), CarliniWagnerL2(learning_rate=0),
        CarliniWagnerL2(initial_const=0), JSMA(theta=0), JSMA(theta="up"),
        JSMA(gamma=0), JSMA(gamma=1.1), SigmaZero(steps=0), SigmaZero(sigma=0),
        SigmaZero(threshold=2), SigmaZero(step_size=0), DDN(bounds=(1, 0)),
        DDN(batch_size=0), JSMA(targeted=1), SigmaZero(goal="win"),
    ],
)  # fmt: skip
def test_bad_parameter(attack, linear, digits):
    name = next(
        k for k, v in attack.get_params().items() if v != type(attack)().get_params()[k]
    )
    with pytest.raises(ValueError, match=f"'{name}' parameter of"):
        attack.run(linear, digits.X, digits.y)


@pytest.mark.parametrize("cls", [DDN, DeepFool, SigmaZero])
def test_steps_of_numpy(cls, linear, digits):
    few, same = cls(steps=np.int8(5)), cls(steps=5)
    np.testing.assert_array_equal(
        few.perturb(linear, digits.X[:5]), same.perturb(linear, digits.X[:5])
    )


def test_forest_has_no_view(forest, digits):
    with pytest.raises(TypeError, match=r"RandomForestClassifier.*RandomSearch"):
        DDN().run(forest, digits.X, digits.y)


@pytest.mark.parametrize(
    "attack",
    [
        DeepFool(),
        DDN(),
        CarliniWagnerL2(steps=200, learning_rate=0.05, initial_const=0.1),
    ],
)
def test_closed_form(attack):
    """Of a binary linear model the nearest adversarial row is known."""
    X, y = load_breast_cancer(return_X_y=True)
    X, y = StandardScaler().fit_transform(X)[::3], y[::3]
    model = LogisticRegression(C=0.1).fit(X, y)
    result = clone(attack).set_params(bounds=None).run(model, X, y)
    genuine = model.predict(X) == y
    nearest = abs(model.decision_function(X)) / np.linalg.norm(model.coef_)
    assert result.fooled.all()
    ratio = result.distortion[genuine] / nearest[genuine]
    assert ratio.min() >= 1 - 1e-9 and np.median(ratio) < 1.01
    if not isinstance(attack, CarliniWagnerL2):
        assert ratio.max() < 1.01


def test_closed_form_linf_and_l0():
    X, y = load_breast_cancer(return_X_y=True)
    X, y = StandardScaler().fit_transform(X)[::3], y[::3]
    model = LogisticRegression(C=0.1).fit(X, y)
    genuine = model.predict(X) == y
    margin = abs(model.decision_function(X))[genuine]
    result = DeepFool(norm="linf", bounds=None).run(model, X, y)
    nearest = margin / np.abs(model.coef_).sum()
    np.testing.assert_allclose(result.distortion[genuine], nearest, rtol=1e-2)
    # in a box of +-4 the fewest features are those whose full moves gain most
    X = X.clip(-4, 4)
    gains = np.where(
        (model.coef_ * np.where(model.predict(X) == 1, -1, 1)[:, None]) > 0,
        4 - X,
        X + 4,
    ) * np.abs(model.coef_)
    best = np.cumsum(-np.sort(-gains, axis=1), axis=1)
    fewest = 1 + (best <= abs(model.decision_function(X))[:, None]).sum(axis=1)
    y = model.predict(X)
    result = SigmaZero(steps=200, bounds=(-4, 4)).run(model, X, y)
    assert result.fooled.all() and (result.distortion >= fewest).all()
    assert np.mean(result.distortion - fewest) < 0.3


@pytest.fixture(params=["mlp", "cnn", "linear"])
def victim(request, digits):
    model = request.getfixturevalue(request.param)
    X = digits.X.astype(np.float32)[:50]
    if request.param == "cnn":
        X = X.reshape(-1, 8, 8)
    genuine = model.predict(X) == digits.y[:50]
    return model, X[genuine], digits.y[:50][genuine]


def foolbox_median(attack, model, X, y, norm):
    import foolbox

    view = foolbox.PyTorchModel(
        Single(as_module(model)).eval(), bounds=(0, 1), device="cpu"
    )
    with warnings.catch_warnings(), torch.random.fork_rng():
        warnings.simplefilter("ignore")
        X_adv = attack(view, torch.tensor(X), torch.tensor(y), epsilons=None)[0]
    X_adv = X_adv.detach().numpy()
    # a row for which foolbox finds nothing comes back black
    found = (model.predict(X_adv) != y) & X_adv.reshape(len(X), -1).any(axis=1)
    return np.median(np.where(found, lengths(X_adv, X, norm), np.inf)), found.mean()


@pytest.mark.parametrize("kind", ["ddn", "carlini-wagner", "deepfool", "linf"])
def test_as_small_as_foolbox(kind, victim):
    import foolbox.attacks as fa

    model, X, y = victim
    pairs = {
        "ddn": (DDN(), fa.DDNAttack(steps=100)),
        "carlini-wagner": (
            CarliniWagnerL2(binary_search_steps=4, steps=60, learning_rate=0.05),
            fa.L2CarliniWagnerAttack(binary_search_steps=4, steps=60, stepsize=0.05),
        ),
        "deepfool": (DeepFool(), fa.L2DeepFoolAttack(steps=50)),
        "linf": (DeepFool(norm="linf"), fa.LinfDeepFoolAttack(steps=50)),
    }
    attack, other = pairs[kind]
    theirs, share = foolbox_median(other, model, X, y, attack.norm)
    ours = attack.run(model, X, y)
    assert ours.fooled.mean() >= share
    median = np.median(np.where(ours.fooled, ours.distortion, np.inf))
    # DeepFool stops at the first border: which one hangs on the last step
    assert median <= (1.05 if kind == "linf" else 1.02) * theirs


def test_confidence(linear, digits):
    """The wrong class leads by it, at the price of a longer change."""
    attack = CarliniWagnerL2(
        binary_search_steps=6, steps=60, learning_rate=0.1, initial_const=0.1
    )
    X, y = digits.X[:40], linear.predict(digits.X[:40])
    plain = attack.run(linear, X, y)
    sure = clone(attack).set_params(confidence=3.0).run(linear, X, y)
    scores = linear.decision_function(sure.X_adv)
    rows = np.arange(len(X))
    own = scores[rows, y].copy()
    scores[rows, y] = -np.inf
    assert sure.fooled.all() and (scores.max(axis=1) - own >= 3 - 1e-6).all()
    assert np.median(sure.distortion) > 1.2 * np.median(plain.distortion)


def test_jsma_beside_art(victim):
    from art.attacks.evasion import SaliencyMapMethod
    from art.estimators.classification import PyTorchClassifier

    model, X, y = victim
    target = (y + 3) % 10
    classifier = PyTorchClassifier(
        Single(as_module(model)),
        loss=nn.CrossEntropyLoss(),
        input_shape=X.shape[1:],
        nb_classes=10,
        clip_values=(0, 1),
        device_type="cpu",
    )
    state = np.random.get_state(legacy=False)  # noqa: NPY002
    with warnings.catch_warnings(), torch.random.fork_rng():
        warnings.simplefilter("ignore")
        other = SaliencyMapMethod(classifier, 1.0, 0.3, batch_size=50, verbose=False)
        theirs = other.generate(X, target)
    np.random.set_state(state)  # noqa: NPY002
    found = model.predict(theirs) == target
    ours = JSMA(gamma=0.3, targeted=True).run(model, X, target)
    assert ours.fooled.mean() >= found.mean() > 0.5
    both = ours.fooled & found
    changed = lengths(theirs, X, "l0")
    assert ours.distortion[both].mean() <= changed[both].mean()
    most = np.where(found, changed, X[0].size)
    least = np.where(ours.fooled, ours.distortion, X[0].size)
    assert np.median(least) <= np.median(most)


def test_sigma_zero_changes_fewer_features_than_jsma(victim):
    model, X, y = victim
    few = SigmaZero(steps=100).run(model, X, y)
    jsma = JSMA(gamma=0.5).run(model, X, y)
    assert few.fooled.all() and jsma.fooled.all()
    assert np.median(few.distortion) <= np.median(jsma.distortion)
    assert few.distortion.mean() < jsma.distortion.mean()


@pytest.mark.parametrize("theta, gamma", [(1.0, 0.1), (0.3, 0.1), (-0.5, 0.05)])
def test_jsma_keeps_to_theta_and_gamma(theta, gamma, linear, digits):
    result = JSMA(theta=theta, gamma=gamma).run(linear, digits.X, digits.y)
    assert result.distortion.max() <= max(2, int(gamma * 64))
    delta = result.X_adv - digits.X
    assert (delta * theta >= 0).all()
    inside = (result.X_adv > 0) & (result.X_adv < 1) & (delta != 0)
    moves = delta[inside] / theta
    np.testing.assert_allclose(moves, np.rint(moves), atol=1e-9)
    free = JSMA(theta=theta, gamma=gamma, bounds=None)
    result = free.run(linear, digits.X, digits.y)
    delta = result.X_adv - digits.X
    np.testing.assert_allclose(delta[delta != 0], theta)  # once where nothing ends it


@pytest.mark.parametrize("dtype", [np.int32, np.uint32])
def test_jsma_goes_no_way_without_end(dtype):
    """The range of integers is no box whose end a feature is moved to."""
    X = np.zeros((4, 3), dtype=dtype)
    model = LogisticRegression().fit(np.eye(3), [0, 1, 1])
    X[:, 0] = np.iinfo(dtype).max // 2
    result = JSMA(gamma=1.0, bounds=None).run(model, X, model.predict(X))
    assert (result.X_adv - X <= 1).all()


def test_jsma_on_one_feature():
    X = np.linspace(0, 1, 20)[:, None]
    model = LogisticRegression(C=100).fit(X, X[:, 0] > 0.5)
    result = JSMA().run(model, X, X[:, 0] > 0.5)
    low = ~(X[:, 0] > 0.5)
    assert result.fooled[low].all() and (result.X_adv[low] == 1).all()


def test_pulled_back_to_the_border(linear, digits):
    """A tenth of a percent less would not have been enough, or hardly."""
    y = linear.predict(digits.X)
    result = DDN(steps=20).run(linear, digits.X, y)
    assert result.fooled.all()
    assert (result.n_queries >= 20 + HALVINGS).all()
    short = digits.X + (1 - 3e-3) * (result.X_adv - digits.X)
    assert np.mean(linear.predict(short) == y) > 0.9


class Stubborn(LogisticRegression):
    """Leaves the first class only where another leads by more than the view has it."""

    def predict(self, X):
        scores = self.decision_function(X)
        scores[:, 0] += 1.5
        return self.classes_[scores.argmax(axis=1)]


def plain(model):
    """The same weights, and scikit-learn's own predict."""
    twin = LogisticRegression()
    twin.__dict__.update(model.__dict__)
    return twin


@pytest.fixture
def stubborn(digits, monkeypatch):
    monkeypatch.setattr(_registry, "_registered", {})
    as_module.register(Stubborn, lambda model: as_module(plain(model)))
    return Stubborn(C=0.1, max_iter=1000).fit(digits.X_fit, digits.y_fit)


@every_attack
def test_goes_on_where_predict_is_not_fooled(attack, stubborn, digits):
    """The view and predict draw the border in different places."""
    zeros = digits.X_fit[digits.y_fit == 0][:20]
    params = {"gamma": 1.0} if isinstance(attack, JSMA) else {}
    attack = clone(attack).set_params(**params)
    result = attack.run(stubborn, zeros, np.zeros(20, int))
    np.testing.assert_array_equal(result.fooled, stubborn.predict(result.X_adv) != 0)
    assert result.fooled.mean() > (0.6 if attack.norm == "l0" else 0.85)
    easy = attack.run(plain(stubborn), zeros, np.zeros(20, int))
    both = result.fooled & easy.fooled
    assert result.distortion[both].mean() > easy.distortion[both].mean()
    assert result.n_queries[both].mean() > easy.n_queries[both].mean()


@pytest.fixture(scope="module")
def rejecting(mlp, digits):
    model = FrozenEstimator(mlp)
    X, y = digits.X_fit[900:].astype(np.float32), digits.y_fit[900:]
    detector = DropoutUncertaintyDetector(
        model,
        n_passes=10,
        statistic="predictive_entropy",
        contamination=0.1,
        random_state=0,
    )
    return RejectingClassifier(model, detector.fit(X, y)).fit(X, y)


@every_attack
def test_wrong_and_accepted(attack, rejecting, digits):
    """To be rejected is no success, and a longer change gets past the detector."""
    X, y = digits.X.astype(np.float32)[:40], digits.y[:40]
    result = attack.run(rejecting, X, y)
    answers = rejecting.predict(result.X_adv)
    np.testing.assert_array_equal(
        result.fooled, (answers != y) & (answers != rejecting.reject_label_)
    )
    alone = attack.run(rejecting.estimator_, X, y)
    assert alone.fooled.mean() > 0.9
    passed = rejecting.predict(alone.X_adv) != rejecting.reject_label_
    assert result.fooled.mean() > (passed & alone.fooled).mean()
    if isinstance(attack, DDN):
        assert result.fooled.mean() > 0.9


class Doubting(OutlierMixin):
    """Flags what the net is not sure of, by a step that shows no gradient."""

    offset_, scale_ = -0.1, 1.0

    def __init__(self, net):
        self.net = net

    def score_samples(self, X):
        return -(self.net.predict_proba(X).max(axis=1) < 0.95).astype(float)

    def decision_function(self, X):
        return self.score_samples(X) - self.offset_

    def predict(self, X):
        return np.where(self.decision_function(X) >= 0, 1, -1)

    def _as_score_module(self):
        view = as_module(self.net)

        class Doubt(nn.Module):
            def forward(self, x):
                return (view(x).softmax(dim=1).amax(dim=1) < 0.95).to(x.dtype)

        return Doubt()


def test_confidence_leads_past_a_detector_without_gradient(mlp, digits, monkeypatch):
    X, y = digits.X.astype(np.float32)[:40], digits.y[:40]
    model = FrozenEstimator(mlp)
    model = RejectingClassifier(model, FrozenEstimator(Doubting(mlp))).fit(X, y)
    swept = DDN().run(model, X, y)
    answers = model.predict(swept.X_adv)
    taken = (answers != y) & (answers != model.reject_label_)
    np.testing.assert_array_equal(swept.fooled, taken)
    assert taken.mean() > 0.9
    monkeypatch.setattr(_minimal, "CONFIDENCES", ())
    joint = DDN().run(model, X, y)
    assert (swept.fooled | ~joint.fooled).all()
    both = joint.fooled
    assert (swept.distortion[both] <= joint.distortion[both] + 1e-6).all()
    assert swept.fooled.sum() > joint.fooled.sum() or (
        swept.distortion[both].sum() < joint.distortion[both].sum()
    )


@pytest.mark.parametrize("attack", [DDN(), DeepFool(), SigmaZero(steps=60)])
def test_goal_reject(attack, rejecting, digits):
    """The smallest change that gets a genuine row rejected."""
    X, y = digits.X.astype(np.float32)[:40], digits.y[:40]
    result = clone(attack).set_params(goal="reject").run(rejecting, X, y)
    answers = rejecting.predict(result.X_adv)
    np.testing.assert_array_equal(result.fooled, answers == rejecting.reject_label_)
    assert result.fooled.mean() > 0.9
    assert np.median(result.distortion) < np.median(
        attack.run(rejecting, X, y).distortion
    )


class Alarmed(LogisticRegression):
    """A class that stands for nothing genuine."""

    @property
    def genuine_classes_(self):
        return self.classes_[1:]


@every_attack
def test_class_that_does_not_count(attack, digits, monkeypatch):
    monkeypatch.setattr(_registry, "_registered", {})
    as_module.register(Alarmed, lambda model: as_module(plain(model)))
    model = Alarmed(C=0.1, max_iter=1000).fit(digits.X_fit, digits.y_fit)
    rows = digits.y > 0
    result = attack.run(model, digits.X[rows], digits.y[rows])
    answers = model.predict(result.X_adv)
    np.testing.assert_array_equal(
        result.fooled, (answers != digits.y[rows]) & (answers != 0)
    )
    assert result.fooled.mean() > 0.9


def test_the_ends_of_a_dtype_are_no_box():
    """Nothing is taken for a picture of values up to 10^38."""
    X, y = load_iris(return_X_y=True, as_frame=True)
    plain = X.assign(n=np.arange(150) % 3.0)
    model = LogisticRegression(max_iter=1000).fit(plain, y)
    for attack in (
        CarliniWagnerL2(bounds=None, binary_search_steps=5, steps=200),
        HopSkipJump(bounds=None, start="noise", max_queries=300, random_state=0),
    ):
        wanted = attack.run(model, plain[::5], y[::5]).distortion
        for kind in (np.int64, np.float32):
            narrow = plain.astype({"n": kind})[::5]
            found = attack.run(model, narrow, y[::5]).distortion
            assert np.nanmax(found) < 2 * np.nanmax(wanted) + 2
