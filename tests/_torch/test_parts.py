"""What has no view and why, and what a view is made of in unusual settings."""

import pickle
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse
from scipy.special import softmax
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import StackingClassifier, VotingClassifier
from sklearn.exceptions import NotFittedError
from sklearn.feature_selection import RFE, SelectKBest
from sklearn.frozen import FrozenEstimator
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, RidgeClassifier, SGDClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    MinMaxScaler,
    Normalizer,
    OneHotEncoder,
    StandardScaler,
)
from sklearn.svm import SVC, LinearSVC
from sklearn.tree import DecisionTreeClassifier

from sk_advdef import as_module
from sk_advdef._torch._bpda import anneal, annealed, evened
from sk_advdef._torch._registry import NoViewError, build, has_view, missing_view
from sk_advdef._torch._views import column_positions
from tests._torch._cases import make_rows

NAMES = list("abcdef")


def answers(view, X):
    with torch.no_grad():
        return view(torch.tensor(X)).numpy()


@pytest.mark.parametrize(
    "columns, positions",
    [
        (["c", "a"], [2, 0]),
        (np.array(["f"]), [5]),
        (pd.Index(["b", "c"]), [1, 2]),
        (slice("b", "d"), [1, 2, 3]),
        (slice(None, "b"), [0, 1]),
        (slice("e", None), [4, 5]),
        (slice(-2, None), [4, 5]),
        ("d", 3),
        (-1, 5),
        (np.int64(2), 2),
        ([True, False, True, False, False, False], [0, 2]),
        ([0, -2], [0, 4]),
        (range(2), [0, 1]),
    ],
)
def test_column_positions(columns, positions):
    found = column_positions(columns, 6, NAMES)
    assert found == positions
    assert isinstance(found, list) == isinstance(positions, list)


@pytest.mark.parametrize(
    "columns",
    [
        ["c", "a"],
        slice("b", "d"),
        lambda X: X.columns[[4, 1]],
        lambda X: X.columns == "b",
        lambda X: [],
    ],
)
def test_columns_of_a_frame(columns):
    X, _ = make_rows()
    transformer = ColumnTransformer(
        [("scale", StandardScaler(), columns)], remainder=MinMaxScaler()
    )
    expected = transformer.fit_transform(pd.DataFrame(X, columns=NAMES))
    found = answers(as_module(transformer), X)
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_a_column_given_alone_comes_without_its_axis():
    class Doubled(TransformerMixin, BaseEstimator):
        def fit(self, X, y=None):
            return self

        def transform(self, X):
            return 2 * np.asarray(X)[:, None]

        def _as_module(self):
            return torch.nn.Unflatten(0, (-1, 1))

        def __sklearn_is_fitted__(self):
            return True

    X, _ = make_rows()
    transformer = ColumnTransformer([("one", Doubled(), 1)]).fit(X)
    np.testing.assert_allclose(answers(as_module(transformer), X), X[:, [1]])


def test_no_branch_at_all():
    X, _ = make_rows()
    transformer = ColumnTransformer([("a", "drop", [0])]).fit(X)
    assert answers(as_module(transformer), X).shape == (len(X), 0)


@pytest.mark.parametrize("indicator", [True, False])
def test_imputer_of_holes(indicator):
    X, _ = make_rows()
    X[::5, 1] = X[1::7, 4] = X[:, 3] = np.nan
    imputer = SimpleImputer(add_indicator=indicator).fit(X)
    with pytest.warns(UserWarning, match="Skipping features"):
        expected = imputer.transform(X)
    view = as_module(imputer)
    np.testing.assert_allclose(answers(view, X), expected)
    x = torch.tensor(X, requires_grad=True)
    (gradient,) = torch.autograd.grad(view(x).sum(), x)
    np.testing.assert_array_equal(gradient.numpy(), ~np.isnan(X))


@pytest.mark.parametrize("norm", ["l1", "l2", "max"])
def test_normalizer_of_nothing(norm):
    X = np.array([[0.0, 0.0], [3e-17, 4e-17], [3.0, -4.0]])
    view = as_module(Normalizer(norm))
    np.testing.assert_allclose(answers(view, X), Normalizer(norm).transform(X))
    x = torch.tensor(X, requires_grad=True)
    (gradient,) = torch.autograd.grad(view(x).sum(), x)
    assert torch.isfinite(gradient).all()


def test_svc_fitted_on_sparse_rows():
    X, y = make_rows()
    model = SVC().fit(sparse.csr_matrix(X), y)
    expected = model.decision_function(sparse.csr_matrix(X))
    np.testing.assert_allclose(answers(as_module(model), X), expected, rtol=1e-6)


