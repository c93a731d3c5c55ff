import json
import logging
import os
import pickle
import signal
import threading
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import joblib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn import config_context
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.svm import LinearSVC

from sk_advdef import (
    ConcealedClassifier,
    DropoutUncertaintyDetector,
    GuardedClassifier,
    QueryRefused,
    RejectingClassifier,
    SimilarQueryDetector,
    as_module,
)
from sk_advdef.concealment import _secrets
from sk_advdef.concealment._memory_store import MemoryStore
from sk_advdef.concealment._recent import RecentScores
from sk_advdef.concealment._store import StoreError
from tests._instances import small_net
from tests.concealment._stores import (
    EVERY_STORE,
    SHARED_STORE,
    ask_until_refused,
    in_processes,
)

X, y = load_digits(return_X_y=True)
X = X / 16
order = np.random.default_rng(0).permutation(len(X))
X, y = X[order], np.array([f"digit {i}" for i in y])[order]
GENUINE = X[1000:]
model = LogisticRegression(C=0.1, max_iter=1000).fit(X[:500], y[:500])
frozen = FrozenEstimator(model)
monitor = FrozenEstimator(
    SimilarQueryDetector(false_positive_rate=0.01, random_state=0).fit(X[:1000])
)
VISIBLE = "ignore:action=.* is not quiet:UserWarning"


class Clock:
    """Time that stands still until it is told to go on."""

    def __init__(self):
        self.now = 1_800_000_000.0

    def __call__(self):
        return self.now


def guard(**params):
    return GuardedClassifier(frozen, clock=Clock(), **params)


def watched(action="flag", **params):
    return guard(monitor=monitor, action=action, **params)


def variants(row, n=20, eps=0.02, seed=0):
    rng = np.random.default_rng(seed)
    return row + rng.uniform(-eps, eps, (n, len(row)))


def refusal(ask, *args, **kwargs):
    with pytest.raises(QueryRefused) as caught:
        ask(*args, **kwargs)
    return caught.value


def test_without_limit_and_monitor_it_only_hands_on():
    guarded = GuardedClassifier(frozen)
    np.testing.assert_array_equal(guarded.predict(X), model.predict(X))
    np.testing.assert_array_equal(guarded.predict_proba(X), model.predict_proba(X))
    assert guarded.score(X, y) == model.score(X, y)
    assert not hasattr(guarded, "decision_function")
    assert not hasattr(GuardedClassifier(LinearSVC()), "predict_proba")


@EVERY_STORE
def test_limit(uri):
    guarded = guard(limit="6/minute", store=uri)
    guarded.predict(X[:4], account="alice")
    guarded.predict_proba(X[:2], account="alice")
    refused = refusal(guarded.predict, X[:2], account="alice")
    assert refused.reason == "rate" and refused.retry_after == 20.0
    # another account, and none at all, have limits of their own
    guarded.predict(X[:6], account="bob")
    guarded.predict(X[:6])
    assert refusal(guarded.predict, X[:1]).retry_after == 10.0
    guarded.clock.now += 20
    guarded.predict(X[:2], account="alice")
    assert refusal(guarded.predict, X[:1], account="alice").retry_after == 10.0
    stats = guarded.stats()
    assert stats["calls"] == 8 and stats["refused_for_rate"] == 3


def test_refused_calls_ask_nothing_of_the_model_and_cost_nothing():
    guarded = guard(limit="2/minute")
    guarded.predict(X[:2], account="a")
    for _ in range(5):
        assert refusal(guarded.predict, X[:1], account="a").retry_after == 30.0


def test_one_account_a_row():
    guarded = guard(limit="3/hour")
    guarded.predict(X[:5], account=["a", "a", "b", "a", None])
    # a has none left, so nothing of this call is admitted
    refusal(guarded.predict, X[:2], account=np.array(["b", "a"]))
    guarded.predict(X[:2], account=["b", "b"])
    refusal(guarded.predict, X[:1], account="b")


