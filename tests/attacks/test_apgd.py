"""Auto-PGD: its losses, and its strength beside the reference."""

import warnings

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression

from sk_advdef import (
    APGD,
    PGD,
    DropoutUncertaintyDetector,
    RejectingClassifier,
    as_module,
)
from sk_advdef.attacks._apgd_steps import aim_at, checkpoints, loss_of
from tests.attacks.common import assert_within
from tests.attacks.test_strength import Loud, Single, twin

SCORES = torch.tensor([[3.0, 1.0, 0.5, -1.0], [0.0, 2.0, 4.0, 1.0]])
LABELS = torch.tensor([0, 1])
WANTED = torch.arange(4) != LABELS[:, None]


def test_losses_by_hand():
    assert loss_of("margin", SCORES, WANTED, WANTED).tolist() == [-2, 2]
    dlr = loss_of("dlr", SCORES, WANTED, WANTED)
    np.testing.assert_allclose(dlr, [-2 / 2.5, 2 / 3])
    aim = torch.arange(4) == torch.tensor([[2], [0]])
    dlr_t = loss_of("dlr-t", SCORES, WANTED, aim)
    np.testing.assert_allclose(dlr_t, [-2.5 / 3.25, -2 / 3.5])
    three = SCORES[:, :3], WANTED[:, :3], aim[:, :3]
    np.testing.assert_allclose(loss_of("dlr-t", *three), [-2.5 / 2.5, -2 / 4])
    two = SCORES[:, :2], WANTED[:, :2], WANTED[:, :2]
    for loss in ("dlr", "dlr-t"):
        assert loss_of(loss, *two).tolist() == [-2, -2]
    torch.testing.assert_close(
        -torch.nn.functional.softplus(-loss_of("ce", SCORES, WANTED, WANTED)),
        torch.log1p(-SCORES.softmax(dim=1)[[0, 1], LABELS]),
    )


def test_aims():
    places = [aim_at(SCORES, WANTED, k).int().argmax(dim=1).tolist() for k in range(4)]
    assert places == [[1, 2], [2, 3], [3, 0], [1, 2]]


def test_checkpoints_of_the_paper():
    assert checkpoints(100) == [0, 22, 41, 57, 70, 80, 87, 93, 99]
    assert checkpoints(1) == [0, 1]


@pytest.fixture(params=["mlp", "cnn", "linear"])
def victim(request, digits):
    model = request.getfixturevalue(request.param)
    X = digits.X.astype(np.float32)[:60]
    if request.param == "cnn":
        X = X.reshape(-1, 8, 8)
    return model, X, digits.y[:60]


@pytest.mark.parametrize("norm, eps", [("linf", 0.09), ("l2", 0.5)])
@pytest.mark.parametrize("loss", ["ce", "dlr", "dlr-t"])
def test_reaches_the_reference(loss, norm, eps, victim):
    base = pytest.importorskip("pyautoattack.autopgd_base")
    model, X, y = victim
    params = {
        "n_iter": 40,
        "norm": {"linf": "Linf", "l2": "L2"}[norm],
        "eps": eps,
        "device": "cpu",
        "seed": 0,
    }
    view = Single(as_module(model))
    if loss == "dlr-t":
        other = base.APGDAttack_targeted(view, n_target_classes=4, **params)
    else:
        other = base.APGDAttack(view, loss=loss, **params)
    with warnings.catch_warnings(), torch.random.fork_rng():
        warnings.simplefilter("ignore")
        theirs = other.perturb(torch.tensor(X), torch.tensor(y)).detach().numpy()
    theirs = np.mean(model.predict(theirs) != y)
    attack = APGD(
        eps, steps=40, norm=norm, loss=loss, n_target_classes=4, random_state=0
    )
    ours = attack.run(model, X, y).fooled.mean()
    assert 0.1 < theirs < 1
    # other random starts: a row at the border of the ball falls to one or the other
    assert ours >= theirs - 1.01 / len(X)


@pytest.mark.parametrize("norm, eps", [("linf", 0.1), ("l2", 0.6)])
def test_at_least_as_strong_as_pgd(norm, eps, mlp, digits):
    X, y = digits.X.astype(np.float32), digits.y
    pgd = PGD(eps, norm=norm, steps=40, random_state=0).run(mlp, X, y).fooled
    ce, aimed = (
        APGD(eps, norm=norm, steps=40, loss=loss, random_state=0).run(mlp, X, y).fooled
        for loss in ("ce", "dlr-t")
    )
    assert ce.mean() >= pgd.mean() - 0.02
    assert aimed.mean() >= max(pgd.mean(), ce.mean() - 0.01)