@pytest.mark.filterwarnings("ignore:The `probability` parameter:FutureWarning")
@pytest.mark.parametrize("n_classes", [2, 3])
def test_svc_with_probabilities_follows_its_decisions(n_classes):
    X, y = make_rows(n_classes)
    model = SVC(probability=True, random_state=0).fit(X, y)
    scores = answers(as_module(model), X)
    decision = model.decision_function(X)
    found = scores[:, 1] - scores[:, 0] if n_classes == 2 else scores
    np.testing.assert_allclose(found, decision, rtol=1e-6)
    voting = VotingClassifier([("svc", model)], voting="soft")
    assert missing_view(voting) is model


@pytest.mark.parametrize("known", [[0, 2], [0, 2, 3]])
def test_calibration_of_a_member_that_never_saw_a_class(known):
    X, y = make_rows(4)
    model = CalibratedClassifierCV(GaussianNB(), cv=2).fit(X, y)
    part = model.calibrated_classifiers_[0]
    rows = np.isin(y, known)
    part.estimator = GaussianNB().fit(X[rows], y[rows])
    part.calibrators = part.calibrators[: len(known) if len(known) > 2 else 1]
    model.calibrated_classifiers_ = [part]
    proba = softmax(answers(as_module(model), X), axis=1)
    np.testing.assert_allclose(proba, model.predict_proba(X), atol=1e-9)


def refused(estimator, match):
    assert not has_view(estimator)
    with pytest.raises(NoViewError, match=match):
        as_module(estimator)


def test_reasons():
    X, y = make_rows()
    two = np.c_[y == 0, y == 1].astype(int)
    refused(FunctionTransformer(np.log1p), "func=None")
    refused(SVC(kernel=lambda a, b: a @ b.T), "kernels 'linear', 'poly'")
    refused(SVC(kernel="precomputed"), "only the kernels")
    refused(SimpleImputer(missing_values=None), "stand for missing numbers")
    refused(
        SimpleImputer(strategy="most_frequent").fit(np.array([["a"], ["a"]], object)),
        "stand for missing numbers",
    )
    refused(CalibratedClassifierCV(method="isotonic"), "isotonic .* staircase")
    refused(RidgeClassifier().fit(X, two), "several labels a row")
    refused(
        StackingClassifier([("a", GaussianNB())], stack_method="predict"),
        "stack_method 'predict'",
    )
    refused(
        make_pipeline(LinearDiscriminantAnalysis(solver="lsqr"), GaussianNB()),
        "'lsqr' does not transform",
    )
    refused(
        VotingClassifier([("a", SGDClassifier(loss="modified_huber"))], voting="soft"),
        r"SGDClassifier \(the member 'a' of VotingClassifier\).*modified_huber",
    )
    refused(
        CalibratedClassifierCV(DecisionTreeClassifier()),
        r"the estimator of CalibratedClassifierCV\)",
    )
    refused(
        StackingClassifier([("a", GaussianNB())], DecisionTreeClassifier()),
        r"the final estimator of StackingClassifier",
    )
    refused(
        StackingClassifier([("t", DecisionTreeClassifier())]),
        r"the member 't' of StackingClassifier",
    )
    refused(RFE(DecisionTreeClassifier()), "the estimator of RFE")
    refused(
        FeatureUnion([("hot", OneHotEncoder())]), "the branch 'hot' of FeatureUnion"
    )


@pytest.mark.parametrize("fit", [False, True])
def test_the_error_names_the_branch(fit):
    frame = pd.DataFrame({"age": [1.0, 2, 3, 4], "job": list("abab")})
    columns = ColumnTransformer(
        [("num", StandardScaler(), ["age"]), ("jobs", OneHotEncoder(), ["job"])]
    )
    model = make_pipeline(columns, LogisticRegression())
    if fit:
        model.fit(frame, [0, 1, 1, 0])
    refused(model, r"^OneHotEncoder \(the branch 'jobs' of ColumnTransformer\) has no")
    assert type(missing_view(model)) is OneHotEncoder
    columns.set_params(jobs="drop")
    assert has_view(columns) == (not fit)


def test_a_classifier_is_no_step_before_the_last():
    X, y = make_rows()
    votes = VotingClassifier([("a", GaussianNB())], voting="soft")
    model = make_pipeline(votes, LogisticRegression()).fit(X, y)
    refused(model, "^VotingClassifier")
    assert has_view(votes)
    assert has_view(make_pipeline(RFE(DecisionTreeClassifier()), GaussianNB()))


def test_a_selector_may_choose_by_anything():
    X, y = make_rows()
    model = make_pipeline(RFE(DecisionTreeClassifier(), step=2), GaussianNB()).fit(X, y)
    scores = answers(as_module(model), X)
    np.testing.assert_array_equal(scores.argmax(axis=1), model.predict(X))


class OwnView(BaseEstimator):
    """Says itself that it has no view."""

    def _missing_view(self):
        return self


class Around(BaseEstimator):
    """Says which part of it has none."""

    def __init__(self, model):
        self.model = model

    def _missing_view(self):
        return missing_view(self.model)


