"""Densities of hidden features: against references, at their limits, under attack."""

import numpy as np
import pytest
import torch
from sklearn.compose import make_column_transformer
from sklearn.covariance import EmpiricalCovariance, LedoitWolf
from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KernelDensity, NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.svm import SVC
from skorch import NeuralNetBinaryClassifier, NeuralNetClassifier
from torch import nn

from sk_advdef import (
    PGD,
    AdversariallyAugmentedClassifier,
    DensityDetector,
    RandomSearch,
    RejectingClassifier,
    as_score_module,
)
from sk_advdef._torch._hidden import HiddenLayers, Tap
from sk_advdef._torch._net import NetClassifier
from sk_advdef._torch._registry import has_view
from sk_advdef.detection import _densities
from sk_advdef.detection._density import METHODS
from sk_advdef.nets import DropoutCNN
from tests._instances import make_rows, small_net
from tests._torch._cases import make_net

X, y = make_rows(n_samples=240)
codes = np.unique(y, return_inverse=True)[1]
linear = LogisticRegression(max_iter=1000).fit(X, y)


def make(estimator=None, **params):
    return DensityDetector(estimator, **{"random_state": 0} | params)


class Even:
    """Splits even rows, to fit on, from odd ones, for the threshold."""

    def split(self, X, y=None):
        rows = np.arange(len(X))
        yield rows[::2], rows[1::2]


def reference(method, fitted, labels, rows, predicted, **params):
    """Score rows by scikit-learn's own tools."""
    scores = []
    if method in ("kernel_density", "nearest_neighbors"):
        for row, k in zip(rows, predicted, strict=True):
            of_class = fitted[labels == k]
            if method == "kernel_density":
                model = KernelDensity(bandwidth=params["bandwidth"]).fit(of_class)
                scores.append(model.score_samples(row[None])[0])
            else:
                near = NearestNeighbors(n_neighbors=params["n_neighbors"])
                scores.append(-near.fit(of_class).kneighbors(row[None])[0][0, -1])
        return np.array(scores)
    fit = LedoitWolf if params["shrinkage"] == "auto" else EmpiricalCovariance
    means = np.stack([fitted[labels == k].mean(axis=0) for k in np.unique(labels)])
    away = fitted - means[np.searchsorted(np.unique(labels), labels)]
    precision = fit(assume_centered=True).fit(away).precision_
    delta = rows[:, None] - means
    nearest = np.einsum("nkd,de,nke->nk", delta, precision, delta).min(axis=1)
    if method == "mahalanobis":
        return -nearest
    delta = rows - fitted.mean(axis=0)
    precision = fit(assume_centered=True).fit(fitted - fitted.mean(axis=0)).precision_
    return np.einsum("nd,de,ne->n", delta, precision, delta) - nearest


@pytest.mark.parametrize("shrinkage", ["auto", 0.0])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("with_y", [True, False])
def test_equals_scikit_learn(method, shrinkage, with_y):
    scaler = StandardScaler().fit(X)
    pipe = make_pipeline(scaler, linear)
    params = {"bandwidth": 0.7, "n_neighbors": 4, "shrinkage": shrinkage}
    found = make(FrozenEstimator(pipe), method=method, cv=Even(), **params)
    found.fit(X, y if with_y else None)
    Z = scaler.transform(X)
    predicted = linear.predict(Z)
    labels = (y if with_y else predicted)[::2]
    expected = reference(method, Z[::2], labels, Z, predicted, **params)
    np.testing.assert_allclose(found.score_samples(X), expected, rtol=1e-8)
    np.testing.assert_allclose(found.layer_scores(X)[:, 0], expected, rtol=1e-8)
    # the threshold knows the odd rows alone
    rank = int(0.05 * 121)
    assert (expected[1::2] < found.offset_).sum() == rank - 1
    assert found.layers_ == ("last step",)


@pytest.mark.parametrize("method", METHODS)
def test_blocks(method, monkeypatch):
    found = make(FrozenEstimator(linear), method=method).fit(X, y)
    expected = found.score_samples(X)
    bandwidth = found.bandwidth_ if method == "kernel_density" else None
    monkeypatch.setattr(_densities, "DISTANCES_AT_A_TIME", 100)
    found.fit(X, y)
    np.testing.assert_allclose(found.score_samples(X), expected, rtol=1e-10)
    if bandwidth is not None:
        np.testing.assert_allclose(found.bandwidth_, bandwidth)


