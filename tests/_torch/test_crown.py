"""Linear bounds: equal to CROWN by hand, below every margin that a net can have."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from sk_advdef._torch import _crown, _lined
from sk_advdef._torch._bounds import certified_margins
from sk_advdef._torch._crown import Pass
from sk_advdef._torch._interval import NoBoundsError
from sk_advdef._torch._methods import METHODS
from tests._torch.test_bounds import MODULES, seeded_rows

ABOUT = {"dtype": torch.float32, "unit": 2.0**-24}


class Leads:
    """Leads of one class of each row over another, sent through a net together."""

    def __init__(self, net, ends, own, other, about=ABOUT, **params):
        self.sent, self.pair = Pass(net, ends, about, **params), (own, other)
        self.slopes = self.sent.ledger.slopes

    def bounds(self):
        return self.sent.bounds(*self.pair)

    def search(self):
        return self.sent.search(*self.pair)


def refined(net, ends, monkeypatch):
    """Return the bounds of what goes into each ReLU but the first, row by row."""
    found, own = [], _lined._bounded_backward

    def watched(x, ledger):
        found[-1].append(tuple(end[0].numpy() for end in own(x, ledger)))
        return own(x, ledger)

    with monkeypatch.context() as patch:
        patch.setattr(_lined, "_bounded_backward", watched)
        for row in torch.arange(len(ends[0])).split(1):
            found.append([])
            Pass(net, _crown._of(row, ends), ABOUT, refines=True)
    return found


def mlp(*widths, act=nn.ReLU, seed=0):
    """Make a net of linear layers with an activation between them."""
    torch.manual_seed(seed)
    layers = []
    for n_in, n_out in itertools.pairwise(widths):
        layers += [nn.Linear(n_in, n_out), act()]
    return nn.Sequential(*layers[:-1]).requires_grad_(False)


def asked(net, x, eps):
    """Return the arguments of Leads: the class answered over the next one."""
    with torch.no_grad():
        scores = net(x.clone())
    own = scores.argmax(dim=1)
    x = x.double()
    return net, (x - eps, x + eps), own, (own + 1) % scores.shape[1], ABOUT


def by_hand(layers, x, eps, own, other, slopes, ends, k=0.0):
    """Bound a lead of one row by matrices, given bounds of what goes into each ReLU."""
    weights = [layer.weight.double().numpy() for layer in layers]
    biases = [layer.bias.double().numpy() for layer in layers]
    back = weights[-1][own] - weights[-1][other]
    total = biases[-1][own] - biases[-1][other]
    for at in reversed(range(len(ends))):
        lower, upper = ends[at]
        below, above, rise = (np.empty_like(lower) for _ in range(3))
        for i, (low, high) in enumerate(zip(lower, upper, strict=True)):
            if low >= 0:
                below[i], above[i], rise[i] = 1, 1, 0
            elif high <= 0:
                below[i], above[i], rise[i] = k, k, 0
            else:
                below[i] = k + (1 - k) * slopes[at][i]
                above[i] = (high - k * low) / (high - low)
                rise[i] = high - above[i] * high
        total += np.minimum(back, 0) @ rise
        back = np.where(back > 0, back * below, back * above)
        total += back @ biases[at]
        back = back @ weights[at]
    return total + back @ x - eps * np.abs(back).sum()


def intervals_by_hand(layers, x, eps, k):
    """Bound what goes into each ReLU by intervals."""
    low, high, ends = x - eps, x + eps, []
    for layer in layers[:-1]:
        weight, bias = layer.weight.double().numpy(), layer.bias.double().numpy()
        center, radius = (low + high) / 2, (high - low) / 2
        low = weight @ center + bias - np.abs(weight) @ radius
        high = weight @ center + bias + np.abs(weight) @ radius
        ends.append((low, high))
        low, high = (np.where(end > 0, end, k * end) for end in (low, high))
    return ends


@pytest.mark.parametrize("k", [0.0, 0.2])
def test_bounds_are_those_of_crown_by_hand(k):
    net = mlp(5, 12, 9, 4, act=lambda: nn.LeakyReLU(k) if k else nn.ReLU())
    x, eps = seeded_rows(6, 5), 0.2
    args = asked(net, x, eps)
    leads = Leads(*args)
    layers, own, other = net[::2], args[2], args[3]

    def expected():
        slopes = [slope.detach().numpy() for slope in leads.slopes]
        rows = x.double().numpy()
        return [
            by_hand(
                *(layers, row, eps, own[i], other[i], [s[i] for s in slopes]),
                intervals_by_hand(layers, row, eps, k),
                k,
            )
            for i, row in enumerate(rows)
        ]

    # what rounding is allowed for takes off a little, and never adds
    for found in (leads.bounds(), leads.search(), leads.bounds()):
        gap = np.array(expected()) - found.numpy()
        assert (gap >= 0).all() and (gap < 1e-3).all()


def test_what_goes_into_a_relu_is_bounded_as_a_lead_is(monkeypatch):
    """A unit of the second layer is the lead of a net that ends there."""
    net = mlp(4, 10, 7, 3)
    args = asked(net, seeded_rows(3, 4), 0.3)
    layers = net[::2]
    for row, (second,) in enumerate(refined(net, args[1], monkeypatch)):
        x = args[1][0][row].numpy() + 0.3
        by_intervals = intervals_by_hand(layers, x, 0.3, 0.0)
        lower, upper = by_intervals[1]
        slopes = [(by_intervals[0][1] > -by_intervals[0][0]).astype(float)]
        for unit in np.flatnonzero((lower < 0) & (upper > 0)):
            # the unit and its negative over a class that is always 0
            for sign, end in ((1, second[0]), (-1, second[1])):
                last = nn.Linear(10, 2)
                with torch.no_grad():
                    last.weight[0] = sign * layers[1].weight[unit]
                    last.bias[0] = sign * layers[1].bias[unit]
                    last.weight[1] = last.bias[1] = 0
                parts = [layers[0], last.requires_grad_(False)]
                best = by_hand(parts, x, 0.3, 0, 1, slopes, by_intervals[:1])
                kept = max(best, sign * (lower if sign > 0 else upper)[unit])
                assert kept - 1e-4 < sign * end[unit] <= kept
        # and leads are those of these bounds
        at = torch.tensor([row])
        given = net, _crown._of(at, args[1]), args[2][at], args[3][at]
        leads = Leads(*given, refines=True)
        slopes = [slope[0].detach().numpy() for slope in leads.slopes]
        ends = [by_intervals[0], second]
        best = by_hand(layers, x, 0.3, args[2][row], args[3][row], slopes, ends)
        assert best - 1e-3 < leads.bounds() <= best


@pytest.mark.parametrize("join", [False, True])
def test_what_two_maps_make_before_the_first_relu_is_bounded_as_one(join, monkeypatch):
    torch.manual_seed(0)
    first = nn.Linear(4, 6)
    net = nn.Sequential(first, nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    if join:  # of what comes from the same rows
        net[0] = Joined()
        net[1] = nn.Linear(8, 5)
        net[1].weight.data[:, 4:] *= -1
    net.requires_grad_(False)
    x = seeded_rows(4, 4)
    args = asked(net, x, 0.5)
    found = refined(net, args[1], monkeypatch)
    lower, upper = (np.stack([row[0][i] for row in found]) for i in range(2))
    weight = net[1].weight @ (torch.eye(4).repeat(2, 1) if join else first.weight)
    middle = net[:2](x).double()
    radius = 0.5 * weight.double().abs().sum(dim=1)
    unsure = (middle.abs() < 0.9 * radius).numpy()  # others stay as they are
    assert 4 < unsure.sum() <= 20
    for end, true in ((lower, middle - radius), (upper, middle + radius)):
        np.testing.assert_allclose(end[unsure], true[unsure], atol=1e-3)


class Joined(nn.Module):
    def forward(self, x):
        return torch.cat([x, x], dim=1)


def test_a_linear_net_has_no_gap():
    net = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 3)).requires_grad_(False)
    x = seeded_rows(5, 4)
    args = asked(net, x, 0.3)
    weight = (net[1].weight @ net[0].weight).double()
    slope = weight[args[2]] - weight[args[3]]
    scores = net.double()(x.double())
    rows = torch.arange(5)
    true = scores[rows, args[2]] - scores[rows, args[3]] - 0.3 * slope.abs().sum(1)
    leads = Leads(net.float(), *args[1:])
    assert not leads.slopes
    torch.testing.assert_close(leads.search(), true, atol=1e-3, rtol=0)
    assert (leads.bounds() <= true).all()


class Odd(nn.Module):
    """What cuts gradients, is written to, is used twice, or bends otherwise."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(72, 9), nn.Linear(9, 9)
        self.out = nn.Linear(18, 4)

    def forward(self, x):
        h = F.relu(self.first(x.flatten(1)))
        with torch.no_grad():
            kept = self.second(h)
        with torch.inference_mode():
            half = torch.full((9,), 0.5, dtype=h.dtype)
            seen = half * self.second(h)[:, torch.arange(9)]
        h = h + 0.5 * kept - 0.1 * seen
        h = h + F.leaky_relu(self.second(h.detach()), 1.5)
        h += 1
        h = F.leaky_relu(self.second(h) - h, 0.3, True)
        h -= torch.relu(self.second(h)).clamp(max=0.2)
        h = torch.cat([h.abs(), 2 - F.pad(h, (1, -1), value=0.1)], dim=1)
        return torch.rsub(self.out(F.dropout(h, training=False)), 0.1)