def test_more_rows_than_can_ever_be_asked_at_once():
    guarded = guard(limit="60/minute", burst=5)
    with pytest.raises(ValueError, match=r"may ask 5 rows at once.*Got 6 rows: divide"):
        guarded.predict(X[:6])
    guarded.predict(X[:5])
    assert refusal(guarded.predict, X[:1]).retry_after == 1.0


@pytest.mark.filterwarnings(VISIBLE)
def test_reject():
    guarded = watched("reject", limit="600/hour")
    rows = variants(GENUINE[0])
    guarded.predict(rows[:1], account="m")
    outcomes = []
    for row in rows[1:]:
        try:
            guarded.predict(row[None], account="m")
            outcomes.append(None)
        except QueryRefused as refused:
            outcomes.append((refused.reason, refused.retry_after))
    # a suspicious row costs ten, and to wait for them is what is told
    assert outcomes[0] is None and set(outcomes[10:]) == {("similar", 60.0)}
    # the way round by asking again, or by the other method, is none
    for ask in (guarded.predict, guarded.predict_proba, guarded.admit):
        assert refusal(ask, rows[-1:], account="m").reason == "similar"
    guarded.predict(GENUINE[1:3], account="alice")
    stats = guarded.stats()
    assert stats["refused_for_similarity"] == stats["suspicious_rows"]
    assert stats["repeated_rows"] == 3 and stats["history_rows"] == 22
    assert stats["history_accounts"] == 2 and stats["history_bytes"] > 0


@pytest.mark.filterwarnings(VISIBLE)
def test_suspicious_rows_cost_more():
    guarded = watched("delay", delay=0.0, limit="100/hour", suspicious_cost=20)
    for row in variants(GENUINE[0], n=12):
        try:
            guarded.predict(row[None], account="m")
        except QueryRefused as refused:
            assert refused.reason == "rate"
            break
    else:
        pytest.fail("twelve rows at twenty each passed a limit of a hundred")
    # debts end
    guarded.clock.now += 2 * 3600
    guarded.predict(GENUINE[1:2], account="m")


@pytest.mark.filterwarnings(VISIBLE)
def test_label_and_delay():
    rows = variants(GENUINE[0])
    labels = watched("label")
    proba = labels.predict_proba(rows, account="m")
    is_one_hot = (proba == 1).any(axis=1)
    assert not is_one_hot[0] and is_one_hot[10:].all()
    np.testing.assert_array_equal(labels.classes_[proba.argmax(1)], model.predict(rows))
    np.testing.assert_array_equal(
        labels.predict(rows, account="b"), model.predict(rows)
    )
    import time

    delayed = watched("delay", delay=0.05)
    started = time.monotonic()
    delayed.predict(GENUINE[1:2])
    np.testing.assert_array_equal(delayed.predict(rows), model.predict(rows))
    assert time.monotonic() - started >= 0.05


def test_flag_changes_no_answer():
    guarded = watched("flag")
    rows = variants(GENUINE[0])
    np.testing.assert_array_equal(
        guarded.predict_proba(rows, account="m"), model.predict_proba(rows)
    )
    assert guarded.stats()["suspicious_rows"] >= 10
    assert guarded.admit(rows, account="m")[10:].all()


def test_decoy_answers_as_where_the_walk_began():
    """Toward another class: the label stays that of the first of the similar rows."""
    guarded = watched("decoy")
    labels = model.predict(GENUINE)
    a = GENUINE[labels == "digit 3"][0]
    b = GENUINE[labels == "digit 8"][0]
    walk = a + np.linspace(0, 1, 60)[:, None] * (b - a)
    assert len(set(model.predict(walk))) > 1
    told = [guarded.predict(row[None], account="m")[0] for row in walk]
    assert (np.array(told) == "digit 3").mean() > (
        model.predict(walk) == "digit 3"
    ).mean()
    # probabilities say the same, in their usual form, and so does asking again
    proba = guarded.predict_proba(walk, account="m")
    np.testing.assert_allclose(proba.sum(axis=1), 1)
    assert guarded.classes_[proba.argmax(axis=1)].tolist() == told
    np.testing.assert_array_equal(
        np.sort(proba, axis=1), np.sort(model.predict_proba(walk), axis=1)
    )
    # who is not suspected is told the truth
    np.testing.assert_array_equal(
        guarded.predict(GENUINE[100:110], account="alice"), labels[100:110]
    )


