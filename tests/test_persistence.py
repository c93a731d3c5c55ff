"""What was saved can be opened: by later versions, and by skops without a pickle."""

import io
import json
import re
import warnings
import zipfile
from pathlib import Path

import joblib
import pytest
from sklearn.base import clone
from sklearn.exceptions import InconsistentVersionWarning

import sk_advdef
from tests._instances import ANY_INSTANCE, assert_same_outputs, outputs

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


@ANY_INSTANCE
def test_skops(instance):
    X, y = instance.data()
    fitted = clone(instance.estimator).fit(X, y)
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
        with pytest.warns(UserWarning, match=told):
            model = joblib.load(io.BytesIO(blob))
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