@pytest.mark.parametrize("bandwidth", [1e-300, 1e-160, 1e160, 1e300])
def test_bandwidths_whose_square_no_number_holds(bandwidth):
    X, y = load_iris(return_X_y=True)
    scores = make(bandwidth=bandwidth).fit(X, y).score_samples(X)
    assert np.isfinite(scores).all()
    if bandwidth > 1:  # all rows are equally near
        np.testing.assert_allclose(scores, scores[0])


def test_default_bandwidth(monkeypatch):
    rows = np.array([[0.0], [1.0], [3.0], [10.0], [14.0], [50.0]])
    labels = np.array([0, 0, 0, 1, 1, 2])
    near = _densities.neighborhood(rows, labels, 3)
    # nearest others: 1, 1, 2; 4, 4; the single one has none
    assert _densities.default_bandwidth(near) == pytest.approx(1.0)
    scaled = _densities.neighborhood(1e-9 * rows + 1.0, labels, 3)
    assert _densities.default_bandwidth(scaled) == pytest.approx(1e-9, rel=1e-3)
    twice = _densities.neighborhood(np.repeat(rows[[0, 1]], 2, axis=0), np.zeros(4), 1)
    assert _densities.default_bandwidth(twice) == pytest.approx((1 / 4) ** 0.5)
    monkeypatch.setattr(_densities, "ROWS_FOR_BANDWIDTH", 2)
    assert _densities.default_bandwidth(near) == pytest.approx((3 + 4) / 2 / 2, rel=0.2)


# --- hidden layers


class Branches(nn.Module):
    """A conv map, a branch that is not called, and the output called before another."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 2)
        self.hidden = nn.Linear(6, 5)
        self.unused = nn.Linear(2, 2)
        self.out = nn.Linear(5, 3)

    def forward(self, X):
        maps = self.conv(X.reshape(-1, 1, 2, 3)).relu()
        return self.out(self.hidden(maps.flatten(1)).tanh())


@pytest.fixture(scope="module")
def branches():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make_net(Branches, max_epochs=8).fit(X.astype(np.float32), codes)


def test_features_of_layers(branches):
    module = branches.module_
    with torch.no_grad():
        maps = module.conv(torch.tensor(X, dtype=torch.float32).reshape(-1, 1, 2, 3))
        hidden = module.hidden(maps.relu().flatten(1))
        by_hand = {None: hidden.tanh(), "hidden": hidden, "conv": maps.mean(dim=(2, 3))}
    predicted = branches.predict(X.astype(np.float32))
    names = {None: "input of out", "hidden": "hidden", "conv": "conv"}
    for layers, features in by_hand.items():
        found = make(FrozenEstimator(branches), layers=layers, cv=Even())
        found.fit(X, codes)
        features = features.double().numpy()
        expected = reference(
            "kernel_density", features[::2], codes[::2], features, predicted,
            bandwidth=found.bandwidth_[0],
        )  # fmt: skip
        np.testing.assert_allclose(found.score_samples(X), expected, rtol=1e-4)
        assert found.layers_ == (names[layers],)


def test_several_layers(branches):
    one = [make(FrozenEstimator(branches), layers=n).fit(X) for n in ("conv", "hidden")]
    both = make(FrozenEstimator(branches), layers=["conv", "hidden"]).fit(X)
    columns = np.stack([d.score_samples(X) for d in one], axis=1)
    np.testing.assert_allclose(both.layer_scores(X), columns)
    unit = (columns - both._location) / both._scale
    np.testing.assert_allclose(both.score_samples(X), unit.mean(axis=1))
    # in units of their own: no layer drowns the other
    assert (unit.std(axis=0) > 0.3).all() and (unit.std(axis=0) < 3).all()


def test_the_module_is_left_alone(branches):
    module = branches.module_.train()
    module.zero_grad()
    before = {k: v.clone() for k, v in module.state_dict().items()}
    found = make(FrozenEstimator(branches), layers=["conv", "out"]).fit(X)
    found.predict(X)
    rows = torch.tensor(X[:3], requires_grad=True)
    as_score_module(found).double()(rows).sum().backward()
    assert all(m.training and not m._forward_hooks for m in module.modules())
    assert all(p.grad is None and p.dtype == torch.float32 for p in module.parameters())
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name])


class TimeFirst(nn.Module):
    def __init__(self):
        super().__init__()
        self.turned, self.out = nn.Flatten(0, 1), nn.Linear(6, 3)

    def forward(self, X):
        self.turned(X.reshape(-1, 3, 2))
        return self.out(X)


class NoWeights(nn.Module):
    """Uses the weights of a layer that it does not call."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(2, 2)

    def forward(self, X):
        return X[:, :3] * self.inner.weight.mean()