def test_allowed_accounts_are_left_alone():
    guarded = watched("flag", limit="5/hour", allow=("lime", 7))
    rows = variants(GENUINE[0], n=40)
    for account in ("lime", 7):
        np.testing.assert_array_equal(
            guarded.predict(rows, account=account), model.predict(rows)
        )
    stats = guarded.stats()
    assert stats["allowed_rows"] == 80 and stats["history_rows"] == 0
    # one row of each: only the other is watched
    assert guarded.admit(rows[:2], account=["lime", "bob"]).tolist() == [False, False]
    assert guarded.stats()["history_rows"] == 1
    refusal(guarded.predict, rows[:5], account="bob")
    # a name that only looks the same is another
    with pytest.raises(ValueError, match="may ask 5 rows"):
        guarded.predict(rows, account="7")


def test_warns_where_an_action_is_not_quiet():
    for action, why in [
        ("reject", "how far apart his queries must be"),
        ("delay", "measure the time"),
        ("label", "probabilities have become labels"),
    ]:
        with pytest.warns(
            UserWarning, match=f"action='{action}' .* not quiet: .*{why}"
        ):
            watched(action).predict(X[:1])
    with pytest.warns(UserWarning, match="the cost of suspicious rows shows"):
        watched("flag", limit="9/hour", suspicious_cost=3).predict(X[:1])
    # no warning is an error here: these are quiet, or watch nothing
    watched("flag", limit="9/hour").predict(X[:1])
    watched("decoy").predict(X[:1])
    guard(limit="9/hour").predict(X[:1])
    inner = FrozenEstimator(ConcealedClassifier(frozen))
    quiet = GuardedClassifier(inner, monitor=monitor, action="label", suspicious_cost=1)
    quiet.predict(X[:1])


def test_audit_log(caplog):
    caplog.set_level(logging.WARNING, "sk_advdef.audit")
    guarded = watched("flag", limit="30/hour")
    guarded.predict(variants(GENUINE[0]), account="m\n{injected}")
    refusal(guarded.predict, X[:20], account="m\n{injected}")
    similar, rate = (json.loads(record.message) for record in caplog.records)
    assert similar["event"] == "similar" and similar["accounts"] == ["m\n{injected}"]
    assert similar["time"] == guarded.clock.now and similar["action"] == "flag"
    assert len(similar["rows"]) == len(similar["scores"]) >= 10
    assert max(similar["scores"]) < similar["offset"] and "inputs" not in similar
    assert rate["event"] == "rate" and rate["retry_after"] > 0
    # one event stays one line
    assert all("\n" not in record.message for record in caplog.records)
    caplog.clear()
    telling = watched("flag", log_inputs=True)
    telling.predict(variants(GENUINE[0]), account=b"\xff")
    entry = json.loads(caplog.records[0].message)
    np.testing.assert_allclose(
        entry["inputs"], variants(GENUINE[0])[entry["rows"]], rtol=1e-12
    )
    assert entry["accounts"] == ["ff"]
    assert caplog.records[0].event == entry


class Failing(MemoryStore):
    """A store that is down."""

    def hit(self, *args, **kwargs):
        raise StoreError("down")


def test_store_failure(caplog):
    closed, opened = (
        guard(limit="1/hour", on_store_failure=mode) for mode in ("closed", "open")
    )
    for guarded in (closed, opened):
        guarded.predict(X[:1])
        guarded._gate().store = Failing()
    refused = refusal(closed.predict, X[:1])
    assert refused.reason == "unavailable" and refused.retry_after == 1.0
    np.testing.assert_array_equal(opened.predict(X[:1]), model.predict(X[:1]))
    assert "the store of a guard failed: down" in caplog.text
    assert closed.stats()["refused_as_unavailable"] == 1
    assert opened.stats()["answered_without_store"] == 1


