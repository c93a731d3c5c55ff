"""Attacks in float32 and float64, and on rows of any size: ball, box and success.

What a caller checks holds: ``abs(X_adv - X).max() <= eps`` in float64, where the
difference of two rows is exact, and in float32 with eps as float32 (an eps of float64
may lie below its float32 by half a unit in the last place). The L2 length is taken in
float64.
"""

import copy

import numpy as np
import pytest
import torch
from sklearn.base import clone

from sk_advdef import (
    APGD,
    DDN,
    FGSM,
    JSMA,
    PGD,
    CarliniWagnerL2,
    DeepFool,
    HopSkipJump,
    RandomSearch,
    SigmaZero,
)
from sk_advdef.attacks._ahead import log_odds, margin
from sk_advdef.attacks._apgd_steps import loss_of
from sk_advdef.attacks._geometry import lengths
from sk_advdef.attacks._gradient import class_goal
from sk_advdef.attacks._row_tensors import length
from tests.fuzz._targets import ATTACKS, attacked_rows, model


def true_lengths(delta):
    """L2 lengths that neither overflow nor underflow."""
    peak = np.abs(delta).max(axis=1, keepdims=True)
    unit = delta / np.where(peak > 0, peak, 1)
    return np.sqrt((unit**2).sum(axis=1)) * peak[:, 0]


def check_ball(X_adv, X, eps, norm):
    exact = X_adv.astype(np.float64) - X.astype(np.float64)
    if norm == "l2":
        assert (true_lengths(exact) <= eps * (1 + 1e-15)).all()
        return
    assert (np.abs(exact) <= eps).all()
    # a Python float is compared as a float of the dtype of the rows
    assert np.abs(X_adv - X).max() <= eps


@pytest.mark.parametrize("name", ATTACKS)
def test_float32_and_float64_rows(name):
    attacked, (X, y) = ATTACKS[name], attacked_rows()
    X = X.astype(np.float32)
    estimator, found = model(attacked.kind), []
    for dtype in (np.float32, np.float64):
        rows = X.astype(dtype)
        attack = clone(attacked.attack)
        result = attack.run(estimator, rows, y)
        X_adv = result.X_adv
        assert X_adv.dtype == dtype
        assert (X_adv >= 0).all() and (X_adv <= 1).all()
        eps = getattr(attack, "eps", None)
        if eps is not None:
            check_ball(X_adv, rows, eps, attack.norm)
        # asked with the rows returned: all of them, and each alone
        fooled = estimator.predict(X_adv) != y
        np.testing.assert_array_equal(fooled, result.fooled)
        alone = [estimator.predict(X_adv[i : i + 1])[0] for i in range(len(y))]
        np.testing.assert_array_equal(np.array(alone) != y, result.fooled)
        found.append(result)
    # the same rows, in more digits: what one finds the other does, but for a row
    # that stands on the border
    assert (found[0].fooled != found[1].fooled).sum() <= 1
    both = found[0].fooled & found[1].fooled
    assert both.any() or name == "CarliniWagnerL2"
    near = np.isclose(found[0].distortion, found[1].distortion, rtol=0.05, atol=1e-3)
    assert near.mean() >= 0.9


#: Attacks that know no size but that of the rows.
SCALED = {
    "FGSM": lambda eps: FGSM(eps),
    "FGSM l2": lambda eps: FGSM(eps, norm="l2"),
    "PGD l2": lambda eps: PGD(eps, steps=3, norm="l2", random_state=0),
    "APGD": lambda eps: APGD(eps, steps=3, random_state=0),
    "APGD l2": lambda eps: APGD(eps, steps=3, norm="l2", random_state=0),
    "RandomSearch": lambda eps: RandomSearch(eps, max_queries=9, random_state=0),
    "RandomSearch l2": lambda eps: RandomSearch(
        eps, norm="l2", max_queries=9, random_state=0
    ),
    "HopSkipJump": lambda eps: HopSkipJump(
        max_queries=60, init_queries=10, random_state=0
    ),
    "DeepFool": lambda eps: DeepFool(steps=5),
    "DeepFool linf": lambda eps: DeepFool(steps=5, norm="linf"),
    "DDN": lambda eps: DDN(steps=5, init_eps=eps),
    "JSMA": lambda eps: JSMA(theta=3 * eps, gamma=1.0),
    "CarliniWagnerL2": lambda eps: CarliniWagnerL2(
        steps=20, binary_search_steps=2, initial_const=1.0
    ),
    "SigmaZero": lambda eps: SigmaZero(steps=10),
}
SIZES = [(np.float64, s) for s in (1e-300, 1e-160, 1e150, 1e250)]
SIZES += [(np.float32, s) for s in (1e-37, 1e-20, 1e20, 1e36)]


