"""What detectors and their scorer remember, and what makes them forget."""

import ctypes
import pickle
import random
import sys
import threading
import tracemalloc
import warnings

import joblib
import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsClassifier

from sk_advdef import (
    PGD,
    BitDepthSqueezer,
    DensityDetector,
    DropoutUncertaintyDetector,
    FeatureSqueezingDetector,
    make_detection_scorer,
)
from sk_advdef._torch._fingerprint import fingerprint
from sk_advdef._torch._net import NetClassifier
from tests._instances import make_rows, small_net

X, y = make_rows(n_samples=240)
ATTACK = PGD(3.0, steps=5, bounds=None, random_state=0)
SQUEEZERS = [("bits", BitDepthSqueezer(2, value_range=(-9, 9)))]
DETECTORS = {
    "dropout": DropoutUncertaintyDetector(
        small_net(max_epochs=2), n_passes=8, random_state=0
    ),
    "density": DensityDetector(LogisticRegression(max_iter=1000), random_state=0),
    "squeezing": FeatureSqueezingDetector(squeezers=SQUEEZERS, random_state=0),
}
every_detector = pytest.mark.parametrize("name", DETECTORS)


@pytest.fixture(autouse=True)
def few_rows():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Only .* attacks succeeded")
        warnings.filterwarnings("ignore", "Persisting input arguments")
        yield


def counted(monkeypatch, cls, method):
    """Count the calls of a method."""
    calls, original = [], getattr(cls, method)

    def call(self, *args):
        calls.append(method)
        return original(self, *args)

    monkeypatch.setattr(cls, method, call)
    return calls


@every_detector
def test_remembered_is_the_same(name, tmp_path):
    plain = clone(DETECTORS[name]).fit(X, y)
    for _ in range(2):
        kept = clone(DETECTORS[name]).set_params(memory=str(tmp_path)).fit(X, y)
        for method in ("score_samples", "predict"):
            np.testing.assert_allclose(
                getattr(kept, method)(X), getattr(plain, method)(X), rtol=1e-6
            )
        again = pickle.loads(pickle.dumps(kept))
        np.testing.assert_array_equal(again.predict(X), kept.predict(X))


@every_detector
def test_many_thresholds_cost_one_fit_and_one_scoring(name, tmp_path, monkeypatch):
    memory = joblib.Memory(tmp_path, verbose=0)
    detector = clone(DETECTORS[name]).set_params(memory=memory)
    fits = counted(monkeypatch, type(detector), "_fit_model")
    scorings = counted(monkeypatch, type(detector), "_raw_scores")
    attacks = counted(monkeypatch, PGD, "run")
    search = GridSearchCV(
        detector,
        {"contamination": np.linspace(0.05, 0.4, 8)},
        scoring=make_detection_scorer(ATTACK, metric="roc_auc", memory=memory),
        cv=2,
        refit=False,
    )
    search.fit(X, y)
    assert len(fits) == 2 and len(attacks) == 2
    assert len(scorings) <= 2 * 3  # held-out, genuine and attacked rows of each fold
    plain = clone(search).set_params(
        estimator=clone(DETECTORS[name]),
        scoring=make_detection_scorer(ATTACK, metric="roc_auc"),
    )
    np.testing.assert_allclose(
        search.cv_results_["mean_test_score"],
        plain.fit(X, y).cv_results_["mean_test_score"],
    )


def test_what_matters_is_computed_anew(tmp_path, monkeypatch):
    detector = DropoutUncertaintyDetector(
        small_net(max_epochs=1), n_passes=8, random_state=0, memory=str(tmp_path)
    )
    fits = counted(monkeypatch, DropoutUncertaintyDetector, "_fit_model")
    detector.fit(X, y)
    for n, change in enumerate(
        [
            {"random_state": 1},
            {"n_passes": 9},
            {"estimator__lr": 0.5},
            {"cv": 0.3},
        ],
        start=2,
    ):
        clone(detector).set_params(**change).fit(X, y)
        assert len(fits) == n, change
    moved = X.copy()
    moved[0, 0] += 1
    clone(detector).fit(moved, y)
    assert len(fits) == 6
    clone(detector).set_params(contamination=0.2).fit(X, y)
    assert len(fits) == 6