@pytest.mark.parametrize(
    "module, layers, message",
    [
        (Branches, "conv1", r"no layers \['conv1'\].*'conv', 'hidden'"),
        (Branches, ["unused"], r"does not call its layers \['unused'\]"),
        (TimeFirst, "turned", "'turned' gives no tensor with a row a sample"),
        (NoWeights, None, "No layer with weights.*Name layers"),
    ],
)
def test_layers_that_cannot_be(module, layers, message):
    net = make_net(module, criterion=nn.CrossEntropyLoss).initialize()
    net.classes_inferred_ = np.arange(3)
    with pytest.raises(ValueError, match=message):
        make(FrozenEstimator(net), layers=layers).fit(X)


# --- the differentiable suspicion


def pipelines():
    svc = make_pipeline(StandardScaler(), SVC())
    net = make_pipeline(StandardScaler(), small_net(max_epochs=8))
    trained = AdversariallyAugmentedClassifier(svc[:1].steps and LogisticRegression())
    return {"svc": (svc, None), "net": (net, None), "two": (net, "two"), "own": (
        trained, None)}  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["svc", "net", "two", "own"])
def test_the_view_of_suspicion(kind, method):
    estimator, layers = pipelines()[kind]
    if layers:
        layers = ["layers.0", "layers.1"]
    found = make(estimator, method=method, layers=layers).fit(X, y)
    rows = torch.tensor(X[:8] + 0.3, requires_grad=True)
    suspicion = as_score_module(found)
    values = suspicion(rows)
    expected = -found.score_samples(X[:8] + 0.3)
    np.testing.assert_allclose(values.detach(), expected, rtol=1e-4, atol=1e-5)
    assert suspicion.features(rows).shape[0] == 8
    suspicion.double()
    (gradient,) = torch.autograd.grad(suspicion(rows).sum(), rows)
    assert (gradient != 0).any(dim=1).all()
    step = torch.tensor(np.random.default_rng(0).normal(size=X[:8].shape))
    with torch.no_grad():
        ahead, behind = (suspicion(rows + h * step) for h in (1e-6, -1e-6))
    slope = (ahead - behind) / 2e-6
    found = (gradient * step).sum(dim=1)
    torch.testing.assert_close(found, slope, rtol=1e-3, atol=1e-4)


def test_no_slope_where_a_row_is_its_own_neighbor():
    found = make(FrozenEstimator(linear), method="nearest_neighbors", n_neighbors=1)
    found.set_params(cv=Even()).fit(X, y)
    rows = torch.tensor(X[:6:2], requires_grad=True)
    values = as_score_module(found)(rows)
    (gradient,) = torch.autograd.grad(values.sum(), rows)
    assert gradient.isfinite().all()
    expected = -found.score_samples(X[:6:2])
    np.testing.assert_allclose(values.detach().numpy(), expected, atol=1e-6)
    np.testing.assert_allclose(expected, 0, atol=1e-6)


# --- limits


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_degenerate_features(method, dtype):
    rng = np.random.default_rng(0)
    base = np.repeat(X[:40, :2], 2, axis=0)  # rows that repeat
    wide = np.hstack(
        [
            base,
            base[:, :1] * 1e6,  # a copy in another unit
            np.full((80, 2), 7.0),  # constant
            1e-8 * rng.normal(size=(80, 120)),  # more features than rows
        ]
    ).astype(dtype)
    labels = np.arange(80) % 2
    labels[-1] = 2  # a class of one row
    model = GaussianNB().fit(wide, labels)
    found = make(FrozenEstimator(model), method=method, contamination=0.2)
    scores = found.fit(wide, labels).score_samples(wide)
    assert np.isfinite(scores).all() and np.isfinite(found.offset_)
    assert (found.predict(wide) == 1).mean() > 0.6
    if method == "relative_mahalanobis":
        return  # what no row does is left out of account
    # to leave what genuine rows never leave is suspicious
    away = wide.copy()
    away[:, 3] += 1e9
    assert (found.score_samples(away) < scores.min()).all()
    assert (found.predict(away) == -1).all()


