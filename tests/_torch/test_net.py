"""The adapter around skorch nets: labels, dtypes, repeatability, persistence."""

import copy
import io
import pickle
import random
import shutil
import subprocess
import sys
from functools import partial

import joblib
import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.utils.estimator_checks import estimator_checks_generator
from skorch import NeuralNetBinaryClassifier, NeuralNetClassifier
from skorch.callbacks import Checkpoint, TrainEndCheckpoint
from skorch.dataset import Dataset, ValidSplit
from skorch.exceptions import DeviceWarning
from torch import nn
from torch.utils.data import DataLoader, default_collate

from sk_advdef import DistilledClassifier, DropoutUncertaintyDetector
from sk_advdef._torch._models import classes_of, is_net, predict
from sk_advdef._torch._net import NetClassifier
from sk_advdef._torch._net_view import BATCH_SIZE, net_scores
from sk_advdef._torch._random import seeded
from sk_advdef._torch._registry import as_module
from sk_advdef.nets import DropoutCNN, DropoutMLP
from tests._instances import check_id, run_check
from tests._torch._cases import (
    OneLogit,
    Probabilities,
    half_softmax,
    make_images,
    make_net,
    make_rows,
)

X, y = make_rows()


def make(net=None, **params):
    return NetClassifier(make_net() if net is None else net, random_state=0, **params)


# what check_estimator draws has at most six classes
WIDE = make_net(
    module__n_classes=6,
    module__hidden=(20,),
    module__dropout=0.1,
    max_epochs=20,
    batch_size=32,
    lr=0.5,
)


def test_rows_that_lie_backward():
    """torch takes no array of negative strides."""
    narrow = X.astype(np.float32)
    backward = narrow[::-1, ::-1].copy()[::-1, ::-1]
    assert backward.strides[0] < 0
    model = make().fit(narrow, y)
    expected = model.predict_proba(narrow)
    np.testing.assert_array_equal(model.predict_proba(backward), expected)
    again = make().fit(backward, y)
    np.testing.assert_array_equal(again.predict_proba(narrow), expected)
    bare = FrozenEstimator(model.net_)
    np.testing.assert_array_equal(predict(bare, backward), predict(bare, narrow))
    detector = DropoutUncertaintyDetector(FrozenEstimator(model), contamination=0.2)
    detector.fit(narrow)
    assert len(detector.predict(backward)) == len(X)


WIDE_CHECKS = list(estimator_checks_generator(NetClassifier(WIDE, random_state=0)))


@pytest.mark.parametrize("estimator, check", WIDE_CHECKS, ids=check_id)
def test_scikit_learn(estimator, check):
    run_check(estimator, check)


class Deep(OneLogit):
    def forward(self, X):
        return super().forward(X).reshape(-1, 1, 1).expand(-1, 3, 3)


LABELS = {
    "strings": ["b", "a", "c"],
    "objects": np.array(["x", "zz", "a"], dtype=object),
    "odd ints": [70, -3, 5],
    "floats": [0.0, 2.0, 1.0],
}


