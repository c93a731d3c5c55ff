"""Distillation against the same done by hand, and what it is worth."""

import pickle
import re
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from scipy.sparse import coo_matrix
from scipy.special import log_softmax, softmax
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_digits
from sklearn.discriminant_analysis import (
    LinearDiscriminantAnalysis,
    QuadraticDiscriminantAnalysis,
)
from sklearn.ensemble import (
    BaggingClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
    StackingClassifier,
)
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import (
    FixedThresholdClassifier,
    GridSearchCV,
    KFold,
    train_test_split,
)
from sklearn.multiclass import OneVsRestClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier
from skorch import NeuralNetBinaryClassifier
from skorch.callbacks import EarlyStopping, EpochScoring, LRScheduler
from skorch.dataset import ValidSplit
from torch import nn

from sk_advdef import (
    PGD,
    DistilledClassifier,
    RandomSearch,
    as_module,
    robust_accuracy_score,
)
from sk_advdef._torch._net import NetClassifier
from sk_advdef._torch._random import seeded
from sk_advdef._validation import seed_from
from sk_advdef.nets import DropoutMLP
from sk_advdef.training._class_weights import brought, weights_asked_for
from sk_advdef.training._distilled import COPIES, draw_labels, log_proba, soften
from tests._instances import make_rows, small_net
from tests._torch._cases import (
    FirstOutput,
    OneLogit,
    Probabilities,
    WithExtras,
    half_softmax,
    make_net,
)

X, y = make_rows(n_samples=90)
codes = np.unique(y, return_inverse=True)[1]
rows = torch.tensor(X, dtype=torch.float32)


def trained_by_hand(seed, targets, temperature, epochs=3):
    """Train without skorch: batches of 32 in order, plain SGD."""
    with seeded(seed_from(seed)):
        module = DropoutMLP(3, hidden=(16,), dropout=0.0)
        module(rows[:2])
        optimizer = torch.optim.SGD(module.parameters(), lr=0.5)
        for _ in range(epochs):
            for x, t in zip(rows.split(32), targets.split(32), strict=True):
                loss = nn.functional.cross_entropy(module(x) / temperature, t)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    return module(rows).detach()


@pytest.mark.parametrize("temperature", [1, 5.0])
def test_nets_equal_a_loop_by_hand(temperature):
    net = small_net(
        module__n_classes=3,
        module__dropout=0.0,
        optimizer=torch.optim.SGD,
        lr=0.5,
        max_epochs=3,
        iterator_train__shuffle=False,
    )
    given = pickle.dumps(net)
    model = DistilledClassifier(net, temperature=temperature, random_state=0).fit(X, y)
    assert pickle.dumps(net) == given and model.estimator is net
    seed = seed_from(0)
    teacher = trained_by_hand(seed, torch.tensor(codes), temperature)
    np.testing.assert_allclose(model.teacher_.scores(X), teacher, rtol=1e-4, atol=1e-5)
    soft = (teacher / temperature).softmax(dim=1)
    student = trained_by_hand(seed + 1, soft, temperature)
    np.testing.assert_allclose(
        model.estimator_.scores(X), student, rtol=1e-4, atol=1e-5
    )
    # used at temperature 1
    expected = student.double().softmax(dim=1)
    np.testing.assert_allclose(model.predict_proba(X), expected, rtol=1e-3, atol=1e-6)


