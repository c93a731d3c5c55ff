"""Certificates hold against whatever we have, and training makes there be many."""

import pickle
from typing import ClassVar

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.ensemble import RandomForestClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler
from skorch import NeuralNetBinaryClassifier, NeuralNetClassifier
from skorch.callbacks import EarlyStopping, LRScheduler
from torch import nn

from sk_advdef import (
    PGD,
    AdversariallyAugmentedClassifier,
    CertifiedClassifier,
    DistilledClassifier,
    RandomSearch,
    certified_accuracy_score,
)
from sk_advdef._torch._net import NetClassifier
from sk_advdef._validation import seed_from
from sk_advdef.evaluation._certified import certified_rows
from tests._instances import make_rows, small_net
from tests._torch._cases import OneLogit, Probabilities, make_images, make_net

X, y = make_rows(n_samples=120)
EPS = 0.4


def make(estimator, **params):
    given = {"eps": EPS, "bounds": None, "random_state": 0}
    return CertifiedClassifier(estimator, **given | params)


def quick_net(**params):
    return small_net(**{"module__dropout": 0.0, "max_epochs": 12} | params)


@pytest.fixture(scope="module")
def trained():
    return make(quick_net()).fit(X, y)


def assert_holds(model, X, eps, bounds=None, method="ibp"):
    """Try to break what is certified: gradients, questions, corners, random rows."""
    result = model.certify(X, eps=eps, method=method)
    np.testing.assert_array_equal(result.certified, result.margin > 0)
    answers = model.predict(X)
    sure = np.flatnonzero(result.certified)
    assert len(sure)
    rows, own = X[sure], answers[sure]
    common = {"bounds": bounds, "random_state": 0}
    for attack in (
        PGD(eps, steps=20, loss="margin", **common),
        PGD(eps, steps=20, restarts=2, **common),
        RandomSearch(eps, max_queries=100, **common),
    ):
        assert not attack.run(model, rows, own).fooled.any(), attack
    low, high = (-np.inf, np.inf) if bounds is None else bounds
    rng = np.random.default_rng(0)
    for i in range(40):
        step = rng.uniform(-1, 1, rows.shape)
        step = np.sign(step) if i % 2 else step
        tried = np.clip(rows + eps * step, low, high).astype(X.dtype)
        assert (model.predict(tried) == own).all()
    return result


@pytest.mark.parametrize("eps", [0.05, EPS, 1.0])
def test_nothing_breaks_what_is_certified(trained, eps):
    result = assert_holds(trained, X, eps)
    assert eps == 0.05 or not result.certified.all()
    assert (
        trained.certify(X).certified.sum()
        == trained.certify(X, eps=EPS).certified.sum()
    )


@pytest.mark.parametrize("method", ["crown-ibp", "alpha-crown"])
def test_linear_bounds_certify_more(trained, method):
    by_intervals = trained.certify(X, eps=0.9)
    result = assert_holds(trained, X, 0.9, method=method)
    assert (result.margin >= by_intervals.margin).all()
    assert result.certified.sum() > by_intervals.certified.sum()
    with torch.inference_mode():  # and where a caller has no use for gradients
        again = trained.certify(X[:20], eps=0.9, method=method)
    np.testing.assert_array_equal(again.certified, result.certified[:20])
    plain = NetClassifier(quick_net(max_epochs=5), random_state=0)
    model = make_pipeline(StandardScaler(), plain).fit(X, y)
    shares = [
        certified_accuracy_score(model, X, y, 0.3, bounds=None, method=how)
        for how in ("ibp", method)
    ]
    assert shares[0] < shares[1] <= model.score(X, y)


def test_a_method_that_there_is_not(trained):
    with pytest.raises(ValueError, match="'method' parameter of CertifiedClassifier"):
        trained.certify(X, method="lines")
    with pytest.raises(ValueError, match="'method' parameter of certified_accuracy"):
        certified_accuracy_score(RandomForestClassifier(), X, y, 0.1, method="crown")


def test_far_more_is_certified_than_without_the_training():
    net = quick_net(module__hidden=(32, 32), max_epochs=30)
    plain = NetClassifier(net, random_state=0).fit(X, y)
    trained = make(net, eps=0.8).fit(X, y)
    score = certified_accuracy_score(trained, X, y, 0.8, bounds=None)
    assert score > certified_accuracy_score(plain, X, y, 0.8, bounds=None) + 0.3
    assert score <= trained.score(X, y)