@pytest.mark.parametrize("method", METHODS)
def test_all_rows_the_same(method):
    model = FrozenEstimator(linear)
    found = make(model, method=method, contamination=0.2).fit(np.ones((40, 6)))
    assert np.isfinite(found.score_samples(X)).all()
    assert (found.predict(np.ones((3, 6))) == 1).all()
    away = found.predict(np.ones((3, 6)) + 1)
    assert (away == (1 if method == "relative_mahalanobis" else -1)).all()


@pytest.mark.parametrize("method", METHODS)
def test_a_class_without_rows(method):
    known = y != "spam"
    found = make(FrozenEstimator(linear), method=method).fit(X[known], y[known])
    rows = X[~known]
    assert (linear.predict(rows) == "spam").mean() > 0.9
    assert np.isfinite(found.score_samples(rows)).all()
    values = as_score_module(found)(torch.tensor(rows))
    np.testing.assert_allclose(values, -found.score_samples(rows), rtol=1e-6)
    if method != "relative_mahalanobis":  # far from all that was fitted
        suspected = (found.predict(rows) == -1).mean()
        assert suspected > (found.predict(X[known]) == -1).mean()


@pytest.mark.parametrize("method", METHODS)
def test_units_and_far_offsets(method):
    found = make(FrozenEstimator(linear), method=method, shrinkage=0.0)
    scores = found.fit(X, y).score_samples(X)
    moved = LogisticRegression(max_iter=1000).fit(X, y)
    moved.intercept_ = linear.intercept_ - linear.coef_ @ np.full(6, 1e7)
    found = make(FrozenEstimator(moved), method=method, shrinkage=0.0)
    far = found.fit(X + 1e7, y).score_samples(X + 1e7)
    np.testing.assert_allclose(far, scores, rtol=1e-5, atol=1e-5)


# --- what it is good for


@pytest.fixture(scope="module")
def attacked(digits):
    part = slice(1300, 1500)
    result = PGD(0.1, random_state=0).run(digits.model, digits.X[part], digits.y[part])
    return digits.X[part], result.X_adv[result.fooled]


@pytest.mark.parametrize("method", METHODS)
def test_attacked_rows_are_less_dense(method, digits, attacked):
    found = make(FrozenEstimator(digits.model), method=method)
    found.fit(digits.X[600:1300], digits.y[600:1300])
    genuine, seen = map(found.score_samples, attacked)
    truth = np.r_[np.ones(len(genuine)), np.zeros(len(seen))]
    assert roc_auc_score(truth, np.r_[genuine, seen]) > 0.7


@pytest.mark.parametrize("method", METHODS)
def test_false_positives(method, digits):
    """On fresh genuine rows, over draws: the density never saw the threshold's rows."""
    rng = np.random.default_rng(0)
    flagged = []
    for _ in range(10):
        order = 600 + rng.permutation(len(digits.X) - 600)
        found = make(FrozenEstimator(digits.model), method=method, cv=0.5)
        found.set_params(contamination=0.1).fit(digits.X[order[:600]])
        flagged.append((found.predict(digits.X[order[600:]]) == -1).mean())
    expected = 30 / 301
    deviation = (expected * (1 - expected) * (1 / 300 + 1 / 597) / 10) ** 0.5
    assert abs(np.mean(flagged) - expected) < 4 * deviation


@pytest.mark.parametrize("method", ["kernel_density", "relative_mahalanobis"])
def test_who_knows_it_goes_past_it(method, digits, attacked):
    found = make(method=method, contamination=0.1, cv=0.3)
    model = FrozenEstimator(digits.model)
    defended = RejectingClassifier(model, found).fit(digits.X[600:1300])
    X, y = digits.X[1300:1400], digits.y[1300:1400]
    result = PGD(0.15, steps=20, random_state=0).run(defended, X, y)
    answers = defended.predict(result.X_adv)
    np.testing.assert_array_equal(result.fooled, (answers != y) & (answers != -1))
    blind = PGD(0.15, steps=20, random_state=0).run(digits.model, X, y)
    past = defended.predict(blind.X_adv)
    assert result.fooled.mean() > ((past != y) & (past != -1)).mean()
    assert result.distortion.max() <= 0.15


def test_without_a_view():
    forest = RandomForestClassifier(10, random_state=0)
    defended = RejectingClassifier(forest, make(contamination=0.2, cv=0.5)).fit(X, y)
    assert not has_view(defended)
    result = RandomSearch(2.0, max_queries=30, bounds=None, random_state=0).run(
        defended, X[:40], y[:40]
    )
    assert result.fooled.any()
    own = RejectingClassifier(linear, make(forest, cv=0.5)).fit(X, y)
    assert not has_view(own) and own._missing_view() is own.detector_.estimator_


