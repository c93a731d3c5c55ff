import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression

from sk_advdef import SimilarQueryDetector
from sk_advdef.concealment import _secrets
from sk_advdef.concealment._comparing import digest_of
from sk_advdef.concealment._memory_store import MemoryStore
from sk_advdef.concealment._store import open_store
from tests.concealment._stores import SHARED_STORE, in_processes

X = load_digits().data / 16
X = X[np.random.default_rng(0).permutation(len(X))]
CALIBRATION, GENUINE = X[:1000], X[1000:]
METHODS = ("knn", "fingerprint", "provenance")
EVERY_METHOD = pytest.mark.parametrize("method", METHODS)
TOO_FEW = "ignore:.* held-out rows cannot tell:UserWarning"


def make(method="knn", **params):
    given = {"method": method, "false_positive_rate": 0.01, "random_state": 0}
    return SimilarQueryDetector(**given | params)


@pytest.fixture(scope="module")
def fitted():
    """Fitted detectors; clones of their state are cheap, fits are not."""
    return {method: make(method).fit(CALIBRATION) for method in METHODS}


@pytest.fixture
def detector(method, fitted):
    return pickle.loads(pickle.dumps(fitted[method]))


def variants(row, n=20, eps=0.02, seed=0):
    rng = np.random.default_rng(seed)
    return row + rng.uniform(-eps, eps, (n, *row.shape))


@EVERY_METHOD
def test_genuine_rows_pass_and_variants_do_not(detector):
    scores = detector.observe(GENUINE, account="alice")
    # 797 rows at a rate of 1 %: 8 are expected, 20 are beyond four deviations
    assert (scores < detector.offset_).sum() <= 20
    flagged = detector.observe(variants(GENUINE[0]), account="m") < detector.offset_
    assert not flagged[0] and flagged[10:].all()
    assert flagged.argmax() <= 9


@EVERY_METHOD
def test_empty_history_is_genuine_and_finite(detector):
    for scores in (detector.score_samples(GENUINE), detector.decision_function(X)):
        assert np.isfinite(scores).all() and scores.dtype == np.float64
    assert (detector.predict(GENUINE) == 1).all()
    assert detector.history_stats()["rows"] == 0


@EVERY_METHOD
def test_reading_changes_nothing(detector):
    detector.observe(variants(GENUINE[0]), account="m")
    before = detector.history_stats()
    first = detector.decision_function(variants(GENUINE[0], seed=1))
    np.testing.assert_array_equal(
        detector.decision_function(variants(GENUINE[0], seed=1)), first
    )
    np.testing.assert_allclose(
        detector.score_samples(variants(GENUINE[0], seed=1)), first + detector.offset_
    )
    np.testing.assert_array_equal(
        detector.predict(variants(GENUINE[0], seed=1)), np.where(first < 0, -1, 1)
    )
    assert (first < 0).mean() > 0.8
    assert detector.history_stats() == before


@EVERY_METHOD
def test_observe_scores_row_by_row(detector):
    """One call of many rows is as many calls of one row."""
    rows = np.concatenate([variants(GENUINE[0]), GENUINE[:20], GENUINE[:20]])
    accounts = ["a", "b"] * 30
    twin = pickle.loads(pickle.dumps(detector))
    together = detector.observe(rows, account=accounts)
    single = [
        twin.observe(row[None], account=account)[0]
        for row, account in zip(rows, accounts, strict=True)
    ]
    np.testing.assert_array_equal(together, single)


@EVERY_METHOD
def test_retries_are_no_evidence(detector):
    rows = GENUINE[:5]
    first = detector.observe(rows, account="alice")
    for _ in range(20):
        again = detector.observe(rows, account="alice")
        np.testing.assert_array_equal(again, first)
    assert detector.history_stats()["rows"] == 5
    # a float32 that holds the same numbers is the same row, and so is -0.0
    narrow = rows.astype(np.float32)
    assert (narrow == rows).all()
    detector.observe(narrow, account="alice")
    detector.observe(np.where(rows == 0, -0.0, rows), account="alice")
    assert detector.history_stats()["rows"] == 5
    # the last bit is another row
    detector.observe(np.nextafter(rows, 9), account="alice")
    assert detector.history_stats()["rows"] == 10


@EVERY_METHOD
def test_the_last_bit_is_no_way_round(detector):
    row = np.tile(GENUINE[0], (20, 1))
    row[:, 10] = np.nextafter(row[:, 10], 1) + 1e-12 * np.arange(20)
    flagged = detector.observe(row, account="m") < detector.offset_
    assert flagged[9:].all()