class Turned(nn.Module):
    """Rows that go elsewhere and come back."""

    def __init__(self):
        super().__init__()
        self.first, self.out = nn.Linear(72, 8), nn.Linear(8, 3)

    def forward(self, x):
        h = self.first(x.flatten(1)).roll(1, 0)
        return self.out(torch.relu(h) + h).roll(-1, 0)


def flat(name):
    return nn.Sequential(MODULES[name](), nn.Flatten())


NETS = {name: lambda name=name: flat(name) for name in MODULES if name != "binary"}
NETS |= {"odd": Odd, "turned": Turned}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", NETS)
def test_no_lead_inside_is_below_its_bound(name, dtype):
    torch.manual_seed(1)
    net, x, eps = NETS[name]().eval(), seeded_rows(4, 2, 6, 6), 0.1
    net(x.clone())  # which makes lazy layers
    net, x = net.requires_grad_(False).to(dtype), x.to(dtype)
    net, ends, own, other, _ = asked(net, x, eps)
    about = {"dtype": dtype, "unit": torch.finfo(dtype).eps / 2}
    rows = torch.arange(4)

    def lead(values):
        scores = net(values.clone())
        return scores[rows, own] - scores[rows, other]

    # the worst that an attacker finds
    worst = lead(x).double()
    generator = torch.Generator().manual_seed(0)
    for attempt in range(30 if name == "odd" else 6):
        draw = torch.rand(x.shape, generator=generator).to(dtype) * 2 - 1
        moved = x + eps * (draw.sign() if attempt % 2 else draw)
        worst = torch.minimum(worst, lead(moved).double())
        for _ in range(0 if name == "odd" else 10):  # whose gradients are cut
            moved.requires_grad_()
            found = lead(moved)
            worst = torch.minimum(worst, found.detach().double())
            (slope,) = torch.autograd.grad(found.sum(), moved)
            moved = moved.detach() - 0.05 * slope.sign()
            moved = torch.minimum(torch.maximum(moved, x - eps), x + eps)
    leads = Leads(net, ends, own, other, about)
    first = leads.bounds()
    found = leads.search()
    assert (first <= found).all()
    if name != "turned":  # together: that is why rows are proved alone
        assert (found <= worst + 1e-9).all()
    for row in rows.split(1):
        of_it = net, _crown._of(row, ends), own[row], other[row], about
        for refines in (False, True):
            found = Leads(*of_it, refines=refines).search()
            assert (found <= worst[row] + 1e-9).all()
    codes, dtype = own.numpy(), np.dtype(str(dtype).removeprefix("torch."))
    margins = [
        certified_margins(
            net, *(end.numpy() for end in ends), codes, dtype=dtype, method=method
        )
        for method in METHODS
    ]
    assert (np.diff(margins, axis=0) >= 0).all()