def test_parts_of_estimators_that_speak_for_themselves():
    refused(OwnView(), "^OwnView has no differentiable view")
    refused(
        Around(CalibratedClassifierCV(method="isotonic")),
        "^CalibratedClassifierCV has no .*: isotonic",
    )


@pytest.mark.parametrize(
    "estimator",
    [
        ColumnTransformer([("a", StandardScaler(), [0])], remainder="passthrough"),
        FeatureUnion([("a", StandardScaler())]),
        SelectKBest(),
        SVC(),
        CalibratedClassifierCV(),
        VotingClassifier([("a", LinearSVC())]),
        StackingClassifier([("a", LinearSVC())]),
        RFE(LinearSVC()),
    ],
)
def test_not_fitted(estimator):
    assert has_view(FrozenEstimator(estimator))
    with pytest.raises(NotFittedError, match="not fitted yet"):
        as_module(estimator)


def test_hard_votes_have_the_gradient_of_soft_ones():
    X, y = make_rows()
    members = [("a", LogisticRegression()), ("b", GaussianNB())]
    model = VotingClassifier(members, weights=[2, 1]).fit(X, y)
    x = torch.tensor(X, requires_grad=True)
    scores = as_module(model)(x)
    assert set(scores.detach().unique().tolist()) <= {0.0, 1.0, 2.0, 3.0}
    a, b = (evened(build(member)(x)).softmax(dim=1) for member in model.estimators_)
    (expected,) = torch.autograd.grad((2 * a + b)[:, 0].sum(), x)
    (gradient,) = torch.autograd.grad(scores[:, 0].sum(), x)
    torch.testing.assert_close(gradient, expected)


LIGHT = """
import pickle
import sys
from sk_advdef._torch._registry import has_view
models = pickle.loads(sys.stdin.buffer.read())
assert all(map(has_view, models))
assert not {"torch", "skorch"} & set(sys.modules)
"""


def test_has_view_of_what_is_fitted_loads_no_torch():
    X, y = make_rows()
    columns = ColumnTransformer([("a", StandardScaler(), [0])], remainder="passthrough")
    members = [("a", GaussianNB()), ("b", LinearSVC())]
    models = [
        make_pipeline(columns, FeatureUnion([("a", SelectKBest(k=1))]), SVC()),
        StackingClassifier(members, cv=2),
        VotingClassifier(members),
        CalibratedClassifierCV(cv=2),
    ]
    done = subprocess.run(
        [sys.executable, "-c", LIGHT],
        input=pickle.dumps([model.fit(X, y) for model in models]),
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()


def big_scores():
    """Rows of large values, and members whose scores are as large."""
    X, y = make_rows(4)
    members = [(str(i), SGDClassifier(loss="log_loss", random_state=i)) for i in (0, 1)]
    return 1000 * X, y, members


def slopes(view, X):
    """Share of rows whose margin has a slope, by each way back."""
    shares = []
    for progress in (None, 0.0):
        with annealed(view):
            anneal(view, progress)
            x = torch.tensor(X, requires_grad=True)
            first, second = view(x).topk(2, dim=1).values.T
            (gradient,) = torch.autograd.grad((first - second).sum(), x)
        shares.append(float((gradient.abs() > 1e-12).any(dim=1).double().mean()))
    return shares


@pytest.mark.parametrize("kind", ["hard", "soft", "stack", "one"])
def test_members_that_are_all_too_sure_leave_a_way_back(kind):
    """A gradient that vanishes hides nothing from who knows the model."""
    X, y, members = big_scores()
    model = {
        "hard": VotingClassifier(members, voting="hard"),
        "soft": VotingClassifier(members, voting="soft"),
        "stack": StackingClassifier(members, LogisticRegression(), cv=2),
        "one": members[0][1],
    }[kind].fit(X, y)
    view = build(model)
    assert max(slopes(view, X)) == 1.0
    with annealed(view):
        anneal(view, 0.0)
        found = view(torch.tensor(X))
    torch.testing.assert_close(found, view(torch.tensor(X)))


def test_the_largest_value_seen_has_a_slope():
    scaler = MinMaxScaler(clip=True).fit(np.array([[0.0], [255.0]], np.float32))
    x = torch.tensor([[255.0], [300.0]], requires_grad=True)
    out = build(scaler, "transform")(x)
    (slope,) = torch.autograd.grad(out.sum(), x)
    assert (slope > 0).all() and out.max() <= 1


def test_a_model_that_was_made_sparse():
    X, y = make_rows(3)
    model = SGDClassifier(random_state=0).fit(X, y)
    wanted = build(model)(torch.tensor(X))
    torch.testing.assert_close(build(model.sparsify())(torch.tensor(X)), wanted)


def test_distances_far_from_the_origin():
    X, y = make_rows(3)
    model = SVC().fit(X + 1e8, y)
    found = build(model)(torch.tensor(X + 1e8)).argmax(dim=1).numpy()
    np.testing.assert_array_equal(model.classes_[found], model.predict(X + 1e8))
