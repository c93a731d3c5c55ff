"""What was saved can be opened: by later versions, and by skops without a pickle."""

import importlib
import inspect
import io
import json
import os
import pickle
import re
import warnings
import zipfile
from pathlib import Path

import joblib
import numpy as np
import pytest
import sklearn
from sklearn.base import BaseEstimator, clone
from sklearn.exceptions import InconsistentVersionWarning
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import make_pipeline
from sklearn.utils.fixes import parse_version as parse

import sk_advdef
from tests._instances import (
    INSTANCES,
    assert_same_outputs,
    make_rows,
    outputs,
    small_net,
)
from tests._opcodes import blobs, hidden, imports

skops = pytest.importorskip("skops.io")

DATA = Path(__file__).parent / "data"
SAVED = sorted(DATA.glob("saved-*.joblib"))

#: The only place where a skops file of ours holds a pickle: what skorch packs of a net.
PACKED_BY_SKORCH = "__cuda_dependent_attributes__"
#: Kinds of nodes of a skops file that call what they name, or hold bytes unread.
OPAQUE = re.compile("Bytes|Bytearray|Unsupported|Reduce|Method|Partial|Function")


def opaque(node, at=""):
    """Yield the places in a skops file that skops cannot look into."""
    if isinstance(node, dict):
        if OPAQUE.match(str(node.get("__loader__"))):
            yield at
        for key, value in node.items():
            yield from opaque(value, f"{at}/{key}")
    elif isinstance(node, list):
        for number, value in enumerate(node):
            yield from opaque(value, f"{at}/{number}")


#: All that pickles of ours import from elsewhere. Another name here is another thing
#: that a pickle can do: add none that runs what it is given.
FOREIGN = {
    "builtins": {"slice"},
    "numpy": {"dtype", "ndarray"},
    "numpy._core.multiarray": {"_reconstruct", "scalar"},
    "sklearn.frozen._frozen": {"FrozenEstimator"},
    "sklearn.linear_model._logistic": {"LogisticRegression"},
    "sklearn.pipeline": {"Pipeline"},
    "sklearn.preprocessing._data": {"StandardScaler"},
    "skorch.classifier": {"NeuralNetClassifier"},
    "skorch.dataset": {"Dataset"},
    "torch.nn.modules.loss": {"CrossEntropyLoss"},
    "torch.optim.adam": {"Adam"},
    "torch.utils.data.dataloader": {"DataLoader"},
}


def is_known(module, name):
    """Whether a pickle of ours may import this."""
    if not module.startswith("sk_advdef."):
        return name in FOREIGN.get(module, ())
    # a class that the module defines, and nothing that it imports from elsewhere
    found = getattr(importlib.import_module(module), name)
    return inspect.isclass(found) and found.__module__ == module


class Recorder(pickle.Unpickler):
    """Opens a pickle, and keeps what it imports."""

    def __init__(self, data):
        super().__init__(io.BytesIO(data))
        self.imported = set()

    def find_class(self, module, name):
        self.imported.add((module, name))
        return super().find_class(module, name)


@pytest.fixture(
    scope="module",
    params=[pytest.param(i, id=str(i), marks=i.marks) for i in INSTANCES],
)
def fitted_and_rows(request):
    X, y = request.param.data()
    return clone(request.param.estimator).fit(X, y), X


def test_pickles_hide_no_code(fitted_and_rows):
    data = pickle.dumps(fitted_and_rows[0])
    found = imports(data)
    assert {name for name in found if not is_known(*name)} == set()
    assert not list(hidden(data))
    # and the opcodes were read as they are when the pickle is opened
    recorder = Recorder(data)
    recorder.load()
    assert recorder.imported == found


def parameter_objects():
    """Return one of each public class that has parameters and no fit."""
    for name in sk_advdef.__all__:
        cls = getattr(sk_advdef, name)
        is_one = inspect.isclass(cls) and issubclass(cls, BaseEstimator)
        if is_one and not hasattr(cls, "fit"):
            given = {"eps": 0.1, "attack": sk_advdef.PGD(0.1)}
            known = given.keys() & inspect.signature(cls).parameters.keys()
            yield cls(**{name: given[name] for name in known})


def test_pickles_of_attacks_hide_no_code():
    space = sk_advdef.FeatureSpace(eps=[0.1, 0.2], increasing=[0])
    objects = [*parameter_objects(), space, sk_advdef.PGD(0.1, space=space)]
    assert {"PGD", "HopSkipJump", "Transfer"} <= {type(o).__name__ for o in objects}
    for one in objects:
        data = pickle.dumps(one)
        assert {name for name in imports(data) if not is_known(*name)} == set()
        assert not list(hidden(data))


