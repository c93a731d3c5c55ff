"""Bounds hold whatever is inside, are exact where they can be, and refuse the rest."""

import copy
import itertools
import threading

import numpy as np
import pytest
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from torch import nn
from torch.nn import functional as F

from sk_advdef import as_module, certified_accuracy_score
from sk_advdef._torch import _interval_rules as rules
from sk_advdef._torch._bounds import certified_margins, propagate, worst_margins
from sk_advdef._torch._ibp import (
    initialize_for_bounds,
    regularization,
    smooth_ramp,
)
from sk_advdef._torch._interval import Interval, NoBoundsError, Unbounded
from sk_advdef._torch._interval_rules import unit_of
from sk_advdef.nets import DropoutCNN, DropoutMLP

CPU = torch.device("cpu")


def box(x, eps, *, exact=True, dtype=torch.float32):
    """Bounds around rows, with rounding as for a certificate, or as in training."""
    unit = unit_of(dtype, CPU) if exact else 0.0
    x = x.double() if exact else x
    return Interval(x - eps, x + eps, dtype=dtype, unit=unit, point=x)


def seeded_rows(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Residual(nn.Module):
    """Sums, an activation in place, and values moved about."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 2, 3, padding=1), nn.Conv2d(2, 2, 1)
        self.act = nn.ReLU(inplace=True)
        self.out = nn.Linear(2 * 6 * 6, 3)

    def forward(self, x):
        h = self.act(self.first(x))
        h = h + self.second(h) - 0.3 * x
        h += 1
        h = torch.cat([h[:, :1], -h[:, 1:]], dim=1).permute(0, 2, 3, 1)
        return self.out(F.pad(h, (0, 0, 1, -1)).reshape(len(h), -1)) / 2


def norm2d():
    norm = nn.BatchNorm2d(2)
    norm.running_mean += torch.tensor([0.5, -1.0])
    norm.running_var *= torch.tensor([0.3, 2.0])
    nn.init.normal_(norm.weight)  # of either sign
    nn.init.normal_(norm.bias)
    return norm


class Products(nn.Module):
    """Squeeze and excite: a product of two that are bounded."""

    def __init__(self):
        super().__init__()
        self.gate = nn.Linear(2, 2)

    def forward(self, x):
        gate = torch.sigmoid(self.gate(x.mean(dim=(2, 3))))
        parts = torch.chunk(x * gate[:, :, None, None], 2, dim=1)
        return torch.stack([parts[0].abs(), 1 - parts[1]], dim=1).flatten(1)


MODULES = {
    "conv": lambda: nn.Sequential(nn.Conv2d(2, 4, 3, stride=2), nn.ReLU()),
    "grouped": lambda: nn.Conv2d(2, 4, 3, groups=2, padding=1, padding_mode="circular"),
    "conv1d": lambda: nn.Sequential(nn.Flatten(2), nn.Conv1d(2, 3, 5, bias=False)),
    "norm": lambda: nn.Sequential(norm2d(), nn.ReLU(), nn.Flatten()),
    "pools": lambda: nn.Sequential(
        nn.MaxPool2d(3, 1, padding=1), nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(2)
    ),
    "largest": lambda: nn.Sequential(nn.AdaptiveMaxPool2d(3), nn.MaxPool2d(2, 1)),
    "residual": Residual,
    "products": Products,
    "activations": lambda: nn.Sequential(
        nn.Tanh(), nn.ELU(), nn.LeakyReLU(0.1), nn.Softplus(), nn.Sigmoid(), nn.ReLU6()
    ),
    "mlp": lambda: nn.Sequential(DropoutMLP(3, hidden=(8, 8))),
    "cnn": lambda: DropoutCNN(3, channel_axis=0, channels=(3,), hidden=8),
    "binary": lambda: nn.Sequential(nn.Flatten(), nn.Linear(72, 1), nn.Flatten(0)),
    "logs": lambda: nn.Sequential(nn.Flatten(), nn.Linear(72, 4), nn.LogSoftmax(-1)),
}


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("eps", [0.0, 0.3])
def test_nothing_inside_is_outside_the_bounds(name, eps):
    torch.manual_seed(1)
    module = MODULES[name]().eval()
    x = seeded_rows(5, 2, 6, 6)
    expected = module(x.clone())
    found = propagate(module, box(x, eps))
    assert found.shape == expected.shape and found.dtype == expected.dtype
    assert found.lower.dtype == torch.float64
    eps = eps * (1 - 1e-5)  # for rounding of the rows themselves
    ends = [x + eps * s for s in (-1, 1)]
    inside = [x + eps * (2 * torch.rand(x.shape) - 1) for _ in range(30)]
    corners = [x + eps * torch.sign(torch.randn(x.shape)) for _ in range(30)]
    for row in (*ends, *inside, *corners):
        scores = module(row.clone()).double()
        assert (found.lower <= scores).all() and (scores <= found.upper).all()
    torch.testing.assert_close(found.point.float(), expected, atol=1e-4, rtol=1e-4)
    if not eps:  # and they are no wider than rounding asks for
        assert float((found.upper - found.lower).detach().max()) < 1e-2
    # in training the same bounds, but for rounding
    plain = propagate(module, box(x, eps, exact=False))
    torch.testing.assert_close(plain.lower.double(), found.lower, atol=5e-3, rtol=5e-3)


def test_bounds_of_monotone_nets_are_met():
    """Where all weights are of one sign, the ends of the box reach the bounds."""
    module = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2)).double()
    with torch.no_grad():
        for layer in (module[0], module[2]):
            layer.weight.abs_()
        module[2].weight[1] *= -1
    x = seeded_rows(6, 4).double()
    found = propagate(module, box(x, 0.2, dtype=torch.float64))
    low, high = module(x - 0.2), module(x + 0.2)
    torch.testing.assert_close(found.lower, torch.stack([low[:, 0], high[:, 1]], 1))
    torch.testing.assert_close(found.upper, torch.stack([high[:, 0], low[:, 1]], 1))


@pytest.mark.parametrize("many", [10, 1000])
def test_margin_of_a_linear_layer_is_that_of_the_difference(many, monkeypatch):
    monkeypatch.setattr("sk_advdef._torch._bounds.MANY_PAIRS", many)
    layer = nn.Linear(5, 4).double()
    x, columns = seeded_rows(7, 5).double(), torch.arange(7) % 3
    scores = propagate(layer, box(x, 0.1, dtype=torch.float64))
    found = worst_margins(scores[:, :3], columns).detach().numpy()
    weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
    for row, column in enumerate(columns.tolist()):
        for other in range(3):
            slope = weight[column] - weight[other]
            best = x[row].numpy() @ slope + bias[column] - bias[other]
            best -= 0.1 * np.abs(slope).sum()
            assert found[row, other] == pytest.approx(best, abs=1e-9)
            assert found[row, other] <= best


def test_margin_beside_brute_force_on_a_small_net():
    """Below the true minimum, at it where one unit is uncertain, and not far off."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2))
    x = 0.5 * seeded_rows(20, 2)
    columns = net(x).argmax(dim=1).numpy()
    grid = np.array(list(itertools.product(np.linspace(-1, 1, 41), repeat=2)))
    for eps in (0.01, 0.8):
        ends = [x.double().numpy() + s * eps for s in (-1, 1)]
        found = certified_margins(net, *ends, columns, dtype=np.float32)
        for row, column, bound in zip(x, columns, found, strict=True):
            near = row + eps * torch.tensor(grid, dtype=torch.float32)
            scores = net(near).detach().numpy()
            true = (scores[:, column] - scores[:, 1 - column]).min()
            assert bound <= true < bound + 3 * eps
    assert (found > 0).any() and (found < 0).any()


def test_rounding_of_large_sums_is_within_the_bounds():
    """A point where float32 is off by more than its own precision."""
    torch.manual_seed(0)
    net = nn.Linear(3000, 2)
    with torch.no_grad():
        net.weight.mul_(1e3)
        net.weight[1] = net.weight[0] + 1e-5
        x = 100 * seeded_rows(50, 3000)
        true = copy.deepcopy(net).double()(x.double())
        computed = net(x).double()
    assert float((true - computed).abs().max()) > 0.01
    found = propagate(net, box(x, 0.0))
    assert (found.lower <= computed).all() and (computed <= found.upper).all()
    # scores that rounding alone can turn are not certified
    own = computed.argmax(dim=1).numpy()
    exact = x.double().numpy()
    assert not (certified_margins(net, exact, exact, own, dtype=np.float32) > 0).any()


def test_what_the_dtype_cannot_hold_is_not_certified():
    """In float32 both scores are infinite, and the first of them is the answer."""
    net = nn.Sequential(nn.Linear(1, 2), nn.Hardtanh(-1e30, 1e30))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[1.0], [3.0]]))
        net[0].bias.zero_()
    net.append(nn.Linear(2, 2, bias=False)).append(nn.Linear(2, 2, bias=False))
    with torch.no_grad():
        for layer in net[2:]:
            layer.weight.copy_(1e20 * torch.eye(2))
    rows = np.ones((1, 1))
    found = certified_margins(net, rows, rows, np.array([1]), dtype=np.float32)
    assert not found > 0 and net(torch.ones(1, 1)).argmax() == 0


