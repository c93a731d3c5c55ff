"""Sampled sub-networks: one pass of all equals each pass by hand."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from sk_advdef._torch import _sampled
from sk_advdef._torch._sampled import Disagreement, SampledNet
from sk_advdef.nets import DropoutCNN, DropoutMLP


class Residual(nn.Module):
    """A branch around a dropout, and one dropout module used twice."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(6, 6), nn.Linear(12, 3)
        self.drop = nn.Dropout(0.3)
        self.same = self.drop
        self.norm = nn.BatchNorm1d(6)

    def forward(self, x):
        x = x + self.drop(self.norm(self.first(x)).relu())
        return self.last(torch.cat([self.same(x), x.tanh()], dim=1))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout(0.4)
        self.lstm = nn.LSTM(2, 5, batch_first=True)
        self.out = nn.Linear(5, 3)

    def forward(self, x):
        return self.out(self.drop(self.lstm(self.drop(x.reshape(-1, 3, 2)))[0][:, -1]))


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(
            4, 2, dim_feedforward=8, dropout=0.3, batch_first=True
        )
        self.inside, self.out = nn.Linear(2, 4), nn.Linear(4, 3)

    def forward(self, x):
        return self.out(self.layer(self.inside(x.reshape(-1, 3, 2))).mean(dim=1))


class Branching(nn.Module):
    """Goes one way or the other by what came out of a dropout."""

    def __init__(self):
        super().__init__()
        self.drop, self.out = nn.Dropout(0.5), nn.Linear(6, 3)

    def forward(self, x):
        x = self.drop(x)
        return self.out(x if float(x.sum()) > 0 else -x)


def channels(dropout):
    return nn.Sequential(
        nn.Unflatten(1, (3, 2)), nn.Conv1d(3, 4, 1), dropout, nn.Flatten(),
        nn.Linear(8, 3),
    )  # fmt: skip


MODULES = {
    "mlp": lambda: DropoutMLP(3, hidden=(8, 7)),
    "cnn": lambda: DropoutCNN(3, image_shape=(2, 3)),
    "residual": Residual,
    "lstm": Recurrent,
    "transformer": Attention,
    "branching": Branching,
    "dropout1d": lambda: channels(nn.Dropout1d(0.5)),
    "dropout2d": lambda: nn.Sequential(
        nn.Unflatten(1, (3, 2, 1)), nn.Dropout2d(0.5), nn.Flatten(), nn.Linear(6, 3)
    ),
    "alpha": lambda: nn.Sequential(nn.SELU(), nn.AlphaDropout(0.3), nn.Linear(6, 3)),
    "feature alpha": lambda: channels(nn.FeatureAlphaDropout(0.3)),
    "in place": lambda: nn.Sequential(nn.Dropout(0.5, inplace=True), nn.Linear(6, 3)),
    "dropout alone": lambda: nn.Dropout(0.5),
}
rows = torch.randn(9, 6, generator=torch.Generator().manual_seed(0))


def make(kind):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = MODULES[kind]()
        module.train()(rows)  # moves the statistics of BatchNorm
    return module.eval()


def sample(module, n_passes=7, seed=0):
    return SampledNet(module, rows, n_passes=n_passes, seed=seed)


def by_hand(module, sampled, x):
    """Run each pass through hooks that put the masked values in place."""
    module = copy.deepcopy(module)
    names = dict(module.named_modules())
    found = []
    for i in range(sampled.n_passes):
        handles = []
        for name, calls in sampled.masks:
            left = iter(calls)

            def masked(_, given, __, left=left, i=i):
                scale, shift = next(left)
                return given[0] * scale[i] + (0 if shift is None else shift[i])

            handles.append(names[name].register_forward_hook(masked))
        found.append(module(x))  # with gradients: no fused path
        for handle in handles:
            handle.remove()
    return torch.stack(found).detach()


def no_vmap(function):
    def refuse(*args):
        raise RuntimeError("not batched")

    return refuse


@pytest.mark.parametrize("kind", MODULES)
def test_equals_the_loop_and_the_passes_by_hand(kind, monkeypatch):
    module = make(kind)
    state = copy.deepcopy(module.state_dict())
    sampled = sample(module)
    with torch.no_grad():
        found = sampled.scores(rows.clone())
        x = rows.clone()
        monkeypatch.setattr(torch.func, "vmap", no_vmap)
        looped = sampled.scores(x)
        monkeypatch.undo()
    assert torch.equal(x, rows)
    assert found.shape[:2] == (7, len(rows))
    torch.testing.assert_close(found, looped, rtol=1e-5, atol=1e-6)
    expected = by_hand(module, sampled, rows.clone())
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(found[0], found[1])
    for name, value in module.state_dict().items():
        assert torch.equal(value, state[name])
    assert not module.training and all(p.requires_grad for p in module.parameters())
    assert not any(isinstance(m, _sampled._Masked) for m in module.modules())