STILL = {"optimizer": torch.optim.SGD, "lr": 0.0, "batch_size": -1, "max_epochs": 1}
KINDS = {
    "logits": make_net(module__dropout=0.0, **STILL),
    "probabilities": make_net(Probabilities, criterion=nn.NLLLoss, **STILL),
    "nonlinearity": make_net(
        module__dropout=0.0, predict_nonlinearity=half_softmax, **STILL
    ),
    "one logit": make_net(OneLogit, NeuralNetBinaryClassifier, **STILL),
    "more outputs": make_net(module__n_classes=5, module__dropout=0.0, **STILL),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_of_every_kind_of_net(kind):
    labels = codes % 2 if kind == "one logit" else codes
    model = DistilledClassifier(KINDS[kind], temperature=4, random_state=0)
    model.fit(X, labels)
    soft = softmax(model.teacher_.scores(X) / 4, axis=1)
    hard = np.eye(soft.shape[1])[labels]
    for part, target in ((model.teacher_, hard), (model.estimator_, soft)):
        scores = part.scores(X)
        if kind == "more outputs":  # in training, spare ones compete
            scores = part.net_.module_(rows).detach().numpy()
            target = np.pad(target, ((0, 0), (0, 2)))
        expected = -(target * log_softmax(scores / 4, axis=1)).sum(1).mean()
        assert part.net_.history[-1, "train_loss"] == pytest.approx(expected, rel=1e-4)


def test_a_module_that_returns_more_than_scores():
    net = make_net(
        WithExtras, FirstOutput, criterion=nn.CrossEntropyLoss, max_epochs=60
    )
    model = DistilledClassifier(net, temperature=2, random_state=0).fit(X, codes)
    assert model.score(X, codes) > 0.6


def softened(proba, temperature):
    powered = proba ** (1 / temperature)
    return powered / powered.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("temperature", [1, 7.0])
@pytest.mark.parametrize("scaled", [False, True])
def test_weighted_rows(temperature, scaled):
    student = LogisticRegression(max_iter=1000, tol=1e-8)
    steps = (StandardScaler(), student) if scaled else (student,)
    model = DistilledClassifier(make_pipeline(*steps), temperature=temperature)
    model.fit(X, y)
    Z = StandardScaler().fit_transform(X) if scaled else X
    soft = softened(student.fit(Z, y).predict_proba(Z), temperature)
    weights, labels = soft.ravel(), np.tile(student.classes_, len(X))
    student.fit(np.repeat(Z, 3, axis=0), labels, sample_weight=weights)
    expected = softened(student.predict_proba(Z), 1 / temperature)
    np.testing.assert_allclose(model.predict_proba(X), expected, rtol=1e-2, atol=1e-5)
    view = as_module(model)(torch.tensor(X)).softmax(dim=1)
    np.testing.assert_allclose(view, model.predict_proba(X), atol=1e-5)
    np.testing.assert_array_equal(
        model.predict(X), model.classes_[model.predict_proba(X).argmax(1)]
    )


def test_zero_stays_zero():
    forest = RandomForestClassifier(5, max_depth=2, random_state=0).fit(X, y)
    proba = forest.predict_proba(X)
    assert (proba == 0).any()
    for temperature in (1, 100, 1e4):
        soft = soften(log_proba(forest, X), temperature)
        np.testing.assert_allclose(soft, np.where(proba > 0, soft, 0), atol=1e-12)
        expected = np.where(proba > 0, proba, 0) ** (1 / temperature)
        expected[proba == 0] = 0
        expected /= expected.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(soft, expected, rtol=1e-9)


def test_drawn_labels():
    rng = np.random.default_rng(0)
    soft = rng.dirichlet(np.ones(4), size=50)
    soft[0] = [0, 1, 0, 0]
    total = np.zeros(soft.shape)
    for _ in range(400):
        rows_of, drawn = draw_labels(soft, np.full(50, 10), rng)
        assert rows_of.tolist() == np.repeat(np.arange(50), 10).tolist()
        drawn = drawn.reshape(50, 10)
        counts = (drawn[:, :, None] == np.arange(4)).sum(axis=1)
        assert (counts >= np.floor(soft * 10 - 1e-9)).all()
        assert (counts <= np.ceil(soft * 10 + 1e-9)).all()
        total += counts
    np.testing.assert_allclose(total / 4000, soft, atol=0.02)


@pytest.mark.parametrize("pipe", [False, True])
def test_a_student_without_weights(pipe):
    knn = KNeighborsClassifier(25)
    student = make_pipeline(StandardScaler(), knn) if pipe else knn
    fit = [
        DistilledClassifier(student, temperature=2, random_state=s).fit(X, y)
        for s in (0, 0, 1)
    ]
    last = fit[0].estimator_[-1] if pipe else fit[0].estimator_
    assert last.n_samples_fit_ == COPIES * len(X)
    assert fit[0].score(X, y) > 0.9
    a, b, c = (model.estimator_.predict_proba(X) for model in fit)
    np.testing.assert_array_equal(a, b)
    assert (a != c).any()


def test_a_row_is_one_neighbourhood_and_one_side_of_a_split():
    """Copies of a row stay together where a student splits its rows."""
    seen = []

    class Splitting(KNeighborsClassifier):
        def fit(self, X, y):
            for learned, held in KFold(3).split(X):
                seen.append(set(map(tuple, X[learned])) & set(map(tuple, X[held])))
            return super().fit(X, y)

    DistilledClassifier(Splitting(COPIES), temperature=2).fit(X, y)
    assert len(seen) == 6 and not any(seen)  # the teacher splits too


@pytest.mark.parametrize("pipe", [False, True])
@pytest.mark.parametrize(
    "student",
    [
        DecisionTreeClassifier(max_depth=3, class_weight="balanced", random_state=0),
        DecisionTreeClassifier(min_samples_leaf=15, random_state=0),
        LogisticRegression(class_weight="balanced", tol=1e-8),
        RandomForestClassifier(5, max_depth=2, class_weight="balanced", random_state=0),
        KNeighborsClassifier(COPIES),
    ],
)
def test_true_labels_are_learned_as_ever(student, pipe):
    """At alpha 0 and temperature 1 a student learns what it would by itself."""
    rare = np.r_[np.flatnonzero(codes == 0)[:8], np.flatnonzero(codes > 0)]
    rows, labels = X[rare] + 0.5 * X[rare[::-1]], y[rare]
    alone = make_pipeline(StandardScaler(), student) if pipe else student
    model = DistilledClassifier(alone, temperature=1, alpha=0, random_state=0)
    expected = clone(alone)
    if isinstance(student, KNeighborsClassifier):
        expected.set_params(**{"kneighborsclassifier__" * pipe + "n_neighbors": 1})
    expected = expected.fit(rows, labels).predict(rows)
    np.testing.assert_array_equal(model.fit(rows, labels).predict(rows), expected)
    assert model.estimator.get_params() == alone.get_params()


@pytest.mark.parametrize(
    "inner", [KNeighborsClassifier(), make_pipeline(StandardScaler(), GaussianNB())]
)
def test_calibrated_students(inner):
    """Calibration takes weights also where what it calibrates does not."""
    student = CalibratedClassifierCV(inner, cv=3)
    model = DistilledClassifier(student, teacher=GaussianNB(), random_state=0)
    assert model.fit(X, y).score(X, y) > 0.8 > np.bincount(codes).max() / len(X) + 0.3


@pytest.mark.parametrize("student", [GaussianNB(), KNeighborsClassifier(COPIES)])
def test_a_class_of_which_the_teacher_says_nothing(student):
    teacher = DecisionTreeClassifier(random_state=0)
    far = np.append(X, [X.max(axis=0) + 50], axis=0)
    teacher.fit(far, np.append(y, "yam"))
    labels = y.copy()
    labels[3] = "yam"
    model = DistilledClassifier(student, teacher=FrozenEstimator(teacher))
    model.fit(X, labels)
    assert model.classes_.tolist() == np.unique(labels).tolist()
    assert model.predict_proba(X).shape == (len(X), len(model.classes_))
    assert (model.predict(X) == y).mean() > 0.9


def unbalanced():
    rng = np.random.default_rng(0)
    labels = np.where(rng.random(600) < 0.2, "rare", "usual")
    rows = rng.normal(size=(600, 4)) + np.where(labels == "rare", 0.6, 0.0)[:, None]
    return rows, labels


@pytest.mark.parametrize("temperature", [1, 5, 20])
@pytest.mark.parametrize("own", [True, False])
def test_balance_is_counted_once_at_any_temperature(own, temperature):
    """Weights are sharpened with the answers, and the teacher may have them already."""
    rows, labels = unbalanced()
    student = LogisticRegression(class_weight="balanced", tol=1e-8)
    expected = clone(student).fit(rows, labels).predict(rows)
    assert 0.35 < (expected == "rare").mean() < 0.6
    teacher = None if own else LogisticRegression(tol=1e-8)
    model = DistilledClassifier(student, teacher=teacher, temperature=temperature)
    told = model.fit(rows, labels).predict(rows)
    assert (told == expected).mean() > 0.93
    assert model.estimator_.class_weight == "balanced"


HEAVY = {"rare": 4, "usual": 1}
CODED = {0: 4, 1: 1}
EVEN = [0.5, 0.5]


@pytest.mark.parametrize("temperature", [1, 5])
@pytest.mark.parametrize(
    "student",
    [
        LogisticRegression(class_weight=HEAVY, tol=1e-8),
        make_pipeline(StandardScaler(), LogisticRegression(class_weight=HEAVY)),
        GaussianNB(priors=EVEN),
        LinearDiscriminantAnalysis(priors=EVEN),
        BaggingClassifier(LogisticRegression(class_weight=CODED), random_state=0),
        GridSearchCV(LogisticRegression(class_weight="balanced"), {"C": [1.0]}, cv=2),
    ],
    ids=lambda model: type(model).__name__,
)
def test_classes_are_weighed_once(student, temperature):
    """Weights and priors, of the model or within it, are in the teacher's answers."""
    rows, labels = unbalanced()
    expected = clone(student).fit(rows, labels).predict(rows)
    model = DistilledClassifier(student, temperature=temperature, random_state=0)
    told = model.fit(rows, labels).predict(rows)
    assert (told == expected).mean() > 0.88
    assert abs((told == "rare").mean() - (expected == "rare").mean()) < 0.12
    assert str(brought(model.estimator_)) == str(brought(student))


@pytest.mark.parametrize("temperature", [1, 5])
@pytest.mark.parametrize(
    "student",
    [
        LogisticRegression(class_weight=HEAVY, tol=1e-8),
        GaussianNB(priors=[0.6, 0.4]),
        LinearDiscriminantAnalysis(priors=EVEN),
        BaggingClassifier(LogisticRegression(class_weight=CODED), random_state=0),
    ],
    ids=lambda model: type(model).__name__,
)
def test_classes_are_weighed_where_the_teacher_does_not(student, temperature):
    rows, labels = unbalanced()
    expected = clone(student).fit(rows, labels).predict(rows)
    teacher = LogisticRegression(tol=1e-8)
    plain = (teacher.fit(rows, labels).predict(rows) == "rare").mean()
    model = DistilledClassifier(student, teacher=teacher, temperature=temperature)
    told = model.fit(rows, labels).predict(rows)
    assert (told == expected).mean() > 0.88
    assert (told == "rare").mean() > plain + 0.1


@pytest.mark.parametrize(
    "student",
    [
        LinearDiscriminantAnalysis(priors=EVEN),
        QuadraticDiscriminantAnalysis(priors=EVEN),
        OneVsRestClassifier(LogisticRegression(class_weight="balanced")),
        CalibratedClassifierCV(LogisticRegression(class_weight="balanced"), cv=3),
        StackingClassifier(
            [("a", LogisticRegression(class_weight="balanced"))],
            final_estimator=LogisticRegression(),
            cv=3,
        ),
    ],
    ids=lambda model: type(model).__name__,
)
def test_true_labels_are_weighed_as_ever(student):
    """Also where no row can have a weight, or weights do not reach the answers."""
    rows, labels = unbalanced()
    expected = (clone(student).fit(rows, labels).predict(rows) == "rare").mean()
    model = DistilledClassifier(student, temperature=1, alpha=0, random_state=0)
    told = (model.fit(rows, labels).predict(rows) == "rare").mean()
    assert abs(told - expected) < 0.05


@pytest.mark.parametrize(
    "student",
    [
        LogisticRegression(class_weight={0: 90, 1: 4, 2: 1}),
        LogisticRegression(class_weight={1: 4, 2: 1, 3: 90}),
        BaggingClassifier(LogisticRegression(class_weight=CODED), random_state=0),
    ],
)
def test_dicts_of_weights_may_name_other_classes(student):
    """As in a fold that lacks a class; ensembles know classes by their position."""
    rows, labels = unbalanced()
    ints = np.where(labels == "rare", 1, 2)
    weights = weights_asked_for(student, ints)
    np.testing.assert_allclose(weights / weights[1], [4, 1])
    expected = (clone(student).fit(rows, ints).predict(rows) == 1).mean()
    model = DistilledClassifier(student, temperature=1, alpha=0.5, random_state=0)
    assert abs((model.fit(rows, ints).predict(rows) == 1).mean() - expected) < 0.08


def test_each_teacher_is_weighed_by_itself():
    rows, labels = unbalanced()
    student = LogisticRegression(class_weight="balanced", tol=1e-8)
    plain = LogisticRegression(tol=1e-8)
    even = LogisticRegression(class_weight={"rare": 1, "usual": 1}, tol=1e-8)
    expected = (clone(student).fit(rows, labels).predict(rows) == "rare").mean()
    for teacher in ([plain, plain], [student, plain], even):
        model = DistilledClassifier(student, teacher=teacher, temperature=5)
        told = (model.fit(rows, labels).predict(rows) == "rare").mean()
        assert abs(told - expected) < 0.06


def test_a_criterion_may_weigh_more_outputs_than_there_are_classes():
    rows, labels = unbalanced()
    net = small_net(criterion__weight=torch.tensor([4.0, 1, 1, 1, 1]), max_epochs=3)
    assert DistilledClassifier(net, temperature=2).fit(rows, labels).saturated_ < 1


def test_a_model_saved_before_its_temperature_was_kept():
    model = DistilledClassifier(GaussianNB(), temperature=2).fit(X, y)
    expected = model.predict_proba(X)
    del model.temperature_
    np.testing.assert_array_equal(model.predict_proba(X), expected)


@pytest.mark.parametrize("temperature", [1, 5])
def test_weights_of_a_criterion_count_once(temperature):
    rows, labels = unbalanced()
    weight = torch.tensor([4.0, 1.0])
    net = small_net(module__n_classes=2, max_epochs=20, criterion__weight=weight)
    plain = clone(net).set_params(criterion__weight=None)
    alone = NetClassifier(net, random_state=0).fit(rows, labels).predict(rows)
    for student, teacher in ((net, None), (plain, net), (net, plain)):
        model = DistilledClassifier(
            student, teacher=teacher, temperature=temperature, random_state=0
        )
        told = model.fit(rows, labels).predict(rows)
        assert abs((told == "rare").mean() - (alone == "rare").mean()) < 0.12
    assert net.get_params()["criterion__weight"] is weight


@pytest.mark.parametrize(
    ("module", "criterion", "weight"),
    [
        (Probabilities, nn.NLLLoss, {"criterion__weight": [9.0, 1, 1]}),
        (OneLogit, nn.BCEWithLogitsLoss, {"criterion__pos_weight": [9.0]}),
        (nn.LazyLinear, nn.CrossEntropyLoss, {"criterion__weight": [9.0, 1, 1]}),
    ],
)
def test_weights_of_criteria_on_probabilities(module, criterion, weight):
    """At temperature 1 the teacher is trained as the net is by itself."""
    labels = codes > 1 if module is OneLogit else codes
    weight = {name: torch.tensor(value) for name, value in weight.items()}
    net = make_net(module, criterion=criterion, lr=0.01)
    if module is nn.LazyLinear:
        net.set_params(module__out_features=3)
        net.set_params(predict_nonlinearity=partial(torch.softmax, dim=-1))
    found = []
    for one in (net, clone(net).set_params(**weight)):
        alone = NetClassifier(one, random_state=seed_from(0)).fit(X, labels)
        model = DistilledClassifier(one, temperature=1, random_state=0).fit(X, labels)
        expected = alone.predict_proba(X)
        found.append(model.teacher_.predict_proba(X))
        np.testing.assert_allclose(found[-1], expected, atol=1e-4)
    assert np.abs(found[0] - found[1]).max() > 0.05


def test_support_vector_machines_with_probabilities():
    """What turns their scores into probabilities takes no soft labels."""
    machine = SVC(probability=True, random_state=0)
    for student in (machine, make_pipeline(StandardScaler(), machine)):
        with pytest.raises(ValueError, match="CalibratedClassifierCV"):
            DistilledClassifier(student).fit(X, y)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of ``probability``
        student = CalibratedClassifierCV(machine, cv=3)
        around = DistilledClassifier(student, random_state=0)
        assert around.fit(X, y).score(X, y) > 0.8


@pytest.mark.parametrize(
    "student",
    [
        CalibratedClassifierCV(SVC(), cv=3),
        CalibratedClassifierCV(KNeighborsClassifier(COPIES), cv=3),
        StackingClassifier(
            [("a", LogisticRegression(max_iter=500)), ("b", GaussianNB())],
            final_estimator=LogisticRegression(),
            cv=3,
        ),
    ],
    ids=lambda model: type(model).__name__,
)
def test_rows_may_come_class_by_class(student):
    """Students that split rows cannot stratify by soft labels."""
    order = np.argsort(codes, kind="stable")
    model = DistilledClassifier(student, temperature=3, random_state=0)
    assert model.fit(X[order], y[order]).score(X, y) > 0.85


def test_a_threshold_belongs_around():
    student = FixedThresholdClassifier(LogisticRegression(), threshold=0.2)
    for within in (student, make_pipeline(StandardScaler(), student)):
        with pytest.raises(ValueError, match="Put FixedThresholdClassifier around"):
            DistilledClassifier(within).fit(X, codes > 0)
    around = student.set_params(estimator=DistilledClassifier(LogisticRegression()))
    assert around.fit(X, codes > 0).score(X, codes > 0) > 0.6


def test_a_temperature_set_later_changes_no_answer():
    model = DistilledClassifier(GaussianNB(), temperature=5).fit(X, y)
    before = model.predict_proba(X)
    np.testing.assert_array_equal(
        model.set_params(temperature=1).predict_proba(X), before
    )
    assert model.temperature_ == 5


def test_balanced_boosting_of_words():
    rows, labels = unbalanced()
    boosting = HistGradientBoostingClassifier(max_iter=5, class_weight="balanced")
    model = DistilledClassifier(boosting, temperature=2, random_state=0)
    share = (model.fit(rows, labels).predict(rows) == "rare").mean()
    assert 0.2 < share < 0.7


@pytest.mark.parametrize("kind", ["coo", "tuple"])
def test_pipelines_of_odd_steps(kind):
    first = FunctionTransformer(coo_matrix if kind == "coo" else None)
    steps = [("first", first), ("last", LogisticRegression(max_iter=500))]
    pipe = Pipeline(tuple(steps) if kind == "tuple" else steps)
    model = DistilledClassifier(pipe, temperature=2).fit(X, y)
    assert model.score(X, y) > 0.8


def test_teachers():
    forest = RandomForestClassifier(20, max_depth=3, random_state=0)
    model = DistilledClassifier(small_net(), teacher=forest, temperature=2)
    model.fit(X, y)
    assert model.teacher_ is not forest and not hasattr(forest, "classes_")
    assert model.teacher_.score(X, y) > 0.8 and model.score(X, y) > 0.8
    frozen = FrozenEstimator(forest.fit(X, y))
    model = DistilledClassifier(
        LogisticRegression(max_iter=1000), teacher=frozen, temperature=3
    ).fit(X, y)
    assert model.teacher_ is frozen
    # a net teaches a linear model, through its logits
    taught = DistilledClassifier(
        LogisticRegression(max_iter=1000),
        temperature=2,
        teacher=small_net(),
        random_state=0,
    ).fit(X, y)
    assert isinstance(taught.teacher_, NetClassifier)
    assert taught.score(X, y) > 0.8


def test_a_teacher_of_other_classes():
    more_X = np.vstack([X, X[:20] + 30])
    more_y = np.append(y, ["aaa"] * 20)
    teacher = FrozenEstimator(LogisticRegression(max_iter=1000).fit(more_X, more_y))
    model = DistilledClassifier(
        LogisticRegression(max_iter=1000), teacher=teacher, temperature=2
    ).fit(X, y)
    np.testing.assert_array_equal(model.classes_, np.unique(y))
    assert model.score(X, y) > 0.9
    few = FrozenEstimator(LogisticRegression().fit(X[y != "ham"], y[y != "ham"]))
    with pytest.raises(ValueError, match=r"\['ham'\], which the teacher does not know"):
        DistilledClassifier(LogisticRegression(), teacher=few).fit(X, y)
    # a skorch net knows classes by their number
    net = make_net(max_epochs=30).fit(X.astype(np.float32), codes)
    model = DistilledClassifier(small_net(), teacher=FrozenEstimator(net))
    assert model.fit(X, codes).score(X, codes) > 0.5


def test_callbacks_and_validation_go_on():
    net = small_net(
        max_epochs=12,
        train_split=ValidSplit(3, stratified=True),
        callbacks=[
            ("f1", EpochScoring("f1_macro", name="f1", lower_is_better=False)),
            ("lr", LRScheduler("StepLR", step_size=2, gamma=0.1)),
            ("stop", EarlyStopping("f1", patience=2, lower_is_better=False)),
        ],
    )
    model = DistilledClassifier(
        make_pipeline(StandardScaler(), net), temperature=3, random_state=0
    ).fit(X, y)
    for part in (model.teacher_, model.estimator_):
        history = part[-1].net_.history
        assert 1 < len(history) < 12
        assert {"valid_loss", "valid_acc", "f1"} <= set(history[-1])
        assert history[0, "event_lr"] == 0.02 > history[-1, "event_lr"]
    assert model.score(X, y) > 0.5


def test_who_has_not_learned_is_told():
    """Divided logits give plain SGD next to nothing to go by."""
    net = small_net(optimizer=torch.optim.SGD, lr=0.01, max_epochs=2)
    X, y = make_rows(n_samples=250)
    most = np.unique(y, return_counts=True)[1].max() / len(y)
    told = set()
    for seed in range(6):
        model = DistilledClassifier(net, temperature=50, random_state=seed)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model.fit(X, y)
        assert {c.filename for c in caught} <= {__file__}
        learned = model.score(X, y) > most
        of_student = [str(c.message) for c in caught if "student" in str(c.message)]
        assert len(of_student) == (not learned)
        told |= {*of_student}
    assert told
    expected = r"is right on \d.*most frequent .* \d.*temperature=50 .*Adam"
    assert all(re.search(expected, message) for message in told)


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    X = (X / 16).astype(np.float32)
    return train_test_split(X, y, train_size=1200, test_size=200, random_state=0)


def test_no_false_comfort(digits):
    """Distillation looks good to cross-entropy, and to no one who knows it."""
    X_fit, X_test, y_fit, y_test = digits
    net = small_net(
        module__n_classes=10,
        module__hidden=(64,),
        module__dropout=0.2,
        lr=0.01,
        max_epochs=60,
    )
    plain = NetClassifier(net, random_state=0).fit(X_fit, y_fit)
    model = DistilledClassifier(net, temperature=100, random_state=0)
    model.fit(X_fit, y_fit)
    gradient = PGD(0.15, random_state=0)
    knows = [
        gradient,
        PGD(0.15, loss="margin", steps=100, restarts=3, random_state=0),
        RandomSearch(0.15, max_queries=100, random_state=0),
    ]

    def under(of, attack):
        return robust_accuracy_score(of, X_test, y_test, attack=attack)

    assert min(plain.score(X_test, y_test), model.score(X_test, y_test)) > 0.93
    worst = under(plain, knows)
    assert worst < 0.3
    assert under(model, gradient) > worst + 0.3
    assert under(model, knows) <= worst + 0.05
