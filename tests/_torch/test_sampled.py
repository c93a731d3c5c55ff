"""Sampled sub-networks: one pass of all equals each pass by hand."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from sk_advdef._torch import _masked_linear, _sampled
from sk_advdef._torch._masked_linear import _ShortLinear
from sk_advdef._torch._places import MaskedDropout, places_of, twin_of
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


class Transformer(nn.Module):
    """An encoder and a decoder, with masks of their own."""

    def __init__(self):
        super().__init__()
        args = {"dim_feedforward": 6, "dropout": 0.3, "batch_first": True}
        encoder = nn.TransformerEncoderLayer(4, 2, norm_first=True, **args)
        self.encoder = nn.TransformerEncoder(encoder, 2, enable_nested_tensor=False)
        self.decoder = nn.TransformerDecoderLayer(4, 2, **args)
        self.inside, self.out = nn.Linear(2, 4), nn.Linear(12, 3)

    def forward(self, x):
        x = self.inside(x.reshape(-1, 3, 2))
        causal = nn.Transformer.generate_square_subsequent_mask(3).to(x.dtype)
        memory = self.encoder(x, mask=causal, is_causal=True)
        return self.out(self.decoder(x, memory, tgt_mask=causal).flatten(1))


class TwoAttentions(nn.Module):
    """Attention alone, weights and all, the batch second in one of the two."""

    def __init__(self):
        super().__init__()
        self.first = nn.MultiheadAttention(
            2, 2, dropout=0.4, batch_first=True, add_bias_kv=True, add_zero_attn=True
        )
        self.second = nn.MultiheadAttention(4, 1, dropout=0.5, kdim=2, vdim=2)
        self.out = nn.Linear(12 + 15, 3)

    def forward(self, x):
        x = x.reshape(-1, 3, 2)
        x, weights = self.first(x, x, x, need_weights=True)
        turned = x.transpose(0, 1)
        query = torch.cat([turned, turned.tanh()], dim=2)
        y, _ = self.second(query, turned, turned, need_weights=False)
        seen = [y.transpose(0, 1).flatten(1), weights.flatten(1)]
        return self.out(torch.cat(seen, dim=1))


class Deep(nn.Module):
    """Recurrent layers with dropout between them."""

    def __init__(self, cls, **params):
        super().__init__()
        self.first = cls(2, 4, dropout=0.4, **params)
        self.out = nn.LazyLinear(3)

    def forward(self, x):
        x = x.reshape(-1, 3, 2)
        if not self.first.batch_first:
            x = x.transpose(0, 1)
        states = self.first(x)[1]
        states = states if isinstance(states, tuple) else (states,)
        return self.out(torch.cat([s.transpose(0, 1).flatten(1) for s in states], 1))


class OneByOne(nn.Module):
    """Runs the layers of a Sequential by hand, with something between them."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Dropout(), nn.Linear(6, 6), nn.Dropout(0.3))
        self.head = nn.Sequential(nn.Dropout(0.3), nn.Linear(6, 3))

    def forward(self, x):
        y = self.layers[0](x) + 1
        y = self.layers[2](self.layers[1](y).cos())
        return self.head(y) + self.head(x)


class Branches(nn.Module):
    """Several branches with masks of their own, and a skip around all."""

    def __init__(self):
        super().__init__()
        self.maps = nn.ModuleList(
            nn.Sequential(nn.Conv1d(2, 2, k, padding="same"), nn.BatchNorm1d(2), drop)
            for k, drop in ((1, nn.Dropout1d(0.3)), (3, nn.Dropout(0.5)))
        )
        self.out = nn.Linear(6, 3)

    def forward(self, x):
        x = x.reshape(-1, 2, 3)
        return self.out((x + sum(branch(x) for branch in self.maps)).flatten(1))


class OnNumpy(nn.Module):
    """Leaves torch for a moment."""

    def __init__(self):
        super().__init__()
        self.drop, self.out = nn.Dropout(0.5), nn.Linear(6, 3)

    def forward(self, x):
        x = self.drop(x)
        scale = {True: 2.0, False: 1.0}[bool(np.asarray(x.detach()).sum() > 0)]
        return self.out(scale * x)


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


def tokens(*last):
    return nn.Sequential(
        nn.Unflatten(1, (3, 2)), nn.Linear(2, 4), nn.Dropout(0.4), nn.Linear(4, 2),
        nn.Dropout(0.3), *last,
    )  # fmt: skip