@pytest.mark.parametrize("eps", [0.02, 0.1, 0.3])
def test_each_method_proves_what_the_one_before_does_and_more(eps):
    net = mlp(2, 16, 16, 3)
    x = seeded_rows(80, 2)
    own = net(x).argmax(dim=1).numpy()
    ends = [x.double().numpy() + s * eps for s in (-1, 1)]
    sure = [
        certified_margins(net, *ends, own, dtype=np.float32, method=method) > 0
        for method in METHODS
    ]
    grid = np.array(list(itertools.product(np.linspace(-1, 1, 25), repeat=2)))
    near = x[:, None] + eps * torch.tensor(grid, dtype=torch.float32)
    holds = (net(near).argmax(dim=2).numpy() == own[:, None]).all(axis=1)
    for fewer, more in itertools.pairwise((*sure, holds)):
        assert not (fewer & ~more).any()
    shares = [part.mean() for part in (*sure, holds)]
    assert shares[0] < shares[1] <= shares[2] <= shares[3]
    if eps == 0.1:  # nearly all that there is to be proved
        assert shares[2] > shares[3] - 0.05 and shares[2] > shares[0] + 0.1


def test_slopes_are_what_makes_bounds_tight():
    net = mlp(6, 30, 30, 30, 3)
    for layer in net[::2]:
        layer.weight *= 3
    leads = Leads(*asked(net, seeded_rows(8, 6), 0.05))
    first, found = leads.bounds(), leads.search()
    assert (found >= first).all() and float((found - first).mean()) > 0.02
    # and what is left are the best of them
    again = leads.bounds()
    torch.testing.assert_close(again, found)