@EVERY_METHOD
def test_seeding_copies_of_a_victims_rows_flags_nobody_else(method, fitted):
    detector = pickle.loads(pickle.dumps(fitted[method]))
    for i in range(10):
        detector.observe(variants(GENUINE[i], seed=i), account=f"mallory {i}")
    victim = detector.observe(GENUINE[:10], account="alice")
    assert (victim >= detector.offset_).all()
    shared = clone(fitted[method]).set_params(scope="shared").fit(CALIBRATION)
    for i in range(10):
        shared.observe(variants(GENUINE[i], seed=i), account=f"mallory {i}")
    assert (shared.observe(GENUINE[:10], account="alice") < shared.offset_).all()


@pytest.mark.parametrize("method", ["knn", "provenance"])
def test_many_accounts_are_noticed_from_their_second_query_on(detector):
    rows = variants(GENUINE[0], n=60, eps=0.005)
    accounts = [f"account {i // 2}" for i in range(60)]
    flagged = detector.observe(rows, account=accounts) < detector.offset_
    assert not flagged[::2].any()
    assert flagged[21::2].all()


@EVERY_METHOD
def test_state_is_neither_cloned_nor_pickled_and_ends_with_fit(detector):
    detector.observe(variants(GENUINE[0]), account="m")
    assert detector.history_stats()["rows"] == 20
    assert pickle.loads(pickle.dumps(detector)).history_stats()["rows"] == 0
    assert detector.history_stats()["rows"] == 20
    assert clone(detector).fit(CALIBRATION).history_stats()["rows"] == 0
    assert detector.fit(CALIBRATION).history_stats()["rows"] == 0


def test_secrets_are_in_no_pickle_repr_or_attribute(monkeypatch):
    monkeypatch.setenv("MY_SECRET", "open sesame open sesame")
    detector = make("fingerprint", secret="MY_SECRET").fit(CALIBRATION)
    detector.observe(GENUINE[:5])
    key = detector._watch().key
    assert len(key) == 32
    salt = detector._watch().coder._salt
    for text in (pickle.dumps(detector), repr(vars(detector)).encode()):
        for secret in (b"open sesame", key, salt.tobytes(), salt[:3].tobytes()):
            assert secret not in text
    # other salts, other fingerprints
    monkeypatch.setenv("MY_SECRET", "open barley open barley")
    other = pickle.loads(pickle.dumps(detector))
    a, b = (d._codes(GENUINE[:1], d._watch())[0] for d in (detector, other))
    assert len(np.intersect1d(a, b)) == 0


def test_unset_secret_warns(monkeypatch):
    monkeypatch.setattr(_secrets, "_warned", set())
    monkeypatch.delenv("MY_SECRET", raising=False)
    with pytest.warns(UserWarning, match="MY_SECRET is not set"):
        make("fingerprint", secret="MY_SECRET").fit(CALIBRATION)
    make("knn", secret="ANOTHER_SECRET").fit(CALIBRATION)  # needs none


@EVERY_METHOD
def test_false_positives_at_the_stated_history(method, fitted):
    """The rate holds on new rows, for the history that it was made for."""
    stated = make(method, history_size=300, false_positive_rate=0.05).fit(CALIBRATION)
    stated.observe(GENUINE[:300], account="a")
    share = (stated.predict(GENUINE[300:]) == -1).mean()
    assert share <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 497)
    # thresholds for longer histories are lower
    if method != "fingerprint":
        longer = make(method, false_positive_rate=0.05).fit(CALIBRATION)
        assert longer.offset_ < stated.offset_


@EVERY_METHOD
@pytest.mark.filterwarnings(TOO_FEW)
def test_too_few_rows_flag_nothing(method):
    detector = make(method, false_positive_rate=0.001).fit(CALIBRATION[:50])
    scores = detector.observe(variants(GENUINE[0]), account="m")
    assert (scores >= detector.offset_).all() and np.isfinite(detector.offset_)
    with pytest.warns(UserWarning, match="At least 999 are needed"):
        make(method, false_positive_rate=0.001).fit(CALIBRATION[:50])


@EVERY_METHOD
@pytest.mark.filterwarnings(TOO_FEW)
@pytest.mark.parametrize("rows", [X[:1], np.tile(X[:1], (30, 1)), X[:30] * 0])
def test_hardly_any_data(method, rows):
    detector = make(method).fit(rows)
    assert np.isfinite(detector.observe(GENUINE[:10])).all()
    assert np.isfinite(detector.decision_function(GENUINE[:10])).all()


