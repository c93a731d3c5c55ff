"""Certificates under rounding: nets of weights so ill-scaled that float32 breaks them.

Each net answers a row otherwise than exact arithmetic would, by underflow, by overflow
of what is never seen, or by cancellation. What is certified is what the net answers.
"""

import itertools

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler
from torch import nn
from torch.nn import functional as F

from sk_advdef._torch._bounds import certified_margins, propagate
from sk_advdef._torch._interval import Interval, NoBoundsError
from sk_advdef._torch._interval_rules import _CLAMPED, _EXACT, _ROUNDED, unit_of
from sk_advdef._torch._methods import METHODS
from sk_advdef.evaluation._certified import certified_rows

CPU = torch.device("cpu")


def layer(weight):
    """Make a linear layer of these weights, without bias."""
    weight = torch.tensor(weight, dtype=torch.float32)
    found = nn.Linear(weight.shape[1], len(weight), bias=False)
    found.weight = nn.Parameter(weight)
    return found


def times(*factors):
    """Make a layer that takes each feature for itself."""
    return layer(np.diag(factors).tolist())


class Does(nn.Module):
    """A function as a module, behind others."""

    def __init__(self, function, *before):
        super().__init__()
        self.before, self.function = nn.Sequential(*before), function

    def forward(self, x):
        return self.function(self.before(x))


def norm(weight, var):
    found = nn.BatchNorm1d(len(weight), eps=0.0).eval()
    found.weight.data.copy_(torch.tensor(weight))
    found.running_var.copy_(torch.tensor(var))
    return found


def written(h):
    """Go beyond what float32 holds, and back, in place."""
    h = 1 * h
    h.mul_(1e30)
    h.mul_(1e30)
    h.mul_(1e-30)
    h.mul_(1e-30)
    return h[:, :1] * torch.tensor([[1.0, -1.0]]) + torch.tensor([0.0, 9.0])


def taken_away(h):
    """Take from itself what float32 does not hold."""
    h = h * 1e30
    h = h * 1e30
    return (h - h)[:, :1] * torch.tensor([[1.0, -1.0]]) + torch.tensor([0.0, 9.0])


ONE = times(1.0, 1.0)

#: Name -> a net, and a row whose exact answer is another than the net's.
TURNED = {
    "products below the smallest number": (
        nn.Sequential(Does(lambda h: 1e30 * h, times(1e-40, 1e-40)), times(1e15, 1e15)),
        [1.4e-5, 1.5e-5],
    ),
    "scores that underflow and come back": (
        Does(lambda h: h * 1e-40 * 1e-4 * 1e30 * 1e14, ONE),
        [0.1, 0.101],
    ),
    "scores beside a large constant": (
        Does(lambda h: h + 1e10 - 1e10, ONE),
        [0.1, 0.3],
    ),
    "scores divided by what is large": (
        Does(lambda h: h / 1e30 / 1e14 * 1e30 * 1e14, ONE),
        [0.1, 0.101],
    ),
    "some of the scores beside a large constant": (
        Does(lambda h: (h + 1e10 - 1e10)[:, 1:], times(1.0, 1.0, 1.0)),
        [9.0, 0.1, 0.3],
    ),
    "a factor of a normalization that underflows": (
        nn.Sequential(norm([2.0e-30, 1.5e-30], [1e30, 1e30]), times(1e20, 1e20)),
        [1.0e30, 1.2e30],
    ),
    "a factor of a normalization that overflows": (
        nn.Sequential(norm([1e30, 1e30], [1e-20, 1e-20]), nn.ReLU()),
        [1e-15, 2e-15],
    ),
    "a partial sum that overflows": (
        nn.Sequential(layer([[1e20, -1e20, 0], [0, 0, 1e37]]), nn.ReLU()),
        [1e20, 1e20, 1.0],
    ),
    "a partial sum of the last layer": (
        layer([[1e20, -1e20, 0], [0, 0, 1e37]]),
        [1e20, 1e20, 1.0],
    ),
    "what is written to a tensor": (Does(written, ONE), [0.1, 0.1]),
    "what is taken from itself": (Does(taken_away, ONE), [0.1, 0.1]),
    "a sum on the way to a mean": (
        Does(lambda h: torch.stack([h[:, :4].mean(dim=1), 2 * h[:, 4]], dim=1)),
        [1e38, 1e38, 1e38, 1e38, 6e37],
    ),
}