@pytest.mark.parametrize("method", METHODS[1:])
def test_a_row_is_proved_whatever_is_beside_it(method, monkeypatch):
    net = mlp(3, 12, 12, 4)
    x = 0.5 * seeded_rows(16, 3)
    net[-1].bias -= net(x).mean(dim=0)  # every class is answered
    own = net(x).argmax(dim=1).numpy()
    lower, upper = (x.double().numpy() + s * 0.1 for s in (-1, 1))

    def margins(rows):
        args = lower[rows], upper[rows], own[rows]
        return certified_margins(net, *args, dtype=np.float32, method=method)

    together = margins(np.arange(16))
    assert 0.1 < (together > 0).mean() < 0.9
    turned = margins(np.arange(16)[::-1])[::-1]
    np.testing.assert_allclose(turned, together, atol=1e-6)
    alone = [margins(np.array([row]))[0] for row in range(4)]
    np.testing.assert_allclose(alone, together[:4], atol=1e-6)
    monkeypatch.setattr(_crown, "MANY_SLOPES", 50)  # two rows at a time
    monkeypatch.setattr(_lined, "MANY_VALUES", 100)
    np.testing.assert_allclose(margins(np.arange(16)), together, atol=1e-6)


def test_rows_that_come_back_to_their_places_are_proved_alone():
    """Sent together, what a row owes is charged to the one before it."""
    torch.manual_seed(0)
    net = Turned()
    net.out = nn.Linear(8, 2)
    net.requires_grad_(False)
    x = seeded_rows(8, 72)
    x[1::2] *= 0.05  # these owe little
    net.out.bias -= net(x).mean(dim=0)
    eps = (0.25 * x.abs() + 0.01).double()
    _, ends, own, other, _ = asked(net, x, eps)
    together = Pass(net, ends, ABOUT).search(own, other)
    alone = torch.cat(
        [
            Pass(net, _crown._of(row, ends), ABOUT).search(own[row], other[row])
            for row in torch.arange(8).split(1)
        ]
    )
    assert ((together > 0) & (alone <= 0)).any() and (alone > 0).any()
    args = net, *(end.numpy() for end in ends), own.numpy()
    margins = [
        certified_margins(*args, dtype=np.float32, method=method)
        for method in METHODS[:2]
    ]
    assert not ((margins[1] > 0) & (alone <= 0).numpy()).any()
    open_rows = margins[1] <= 0
    # of which nothing else is said either
    np.testing.assert_array_equal(margins[0][open_rows], margins[1][open_rows])


