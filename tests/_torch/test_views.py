"""The view of an estimator answers as the estimator does, with true gradients."""

import copy
import pickle
import re
import subprocess
import sys
from functools import cache

import numpy as np
import pytest
import torch
from scipy.special import expit, log_softmax, softmax
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import MaxAbsScaler, StandardScaler
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier
from skorch import NeuralNetClassifier
from torch import nn

from sk_advdef import (
    BitDepthSqueezer,
    BlurSqueezer,
    Downscaler,
    GrayscaleSqueezer,
    MedianSqueezer,
    as_module,
)
from sk_advdef._torch import _known, _registry
from sk_advdef._torch._models import is_skorch, last_step, unfrozen
from sk_advdef._torch._registry import NoViewError, build, has_view, missing_view
from sk_advdef.nets import DropoutMLP
from tests._torch import _cases, _sklearn_cases
from tests._torch._cases import Probabilities, make_images, make_net, make_rows

CASES = {**_cases.CASES, **_sklearn_cases.CASES}


@cache
def fitted(name):
    return CASES[name].fit()


def answers(view, X):
    with torch.no_grad():
        return view(torch.tensor(X)).numpy()


def moved(view, X, size):
    """Rows pushed along the sign of the gradient, away from what the view answers."""
    x = torch.tensor(X, requires_grad=True)
    scores = view(x)
    loss = nn.functional.cross_entropy(scores, scores.argmax(dim=1))
    (gradient,) = torch.autograd.grad(loss, x)
    return X + np.asarray(size * gradient.sign().numpy(), dtype=X.dtype)


def compare(case, model, view, X):
    scores = answers(view, X).astype(np.float64)
    if case.answers != "proba":
        compare_decision(case, model, scores, X)
        return
    proba = model.predict_proba(X)
    assert scores.shape == proba.shape
    np.testing.assert_allclose(softmax(scores, axis=1), proba, rtol=0, atol=1e-5)
    clear = proba > case.smallest
    np.testing.assert_allclose(
        log_softmax(scores, axis=1)[clear], np.log(proba[clear]), rtol=1e-4, atol=1e-5
    )


def compare_decision(case, model, scores, X):
    labels = model.predict(X)
    assert scores.shape == (len(X), len(model.classes_))
    if case.answers == "decision":
        decision = model.decision_function(X)
        if decision.ndim == 1:
            decision = np.stack([-decision / 2, decision / 2], axis=1)
        np.testing.assert_allclose(scores, decision, rtol=1e-4, atol=1e-5)
    # where votes are tied, an SVC's predict does not ask for confidences
    best = np.floor(scores.max(axis=1) + 1 / 3) == np.floor(scores.T + 1 / 3)
    clear = best.sum(axis=0) == 1 if isinstance(last_step(model), SVC) else slice(None)
    np.testing.assert_array_equal(
        model.classes_[scores.argmax(axis=1)][clear], labels[clear]
    )


@pytest.mark.parametrize("name", CASES)
def test_agrees_with_the_estimator(name):
    case, (model, X) = CASES[name], fitted(name)
    view = as_module(model)
    assert has_view(model)
    compare(case, model, view, X)
    rng = np.random.default_rng(1)
    compare(case, model, view, X + rng.normal(0, 0.5, X.shape).astype(X.dtype))
    for size in (0.1, 1.0):
        compare(case, model, view, moved(view, X, size))


@pytest.mark.parametrize("name", CASES)
def test_takes_both_float_dtypes(name):
    model, X = fitted(name)
    view = as_module(model)
    # levels of float32 rows differ from those of float64 rows at a tie only
    wide = answers(view, X.astype(np.float32).astype(np.float64))
    narrow = answers(view, X.astype(np.float32))
    np.testing.assert_allclose(
        softmax(narrow, axis=1), softmax(wide, axis=1), rtol=0, atol=1e-4
    )
    for dtype in (torch.float32, torch.float64):
        x = torch.tensor(X[:3], dtype=dtype, requires_grad=True)
        (gradient,) = torch.autograd.grad(view(x).logsumexp(1).sum(), x)
        assert gradient.dtype == dtype
        assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("name", [n for n, case in CASES.items() if case.smooth])