class Conv(nn.Module):
    """Convolution, batch normalization, a residual sum, pooling, dropout."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.again = nn.Conv2d(4, 4, 1)
        self.head = nn.Sequential(
            nn.AvgPool2d(2), nn.Flatten(), nn.Dropout(0.1), nn.Linear(36, 3)
        )

    def forward(self, X):
        h = torch.relu(self.norm(self.conv(X[:, None])))
        return self.head(h + torch.relu(self.again(h)))


def test_images_in_a_box():
    X, y = make_images(6, 6, n=60)
    X = X.astype(np.float32)
    net = make_net(Conv, max_epochs=15, batch_size=20, lr=0.02)
    net.set_params(optimizer=torch.optim.Adam)
    model = make(net, eps=0.02, bounds=(0, 1), eps_train=0.03, clean_weight=0.2)
    model.fit(X, y)
    result = assert_holds(model, X, 0.02, (0, 1))
    assert result.certified.mean() > 0.3
    # a box that leaves nothing to change certifies all
    tight = clone(model).set_params(bounds=(X.min(0), X.max(0)))
    tight.estimator_ = model.estimator_
    tight.n_features_in_ = model.n_features_in_
    assert (tight.certify(X).margin >= result.margin).all()
    with pytest.raises(ValueError, match="outside the bounds"):
        model.certify(X + 1)


def test_a_pipeline_is_certified_in_raw_units(trained):
    """Scaled rows and eps in scaled units, by hand, give the same net and margins."""
    scaler = StandardScaler().fit(X)
    model = make(make_pipeline(StandardScaler(), quick_net())).fit(X, y)
    by_hand = make(quick_net(), eps=EPS / scaler.scale_)
    by_hand.fit(scaler.transform(X), y)
    found, expected = model.certify(X), by_hand.certify(scaler.transform(X))
    np.testing.assert_allclose(found.margin, expected.margin, atol=1e-2, rtol=1e-2)
    assert_holds(model, X, EPS)
    with pytest.raises(TypeError, match=r"Normalize\) cannot be bounded"):
        make(make_pipeline(Normalizer(), quick_net())).fit(X, y)


@pytest.mark.parametrize("kind", ["proba", "binary"])
def test_nets_of_other_criterions(kind):
    if kind == "proba":
        net, labels = NeuralNetClassifier(Probabilities), y
    else:
        net, labels = NeuralNetBinaryClassifier(OneLogit), np.array(["no", "yes"])
        labels = labels[(y == "ham").astype(int)]
    net.set_params(max_epochs=30, lr=0.1, train_split=None, verbose=0, batch_size=16)
    model = make(net, eps=0.1).fit(X, labels)
    result = assert_holds(model, X, 0.1)
    assert result.certified.mean() > 0.5
    proba = model.predict_proba(X)
    np.testing.assert_allclose(proba.sum(axis=1), 1, rtol=1e-6)


WEIGHED = {
    "proba": (
        *(NeuralNetClassifier, Probabilities, nn.NLLLoss),
        {"criterion__weight": torch.tensor([9.0, 1, 1])},
    ),
    "binary": (
        *(NeuralNetBinaryClassifier, OneLogit, nn.BCEWithLogitsLoss),
        {"criterion__pos_weight": torch.tensor(9.0)},
    ),
}


@pytest.mark.parametrize("kind", WEIGHED)
def test_the_criterion_weighs_classes(kind):
    """In boxes of no size, training is that of the net by itself."""
    cls, module, criterion, given = WEIGHED[kind]
    codes = np.arange(len(X)) % 3 if module is not OneLogit else np.arange(len(X)) % 2
    net = make_net(module, cls, criterion=criterion, max_epochs=4, lr=0.05)
    found = []
    for params in ({}, given):
        one = clone(net).set_params(**params)
        alone = NetClassifier(one, random_state=seed_from(0)).fit(X, codes)
        model = make(one, eps=0.0, regularization=0.0, initialize=False).fit(X, codes)
        found.append(model.predict_proba(X))
        np.testing.assert_allclose(found[-1], alone.predict_proba(X), atol=1e-4)
    assert np.abs(found[0] - found[1]).max() > 0.02


@pytest.mark.parametrize(
    ("module", "cls", "given"),
    [
        (Probabilities, NeuralNetClassifier, {"criterion__ignore_index": 0}),
        (
            *(OneLogit, NeuralNetBinaryClassifier),
            {"criterion__weight": torch.tensor(3.0)},
        ),
    ],
)
def test_what_a_criterion_leaves_out_or_weighs_by_row(module, cls, given):
    net = make_net(module, cls, max_epochs=1, **given)
    if cls is NeuralNetClassifier:
        net.set_params(criterion=nn.NLLLoss)
    with pytest.raises(ValueError, match=r"must (ignore no class|weigh classes by)"):
        make(net).fit(X, np.arange(len(X)) % 2)


class Focal(nn.NLLLoss):
    def forward(self, log_proba, target):
        return ((1 - log_proba.exp()) * -log_proba)[range(len(target)), target].mean()


@pytest.mark.parametrize(
    "around",
    [
        lambda net: make(net, eps=0.1),
        lambda net: DistilledClassifier(net, temperature=2),
        lambda net: AdversariallyAugmentedClassifier(
            net, attack=PGD(0.1, bounds=None), method="ccat"
        ),
    ],
)
def test_a_criterion_whose_loss_on_scores_is_not_known(around):
    net = make_net(Probabilities, NeuralNetClassifier, criterion=Focal, max_epochs=2)
    with pytest.raises(ValueError, match="criterion of NeuralNetClassifier must be"):
        around(net).fit(X, np.arange(len(X)) % 3)


class Counted(Conv):
    """Remembers whether clean rows went along with bounds in training."""

    met: ClassVar[list[int]] = []

    def __init__(self):
        super().__init__()
        self.conv.register_forward_hook(self.count)

    def count(self, module, given, found):
        """Look at what comes out of the convolution."""
        if self.training:
            self.met.append(found.point is not None)


@pytest.mark.parametrize("normalize_by", ["rows", "centers"])
def test_normalization_by_rows_and_by_centers(normalize_by):
    X, y = make_images(6, 6, n=60)
    X = X.astype(np.float32)
    Counted.met.clear()
    net = make_net(Counted, max_epochs=15, batch_size=60, lr=0.02)
    net.set_params(optimizer=torch.optim.Adam)
    given = {"bounds": (0, 1), "normalize_by": normalize_by}
    model = make(net, eps=0.02, eps_train=0.03, **given).fit(X, y)
    assert set(Counted.met) == {normalize_by == "rows"}
    assert assert_holds(model, X, 0.02, (0, 1)).certified.mean() > 0.3


def test_history_and_callbacks_of_the_net():
    net = quick_net(
        max_epochs=10,
        callbacks=[
            LRScheduler("StepLR", step_size=1, gamma=0.5),
            EarlyStopping("certified_accuracy", patience=4, lower_is_better=False),
        ],
    )
    model = make(net, ramp=0.5).fit(X, y)
    shares = [row["train_eps_share"] for row in model.history_]
    assert shares == sorted(shares) and 0 < shares[0] < 0.5 < shares[3] < 1
    assert shares[5:] == [1] * len(shares[5:])
    for row in model.history_:
        assert 0 <= row["certified_accuracy"] <= row["clean_accuracy"] <= 1
        assert np.isfinite(row["train_loss"]) and "batches" not in row
    watched = model.certify(X).certified & (model.predict(X) == y)
    assert model.history_[-1]["certified_accuracy"] == pytest.approx(watched.mean())


@pytest.mark.parametrize("batch_size", [-1, 64])
def test_the_last_batch_of_the_ramp_has_the_whole_radius(batch_size):
    net = quick_net(max_epochs=1, batch_size=batch_size)
    model = make(net, ramp=1.0).fit(X, y)
    assert model.history_[-1]["train_eps_share"] == 1
    fewer = make(clone(net).set_params(iterator_train__drop_last=True), ramp=1.0)
    assert fewer.fit(X, y).history_[-1]["train_eps_share"] == 1
    within = make(net, ramp=0.0, regularization=0.0).fit(X, y)
    if batch_size == -1:  # of one batch, the ramp is nothing
        np.testing.assert_array_equal(
            within.predict_proba(X),
            make(net, ramp=1.0, regularization=0.0).fit(X, y).predict_proba(X),
        )


def test_given_weights_can_be_kept_and_nothing_trained():
    """With no steps worth the name, the module's own weights remain."""
    net = quick_net(max_epochs=1, lr=0.0)
    kept = make(net, initialize=False).fit(X, y).estimator_.net_.module_
    fresh = NetClassifier(net, random_state=seed_from(0))
    fresh = fresh.fit(X, y).net_.module_
    other = make(net).fit(X, y).estimator_.net_.module_
    first = [m.layers[0].weight.detach().numpy() for m in (kept, fresh, other)]
    np.testing.assert_array_equal(first[0], first[1])
    assert (first[0] != first[2]).all()