def test_scores_follow_the_weights_of_a_frozen_net(tmp_path):
    scores = []
    for epochs in (1, 5):
        net = NetClassifier(small_net(max_epochs=epochs), random_state=0)
        detector = DropoutUncertaintyDetector(
            FrozenEstimator(net.fit(X, y)), n_passes=8, memory=str(tmp_path)
        ).set_params(random_state=0)
        plain = clone(detector).set_params(memory=None)
        scores.append(detector.fit(X).score_samples(X))
        np.testing.assert_allclose(scores[-1], plain.fit(X).score_samples(X))
    assert (scores[0] != scores[1]).any()


def test_fresh_masks_are_not_remembered(tmp_path):
    detector = DropoutUncertaintyDetector(
        small_net(max_epochs=1), masks="fresh", random_state=0, memory=str(tmp_path)
    ).fit(X, y)
    assert (detector.score_samples(X) != detector.score_samples(X)).any()


def test_fingerprints():
    assert fingerprint(X, y) == fingerprint(X.copy(), y.copy())
    assert fingerprint(X) != fingerprint(X.T)
    assert fingerprint(X) != fingerprint(X.astype(np.float32))
    assert fingerprint(["ab", "c"]) != fingerprint(["a", "bc"])
    assert fingerprint({1, 2}) == fingerprint({2, 1})
    models = [KNeighborsClassifier(n_jobs=n).fit(X, y) for n in (None, 1)]
    assert fingerprint(models[0]) == fingerprint(models[1])
    models = [LogisticRegression(C=c).fit(X, y) for c in (1.0, 1.0, 2.0)]
    told = [fingerprint(model) for model in models]
    assert told[0] == told[1] != told[2]


@pytest.mark.parametrize("kind", ["f4", "U3", "M8[s]", [("a", "f8"), ("b", "O")]])
@pytest.mark.parametrize("shape", [(), (0, 2), (2, 3)])
def test_fingerprints_of_arrays_of_any_kind(kind, shape):
    array = np.zeros(shape, kind)
    assert fingerprint(array) == fingerprint(array.copy())
    assert fingerprint(array) != fingerprint(array[None])


def test_rows_are_not_copied_for_a_fingerprint():
    rows = np.zeros((1000, 1000), np.float32)
    tracemalloc.start()
    try:
        fingerprint(rows)
        assert tracemalloc.get_traced_memory()[1] < rows.nbytes / 10
    finally:
        tracemalloc.stop()


class Own(LogisticRegression):
    pass


class Other(LogisticRegression):
    pass


def test_fingerprints_do_not_hang_on_what_came_before():
    """Objects made on the way are no second sight of those that are gone."""
    told = {fingerprint([Own, Other, Own(C=c), Other()]) for c in [1.0] * 30}
    assert len(told) == 1
    assert fingerprint([Own, Other]) != fingerprint([Other, Own])


@pytest.mark.parametrize("owner", ["detector", "scorer"])
def test_bad_memory(owner):
    with pytest.raises(ValueError, match=r"'memory' parameter of .* must be a path"):
        if owner == "scorer":
            make_detection_scorer(ATTACK, memory=3)
        else:
            DropoutUncertaintyDetector(memory=3).fit(X, y)


@pytest.mark.parametrize("frozen_first", [False, True])
def test_what_is_frozen_is_not_taken_for_what_is_fitted(frozen_first, tmp_path):
    model = LogisticRegression(max_iter=1000).fit(X[:80], y[:80])
    rows, labels = X[80:], y[80:]
    kinds = [model, FrozenEstimator(model)]
    for estimator in kinds[::-1] if frozen_first else kinds:
        plain = DensityDetector(estimator, random_state=0).fit(rows, labels)
        kept = clone(plain).set_params(memory=str(tmp_path)).fit(rows, labels)
        assert kept.offset_ == plain.offset_
        np.testing.assert_array_equal(kept.predict(X), plain.predict(X))