@pytest.mark.parametrize("mode", ["closed", "open"])
def test_store_failure_of_the_monitor(mode, tmp_path):
    where = f"sqlite:///{tmp_path}/no/folder/guard.db?timeout=0.05"
    guarded = watched("flag", store=where, on_store_failure=mode)
    if mode == "closed":
        assert refusal(guarded.predict, X[:1]).reason == "unavailable"
    else:
        np.testing.assert_array_equal(guarded.predict(X[:1]), model.predict(X[:1]))
    costly = watched("flag", limit="99/hour", on_store_failure=mode)
    costly.predict(X[:1])
    costly._gate().store = Failing()
    ask = costly._gate().charge
    assert refusal(ask, ["a"], 2.0) if mode == "closed" else ask(["a"], 2.0) is None


def test_a_store_that_hangs_is_not_waited_for_in_turn(tmp_path):
    """Calls that wait behind one whose store fails in the end fail with it."""
    guarded = watched("flag", store=f"sqlite:///{tmp_path}/guard.db")
    guarded.predict(X[:1])
    store, fails = guarded._gate().store, threading.Event()
    asked = []

    def append(*args):
        asked.append(1)
        fails.wait(60)
        raise StoreError("no answer in time")

    healthy, store.append = store.append, append
    with ThreadPoolExecutor(6) as pool:
        waiting = [pool.submit(refusal, guarded.predict, X[[i]]) for i in range(1, 7)]
        # the others stand behind the first when it fails
        while guarded.stats()["calls"] < 7 or not asked:
            time.sleep(0.01)
        time.sleep(0.2)
        fails.set()
        reasons = [one.result(60).reason for one in waiting]
    assert reasons == ["unavailable"] * 6 and len(asked) < 6
    store.append = healthy
    guarded.predict(X[10:11])
    assert guarded.stats()["history_rows"] == 2


@SHARED_STORE
@pytest.mark.parametrize("method", ["knn", "fingerprint", "provenance"])
def test_a_new_process_knows_the_past_before_it_is_asked(uri, method, monkeypatch):
    monkeypatch.setenv(_secrets.VARIABLE, "a secret of the tests")
    watching = FrozenEstimator(
        SimilarQueryDetector(
            method=method, false_positive_rate=0.01, random_state=0
        ).fit(GENUINE)
    )
    old, new = (
        guard(monitor=watching, store=uri, action="flag", suspicious_cost=1)
        for _ in range(2)
    )
    rows = variants(GENUINE[0])
    old.predict(rows, account="mallory")
    new._open()
    assert new.stats()["history_rows"] == len(rows)
    more = variants(GENUINE[0], seed=1)
    np.testing.assert_array_equal(
        new.admit(more, account="mallory"), old.admit(more, account="mallory")
    )


def test_a_store_that_fails_at_the_start_is_asked_again(tmp_path, caplog):
    guarded = watched("flag", store=f"sqlite:///{tmp_path}/no/folder/guard.db")
    guarded._open()
    assert "the store of a guard failed: sqlite" in caplog.text
    assert refusal(guarded.predict, X[:1]).reason == "unavailable"
    (tmp_path / "no" / "folder").mkdir(parents=True)
    guarded.predict(X[:1])


@EVERY_STORE
def test_limit_is_exact_under_threads(uri):
    guarded = guard(limit="50/hour", store=uri)
    start = threading.Barrier(8)

    def ask(_):
        start.wait()
        passed = 0
        for _ in range(15):
            try:
                guarded.predict(X[:1], account="a")
                passed += 1
            except QueryRefused:
                pass
        return passed

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(ask, range(8))) == 50
    assert guarded.stats()["calls"] == 120