MODULES = {
    "tokens": lambda: tokens(nn.Linear(2, 3), nn.Flatten(), nn.Linear(9, 3)),
    "tokens flat": lambda: tokens(nn.Flatten(), nn.Linear(6, 3)),
    "mlp": lambda: DropoutMLP(3, hidden=(8, 7)),
    "cnn": lambda: DropoutCNN(3, image_shape=(2, 3)),
    "residual": Residual,
    "lstm": Recurrent,
    "transformer": Attention,
    "attention": TwoAttentions,
    "encoder and decoder": Transformer,
    "deep lstm": lambda: Deep(nn.LSTM, num_layers=3, batch_first=True),
    "deep lstm projected": lambda: Deep(nn.LSTM, num_layers=2, proj_size=2),
    "deep gru": lambda: Deep(
        nn.GRU, num_layers=2, bidirectional=True, batch_first=True, bias=False
    ),
    "deep rnn": lambda: Deep(nn.RNN, num_layers=2, nonlinearity="relu"),
    "one by one": OneByOne,
    "branches": Branches,
    "branching": Branching,
    "on numpy": OnNumpy,
    "dropout3d": lambda: nn.Sequential(
        nn.Unflatten(1, (3, 2, 1, 1)), nn.Dropout3d(0.5), nn.Flatten(), nn.Linear(6, 3)
    ),
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


def one_layer_each(module, masks, given):
    """Run single recurrent layers with masks between them."""
    weights = dict(module.named_parameters())
    x, states = given[0], []
    for layer in range(module.num_layers):
        single = type(module)(
            x.shape[-1], module.hidden_size, batch_first=module.batch_first,
            bidirectional=module.bidirectional, bias=module.bias,
            **({"proj_size": module.proj_size} if module.proj_size else {}),
            **({} if module.mode != "RNN_RELU" else {"nonlinearity": "relu"}),
        )  # fmt: skip
        of_layer = {
            name.replace(f"_l{layer}", "_l0"): value
            for name, value in weights.items()
            if f"_l{layer}" in name
        }
        single.load_state_dict(of_layer)
        x, state = single(x)
        states.append(state if isinstance(state, tuple) else (state,))
        x = x * masks[layer][0] if layer + 1 < module.num_layers else x
    last = tuple(torch.cat(parts) for parts in zip(*states, strict=True))
    return x, last if len(last) == 2 else last[0]


def mask_a_module(module, calls, i):
    """Let a module of torch drop by given masks; return what undoes it."""
    left = [(scale[i], 0 if shift is None else shift[i]) for scale, shift in calls]
    if isinstance(module, nn.RNNBase):

        def recur(_, given, __):
            return one_layer_each(module, left, given)

        return [module.register_forward_hook(recur)]
    if not isinstance(module, nn.MultiheadAttention):

        def masked(_, given, __):
            scale, shift = left.pop(0)
            return given[0] * scale + shift

        return [module.register_forward_hook(masked)]
    # torch's own way in training, which drops by the function that is put there
    patch = pytest.MonkeyPatch()

    def drop(weights, p):
        scale, _ = left.pop(0)
        whole = weights.reshape(-1, *scale.shape[1:]) * scale
        return whole.reshape(weights.shape)

    def before(_, args, kwargs):
        patch.setattr(nn.functional, "dropout", drop)
        module.train()
        return args, kwargs | {"need_weights": True}

    def after(_, __, ___):
        patch.undo()
        module.eval()

    return [
        module.register_forward_pre_hook(before, with_kwargs=True),
        module.register_forward_hook(after),
    ]


def by_hand(module, sampled, x):
    """Run each pass through hooks that put the masked values in place."""
    module = copy.deepcopy(module)
    names = dict(module.named_modules())
    found = []
    for i in range(sampled.n_passes):
        handles = []
        for name, calls in sampled.masks:
            handles += mask_a_module(names[name], calls, i)
        found.append(module(x))  # with gradients: no fused path
        for handle in handles:
            handle.remove()
    return torch.stack(found).detach()


def no_vmap(function):
    def refuse(*args):
        raise RuntimeError("not batched")

    return refuse


PROJECTIONS = "ignore:LSTM with projections is not supported:UserWarning"


@pytest.mark.filterwarnings(PROJECTIONS)
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
    assert not any(isinstance(m, MaskedDropout) for m in module.modules())


@pytest.mark.parametrize("p", [0.2, 0.5, 1.0])
@pytest.mark.parametrize("together", [1, 3, 5])
def test_columns_that_passes_share_are_multiplied_once(p, together, monkeypatch):
    """However many passes share products, each is the product of its own columns."""
    monkeypatch.setattr(_masked_linear, "COLUMNS_AT_LEAST", 2)
    monkeypatch.setattr(_masked_linear, "PASSES_TOGETHER", together)
    monkeypatch.setattr(torch.nn.functional, "linear", None)  # no other way is taken
    module = nn.Sequential(nn.Dropout(p), nn.Linear(200, 3))
    x = torch.randn(5, 200, generator=torch.Generator().manual_seed(1)).double()
    weight, bias = (t.detach().double() for t in (module[1].weight, module[1].bias))
    masks = (torch.rand(7, 200, generator=torch.Generator().manual_seed(2)) >= p) / 0.7
    found = torch.func.vmap(_ShortLinear.apply, in_dims=(None, 0, None, None))(
        x, masks.double(), weight, bias
    )
    expected = torch.einsum("bk,tk,ok->tbo", x, masks.double(), weight) + bias
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    "kind", ["mlp", "residual", "attention", "alpha", "deep gru", "deep rnn"]
)
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