def test_kinds_of_models():
    images = X.reshape(-1, 2, 3)
    cnn = make_net(DropoutCNN, module__n_classes=3, max_epochs=2)
    mixed = make_pipeline(
        make_column_transformer((OneHotEncoder(), [0]), remainder="passthrough"),
        LogisticRegression(max_iter=1000),
    )
    rounded = X.round()
    for estimator, rows in [
        (NetClassifier(cnn), images),
        (mixed, np.c_[rounded[:, 0] > 0, rounded]),  # sparse rows at the last step
        (FrozenEstimator(NetClassifier(small_net(max_epochs=2)).fit(X, y)), X),
        (make_pipeline(StandardScaler(), "passthrough", LogisticRegression()), X),
        (AdversariallyAugmentedClassifier(LogisticRegression(), rounds=1), X),
    ]:
        found = make(estimator).fit(rows, y)
        assert set(found.predict(rows)) <= {-1, 1}


@pytest.mark.parametrize(
    "detector, error, message",
    [
        (make(method="kde"), ValueError, "'method' parameter of DensityDetector"),
        (make(bandwidth=0.0), ValueError, r"'bandwidth' .* \(0, inf\) or \"auto\""),
        (make(bandwidth="scott"), ValueError, "'bandwidth' parameter"),
        (make(n_neighbors=0), ValueError, "'n_neighbors' parameter"),
        (make(shrinkage=1.5), ValueError, r"'shrinkage' .* \[0, 1\] or \"auto\""),
        (make(layers="out"), TypeError, "of a net, and estimator=None is none"),
        (make(small_net(), layers=[]), ValueError, "'layers' parameter"),
        (make(small_net(), layers=[1]), ValueError, "'layers' parameter"),
        (make(FrozenEstimator(linear), cv=2.5), ValueError, "'cv' parameter"),
    ],
)
def test_errors(detector, error, message):
    with pytest.raises(error, match=message):
        detector.fit(X, y)


def test_a_net_that_does_not_answer_the_more_probable_class():
    binary = make_net(nn.Linear, NeuralNetBinaryClassifier, module__in_features=5)
    binary.set_params(module__out_features=1, max_epochs=1).initialize()
    binary.fit(X[:, :5].astype("float32"), (codes > 0).astype("float32"))
    frozen = FrozenEstimator(binary.set_params(threshold=0.2))
    with pytest.raises(ValueError, match="threshold of NeuralNetBinaryClassifier"):
        make(frozen).fit(X[:, :5].astype("float32"))


@pytest.mark.parametrize("labels", [y, codes])
def test_a_model_that_rejects_is_looked_through(labels):
    model = LogisticRegression(max_iter=1000).fit(X, labels)
    rejecting = RejectingClassifier(FrozenEstimator(model), make(contamination=0.3))
    rejecting.fit(X)
    found = make(FrozenEstimator(rejecting)).fit(X, labels)
    wanted = make(FrozenEstimator(model)).fit(X, labels)
    np.testing.assert_array_equal(found.score_samples(X), wanted.score_samples(X))


def test_nets_that_draw_leave_the_generator_alone():
    class Drawing(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(X.shape[1], 5)

        def forward(self, X):
            return self.layer(nn.functional.dropout(X, 0.5, training=True))

    net = make_net(Drawing, NeuralNetClassifier, max_epochs=1)
    before = torch.get_rng_state()
    detector = make(net).fit(X, y)
    scores = detector.score_samples(X)
    assert torch.equal(torch.get_rng_state(), before)
    np.testing.assert_array_equal(detector.score_samples(X), scores)


def test_a_layer_that_the_next_one_overwrites():
    seen = []
    for dtype in (torch.float32, torch.float64):
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(4, 6), nn.ReLU(inplace=True), nn.Linear(6, 3))
        view = SimpleView(module.to(dtype))
        look = HiddenLayers(view, [Tap("0")])
        torch.manual_seed(1)
        _, features = look(torch.randn(9, 4).to(dtype))
        seen.append(features[0])
    assert (seen[1] < 0).any()
    torch.testing.assert_close(seen[0], seen[1], rtol=1e-5, atol=1e-6)


class SimpleView(nn.Module):
    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, x):
        return self.module(x)


def test_labels_that_the_model_does_not_know():
    with pytest.raises(ValueError, match=r"labels \[0, 1, 2\].*answers with \['eggs'"):
        make(FrozenEstimator(linear)).fit(X, codes)