def test_composes_and_survives(trained, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    again = pickle.loads(pickle.dumps(trained))
    np.testing.assert_array_equal(again.certify(X).margin, trained.certify(X).margin)
    frozen = FrozenEstimator(trained)
    assert certified_accuracy_score(frozen, X, y, EPS, bounds=None) > 0.3
    whole, parts = trained.certify(X), [trained.certify(X[i : i + 7]) for i in (0, 7)]
    margins = np.concatenate([part.margin for part in parts])
    np.testing.assert_allclose(margins, whole.margin[:14], rtol=1e-6, atol=1e-9)
    make(quick_net(max_epochs=1), verbose=1).fit(X, y)
    assert "certified_accuracy" in capsys.readouterr().err


@pytest.mark.parametrize(
    "estimator, params, error, message",
    [
        (RandomForestClassifier(), {}, TypeError, "ask certified_accuracy_score"),
        (FrozenEstimator(quick_net()), {}, ValueError, "not fitted"),
        (DistilledClassifier(quick_net()), {}, TypeError, "way of its own"),
        (quick_net(), {"eps": -1}, ValueError, "'eps'"),
        (
            quick_net(),
            {"eps": np.array(["2020"], "M8[Y]")},
            ValueError,
            "'eps'",
        ),
        (quick_net(), {"eps_train": [0.1, 1]}, ValueError, "'eps_train'"),
        (quick_net(), {"bounds": (1, 0)}, ValueError, "'bounds'"),
        (quick_net(), {"bounds": (0, 1)}, ValueError, "outside the bounds"),
        (quick_net(), {"ramp": 2}, ValueError, "'ramp'"),
        (quick_net(), {"clean_weight": 1}, ValueError, "'clean_weight'"),
        (quick_net(), {"regularization": -1}, ValueError, "'regularization'"),
        (quick_net(), {"initialize": 1}, ValueError, "'initialize'"),
        (quick_net(), {"normalize_by": "box"}, ValueError, "'normalize_by'"),
        (
            quick_net(),
            {"normalize_by": "centers", "clean_weight": 0.1},
            ValueError,
            "clean_weight=0 or normalize_by='rows'",
        ),
    ],
)
def test_what_is_refused(estimator, params, error, message):
    with pytest.raises(error, match=message):
        make(estimator, **params).fit(X, y)


class Twice(nn.Module):
    """Computes in float64, whatever it gets."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1, 2).double()

    def forward(self, X):
        return self.layer(X.double())


def test_a_net_in_float64_gets_rows_of_float32():
    """Behind a scaler too: a certificate knows of that rounding."""
    rows = np.random.default_rng(0).normal(size=(80, 1))
    labels = (rows[:, 0] > 0).astype(int)
    net = NeuralNetClassifier(
        Twice,
        criterion=nn.CrossEntropyLoss,
        lr=0.1,
        max_epochs=6,
        train_split=None,
        verbose=0,
    )
    model = make(make_pipeline(StandardScaler(), net), eps=0.1, initialize=False)
    model.fit(rows, labels)
    low, high = -1.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if model.predict([[middle]])[0] else (middle, high)
    step = np.spacing(np.float32(abs(low)))
    near = low - step * np.linspace(0.01, 0.6, 40)[:, None]
    result = model.certify(near, eps=0.7 * step)
    assert not result.certified.any()
    assert model.certify(near - 0.5, eps=0.1).certified.all()


@pytest.mark.parametrize("offset", [1e4, 1e6])
def test_a_certificate_holds_for_rows_of_float32_in_the_ball(offset):
    """Whose scaler computes in float32; rows that are given are of float64."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, 300)
    rows = offset + 4 * (2 * labels - 1) + 2 * generator.normal(size=300)
    pipe = make_pipeline(StandardScaler(), LogisticRegression())
    pipe.fit(rows[:, None], labels)
    low, high = offset - 4, offset + 4
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if pipe.predict([[middle]])[0] else (middle, high)
    near = low - 0.2 - np.linspace(0, 0.5, 100)[:, None]
    sure = certified_rows(pipe, near, pipe.predict(near), 0.2, bounds=None)
    assert sure.any() == (offset < 1e5)
    for row in near[sure, 0]:
        around = np.unique(np.linspace(row - 0.2, row + 0.2, 99).astype(np.float32))
        around = around[np.abs(around.astype(np.float64) - row) <= 0.2]
        assert (pipe.predict(around[:, None]) == 0).all()


def test_rows_far_from_zero_keep_what_tells_them_apart():
    far = np.random.default_rng(0).normal(size=(120, 2)) * 6
    labels = far[:, 0] > 0
    far = 1.7e9 + far + 20 * np.c_[2.0 * labels - 1, 0 * labels]
    net = quick_net(module__n_classes=2, max_epochs=8)
    model = make(make_pipeline(StandardScaler(), net), eps=0.5).fit(far, labels)
    assert model.score(far, labels) > 0.95
    assert model.history_[-1]["clean_accuracy"] > 0.9
