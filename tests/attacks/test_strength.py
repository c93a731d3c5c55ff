"""How strong the attacks are: beside other libraries, and against hidden gradients."""

import warnings

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from torch import nn

from sk_advdef import FGSM, PGD, BitDepthSqueezer, RandomSearch, as_module
from sk_advdef.nets import DropoutMLP
from tests.attacks.common import fitted, net

BALLS = [("linf", 0.1), ("l2", 0.6)]
STEPS = 20


@pytest.fixture(params=["mlp", "cnn", "linear"])
def victim(request, digits):
    model = request.getfixturevalue(request.param)
    X = digits.X.astype(np.float32)
    if request.param == "cnn":
        X = X.reshape(-1, 8, 8)
    return model, X, digits.y


class Single(nn.Module):
    """The view as other libraries want it: a net that takes and gives float32."""

    def __init__(self, view):
        super().__init__()
        self.view = view

    def forward(self, x):
        return self.view(x).float()


def share_fooled(model, X_adv, y):
    return np.mean(model.predict(X_adv) != y)


def by_foolbox(module, X, y, norm, eps, random_start):
    import foolbox

    kind = {"linf": foolbox.attacks.LinfPGD, "l2": foolbox.attacks.L2PGD}[norm]
    attack = kind(steps=STEPS, rel_stepsize=2.5 / STEPS, random_start=random_start)
    module = foolbox.PyTorchModel(module.eval(), bounds=(0, 1), device="cpu")
    X, y = torch.tensor(X), torch.tensor(y)
    return attack(module, X, y, epsilons=eps)[1].numpy()


def by_art(module, X, y, norm, eps, random_start):
    from art.attacks.evasion import ProjectedGradientDescent
    from art.estimators.classification import PyTorchClassifier

    classifier = PyTorchClassifier(
        module,
        loss=nn.CrossEntropyLoss(),
        input_shape=X.shape[1:],
        nb_classes=10,
        clip_values=(0, 1),
        device_type="cpu",
    )
    attack = ProjectedGradientDescent(
        classifier,
        norm=np.inf if norm == "linf" else 2,
        eps=eps,
        eps_step=2.5 * eps / STEPS,
        max_iter=STEPS,
        num_random_init=int(random_start),
        verbose=False,
    )
    return attack.generate(X, y)


@pytest.mark.parametrize("random_start", [False, True])
@pytest.mark.parametrize("norm, eps", BALLS)
@pytest.mark.parametrize("other", [by_foolbox, by_art])
def test_pgd_reaches_other_libraries(other, norm, eps, random_start, victim):
    model, X, y = victim
    attack = PGD(eps, steps=STEPS, norm=norm, random_start=random_start, random_state=0)
    state = np.random.get_state(legacy=False)  # noqa: NPY002
    with warnings.catch_warnings(), torch.random.fork_rng():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        np.random.seed(0)  # noqa: NPY002
        theirs = other(Single(as_module(model)), X, y, norm, eps, random_start)
    np.random.set_state(state)  # noqa: NPY002
    theirs = share_fooled(model, theirs.astype(np.float32), y)
    ours = attack.run(model, X, y).fooled.mean()
    assert 0.2 < theirs < 1
    # from the row itself the steps are the same, and we keep what was found on the way
    assert ours >= theirs - (0.011 if random_start else 0)


@pytest.mark.parametrize("norm, eps", BALLS)
def test_more_effort_fools_more(norm, eps, mlp, digits):
    X, y = digits.X.astype(np.float32), digits.y
    base = PGD(eps, norm=norm, random_state=0)
    one, few, many, again = (
        attack.run(mlp, X, y).fooled
        for attack in (
            FGSM(eps, norm=norm),
            clone(base).set_params(steps=5),
            base,
            clone(base).set_params(restarts=4),
        )
    )
    assert one.mean() < few.mean() <= many.mean() <= again.mean()
    # restarts only go on with rows that hold
    assert not (many & ~again).any()


@pytest.mark.parametrize("attack", [FGSM(0.08, loss="margin"), PGD(0.08, steps=10)])
def test_best_try_is_kept_where_the_row_holds(attack, mlp, digits):
    X, y = digits.X.astype(np.float32), digits.y
    result = attack.run(mlp, X, y)
    held = ~result.fooled

    def lead(X):
        scores = np.log(mlp.predict_proba(X))[held]
        own = scores[np.arange(held.sum()), y[held]].copy()
        scores[np.arange(held.sum()), y[held]] = -np.inf
        return scores.max(axis=1) - own

    assert held.sum() > 10
    assert (lead(result.X_adv) > lead(X)).mean() > 0.95