def images(n, seed=0):
    """Smooth images of three channels, no two alike."""
    rng = np.random.default_rng(seed)
    coarse = rng.random((n, 4, 4, 3))
    return coarse.repeat(4, axis=1).repeat(4, axis=2) + 0.1 * rng.random((n, 16, 16, 3))


def test_stacked_images_have_fingerprints():
    detector = make("auto").fit(images(150))
    assert detector.method_ == "fingerprint" and detector.window_ in (8, 20, 50)
    genuine = detector.observe(images(100, 1), account="alice")
    assert (genuine >= detector.offset_).mean() > 0.95
    attacked = detector.observe(variants(images(1, 2)[0], eps=0.005), account="m")
    assert (attacked[3:] < detector.offset_).all()
    with pytest.raises(ValueError, match=r"rows of shape \(16, 16\), but Similar"):
        detector.predict(images(2)[..., 0])
    assert make("auto").fit(CALIBRATION).method_ == "knn"
    assert make("knn").fit(images(150)).observe(images(5)).shape == (5,)


def test_uint8_images():
    whole = (255 * images(150) / 1.1).astype(np.uint8)
    detector = make("auto", value_range=(0, 255)).fit(whole)
    np.testing.assert_array_equal(
        detector.observe(whole[:9]), detector.observe(whole[:9].astype(float))
    )
    assert detector.history_stats()["rows"] == 9


def test_encoder():
    detector = make(encoder=PCA(5, random_state=0)).fit(CALIBRATION)
    assert detector.encoder_ is not detector.encoder and len(detector._mean) == 5
    flagged = detector.observe(variants(GENUINE[0])) < detector.offset_
    assert flagged[9:].all()
    # what the encoder does not see is no way round
    blind = np.linalg.svd(PCA(5, random_state=0).fit(CALIBRATION).components_)[2][-1]
    far = GENUINE[1] + 5 * np.arange(20)[:, None] * blind
    assert (detector.observe(far, account="m") < detector.offset_)[9:].all()
    frozen = FrozenEstimator(PCA(3).fit(CALIBRATION))
    assert make(encoder=frozen).fit(CALIBRATION).encoder_ is frozen


def test_one_feature_cannot_set_queries_apart_without_end():
    detector = make().fit(CALIBRATION)
    blinded = variants(GENUINE[0], n=40, eps=0.001)
    blinded[:, 0] = 1e9 * np.random.default_rng(0).normal(size=40)
    assert (detector.observe(blinded) < detector.offset_)[-10:].all()


def test_bounds_reach_the_history():
    detector = make(max_rows=30, account_quota=20).fit(CALIBRATION)
    detector.observe(GENUINE[:100], account="a")
    assert detector.history_stats()["rows"] == 20
    detector.observe(GENUINE[100:200], account="b")
    assert detector.history_stats()["rows"] == 30
    small = make("fingerprint", max_bytes=4000).fit(CALIBRATION)
    small.observe(GENUINE[:100])
    assert small.history_stats()["rows"] == 4000 // small._row_bytes()

    now = [0.0]
    aging = make(max_age=60.0, clock=lambda: now[0]).fit(CALIBRATION)
    aging.observe(GENUINE[:10])
    now[0] = 61.0
    aging.observe(GENUINE[10:11])
    assert aging.history_stats()["rows"] == 1


@EVERY_METHOD
def test_threads_lose_nothing(detector):
    start = threading.Barrier(8)

    def ask(i):
        start.wait()
        return [
            detector.observe(GENUINE[i::8][j : j + 7], account=i) for j in range(60)
        ]

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(8)))
    asked = {(i, tuple(row)) for i in range(8) for row in GENUINE[i::8][:66]}
    assert detector.history_stats()["rows"] == len(asked)
    assert detector.history_stats()["accounts"] == 8


def observe_with(uri, blob, rows, account):
    """Observe rows through a store, in another process."""
    detector, store = pickle.loads(blob), open_store("test", uri)
    watch = detector._make_watch(store)
    scores = []
    for row in rows:
        scores += detector._observe(row[None], [account], watch)
    store.close()
    return [one.score for one in scores], watch.history.stats()["rows"]


