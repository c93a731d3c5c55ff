"""Several teachers, true labels among the soft ones, and what is remembered."""

import numpy as np
import pytest
from scipy.special import softmax
from sklearn import config_context
from sklearn.base import clone
from sklearn.ensemble import RandomForestClassifier, VotingClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeClassifier
from torch.optim import SGD

from sk_advdef import DistilledClassifier
from sk_advdef._torch._net import NetClassifier
from sk_advdef.training import _distilled
from tests._instances import make_rows, small_net
from tests._torch._cases import make_net

X, y = make_rows(n_samples=90)
classes = np.unique(y)
T = 3.0


def linear(**params):
    return LogisticRegression(max_iter=1000, tol=1e-8, **params)


def softened(proba):
    powered = proba ** (1 / T)
    return powered / powered.sum(axis=1, keepdims=True)


def taught(soft):
    """Fit a linear student on soft labels by hand; its probabilities at T."""
    student = linear().fit(
        np.repeat(X, 3, axis=0),
        np.tile(classes, len(X)),
        sample_weight=soft.ravel(),
    )
    return student.predict_proba(X)


def assert_taught(model, soft):
    """Check a linear student against one that learned ``soft`` by hand."""
    found = model.estimator_.predict_proba(X)
    np.testing.assert_allclose(found, taught(soft), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("alpha", [0, 0.3, 1.0])
def test_alpha_mixes_true_and_soft_labels(alpha):
    model = DistilledClassifier(linear(), temperature=T, alpha=alpha).fit(X, y)
    soft = softened(linear().fit(X, y).predict_proba(X))
    true = (y[:, None] == classes).astype(float)
    assert_taught(model, alpha * soft + (1 - alpha) * true)
    if alpha == 0:  # the student is what the teacher is
        expected = model.teacher_.predict_proba(X)
        np.testing.assert_allclose(model.estimator_.predict_proba(X), expected, 1e-3)


def test_alpha_of_a_net():
    still = {"optimizer": SGD, "lr": 0.0, "batch_size": -1, "max_epochs": 1}
    net = make_net(module__dropout=0.0, **still)
    model = DistilledClassifier(net, temperature=T, alpha=0.25, random_state=0)
    model.fit(X, y)
    soft = softmax(model.teacher_.scores(X) / T, axis=1)
    target = 0.25 * soft + 0.75 * (y[:, None] == classes)
    proba = softmax(model.estimator_.scores(X) / T, axis=1)
    expected = -(target * np.log(proba)).sum(axis=1).mean()
    loss = model.estimator_.net_.history[-1, "train_loss"]
    assert loss == pytest.approx(expected, rel=1e-4)


def test_a_list_teaches_by_the_mean_of_softened_answers():
    nb, frozen = GaussianNB(), FrozenEstimator(KNeighborsClassifier(9).fit(X, y))
    model = DistilledClassifier(linear(), temperature=T, teacher=[nb, frozen])
    model.fit(X, y)
    assert model.teacher_[1] is frozen and not hasattr(nb, "classes_")
    proba = [m.predict_proba(X) for m in model.teacher_]
    assert_taught(model, (softened(proba[0]) + softened(proba[1])) / 2)


def test_a_list_of_nets():
    net = small_net(max_epochs=2)
    model = DistilledClassifier(
        linear(), temperature=T, teacher=[net, make_pipeline(StandardScaler(), net)]
    ).set_params(random_state=0)
    first, second = model.fit(X, y).teacher_
    assert isinstance(first, NetClassifier) and isinstance(second[-1], NetClassifier)
    scores = first.scores(X), second[-1].scores(second[0].transform(X))
    assert_taught(model, sum(softmax(s / T, axis=1) for s in scores) / 2)
    alone = DistilledClassifier(net, temperature=T, random_state=0).fit(X, y)
    np.testing.assert_array_equal(alone.teacher_.scores(X), scores[0])
    same = DistilledClassifier(net, temperature=T, teacher=[net, net], random_state=0)
    first, second = same.fit(X, y).teacher_  # nets of one kind differ by their seeds
    assert (first.scores(X) != second.scores(X)).any()


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("voting", ["hard", "soft"])
def test_a_vote_teaches_by_its_members_and_weights(frozen, voting):
    vote = VotingClassifier(
        [("nb", GaussianNB()), ("none", "drop"), ("linear", linear())],
        weights=[1, 5, 3],
        voting=voting,
    )
    teacher = FrozenEstimator(clone(vote).fit(X, y)) if frozen else vote
    model = DistilledClassifier(linear(), temperature=T, teacher=teacher).fit(X, y)
    if frozen:
        assert model.teacher_ is teacher
    else:
        assert [type(m) for m in model.teacher_] == [GaussianNB, LogisticRegression]
    nb, own = (m.fit(X, y).predict_proba(X) for m in (GaussianNB(), linear()))
    assert_taught(model, softened(nb) / 4 + softened(own) * 3 / 4)


def test_another_ensemble_is_one_teacher():
    forest = RandomForestClassifier(9, max_depth=2, random_state=0)
    model = DistilledClassifier(linear(), temperature=T, teacher=forest).fit(X, y)
    assert_taught(model, softened(forest.fit(X, y).predict_proba(X)))


@pytest.mark.parametrize(
    "params, error, match",
    [
        ({"alpha": 1.5}, ValueError, r"'alpha' parameter of .* in \[0, 1\]. Got 1.5"),
        ({"teacher": []}, ValueError, r"'teacher' parameter of .* not empty.*Got \[\]"),
        ({"teacher": [linear(), LinearSVC()]}, TypeError, "LinearSVC.* predict_proba"),
        (
            {"teacher": VotingClassifier([("svc", LinearSVC())])},
            TypeError,
            "LinearSVC.* has no predict_proba",
        ),
        ({"memory": 3}, ValueError, "'memory' parameter of .* must be a path"),
    ],
)
def test_bad_parameters(params, error, match):
    with pytest.raises(error, match=match):
        DistilledClassifier(linear(), **params).fit(X, y)


def test_a_frozen_vote_that_has_no_probabilities():
    vote = VotingClassifier([("svc", LinearSVC()), ("nb", GaussianNB())]).fit(X, y)
    with pytest.raises(TypeError, match=r"LinearSVC.* has no predict_proba"):
        DistilledClassifier(linear(), teacher=FrozenEstimator(vote)).fit(X, y)


def test_one_of_several_does_not_know_a_class():
    few = FrozenEstimator(linear().fit(X[y != "ham"], y[y != "ham"]))
    vote = VotingClassifier([("nb", GaussianNB())]).fit(X[y != "ham"], y[y != "ham"])
    for teacher in ([linear(), few], FrozenEstimator(vote)):
        with pytest.raises(ValueError, match=r"\['ham'\], which the teacher does not"):
            DistilledClassifier(linear(), teacher=teacher).fit(X, y)


@pytest.fixture
def fits(monkeypatch):
    """Return what every teacher that is fitted adds to."""
    calls, original = [], _distilled.fit_teacher

    def call(*args):
        calls.append(args[0])
        return original(*args)

    monkeypatch.setattr(_distilled, "fit_teacher", call)
    return calls


def test_a_search_over_student_and_alpha_fits_teachers_once_a_fold(fits, tmp_path):
    model = DistilledClassifier(
        linear(), temperature=T, teacher=small_net(max_epochs=2), random_state=0
    )
    grid = {"alpha": [0.2, 0.6, 1.0], "estimator__C": [0.1, 1.0]}
    search = GridSearchCV(
        clone(model).set_params(memory=str(tmp_path)), grid, cv=2, refit=False
    ).fit(X, y)
    assert len(fits) == 2
    plain = GridSearchCV(model, grid, cv=2, refit=False).fit(X, y)
    assert len(fits) == 2 + 12
    np.testing.assert_allclose(
        search.cv_results_["mean_test_score"], plain.cv_results_["mean_test_score"]
    )


def test_what_matters_to_teachers_is_fitted_anew(fits, tmp_path):
    def fitted(X=X, y=y, **params):
        given = {"teacher": small_net(max_epochs=1), "random_state": 0, **params}
        model = DistilledClassifier(
            linear(), temperature=T, memory=str(tmp_path)
        ).set_params(**given)
        return model.fit(X, y)

    first = fitted()
    assert [m.scores(X).shape for m in [first.teacher_, fitted().teacher_]]
    assert len(fits) == 1
    np.testing.assert_array_equal(
        first.predict_proba(X), fitted(alpha=1.0).predict_proba(X)
    )
    assert len(fits) == 1
    others = y.copy()
    others[0] = y[y != y[0]][0]
    for n, change in enumerate(
        [
            {"temperature": 5},  # at which the net is trained
            {"random_state": 1},
            {"teacher": small_net(max_epochs=2)},
            {"X": X + 1},
            {"y": others},
        ],
        start=2,
    ):
        fitted(**change)
        assert len(fits) == n, change
    fitted(teacher=GaussianNB())
    fitted(teacher=GaussianNB(), temperature=5)  # of no matter to it
    assert len(fits) == 7


def test_the_student_as_its_own_teacher_is_fitted_anew(fits, tmp_path):
    for c in (0.1, 1.0, 1.0):
        model = DistilledClassifier(linear(C=c), memory=str(tmp_path)).fit(X, y)
        assert c == model.teacher_.C
    assert len(fits) == 2


def test_frozen_teachers_count_by_their_weights(tmp_path):
    nets = [NetClassifier(small_net(max_epochs=n), random_state=0) for n in (1, 4)]
    nets = [FrozenEstimator(net.fit(X, y)) for net in nets]
    for net in (*nets, nets[0]):
        model = DistilledClassifier(
            linear(), temperature=T, teacher=[GaussianNB(), net]
        )
        plain = clone(model).fit(X, y)
        kept = clone(model).set_params(memory=str(tmp_path)).fit(X, y)
        assert kept.teacher_[1] is net
        np.testing.assert_allclose(kept.predict_proba(X), plain.predict_proba(X))


def test_one_seed_is_enough_for_teacher_and_student():
    forest = RandomForestClassifier(3, max_depth=3)
    first, again = (
        DistilledClassifier(forest, random_state=0).fit(X, y).predict_proba(X)
        for _ in range(2)
    )
    np.testing.assert_array_equal(first, again)


def test_a_pipeline_is_taught_with_metadata_routing():
    student = make_pipeline(StandardScaler(), LogisticRegression())
    wanted = DistilledClassifier(student, random_state=0).fit(X, y).predict_proba(X)
    with config_context(enable_metadata_routing=True):
        found = DistilledClassifier(student, random_state=0).fit(X, y).predict_proba(X)
    np.testing.assert_array_equal(found, wanted)


def test_history():
    net, frozen = small_net(max_epochs=3), FrozenEstimator(GaussianNB().fit(X, y))
    model = DistilledClassifier(net, temperature=T, random_state=0).fit(X, y)
    names = [entry["model"] for entry in model.history_]
    assert names == ["teacher"] * 3 + ["student"] * 3
    assert [e["epoch"] for e in model.history_] == [1, 2, 3] * 2
    assert all(e["train_loss"] > 0 and "batches" not in e for e in model.history_)
    model = DistilledClassifier(linear(), teacher=[net, frozen, linear()]).fit(X, y)
    names = [entry["model"] for entry in model.history_]
    assert names == ["teacher 0"] * 3 + ["teacher 2", "student"]
    for entry, fitted in zip(
        model.history_[-2:], (model.teacher_[2], model), strict=True
    ):
        assert entry["train_accuracy"] == fitted.score(X, y)


def test_saturation_is_told():
    mild = DistilledClassifier(linear(C=1e-3), temperature=1).fit(X, y)
    assert mild.saturated_ == 0 and mild.predict_proba(X).max() < 0.99
    tree = DistilledClassifier(DecisionTreeClassifier(random_state=0), temperature=1)
    assert tree.fit(X, y).saturated_ == 1
    # no logits: what the student answers at T is sharpened, and stays defined
    hot = DistilledClassifier(linear(C=1e5), temperature=50).fit(X, y)
    proba = hot.predict_proba(X)
    np.testing.assert_allclose(proba.sum(axis=1), 1)
    assert hot.saturated_ == (proba.max(axis=1).astype(np.float32) == 1).mean() > 0
    assert hot.estimator_.predict_proba(X).max() < 0.99
    np.testing.assert_array_equal(hot.predict(X), classes[proba.argmax(axis=1)])