class Across(nn.Module):
    """Computes with rows along some axis, and brings them back to the first."""

    def __init__(self, way, back):
        super().__init__()
        self.way, self.back = way, back
        torch.manual_seed(3)
        self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 8)
        self.out = nn.Linear(16, 3)

    def forward(self, x):
        h = self.first(x)  # of shape (n_samples, 2, 8)
        h = self.back(torch.relu(2 * self.way(h)))
        h = self.back(torch.relu(self.way(self.second(h))))
        return self.out(h.flatten(1))


WAYS = {
    "first": (lambda h: h, lambda h: h),
    "last": (lambda h: h.permute(1, 2, 0), lambda h: h.permute(2, 0, 1)),
    "behind an axis of one": (lambda h: h[None], lambda h: h[0]),
    "with the tokens of a row": (
        lambda h: h.reshape(-1, 8),
        lambda h: h.reshape(-1, 2, 8),
    ),
    "in other strides": (
        lambda h: h.transpose(1, 2),
        lambda h: h.transpose(1, 2),
    ),
}


@pytest.mark.parametrize("n", [1, 2, 8])
def test_rows_along_any_axis(n):
    """What is proved is the same, wherever the rows are on their way."""
    x = 0.5 * seeded_rows(n, 2, 4)
    ends = [x.double().numpy() + s * 0.3 for s in (-1, 1)]
    for method in METHODS[1:]:
        found = {}
        for name, ways in WAYS.items():
            net = Across(*ways).requires_grad_(False)
            own = net(x).argmax(dim=1).numpy()
            args = net, *ends, own
            found[name] = certified_margins(*args, dtype=np.float32, method=method)
            np.testing.assert_allclose(found[name], found["first"], atol=1e-6)
        assert n < 8 or 0 < (found["first"] > 0).mean() < 1


def squeezed(net, x):
    h = net.first(x)
    h = torch.relu(net.second(torch.relu(h.squeeze())))
    return net.out(h.reshape(len(x), -1))


def alone_and_together(net, x):
    h = net.second(torch.relu(net.first(x)))
    return net.out(torch.relu(h.squeeze(0) * 1) + torch.zeros(len(x), 1) - 0.3 * h)


def one_by_one(net, x):
    rows = [torch.stack([r[0] * 2 + r[1], r[2] - r[0], r[1]]) for r in x.unbind(0)]
    return net.out(torch.relu(net.second(net.first(torch.stack(rows)))))


def other_ways_for_many(net, x):
    h = net.first(x)
    h = torch.relu(h.t() * 1).t() if len(x) > 3 else torch.relu(h)
    return net.out(torch.relu(net.second(h)))


def asks(net, x):
    h = net.out(torch.relu(net.second(torch.relu(net.first(x)))))
    if torch.is_grad_enabled():  # as they are not in predict
        return 0 * h + torch.tensor([9.0, 0.0, -9.0])
    return h