class Slotted:
    __slots__ = ("value",)

    def __init__(self, value):
        self.value = value


class BelowSlots(Slotted):
    """Holds its state where ``vars`` does not look."""


def test_fingerprints_see_what_vars_does_not_show():
    for kind in (BelowSlots, random.Random, np.random.MT19937):
        assert fingerprint(kind(1)) == fingerprint(kind(1))
        assert fingerprint(kind(1)) != fingerprint(kind(2))
    with pytest.raises(TypeError, match=r"cannot be read.*Use memory=None"):
        fingerprint([ctypes.c_void_p(1)])


#: What is told -> how it was typed, and what is edited in it, to what.
EDITS = {
    "a method": ("class A:\n def f(self, x): return x + 1\nv = A", "+ 1", "+ 2"),
    "an object": ("class A:\n def f(self, x): return x + 1\nv = A()", "+ 1", "+ 2"),
    "a class above": (
        "class A:\n def f(self, x): return x + 1\nclass B(A): pass\nv = B",
        *("+ 1", "+ 2"),
    ),
    "a helper": (
        "def g(x): return x + 1\ndef f(x): return [g(i) for i in x]\nv = f",
        *("+ 1", "+ 2"),
    ),
    "a helper of a method": (
        "def g(x): return x + 1\nclass A:\n def f(self, x): return g(x)\nv = A()",
        *("+ 1", "+ 2"),
    ),
    "a number": ("K = 1\ndef f(x): return x + K\nv = f", "K = 1", "K = 2"),
    "a list": ("K = [1, 2]\ndef f(x): return x[K[0]]\nv = f", "2]", "3]"),
    "an object by name": (
        "class A:\n def __init__(self): self.k = 1\nK = A()\n"
        "def f(x): return x + K.k\nv = f",
        *("k = 1", "k = 2"),
    ),
    "what a name stands for": (
        "import numpy as np\ng = np.sin\ndef f(x): return g(x)\nv = f",
        *("np.sin", "np.cos"),
    ),
    "a number of a class": ("class A:\n k = 1\nv = A", "k = 1", "k = 2"),
    "a property": (
        "class A:\n @property\n def f(self): return 1\nv = A",
        *("return 1", "return 2"),
    ),
    "a static method": (
        "class A:\n @staticmethod\n def f(x): return x + 1\nv = A",
        *("+ 1", "+ 2"),
    ),
    "what is known once": (
        "from functools import cached_property\nclass A:\n @cached_property\n"
        " def f(self): return 1\nv = A",
        *("return 1", "return 2"),
    ),
    "what is given a part": (
        "from functools import partialmethod\nclass A:\n def f(self, x): return x\n"
        " g = partialmethod(f, 1)\nv = A",
        *("(f, 1)", "(f, 2)"),
    ),
    "what is cached": (
        "from functools import lru_cache\n@lru_cache\ndef f(x): return x + 1\nv = f",
        *("+ 1", "+ 2"),
    ),
    "what is around": (
        "def outer(k):\n def f(x): return x + k\n return f\nv = outer(1)",
        *("outer(1)", "outer(2)"),
    ),
    "what is caught": (
        "def f(x):\n try: return g(x)\n except OSError: return x\nv = f",
        *("OSError", "ValueError"),
    ),
    "a class of slots": (
        "class A:\n __slots__ = ('k',)\n def f(self): return 1\nv = A()\nv.k = 3",
        *("return 1", "return 2"),
    ),
    "a module of one's own": (
        "import sys, types\nm = types.ModuleType('own_helpers')\n"
        "exec('def g(x): return x + 1', vars(m))\ndef f(x): return m.g(x)\nv = f",
        *("x + 1", "x + 2"),
    ),
    "a module of a net": (
        "from torch import nn\nclass A(nn.Module):\n"
        " def forward(self, x): return x + 1\nv = A()",
        *("+ 1", "+ 2"),
    ),
    "a transformer": (
        "from sklearn.base import BaseEstimator, TransformerMixin\n"
        "class A(TransformerMixin, BaseEstimator):\n"
        " def fit(self, X, y=None): return self\n"
        " def transform(self, X): return X + 1\nv = A()",
        *("+ 1", "+ 2"),
    ),
    "what is cached, by name": (
        "from functools import lru_cache\n@lru_cache\ndef g(x): return x + 1\n"
        "def f(x): return g(x)\nv = f",
        *("+ 1", "+ 2"),
    ),
    "what is dispatched": (
        "from functools import singledispatch\n@singledispatch\n"
        "def g(x): return x + 1\ndef f(x): return g(x)\nv = f",
        *("+ 1", "+ 2"),
    ),
    "a method that is dispatched": (
        "from functools import singledispatchmethod\nclass A:\n"
        " @singledispatchmethod\n def f(self, x): return x + 1\nv = A",
        *("+ 1", "+ 2"),
    ),
    "settings": (
        "from types import SimpleNamespace\nK = SimpleNamespace(k=1)\n"
        "def f(x): return x + K.k\nv = f",
        *("k=1", "k=2"),
    ),
    "a path": (
        "from pathlib import Path\nK = Path('a')\ndef f(x): return K\nv = f",
        *("('a')", "('b')"),
    ),
    "a dtype": (
        "import torch\nK = torch.float32\ndef f(x): return x.to(K)\nv = f",
        *("float32", "float64"),
    ),
    "a frame": (
        "import pandas as pd\nK = pd.DataFrame({'a': [1]})\ndef f(x): return K\nv = f",
        *("[1]", "[2]"),
    ),
    "what is imported within": (
        "import sys, types\nm = types.ModuleType('own_within')\n"
        "sys.modules['own_within'] = m\nexec('def g(x): return x + 1', vars(m))\n"
        "def f(x):\n from own_within import g\n return g(x)\nv = f",
        *("x + 1", "x + 2"),
    ),
    "what calls itself": (
        "def f(x): return f(x - 1) if x else g(x)\ndef g(x): return f(1)\nv = f",
        *("x - 1", "x - 2"),
    ),
}