class Hostile:
    def __init__(self, *made):
        self.made = made

    def __reduce__(self):
        return self.made


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("call", [eval, exec, os.system, importlib.import_module])
def test_the_check_sees_code(call, protocol):
    name = (call.__module__, call.__name__)
    shared = ["one", call.__name__, call.__module__]
    data = pickle.dumps([shared, {"a": (Hostile(call, ("1",)), *shared)}], protocol)
    found = imports(data)
    names = {n for _, n in found}
    assert call.__name__ in names and not any(is_known(*one) for one in found - {name})
    assert not is_known(*name)
    within = pickle.dumps({"weights": data}, max(protocol, 3))
    assert imports(within) == set() and list(hidden(within)) == [data]
    as_text = pickle.dumps(pickle.dumps(Hostile(call, ("1",)), 0).decode(), protocol)
    assert len(list(hidden(as_text))) == 1


def test_the_check_sees_what_is_worked_out():
    # the name of a module put together by a call
    made = b"\x80\x04cbuiltins\nstr\n\x8c\x02os\x85R\x8c\x06system\x93."
    with pytest.raises(ValueError, match="works out"):
        imports(made)
    with pytest.raises(ValueError, match="outside"):
        imports(b"Pelsewhere\n.")
    for module, name in (
        ("sk_advdef._base", "os"),
        ("sk_advdef._base", "validate_data"),
        ("sk_advdef._validation", "invalid"),
        ("numpy", "load"),
        ("os.sk_advdef", "system"),
    ):
        assert not is_known(module, name)


def test_a_net_of_the_user_is_packed_by_skorch():
    """What the page on saving says of skorch nets: a blob that holds a pickle."""
    X, y = make_rows()
    net = small_net(max_epochs=1).fit(
        X.astype(np.float32), np.unique(y, return_inverse=True)[1]
    )
    data = pickle.dumps(FrozenEstimator(make_pipeline(net)))
    (packed,) = hidden(data)
    assert packed in set(blobs(data))
    within = {name for name in imports(packed) if not is_known(*name)}
    assert ("torch.storage", "_load_from_bytes") in within


def test_skops(fitted_and_rows):
    fitted, X = fitted_and_rows
    saved = skops.dumps(fitted)
    types = skops.get_untrusted_types(data=saved)
    again = skops.loads(saved, trusted=types)
    assert_same_outputs(outputs(again, X), outputs(fitted, X))
    with zipfile.ZipFile(io.BytesIO(saved)) as archive:
        places = list(opaque(json.loads(archive.read("schema.json"))))
    foreign = {name for name in types if not name.startswith("sk_advdef.")}
    if "skorch.classifier.NeuralNetClassifier" in foreign:
        assert {name.split(".")[0] for name in foreign} == {"skorch", "torch"}
        assert places and all(PACKED_BY_SKORCH in place for place in places)
    else:
        assert not foreign
        assert not places


def test_the_check_sees_what_is_packed():
    net = {"__loader__": "ObjectNode", "content": [{"__loader__": "BytesNode"}]}
    assert list(opaque({"estimator": net})) == ["/estimator/content/0"]


def test_there_is_a_model_of_an_earlier_version():
    assert SAVED
    assert all(path.stat().st_size < 100_000 for path in SAVED)


@pytest.mark.filterwarnings(
    "ignore::sklearn.exceptions.InconsistentVersionWarning",
)
@pytest.mark.parametrize("path", SAVED, ids=lambda path: path.stem)
def test_models_of_earlier_versions_open(path, monkeypatch):
    saved = joblib.load(path)
    assert len(saved["models"]) >= 9
    written_by = path.stem.removeprefix("saved-")
    monkeypatch.setattr("sk_advdef._base.__version__", "99.0")
    told = f"pickled by sk_advdef {re.escape(written_by)} and is opened by 99.0"
    for name, blob in saved["models"].items():
        with pytest.warns(UserWarning, match=told) as caught:
            model = joblib.load(io.BytesIO(blob))
        by = [getattr(w.message, "original_sklearn_version", "0") for w in caught]
        if max(map(parse, by)) > parse(sklearn.__version__):
            pytest.skip(f"saved by scikit-learn {max(by, key=parse)}, which is newer")
        assert_same_outputs(outputs(model, saved["X"]), saved["answers"][name])


@pytest.mark.parametrize("path", SAVED, ids=lambda path: path.stem)
def test_models_of_this_version_open_silently(path):
    if path.stem != f"saved-{sk_advdef.__version__}":
        pytest.skip("of another version")
    saved = joblib.load(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", InconsistentVersionWarning)
        for blob in saved["models"].values():
            joblib.load(io.BytesIO(blob))