@SHARED_STORE
def test_limit_is_exact_over_processes(uri):
    blob = pickle.dumps(guard(limit="40/hour", store=uri))
    assert sum(in_processes(ask_until_refused, *[(blob, X[:1], 25)] * 4)) == 40


def test_state_is_neither_cloned_nor_pickled(tmp_path):
    guarded = watched("flag", limit="20/hour")
    guarded.predict(variants(GENUINE[0]), account="m")
    assert guarded.stats()["history_rows"] == 20
    before = set(vars(guarded))
    refusal(guarded.predict, X[:1], account="m")
    assert set(vars(guarded)) == before
    assert not any("gate" in name or "watch" in name for name in before)
    joblib.dump(guarded, tmp_path / "guarded.joblib")
    for twin in (
        clone(guarded),
        pickle.loads(pickle.dumps(guarded)),
        joblib.load(tmp_path / "guarded.joblib"),
    ):
        assert twin.predict(X[:20], account="m").shape == (20,)
        assert twin.stats()["history_rows"] == 20
        assert twin.stats()["calls"] == 1
    # the state of the one pickled is still there
    refusal(guarded.predict, X[:1], account="m")
    # fit begins anew
    guarded.fit(X[:100])
    guarded.predict(X[:20], account="m")


def test_names_of_accounts_are_hashed_in_the_store(tmp_path, monkeypatch):
    monkeypatch.setenv("MY_SECRET", "open sesame open sesame")
    guarded = guard(
        limit="9/hour", store=f"sqlite:///{tmp_path}/guard.db", secret="MY_SECRET"
    )
    guarded.predict(X[:1], account="alice in wonderland")
    written = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"alice" not in written and b"sesame" not in written
    assert "sesame" not in repr(guarded) and b"sesame" not in pickle.dumps(guarded)
    monkeypatch.setenv("MY_SECRET", "open barley open barley")
    other = clone(guarded)
    other.predict(X[:9], account="alice in wonderland")  # another key, another account


def test_no_secret_is_needed_to_share_a_limit(tmp_path, monkeypatch):
    monkeypatch.delenv("UNSET", raising=False)
    monkeypatch.setattr(_secrets, "_warned", set())
    where = f"sqlite:///{tmp_path}/guard.db"
    one, two = (guard(limit="2/hour", store=where, secret="UNSET") for _ in range(2))
    one.predict(X[:1], account="a")
    two.predict(X[:1], account="a")
    refusal(one.predict, X[:1], account="a")


@pytest.mark.parametrize("routing", [False, True])
def test_account_through_a_pipeline(routing):
    with config_context(enable_metadata_routing=routing):
        pipe = make_pipeline(FunctionTransformer(), guard(limit="2/hour"))
        pipe.fit(X[:300], y[:300])
        pipe.predict(X[:2], account="a")
        refusal(pipe.predict, X[:1], account="a")
        pipe.predict_proba(X[:1], account="b")
        request = pipe[-1].get_metadata_routing()
        assert request.predict.requests["account"] is True
        assert request.predict_proba.requests["account"] is True


def test_parameters_of_a_guard_in_use_take_effect_at_once():
    guarded = guard(limit="3/hour")
    guarded.predict(X[:3], account="alice")
    assert refusal(guarded.predict, X[:1], account="alice").reason == "rate"
    guarded.set_params(action="flag", delay=2.0, limit="".join("3/hour"))
    # which began nothing anew
    assert refusal(guarded.predict, X[:1], account="alice").reason == "rate"
    guarded.set_params(limit="5/hour")
    guarded.predict(X[:5], account="alice")
    with pytest.raises(ValueError, match="'action' parameter"):
        guarded.set_params(limit=None, action="rejct")
    assert guarded.get_params()["limit"] == "5/hour" and guarded.action == "flag"
    assert refusal(guarded.predict, X[:1], account="alice").reason == "rate"
    other = LogisticRegression().fit(X[:200, :32], y[:200])
    guarded.set_params(estimator=FrozenEstimator(other), monitor=None)
    assert len(guarded.predict(X[:5, :32], account="alice")) == 5
    assert guarded.n_features_in_ == 32
    guarded.set_params(estimator__estimator=model)
    assert len(guarded.predict(X[:5], account="alice")) == 5


