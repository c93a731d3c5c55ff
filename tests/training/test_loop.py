"""Each method of adversarial training beside a loop written by hand."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from skorch import NeuralNetClassifier
from skorch.callbacks import Checkpoint
from skorch.dataset import ValidSplit
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from sk_advdef import FGSM, PGD, AdversariallyAugmentedClassifier, FeatureSpace
from sk_advdef._torch._loader import Batches, fast_iterator
from sk_advdef._torch._net import NetClassifier
from sk_advdef._validation import seed_from
from sk_advdef.attacks._base import Problem
from sk_advdef.training import _weights
from sk_advdef.training._reach import Room, SpaceRoom
from sk_advdef.training._steps import awp_direction
from sk_advdef.training._watch import Best
from tests._torch._cases import Probabilities, make_net

rng = np.random.default_rng(0)
N, WIDTH, EPS, BATCH = 70, 5, 0.2, 32
codes = np.arange(N) % 3
X = np.clip(0.5 + 0.2 * rng.normal(size=(N, WIDTH)), 0, 1).astype(np.float32)
X[:, 0] = 0.3 * codes + 0.2


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(WIDTH, 8), nn.ReLU(), nn.Linear(8, 3))

    def forward(self, X):
        return self.layers(X)


class WithNorm(Small):
    def __init__(self):
        super().__init__()
        self.layers.insert(1, nn.BatchNorm1d(8))


def net_of(module=Small, **params):
    given = {"optimizer": torch.optim.SGD, "lr": 0.5, "max_epochs": 1}
    given |= {"batch_size": BATCH, "criterion": nn.CrossEntropyLoss}
    return make_net(module, NeuralNetClassifier, **given | params)


def make(net=None, **params):
    given = {"attack": PGD(EPS, steps=3), "random_state": 0, "ratio": None}
    net = net_of() if net is None else net
    return AdversariallyAugmentedClassifier(net, **given | params)


def module_of(model):
    return model.estimator_.net_.module_


def start():
    """Return the module as it is before training, and our generator."""
    module = copy.deepcopy(module_of(make(net_of(max_epochs=0)).fit(X, codes)))
    return module.train(), torch.Generator().manual_seed(seed_from(0))


def gradient(module, x, y, loss=F.cross_entropy):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(loss(module(x), y) * len(x), x)[0]


def uniform(x, size, generator):
    return torch.empty_like(x).uniform_(-size, size, generator=generator)


def by_hand(rows_of, loss_of=None, epochs=1):
    """Train a module in the plainest way and return it."""
    module, generator = start()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.5)
    for _ in range(epochs):
        for at in range(0, N, BATCH):
            x = torch.tensor(X[at : at + BATCH])
            y = torch.tensor(codes[at : at + BATCH])
            rows = rows_of(module, x, y, generator)
            optimizer.zero_grad()
            if loss_of is None:
                loss = F.cross_entropy(module(rows), y)
            else:
                loss = loss_of(module, x, rows, y)
            loss.backward()
            optimizer.step()
    return module


def assert_same(model, module):
    for name, value in module.state_dict().items():
        np.testing.assert_allclose(
            module_of(model).state_dict()[name], value, rtol=1e-4, atol=1e-6
        )


def n_fgsm(module, x, y, generator):
    noisy = (x + uniform(x, 2 * EPS, generator)).clamp(0, 1)
    return (noisy + EPS * gradient(module, noisy, y).sign()).clamp(0, 1)


def fgsm_rs(module, x, y, generator):
    delta = (x + uniform(x, EPS, generator)).clamp(0, 1) - x
    delta = delta + 1.25 * EPS * gradient(module, x + delta, y).sign()
    return (x + delta.clamp(-EPS, EPS)).clamp(0, 1)


def three_steps(module, x, y, generator):
    moved = (x + uniform(x, EPS, generator)).clamp(0, 1)
    for _ in range(3):
        moved = moved + 2.5 / 3 * EPS * gradient(module, moved, y).sign()
        moved = (x + (moved - x).clamp(-EPS, EPS)).clamp(0, 1)
    return moved


def kl(module, x, rows):
    p, q = (F.log_softmax(module(v), dim=1) for v in (x, rows))
    return F.kl_div(q, p, log_target=True, reduction="batchmean")


def apart(module, x, y, generator):
    moved = x + 0.001 * torch.empty_like(x).normal_(generator=generator)
    for _ in range(4):
        leaf = moved.clone().requires_grad_()
        grad = torch.autograd.grad(kl(module, x, leaf) * len(x), leaf)[0]
        moved = moved + 2.5 / 4 * EPS * grad.sign()
        moved = (x + (moved - x).clamp(-EPS, EPS)).clamp(0, 1)
    return moved


def trades(module, x, rows, y):
    return F.cross_entropy(module(x), y) + 3 * kl(module, x, rows)


def perturbed(module, x, rows, y):
    """Gradient at weights moved to where the loss is higher; the step at the old."""
    matrices = [w for w in module.parameters() if w.ndim > 1]
    found = torch.autograd.grad(F.cross_entropy(module(rows), y), matrices)
    moved = dict(module.named_parameters())
    for name, weight in module.named_parameters():
        for matrix, grad in zip(matrices, found, strict=True):
            if weight is matrix:
                moved[name] = weight + 0.3 * weight.detach().norm() * grad / grad.norm()
    return F.cross_entropy(torch.func.functional_call(module, moved, (rows,)), y)


CASES = {
    "fast": ({"method": "fast"}, n_fgsm, None),
    "fgsm-rs": ({"method": "fgsm-rs"}, fgsm_rs, None),
    "pgd": ({"ratio": 1}, three_steps, None),
    "fgsm": (
        {"ratio": 1, "attack": FGSM(EPS)},
        lambda m, x, y, _: (x + EPS * gradient(m, x, y).sign()).clamp(0, 1),
        None,
    ),
    "trades": ({"method": "trades", "steps": 4, "beta": 3}, apart, trades),
    "awp": ({"method": "fast", "weight_perturbation": 0.3}, n_fgsm, perturbed),
}


@pytest.mark.parametrize("case", CASES)
def test_methods_beside_loops_written_by_hand(case):
    params, rows_of, loss_of = CASES[case]
    model = make(net_of(max_epochs=2), **params).fit(X, codes)
    assert_same(model, by_hand(rows_of, loss_of, epochs=2))


def test_free_beside_a_loop_written_by_hand():
    module, _ = start()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.5)
    carried = torch.zeros(BATCH, WIDTH)
    for at in range(0, N, BATCH):
        x, y = torch.tensor(X[at : at + BATCH]), torch.tensor(codes[at : at + BATCH])
        for _ in range(3):
            rows = (x + carried[: len(x)]).clamp(0, 1).requires_grad_()
            optimizer.zero_grad()
            F.cross_entropy(module(rows), y).backward()
            optimizer.step()
            delta = (rows - x + EPS * rows.grad.sign()).detach()
            carried[: len(x)] = (x + delta.clamp(-EPS, EPS)).clamp(0, 1) - x
    model = make(method="free", replays=3).fit(X, codes)
    assert_same(model, module)


@pytest.mark.parametrize("method", ["pgd", "fast", "fgsm-rs", "free", "trades", "ccat"])
def test_without_reach_it_is_plain_training(method):
    """Attacks of no size draw nothing from the generators that training uses."""
    net = net_of(max_epochs=2, iterator_train__shuffle=True)
    net.set_params(train_split=ValidSplit(5))
    given = {"attack": PGD(0.0), "replays": 1, "beta": 0.0}
    model = make(net, method=method, **given).fit(X, codes)
    plain = NetClassifier(net, random_state=seed_from(0)).fit(X, codes).net_
    if method in ("trades", "ccat"):  # sums of another kind
        return assert_same(model, plain.module_)
    for name, value in plain.module_.state_dict().items():
        assert torch.equal(module_of(model).state_dict()[name], value)
    for mine, theirs in zip(model.history_, plain.history, strict=True):
        assert mine["valid_loss"] == theirs["valid_loss"]


def test_batches_are_those_of_the_loader():
    net = net_of(iterator_train__shuffle=True).initialize()
    data = net.get_dataset(X, codes.astype(np.int64))
    for dataset in (data, torch.utils.data.Subset(data, np.arange(40)[::-1])):
        for training in (True, False):
            loader = net.get_iterator(dataset, training=training)
            fast = fast_iterator(net.get_iterator, dataset, training=training)
            assert isinstance(fast, Batches) and len(fast) == len(loader)
            with torch.random.fork_rng():
                torch.manual_seed(1)
                slow = [*list(loader), torch.rand(1)]
                torch.manual_seed(1)
                quick = [*list(fast), torch.rand(1)]
            assert torch.equal(slow.pop(), quick.pop())
            for (a, b), (c, d) in zip(slow, quick, strict=True):
                assert torch.equal(a, c) and torch.equal(b, d)
                assert a.dtype == c.dtype and b.dtype == d.dtype
    own = net_of(iterator_train__collate_fn=lambda rows: rows).initialize()
    found = fast_iterator(own.get_iterator, data, training=True)
    assert type(found) is DataLoader
    read_only = X.copy()
    read_only.flags.writeable = False
    dataset = net.get_dataset(read_only, codes)
    assert type(fast_iterator(net.get_iterator, dataset)) is DataLoader


def test_eps_warms_up_batch_by_batch(monkeypatch):
    seen = []
    original = PGD.rows_to_train_on

    def spy(self, estimator, X, y):
        if getattr(self, "steps", 0) == 3:
            seen.append((self.eps, self.step_size))
        return original(self, estimator, X, y)

    monkeypatch.setattr(PGD, "rows_to_train_on", spy)
    space = FeatureSpace(eps={0: 0.3, 1: 0.6})
    attacks = [
        PGD(
            0.6,
            steps=3,
            step_size=0.3,
            targeted=False,
            goal="fool",
            space=FeatureSpace(),
        ),
        PGD(None, steps=3, space=space, bounds=None),
    ]
    model = make(net_of(max_epochs=3), attack=attacks, eps_warmup=2).fit(X, codes)
    parts = [eps / 0.6 for eps, _ in seen if eps is not None]
    # three batches an epoch, the two attacks in turn
    np.testing.assert_allclose(parts, [1 / 6, 3 / 6, 5 / 6, 1, 1])
    assert [size / eps for eps, size in seen if eps] == [0.5] * 5
    assert len(seen) == 9
    assert [row["eps_part"] for row in model.history_] == [0.5, 1, 1]


def test_half_of_a_batch_and_a_class_of_its_own():
    """The picked rows alone are attacked."""
    batches = []

    class Spy(Small):
        def forward(self, X):
            if self.training:
                batches.append(X.detach().clone())
            return super().forward(X)

    class Four(Spy):
        def __init__(self):
            super().__init__()
            self.layers[2] = nn.Linear(8, 4)

    for method, module, label in [("ccat", Spy, None), ("fast", Four, 9)]:
        batches.clear()
        make(net_of(module), method=method, adversarial_label=label).fit(X, codes)
        for at, batch in zip(range(0, N, BATCH), batches, strict=True):
            changed = (batch.numpy() != X[at : at + BATCH]).any(axis=1)
            assert changed.sum() == round(len(batch) / 2)


class Wide(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(WIDTH, 64), nn.ReLU(), nn.Linear(64, 3))


def test_ccat_answers_without_confidence_where_it_is_attacked():
    apart = np.full_like(X, 0.5)
    apart[:, 0] = 0.4 * codes + 0.1
    net = net_of(Wide, max_epochs=30, optimizer=torch.optim.Adam, lr=0.03)
    model = make(net, attack=PGD(0.2), method="ccat", steps=5).fit(apart, codes)
    assert not model.history_[0].keys() & {"eps_part"}
    clean, held = (model.history_[-1][f"{k}_accuracy"] for k in ("clean", "attacked"))
    assert clean > 0.6 and held > 0.6
    strong = PGD(0.2, steps=20, random_state=0).rows_to_train_on(model, apart, codes)
    share = model.adversarial_proba(strong)
    assert ((share >= 0) & (share <= 1)).all()
    assert share.mean() > model.adversarial_proba(apart).mean() + 0.2
    plain = make(net, attack=PGD(0.0), method="ccat").fit(apart, codes)
    assert plain.adversarial_proba(strong).mean() < share.mean() - 0.2
    assert not hasattr(make(net), "adversarial_proba")


def test_ccat_weighs_classes_as_the_criterion_does():
    weight = torch.tensor([9.0, 1, 1])
    net = net_of(Probabilities, batch_size=N, max_epochs=4, criterion=nn.NLLLoss)
    net.set_params(criterion__weight=weight)
    model = make(net, attack=PGD(0.0), method="ccat").fit(X, codes)
    # the loss of soft labels is divided by rows, that of hard ones by their weights
    faster = clone(net).set_params(lr=net.lr * float(weight[codes].mean()))
    plain = NetClassifier(faster, random_state=seed_from(0)).fit(X, codes)
    np.testing.assert_allclose(
        model.predict_proba(X), plain.predict_proba(X), atol=1e-4
    )


def test_ccat_with_outputs_to_spare_and_a_net_that_is_pickled_meanwhile(tmp_path):
    net = net_of(Probabilities, batch_size=N, max_epochs=4, criterion=nn.NLLLoss)
    kept = Checkpoint(monitor=None, f_pickle="net.pkl", dirname=tmp_path)
    net.set_params(callbacks=[kept])
    two = codes % 2  # of three outputs
    model = make(net, attack=PGD(0.0), method="ccat").fit(X, two)
    plain = NetClassifier(net, random_state=seed_from(0)).fit(X, two)
    np.testing.assert_allclose(
        model.predict_proba(X), plain.predict_proba(X), atol=1e-5
    )
    assert (tmp_path / "net.pkl").stat().st_size


def test_ccat_at_the_start_of_a_warm_up_keeps_labels():
    """A change that is small beside eps says little of a label."""
    apart = np.full_like(X, 0.5)
    apart[:, 0] = 0.4 * codes + 0.1
    net = net_of(Wide, max_epochs=30, optimizer=torch.optim.Adam, lr=0.03)
    given = {"attack": PGD(0.2), "method": "ccat", "steps": 5}
    with pytest.warns(UserWarning, match="fell from"):  # under the whole of eps
        model = make(net, eps_warmup=30_000, **given).fit(apart, codes)
    plain = make(net, **given | {"attack": PGD(0.0)}).fit(apart, codes)
    assert (
        abs(model.adversarial_proba(apart) - plain.adversarial_proba(apart)).max() < 0.1
    )


def test_awp_leaves_statistics_as_one_pass_would():
    model = make(net_of(WithNorm), method="fast", weight_perturbation=0.01)
    model.fit(X, codes)
    assert module_of(model).layers[1].num_batches_tracked == 3


@pytest.mark.parametrize("kind", ["ema", "swa"])
def test_averages_of_weights(kind):
    """Without an attack they are averages of the weights of plain training."""
    each, ends = [], []

    class Recording(torch.optim.SGD):
        def step(self, closure=None):
            loss = super().step(closure)
            (group,) = self.param_groups
            each.append([w.detach().clone() for w in group["params"]])
            return loss

    net = net_of(optimizer=Recording, max_epochs=4)
    model = make(net, averaging=kind, averaging_decay=0.9).fit(X, codes)
    ends = each[2::3]
    if kind == "swa":
        expected = [torch.stack(w).mean(dim=0) for w in zip(*ends[2:], strict=True)]
    else:
        expected = each[0]
        for count, now in enumerate(each[1:], start=2):
            decay = min(0.9, count / (9 + count))
            pairs = zip(expected, now, strict=True)
            expected = [decay * mean + (1 - decay) * w for mean, w in pairs]
    for found, wanted in zip(module_of(model).parameters(), expected, strict=True):
        np.testing.assert_allclose(found.detach(), wanted, rtol=1e-5, atol=1e-6)
    # what was watched is the mean
    reached = model.history_[-1]["clean_accuracy"]
    assert reached == pytest.approx(model.score(X, codes))


@pytest.mark.parametrize("method", ["fast", "free", "trades"])
def test_averaged_nets_learn_statistics_anew(method):
    net = net_of(WithNorm, max_epochs=3, batch_size=N, lr=0.02)
    model = make(net, method=method, averaging="ema", attack=PGD(0.0)).fit(X, codes)
    module = module_of(model)
    given = module.layers[0](torch.tensor(X)).detach()
    norm = module.layers[1]
    np.testing.assert_allclose(norm.running_mean, given.mean(dim=0), atol=1e-3)
    np.testing.assert_allclose(norm.running_var, given.var(dim=0), rtol=0.01)
    assert norm.momentum == 0.1 and not module.training


def test_rows_for_the_statistics_are_attacked_on_the_net_that_has_them(monkeypatch):
    seen = []

    def spy(net):
        twin = original(net)
        seen.append(twin.module_.layers[1].running_mean.clone())
        return twin

    original = _weights.twin_of
    monkeypatch.setattr(_weights, "twin_of", spy)
    net = net_of(WithNorm, max_epochs=20, lr=0.02)
    model = make(net, method="fast", averaging="ema").fit(X, codes)
    (mean,) = seen
    expected = module_of(model).layers[1].running_mean
    np.testing.assert_allclose(mean, expected, atol=0.2 * float(expected.abs().max()))


def test_early_stopping_brings_the_best_weights_back():
    """A learning rate that runs away after some epochs."""
    scheduler = ("lr", Blowing())
    net = net_of(max_epochs=30, callbacks=[scheduler], optimizer=torch.optim.Adam)
    net.set_params(lr=0.02)
    given = {"early_stopping": True, "validation_fraction": 0.3, "n_iter_no_change": 4}
    model = make(net, attack=PGD(0.05, steps=3), **given).fit(X, codes)
    scores = [row["attacked_accuracy"] for row in model.history_]
    pairs = [
        (row["attacked_accuracy"], row["clean_accuracy"]) for row in model.history_
    ]
    best = pairs.index(max(pairs))
    assert len(scores) == best + 1 + 4 < 30
    assert {"train_loss", "dur"} <= set(model.history_[-1])
    assert module_of(model).layers[0].weight.abs().max() < 100
    again = make(net, attack=PGD(0.05, steps=3), **given).fit(X, codes)
    np.testing.assert_array_equal(again.predict_proba(X), model.predict_proba(X))


def test_to_take_every_row_for_adversarial_is_no_feat():
    best = Best(patience=2)
    epochs = [(1.0, 0.0), (0.5, 0.6), (0.96, 0.97), (0.99, 0.96), (0.96, 0.97)]
    reached = [{"attacked_accuracy": a, "clean_accuracy": c} for a, c in epochs]
    assert [best.is_new(one) for one in reached] == [True, True, True, False, False]
    assert best.is_over and best.reached == reached[2]


class Blowing:
    """Multiplies the learning rate by a million after eight epochs."""

    def __new__(cls):
        from skorch.callbacks import LRScheduler

        return LRScheduler("LambdaLR", lr_lambda=lambda e: 1 if e < 8 else 1e6)


def test_rows_held_out_are_not_learned_from():
    seen = set()

    class Spy(Small):
        def forward(self, X):
            if self.training:
                seen.update(row.tobytes() for row in X.detach().numpy())
            return super().forward(X)

    make(
        net_of(Spy, max_epochs=2),
        attack=PGD(0.0),
        early_stopping=True,
        validation_fraction=0.2,
    ).fit(X, codes)
    assert len(seen & {row.tobytes() for row in X}) == N - round(0.2 * N)


@pytest.mark.parametrize("method", ["fast", "free", "trades", "ccat", "fgsm-rs"])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_methods_within_a_space(method, norm):
    """What a space freezes is never changed in a batch."""
    batches = []

    class Spy(Small):
        def forward(self, X):
            if self.training:
                batches.append(X.detach().clone())
            return super().forward(X)

    space = FeatureSpace(eps=0.1, immutable=[1], increasing=[2], bounds=(0, 1))
    attack = PGD(None, space=space, norm=norm)
    make(net_of(Spy), attack=attack, method=method, steps=3).fit(X, codes)
    moved = 0.0
    for batch in batches:
        row = batch.numpy()
        same = (row[:, [1]] == X[:, 1]).any(axis=1)
        assert same.all()
        moved = max(moved, max(np.abs(r[0] - X[:, 0]).min() for r in row))
    assert 0 < moved <= 0.1 + 1e-6


def test_l2_steps_stay_in_the_ball():
    batches = []

    class Spy(Small):
        def forward(self, X):
            if self.training:
                batches.append(X.detach().clone())
            return super().forward(X)

    eps = np.array([0.0, 0.1, 0.2, 0.3, 0.4])
    attack = PGD(eps, norm="l2", bounds=(np.zeros(WIDTH), np.ones(WIDTH)), steps=3)
    for method in ("fgsm-rs", "pgd", "free"):
        batches.clear()
        make(net_of(Spy), attack=attack, method=method, replays=1).fit(X, codes)
        for at, batch in zip(range(0, N, BATCH), batches, strict=True):
            delta = batch.numpy() - X[at : at + BATCH]
            assert (delta[:, 0] == 0).all()
            assert np.linalg.norm(delta[:, 1:] / eps[1:], axis=1).max() < 1 + 1e-5


@pytest.mark.parametrize("eps", [0.0, torch.tensor([0.0, 0.1, 0.2])])
def test_what_may_not_move_is_put_back(eps):
    center = torch.rand(6, 3)
    room = Room(center, eps, None, None, "l2")
    moved = room.inside(center + 0.01 * torch.rand(6, 3))
    kept = torch.zeros(3) if isinstance(eps, float) else (eps > 0).float()
    assert ((moved != center).float() == kept).all()


def test_room_of_a_space_charges_nothing_for_what_has_no_length():
    space = FeatureSpace(eps=[0.3, 0.4, 0.1, 0.1, np.inf], one_hot=[[2, 3]])
    space = replace(space, bounds={4: (-5, 5)})
    rows = np.array([[0.0, 0.0, 1.0, 0.0, 0.0]], dtype=np.float32)
    model = LogisticRegression().fit(np.repeat(rows, 4, axis=0), [0, 1, 0, 1])
    attack = PGD(None, norm="l2", bounds=None, space=space)
    room = SpaceRoom(Problem(attack, model, rows, [0]), "l2")
    grad = torch.tensor([[1.0, 1.0, -1.0, 1.0, 1.0]])
    moved = room.inside(room.up(room.center.clone(), grad.clone(), 1.0))
    unit = (moved - room.center)[0, :2] / torch.tensor([0.3, 0.4])
    assert unit.norm() == pytest.approx(1, abs=1e-5)
    assert moved[0, 4] == 5
    assert room.point(moved)[0, 2:4].tolist() == [0, 1]


@pytest.mark.parametrize("eps", [0.1, np.array([0.1] * WIDTH)])
def test_steps_beyond_all_numbers_go_to_the_end_of_the_room(eps):
    seen = []

    class Spy(Small):
        def forward(self, X):
            seen.append(X.detach().clone())
            return super().forward(X)

    params = {"attack": PGD(eps, steps=2, bounds=None), "relative_step_size": 1e300}
    make(net_of(Spy), method="trades", **params).fit(X, codes)
    low, high = X.min() - 0.1, X.max() + 0.1
    assert all(low - 1e-5 <= x.min() and x.max() <= high + 1e-5 for x in seen[3:])


def test_weights_that_take_no_part_are_not_perturbed():
    class Spare(Small):
        def __init__(self):
            super().__init__()
            self.spare = torch.nn.Linear(3, 3)

    model = make(net_of(Spare), method="fast", weight_perturbation=0.01).fit(X, codes)
    assert model.history_[-1]["train_loss"] > 0


REFUSED = [
    ({"method": "free", "ratio": 0.5}, "attacks all rows of a batch"),
    ({"method": "trades", "adversarial_label": 9}, "no class for attacked rows"),
    ({"attack": []}, "a list of them, not empty"),
    ({"attack": [PGD(0.1), "pgd"]}, "a list of them, not empty, or None"),
    ({"averaging": "mean"}, "'averaging' parameter"),
    ({"averaging_decay": 1.0}, "'averaging_decay' parameter"),
    ({"relative_step_size": 0.0}, "'relative_step_size' parameter .* or None"),
    ({"ratio": 1.5}, "'ratio' parameter"),
    ({"noise": -1}, "'noise' parameter"),
    ({"rho": 0}, "'rho' parameter"),
    ({"early_stopping": 1}, "'early_stopping' parameter"),
    ({"early_stopping": True, "validation_fraction": 0.001}, "nothing on one side"),
]


@pytest.mark.parametrize("params, message", REFUSED)
def test_what_does_not_go_together(params, message):
    with pytest.raises(ValueError, match=message):
        make(**params).fit(X, codes)


def test_a_gradient_of_nothing_moves_no_weights():
    weight = torch.full((40, 40), 1.0)
    (moved,) = awp_direction([weight], [torch.zeros(40, 40)], 0.2)
    assert (moved == 0).all()
    (moved,) = awp_direction([weight], [torch.full((40, 40), 1e-30)], 0.2)
    torch.testing.assert_close(moved.norm(), 0.2 * weight.norm())