def test_constants_are_rounded_as_in_the_module():
    third = 1 / 3
    net = nn.Sequential(nn.Hardtanh(third, 2 * third), nn.ConstantPad1d(1, 0.1))
    x = torch.tensor([[-1.0, 0.5, 1.0]])
    found = propagate(net, box(x, 0.0))
    computed = net(x).double()
    assert float(computed[0, 1]) != third
    assert (found.lower <= computed).all() and (computed <= found.upper).all()


class WrittenLater(nn.Module):
    """Changes the input of its last layer after the layer."""

    def __init__(self):
        super().__init__()
        self.out = nn.Linear(3, 2)

    def forward(self, x):
        h = 1 * x
        scores = self.out(h)
        h.relu_()
        return scores


def test_inputs_written_to_after_the_last_layer():
    net, x = WrittenLater(), seeded_rows(5, 3)
    columns = torch.zeros(5, dtype=torch.long)
    found, plain = (propagate(m, box(x, 0.1)) for m in (net, net.out))
    margins = [worst_margins(scores, columns) for scores in (found, plain)]
    torch.testing.assert_close(*margins, atol=1e-5, rtol=1e-5)


def test_autocast_is_refused():
    with torch.autocast("cpu"), pytest.raises(NoBoundsError, match="autocast"):
        propagate(nn.Linear(3, 2), box(seeded_rows(2, 3), 0.1))


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.block = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))

    def forward(self, x):
        return self.block(x)