def test_parameters_of_a_guard_that_fits_wait_for_the_next_fit():
    guarded = guard(limit="1/hour").set_params(estimator=LogisticRegression(C=0.1))
    guarded.set_params(action="rejct")  # nothing is in use
    guarded.set_params(action="flag").fit(X[:200], y[:200])
    before = guarded.estimator_
    guarded.set_params(estimator=LogisticRegression(C=9.0), limit=None)
    assert guarded.estimator_ is before
    for _ in range(3):
        guarded.predict(X[:1])


def test_rows_of_an_axis_too_many():
    with pytest.raises(ValueError, match="dim <= 2 is required by GuardedClassifier"):
        guard().predict(X[:2, :, None])
    # a transformer of one's own may make rows of images, and does not say so
    flat = FunctionTransformer(lambda rows: rows.reshape(len(rows), -1))
    images = make_pipeline(flat, model)
    found = GuardedClassifier(FrozenEstimator(images)).predict(X[:9].reshape(9, 8, 8))
    np.testing.assert_array_equal(found, model.predict(X[:9]))


def test_fits_model_and_monitor():
    guarded = GuardedClassifier(
        LogisticRegression(max_iter=500),
        monitor=SimilarQueryDetector(false_positive_rate=0.01, random_state=0),
        action="flag",
    )
    with pytest.raises(NotFittedError):
        guarded.predict(X[:1])
    guarded.fit(X[:500], y[:500])
    assert guarded.monitor_ is not guarded.monitor
    assert guarded.admit(variants(GENUINE[0]), account="m")[10:].all()
    # a monitor that is to be fitted makes a frozen model wait for fit
    waiting = clone(guarded).set_params(estimator=frozen)
    with pytest.raises(NotFittedError):
        waiting.predict(X[:1])
    waiting.fit(X[:500])
    assert waiting.estimator_ is frozen
    assert waiting.admit(variants(GENUINE[0]), account="m")[10:].all()


def test_frames():
    frame = pd.DataFrame(X, columns=[f"pixel {i}" for i in range(64)])
    guarded = GuardedClassifier(
        LogisticRegression(max_iter=500),
        monitor=SimilarQueryDetector(false_positive_rate=0.01, random_state=0),
        action="flag",
    ).fit(frame[:500], y[:500])
    assert guarded.feature_names_in_.tolist() == frame.columns.tolist()
    assert guarded.predict(frame[500:520], account="a").shape == (20,)
    with pytest.raises(ValueError, match="feature names should match"):
        guarded.predict(frame.iloc[:2, ::-1])


class Fragile(ClassifierMixin, BaseEstimator):
    def fit(self, X, y):
        self.classes_ = np.unique(y)
        return self

    def predict(self, X):
        raise KeyError("salary")


def test_what_breaks_the_model_is_remembered_and_tells_nothing():
    inner = FrozenEstimator(Fragile().fit(X, y))
    guarded = GuardedClassifier(inner, monitor=monitor, action="flag")
    for row in variants(GENUINE[0]):
        with pytest.raises(RuntimeError, match=r"could not answer this input\.$"):
            guarded.predict(row[None], account="m")
    assert guarded.stats()["suspicious_rows"] >= 10


@pytest.mark.filterwarnings("ignore:.* held-out rows cannot tell:UserWarning")
def test_around_a_classifier_that_rejects():
    detector = DropoutUncertaintyDetector(n_passes=5, random_state=0)
    net = small_net(module__n_classes=10, max_epochs=2)
    rejecting = RejectingClassifier(net, detector).fit(X[:300], y[:300])
    guarded = GuardedClassifier(
        FrozenEstimator(rejecting), monitor=monitor, action="decoy", limit="99/hour"
    )
    np.testing.assert_array_equal(
        guarded.predict(X[:9], account="a"), rejecting.predict(X[:9])
    )
    assert not hasattr(guarded, "predict_proba")


