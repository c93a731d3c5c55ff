"""Everything at once: which attacks are run, on which rows, and what is made of it."""

import json
import warnings
from functools import partial
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin, TransformerMixin
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_digits, load_iris
from sklearn.ensemble import RandomForestClassifier, VotingClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_curve
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, OneHotEncoder, StandardScaler

from sk_advdef import (
    APGD,
    DDN,
    FGSM,
    PGD,
    DistilledClassifier,
    DropoutUncertaintyDetector,
    FeatureSpace,
    HopSkipJump,
    RandomSearch,
    RejectingClassifier,
    TreeExact,
    as_module,
    evaluate_robustness,
    rejection_robust_error,
    robust_accuracy_score,
)
from sk_advdef._torch import _registry
from sk_advdef._torch._net import NetClassifier
from sk_advdef._validation import seed_from
from sk_advdef.attacks._noise import Noise
from sk_advdef.evaluation import _robustness, _trials
from sk_advdef.evaluation._detection import detection_figures, tpr_at_fpr
from tests._instances import make_rows, small_net

SEED = seed_from(0)
BOX = {"bounds": (0, 1), "space": None}
SEARCH = partial(RandomSearch, max_queries=60)
CLIMB = partial(PGD, steps=10)
ADAPT = partial(APGD, steps=10)