class Noisy(nn.Module):
    def forward(self, x):
        return x + torch.randn(x.shape)


class Written(nn.Module):
    def forward(self, x):
        x[:, :2].relu_()
        return x


class Looked(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


class Constant(nn.Module):
    def forward(self, x):
        return torch.zeros(len(x), 2)


class WrittenAfterSoftmax(nn.Module):
    """Changes its logits after the softmax that is looked through."""

    def forward(self, x):
        logits = 2 * x
        proba = logits.softmax(dim=1)
        logits.add_(torch.ones(4))
        return proba


class Evading(nn.Module):
    """Takes another way where the first cannot be bounded."""

    def forward(self, x):
        try:
            return x if bool((x > 0).any()) else -x
        except Exception:
            return x


def lone_norm():
    return nn.BatchNorm1d(4, track_running_stats=False)


@pytest.mark.parametrize(
    "module, message",
    [
        (Attention(), r"'block.1' \(LayerNorm\) .* layer_norm\(\)"),
        (nn.Sequential(nn.GELU()), r"'0' \(GELU\) cannot be bounded: .* gelu\(\)"),
        (nn.Sequential(nn.Softmax(dim=1), nn.Linear(4, 2)), "softmax .* comes last"),
        (nn.Sequential(nn.LeakyReLU(-0.1)), "LeakyReLU"),
        (nn.Sequential(nn.LeakyReLU(np.float32(-0.1))), "LeakyReLU"),
        (nn.Sequential(nn.ELU(np.float32(-2))), "ELU"),
        (nn.Sequential(nn.ELU(float("nan"))), "ELU"),
        (WrittenAfterSoftmax(), "view that is written to"),
        (nn.Sequential(nn.LogSoftmax(dim=0)), "over the classes of rows"),
        (nn.Sequential(nn.Softmax(dim=0)), "over the classes of rows"),
        (nn.Sequential(nn.Dropout().train()), "drawn at random"),
        (lone_norm(), "depends on the others"),
        (Written(), "view that is written to"),
        (Looked(), "Looked"),
        (Evading(), "goes another way"),
        (Constant(), "returns a Tensor"),
    ],
)
def test_what_cannot_be_bounded_is_named(module, message):
    with pytest.raises(NoBoundsError, match=message):
        propagate(module, box(seeded_rows(3, 4), 0.1))


def test_a_net_that_draws_is_refused():
    rows = np.zeros((2, 4))
    with pytest.raises(NoBoundsError, match="random numbers"):
        certified_margins(Noisy(), rows, rows, np.zeros(2, int), dtype=np.float32)


class Mixing(nn.Module):
    def __init__(self, mix):
        super().__init__()
        self.mix = mix

    def forward(self, x):
        return self.mix(x)


@pytest.mark.parametrize(
    "mix",
    [
        lambda x: x - x.amax(0),
        lambda x: x.flip(0),
        lambda x: x.roll(1, 0),
        lambda x: x if len(x) == 1 else 1 - x,
        lambda x: x[:, :1].flip(0),
    ],
)
@pytest.mark.parametrize("n", [1, 7])
def test_a_net_that_looks_at_other_rows_is_refused(mix, n):
    rows = np.random.default_rng(0).normal(size=(n, 4))
    with pytest.raises(NoBoundsError, match="depends on the rows beside it"):
        certified_margins(
            Mixing(mix), rows, rows, np.zeros(n, int), dtype=np.dtype(np.float64)
        )


def test_errors_of_another_thread_are_no_business_of_ours():
    rows = np.random.default_rng(0).normal(size=(200, 4))
    codes, go_on = np.zeros(200, int), threading.Event()

    def refused():
        while not go_on.is_set():
            with pytest.raises(NoBoundsError):
                propagate(nn.Sequential(nn.GELU()), box(seeded_rows(3, 4), 0.1))

    other = threading.Thread(target=refused)
    other.start()
    try:
        for _ in range(30):
            layers = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
            certified_margins(layers, rows, rows, codes, dtype=np.dtype(np.float32))
    finally:
        go_on.set()
        other.join()


def test_of_boxes_beyond_the_dtype_nothing_is_known():
    ends = np.full((2, 4), -3e38), np.full((2, 4), 3e38)
    layer = nn.Linear(4, 2)
    codes = np.zeros(2, int)
    found = certified_margins(layer, *ends, codes, dtype=np.dtype(np.float32))
    assert (found == -np.inf).all()


@pytest.mark.parametrize(
    "module",
    [
        Mixing(lambda x: x.round(decimals=1)),
        Mixing(lambda x: nn.functional.avg_pool2d(x, 2, divisor_override=-3)),
        Mixing(lambda x: nn.functional.avg_pool2d(x, 2, 2, 0, False, True, -3)),
    ],
)
def test_steps_that_no_rule_is_for(module):
    with pytest.raises(NoBoundsError, match="no bounds are known"):
        propagate(module, box(seeded_rows(3, 1, 4, 4), 0.1))


def test_training_normalizes_by_the_clean_rows():
    norm = norm2d().train()
    alike = copy.deepcopy(norm)
    x = seeded_rows(8, 2, 5, 5)
    expected = alike(x)
    found = propagate(norm, box(x, 0.1, exact=False))
    torch.testing.assert_close(found.point, expected)
    torch.testing.assert_close(found.center, expected)
    for name, value in alike.state_dict().items():
        torch.testing.assert_close(norm.state_dict()[name], value)
    width = 0.1 * (alike.weight.abs() / x.var((0, 2, 3), correction=0).sqrt())
    torch.testing.assert_close(found.radius.mean((0, 2, 3)), width, rtol=1e-3, atol=0)


def rsub_and_rules(x):
    """Go through what no module above has."""
    h = torch.maximum(x.to(torch.float64), torch.zeros(4)).to(torch.float32)
    h = 2 * h.clamp(max=0.7) - torch.linspace(0, 1, 4)
    return torch.linspace(1, 2, 4) - h @ torch.tensor(
        [[1.0, -2.0], [0.5, 0.0], [0.0, 1.0], [3.0, -1.0]]
    ).to(h).sum(dim=1, keepdim=True)


def test_functions_between_layers():
    x = seeded_rows(6, 4)
    found = rsub_and_rules(box(x, 0.1))
    for _ in range(30):
        scores = rsub_and_rules(x + 0.0999 * (2 * torch.rand(x.shape) - 1))
        assert (found.lower <= scores).all() and (scores <= found.upper).all()
    turned = torch.eye(6) @ box(x, 0.1)
    torch.testing.assert_close(turned.center.float(), x)
    assert float((x.double() - box(x, 0.1)).radius.max()) == pytest.approx(
        0.1, rel=1e-4
    )


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda x: x / x, "division"),
        (lambda x: torch.add(x, x, alpha=2), "alpha"),
        (lambda x: x.int(), r"int\(\)"),
        (lambda x: x.to(torch.int64), "int64"),
        (lambda x: x.mean(dim=0), "over rows"),
        (lambda x: x @ x.t(), "product of bounds"),
        (lambda x: F.max_pool1d(x[:, None], 2, return_indices=True), "place|max_pool"),
        (lambda x: torch.ones(3, 4).add_(x), "written to"),
        (lambda x: F.log_softmax(x[:, None], dim=-1), "classes"),
        (lambda x: F.leaky_relu(x, torch.tensor(-1.0)), "leaky_relu"),
        (lambda x: F.elu(x, alpha=torch.tensor(-1.0)), "elu"),
        (lambda x: F.celu(x, torch.ones(4)), "no number"),
        (lambda x: x.softmax(1, dtype=torch.float16), "narrower dtype"),
        (lambda x: x.log_softmax(1, dtype=torch.bfloat16), "narrower dtype"),
        (lambda x: x.sum(1, dtype=torch.float16), "narrower dtype"),
        (lambda x: torch.sort(x), "sort"),
        (lambda x: x**2, "pow"),
        (lambda x: x.double().view(torch.int64).double(), "read as another dtype"),
        (lambda x: torch.relu(input=x), "relu.* called like this"),
        (lambda x: torch.cat(tensors=[x]), "cat.* called like this"),
        (lambda x: torch.sub(x, 1.0, alpha=2), "sub.* called like this"),
        (lambda x: F.softplus(x, threshold=-800), "softplus.* called like this"),
    ],
)
def test_functions_without_bounds(call, message):
    with pytest.raises(Unbounded, match=message):
        call(box(seeded_rows(3, 4), 0.1))


