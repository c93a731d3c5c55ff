"""Random changes: in the ball, and as the seed says."""

import numpy as np
import pytest
from sklearn.base import clone

from sk_advdef.attacks._noise import Noise
from tests.attacks.common import assert_within

EPS = {"linf": 0.5, "l2": 4.0}


@pytest.mark.parametrize("norm", EPS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_ball_box_and_success(norm, dtype, linear, digits, global_generators):
    X, y = digits.X.astype(dtype), digits.y
    noise = Noise(EPS[norm], norm=norm, random_state=0)
    result = noise.run(linear, X, y)
    assert result.X_adv.dtype == dtype
    assert_within(result.X_adv, X, EPS[norm], norm, (0, 1))
    answers = linear.predict(result.X_adv)
    np.testing.assert_array_equal(result.fooled, answers != y)
    right = linear.predict(X) == y
    assert (result.X_adv[right] != X[right]).any(axis=1).all()
    assert result.fooled[right].any() and not result.fooled.all()
    # predict at the door and after each draw, until one does
    assert (result.n_queries[~right] == 1).all()
    assert (result.n_queries[~result.fooled] == 6).all()
    early = result.n_queries[right & result.fooled]
    assert early.min() >= 2 and early.max() <= 6


def test_fills_the_ball(linear, digits):
    values = Noise(0.2, bounds=None, random_state=0).perturb(linear, digits.X)
    change = (values - digits.X).ravel()
    assert np.abs(change).max() > 0.199
    np.testing.assert_allclose(
        np.quantile(change, [0.25, 0.75]), [-0.1, 0.1], atol=0.01
    )


@pytest.mark.parametrize("norm", EPS)
def test_what_a_row_gets_hangs_on_no_other(norm, linear, digits):
    noise = Noise(EPS[norm], norm=norm, random_state=3)
    result = noise.run(linear, digits.X, digits.y)
    part = noise.run(linear, digits.X[:40], digits.y[:40])
    np.testing.assert_array_equal(part.X_adv, result.X_adv[:40])
    np.testing.assert_array_equal(part.n_queries, result.n_queries[:40])


def test_seeds(linear, digits):
    def draw(seed):
        return Noise(0.3, random_state=seed).perturb(linear, digits.X, digits.y)

    np.testing.assert_array_equal(draw(0), draw(0))
    assert (draw(0) != draw(1)).any() and (draw(None) != draw(None)).any()
    state = np.random.RandomState(0)
    assert (draw(state) != draw(state)).any()


def test_more_draws_find_more(linear, digits):
    noise = Noise(0.6, draws=1, random_state=0)
    one = noise.run(linear, digits.X, digits.y).fooled
    many = clone(noise).set_params(draws=20).run(linear, digits.X, digits.y).fooled
    assert (many | ~one).all() and many.sum() > one.sum()
    with pytest.raises(ValueError, match="'draws' parameter of Noise"):
        Noise(0.6, draws=0).run(linear, digits.X, digits.y)


def test_targeted(linear, digits):
    goal = (digits.y + 1) % 10
    result = Noise(1.0, targeted=True, bounds=None, random_state=0).run(
        linear, digits.X, goal
    )
    answers = linear.predict(result.X_adv)
    np.testing.assert_array_equal(result.fooled, answers == goal)
