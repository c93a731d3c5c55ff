"""Secrets, and what is made from them, are nowhere but in the memory that uses them."""

import base64
import copy
import io
import logging
import pickle
import traceback
import warnings
import zipfile
from hashlib import blake2b

import joblib
import pytest
from sklearn.datasets import load_digits
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression

from sk_advdef import (
    ConcealedClassifier,
    GuardedClassifier,
    QueryRefused,
    SimilarQueryDetector,
)
from sk_advdef.concealment import _secrets
from sk_advdef.concealment._store import StoreError, open_store

SECRET = "correct horse battery staple"
PASSWORD = "hunter2 and a half"
PURPOSES = ("accounts", "digests of queries", "noise of probabilities")

X, y = load_digits(return_X_y=True)
X = X / 16
model = FrozenEstimator(LogisticRegression(C=0.1, max_iter=1000).fit(X[:300], y[:300]))


def forms(*kept):
    """Return each as it may be written: bytes, hexadecimal digits, base64, repr."""
    for one in kept:
        raw = one.encode() if isinstance(one, str) else one
        yield from (raw, raw.hex().encode(), base64.b64encode(raw), repr(raw).encode())


def found(said, kept):
    """Return which of the forms are in what was said."""
    return [form for form in forms(*kept) if any(form in one for one in said)]


def saved(estimator):
    """Yield all bytes that an estimator may be written as."""
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        yield pickle.dumps(estimator, protocol)
    file = io.BytesIO()
    joblib.dump(estimator, file)
    yield file.getvalue()
    skops = pytest.importorskip("skops.io")
    with zipfile.ZipFile(io.BytesIO(skops.dumps(estimator))) as archive:
        yield from map(archive.read, archive.namelist())


def shown(estimator):
    """Yield all texts that an estimator shows itself in."""
    yield from (repr(estimator), str(estimator), estimator._repr_html_())
    yield from (repr(vars(estimator)), repr(estimator.get_params()))


@pytest.mark.parametrize("is_set", [True, False])
def test_nothing_written_or_said_holds_them(is_set, tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.DEBUG)
    monkeypatch.delenv(_secrets.VARIABLE, raising=False)
    if is_set:
        monkeypatch.setenv(_secrets.VARIABLE, SECRET)
    store = f"sqlite:///{tmp_path}/guard.db" if is_set else "memory://"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        guard = GuardedClassifier(
            FrozenEstimator(ConcealedClassifier(model, reveal="noisy")),
            monitor=SimilarQueryDetector(
                method="fingerprint", false_positive_rate=0.05, random_state=0
            ),
            limit="20/hour",
            store=store,
            log_inputs=True,
        ).fit(X[:100])
        said = []
        for rows in (X[:15], X[:1] + 0.001, X[:20]):
            try:
                said.append(repr(guard.predict_proba(rows, account="alice")))
            except QueryRefused as refused:
                said.append("".join(traceback.format_exception(refused)))
    assert sum(guard.stats()[f"refused_for_{what}"] for what in ("rate", "similarity"))

    watch = guard._gate().watch
    kept = [_secrets.key_from(guard, _secrets.VARIABLE, what) for what in PURPOSES]
    kept += [watch.key, watch.coder._salt[:3].tobytes(), _secrets._of_process]
    kept += [SECRET, blake2b(SECRET.encode(), digest_size=64).digest()]
    assert watch.key in kept[:3] and len(kept[0]) == 32

    for one in (guard, copy.deepcopy(guard), guard.monitor_, guard.estimator_):
        said += [*saved(one), *shown(one)]
    said += [repr(vars(part)) for part in (guard._gate(), guard.estimator_)]
    said = [one.encode() if isinstance(one, str) else one for one in said]
    said += [path.read_bytes() for path in tmp_path.iterdir()]
    said += [f"{r.getMessage()} {vars(r)}".encode() for r in caplog.records]
    said += [str(one.message).encode() for one in caught]
    assert caplog.records and caught

    # the gate itself needs the key of accounts, in memory only
    gate = [i for i, one in enumerate(said) if b"_recent" in one]
    assert len(gate) == 1
    assert bool(found([said.pop(gate[0])], kept)) is is_set
    assert not found(said, kept)
    # each form would be found
    assert len(found(forms(*kept), kept)) == 4 * len(kept)


class Refusing:
    """A server that is not there."""


def test_a_password_is_not_said(monkeypatch, caplog):
    pytest.importorskip("redis")
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("MY_PASSWORD", PASSWORD)
    uri = "redis://127.0.0.1:1/0?password_env=MY_PASSWORD&timeout=1"
    store = open_store(Refusing(), uri)
    said = [repr(store._client), repr(store._client.connection_pool), repr(vars(store))]
    with pytest.raises(StoreError) as caught:
        store.hit({b"a": 1}, 1)
    said += traceback.format_exception(caught.value)
    guard = GuardedClassifier(model, limit="9/hour", store=uri)
    with pytest.raises(QueryRefused) as refused:
        guard.predict(X[:1])
    said += [*traceback.format_exception(refused.value), *shown(guard)]
    said += [f"{record.getMessage()} {vars(record)}" for record in caplog.records]
    assert any("the store of a guard failed" in one for one in said)
    assert PASSWORD not in "".join(said)
    assert not found(list(saved(guard)), [PASSWORD])


@pytest.mark.parametrize(
    "make",
    [
        lambda value: ConcealedClassifier(model, reveal="noisy", secret=value),
        lambda value: GuardedClassifier(model, secret=value),
        lambda value: SimilarQueryDetector(secret=value),
    ],
)
@pytest.mark.parametrize(
    "value",
    [SECRET, "0f" * 16, "a" * 24, "$HOME", "", "a=b", "é", b"NAME", None],
)
def test_a_secret_in_the_place_of_its_name_is_not_repeated(make, value):
    with pytest.raises(ValueError, match=r"'secret' parameter .* not shown") as caught:
        make(value).fit(X[:50], y[:50])
    said = "".join(traceback.format_exception_only(caught.value))
    assert not value or str(value) not in said


@pytest.mark.parametrize(
    "uri",
    [
        f"redis://host/0?password={PASSWORD}",
        f"redis://host/0?password_env={PASSWORD}",
        f"redis://host/0?password_env={'0f' * 16}",
        f"redis://host/0?{PASSWORD}",
        f"redis://host/0?timeout={PASSWORD}",
        f"redis://:{PASSWORD}@host/0",
        f"redis://user:{PASSWORD}@[host/0",
        f"redis://user:{PASSWORD}@host:port/0",
        f"user:{PASSWORD}@host",
        f"http://user:{PASSWORD}@host",
    ],
)
def test_a_password_in_a_uri_is_not_repeated(uri):
    with pytest.raises(ValueError, match="'store' parameter of Refusing") as caught:
        open_store(Refusing(), uri)
    said = "".join(traceback.format_exception(caught.value))
    assert PASSWORD not in said and uri.rpartition("=")[2] not in said