@pytest.mark.parametrize(
    "call",
    [
        lambda x: F.leaky_relu(x, torch.tensor(0.1)),
        lambda x: F.elu(x, np.float32(1.5)),
        lambda x: F.log_softmax(x, -1),
        lambda x: x.log_softmax(dim=1, dtype=torch.float64),
    ],
)
def test_other_kinds_of_numbers_and_axes(call):
    x = seeded_rows(3, 4)
    found, computed = call(box(x, 0.1)), call(x)
    assert (found.lower <= computed).all() and (computed <= found.upper).all()


def test_a_scalar_does_not_widen_what_a_dtype_holds():
    """Beyond 65504 float16 holds nothing, whatever it is multiplied by."""
    half = box(torch.full((1, 2), 300.0), 1.0).to(torch.float16)
    for scalar in (torch.tensor(300.0), 300.0):
        assert (half * scalar).dtype == torch.float16
    assert (half * torch.tensor([300.0])).dtype == torch.float32


class Named(nn.Module):
    """A user's view with a part that has the name of one of ours."""

    def __init__(self):
        super().__init__()
        self.decision = nn.Linear(1, 2).double()
        with torch.no_grad():
            self.decision.weight[:] = torch.tensor([[-1.0], [1.0]])
            self.decision.bias[:] = torch.tensor([0.5, -0.5])

    def forward(self, x):
        return self.decision((4 * x - 2).abs())