@pytest.mark.parametrize("norm, eps", BALLS)
def test_search_comes_near_the_gradient(norm, eps, cnn, digits):
    X, y = digits.X.astype(np.float32).reshape(-1, 8, 8), digits.y
    gradient = PGD(eps, norm=norm, random_state=0).run(cnn, X, y).fooled
    square = RandomSearch(eps, norm=norm, random_state=0).run(cnn, X, y)
    assert square.fooled.sum() > 0.75 * gradient.sum()
    cut = RandomSearch(eps, norm=norm, max_queries=30, random_state=0)
    assert cut.run(cnn, X, y).fooled.mean() < square.fooled.mean()


class Loud(DropoutMLP):
    """Logits so large that the softmax is 0 and 1."""

    def forward(self, X):
        return super().forward(X) * 100


class Soft(DropoutMLP):
    """Probabilities out, as skorch has it by default."""

    def forward(self, X):
        return super().forward(X).softmax(dim=1)


class SoftLayer(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(DropoutMLP(10, dropout=0.2), nn.Softmax(dim=-1))

    def forward(self, X):
        return self.layers(X)


def twin(mlp, module, digits, **params):
    """The same weights in another module."""
    model = net(
        module, module__n_classes=10, module__dropout=0.2, max_epochs=0, **params
    )
    model = fitted(model, digits.X_fit[:20].astype(np.float32), digits.y_fit[:20])
    model.module_.load_state_dict(mlp.module_.state_dict())
    return model


def test_margin_sees_through_saturation(mlp, digits):
    X, y = digits.X.astype(np.float32), digits.y
    loud = twin(mlp, Loud, digits)
    np.testing.assert_array_equal(loud.predict(X), mlp.predict(X))
    plain, margin, entropy = (
        PGD(0.1, loss=loss, steps=20, random_start=False).run(model, X, y).fooled.mean()
        for model, loss in ((mlp, "margin"), (loud, "margin"), (loud, "ce"))
    )
    assert abs(margin - plain) <= 0.01
    assert entropy < margin - 0.1


@pytest.mark.parametrize("loss", ["ce", "margin"])
def test_through_the_softmax_of_the_net(loss, mlp, digits):
    """Even one that is saturated gives way, since its input is what is attacked."""
    X, y = digits.X.astype(np.float32), digits.y
    soft = twin(mlp, Soft, digits, criterion=nn.NLLLoss)
    attack = PGD(0.1, loss=loss, steps=20, random_start=False)
    there, here = attack.run(soft, X, y), attack.run(mlp, X, y)
    assert abs(there.fooled.mean() - here.fooled.mean()) <= 0.01
    with torch.no_grad():
        for model in (soft, mlp):
            model.module_.layers[-1].weight *= 100
            model.module_.layers[-1].bias *= 100
    try:
        there = PGD(0.1, loss="margin", steps=20, random_start=False).run(soft, X, y)
    finally:
        with torch.no_grad():
            mlp.module_.layers[-1].weight /= 100
            mlp.module_.layers[-1].bias /= 100
    plain = PGD(0.1, loss="margin", steps=20, random_start=False).run(mlp, X, y)
    assert abs(there.fooled.mean() - plain.fooled.mean()) <= 0.01


def test_through_a_softmax_layer(digits):
    model = net(SoftLayer, criterion=nn.NLLLoss)
    X, y = digits.X.astype(np.float32), digits.y
    model = fitted(model, digits.X_fit.astype(np.float32), digits.y_fit)
    assert model.score(X, y) > 0.85
    fooled = PGD(0.15, loss="margin", random_state=0).run(model, X, y).fooled
    assert fooled.mean() > 0.7


def test_search_needs_no_gradient(forest, linear, digits):
    X, y = digits.X, digits.y
    squeezed = make_pipeline(BitDepthSqueezer(1, value_range=(0, 1)), clone(linear))
    squeezed.fit(digits.X_fit, digits.y_fit)
    for model in (forest, squeezed):
        fooled = RandomSearch(0.25, max_queries=300, random_state=0).run(model, X, y)
        noise = np.random.default_rng(0).uniform(-0.25, 0.25, X.shape)
        by_noise = share_fooled(model, np.clip(X + noise, 0, 1), y)
        assert fooled.fooled.mean() > max(0.6, by_noise + 0.3)