@pytest.mark.parametrize("name", TURNED)
def test_what_rounding_turns_is_not_certified(name):
    net, row = TURNED[name]
    rows = np.array([row], dtype=np.float32)
    with torch.no_grad():
        answer = int(net(torch.tensor(rows)).argmax())
    exact = rows.astype(np.float64)
    for column in {0, 1} - {answer}:
        args = net, exact, exact, np.array([column])
        for method in METHODS:
            found = certified_margins(*args, dtype=rows.dtype, method=method)
            assert not found > 0, "an answer that the net does not give is certified"
    # the same net in float64, where nothing is lost, answers otherwise
    double = net.double()
    with torch.no_grad():
        other = int(double(torch.tensor(exact)).argmax())
    net.float()
    assert other != answer


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_softplus_falls_where_it_turns_into_a_line(dtype):
    short = nn.Softplus(threshold=1.0)
    ends = [torch.tensor([[end]], dtype=torch.float64) for end in (0.5, 1.01)]
    box = Interval(*ends, dtype=dtype, unit=unit_of(dtype, CPU))
    found = propagate(short, box)
    inside = short(torch.linspace(0.5, 1.01, 500, dtype=dtype)).double()
    assert inside.max() > short(ends[1]) + 0.2  # so that the ends alone do not do
    assert (found.lower <= inside).all() and (inside <= found.upper).all()
    # even that of torch's own threshold is more than float64 rounds
    ends = [torch.full((1, 1), 20.0 + shift).double() for shift in (-1e-13, 1e-13)]
    found = propagate(nn.Softplus(), Interval(*ends, dtype=dtype, unit=2.0**-53))
    assert float(found.upper - 20) > 2e-9


def test_a_softplus_whose_exponential_overflows_is_refused():
    net, rows = nn.Softplus(threshold=1000.0), np.array([[98.0, 99.0]])
    assert torch.isinf(net(torch.tensor(rows, dtype=torch.float32))).all()
    with pytest.raises(NoBoundsError, match=r"softplus\(\) with this threshold"):
        certified_margins(net, rows, rows, np.array([1]), dtype=np.float32)


def elementwise():
    """Yield functions, with the settings that make them hard."""
    for function in dict.fromkeys((*_ROUNDED, *_EXACT, *_CLAMPED)):
        name = function.__name__
        if name.endswith("_") and not name.startswith("__"):
            continue  # writes to its argument; the same rule
        settings = [{}]
        if "clamp" in name or "clip" in name:
            settings = [{"max" if name.endswith("max") else "min": 0.1}]
        elif function in (F.elu, F.celu):
            settings += [{"alpha": 1e-3}, {"alpha": 1e10}]
        elif function is F.softplus:
            settings += [{"beta": 1e-3}, {"beta": 50.0}, {"threshold": 2.0}]
        yield from ((function, more) for more in settings)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_functions_of_any_number(dtype):
    """From denormals to the largest numbers, what torch computes is inside."""
    sizes = 10.0 ** np.arange(-45, 38.5, 0.5)
    values = np.concatenate([[0.0], sizes, -sizes, np.linspace(-100, 100, 2001)])
    x = torch.tensor(values, dtype=torch.float32).to(dtype)
    for function, more in elementwise():
        box = Interval(x.double(), x.double(), dtype=dtype, unit=unit_of(dtype, CPU))
        found, computed = function(box, **more), function(x, **more).double()
        known = ~(found.lower.isnan() | found.lower.isinf())
        inside = (found.lower <= computed) & (computed <= found.upper)
        assert inside[known].all(), (function, more)
        assert known.sum() > 500, (function, more)