def test_a_part_that_is_called_as_ours_is_not_the_view():
    class Folded(ClassifierMixin, BaseEstimator):
        classes_ = np.arange(2)
        n_features_in_ = 1

        def fit(self, X, y):
            return self

        def predict(self, X):
            return (np.abs(4 * np.asarray(X)[:, 0] - 2) > 0.5).astype(int)

    as_module.register(Folded, lambda model: Named())
    x = np.array([[0.9]])
    assert certified_accuracy_score(Folded(), x, [1], 0.05) == 1
    assert certified_accuracy_score(Folded(), x, [1], 0.35) == 0


def test_rounding_is_that_of_how_torch_is_set():
    assert unit_of(torch.float32, CPU) == 2.0**-24
    assert unit_of(torch.float64, CPU) == 2.0**-53
    assert unit_of(torch.float32, torch.device("cuda")) == 2.0**-11
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        assert unit_of(torch.float32, CPU) == 2.0**-8
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("part", ["conv", "matmul"])
def test_rounding_is_that_of_each_part_of_onednn(part, monkeypatch):
    place = getattr(torch.backends.mkldnn, part, None)
    if not hasattr(place, "fp32_precision"):
        pytest.skip("torch before 2.9 has one precision for all")
    before = place.fp32_precision
    # which knows of products alone, and raises where it finds both interfaces in use
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "highest")
    try:
        place.fp32_precision = "bf16"
        assert unit_of(torch.float32, CPU) == 2.0**-8
    finally:
        place.fp32_precision = before
    assert unit_of(torch.float32, CPU) == 2.0**-24