@pytest.mark.parametrize("name", EDITS)
def test_fingerprints_see_edits_of_what_was_typed(name):
    """As in a notebook, whose classes have no source that could be read."""
    text, old, new = EDITS[name]

    def told(source):
        namespace = {"__name__": "__main__"}
        exec(compile(source, "<typed>", "exec"), namespace)
        return fingerprint(namespace["v"])

    assert text.count(old) == 1
    assert told(text) == told("# said before\n\n" + text)
    assert told(text) != told(text.replace(old, new))


#: What may lie about where a function is typed, and tells nothing of what it does.
BESIDE = {
    "a name of an attribute": (
        "class A:\n def f(self, x): return x.score(1)\nv = A()",
        "score = 5",
    ),
    "a counter": (
        "N = 0\ndef f(x):\n global N\n N += 1\n return x\nv = f",
        "f(1)",
    ),
    "a call that was dispatched": (
        "from functools import singledispatch\n@singledispatch\n"
        "def g(x): return x\ndef f(x): return g(x)\nv = f",
        "f(1)",
    ),
    "a call that was cached": (
        "from functools import lru_cache\n@lru_cache\ndef g(x): return x\n"
        "def f(x): return g(x)\nv = f",
        "f(1)",
    ),
    "random numbers": (
        "import numpy as np\nr = np.random.default_rng(0)\n"
        "def f(x): return r.normal()\nv = f",
        "f(1)",
    ),
}