@pytest.mark.parametrize("kind", LABELS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_labels_and_dtypes(kind, dtype):
    labels = np.asarray(LABELS[kind])[y]
    model = make(make_net(max_epochs=60)).fit(X.astype(dtype), labels)
    np.testing.assert_array_equal(model.classes_, np.unique(labels))
    proba = model.predict_proba(X.astype(dtype))
    assert proba.shape == (len(X), 3)
    assert proba.dtype == np.float64
    np.testing.assert_allclose(proba.sum(axis=1), 1)
    np.testing.assert_array_equal(
        model.predict(X.astype(dtype)), model.classes_[proba.argmax(axis=1)]
    )
    assert model.score(X, labels) > 0.7


@pytest.mark.parametrize("labels", [np.array([False, True]), np.array(["no", "yes"])])
def test_two_labels_by_one_logit(labels):
    net = make_net(OneLogit, NeuralNetBinaryClassifier, max_epochs=60)
    for k in (0, 1, 2):
        given = labels[(y == k).astype(int)]
        model = make(net).fit(X, given)
        assert model.predict_proba(X).shape == (len(X), 2)
        assert model.score(X, given) > 0.7


def test_a_fold_without_a_class_keeps_its_columns():
    some = y != 1
    model = make().fit(X[some], y[some], classes=np.array([0, 1, 2]))
    np.testing.assert_array_equal(model.classes_, [0, 1, 2])
    assert model.predict_proba(X).shape == (len(X), 3)


@pytest.mark.parametrize("module", [DropoutMLP, Probabilities])
def test_more_outputs_than_classes(module):
    some = y != 2
    criterion = nn.CrossEntropyLoss if module is DropoutMLP else nn.NLLLoss
    model = make(make_net(module, criterion=criterion)).fit(X[some], y[some])
    rows = X.astype(np.float32)
    whole = model.net_.predict_proba(rows)
    assert whole.shape == (len(X), 3)
    proba = model.predict_proba(X)
    kept = whole[:, :2] / whole[:, :2].sum(axis=1, keepdims=True)
    np.testing.assert_allclose(proba, kept, rtol=1e-4)
    assert set(model.predict(X)) <= {0, 1}
    assert as_module(model)(torch.tensor(rows)).shape == (len(X), 2)


@pytest.mark.parametrize(
    "net, message",
    [
        (make_net(module__n_classes=2), "DropoutMLP returns 2 columns for 3 classes"),
        (
            make_net(criterion=nn.NLLLoss),
            "no probabilities .* sum to .*criterion=NLLLoss.*"
            "pass criterion=torch.nn.CrossEntropyLoss",
        ),
        (make_net(predict_nonlinearity=torch.sigmoid), "no probabilities"),
        (
            make_net(cls=NeuralNetBinaryClassifier),
            r"shape \(2, 3\) for 2 rows.*criterion=torch.nn.CrossEntropyLoss",
        ),
        (make_net(OneLogit, NeuralNetBinaryClassifier), "2 columns for 3 classes"),
        (
            make_net(OneLogit, NeuralNetBinaryClassifier, threshold=0.3),
            r"must be 0\.5 inside another .* Got 0\.3; put .*FixedThreshold",
        ),
        (make_net(Deep), "Deep returns 0 columns for 3 classes"),
    ],
)
def test_outputs_that_do_not_fit(net, message):
    with pytest.raises(ValueError, match=message):
        make(net).fit(X, y)


def test_rows_that_are_read_only_are_nothing_to_warn_of():
    """As joblib hands them to its workers."""
    rows = X.astype(np.float32)
    expected = make(make_net()).fit(rows, y).predict_proba(rows)
    rows.flags.writeable = False
    torch.set_warn_always(True)  # else once in a process, whichever test that is
    try:
        model = make(make_net()).fit(rows, y)
        teacher = DistilledClassifier(make_net(), random_state=0).fit(rows, y)
        np.testing.assert_array_equal(model.predict_proba(rows), expected)
        assert teacher.predict(rows).shape == (len(rows),)
    finally:
        torch.set_warn_always(False)


class Shifted(Dataset):
    def transform(self, X, y):
        rows, labels = super().transform(X, y)
        return rows - np.float32(1), labels


class Begun(Dataset):
    def __init__(self, X, y=None, length=None):
        super().__init__(X - 1, y, length)


class Loader(DataLoader):
    def __iter__(self):
        return map(doubled, super().__iter__())


class Halved(NeuralNetClassifier):
    def infer(self, x, **params):
        return super().infer(x / 2, **params)


def doubled(rows):
    x, y = default_collate(rows) if isinstance(rows[0], tuple) else rows
    return 2 * x, y


@pytest.mark.parametrize(
    "net",
    [
        make_net(dataset=Shifted),
        make_net(dataset=partial(Shifted, length=None)),
        make_net(dataset=Begun),
        make_net(iterator_valid__collate_fn=doubled),
        make_net(iterator_valid=Loader),
        make_net(cls=Halved, criterion=nn.CrossEntropyLoss),
    ],
)
def test_what_stands_between_rows_and_module_is_refused(net):
    """Our inference goes to the module, so it would answer for other rows."""
    with pytest.raises(ValueError, match="must give rows to its module as they are"):
        make(net).fit(X, y)
    codes = y.astype(np.int64)
    fitted = clone(net).fit(X.astype(np.float32), codes)
    with pytest.raises(TypeError, match="has no differentiable view: it answers, or"):
        as_module(fitted)
    with pytest.raises(ValueError, match="must give rows to its module as they are"):
        DropoutUncertaintyDetector(FrozenEstimator(fitted)).fit(X, codes)


def test_a_method_set_on_the_net_itself_is_refused():
    net = make_net().fit(X.astype("f4"), y.astype(np.int64))
    assert as_module(net)
    original = net.infer
    net.infer = lambda x, **params: original(x - 1, **params)
    with pytest.raises(TypeError, match="has no differentiable view: it answers, or"):
        as_module(net)


def test_what_changes_rows_in_training_alone_is_free():
    free = make_net(
        iterator_train__collate_fn=doubled,
        iterator_valid__collate_fn=default_collate,
        dataset=partial(Dataset, length=None),
    )
    model = make(free).fit(X, y)
    np.testing.assert_allclose(
        model.predict_proba(X), model.net_.predict_proba(X.astype("f4")), atol=1e-6
    )


def test_one_class_is_refused():
    with pytest.raises(ValueError, match="only one class is present: 'a'"):
        make().fit(X, ["a"] * len(X))


NETS = {
    "logits": make_net(),
    "probabilities": make_net(Probabilities, criterion=nn.NLLLoss),
    "nonlinearity": make_net(predict_nonlinearity=half_softmax),
}


@pytest.mark.parametrize("kind", NETS)
def test_own_inference_equals_that_of_skorch(kind):
    model = make(NETS[kind]).fit(X, y)
    many = np.tile(X, (2 * BATCH_SIZE // len(X) + 1, 1)).astype(np.float32)
    assert len(many) > 2 * BATCH_SIZE
    expected = model.net_.predict_proba(many)
    np.testing.assert_allclose(model.predict_proba(many), expected, rtol=1e-4)
    assert net_scores(model.net_, many).dtype == np.float32


def test_own_inference_of_one_logit_equals_that_of_skorch():
    model = make(make_net(OneLogit, NeuralNetBinaryClassifier)).fit(X, y % 2)
    expected = model.net_.predict_proba(X.astype(np.float32))
    np.testing.assert_allclose(model.predict_proba(X), expected, rtol=0, atol=1e-6)


def test_images():
    images, labels = make_images(8, 8)
    model = make(make_net(DropoutCNN)).fit(images, labels)
    assert model.predict(images[:3]).shape == (3,)


class Drawing(DropoutMLP):
    """Draws from every global generator, when made and in training."""

    def __init__(self):
        super().__init__(3)
        self.shift = random.random() + np.random.rand()  # noqa: NPY002

    def forward(self, X):
        if self.training:
            X = X + random.random() + np.random.rand()  # noqa: NPY002
        return super().forward(X) + self.shift


def test_random_state_repeats_and_leaves_global_generators(global_generators):
    net = make_net(
        Drawing,
        iterator_train__shuffle=True,
        train_split=ValidSplit(0.3, stratified=True),
    )
    first, again = make(net).fit(X, y), make(net).fit(X, y)
    other = NetClassifier(net, random_state=1).fit(X, y)
    np.testing.assert_array_equal(first.predict_proba(X), again.predict_proba(X))
    assert not np.allclose(first.predict_proba(X), other.predict_proba(X))
    NetClassifier(net).fit(X, y).predict(X)


def test_seeded_seeds_every_generator(global_generators):
    def draw(seed):
        with seeded(seed):
            return torch.rand(1).item(), random.random(), np.random.rand()  # noqa: NPY002

    with seeded(9):  # another state outside
        expected = draw(3)
    assert draw(3) == expected
    assert not set(draw(4)) & set(expected)


def test_seeded_puts_back_after_an_error(global_generators):
    with pytest.raises(ZeroDivisionError), seeded(3):
        torch.rand(2), random.random(), np.random.rand()  # noqa: NPY002
        _ = 1 / 0


def test_the_net_that_was_given_is_not_changed():
    module = DropoutMLP(3, hidden=(4,))
    module(torch.tensor(X[:1]))
    for net in (make_net(), make_net(module)):
        before = pickle.dumps(net)
        model = make(net).fit(X, y)
        model.predict(X)
        assert pickle.dumps(net) == before
        assert model.net is net
    given = X.copy()
    make().fit(X, y).predict(X)
    np.testing.assert_array_equal(X, given)


def test_the_fitted_net_is_in_eval_mode_and_stays_so():
    model = make().fit(X, y)
    state = copy.deepcopy(model.net_.module_.state_dict())
    model.predict(X)
    as_module(model)(torch.tensor(X))
    assert not any(m.training for m in model.net_.module_.modules())
    assert all(p.requires_grad for p in model.net_.module_.parameters())
    for name, value in model.net_.module_.state_dict().items():
        assert torch.equal(value, state[name])


class WithBatchNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.BatchNorm1d(6), nn.Dropout(), nn.Linear(6, 3))

    def forward(self, X):
        return self.layers(X)


def tensors_in(state, at=""):
    if torch.is_tensor(state):
        yield at
    elif isinstance(state, dict):
        for key, value in state.items():
            yield from tensors_in(value, f"{at}/{key}")
    elif isinstance(state, (list, tuple)):
        for i, value in enumerate(state):
            yield from tensors_in(value, f"{at}/{i}")
    elif hasattr(state, "__dict__") and not isinstance(state, type):
        yield from tensors_in(vars(state), at)


@pytest.mark.parametrize(
    "module", [DropoutMLP, WithBatchNorm, lambda: None], ids=["mlp", "norm", "instance"]
)
def test_pickles(module):
    instance = not isinstance(module, type)
    given = DropoutMLP(3, hidden=(4,)) if instance else module
    split = ValidSplit(3, stratified=True)
    model = make(make_net(given, train_split=split)).fit(X, y)
    state = model.__getstate__()
    weights = state["net_"]["weights"]
    assert set(weights) == set(model.net_.module_.state_dict())
    assert all(isinstance(value, np.ndarray) for value in weights.values())
    del state["net"]
    if not instance:
        assert not list(tensors_in(state))
    buffer = io.BytesIO()
    joblib.dump(model, buffer)
    buffer.seek(0)
    for twin in (
        pickle.loads(pickle.dumps(model)),
        joblib.load(buffer),
        copy.deepcopy(model),
    ):
        assert twin.net_ is not model.net_
        np.testing.assert_array_equal(twin.predict_proba(X), model.predict_proba(X))
        assert twin.net_.history == model.net_.history
        assert twin.net_.history[:, "valid_loss"]
        assert not any(m.training for m in twin.net_.module_.modules())
        again = pickle.loads(pickle.dumps(twin))
        np.testing.assert_array_equal(again.predict_proba(X), model.predict_proba(X))
    rows = torch.tensor(X[:4], dtype=torch.float32)
    assert torch.equal(as_module(twin)(rows), as_module(model)(rows))


def test_unpickling_leaves_global_generators(global_generators):
    model = make(make_net(Drawing)).fit(X, y)
    pickle.loads(pickle.dumps(model)).predict(X)


def test_unpickling_makes_no_folder(tmp_path):
    made, at_end = tmp_path / "run", tmp_path / "end"
    kept = [
        Checkpoint(dirname=str(made), monitor=None),
        ("end", TrainEndCheckpoint(dirname=str(at_end))),
    ]
    blob = pickle.dumps(make(make_net(callbacks=kept, max_epochs=1)).fit(X, y))
    shutil.rmtree(made)
    shutil.rmtree(at_end)
    again = pickle.loads(blob)
    assert not list(tmp_path.iterdir())
    again.net_.fit(X.astype(np.float32), y)  # whoever trains on gets them back
    assert list(made.iterdir()) and list(at_end.iterdir())


def test_weights_can_be_memory_mapped(tmp_path):
    model = make().fit(X, y)
    joblib.dump(model, tmp_path / "model.joblib")
    twin = joblib.load(tmp_path / "model.joblib", mmap_mode="r")
    np.testing.assert_array_equal(twin.predict_proba(X), model.predict_proba(X))
    twin.net_.partial_fit(X.astype(np.float32), y)  # a mapped weight would not take it


def test_pickle_opens_in_another_process(tmp_path):
    model = make().fit(X, np.array(["a", "b", "c"])[y])
    joblib.dump(model, tmp_path / "model.joblib")
    joblib.dump((X, model.predict(X), model.predict_proba(X)), tmp_path / "answers")
    code = """
import sys, joblib, numpy as np
X, labels, proba = joblib.load(sys.argv[1] + "/answers")
model = joblib.load(sys.argv[1] + "/model.joblib")
np.testing.assert_array_equal(model.predict(X), labels)
np.testing.assert_allclose(model.predict_proba(X), proba, rtol=1e-6)
assert len(model.net_.history) == 3
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)


def test_a_net_from_a_gpu_opens_on_the_cpu():
    model = make().fit(X, y)
    model.net_.device = "cuda"
    state = pickle.dumps(model)
    if torch.cuda.is_available():
        twin = pickle.loads(state)
    else:
        with pytest.warns(DeviceWarning):
            twin = pickle.loads(state)
        assert str(twin.net_.device) == "cpu"
    np.testing.assert_array_equal(twin.predict_proba(X), model.predict_proba(X))


def test_clone_forgets_the_fit():
    model = make().fit(X, y)
    twin = clone(model)
    assert not hasattr(twin, "net_")
    twin.set_params(net__max_epochs=1, net__module__hidden=(5,)).fit(X, y)
    assert len(twin.net_.history) == 1
    assert len(model.net_.history) == model.net.max_epochs == 3


def test_around_wraps_the_epochs():
    seen = []

    class Watch:
        def __init__(self, net, rows, codes):
            seen.append((type(net), rows.dtype, codes.dtype))
            self.rows = rows

        def __enter__(self):
            seen.append("in")
            return self.rows

        def __exit__(self, *error):
            seen.append("out")

    make().fit(X, y, around=Watch)
    assert seen == [(NeuralNetClassifier, np.float32, np.int64), "in", "out"]


def test_is_a_net_with_its_classes():
    model = make().fit(X, np.array(["c", "a", "b"])[y])
    assert is_net(model)
    np.testing.assert_array_equal(classes_of(model), ["a", "b", "c"])
    np.testing.assert_array_equal(classes_of(model.net_), [0, 1, 2])