def test_views_look_straight_through():
    rows = torch.tensor(X[:5])
    torch.testing.assert_close(
        as_module(GuardedClassifier(FrozenEstimator(ConcealedClassifier(frozen))))(
            rows
        ),
        as_module(model)(rows),
    )


def test_plot():
    guarded = watched("flag")
    guarded.predict(variants(GENUINE[0]), account="m")
    ax = guarded.plot_account("m")
    passed, suspicious = (line.get_ydata() for line in ax.lines[:2])
    assert len(passed) + len(suspicious) == 20 and len(suspicious) >= 10
    assert max(suspicious) < guarded.monitor_.offset_ <= min(passed)
    assert guarded.plot_account("nobody", ax=ax) is ax
    plt.close(ax.figure)
    with pytest.raises(ValueError, match="no monitor"):
        guard().plot_account("m")


def test_plot_without_matplotlib(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r"sk_advdef\[plot\]"):
        watched("flag").plot_account("m")


def test_accounts_of_numpy_are_logged(caplog):
    caplog.set_level(logging.WARNING, "sk_advdef.audit")
    guarded = guard(limit="1/hour")
    guarded.predict(X[:1], account=np.int64(7))
    with pytest.raises(QueryRefused):
        guarded.predict(X[:1], account=[np.int64(7)])
    assert [json.loads(r.getMessage())["accounts"] for r in caplog.records] == [[7]]


def test_scores_for_plots_are_bounded(monkeypatch):
    from sk_advdef.concealment import _gate

    monkeypatch.setattr(_gate, "RECENT_ACCOUNTS", 3)
    guarded = watched("flag")
    guarded.predict(X[:9], account=list("abcdefghi"))
    assert len(guarded._gate()._recent) == 3
    assert len(guarded._gate().recent("i")) == 1
    assert guarded._gate().recent("a").shape == (0, 2)


def test_the_latest_scores_are_kept_in_order():
    kept = RecentScores(accounts=2, scores=1000)
    for second in range(2345):
        kept.add(b"a", second, -second)
        found = kept.of(b"a")
        assert len(found) == min(second + 1, 1000)
        assert found[-1].tolist() == [second, -second]
    assert np.array_equal(found[:, 0], np.arange(1345, 2345))
    assert np.array_equal(found[:, 1], -found[:, 0])


def test_latest_scores_take_few_bytes():
    kept = RecentScores(accounts=100, scores=1000)
    tracemalloc.start()
    try:
        for time in range(150_000):
            kept.add(b"%d" % (time % 150), float(time), time / 7)
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert len(kept) == 100
    assert held < 100 * 1000 * 20 + 100_000


@pytest.mark.parametrize(
    "bad, message",
    [
        ({"limit": "many"}, "'limit' parameter"),
        ({"limit": "9/day", "burst": 0}, "'burst' parameter"),
        ({"action": "ban"}, "'action' parameter"),
        ({"store": "file"}, "'store' parameter"),
        ({"on_store_failure": "ajar"}, "'on_store_failure' parameter"),
        ({"suspicious_cost": 0.5}, r"'suspicious_cost' .* \[1, inf\) or None"),
        ({"delay": -1}, "'delay' parameter"),
        ({"allow": "lime"}, "'allow' parameter .* a sequence of accounts"),
        ({"allow": (1.5,)}, "'allow' parameter"),
        ({"allow": iter(["alice"])}, "'allow' parameter"),
        ({"allow": np.array("alice")}, "'allow' parameter"),
        ({"allow": torch.tensor(1.0)}, "'allow' parameter .* a sequence of accounts"),
        ({"log_inputs": 1}, "'log_inputs' parameter"),
        ({"clock": 0}, "'clock' parameter"),
        ({"monitor": LogisticRegression()}, "'monitor' parameter"),
    ],
)
def test_bad_parameters(bad, message):
    with pytest.raises(ValueError, match=message):
        GuardedClassifier(LogisticRegression(max_iter=500)).set_params(**bad).fit(X, y)
    if "monitor" not in bad:
        with pytest.raises(ValueError, match=message):
            GuardedClassifier(frozen).set_params(**bad).predict(X[:1])