@pytest.mark.parametrize("kind", ["mlp", "residual", "transformer", "alpha"])
def test_blocks_of_rows_and_passes(kind, monkeypatch):
    module = make(kind)
    sampled = sample(module)
    with torch.no_grad():
        expected = sampled.scores(rows)
        for cells in (1, 200, 10**9):
            monkeypatch.setattr(_sampled, "CELLS_AT_A_TIME", cells)
            torch.testing.assert_close(sampled.scores(rows), expected)
        order = torch.tensor([3, 1, 8])
        torch.testing.assert_close(sampled.scores(rows[order]), expected[:, order])
        torch.testing.assert_close(sampled.scores(rows[4:5]), expected[:, 4:5])
    # learned from one row alone
    one = SampledNet(module, rows[5:6], n_passes=7, seed=0)
    with torch.no_grad():
        torch.testing.assert_close(one.scores(rows), expected)


@pytest.mark.parametrize("kind", ["mlp", "cnn", "residual", "transformer"])
def test_more_passes_keep_the_first(kind):
    few, many = sample(make(kind), 3), sample(make(kind), 11)
    with torch.no_grad():
        torch.testing.assert_close(many.scores(rows)[:3], few.scores(rows))
    other = sample(make(kind), 3, seed=1)
    (_, [(mask, _), *_]), *_ = few.masks
    assert not torch.equal(other.masks[0][1][0][0], mask)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_rates(p):
    module = nn.Sequential(nn.Dropout(p), nn.Linear(200, 3))
    x = torch.ones(2, 200)
    sampled = SampledNet(module, x, n_passes=200, seed=0)
    mask = sampled.masks[0][1][0][0].double()
    dropped = float((mask == 0).double().mean())
    assert abs(dropped - p) < 4 * (p * (1 - p) / mask.numel()) ** 0.5
    assert torch.allclose(mask[mask != 0], torch.tensor(1 / (1 - p)).double())
    assert abs(float(mask.mean()) - 1) < 0.05
    whole = SampledNet(channels(nn.Dropout1d(p)), rows, n_passes=9, seed=0)
    assert whole.masks[0][1][0][0].shape == (9, 1, 4, 1)


def test_everything_may_be_dropped():
    module = nn.Sequential(nn.Dropout(1.0), nn.Linear(6, 3))
    with torch.no_grad():
        found = sample(module).scores(rows)
    torch.testing.assert_close(found, module[1].bias.expand_as(found))


def test_alpha_dropout_keeps_mean_and_variance():
    x = torch.randn(2000, 100, generator=torch.Generator().manual_seed(0))
    found = SampledNet(nn.AlphaDropout(0.4), x, n_passes=20, seed=0).scores(x)
    assert abs(float(found.mean())) < 0.05
    assert abs(float(found.var()) - 1) < 0.05


class Functional(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function, self.out = function, nn.Linear(6, 3)

    def forward(self, x):
        return self.out(self.function(x, 0.5, self.training))


class TimeFirst(nn.Module):
    """Turns the batch to the second axis."""

    def __init__(self):
        super().__init__()
        self.drop, self.out = nn.Dropout(), nn.Linear(2, 3)

    def forward(self, x):
        return self.out(self.drop(x.reshape(-1, 3, 2).transpose(0, 1))[-1])


class Patches(TimeFirst):
    """Turns each row to three."""

    def forward(self, x):
        return self.out(self.drop(x.reshape(-1, 2))).reshape(-1, 3, 3).mean(dim=1)


@pytest.mark.parametrize(
    "module, message",
    [
        (nn.Linear(6, 3), "no dropout module with p > 0"),
        (nn.Sequential(nn.Dropout(0.0), nn.Linear(6, 3)), "no dropout module"),
        (Functional(nn.functional.dropout), "calls torch.nn.functional.dropout"),
        (Functional(torch.dropout), "calls torch.nn.functional.dropout"),
        (Functional(nn.functional.alpha_dropout), "or a kin of it"),
        (TimeFirst(), "batch is not the first axis"),
    ],
)
def test_what_cannot_be_sampled(module, message):
    with pytest.raises(ValueError, match=message):
        sample(module)


def test_a_dropout_of_nothing_among_others():
    module = nn.Sequential(nn.Dropout(0.0), nn.Dropout(), nn.Linear(6, 3))
    sampled = sample(module)
    assert [name for name, _ in sampled.masks] == ["1"]
    with torch.no_grad():
        found = sampled.scores(rows)
    torch.testing.assert_close(found, by_hand(module, sampled, rows))


def test_rows_in_patches():
    module = Patches()
    sampled = sample(module)
    with torch.no_grad():
        found = sampled.scores(rows)
        torch.testing.assert_close(sampled.scores(rows[:1]), found[:, :1])
    torch.testing.assert_close(found, by_hand(module, sampled, rows))


def test_an_error_of_the_net_is_told():
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        sample(make("mlp")).scores(rows[:, :4])


def test_fresh_and_fixed_disagreement(global_generators):
    def spread(proba):
        return proba.var(dim=0).mean(dim=1)

    module = make("mlp")
    fixed = Disagreement(module, spread, n_passes=5, seed=3)
    fresh = Disagreement(module, spread, n_passes=5, seed=None)
    assert torch.equal(fixed(rows), fixed(rows))
    assert not torch.equal(fresh(rows), fresh(rows))
    expected = sample(module, 5, seed=3).scores(rows).double().softmax(-1)
    torch.testing.assert_close(fixed(rows), spread(expected))
    assert fixed.features(rows).shape == (len(rows), 15)
    np.testing.assert_array_equal(
        fixed.features(rows)[:, :3].detach(), fixed.scores(rows)[0].detach()
    )