@pytest.mark.parametrize("library", ["ONEDNN", "DNNL"])
def test_rounding_is_that_of_the_environment(library, monkeypatch):
    monkeypatch.setenv(f"{library}_DEFAULT_FPMATH_MODE", "bf16")
    assert unit_of(torch.float32, CPU) == 2.0**-8
    monkeypatch.setenv(f"{library}_DEFAULT_FPMATH_MODE", "strict")
    assert unit_of(torch.float32, CPU) == 2.0**-24
    # oneDNN keeps to what it found when it looked
    monkeypatch.setattr(rules, "_EARLY", {"BF16"})
    assert unit_of(torch.float32, CPU) == 2.0**-8


@pytest.mark.skipif(
    not torch.backends.nnpack.is_available(), reason="this machine has no NNPACK"
)
def test_convolution_by_transforms_is_refused():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(18, 2))
    x = seeded_rows(20, 1, 5, 5)
    flat = x.flatten(1)[:, :18]
    torch._C._set_mkldnn_enabled(False)  # by flags() it warns of other hardware
    try:
        with pytest.raises(NoBoundsError, match="NNPACK"):
            propagate(net, box(x, 0.1))
        with pytest.raises(NoBoundsError, match="NNPACK"):
            propagate(nn.Conv1d(1, 2, 3), box(x[:, :, 0], 0.1))
        assert (propagate(net[2:], box(flat, 0.1)).radius > 0).all()
        propagate(net, box(x, 0.1, exact=False))  # training asks for no proof
        with torch.backends.nnpack.flags(enabled=False):
            assert (propagate(net, box(x, 0.1)).radius > 0).all()
    finally:
        torch._C._set_mkldnn_enabled(True)


def test_dropout_in_training_drops_the_same_everywhere():
    x = seeded_rows(4, 50).abs() + 1
    found = propagate(nn.Dropout(0.5, inplace=True).train(), box(x, 0.5, exact=False))
    kept = found.point != 0
    assert 0 < kept.float().mean() < 1
    assert ((found.lower != 0) == kept).all() and ((found.upper != 0) == kept).all()


def test_weights_learn_from_the_bounds():
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    found = propagate(net, box(seeded_rows(5, 3), 0.1, exact=False))
    worst_margins(found, torch.zeros(5, dtype=torch.long)).sum().backward()
    assert all((w.grad != 0).any() for w in net.parameters())