class OnlyInTraining(nn.Module):
    def __init__(self, how):
        super().__init__()
        self.how, self.out = how, nn.Linear(6, 3)
        self.norm, self.drop = nn.BatchNorm1d(6), nn.Dropout(0.2)

    def forward(self, x):
        x = self.norm(x)
        if self.training:
            x = self.how(x)
        return self.out(self.drop(x))


def attend(x):
    q = x.reshape(-1, 3, 2)
    return nn.functional.scaled_dot_product_attention(q, q, q, dropout_p=0.3).flatten(1)


class OwnAttention(nn.MultiheadAttention):
    def forward(self, x):
        return super().forward(x[:, None], x[:, None], x[:, None])[0][:, 0, :3]


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
        (OnlyInTraining(nn.functional.dropout), "calls torch.nn.functional.dropout"),
        (OnlyInTraining(attend), "calls torch.nn.functional.dropout"),
        (Functional(lambda x, p, t: torch.dropout(x, p, train=t)), "or a kin of it"),
        (TimeFirst(), "batch is not the first axis"),
        (OwnAttention(6, 2, dropout=0.1), r"\(OwnAttention\) has dropout inside it"),
    ],
)
def test_what_cannot_be_sampled(module, message):
    with pytest.raises(ValueError, match=message):
        sample(module)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiled_modules_cannot_be_sampled():
    scripted = torch.jit.script(nn.Linear(6, 3))
    with pytest.raises(ValueError, match=r"is a compiled module.*the plain module"):
        sample(nn.Sequential(nn.Dropout(), scripted))


@pytest.mark.parametrize(
    "how",
    [
        lambda x: nn.functional.dropout(x, 0.0),
        lambda x: nn.functional.dropout(x, 0.5, training=False),
        lambda x: torch.dropout(x, 0.5, False),
        lambda x: x.missing,  # an error in training alone
    ],
)
def test_functions_that_drop_nothing(how, global_generators):
    with torch.random.fork_rng():
        module = OnlyInTraining(how).eval()
    sampled = sample(module)
    assert [name for name, _ in sampled.masks] == ["drop"]


def test_dropout_inside_that_is_off_or_without_effect():
    off = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0)
    single = nn.LSTM(2, 3)
    single.dropout = 0.5  # between layers, and there is one
    assert not places_of(twin_of(nn.ModuleList([off.self_attn, single])))


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


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("kdim", [None, 3])
@pytest.mark.parametrize("add", [False, True])
def test_attention_without_masks_is_that_of_torch(batch_first, kdim, add):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = nn.MultiheadAttention(
            4, 2, dropout=0.5, kdim=kdim, vdim=kdim, batch_first=batch_first,
            add_bias_kv=add, add_zero_attn=add, bias=not add,
        )  # fmt: skip
        query = torch.randn(5, 3, 4)
        key = torch.randn(5, 6, kdim or 4)
        late = torch.rand(5, 6) < 0.3
        late[:, 0] = False
        of_heads = torch.randn(10, 3, 6)
    module = module.eval()
    given = [query, key, key] if batch_first else [
        t.transpose(0, 1) for t in (query, key, key)
    ]  # fmt: skip
    flags = torch.ones(3, 6).triu(2).bool()
    causal = torch.zeros(3, 6).masked_fill(flags, -torch.inf)
    for options in (
        {},
        {"key_padding_mask": late},
        {"attn_mask": flags, "key_padding_mask": late},
        {"attn_mask": of_heads, "average_attn_weights": False},
        {"attn_mask": causal, "need_weights": False},
        {"attn_mask": causal, "is_causal": True},
        {"key_padding_mask": torch.zeros(5, 6).masked_fill(late, -torch.inf)},
    ):
        expected = module(*given, **options)
        found = twin_of(module)(*given, **options)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="is_causal=True needs attn_mask"):
        twin_of(module)(*given, is_causal=True)