@pytest.fixture(scope="module", autouse=True)
def little_effort():
    """Let the default attacks spend little."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_trials, "APGD", ADAPT)
        for module in (_trials, _robustness):
            patch.setattr(module, "RandomSearch", SEARCH)
            patch.setattr(module, "PGD", CLIMB)
        yield


# --- models of all kinds


@pytest.fixture(scope="session")
def flowers():
    """Iris as users have it: a DataFrame with an index of its own, names for labels."""
    X, y = load_iris(return_X_y=True, as_frame=True)
    order = np.random.default_rng(0).permutation(len(X))
    names = np.array(["setosa", "versicolor", "virginica"])
    X = X.iloc[order]
    return X, pd.Series(names[y.iloc[order]], index=X.index)


@pytest.fixture(scope="session")
def linear(flowers):
    return LogisticRegression(max_iter=1000).fit(*flowers)


@pytest.fixture(scope="session")
def forest(flowers):
    return RandomForestClassifier(5, max_depth=4, random_state=0).fit(*flowers)


X, y = make_rows(n_samples=240)
rows, labels = X[200:], y[200:]


@pytest.fixture(scope="session")
def net():
    return NetClassifier(small_net(max_epochs=25), random_state=0).fit(X[:100], y[:100])


@pytest.fixture(scope="session")
def guarded(net):
    detector = DropoutUncertaintyDetector(n_passes=5, contamination=0.2, random_state=0)
    return RejectingClassifier(FrozenEstimator(net), detector).fit(X[100:200])


@pytest.fixture(scope="session")
def reader():
    """Reads digits and rejects some; with rows that nobody has seen."""
    Z, digits = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(Z))
    Z, digits = (Z[order] / 16).astype(np.float32), digits[order]
    net = small_net(module__n_classes=10, module__hidden=(40,), max_epochs=12)
    net = NetClassifier(net, random_state=0).fit(Z[:600], digits[:600])
    detector = DropoutUncertaintyDetector(
        n_passes=15, contamination=0.1, random_state=0
    )
    model = RejectingClassifier(FrozenEstimator(net), detector).fit(Z[600:900])
    return SimpleNamespace(model=model, net=net, X=Z[900:1100], y=digits[900:1100])


def names_of(report):
    return [line.attack for line in report.attacks]


def check(report, n):
    """What holds of every report."""
    lines = report.attacks
    assert lines[0].attack == "clean" and report.clean_accuracy == lines[0].share
    assert all(report.worst_case_accuracy <= line.share for line in lines)
    assert all(line.share <= report.clean_accuracy for line in lines)
    assert all(line.rows == report.evaluated.sum() for line in lines)
    assert len(report.held) == len(report.evaluated) == n
    assert not report.held[~report.evaluated].any()
    assert report.to_frame()["attack"].tolist()[-1] == "worst case per row"
    json.loads(report.to_json())
    assert report.not_tried


def without_time(report):
    return [(*line[:-2], line[-1]) for line in report.to_frame().astype(str).values]


KINDS = {
    "linear": [
        "noise",
        "PGD (ce)",
        "PGD (margin)",
        "APGD (ce)",
        "APGD (dlr)",
        "RandomSearch",
    ],
    "forest": ["noise", "RandomSearch", "TreeExact"],
}


@pytest.mark.parametrize("kind", KINDS)
def test_frames_and_names(kind, flowers, request, global_generators):
    model = request.getfixturevalue(kind)
    report = evaluate_robustness(
        FrozenEstimator(model), *flowers, eps=0.4, bounds=(0, 10), random_state=0
    )
    check(report, len(flowers[0]))
    assert names_of(report)[1:] == KINDS[kind]
    assert report.clean_accuracy == model.score(*flowers)
    assert report.worst_case_accuracy < report.clean_accuracy - 0.05
    expected = {"norm": "linf", "eps": 0.4, "bounds": (0, 10)}
    assert report.threat == {**expected, "random_state": 0, "rows": 150}
    assert not report.rejection and not report.detection and report.evaluated.all()
    said = " ".join(report.not_tried)
    lacks = "gradient attacks: RandomForestClassifier has no differentiable view"
    assert (lacks in said) == (kind == "forest")
    assert "undefended model (pass baseline=)" in said and "yet to be found" in said
    assert str(report).count("Not tried: ") == len(report.not_tried)


def test_lines_agree_with_attacks_by_hand(flowers, linear):
    X, y = flowers
    report = evaluate_robustness(
        linear, X, y, eps=0.4, bounds=(0, 10), baseline=linear, random_state=0
    )
    params = {"bounds": (0, 10), "random_state": SEED}
    by_hand = {
        "noise": Noise(0.4, **params),
        "transfer (ce)": CLIMB(0.4, early_stop=False, **params),
        "transfer (margin)": CLIMB(0.4, loss="margin", early_stop=False, **params),
        "PGD (ce)": CLIMB(0.4, **params),
        "PGD (margin)": CLIMB(0.4, loss="margin", **params),
        "APGD (ce)": ADAPT(0.4, loss="ce", **params),
        "APGD (dlr)": ADAPT(0.4, loss="dlr", **params),
        "RandomSearch": SEARCH(0.4, **params),
    }
    assert names_of(report)[1:] == list(by_hand)
    right = (linear.predict(X) == y).to_numpy()
    held = right.copy()
    knows = ["nothing", *["the undefended model"] * 2, *["all"] * 4, "scores"]
    lines = zip(report.attacks[1:], by_hand.values(), knows, strict=True)
    for line, attack, known in lines:
        result = attack.run(linear, X[right], y[right])
        held[right] &= ~result.fooled
        assert line.share == (~result.fooled).sum() / len(X)
        assert line.distortion == np.median(result.distortion[result.fooled])
        assert line.queries == result.n_queries.mean()
        assert line.knows == known and line.settings == repr(attack)
    np.testing.assert_array_equal(report.held, held)
    assert report.worst_case_accuracy == held.mean()


def test_pipelines_and_nets(flowers, net):
    pipe = make_pipeline(StandardScaler(), LogisticRegression()).fit(*flowers)
    report = evaluate_robustness(
        pipe, *flowers, eps=[0.4, 0.4, 0, 0.4], bounds=None, random_state=0
    )
    check(report, 150)
    assert "PGD (margin)" in names_of(report) and report.worst_case_accuracy < 0.9
    report = evaluate_robustness(net, rows, labels, eps=1.0, bounds=None)
    check(report, len(rows))
    assert "PGD (margin)" in names_of(report)
    assert report.worst_case_accuracy < net.score(rows, labels)


class Silent(ClassifierMixin, BaseEstimator):
    """Says its answer and nothing else."""

    def __init__(self, model):
        self.model, self.classes_ = model, model.classes_

    def predict(self, X):
        return self.model.predict(X)


def test_no_scores(flowers, linear):
    report = evaluate_robustness(Silent(linear), *flowers, eps=2, bounds=(0, 10))
    check(report, 150)
    assert names_of(report) == ["clean", "noise", "HopSkipJump"]
    assert "RandomSearch: the estimator gives no scores." in report.not_tried
    assert report.worst_case_accuracy < report.clean_accuracy
    votes = VotingClassifier([("k", KNeighborsClassifier())]).fit(*flowers)
    report = evaluate_robustness(votes, *flowers, eps=0.1, bounds=(0, 10))
    assert names_of(report) == ["clean", "noise", "HopSkipJump"]
    space = FeatureSpace.from_data(flowers[0], eps=1.0, immutable=[0])
    report = evaluate_robustness(votes, *flowers, space=space)
    assert names_of(report) == ["clean", "noise", "HopSkipJump"]
    assert report.worst_case_accuracy < report.clean_accuracy


def test_scores_without_a_view_may_be_flat(flowers):
    """Who asks for labels alone takes what flat scores hide."""
    one = KNeighborsClassifier(1).fit(*flowers)
    report = evaluate_robustness(one, *flowers, eps=0.5, bounds=(0, 10), random_state=0)
    assert names_of(report) == ["clean", "noise", "RandomSearch", "HopSkipJump"]
    by_scores, by_labels = report.attacks[2:]
    assert by_labels.share < by_scores.share
    assert any("Transfer" in words for words in report.not_tried)


def test_transfer_from_a_model_that_is_wrong(flowers, linear):
    """Rows that the baseline answers wrong are attacked all the same."""
    X, y = flowers
    other = np.roll(linear.classes_, 1)[np.searchsorted(linear.classes_, y)]
    baseline = LogisticRegression(max_iter=1000).fit(X, other)
    report = evaluate_robustness(
        linear, X, y, eps=1.0, bounds=(0, 10), baseline=baseline, random_state=0
    )
    line = next(a for a in report.attacks if a.attack == "transfer (ce)")
    attack = CLIMB(1.0, loss="ce", early_stop=False, bounds=(0, 10), random_state=SEED)
    right = np.flatnonzero(linear.predict(X) == y)
    made = attack.rows_to_train_on(baseline, X.iloc[right], y.iloc[right])
    left = (linear.predict(made) == y.iloc[right]).sum() / len(y)
    assert line.share == pytest.approx(left)
    assert 0 < line.distortion <= 1.0 + 1e-9


def test_two_certificates_are_worth_the_weaker(flowers, forest):
    both = evaluate_robustness(
        forest, *flowers, attacks=[TreeExact(e, bounds=None) for e in (0.01, 1.0)]
    )
    alone = evaluate_robustness(forest, *flowers, attacks=TreeExact(1.0, bounds=None))
    assert both.certified == alone.certified <= both.worst_case_accuracy


def test_what_a_search_has_chosen_is_attacked(flowers, linear):
    X, y = flowers
    search = GridSearchCV(linear, {"C": [1.0]}, cv=2).fit(X, y)
    given = {"eps": 0.3, "bounds": (0, 10), "random_state": 0}
    found, wanted = (
        evaluate_robustness(model, X, y, **given)
        for model in (search, search.best_estimator_)
    )
    assert names_of(found) == names_of(wanted)
    np.testing.assert_array_equal(found.held, wanted.held)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert robust_accuracy_score(search, X, y, eps=0.3, bounds=None) < 1


def test_what_stays_as_it_is_and_what_is_not_proved_is_said(flowers):
    """Words are never changed; trees behind an encoder are not looked into."""
    X, y = flowers
    frame = pd.DataFrame(np.asarray(X)).set_axis(list("abcd"), axis=1)
    frame["word"] = np.where(np.arange(len(frame)) % 2, "x", "y")
    encoder = make_column_transformer(
        (OneHotEncoder(), ["word"]), remainder="passthrough"
    )
    forest = RandomForestClassifier(3, max_depth=2, random_state=0)
    model = make_pipeline(encoder, forest).fit(frame, y)
    space = FeatureSpace.from_data(frame, eps=0.1)
    report = evaluate_robustness(
        model, frame[:10], y[:10], eps=None, space=space, random_state=0
    )
    said = "\n".join(report.not_tried)
    assert "changes of the columns ['word'], which are not numeric" in said
    assert "TreeExact, which does not see through the steps" in said
    bare = forest.fit(frame[list("abcd")], y)
    report = evaluate_robustness(
        bare, frame[list("abcd")][:10], y[:10], eps=0.1, bounds=None, random_state=0
    )
    said = "\n".join(report.not_tried)
    assert "columns" not in said and "TreeExact" not in said


@pytest.mark.parametrize(
    "attack", [PGD(0.3, targeted=True, bounds=None), PGD(0.3, goal="reject")]
)
def test_attacks_with_another_aim_are_refused(attack, flowers, linear):
    told = 'does not aim at a wrong answer.*targeted=False.*goal="fool"'
    with pytest.raises(ValueError, match=told):
        evaluate_robustness(linear, *flowers, attacks=attack)
    as_told = attack.set_params(targeted=False, goal="fool", bounds=None)
    assert evaluate_robustness(linear, *flowers, attacks=as_told).clean_accuracy > 0


def test_labels_of_another_kind(linear, flowers):
    X, y = flowers
    with pytest.raises(ValueError, match="of which some can be no class"):
        evaluate_robustness(linear, X, np.arange(len(y)), eps=0.1, bounds=None)


def test_names_of_attacks_may_be_anything(linear, flowers):
    report = evaluate_robustness(
        linear, *flowers, attacks={1: SEARCH(0.1, bounds=None, random_state=0)}
    )
    assert names_of(report) == ["clean", "1"] and "1 " in str(report)


def test_rejection_within_a_space(reader):
    """What may not change is not pushed into rejection."""
    X, y = reader.X[:60], reader.y[:60]
    space = FeatureSpace(immutable=list(range(X.shape[1])), eps=0.5)
    report = evaluate_robustness(
        reader.model, X, y, space=space, bounds=None, random_state=0
    )
    pushed = report.rejection["right rows that can be pushed into rejection within"]
    assert set(pushed.values()) == {0.0}
    smallest = report.rejection["smallest change (L2) that gets a right row rejected"]
    assert set(smallest.values()) == {np.inf}


def test_rejection_by_attacks_with_bounds_of_their_own(reader):
    X, y = 3 * reader.X[:60], reader.y[:60]
    attack = PGD(0.1, steps=3, bounds=None, random_state=0)
    report = evaluate_robustness(reader.model, X, y, attacks=attack)
    assert "smallest change (L2) that gets a right row rejected" in report.rejection


def test_trees_and_spaces(flowers, forest):
    X, y = flowers
    space = FeatureSpace.from_data(X, eps=0.3, scale="std", max_changed=2)
    report = evaluate_robustness(forest, X[::5], y[::5], space=space, random_state=0)
    check(report, 30)
    assert names_of(report)[1:] == ["noise", "RandomSearch", "TreeExact"]
    # what is not broken is certified, unless the time was up
    report_of_linear = evaluate_robustness(
        LogisticRegression(max_iter=1000).fit(X, y), X[::5], y[::5], space=space
    )
    assert "APGD (dlr)" in names_of(report_of_linear)
    assert report.certified == report.worst_case_accuracy == report.attacks[-1].share
    assert "Certified by TreeExact" in str(report)
    assert "FeatureSpace" in str(report) and len(str(report.threat["space"])) <= 70
    with pytest.raises(ValueError, match="eps"):
        evaluate_robustness(forest, X, y, eps=1, space=space)


# --- the baseline


def test_baselines(net, guarded, flowers, forest, linear):
    student = DistilledClassifier(
        small_net(max_epochs=8), temperature=5.0, random_state=0
    ).fit(X[:100], y[:100])
    for model, base in ((student, student.teacher_), (guarded, net)):
        found = _trials.undefended(FrozenEstimator(model))
        np.testing.assert_array_equal(found.predict(rows), base.predict(rows))
    assert _trials.undefended(linear) is None
    steps = make_pipeline(StandardScaler().fit(X), guarded)
    found = _trials.undefended(steps)
    np.testing.assert_array_equal(
        found.predict(rows), net.predict(steps[0].transform(rows))
    )
    params = {"eps": 0.5, "bounds": None, "random_state": 0}
    report = evaluate_robustness(student, rows, labels, **params)
    assert names_of(report)[2:4] == ["transfer (ce)", "transfer (margin)"]
    assert not any("baseline" in text for text in report.not_tried)
    # the line tells what the defence itself answers on rows made elsewhere
    attack = CLIMB(0.5, early_stop=False, bounds=None, random_state=SEED)
    right = student.predict(rows) == labels
    made = attack.perturb(student.teacher_, rows[right], labels[right])
    expected = (student.predict(made) == labels[right]).sum() / len(rows)
    assert report.attacks[2].share == expected
    report = evaluate_robustness(linear, *flowers, baseline=forest, **params)
    assert "transfer (ce)" not in names_of(report)
    assert any("on the baseline: RandomForest" in text for text in report.not_tried)


# --- attacks as given


def test_attacks_as_given(flowers, linear):
    X, y = flowers
    params = {"bounds": None, "random_state": 0}
    attacks = [
        PGD(0.3, steps=5, **params),
        PGD(0.3, steps=5, norm="l2", **params),
        SEARCH(0.3, **params),
        FGSM(0.3, bounds=None),
    ]
    report = evaluate_robustness(linear, X, y, attacks=attacks)
    check(report, 150)
    assert names_of(report)[1:] == ["PGD", "PGD 2", "RandomSearch", "FGSM"]
    assert [line.knows for line in report.attacks[2:]] == ["all", "scores", "all"]
    assert report.threat == {"attacks": "as given", "rows": 150}
    assert report.not_tried == ["anything but the attacks given."]
    named = dict(zip("abcd", attacks, strict=True))
    again = evaluate_robustness(linear, X, y, attacks=named)
    assert names_of(again)[1:] == list("abcd")
    np.testing.assert_array_equal(again.held, report.held)
    alone = evaluate_robustness(linear, X, y, attacks=attacks[0])
    assert alone.worst_case_accuracy == report.attacks[1].share
    right = (linear.predict(X) == y).to_numpy()
    fooled = attacks[0].run(linear, X[right], y[right]).fooled
    np.testing.assert_array_equal(alone.held[right], ~fooled)
    asks = HopSkipJump(bounds=(0, 10))._knows, Noise(0.1)._knows
    assert asks == ("labels", "nothing")


def test_says_what_is_wrong(flowers, linear):
    def call(**params):
        return evaluate_robustness(linear, *flowers, **params)

    with pytest.raises(ValueError, match=r"eps=None says nothing.*or attacks="):
        call()
    with pytest.raises(ValueError, match=r"Both attacks and eps=0.1 are given"):
        call(attacks=FGSM(0.1), eps=0.1)
    with pytest.raises(ValueError, match="Both attacks and baseline are given"):
        call(attacks=FGSM(0.1), baseline=linear)
    for empty in ([], {}):
        with pytest.raises(ValueError, match="attacks is an empty list"):
            call(attacks=empty)
    with pytest.raises(TypeError, match=r"attacks must be an attack.*Got 'pgd'"):
        call(attacks={"a": "pgd"})
    for budget in (0, -1, "1 h"):
        with pytest.raises(ValueError, match=r"'time_budget' parameter.*or None"):
            call(eps=0.1, time_budget=budget)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        evaluate_robustness(linear, flowers[0], flowers[1][:3], eps=0.1)
    with pytest.raises(ValueError, match="outside the bounds"):
        call(eps=0.1)


# --- blocks, processes, time


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(_trials, "ROWS_AT_A_TIME", 40)


def test_processes_do_not_matter(flowers, linear, small_blocks):
    def attacks():
        return [
            PGD(0.3, steps=5, bounds=None, random_state=0),
            SEARCH(0.3, bounds=None, random_state=0),
            Noise(0.3, bounds=None, random_state=np.random.RandomState(3)),
        ]

    one, two = (
        evaluate_robustness(linear, *flowers, attacks=attacks(), n_jobs=n)
        for n in (1, 2)
    )
    check(one, 150)
    np.testing.assert_array_equal(one.held, two.held)
    assert without_time(one) == without_time(two)
    state = np.random.RandomState(0)
    params = {"eps": 0.3, "bounds": None}
    seeded = [
        evaluate_robustness(linear, *flowers, random_state=s, **params)
        for s in (0, 0, state)
    ]
    assert len({str(without_time(report)) for report in seeded}) == 1


def test_views_of_ones_own_go_to_other_processes(flowers, linear, small_blocks):
    class Own(LogisticRegression):
        def decision_function(self, X):
            return super().decision_function(X)

    as_module.register(Own, lambda model: as_module(linear))
    try:
        own = Own(max_iter=1000).fit(*flowers)
        attack = PGD(0.3, steps=5, bounds=None, random_state=0)
        one, two = (
            evaluate_robustness(own, *flowers, attacks=attack, n_jobs=n) for n in (1, 2)
        )
    finally:
        del _registry._registered[Own]
    np.testing.assert_array_equal(one.held, two.held)


def test_rows_cut_off_count_neither_way(flowers, linear, small_blocks, monkeypatch):
    X, y = flowers
    attack = PGD(0.3, steps=5, bounds=None, random_state=0)
    params = {"attacks": attack, "time_budget": 1000.0}
    whole = evaluate_robustness(linear, X, y, **params)
    assert whole.evaluated.all()
    ticks = iter([0.0, 0.0, 0.0] + [1e6] * 10)  # the deadline, and two blocks
    clock = SimpleNamespace(
        time=lambda: next(ticks), perf_counter=_trials.time.perf_counter
    )
    monkeypatch.setattr(_trials, "time", clock)
    report = evaluate_robustness(linear, X, y, **params)
    check(report, 150)
    done = len(np.array_split(np.arange(150), 4)[0]) * 2
    np.testing.assert_array_equal(report.evaluated, np.arange(150) < done)
    assert report.threat["rows"] == done
    np.testing.assert_array_equal(report.held[:done], whole.held[:done])
    assert report.worst_case_accuracy == whole.held[:done].mean()
    assert report.clean_accuracy == linear.score(X[:done], y[:done])
    assert f"Not evaluated, for lack of time: {150 - done} rows." in str(report)
    assert json.loads(report.to_json())["evaluated"] == done


def test_no_time_at_all(reader):
    """The first block is evaluated all the same, rejection on its rows alone."""
    attack = FGSM(0.05)
    report = evaluate_robustness(
        reader.model,
        np.tile(reader.X, (2, 1)),
        np.tile(reader.y, 2),
        attacks=attack,
        time_budget=1e-9,
    )
    check(report, 400)
    np.testing.assert_array_equal(report.evaluated, np.arange(400) < 200)
    rejected = (reader.model.predict(reader.X) == -1).mean()
    assert report.rejection["genuine rows rejected"] == rejected


def test_bar(flowers, linear, capsys):
    params = {"attacks": FGSM(0.1, bounds=None)}
    evaluate_robustness(linear, *flowers, **params)
    assert capsys.readouterr() == ("", "")
    evaluate_robustness(linear, *flowers, verbose=1, **params)
    out, err = capsys.readouterr()
    assert out == "" and "rows" in err and "100%" in err


# --- little to judge


def test_nothing_is_right(linear, flowers, guarded):
    X = flowers[0]
    wrong = np.where(linear.predict(X) == "setosa", "virginica", "setosa")
    report = evaluate_robustness(linear, X, wrong, eps=0.1, bounds=None)
    check(report, 150)
    assert report.worst_case_accuracy == report.clean_accuracy == 0
    assert all(line.queries == line.share == 0 for line in report.attacks)
    from matplotlib import pyplot as plt

    plt.close(report.plot().figure)
    wrong = np.where(guarded.predict(rows) == "eggs", "spam", "eggs")
    report = evaluate_robustness(guarded, rows, wrong, eps=0.1, bounds=None)
    check(report, len(rows))
    assert report.rejection["lost at clean rejection of"] == {0.01: 1.0, 0.05: 1.0}
    assert not report.detection
    assert any("too few attacks on it" in text for text in report.not_tried)


def test_one_row(linear, flowers):
    X, y = flowers
    report = evaluate_robustness(linear, X[:1], y[:1], eps=5, bounds=None)
    check(report, 1)
    assert report.worst_case_accuracy == 0 and report.clean_accuracy == 1
    assert report.worst_case_interval[1] > 0.7


# --- what rejects


def test_what_rejects(guarded, global_generators):
    params = {"eps": 1.5, "bounds": None, "random_state": 0}
    report = evaluate_robustness(guarded, rows, labels, **params)
    check(report, len(rows))
    assert names_of(report)[2:4] == ["transfer (ce)", "transfer (margin)"]
    answers = guarded.predict(rows)
    assert report.clean_accuracy == (answers == labels).mean()
    assert report.rejection["genuine rows rejected"] == (answers == "rejected").mean()
    pushed = report.rejection["right rows that can be pushed into rejection within"]
    assert list(pushed) == ["0.25 eps", "0.5 eps", "1 eps"]
    shares = list(pushed.values())
    assert shares == sorted(shares) and 0 <= shares[0] < shares[-1] <= 1
    right = answers == labels
    attack = CLIMB(0.375, goal="reject", bounds=None, random_state=0)
    assert shares[0] == pytest.approx(
        attack.run(guarded, rows[right], labels[right]).fooled.mean()
    )
    assert "pushed into rejection within: 0.25 eps: " in str(report)
    assert any(text.startswith("APGD: ") for text in report.not_tried)
    smallest = report.rejection["smallest change (L2) that gets a right row rejected"]
    found = DDN(goal="reject", bounds=None).run(guarded, rows[right], labels[right])
    lengths = np.sort(np.where(found.fooled, found.distortion, np.inf))
    assert list(smallest) == ["10% of rows", "50% of rows"]
    assert (lengths <= smallest["50% of rows"]).mean() >= 0.5
    assert (lengths < smallest["50% of rows"]).mean() <= 0.5
    # whoever knows all but the sub-networks, judged by the detector's own
    line = next(a for a in report.attacks if a.attack == "PGD, fresh masks")
    assert line.knows == "all but masks"
    blind = CLIMB(1.5, loss="margin", bounds=None, masks="fresh", random_state=SEED)
    taken = blind.run(guarded, rows[right], labels[right]).fooled
    assert line.share == pytest.approx(right.mean() - taken.sum() / len(rows))


class Ready(BaseEstimator):
    """Needs no fit."""

    def __sklearn_is_fitted__(self):
        return True

    def fit(self, X, y=None):
        return self


class Sign(ClassifierMixin, Ready):
    classes_ = np.array([0, 1])

    def decision_function(self, X):
        return np.asarray(X)[:, 0]

    def predict(self, X):
        return (self.decision_function(X) > 0).astype(int)


class Second(Ready):
    """Finds a row the more genuine, the smaller its second feature."""

    scale_ = 1.0

    def __init__(self, offset):
        self.offset_ = offset

    def score_samples(self, X):
        return -np.asarray(X)[:, 1]

    def decision_function(self, X):
        return self.score_samples(X) - self.offset_

    def predict(self, X):
        return np.where(self.decision_function(X) >= 0, 1, -1)


class Toy(ClassifierMixin, Ready):
    reject_label_ = -1

    def __init__(self, offset):
        self.offset = offset
        self.estimator_, self.detector_ = Sign(), Second(offset)
        self.classes_ = Sign.classes_

    def predict(self, X):
        flagged = self.detector_.predict(X) == -1
        return np.where(flagged, -1, self.estimator_.predict(X))


class Tenfold(TransformerMixin, Ready):
    def transform(self, X):
        return np.asarray(X) * 10


@pytest.mark.parametrize("behind", [False, True])
def test_rejection_by_hand(behind):
    n = np.arange(100)
    # two in four are near enough to the other class; the second feature is the number
    first = np.array([-1.0, 1.0, -90.0, 90.0])[n % 4]
    toy = np.stack([first, n + 0.0], axis=1)
    truth = (first > 0).astype(int)
    model = Toy(-89.5)  # the last ten are rejected
    eps = 20.0
    if behind:
        eps /= 10  # in units of rows that a step before brings back
        toy, model = toy / 10, make_pipeline(Tenfold(), model)
    report = evaluate_robustness(model, toy, truth, eps=eps, bounds=None)
    check(report, 100)
    assert report.clean_accuracy == 0.9
    near = np.abs(first) == 1
    assert report.worst_case_accuracy == ((n < 90) & ~near).mean()
    figures = report.rejection
    assert figures["genuine rows rejected"] == pytest.approx(0.1)
    pushed = figures["right rows that can be pushed into rejection within"]
    for text, reach in (("0.25 eps", 5), ("0.5 eps", 10), ("1 eps", 20)):
        able = (n[:90] + reach > 89.5).mean()
        assert pushed[text] == pytest.approx(able)
    lost = figures["lost at clean rejection of"]
    for level, cut in ((0.01, 99), (0.05, 95)):
        # rejected, or near enough and with room to be accepted
        assert lost[level] == pytest.approx(((n >= cut) | near).mean())
    attack = SEARCH(eps, bounds=None, random_state=0)
    assert lost == rejection_robust_error(model, toy, truth, attack=attack)
    assert not report.detection


# --- detectors beside baselines


def test_detection_figures(reader):
    X, y, model = reader.X, reader.y, reader.model
    figures = detection_figures(model, X, y, 0.1, BOX, 0)
    assert list(figures) == [
        "the detector",
        "the largest probability",
        "the margin of scores",
        "smoothness of the input",
    ]
    right = reader.net.predict(X) == y
    attack = PGD(0.1, early_stop=False, random_state=0)
    result = attack.run(reader.net, X[right], y[right])
    attacked = result.X_adv[result.fooled]
    assert len(attacked) >= 30

    def top(rows, place):
        return np.sort(reader.net.predict_proba(rows), axis=1)[:, -place]

    suspicion = {
        "the detector": reader.model.detector_.uncertainty,
        "the largest probability": lambda r: -top(r, 1),
        "the margin of scores": lambda r: np.log(top(r, 2) / top(r, 1)),
        "smoothness of the input": lambda r: np.abs(np.diff(r.astype(float))).mean(1),
    }
    truth = np.r_[np.zeros(len(X)), np.ones(len(attacked))]
    for name, statistic in suspicion.items():
        scores = np.concatenate([statistic(X), statistic(attacked)])
        fpr, tpr, _ = roc_curve(truth, scores, drop_intermediate=False)
        assert figures[name].keys() == {
            "at 5% false positives",
            "at 1% false positives",
        }
        for rate in (0.05, 0.01):
            expected = tpr[fpr <= rate + 1e-12].max()
            found = figures[name][f"at {rate:.0%} false positives"]
            # float32 rounds the two sides otherwise, near the threshold
            assert abs(found - expected) <= 1.5 / len(attacked)


@pytest.mark.parametrize("n", [1, 7, 100])
@pytest.mark.parametrize("rate", [0.0, 0.01, 0.05, 0.29])
def test_tpr_at_fpr(n, rate):
    rng = np.random.default_rng(n)
    genuine, attacked = rng.integers(12, size=n), rng.integers(9, size=50)
    truth = np.r_[np.zeros(n), np.ones(50)]
    fpr, tpr, _ = roc_curve(truth, -np.r_[genuine, attacked], drop_intermediate=False)
    assert tpr_at_fpr(genuine, attacked, rate) == tpr[fpr <= rate + 1e-12].max()


def test_no_detection_figures(reader, linear, flowers):
    few = detection_figures(reader.model, reader.X[:40], reader.y[:40], 1e-3, BOX, 0)
    assert few == {}
    assert detection_figures(linear, *flowers, 0.1, BOX, 0) == {}
    steps = make_pipeline(MinMaxScaler().fit(reader.X * [16]), reader.model)
    X = reader.X.astype(np.float64) * 16
    figures = detection_figures(steps, X, reader.y, 1.6, BOX | {"bounds": (0, 16)}, 0)
    assert set(figures) > {"the detector"}


@pytest.mark.parametrize("kind", ["frame", "space", "array"])
def test_columns_that_the_ball_is_too_small_for_are_told(kind):
    """A flag flips at 1 and not before, so that nothing was tried of it."""
    rng = np.random.default_rng(0)
    flags = pd.DataFrame({"flag": rng.random(80) < 0.5, "x": rng.random(80)})
    labels = flags.flag.astype(int).to_numpy()
    model = RandomForestClassifier(5, max_depth=3, random_state=0).fit(flags, labels)
    given = {"eps": 0.5, "bounds": (0, 1)}
    if kind == "space":
        given = {"space": FeatureSpace.from_data(flags, eps=0.5)}
    rows, said = flags, "['flag']"
    if kind == "array":
        rows, said = flags.to_numpy().astype(int), "[0, 1]"
        model = RandomForestClassifier(5, random_state=0).fit(rows, labels)
    report = evaluate_robustness(model, rows[:20], labels[:20], random_state=0, **given)
    told = [text for text in report.not_tried if "whole numbers" in text]
    assert len(told) == 1 and said in told[0]
    free = FeatureSpace(eps={"flag": 1, "x": 0.5}, bounds=(0, 1))
    if kind == "space":
        report = evaluate_robustness(model, flags[:20], labels[:20], space=free)
        assert not any("whole numbers" in text for text in report.not_tried)
        assert report.held.mean() < 0.5