@pytest.mark.parametrize("name", BESIDE)
def test_fingerprints_do_not_change_by_what_lies_beside(name):
    text, more = BESIDE[name]
    namespace = {"__name__": "__main__"}
    exec(text, namespace)
    first = fingerprint(namespace["v"])
    exec(more, namespace)
    assert fingerprint(namespace["v"]) == first


@pytest.mark.parametrize(
    "held",
    [
        "threading.Lock()",
        "{'lock': threading.Lock()}",
        "[i for i in range(3)].__iter__()",
        "(i for i in range(3))",
        "{'db': sqlite3.connect(':memory:')}",
        "{'np': np}",
        "weakref.WeakValueDictionary()",
        "torch.eye(2).to_sparse()",
        "__import__('io').StringIO()",
        "logging.getLogger('any')",
    ],
)
@pytest.mark.parametrize("where", ["read by name", "of a class"])
def test_what_cannot_be_told_is_no_obstacle_to_what_only_reads_it(held, where):
    namespace = {"__name__": "__main__"}
    exec(
        "import logging, sqlite3, threading, weakref\nimport numpy as np, torch\n"
        f"K = {held}\ndef f(x): return K\nclass A:\n K = K",
        namespace,
    )
    told = namespace["f" if where == "read by name" else "A"]
    assert fingerprint(told) == fingerprint(told)


def test_what_cannot_be_told_is_refused_where_it_is_given():
    for value in (threading.Lock(), torch.eye(2).to_sparse()):
        with pytest.raises(TypeError, match=r"cannot be read.*Use memory=None"):
            fingerprint([value])


def test_fingerprints_of_long_chains_and_of_what_holds_itself():
    lines = ["def f0(x): return x"]
    lines += [f"def f{i}(x): return f{i - 1}(x)" for i in range(1, 2000)]
    namespace = {"__name__": "__main__"}
    exec("\n".join(lines), namespace)
    first = fingerprint(namespace["f1999"])
    exec("def f0(x): return -x", namespace)
    assert fingerprint(namespace["f1999"]) != first
    exec("def f(x): return x in KNOWN\nKNOWN = {f}", namespace)
    assert fingerprint(namespace["f"]) == fingerprint(namespace["f"])
    told = fingerprint(namespace["KNOWN"])
    exec("def f(x): return x not in KNOWN\nKNOWN = {f}", namespace)
    assert fingerprint(namespace["KNOWN"]) != told
    within: list = []
    for _ in range(10_000):
        within = [within]
    with pytest.raises(TypeError, match=r"cannot be read.*Use memory=None"):
        fingerprint(within)


def test_an_edited_class_is_asked_anew(tmp_path, monkeypatch):
    """The answers of code from before an edit are not given for those of after."""
    model = FrozenEstimator(LogisticRegression(max_iter=1000).fit(X[:80], y[:80]))

    def scores(factor, memory):
        namespace = vars(sys.modules["__main__"])
        monkeypatch.setitem(namespace, "Scale", None)
        exec(
            "from sklearn.base import BaseEstimator, TransformerMixin\n"
            "class Scale(TransformerMixin, BaseEstimator):\n"
            " def fit(self, X, y=None): self.n_ = 1; return self\n"
            f" def transform(self, X): return X * {factor}",
            namespace,
        )
        detector = FeatureSqueezingDetector(
            model, squeezers=[("own", namespace["Scale"]())], memory=memory
        )
        return detector.fit(X[80:]).score_samples(X[:5])

    for factor in (0.5, 2.0):
        kept = scores(factor, str(tmp_path))
        np.testing.assert_array_equal(kept, scores(factor, None))


def test_fingerprints_see_hooks():
    def module():
        torch.manual_seed(0)
        return torch.nn.Linear(3, 2)

    plain, hooked = module(), module()
    assert fingerprint(plain) == fingerprint(hooked)
    handle = hooked.register_forward_hook(lambda _, given, output: 2 * output)
    assert fingerprint(plain) != fingerprint(hooked)
    handle.remove()
    assert fingerprint(plain) == fingerprint(hooked)