def by_hand(layers, lower, upper, clean):
    """Bound a convolution, its normalization and a ReLU, step by step."""
    conv, norm = layers
    center, radius = (lower + upper) / 2, (upper - lower) / 2
    given = {"stride": conv.stride, "padding": conv.padding, "groups": conv.groups}
    clean = nn.functional.conv2d(clean, conv.weight, conv.bias, **given)
    center = nn.functional.conv2d(center, conv.weight, conv.bias, **given)
    radius = nn.functional.conv2d(radius, conv.weight.abs(), **given)
    var, mean = torch.var_mean(clean, (0, 2, 3), correction=0)
    scale = (norm.weight / (var + norm.eps).sqrt())[:, None, None]
    shift = norm.bias[:, None, None] - mean[:, None, None] * scale
    center, radius = center * scale + shift, radius * scale.abs()
    ends = (center - radius).relu(), (center + radius).relu()
    return (*ends, (clean * scale + shift).relu())


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("bias", [False, True])
def test_normalization_in_training_is_as_if_done_after_the_convolution(groups, bias):
    def net():
        torch.manual_seed(0)
        conv = nn.Conv2d(2, 4, 3, stride=2, padding=1, groups=groups, bias=bias)
        norm = nn.BatchNorm2d(4)
        nn.init.normal_(norm.weight)  # of both signs
        nn.init.normal_(norm.bias)
        return nn.Sequential(conv, norm).double()

    x = seeded_rows(6, 2, 5, 5).double()
    seen, one, other = [], net(), net()
    bounds = Interval(x - 0.1, x + 0.2, dtype=x.dtype, point=x, seen=seen)
    found = propagate(nn.Sequential(*one, nn.ReLU()), bounds)
    wanted = by_hand(other, x - 0.1, x + 0.2, x)
    weigh = seeded_rows(3, *wanted[0].shape).double()
    for part, reference in zip((*found.ends, found.point), wanted, strict=True):
        assert torch.allclose(part, reference, atol=1e-12)
    (weigh[0] * found.lower + weigh[1] * found.upper).sum().backward()
    (weigh[0] * wanted[0] + weigh[1] * wanted[1]).sum().backward()
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.allclose(a.grad, b.grad, atol=1e-10)
    lower, upper, center, radius = seen[0]
    assert torch.allclose((lower + upper) / 2, center, atol=1e-12)
    assert torch.allclose((upper - lower) / 2, radius, atol=1e-12)
    assert torch.allclose(found.lower, lower.relu())


def test_who_looks_at_bounds_without_a_graph_changes_nothing():
    def look(module, given, found):
        with torch.no_grad():
            assert ((found * 1.0).relu().lower >= 0).all()

    grads = []
    for looked_at in (False, True):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
        if looked_at:
            for part in net:
                part.register_forward_hook(look)
        found = propagate(net, box(seeded_rows(5, 3), 0.1, exact=False))
        worst_margins(found, torch.zeros(5, dtype=torch.long)).sum().backward()
        grads.append([w.grad for w in net.parameters()])
    for alone, watched in zip(*grads, strict=True):
        assert torch.equal(alone, watched)


def test_layers_without_a_graph_do_not_learn():
    class Part(nn.Module):
        def __init__(self):
            super().__init__()
            self.held, self.norm = nn.Linear(3, 4), nn.BatchNorm1d(4)
            self.last = nn.Linear(4, 2)

        def forward(self, x):
            with torch.no_grad():
                x = self.held(x)
            return self.last(self.norm(x).relu())

    torch.manual_seed(0)
    net = Part()
    found = propagate(net, box(seeded_rows(5, 3), 0.1, exact=False))
    worst_margins(found, torch.zeros(5, dtype=torch.long)).sum().backward()
    assert net.held.weight.grad is None and net.held.bias.grad is None
    assert (net.norm.weight.grad != 0).any() and (net.last.weight.grad != 0).any()


def test_normalization_without_clean_rows_is_by_centers():
    torch.manual_seed(0)
    norm, center, wide = nn.BatchNorm1d(3), seeded_rows(8, 3), seeded_rows(9, 8, 3)
    radius = wide[0].abs()
    bounds = Interval(center - radius, center + radius, dtype=center.dtype)
    found = propagate(norm, bounds)
    assert torch.allclose(found.center, nn.BatchNorm1d(3)(center), atol=1e-5)
    assert torch.allclose(norm.running_mean, 0.1 * center.mean(0), atol=1e-6)
    assert torch.allclose(norm.running_var, 0.9 + 0.1 * center.var(0), atol=1e-6)
    assert found.point is None