def ill_scaled(seed):
    """Make a net whose units have sizes from 1e-12 to 1e12, and rows at its borders."""
    rng = np.random.default_rng(seed)
    width, n = 8, 200
    units = [10.0 ** rng.uniform(-6, 6, size=k) for k in (4, width, width)]
    weights = [rng.normal(size=(width, 4)), rng.normal(size=(width, width))]
    # scores are large, and near to each other
    weights.append(rng.normal(size=(3, width)) + 100 * rng.normal(size=width))
    # what one layer multiplies by, the next one takes back
    weights[0] = weights[0] * units[1][:, None] / units[0]
    weights[1] = weights[1] * units[2][:, None] / units[1]
    weights[2] = weights[2] / units[2]
    layers = []
    for weight, size in zip(weights, (*units[1:], np.ones(3)), strict=True):
        layers += [nn.Linear(weight.shape[1], len(weight)), nn.ReLU()]
        layers[-2].weight.data.copy_(torch.tensor(weight))
        shift = 0.3 * size * rng.normal(size=len(size))
        layers[-2].bias.data.copy_(torch.tensor(shift))
    net = nn.Sequential(*layers[:-1])
    rows = (rng.normal(size=(2, n, 4)) * units[0]).astype(np.float32)

    def answer(rows):
        with torch.no_grad():
            return net(torch.tensor(rows)).argmax(dim=1).numpy()

    apart = np.flatnonzero(answer(rows[0]) != answer(rows[1]))[:24]
    low, high = rows = rows[:, apart]
    first = answer(low)
    for _ in range(60):  # to neighbors in float32
        middle = ((low.astype(float) + high) / 2).astype(np.float32)
        same = (answer(middle) == first)[:, None]
        low, high = np.where(same, middle, low), np.where(same, high, middle)
    away = [low + (rows[0] - low) * part for part in (0, 1e-6, 1e-5, 1e-4, 1e-2, 0.5)]
    return net, np.concatenate(away).astype(np.float32), units[0], answer


@pytest.mark.parametrize("seed", range(6))
def test_nothing_within_eps_breaks_a_certificate_of_an_ill_scaled_net(seed):
    net, rows, units, answer = ill_scaled(seed)
    rng = np.random.default_rng(seed)
    said, exact = answer(rows), rows.astype(np.float64)
    shares = []
    for size in (0.0, 3e-7, 1e-4):
        eps = size * units
        args = exact - eps, exact + eps, said
        sure = certified_margins(net, *args, dtype=rows.dtype) > 0
        # the others take long, and see some of the rows
        few = [arg[::9] for arg in args]
        by_lines = [
            certified_margins(net, *few, dtype=rows.dtype, method=method) > 0
            for method in METHODS[1:]
        ]
        shares.append([part.mean() for part in (sure[::9], *by_lines)])
        sure[::9] = np.any(by_lines, axis=0)
        for kind in range(40):
            draw = rng.uniform(-1, 1, size=rows.shape)
            tried = (exact + eps * (np.sign(draw) if kind % 2 else draw)).astype("f4")
            inside = np.abs(tried.astype(np.float64) - exact) <= eps
            tried = np.where(inside, tried, rows)
            part = slice(None, None, 1 + kind % 3)  # sums go in another order
            same = answer(tried[part]) == said[part]
            assert same[sure[part]].all()
    # rows at the border are not certified, and those far from it are
    assert len(rows) >= 40
    shares = np.array(shares)
    assert (shares[0] > 0.1).all() and (shares[0] < 1).all()
    assert (np.diff(shares, axis=0) <= 0).all() and (np.diff(shares) >= 0).all()


def test_half_precision_is_that_of_the_steps_before():
    """Transformers of scikit-learn compute in float16 on rows of float16."""
    wide = np.random.default_rng(0).normal(size=(400, 3)) + 100
    model = make_pipeline(MinMaxScaler(), LogisticRegression(C=100))
    model.fit(wide, wide[:, 0] + wide[:, 1] > 200)
    X = wide.astype(np.float16)
    assert model[:-1].transform(X).dtype == np.float16
    steps = np.array(list(itertools.product([-1, 0, 1], repeat=3))) / 16
    near = (X[:, None].astype(float) + steps).astype(np.float16)
    eps = 1 / 16
    assert np.abs(near.astype(float) - X[:, None]).max() == eps
    own = model.predict(X)
    answers = model.predict(near.reshape(-1, 3)).reshape(len(X), -1)
    broken = np.flatnonzero((answers != own[:, None]).any(axis=1))
    sure = certified_rows(model, X, own, eps, bounds=None)
    assert len(broken) > 5 and not sure[broken].any()
    # in float32 these steps do not round that much
    assert (
        certified_rows(model, X.astype(np.float32), own, eps, bounds=None).mean() > 0.8
    )
    # nets take float32 rows, and lose nothing by these
    net, rows = times(3.0, 2.0, 1.0), X.astype(np.float32)
    margins = [
        certified_margins(
            Does(net, Does(lambda x: x.to(torch.float32))),
            *(rows.astype(np.float64),) * 2,
            np.zeros(len(X), dtype=int),
            dtype=dtype,
        )
        for dtype in (np.float16, np.float32)
    ]
    np.testing.assert_array_equal(*margins)