def not_to_learn(net, x):
    x.requires_grad_(False)
    return net.out(torch.relu(net.second(torch.relu(net.first(x)).detach())))


def checkpointed(net, x):
    def inner(h):
        return torch.relu(net.second(torch.relu(net.first(h))))

    return net.out(checkpoint(inner, x, use_reentrant=False))


def written_copies(net, x):
    h = net.first(x).clone()
    h += 0.5
    return net.out(torch.relu(net.second(h.relu_())))


def more_columns(net, x):  # from one score of a layer, as for ordered classes
    h = torch.relu(net.second(torch.relu(net.first(x))))
    return net.out(h)[:, :1] + torch.tensor([0.1, -0.1, 0.0])


class By(nn.Module):
    """Layers, and a function that goes through them."""

    def __init__(self, way):
        super().__init__()
        torch.manual_seed(0)
        self.way = way
        self.first, self.second = nn.Linear(3, 8), nn.Linear(8, 8)
        self.out = nn.Linear(8, 3)

    def forward(self, x):
        return self.way(self, x)


HANDS = [squeezed, alone_and_together, one_by_one, other_ways_for_many, asks]
HANDS += [not_to_learn, checkpointed, written_copies, more_columns]


@pytest.mark.parametrize("way", HANDS)
def test_modules_that_go_ways_of_their_own(way):
    net = By(way).requires_grad_(False)
    x = seeded_rows(8, 3)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        if way is not more_columns:
            net.out.bias -= net(x).mean(dim=0)
        own = net(x).argmax(dim=1).numpy()
        near = 2 * torch.rand(300, 8, 3, generator=generator) - 1
        near[::2] = near[::2].sign()
        answers = np.array([net(x + 0.25 * step).argmax(dim=1) for step in near])
    holds = (answers == own).all(axis=0)
    ends = [x.double().numpy() + s * 0.25 for s in (-1, 1)]
    proved = []
    for method in METHODS:
        margin = certified_margins(net, *ends, own, dtype=np.float32, method=method)
        proved.append(margin > 0)
    for fewer, more in itertools.pairwise((*proved, holds)):
        assert not (fewer & ~more).any()
    if way is not more_columns:  # whose scores differ by the same at every row
        assert proved[2].sum() > proved[0].sum()


@pytest.mark.parametrize("method", METHODS)
def test_a_result_that_is_written_elsewhere_is_refused(method):
    net = By(lambda net, x: net.out(torch.sigmoid(net.first(x), out=torch.empty(0))))
    x = np.zeros((2, 3))
    with pytest.raises(NoBoundsError, match="written to out="):
        certified_margins(
            net.requires_grad_(False),
            *(x - 1, x + 1, np.zeros(2, dtype=int)),
            dtype=np.float32,
            method=method,
        )


@pytest.mark.parametrize("method", METHODS[1:])
def test_what_is_no_number_is_not_proved(method):
    net = mlp(2, 6, 3)
    net[0].weight[0, 0] = torch.nan
    rows = np.zeros((3, 2))
    codes = np.zeros(3, dtype=int)
    ends = rows - 0.1, rows + 0.1
    found = certified_margins(net, *ends, codes, dtype=np.float32, method=method)
    assert (found == -np.inf).all()


def test_weights_and_modes_stay_as_they_are():
    net = mlp(3, 8, 8, 2).requires_grad_(True)
    x = seeded_rows(10, 3)
    own = net(x).argmax(dim=1).numpy()
    ends = [x.double().numpy() + s * 0.3 for s in (-1, 1)]
    before = torch.random.get_rng_state()
    with torch.no_grad():
        certified_margins(net, *ends, own, dtype=np.float32, method="alpha-crown")
        assert not torch.is_grad_enabled()
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(p.requires_grad and p.grad is None for p in net.parameters())