@pytest.mark.parametrize("norm, eps", [("linf", 0.1), ("l2", 0.6)])
def test_closed_form(norm, eps, linear, digits):
    """All rows fall that can, when every class is aimed at."""
    X, y = digits.all[0][1300:1500], digits.all[1][1300:1500]
    scores, rows = linear.decision_function(X), np.arange(len(X))
    gap = scores[rows, y][:, None] - scores
    pairs = linear.coef_[y][:, None] - linear.coef_[None]
    reach = eps * np.linalg.norm(pairs, {"linf": 1, "l2": 2}[norm], axis=2)
    ahead = reach - gap
    ahead[rows, y] = -np.inf
    ahead = ahead.max(axis=1)
    attack = APGD(eps, norm=norm, loss="dlr-t", steps=30, bounds=None, random_state=0)
    fooled = attack.run(linear, X, y).fooled
    assert not (fooled & (ahead < 0)).any()
    assert fooled[ahead > 0.05].all() and (ahead > 0.05).mean() > 0.2


def test_loss_does_not_see_the_scale(mlp, digits):
    X, y = digits.X.astype(np.float32), digits.y
    loud = twin(mlp, Loud, digits)
    for loss in ("ce", "dlr", "margin"):
        attack = APGD(0.1, loss=loss, steps=20, random_state=0)
        there, here = attack.run(loud, X, y), attack.run(mlp, X, y)
        assert there.fooled.mean() >= here.fooled.mean() - (0.06 if loss == "ce" else 0)


@pytest.mark.parametrize("loss", ["ce", "dlr", "dlr-t", "margin"])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_few_classes(n_classes, loss, digits):
    some = digits.y_fit < n_classes
    model = LogisticRegression(C=0.1).fit(digits.X_fit[some], digits.y_fit[some])
    X, y = digits.X[digits.y < n_classes], digits.y[digits.y < n_classes]
    for targeted in (False, True):
        attack = APGD(0.4, loss=loss, steps=20, targeted=targeted, random_state=0)
        result = attack.run(model, X, (y + 1) % n_classes if targeted else y)
        assert result.fooled.mean() > 0.9
        assert_within(result.X_adv, X, 0.4, "linf", (0, 1))


def test_rows_to_train_on(mlp, digits):
    """Rows that are wrong already are attacked too, and none leaves early."""
    X, y = digits.X.astype(np.float32), digits.y
    attack = APGD(0.1, steps=10, random_state=0)
    trained_on = attack.rows_to_train_on(mlp, X, y)
    assert_within(trained_on, X, 0.1, "linf", (0, 1))
    assert (trained_on != X).any(axis=1).all()
    proba = mlp.predict_proba(trained_on)[np.arange(100), y]
    early = mlp.predict_proba(attack.perturb(mlp, X, y))[np.arange(100), y]
    assert proba.mean() < early.mean()


def test_wrong_and_accepted(mlp, digits):
    model = FrozenEstimator(mlp)
    X_cal, y_cal = digits.X_fit[900:].astype(np.float32), digits.y_fit[900:]
    detector = DropoutUncertaintyDetector(
        model,
        n_passes=10,
        statistic="predictive_entropy",
        contamination=0.1,
        random_state=0,
    )
    rejecting = RejectingClassifier(model, detector.fit(X_cal, y_cal))
    rejecting.fit(X_cal, y_cal)
    X, y = digits.X.astype(np.float32)[:50], digits.y[:50]
    attack = APGD(0.2, steps=40, random_state=0)
    result = attack.run(rejecting, X, y)
    answers = rejecting.predict(result.X_adv)
    np.testing.assert_array_equal(
        result.fooled, (answers != y) & (answers != rejecting.reject_label_)
    )
    unaware = rejecting.predict(attack.perturb(model, X, y))
    unaware = (unaware != y) & (unaware != rejecting.reject_label_)
    assert result.fooled.mean() > unaware.mean() + 0.2
    away = clone(attack).set_params(goal="reject").run(rejecting, X, y)
    rejected = rejecting.predict(away.X_adv) == rejecting.reject_label_
    np.testing.assert_array_equal(away.fooled, rejected)
    assert rejected.mean() > 0.9


@pytest.mark.parametrize(
    "name, value", [("rho", 0), ("rho", 1.5), ("n_target_classes", 0), ("goal", "x")]
)
def test_bad_parameter(name, value, linear, digits):
    with pytest.raises(ValueError, match=f"'{name}' parameter of APGD"):
        APGD(**{"eps": 0.1, name: value}).run(linear, digits.X, digits.y)