def test_normalization_of_sequences_is_by_their_own_axis():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)).double()
    nn.init.normal_(net[1].weight)
    x = seeded_rows(5, 3, 4).double()
    found = propagate(net, Interval(x - 0.1, x + 0.1, dtype=x.dtype, point=x))
    with torch.no_grad():
        known = net[0](x)
        var, mean = torch.var_mean(known, (0, 2), correction=0)
        scale = (net[1].weight / (var + net[1].eps).sqrt())[:, None]
        wide = 0.1 * net[0].weight.abs().sum(1) * scale.abs()
        center = (known - mean[:, None]) * scale
    assert torch.allclose(found.lower, center - wide, atol=1e-12)
    assert torch.allclose(found.upper, center + wide, atol=1e-12)


def test_a_convolution_is_used_with_and_without_its_normalization():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)

        def forward(self, x):
            x = self.conv(x)
            return self.norm(x) + x

    torch.manual_seed(0)
    net, x = Both(), seeded_rows(4, 1, 5, 5)
    found = propagate(net, Interval(x - 0.1, x + 0.1, dtype=x.dtype, point=x))
    alone = propagate(net.conv, box(x, 0.1, exact=False))
    normal = found.point - alone.center
    scale = 1 / (alone.center.var((0, 2, 3), correction=0) + 1e-5).sqrt()
    wide = alone.radius * (1 + scale[:, None, None])
    assert torch.allclose(found.radius, wide, atol=1e-5)
    assert torch.allclose(found.center, alone.center + normal, atol=1e-5)


class Narrowly(nn.Module):
    """A net that computes in bfloat16 while it is trained."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten()
        ).append(nn.Linear(36, 3))

    def forward(self, x):
        """Return scores."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self.training):
            return self.layers(x)


def test_training_goes_through_autocast():
    torch.manual_seed(0)
    net, x = Narrowly(), seeded_rows(6, 1, 5, 5)
    pair = []
    for part in (net, net.layers):
        found = propagate(part, Interval(x - 0.1, x + 0.1, dtype=x.dtype, point=x))
        margins = worst_margins(found, torch.zeros(6, dtype=torch.long))
        assert margins.dtype == found.point.dtype == torch.float32
        net.zero_grad()
        margins.sum().backward()
        pair.append((margins.detach(), net.layers[0].weight.grad.clone()))
    for narrow, wide in zip(*pair, strict=True):
        assert (narrow != wide).any()
        close = 0.1 * float(wide.abs().max())
        assert torch.allclose(narrow, wide, rtol=0.1, atol=close)


# --- where training starts, and what holds it together


def test_initialization_keeps_the_width_of_bounds():
    net = nn.Sequential(
        nn.Conv2d(1, 32, 5), nn.ReLU(), nn.Flatten(), nn.Linear(32 * 64, 500)
    )
    net.append(nn.ReLU()).append(nn.Linear(500, 100))
    x = seeded_rows(4, 1, 12, 12)
    torch.manual_seed(0)
    wide = propagate(net, box(x, 0.1, exact=False)).radius.mean()
    initialize_for_bounds(net)
    kept = propagate(net, box(x, 0.1, exact=False)).radius.mean()
    assert 0.05 < kept < 0.3 < wide


def test_ramp_is_smooth_and_ends_at_one():
    t = np.linspace(-0.5, 1.5, 2001)
    values = np.array([smooth_ramp(one) for one in t])
    assert values[0] == 0 and values[-1] == 1
    slopes = np.diff(values[(t >= 0) & (t <= 1)]) * 1000
    assert (slopes >= 0).all() and np.abs(np.diff(slopes)).max() < 0.03
    assert smooth_ramp(0.0625) < 0.001


def test_regularizers_ask_for_tight_bounds_and_balance():
    def penalty(width, shift, radius=0.1):
        center = torch.linspace(-1, 1, 101) + shift
        half = torch.full_like(center, width)
        trace = [(center - width, center + width, center, half)]
        return float(regularization(trace, torch.tensor(radius)))

    assert penalty(0.1, 0.0) == pytest.approx(0, abs=1e-6)
    assert penalty(0.2, 0.0) == pytest.approx(0, abs=1e-6)  # twice as wide is allowed
    assert penalty(0.4, 0.0) == pytest.approx(0.5, abs=1e-6)  # 1 - 2 / 4
    assert penalty(0.1, 0.6) > 0.5
    assert float(regularization([], torch.tensor(0.1))) == 0
