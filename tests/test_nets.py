"""The small networks alone and through skorch."""

import pickle
import warnings

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from skorch import NeuralNetClassifier
from torch import nn

import sk_advdef
from sk_advdef import nets
from sk_advdef.nets import DropoutCNN, DropoutMLP


def dropouts(module):
    return [m.p for m in module.modules() if isinstance(m, nn.Dropout)]


def linears(module):
    kinds = nn.Linear, nn.Conv2d
    return [
        (m.weight.shape[1], m.weight.shape[0])
        for m in module.modules()
        if isinstance(m, kinds)
    ]


def test_public():
    assert sk_advdef.nets is nets
    assert nets.__all__ == ["DropoutCNN", "DropoutMLP"]


@pytest.mark.parametrize("shape", [(7,), (1,), (4, 5), (3, 4, 2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_mlp(shape, dtype):
    module = DropoutMLP(4, hidden=(8, 5), dropout=0.3)
    out = module(torch.rand(3, *shape, dtype=dtype))
    assert out.shape == (3, 4)
    assert out.dtype == torch.float32
    assert linears(module) == [(int(np.prod(shape)), 8), (8, 5), (5, 4)]
    assert dropouts(module) == [0.3, 0.3]


def test_mlp_without_hidden_layers_is_linear():
    module = DropoutMLP(2, hidden=())
    module(torch.rand(3, 6))
    assert linears(module) == [(6, 2)]


@pytest.mark.parametrize(
    "shape, axis, channels",
    [
        ((8, 8), -1, 1),
        ((7, 5), 0, 1),
        ((1, 1), -1, 1),
        ((9, 3, 3), -1, 3),
        ((9, 3, 3), 2, 3),
        ((4, 9, 5), 0, 4),
        ((9, 4, 5), 1, 4),
        ((4, 9, 5), -3, 4),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_cnn_takes_stacked_images_and_rows(shape, axis, channels, dtype):
    images = torch.rand(2, *shape, dtype=dtype)
    module = DropoutCNN(3, channel_axis=axis, channels=(4,), hidden=6, dropout=0.2)
    out = module.eval()(images)
    assert out.shape == (2, 3)
    assert out.dtype == torch.float32
    assert linears(module)[0] == (channels, 4)
    assert dropouts(module) == [0.2, 0.2]
    of_rows = DropoutCNN(
        3, image_shape=shape, channel_axis=axis, channels=(4,), hidden=6
    ).eval()
    of_rows(images.flatten(1))
    of_rows.load_state_dict(module.state_dict())
    torch.testing.assert_close(of_rows(images.flatten(1)), out)
    torch.testing.assert_close(of_rows(images), out)


def test_cnn_moves_the_channels():
    last = DropoutCNN(3, channel_axis=-1).eval()
    first = DropoutCNN(3, channel_axis=0).eval()
    images = torch.rand(4, 6, 5, 3)
    expected = last(images)
    first(images.permute(0, 3, 1, 2))
    first.load_state_dict(last.state_dict())
    torch.testing.assert_close(first(images.permute(0, 3, 1, 2)), expected)


def test_dropout_is_drawn_in_training_only():
    for module in (DropoutMLP(3), DropoutCNN(3, image_shape=(8, 8))):
        X = torch.rand(5, 64)
        assert not torch.equal(module(X), module(X))
        module.eval()
        assert torch.equal(module(X), module(X))


def test_double_modules_compute_in_double():
    module = DropoutMLP(3)
    module(torch.rand(2, 4))
    assert module.double()(torch.rand(2, 4)).dtype == torch.float64


@pytest.mark.parametrize(
    "make, message",
    [
        (
            lambda: DropoutMLP(1),
            r"'n_classes' .*DropoutMLP .*an int in \[2, inf\)",
        ),
        (lambda: DropoutMLP(2.0), "'n_classes'.*Got 2.0 instead"),
        (lambda: DropoutMLP(2, hidden=(0,)), "'hidden' .*tuple of positive ints"),
        (lambda: DropoutMLP(2, hidden=5), "'hidden' .*tuple of positive ints.*Got 5 "),
        (lambda: DropoutMLP(2, hidden=(True,)), "'hidden'"),
        (lambda: DropoutMLP(2, hidden=b"ab"), "'hidden' .*tuple of positive ints"),
        (lambda: DropoutMLP(2, dropout=1), r"'dropout' .*float in \[0, 1\). Got 1"),
        (lambda: DropoutCNN(1), "'n_classes' parameter of DropoutCNN"),
        (lambda: DropoutCNN(2, dropout=-0.1), "'dropout'"),
        (lambda: DropoutCNN(2, hidden=0), r"'hidden' .*int in \[1, inf\)"),
        (lambda: DropoutCNN(2, channels=(4, 0)), "'channels'"),
        (lambda: DropoutCNN(2, channel_axis=3), r"'channel_axis' .*in \[-3, 2\]"),
        (lambda: DropoutCNN(2, image_shape=(64,)), "'image_shape' .*2 or 3 positive"),
        (lambda: DropoutCNN(2, image_shape=8), "'image_shape'.*Got 8 "),
        (lambda: DropoutCNN(2, image_shape=(8, 0)), "'image_shape'"),
        (
            lambda: DropoutCNN(2)(torch.rand(1, 64)),
            r"rows of 64 features.*image_shape=\(height, width\).*module__image_shape",
        ),
        (
            lambda: DropoutCNN(2, image_shape=(8, 8))(torch.rand(1, 8, 7)),
            r"images of shape \(8, 8\). Got \(8, 7\)",
        ),
        (
            lambda: DropoutCNN(2, image_shape=(8, 8))(torch.rand(1, 63)),
            r"shape \(8, 8\), 64 values a row. Got rows of 63",
        ),
        (
            lambda: DropoutCNN(2)(torch.rand(1, 2, 3, 4, 5)),
            r"with or without a channel axis. Got samples of shape \(2, 3, 4, 5\)",
        ),
    ],
)
def test_messages(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_widths_from_numpy_are_ints():
    module = DropoutMLP(2, hidden=np.array([4, 3]))
    module(torch.rand(2, 5))
    assert linears(module) == [(5, 4), (4, 3), (3, 2)]


def make_net(module, **params):
    return NeuralNetClassifier(
        module,
        module__n_classes=2,
        criterion=nn.CrossEntropyLoss,
        train_split=None,
        max_epochs=15,
        lr=0.2,
        verbose=0,
        **params,
    )


NETS = {
    "mlp": make_net(DropoutMLP),
    "cnn of rows": make_net(DropoutCNN, module__image_shape=(6, 6)),
    "cnn of images": make_net(DropoutCNN),
}


@pytest.mark.parametrize("name", NETS)
def test_through_skorch(name):
    rng = np.random.default_rng(0)
    y = np.arange(80, dtype=np.int64) % 2
    X = (rng.random((80, 6, 6)) + 0.8 * y[:, None, None]).astype(np.float32)
    X = X if name == "cnn of images" else X.reshape(80, -1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = clone(NETS[name]).fit(X, y)
        assert net.score(X, y) > 0.9
        # skorch alone does not cast
        np.testing.assert_array_equal(net.predict(X.astype(np.float64)), net.predict(X))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            twin = pickle.loads(pickle.dumps(net))
        np.testing.assert_array_equal(twin.predict_proba(X), net.predict_proba(X))
        grid = {"module__dropout": [0.0, 0.5], "module__hidden": [8, 16]}
        if name == "mlp":
            grid["module__hidden"] = [(8,), (8, 4)]
        search = GridSearchCV(net, grid, cv=2, scoring="accuracy", error_score="raise")
        search.fit(X, y)
        assert set(search.best_params_) == set(grid)
        assert dropouts(search.best_estimator_.module_)
    clone(search.best_estimator_)
