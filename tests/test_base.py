import copy
import pickle
import re
import warnings

import joblib
import numpy as np
import pytest
from sklearn import config_context
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.svm import SVC
from sklearn.utils.metadata_routing import MetadataRequest

import sk_advdef
from sk_advdef import (
    PGD,
    AdversariallyAugmentedClassifier,
    BitDepthSqueezer,
    BlurSqueezer,
    ConcealedClassifier,
    DensityDetector,
    DistilledClassifier,
    Downscaler,
    RejectingClassifier,
)
from sk_advdef._torch._net import NetClassifier

X = np.random.default_rng(0).normal(size=(4, 10))
STAMP = "_sk_advdef_version"


@pytest.fixture(params=[BlurSqueezer(), Downscaler(restore=False), BitDepthSqueezer()])
def fitted(request):
    return clone(request.param).fit(X)


@pytest.mark.parametrize(
    "around, name",
    [
        (lambda inner: DistilledClassifier(inner), "estimator"),
        (lambda inner: DistilledClassifier(SVC(), teacher=[SVC(), inner]), "teacher"),
        (lambda inner: AdversariallyAugmentedClassifier(inner), "estimator"),
        (lambda inner: ConcealedClassifier(inner), "estimator"),
        (lambda inner: RejectingClassifier(inner, DensityDetector()), "estimator"),
        (lambda inner: DensityDetector(inner), "estimator"),
        (lambda inner: DensityDetector(make_pipeline(inner)), "estimator"),
    ],
)
def test_metadata_that_is_not_passed_on_is_refused(around, name):
    plain = LogisticRegression()
    with config_context(enable_metadata_routing=True):
        for asks in (plain, clone(plain).set_fit_request(sample_weight=False)):
            assert isinstance(around(asks).get_metadata_routing(), MetadataRequest)
        for wanted in (True, "weight"):
            asks = clone(plain).set_fit_request(sample_weight=wanted)
            message = f"the fit of its {name} asks for sample_weight"
            with pytest.raises(NotImplementedError, match=message):
                around(asks).get_metadata_routing()
            search = GridSearchCV(around(asks), {}, scoring=lambda *_: 0.0)
            with pytest.raises(NotImplementedError, match=message):
                search.fit(X, [0, 1, 0, 1], sample_weight=np.ones(4))
        around(FrozenEstimator(asks)).get_metadata_routing()


def test_same_version_is_silent(fitted, tmp_path):
    joblib.dump(fitted, tmp_path / "fitted.joblib")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        opened = [
            pickle.loads(pickle.dumps(fitted)),
            joblib.load(tmp_path / "fitted.joblib"),
            copy.deepcopy(fitted),
        ]
    for again in opened:
        np.testing.assert_array_equal(again.transform(X), fitted.transform(X))
        assert vars(again).keys() == vars(fitted).keys()
        assert STAMP not in vars(again)
        # What was opened can be saved in turn.
        assert again.__getstate__()[STAMP] == sk_advdef.__version__


def test_stamping_leaves_the_estimator_alone(fitted):
    before = dict(vars(fitted))
    state = fitted.__getstate__()
    assert state[STAMP] == sk_advdef.__version__
    kept = dict(state)
    clone(fitted).__setstate__(state)
    assert state == kept
    assert vars(fitted) == before


def test_other_version_warns_and_still_opens(fitted, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("sk_advdef._base.__version__", "0.0.0a1")
        written = pickle.dumps(fitted)
    name, here = type(fitted).__name__, sk_advdef.__version__
    message = (
        f"This {name} was pickled by sk_advdef 0.0.0a1 and is opened by {here}: it may "
        "not work, or answer otherwise. Fit and save it again with the version in use."
    )
    with pytest.warns(UserWarning, match=f"^{re.escape(message)}$") as caught:
        opened = pickle.loads(written)
    assert len(caught) == 1
    np.testing.assert_array_equal(opened.transform(X), fitted.transform(X))
    assert STAMP not in vars(opened)


def test_missing_stamp_warns(fitted):
    state = fitted.__getstate__()
    del state[STAMP]
    opened = type(fitted)()
    with pytest.warns(UserWarning, match="pickled by sk_advdef an unknown version"):
        opened.__setstate__(state)
    np.testing.assert_array_equal(opened.transform(X), fitted.transform(X))


@pytest.mark.parametrize("docs", ["https://docs.example/{v}", "file:///docs/html/"])
@pytest.mark.parametrize("estimator", [BlurSqueezer(), PGD(0.1)])
def test_diagrams_link_to_our_docs(monkeypatch, estimator, docs):
    monkeypatch.setenv("SK_ADVDEF_DOCS", docs)
    page = f"generated/sk_advdef.{type(estimator).__name__}.html"
    link = f"{docs.rstrip('/')}/{page}"
    assert estimator._get_doc_link() == link
    assert link in estimator._repr_html_()
    # what has no page has no link
    assert NetClassifier(None)._get_doc_link() == ""


@pytest.mark.parametrize("estimator", [BlurSqueezer(), PGD(0.1)])
def test_an_address_is_an_address_and_nothing_else(monkeypatch, estimator):
    for docs in ("javascript:alert(1)//", " https://a", "data:text/html,", "docs", "/"):
        monkeypatch.setenv("SK_ADVDEF_DOCS", docs)
        assert estimator._get_doc_link() == ""
    hostile = "https://a/\"' onload=alert(1)><script>alert(1)</script>\n"
    monkeypatch.setenv("SK_ADVDEF_DOCS", hostile)
    assert not set("<>\"' \n") & set(estimator._get_doc_link())
    assert "<script>alert" not in estimator._repr_html_()


@pytest.mark.parametrize("estimator", [BlurSqueezer(), PGD(0.1)])
def test_diagrams_do_not_link_to_another_site(monkeypatch, estimator):
    monkeypatch.delenv("SK_ADVDEF_DOCS", raising=False)
    assert estimator._get_doc_link() == ""
    assert 'href="http' not in estimator._repr_html_()
