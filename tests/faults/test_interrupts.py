"""Ctrl-C in every long loop: it is raised, and all is as it was before."""

import random
import signal
import threading
import warnings

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.tree import DecisionTreeClassifier
from sklearn.utils.validation import check_is_fitted

from sk_advdef import (
    APGD,
    DDN,
    FGSM,
    JSMA,
    PGD,
    AdversariallyAugmentedClassifier,
    CarliniWagnerL2,
    CertifiedClassifier,
    CombinedDetector,
    DeepFool,
    DensityDetector,
    DistilledClassifier,
    DropoutUncertaintyDetector,
    FeatureSqueezingDetector,
    HopSkipJump,
    RandomSearch,
    RejectingClassifier,
    SigmaZero,
    Transfer,
    TreeExact,
    attack_strength_test,
    diagnose_defense,
    evaluate_robustness,
)
from sk_advdef._torch._net import NetClassifier
from sk_advdef.attacks._tree_solver import Solver
from sk_advdef.nets import DropoutMLP
from tests._instances import make_rows, small_net

X, y = make_rows(n_samples=60)
#: Calls until Ctrl-C is pressed; None for never.
LEFT = None


def tick():
    global LEFT
    if LEFT is not None:
        LEFT -= 1
        if LEFT == 0:
            LEFT = None
            signal.raise_signal(signal.SIGINT)


@pytest.fixture
def press(ctrl_c):
    """Press Ctrl-C at a later call of a model."""

    def after(calls):
        global LEFT
        LEFT = calls

    yield after
    after(None)


class Pressed(DropoutMLP):
    def forward(self, x):
        tick()
        return super().forward(x)


class PressedLinear(LogisticRegression):
    def fit(self, X, y, sample_weight=None):
        tick()
        return super().fit(X, y, sample_weight)


def make_net(**params):
    net = small_net(**{"max_epochs": 3, "module__dropout": 0.2} | params)
    return net.set_params(module=Pressed)


@pytest.fixture(scope="module")
def fitted():
    return NetClassifier(make_net(), random_state=0).fit(X, y)


def surroundings():
    """What an interrupted loop must put back."""
    return (
        random.getstate(),
        np.random.get_state()[1].tolist(),  # noqa: NPY002
        torch.get_rng_state().tolist(),
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        list(warnings.filters),
        np.geterr(),
        [thread.name for thread in threading.enumerate()],
    )


def state_of(module):
    return (
        [part.training for part in module.modules()],
        [
            len(part._forward_hooks) + len(part._backward_hooks)
            for part in module.modules()
        ],
        [(w.requires_grad, w.grad is None) for w in module.parameters()],
        [value.tolist() for value in module.state_dict().values()],
    )


b = {"bounds": None}
LOOPS = {
    "FGSM": lambda m: FGSM(0.3, **b).run(m, X[:20], y[:20]),
    "PGD": lambda m: PGD(0.3, steps=5, **b).run(m, X[:20], y[:20]),
    "APGD": lambda m: APGD(0.3, steps=5, **b).run(m, X[:20], y[:20]),
    "DeepFool": lambda m: DeepFool(**b).run(m, X[:20], y[:20]),
    "DDN": lambda m: DDN(**b).run(m, X[:20], y[:20]),
    "CarliniWagnerL2": lambda m: CarliniWagnerL2(**b).run(m, X[:20], y[:20]),
    "JSMA": lambda m: JSMA(bounds=(-9, 9)).run(m, X[:20], y[:20]),
    "SigmaZero": lambda m: SigmaZero(**b).run(m, X[:20], y[:20]),
    "RandomSearch": lambda m: RandomSearch(0.3, **b).run(m, X[:20], y[:20]),
    "HopSkipJump": lambda m: HopSkipJump(bounds=(-9, 9)).run(m, X[:20], y[:20]),
    "Transfer": lambda m: Transfer(PGD(0.3, **b)).run(m, X[:20], y[:20]),
    "evaluate_robustness": lambda m: evaluate_robustness(m, X, y, eps=0.3, **b),
    "diagnose_defense": lambda m: diagnose_defense(m, X, y, eps=0.3, **b),
    "attack_strength_test": lambda m: attack_strength_test(m, PGD(0.3, **b), X),
    "DropoutUncertaintyDetector": lambda m: DropoutUncertaintyDetector(
        FrozenEstimator(m), n_passes=4
    ).fit(X, y),
    "DensityDetector": lambda m: DensityDetector(FrozenEstimator(m)).fit(X, y),
    "FeatureSqueezingDetector": lambda m: FeatureSqueezingDetector(
        FrozenEstimator(m)
    ).fit(X, y),
    "CombinedDetector": lambda m: CombinedDetector(
        [("density", DensityDetector())],
        estimator=FrozenEstimator(m),
        attack=PGD(0.3, **b),
    ).fit(X, y),
}