@pytest.mark.parametrize("name", SCALED)
def test_rows_of_any_size(name):
    """A model in other units is attacked as well, and lengths are right."""
    X, y = (part[:24] for part in attacked_rows())
    plain = model("linear")
    usual = SCALED[name](0.3).run(plain, X, y)
    for dtype, size in SIZES:
        moved = copy.deepcopy(plain)
        moved.coef_ = plain.coef_ / size
        rows, eps = (X * size).astype(dtype), 0.3 * size
        attack = SCALED[name](eps)
        for box in ((0.0, 1.000001 * size), None):
            if box is None and name in ("CarliniWagnerL2", "SigmaZero"):
                continue  # these step in units of X where there is no box
            result = attack.set_params(bounds=box).run(moved, rows, y)
            X_adv = result.X_adv
            assert X_adv.dtype == dtype and np.isfinite(X_adv).all()
            fooled = moved.predict(X_adv) != y
            np.testing.assert_array_equal(fooled, result.fooled)
            share = result.fooled.mean()
            assert share >= 0.8 * usual.fooled.mean() - 0.1, (dtype, size, box)
            if getattr(attack, "eps", None) is not None:
                check_ball(X_adv, rows, eps, attack.norm)
            if box is not None:
                assert (X_adv >= 0).all() and (X_adv <= dtype(box[1])).all()
            if attack.norm == "l2":
                delta = (X_adv.astype(np.float64) - rows) / size
                np.testing.assert_allclose(
                    result.distortion / size, true_lengths(delta), rtol=1e-6
                )


def test_a_theta_less_than_rounding_ends():
    X, y = (part[:5] for part in attacked_rows())
    rows = np.full(X.shape, 1e20) * (1 + X)
    net = copy.deepcopy(model("linear"))
    net.coef_ = net.coef_ / 1e20
    result = JSMA(theta=1.0, gamma=1.0, bounds=(0.0, 1e21)).run(net, rows, y)
    np.testing.assert_array_equal(result.fooled, net.predict(result.X_adv) != y)


def test_lengths():
    rng = np.random.default_rng(0)
    delta = rng.normal(size=(8, 5))
    for size in (1.0, 5e-324, 1e-310, 1e-200, 1e-160, 1e160, 1e300):
        scaled = delta * size
        expected = true_lengths(scaled)
        np.testing.assert_allclose(lengths(scaled, "l2"), expected, rtol=1e-15)
    usual = np.sqrt((delta**2).sum(axis=1))
    np.testing.assert_array_equal(lengths(delta, "l2"), usual)
    mixed = np.vstack([delta * 1e200, delta])  # a row does not hang on the others
    np.testing.assert_array_equal(lengths(mixed, "l2")[8:], usual)
    assert (lengths(np.zeros((2, 3)), "l2") == 0).all()
    for dtype, sizes in {torch.float32: (1e-30, 1e30), torch.float64: (1e200,)}.items():
        for size in sizes:
            rows = torch.tensor(delta * size, dtype=dtype)
            found = length(rows).numpy() / size
            np.testing.assert_allclose(found, usual, rtol=1e-5)


def grid_of_scores():
    """Scores from denormal to 1e30, some of them equal, of both signs."""
    rng = np.random.default_rng(0)
    rows = [rng.normal(size=(6, 5)) * size for size in 10.0 ** np.arange(-45, 31, 5)]
    rows += [np.zeros((1, 5)), np.full((1, 5), 1e30), np.full((1, 5), -1e30)]
    rows.append(np.array([[1e30, -1e30, 0, 1e-30, 1.0], [1e4, 1e4, 1e4, 0, 1e30]]))
    return torch.tensor(np.vstack(rows), dtype=torch.float32)


LOSSES = {
    "log-odds": lambda s, w, aim, columns: log_odds(s, w),
    "margin": lambda s, w, aim, columns: margin(s, w),
    **{
        f"APGD {name}": lambda s, w, aim, columns, name=name: loss_of(name, s, w, aim)
        for name in ("ce", "dlr", "dlr-t", "margin")
    },
    **{
        f"PGD {name} {targeted}": lambda s, w, aim, columns, n=name, t=targeted: (
            class_goal(n, torch.ones(5, dtype=torch.bool), targeted=t)(s, s, columns)[0]
        )
        for name in ("ce", "margin")
        for targeted in (False, True)
    },
    "PGD ce with a class that does not count": lambda s, w, aim, columns: class_goal(
        "ce", torch.arange(5) < 4, targeted=False
    )(s, s, columns)[0],
}


@pytest.mark.parametrize("name", LOSSES)
def test_losses_of_extreme_scores(name):
    scores = grid_of_scores()
    for column in range(4):
        columns = torch.full((len(scores),), column)
        wanted = torch.arange(5) != column
        wanted = wanted.expand(len(scores), 5)
        aim = (torch.arange(5) == (column + 1) % 4).expand(len(scores), 5)
        asked = scores.clone().requires_grad_()
        value = LOSSES[name](asked, wanted, aim, columns)
        (gradient,) = torch.autograd.grad(value.sum(), asked)
        assert not value.isnan().any() and not gradient.isnan().any()
        assert value.isfinite().all() and gradient.isfinite().all()