def test_gradient_is_that_of_finite_differences(name):
    model, X = fitted(name)
    x = torch.tensor(X[:2], requires_grad=True)
    weights = torch.tensor([0.3, -1.0, 0.5, 0.8, 0.1], dtype=torch.float64)
    view = as_module(model)

    def scalar(x):
        scores = view(x)
        return (scores * weights[: scores.shape[1]]).sum(dim=1)

    assert torch.autograd.gradcheck(scalar, x, rtol=1e-4, fast_mode=X[0].size > 20)


# in a Pipeline the gradient goes straight through a step that rounds
BARE_NETS = [n for n in CASES if n.startswith("net") and n != "net in pipeline"]


@pytest.mark.parametrize("name", BARE_NETS)
def test_gradient_of_a_net_moves_its_scores_as_it_says(name):
    model, X = fitted(name)
    view = copy.deepcopy(as_module(model)).double()
    x = torch.tensor(X[:3], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(view(x)[:, 0].sum(), x)
    step = 1e-6 * torch.tensor(np.random.default_rng(0).normal(size=x.shape))
    with torch.no_grad():
        change = (view(x + step)[:, 0] - view(x - step)[:, 0]) / 2
    expected = (gradient * step).flatten(1).sum(dim=1)
    np.testing.assert_allclose(change, expected, rtol=1e-3, atol=1e-10)


@pytest.mark.parametrize("name", CASES)
def test_leaves_the_estimator_alone(name):
    model, X = fitted(name)
    net = last_step(model)
    was_training = is_skorch(net) and net.module_.training
    names = set(vars(net))
    if not is_skorch(net):  # SciPy notes facts about a sparse matrix once it is used
        compare(CASES[name], model, as_module(model), X)
    before = pickle.dumps(model)
    module = net.module_ if is_skorch(net) else nn.Identity()
    gradients = [
        None if p.grad is None else p.grad.clone() for p in module.parameters()
    ]
    view = as_module(model)
    moved(view, X, 0.1)
    assert not view.training
    assert not any(p.requires_grad for p in view.parameters())
    if is_skorch(net):
        assert net.module_.training == was_training
        for weight, gradient in zip(module.parameters(), gradients, strict=True):
            assert weight.requires_grad
            assert torch.equal(gradient, weight.grad)
        np.testing.assert_array_equal(
            pickle.loads(before).predict_proba(X), model.predict_proba(X)
        )
    else:
        assert pickle.dumps(model) == before
    assert set(vars(net)) == names


def test_a_net_can_train_on_after_its_view_was_taken():
    X, y = make_rows()
    net = make_net().fit(X.astype(np.float32), y)
    net.predict(X.astype(np.float32))  # leaves the module in eval mode
    as_module(net)
    net.partial_fit(X.astype(np.float32), y)
    assert all(p.requires_grad for p in net.module_.parameters())


def test_logits_are_seen_through_a_saturated_softmax():
    net = make_net(Probabilities, criterion=nn.NLLLoss, module__scale=1.0)
    X, y = make_rows()
    net.fit(X.astype(np.float32), y)
    net.module_.scale = 1e4
    x = torch.tensor(X, dtype=torch.float32, requires_grad=True)
    proba = net.module_(x)
    assert (proba.max(dim=1).values == 1).any()
    scores = as_module(net)(x)
    assert torch.isfinite(scores).all()
    torch.testing.assert_close(scores, net.module_.linear(x) * 1e4)
    (gradient,) = torch.autograd.grad((scores[:, 0] - scores[:, 1]).sum(), x)
    assert (gradient.abs().sum(dim=1) > 0).all()


def test_one_versus_rest():
    # liblinear does this for more than two classes in scikit-learn before 1.8
    X, y = make_rows()
    model = LogisticRegression().fit(X, y)
    model.solver = "liblinear"
    own = expit(model.decision_function(X))
    expected = own / own.sum(axis=1, keepdims=True)
    scores = answers(as_module(model), X)
    np.testing.assert_allclose(softmax(scores, axis=1), expected, rtol=1e-7)


SQUEEZERS = [
    (BlurSqueezer(0.7), make_rows()[0]),
    (BlurSqueezer(3.0), make_rows(width=200)[0]),
    (BlurSqueezer(channel_axis=0), make_images(3, 6, 5)[0]),
    (BlurSqueezer(image_shape=(5, 6, 3)), make_rows(width=90)[0]),
    (Downscaler(0.3), make_rows()[0]),
    (Downscaler(size=70, restore=False), make_rows(width=150)[0]),
    (Downscaler(restore=False), make_images(7, 5, 3)[0]),
    (Downscaler(restore=False, image_shape=(3, 4, 5), channel_axis=0), None),
    (GrayscaleSqueezer(image_shape=(4, 5, 3)), None),
    (GrayscaleSqueezer(channel_axis=1, keep_channels=False), make_images(7, 3, 5)[0]),
    (GrayscaleSqueezer(weights=(1, 2), channel_axis=0), make_images(2, 4, 4)[0]),
]


@pytest.mark.parametrize("squeezer, X", SQUEEZERS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_linear_squeezer(squeezer, X, dtype):
    X = (make_rows(width=60)[0] if X is None else X).astype(dtype)
    out = answers(as_module(squeezer.fit(X)), X)
    expected = squeezer.transform(X)
    assert out.dtype == expected.dtype == dtype
    assert out.shape == expected.shape
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("bits", [1, 3, 8, 16])
@pytest.mark.parametrize(
    "value_range, X",
    [
        (None, make_rows()[0]),
        ((-0.3, 1.7), make_rows()[0]),
        (None, make_images(4, 3)[0]),
        (None, np.c_[make_rows()[0], np.full(90, 0.1)]),
    ],
)
def test_bit_depth_is_exact_and_its_gradient_straight(value_range, X, bits, dtype):
    X = X.astype(dtype)
    squeezer = BitDepthSqueezer(bits, value_range=value_range).fit(X)
    outside = X + np.random.default_rng(0).normal(size=X.shape).astype(dtype)
    for rows in (X, outside):
        x = torch.tensor(rows, requires_grad=True)
        out = as_module(squeezer)(x)
        np.testing.assert_array_equal(out.detach(), squeezer.transform(rows))
        weights = torch.tensor(outside)
        (gradient,) = torch.autograd.grad((out * weights).sum(), x)
        assert torch.equal(gradient, weights)


def test_bit_depth_of_uint8_is_exact():
    X = np.arange(256, dtype=np.uint8).reshape(16, 4, 4)
    squeezer = BitDepthSqueezer(3).fit(X)
    rows = X.astype(np.float32)
    np.testing.assert_array_equal(
        answers(as_module(squeezer), rows), squeezer.transform(rows)
    )


MEDIANS = [
    (MedianSqueezer(3), make_rows()[0]),
    (MedianSqueezer(12), make_rows()[0]),
    (MedianSqueezer(2, image_shape=(4, 5, 3)), make_rows(width=60)[0]),
    (MedianSqueezer(3), make_images(7, 5)[0]),
    (MedianSqueezer((4, 3), channel_axis=0), make_images(3, 5, 6)[0]),
    (MedianSqueezer(9), make_images(5, 3, 2)[0]),
]


@pytest.mark.parametrize("squeezer, X", MEDIANS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint8])
def test_median_is_exact(squeezer, X, dtype):
    X = (50 * X).clip(0, 255).astype(dtype) if dtype == np.uint8 else X.astype(dtype)
    expected = clone(squeezer).fit_transform(X)
    rows = X.astype(np.float32) if dtype == np.uint8 else X
    np.testing.assert_array_equal(answers(as_module(squeezer.fit(X)), rows), expected)


@pytest.mark.parametrize("squeezer, X", MEDIANS)
def test_gradient_of_the_median_is_that_of_finite_differences(squeezer, X):
    x = torch.tensor(X[:2], requires_grad=True)
    assert torch.autograd.gradcheck(as_module(squeezer.fit(X)), x, eps=1e-7)


@pytest.mark.parametrize("window", [2, 3, 5])
def test_pixels_that_share_the_median_share_its_gradient(window):
    # on a flat background a single pixel moves no median, but all of them together do
    X = np.zeros((1, 9, 9))
    view = as_module(MedianSqueezer(window).fit(X))
    x = torch.tensor(X, requires_grad=True)
    (gradient,) = torch.autograd.grad(view(x)[0, 4, 4], x)
    touched = gradient[gradient != 0]
    assert len(touched) == window**2
    torch.testing.assert_close(touched, torch.full_like(touched, 1 / window**2))
    moved_together = view(x + 0.1 * gradient.sign())[0, 4, 4]
    torch.testing.assert_close(moved_together.item(), 0.1)


def test_gray_bytes_are_the_view_rounded():
    X = np.random.default_rng(0).integers(0, 256, (4, 5, 6, 3), dtype=np.uint8)
    squeezer = GrayscaleSqueezer().fit(X)
    gray = answers(as_module(squeezer), X.astype(np.float32))
    assert np.abs(gray - squeezer.transform(X)).max() < 0.51


class Reversed(LogisticRegression):
    def predict_proba(self, X):
        return super().predict_proba(X)[:, ::-1]


class Renamed(LogisticRegression):
    """A subclass that leaves the answers alone."""


class ReversedPipeline(Pipeline):
    def predict_proba(self, X):
        return super().predict_proba(X)[:, ::-1]


class ReversedNet(NeuralNetClassifier):
    def predict_proba(self, X):
        return super().predict_proba(X)[:, ::-1]


class Trainer(NeuralNetClassifier):
    """A subclass that changes training only."""

    def train_step(self, batch, **fit_params):
        return super().train_step(batch, **fit_params)


def test_a_subclass_that_answers_otherwise_has_no_view():
    X, y = make_rows()
    for model in (
        Reversed().fit(X, y),
        ReversedPipeline([("logistic", LogisticRegression())]).fit(X, y),
        make_net(cls=ReversedNet, criterion=nn.CrossEntropyLoss).initialize(),
    ):
        for whole in (
            model,
            FrozenEstimator(model),
            make_pipeline("passthrough", model),
        ):
            assert not has_view(whole)
            assert missing_view(whole) is model
            with pytest.raises(NoViewError, match=type(model).__name__):
                as_module(whole)


def test_a_subclass_that_answers_alike_has_one():
    X, y = make_rows()
    model = Renamed().fit(X, y)
    compare(CASES["logistic binary"], model, as_module(model), X)
    net = make_net(cls=Trainer, criterion=nn.CrossEntropyLoss).fit(
        X.astype(np.float32), y
    )
    compare(CASES["net logits"], net, as_module(net), X.astype(np.float32))


@pytest.fixture
def registered(monkeypatch):
    monkeypatch.setattr(_registry, "_registered", {})


class Nearest(ClassifierMixin, BaseEstimator):
    def fit(self, X, y):
        self.classes_ = np.unique(y)
        self.means_ = np.stack([X[y == c].mean(axis=0) for c in self.classes_])
        return self

    def predict_proba(self, X):
        return softmax(-((X[:, None] - self.means_) ** 2).sum(axis=2), axis=1)

    def predict(self, X):
        return self.classes_[self.predict_proba(X).argmax(axis=1)]


class NearestChild(Nearest):
    pass


class NearestView(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.means = nn.Parameter(torch.tensor(model.means_))

    def forward(self, x):
        return -((x[:, None].double() - self.means) ** 2).sum(dim=2)


def test_register(registered):
    X, y = make_rows()
    assert not has_view(Nearest())
    as_module.register(Nearest, NearestView)
    for cls in (Nearest, NearestChild):
        model = make_pipeline(StandardScaler(), cls()).fit(X, y)
        view = as_module(model)
        compare(CASES["logistic binary"], model, view, X)
        assert not any(p.requires_grad for p in view.parameters())
    as_module.register(NearestChild, lambda model: nn.Identity())
    assert isinstance(build(NearestChild()), nn.Identity)
    assert isinstance(build(Nearest().fit(X, y)), NearestView)


def test_register_wins_over_what_is_built_in(registered):
    X, y = make_rows()
    for cls, model in (
        (LogisticRegression, Reversed().fit(X, y)),
        (Pipeline, ReversedPipeline([("tree", DecisionTreeClassifier())]).fit(X, y)),
        (NeuralNetClassifier, make_net(cls=ReversedNet).initialize()),
        (MaxAbsScaler, MaxAbsScaler().fit(X)),
    ):
        as_module.register(cls, lambda model: nn.Identity())
        assert has_view(model)
        assert isinstance(as_module(model), nn.Identity)


def test_register_is_documented_and_checks():
    assert "as_module.register(cls, builder)" in as_module.__doc__
    assert "builder" in as_module.register.__doc__
    with pytest.raises(TypeError, match="takes a class first"):
        as_module.register(LogisticRegression(), NearestView)
    with pytest.raises(TypeError, match="takes a callable second"):
        as_module.register(Nearest, 3)


def test_the_error_names_the_part_and_the_way_out():
    X, y = make_rows()
    tree = DecisionTreeClassifier()
    model = make_pipeline(StandardScaler(), FrozenEstimator(tree.fit(X, y))).fit(X, y)
    message = r"^DecisionTreeClassifier has no differentiable view.*register.*RandomS"
    with pytest.raises(TypeError, match=message):
        as_module(model)
    assert missing_view(model) is tree


def test_several_labels_a_row_have_no_view():
    X, y = make_rows(2)
    labels = np.c_[y, 1 - y]
    mlp = MLPClassifier((3,), max_iter=400, tol=0.1, n_iter_no_change=1).fit(X, labels)
    with pytest.raises(NoViewError, match="several labels a row"):
        as_module(mlp)


@pytest.mark.parametrize(
    "model",
    [
        LogisticRegression(),
        MLPClassifier(),
        StandardScaler(),
        BlurSqueezer(),
        BitDepthSqueezer(),
        MedianSqueezer(),
        GrayscaleSqueezer(),
        make_net(),
        make_pipeline(StandardScaler(), LogisticRegression()),
        FrozenEstimator(LogisticRegression()),
    ],
)
def test_not_fitted(model):
    assert has_view(model)
    first = unfrozen(model[0] if isinstance(model, Pipeline) else model)
    with pytest.raises(NotFittedError, match=re.escape(type(first).__name__)):
        as_module(model)


def test_the_builder_of_each_name_exists():
    for address in {*_known._BUILTIN.values(), *_known._TRANSFORMING.values()}:
        assert callable(_registry._load(address))


LIGHT = """
import sys
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier
from sk_advdef import BitDepthSqueezer, as_module
from sk_advdef._torch._registry import has_view

steps = StandardScaler(), BitDepthSqueezer()
assert has_view(FrozenEstimator(make_pipeline(*steps, LogisticRegression())))
assert not has_view(make_pipeline(*steps, DecisionTreeClassifier()))
assert not {"torch", "skorch"} & set(sys.modules)
"""


def test_has_view_loads_no_torch():
    subprocess.run([sys.executable, "-c", LIGHT], check=True)


def test_a_module_of_float64_stays_float64():
    X, y = make_rows()
    net = make_net().fit(X.astype(np.float32), y)
    net.module_.double()
    assert as_module(net)(torch.tensor(X)).dtype == torch.float64
    assert isinstance(net.module_, DropoutMLP)


def test_a_net_whose_criterion_takes_scores():
    """Rows of scores that are no probabilities are passed on as they are."""
    X, y = make_rows(3)
    net = make_net(Scores, criterion=nn.MultiMarginLoss, module__n=X.shape[1])
    net.fit(X.astype(np.float32), y.astype(np.int64))
    rows = X.astype(np.float32)
    scores = as_module(net)(torch.tensor(rows, requires_grad=True))
    assert (scores < 0).all()
    np.testing.assert_array_equal(scores.argmax(dim=1).numpy(), net.predict(rows))


class Scores(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.layer = nn.Linear(n, 3)

    def forward(self, X):
        return -1 - nn.functional.softplus(self.layer(X))


@pytest.mark.skipif(
    "multi_class" not in LogisticRegression().get_params(),
    reason="this scikit-learn's LogisticRegression has no multi_class",
)
@pytest.mark.filterwarnings("ignore:'multi_class':FutureWarning")
@pytest.mark.parametrize("multi_class", ["ovr", "multinomial"])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_multi_class_of_older_versions(multi_class, n_classes):
    X, y = make_rows(n_classes)
    model = LogisticRegression(multi_class=multi_class).fit(X, y)
    scores = answers(as_module(model), X)
    np.testing.assert_allclose(
        softmax(scores, axis=1), model.predict_proba(X), rtol=0, atol=1e-5
    )