@SHARED_STORE
def test_processes_share_one_history(uri, fitted):
    """An attack that is spread over processes is seen as a whole, nothing twice."""
    detector = fitted["fingerprint"]
    blob, rows = pickle.dumps(detector), variants(GENUINE[0], n=24)
    calls = [(uri, blob, rows[i::4], "mallory") for i in range(4)]
    answers = in_processes(observe_with, *calls)
    flags = sum(s < detector.offset_ for scores, _ in answers for s in scores)
    # as in one process: all but the first few, in whatever order they came
    assert flags >= 24 - 9
    assert max(n for _, n in answers) == 24
    # who comes later reads all of it, and a repeat is still a repeat
    assert observe_with(uri, blob, rows[:1], "mallory")[1] == 24


@SHARED_STORE
def test_processes_agree_on_every_score(uri, fitted):
    detector, store = fitted["knn"], open_store("test", uri)
    one, two = (detector._make_watch(store) for _ in range(2))
    alone = detector._make_watch()
    for i, row in enumerate(np.concatenate([variants(GENUINE[0]), GENUINE[:20]])):
        which = one if i % 3 else two
        shared = detector._observe(row[None], ["a"], which)[0]
        assert shared == detector._observe(row[None], ["a"], alone)[0]
    store.close()


@pytest.mark.parametrize("method", ["knn", "provenance"])
def test_digests_are_secret_where_nothing_is_shared(method, tmp_path, monkeypatch):
    """Else two rows could be made of one digest, and one would hide the other."""
    monkeypatch.delenv("SK_ADVDEF_SECRET", raising=False)
    detector = make(method).fit(CALIBRATION)
    row = np.ascontiguousarray(GENUINE[0], dtype=np.float64)
    alone = detector._make_watch().key
    assert digest_of(row, alone) != digest_of(row, b"")
    assert detector._make_watch(MemoryStore()).key == alone
    store = open_store("test", f"sqlite:///{tmp_path}/guard.db")
    assert detector._make_watch(store).key == b""
    monkeypatch.setenv("SK_ADVDEF_SECRET", "open sesame open sesame")
    assert (
        detector._make_watch(store).key
        == detector._make_watch().key
        not in (
            alone,
            b"",
        )
    )
    store.close()


def test_fingerprints_in_a_shared_store_need_a_shared_secret(tmp_path, monkeypatch):
    monkeypatch.setenv("MY_SECRET", "open sesame open sesame")
    detector = make("fingerprint", secret="MY_SECRET").fit(CALIBRATION)
    store = open_store("test", f"sqlite:///{tmp_path}/guard.db")
    first = detector._make_watch(store)
    monkeypatch.delenv("MY_SECRET")
    with pytest.raises(ValueError, match="set the environment variable MY_SECRET"):
        detector._make_watch(store)
    # with another secret, another log
    monkeypatch.setenv("MY_SECRET", "open barley open barley")
    assert detector._make_watch(store)._stream != first._stream
    store.close()


@pytest.mark.parametrize(
    "bad, message",
    [
        ({"method": "lsh"}, "'method' parameter"),
        ({"scope": "all"}, "'scope' parameter"),
        ({"false_positive_rate": 0}, r"in \(0, 0.5\]"),
        ({"n_neighbors": 0}, "'n_neighbors' parameter"),
        ({"n_neighbors": None}, "'n_neighbors' parameter"),
        ({"sketch_size": 500}, "'sketch_size' parameter"),
        ({"quantization": 0.5}, "'quantization' parameter"),
        ({"max_rows": 0}, "'max_rows' parameter"),
        ({"max_bytes": 0}, "'max_bytes' parameter .* or None"),
        ({"max_age": 0}, "'max_age' parameter"),
        ({"history_size": 0}, "'history_size' parameter"),
        ({"history_size": 1000}, "needs 1001 rows in fit. Got 1000"),
        ({"window": 65, "method": "fingerprint"}, r"an int in \[1, 64\]"),
        ({"value_range": (1, 0)}, "'value_range' parameter"),
        ({"clock": 3}, "'clock' parameter"),
        ({"encoder": LogisticRegression()}, "'encoder' parameter .* a transformer"),
        ({"secret": 5, "method": "fingerprint"}, "name of an environment variable"),
    ],
)
def test_bad_parameters(bad, message):
    with pytest.raises(ValueError, match=message):
        make(**bad).fit(CALIBRATION)


def test_bad_accounts():
    detector = make().fit(CALIBRATION)
    with pytest.raises(ValueError, match="'account' parameter of Similar"):
        detector.observe(X[:2], account=[1.5, 2.5])
    with pytest.raises(ValueError, match="holds 1 accounts for 2 rows"):
        detector.observe(X[:2], account=["a"])
    assert detector.history_stats()["rows"] == 0