def test_bad_accounts():
    for bad in (1.5, [["a"], ["b"]], [1.5, 2.5]):
        with pytest.raises(
            ValueError, match="'account' parameter of GuardedClassifier"
        ):
            guard(limit="9/hour").predict(X[:2], account=bad)


def test_the_message_of_a_refusal_names_no_reason():
    refused = QueryRefused("similar", 60.0)
    assert "similar" not in str(refused) and "60 seconds" in str(refused)
    again = pickle.loads(pickle.dumps(refused))
    assert (again.reason, again.retry_after) == ("similar", 60.0)


def test_parameters_that_are_refused_leave_all_as_it_was():
    guarded = GuardedClassifier(frozen, limit="1000/hour", burst=1000)
    guarded.predict(X[:1], account="a")
    for bad in ({"nonsense": 1}, {"delay": -1}, {"estimator__nonsense": 1}):
        with pytest.raises(ValueError):
            guarded.set_params(limit="1/hour", burst=1, **bad)
        assert (guarded.limit, guarded.burst) == ("1000/hour", 1000)
    guarded.set_params(limit="1/hour", burst=1)
    guarded.predict(X[:1], account="a")
    with pytest.raises(QueryRefused):
        guarded.predict(X[:1], account="a")


def test_what_is_refused_within_is_as_it_was():
    watching = SimilarQueryDetector(false_positive_rate=0.05, random_state=0)
    guarded = GuardedClassifier(frozen, monitor=watching, action="flag").fit(X, y)
    with pytest.raises(ValueError, match="'limit'"):
        guarded.set_params(monitor__scope="account", limit="never")
    assert guarded.monitor.scope == SimilarQueryDetector().scope != "account"
    assert guarded.limit is None


def test_a_decoy_of_another_model_is_no_class_of_this():
    """Models of other classes may share a monitor and its log."""
    guarded = watched("decoy")
    notes = np.array(
        [-1, 0, len(guarded.classes_) - 1, len(guarded.classes_), 2**31 - 1]
    )
    assert guarded._are_classes(notes).tolist() == [False, True, True, False, False]


def test_a_call_without_the_store_counts_once(tmp_path, monkeypatch):
    guarded = watched("flag", store=f"sqlite:///{tmp_path}/guard.db")
    guarded.set_params(limit="99/hour", on_store_failure="open")
    monkeypatch.setattr(
        "sk_advdef.concealment._sqlite_store.SqliteStore._open", failing_store
    )
    for asked in range(1, 4):
        guarded.predict(X[:2], account="alice")
        assert guarded.stats()["answered_without_store"] == asked


def failing_store(self):
    raise OSError("gone")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("store", ["memory://", "sqlite"])
def test_forks_while_threads_are_watched(store, tmp_path):
    uri = store if "//" in store else f"sqlite:///{tmp_path}/guard.db"
    guarded, stop = watched("flag", store=uri, limit="1000000/day"), threading.Event()

    def ask(name):
        for row in GENUINE:
            if stop.is_set():
                return
            guarded.predict(row[None], account=name)

    guarded.predict(X[:1], account="first")
    threads = [threading.Thread(target=ask, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    ends = []
    for _ in range(8):
        child = os.fork()
        if child == 0:
            signal.alarm(20)  # which ends who hangs
            told = guarded.predict(X[:1], account="first") == model.predict(X[:1])
            os._exit(0 if told.all() else 1)
        ends.append(os.waitpid(child, 0)[1])
        time.sleep(0.02)
    stop.set()
    for thread in threads:
        thread.join()
    assert ends == [0] * 8
    guarded.predict(X[:1], account="last")