@pytest.mark.parametrize("name", LOOPS)
def test_a_loop_leaves_the_model_and_all_around_it(name, fitted, press):
    before = surroundings(), state_of(fitted.net_.module_), vars(fitted).copy()
    press(2)
    with pytest.raises(KeyboardInterrupt):
        LOOPS[name](fitted)
    after = surroundings(), state_of(fitted.net_.module_), vars(fitted).copy()
    assert after == before
    assert not {"infer", "train_step", "training_"} & set(vars(fitted.net_))


def quick(net, **params):
    given = {"attack": PGD(0.2, steps=2, **b), "random_state": 0}
    return AdversariallyAugmentedClassifier(net, **given | params)


# Calls of the second epoch, round or model; in "watching" and "certified" those that
# look how far training has come.
FITS = {
    "net": (quick(make_net(), averaging="ema", early_stopping=True), 24),
    "watching": (quick(make_net(), ratio=0.01), 25),
    "awp": (quick(make_net(), weight_perturbation=0.01), 20),
    "rounds": (quick(PressedLinear()), 3),
    "certified": (CertifiedClassifier(make_net(), eps=0.1, random_state=0, **b), 9),
    "teacher": (DistilledClassifier(make_net(), random_state=0), 4),
    "student": (DistilledClassifier(make_net(), random_state=0), 11),
    "rejecting": (
        RejectingClassifier(
            make_net(), DensityDetector(contamination=0.1, random_state=0)
        ),
        4,
    ),
    "detector": (DensityDetector(make_net(), contamination=0.1, random_state=0), 4),
}


@pytest.mark.parametrize("name", FITS)
def test_a_fit_leaves_the_estimator_as_it_was(name, press):
    unfitted, calls = FITS[name]
    model = clone(unfitted)
    before = surroundings()
    press(calls)
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, y)
    assert surroundings() == before
    # never fitted: it does not half look so
    with pytest.raises(NotFittedError):
        check_is_fitted(model)
    assert vars(model).keys() == vars(unfitted).keys()
    # fitted before: it still is that model, though other rows were under way
    model.fit(X, y)
    answers = model.predict(X)
    press(calls)
    with pytest.raises(KeyboardInterrupt):
        model.fit(np.hstack([X, X]), np.char.add("other ", y))
    np.testing.assert_array_equal(model.predict(X), answers)


def test_an_interrupted_fit_is_not_remembered(press, tmp_path):
    model = DensityDetector(
        make_net(), contamination=0.1, memory=str(tmp_path), random_state=0
    )
    press(4)
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, y)
    scores = model.fit(X, y).score_samples(X)
    plain = clone(model).set_params(memory=None).fit(X, y)
    np.testing.assert_array_equal(scores, plain.score_samples(X))


def test_tree_exact(press, monkeypatch):
    tree = DecisionTreeClassifier(random_state=0).fit(X, y)
    original = Solver.decide

    def decide(self, *args):
        tick()
        return original(self, *args)

    monkeypatch.setattr(Solver, "decide", decide)
    before, answers = surroundings(), tree.predict(X)
    press(3)
    with pytest.raises(KeyboardInterrupt):
        TreeExact(0.3, verbose=1, **b).run(tree, X, y)
    assert surroundings() == before
    np.testing.assert_array_equal(tree.predict(X), answers)