@pytest.mark.filterwarnings(PROJECTIONS)
def test_recurrence_from_states_that_are_given():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        lstm = nn.LSTM(2, 3, num_layers=2, dropout=0.5, proj_size=2).eval()
        gru = nn.GRU(2, 3, num_layers=2, dropout=0.5, bidirectional=True).eval()
        x = torch.randn(4, 5, 2)
        pair = torch.randn(2, 5, 2), torch.randn(2, 5, 3)
        state = torch.randn(4, 5, 3)
    torch.testing.assert_close(twin_of(lstm)(x, pair), lstm(x, pair))
    torch.testing.assert_close(twin_of(gru)(x, state), gru(x, state))
    packed = nn.utils.rnn.pack_padded_sequence(x, torch.tensor([4, 3, 3, 2, 1]))
    with pytest.raises(ValueError, match=r"packed sequences.*Pad them"):
        twin_of(gru)(packed)


class Looping(nn.Module):
    """Drops as often as what came out of a dropout tells it to."""

    def __init__(self):
        super().__init__()
        self.drop, self.out = nn.Dropout(0.5), nn.Linear(6, 3)

    def forward(self, x):
        x = self.drop(x)
        for _ in range(int(x.abs().sum()) % 4 + (len(x) > 2)):
            x = self.drop(x.cos())
        return self.out(x)


class Growing(nn.Module):
    """Cuts columns off by what the values are."""

    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout(0.5)

    def forward(self, x):
        return self.drop(x[:, : 3 if float(x.max()) < 50 else 4])


def test_shapes_that_depend_on_values():
    for module, far in ((Looping(), rows), (Growing(), 100 + rows)):
        sampled = sample(module)
        with pytest.raises(ValueError, match="more often, or on values of another"):
            sampled.scores(far)


def test_vmap_is_tried_once_where_it_fails(monkeypatch):
    tried = []
    vmap = torch.func.vmap
    monkeypatch.setattr(torch.func, "vmap", lambda f: tried.append(f) or vmap(f))
    monkeypatch.setattr(_sampled, "CELLS_AT_A_TIME", 1)  # a block a pass
    for kind, expected in (("branching", 1), ("mlp", 7)):
        tried.clear()
        sampled = sample(make(kind))
        with torch.no_grad():
            sampled.scores(rows)
        assert len(tried) == expected


class Failing(nn.Module):
    def __init__(self):
        super().__init__()
        self.drop, self.calls = nn.Dropout(0.5), 0

    def forward(self, x):
        if float(x.sum()) > 1e6:
            raise LookupError("too large for me")
        return self.drop(x)


def test_an_error_of_the_net_is_told_as_it_is():
    sampled = sample(Failing())
    for _ in range(2):
        with pytest.raises(LookupError, match="too large for me") as caught:
            sampled.scores(rows + 1e6)
        assert caught.value.__context__ is None
    assert sampled.scores(rows).shape == (7, 9, 6)


def test_memory_is_bounded_by_the_widest_layer():
    """Rows at a time: what is before a mask, and what each pass has to itself."""
    before = nn.Sequential(
        nn.Linear(6, 2**18), nn.ReLU(), nn.Linear(2**18, 6), nn.Dropout(), nn.Tanh()
    )
    after = nn.Sequential(
        nn.Dropout(), nn.Tanh(), nn.Linear(6, 2**15), nn.ReLU(), nn.Linear(2**15, 3)
    )
    taken_over = nn.Sequential(nn.Dropout(), nn.Linear(6, 3))
    few = SampledNet(before, rows, n_passes=4, seed=0)
    assert few.widest == 2**18 and few.rows_at_a_time() == 32
    few = SampledNet(after, rows, n_passes=4, seed=0)
    assert few.held_width == 2**15 and few.rows_at_a_time() == 16
    many = SampledNet(taken_over, rows, n_passes=4, seed=0)
    assert many.held_width == 3 and many.width_with_gradient == 6
    attention = SampledNet(make("attention"), rows, n_passes=4, seed=0)
    assert attention.held_width == 2 * 3 * 5  # heads, queries, keys


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
