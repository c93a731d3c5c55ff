"""Ways past a detector, and ways to be rejected."""

import warnings

import numpy as np
import pytest
import torch
from sklearn.base import OutlierMixin, clone
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from sk_advdef import (
    PGD,
    AdversariallyAugmentedClassifier,
    DropoutUncertaintyDetector,
    RandomSearch,
    RejectingClassifier,
    as_module,
    as_score_module,
)
from sk_advdef._torch._models import rejection_of
from sk_advdef._torch._net import NetClassifier
from sk_advdef._torch._registry import has_view
from sk_advdef.attacks import _accepted
from sk_advdef.attacks._accepted import (
    LEAD,
    MODES,
    AcceptedGoal,
    RejectedGoal,
    nearest_of_wrong_class,
)
from sk_advdef.attacks._base import Problem
from sk_advdef.attacks._gradient import climb_direction
from tests._instances import make_rows, small_net

X, y = make_rows(n_samples=260)
rows, labels = X[200:], y[200:]


def rejecting(Z, **params):
    """Return a net with dropout behind a detector, on rows as they are given."""
    net = NetClassifier(small_net(max_epochs=25), random_state=0).fit(Z[:100], y[:100])
    given = {"n_passes": 8, "contamination": 0.2, "random_state": 0}
    detector = DropoutUncertaintyDetector(FrozenEstimator(net), **given | params)
    return RejectingClassifier(FrozenEstimator(net), detector).fit(Z[100:200])


@pytest.fixture(scope="session")
def guarded():
    return rejecting(X)


@pytest.fixture(scope="session")
def behind_steps():
    """Rows of any scale, brought to their own by a step before."""
    scale = np.geomspace(0.01, 100, X.shape[1])
    scaler = StandardScaler().fit(X * scale)
    model = rejecting(scaler.transform(X * scale))
    inner = make_pipeline("passthrough", model)
    return scale, make_pipeline(scaler, FrozenEstimator(inner)), model


@pytest.fixture(scope="session")
def with_class():
    """A net with a class of its own for attacked rows."""
    attack = PGD(1.0, steps=5, bounds=None, random_state=0)
    net = small_net(max_epochs=30)
    model = AdversariallyAugmentedClassifier(
        net, attack=attack, adversarial_label="adversarial", random_state=0
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return model.fit(X[:200], y[:200])


# --- the four ways


WIDE = PGD(0.2, random_state=0)


@pytest.fixture(scope="session")
def reader(digits):
    """Reads digits, and rejects what its dropout is unsure of."""
    net = small_net(module__n_classes=10, module__hidden=(40,), max_epochs=12)
    Z = digits.X_fit.astype(np.float32)
    net = NetClassifier(net, random_state=0).fit(Z[:800], digits.y_fit[:800])
    detector = DropoutUncertaintyDetector(
        FrozenEstimator(net), n_passes=15, contamination=0.1, random_state=0
    )
    return RejectingClassifier(FrozenEstimator(net), detector).fit(Z[800:])


@pytest.fixture(scope="session")
def alone(reader, digits):
    """What each way finds by itself."""
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        for mode in MODES:
            patch.setattr(_accepted, "MODES", (mode,))
            found[mode] = WIDE.run(reader, digits.X.astype(np.float32), digits.y)
    return found


@pytest.mark.parametrize("mode", MODES)
def test_each_way_finds_rows(mode, alone, reader, digits):
    result = alone[mode]
    answers = reader.predict(result.X_adv)
    taken = (answers != digits.y) & (answers != -1)
    np.testing.assert_array_equal(result.fooled, taken)
    assert taken.mean() > 0.5
    assert result.distortion.max() <= 0.2


def test_all_ways_find_what_any_finds(alone, reader, digits):
    result = WIDE.run(reader, digits.X.astype(np.float32), digits.y)
    for found in alone.values():
        # later ways meet fewer rows at a time, which rounds otherwise
        assert np.mean(result.fooled | ~found.fooled) >= 0.98
    assert result.fooled.mean() >= max(f.fooled.mean() for f in alone.values())


class Sum(nn.Module):
    """Suspects rows with a large sum."""

    def forward(self, x):
        return x.flatten(1).sum(dim=1)


class Looking(Sum):
    def features(self, x):
        return 2 * x.flatten(1)


def first_column(x, scores, columns):
    return 10 * scores[:, 0], scores[:, 0]


def accepted_goal(mode, suspicion=None, offset=-1.0, scale=2.0):
    return AcceptedGoal(mode, first_column, suspicion or Sum(), offset, scale)


def test_rank():
    x = torch.tensor([[0.0], [0.9], [1.1], [5.0], [-9.0]])
    columns = torch.zeros(5, dtype=torch.int64)
    ahead = torch.tensor([[1.0], [0.1], [3.0], [0.2], [2.0]])
    _, rank = accepted_goal("sum")(x, ahead, columns)
    # all are wrong: success is a sum of at most 1, the smaller the better
    np.testing.assert_array_equal(rank > 0, [True, True, False, False, True])
    assert rank.argsort(descending=True).tolist() == [4, 0, 1, 2, 3]
    _, right = accepted_goal("sum")(x, -ahead, columns)
    assert right.max() < rank.min() and right.argmax() == 1
    for way in MODES[:3]:
        goal = accepted_goal(way, offset=-torch.inf)  # nothing is flagged
        _, free = goal(x, ahead, columns)
        assert (free > 0).all() and (goal(x, -ahead, columns)[1] < 0).all()


def test_what_is_climbed():
    x = torch.tensor([[0.5, 0.5], [3.0, 3.0], [1.0, -2.0]])
    columns = torch.zeros(3, dtype=torch.int64)
    scores = torch.tensor([[-1.0], [2.0], [LEAD / 2]])
    accepted = (1 - x.sum(1)) / 2
    now = [-10.0, accepted[1], 10 * LEAD / 2]
    np.testing.assert_allclose(accepted_goal("selective")(x, scores, columns)[0], now)
    first, second = accepted_goal("orthogonal")(x, scores, columns)[0]
    np.testing.assert_allclose(first, now)
    np.testing.assert_allclose(second, [accepted[0], 2.0, accepted[2]])
    both, _ = accepted_goal("sum")(x, scores, columns)
    # margins and acceptance count up to twice the lead, suspicion by its logarithm
    np.testing.assert_allclose(both, [-1.0, 1 - np.log(3.5), LEAD / 2 + 1], 1e-6)
    aims = x.flip(0)
    for suspicion, look in ((Sum(), scores), (Looking(), 2 * x)):
        goal = accepted_goal("matching", suspicion).bound(lambda a: scores + 1, aims)
        value, _ = goal(x, scores, columns)
        aim = scores + 1 if suspicion.__class__ is Sum else 2 * aims
        np.testing.assert_allclose(value, -((look - aim) ** 2).mean(1))
    assert accepted_goal("sum").bound(None, aims).aims is None


def test_be_rejected():
    x = torch.tensor([[0.0], [1.0], [4.0]])
    value, rank = RejectedGoal(Sum(), -1.0, 2.0)(x, x, torch.zeros(3))
    np.testing.assert_allclose(value, [-0.5, 0, 1.5])
    assert rank[0] < 0 == rank[1] < rank[2] < 1


@pytest.mark.parametrize("shape", [(7, 5), (4, 3, 2)])
def test_climb_direction(shape):
    rng = np.random.default_rng(0)
    x, a, b = (torch.tensor(rng.normal(size=shape)) for _ in range(3))
    x.requires_grad_()

    def values():
        first, second = (x * a).sin() * a, (x - b) ** 2
        return first.flatten(1).sum(1), second.flatten(1).sum(1)

    first, second = (torch.autograd.grad(v.sum(), x)[0] for v in values())
    np.testing.assert_allclose(climb_direction(values()[0], x), first)
    found = climb_direction(values(), x)
    dot = (found * second).flatten(1).sum(1)
    np.testing.assert_allclose(dot, 0, atol=1e-12)
    # what was taken away is along the second alone
    taken, along = (v.flatten(1) for v in (first - found, second))
    cosine = (taken * along).sum(1) / (taken.norm(dim=1) * along.norm(dim=1))
    np.testing.assert_allclose(cosine.abs(), 1)
    flat = (values()[0], 0 * values()[1])
    np.testing.assert_allclose(climb_direction(flat, x), first)


# --- rows to resemble


@pytest.mark.parametrize("same", [False, True])
@pytest.mark.parametrize("shape", [(40, 3), (40, 2, 2)])
def test_nearest_of_wrong_class(same, shape):
    rng = np.random.default_rng(0)
    values = rng.normal(size=shape)
    truth, answers = rng.integers(3, size=(2, 40))
    usable = (rng.random(40) < 0.5) & (answers != 2)
    found = nearest_of_wrong_class(values, answers, truth, usable, same=same)
    for i, at in enumerate(found):
        fits = usable & ((answers == truth[i]) == same)
        far = ((values - values[i]) ** 2).reshape(40, -1).sum(1)
        assert at == (np.where(fits, far, np.inf).argmin() if fits.any() else i)
    none = nearest_of_wrong_class(values, answers, truth, np.zeros(40, bool))
    np.testing.assert_array_equal(none, np.arange(40))


@pytest.mark.parametrize("targeted", [False, True])
def test_rows_to_resemble(targeted, guarded):
    goal = np.roll(labels, 1) if targeted else labels
    attack = PGD(1.0, bounds=None, targeted=targeted)
    found = Problem(attack, guarded, rows, goal).rows_to_resemble()
    answers = guarded.predict(rows)
    assert "rejected" in answers
    for i, at in enumerate(found):
        fits = (answers != "rejected") & ((answers == goal[i]) == targeted)
        far = ((rows - rows[i]) ** 2).sum(1)
        assert at == np.where(fits, far, np.inf).argmin()


# --- the attack on availability


def pushing(eps, kind=PGD):
    spend = {"steps": 20} if kind is PGD else {"max_queries": 60}
    return kind(eps, bounds=None, goal="reject", random_state=0, **spend)


@pytest.mark.parametrize("kind", [PGD, RandomSearch])
@pytest.mark.parametrize("victim", ["guarded", "with_class"])
def test_push_into_rejection(victim, kind, request):
    model = request.getfixturevalue(victim)
    shares = []
    for eps in (0.0, 0.3, 1.0, 2.0):
        result = pushing(eps, kind).run(model, rows, labels)
        rejected = ~np.isin(model.predict(result.X_adv), np.unique(y))
        np.testing.assert_array_equal(result.fooled, rejected)
        assert (np.abs(result.X_adv - rows) <= eps).all()
        shares.append(rejected.mean())
    assert shares == sorted(shares) and shares[-1] > shares[0] + 0.2
    clean = ~np.isin(model.predict(rows), np.unique(y))
    assert shares[0] == clean.mean()


@pytest.mark.parametrize("kind", [PGD, RandomSearch])
def test_says_that_nothing_rejects(kind, guarded):
    plain = LogisticRegression().fit(X, y)
    message = 'goal="reject" of .* needs an estimator that rejects or has an adv'
    with pytest.raises(ValueError, match=message):
        pushing(1.0, kind).run(plain, rows, labels)
    with pytest.raises(ValueError, match="no target"):
        pushing(1.0, kind).set_params(targeted=True).run(guarded, rows, labels)
    with pytest.raises(ValueError, match="'goal' parameter"):
        pushing(1.0, kind).set_params(goal="win").run(guarded, rows, labels)


def test_a_detector_that_flags_nothing_rejects_nothing():
    with pytest.warns(UserWarning, match="nothing will be flagged"):
        model = rejecting(X, contamination=0.001)
    for kind in (PGD, RandomSearch):
        result = pushing(1.0, kind).run(model, rows, labels)
        assert not result.fooled.any()
        assert (result.distortion <= 1.0).all()


def test_fresh_masks(global_generators):
    model = rejecting(X, masks="fresh")
    for attack in (PGD(3.0, steps=10, bounds=None, random_state=0), pushing(3.0)):
        result = attack.run(model, rows, labels)
        assert result.fooled.mean() > 0.3
        assert result.distortion.max() <= 3.0


# --- behind the steps of a Pipeline


def test_the_detector_behind_steps(behind_steps):
    scale, pipe, inner = behind_steps
    model, detector = rejection_of(pipe)
    Z = pipe[0].transform(rows * scale)
    assert isinstance(model, Pipeline) and rejection_of(FrozenEstimator(inner))
    np.testing.assert_array_equal(
        model.predict(rows * scale), inner.estimator_.predict(Z)
    )
    for name in ("score_samples", "decision_function", "predict"):
        np.testing.assert_array_equal(
            getattr(detector, name)(rows * scale), getattr(inner.detector_, name)(Z)
        )
    assert detector.offset_ == inner.detector_.offset_
    assert detector.scale_ == inner.detector_.scale_
    view, own = as_score_module(detector), as_score_module(inner.detector_)
    raw, scaled = torch.tensor(rows * scale), torch.tensor(Z)
    np.testing.assert_allclose(view(raw), own(scaled), rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(view.features(raw), own.features(scaled), rtol=1e-4)


@pytest.mark.parametrize("kind", [PGD, RandomSearch])
@pytest.mark.parametrize("goal", ["fool", "reject"])
def test_steps_before_do_not_hide(goal, kind, behind_steps):
    scale, pipe, inner = behind_steps
    attack = pushing(1.0, kind).set_params(goal=goal)
    Z = pipe[0].transform(rows * scale)
    plain = attack.run(inner, Z, labels)
    attack.set_params(eps=pipe[0].scale_)
    result = attack.run(pipe, rows * scale, labels)
    assert abs(result.fooled.mean() - plain.fooled.mean()) < 0.07
    assert plain.fooled.mean() > 0.2


class NoGradient(OutlierMixin):
    """A detector that no gradient leads past: flags rows with a large first value."""

    offset_, scale_ = -1.0, 1.0

    def score_samples(self, X):
        return -np.asarray(X)[:, 0]

    def decision_function(self, X):
        return self.score_samples(X) - self.offset_

    def predict(self, X):
        return np.where(self.decision_function(X) >= 0, 1, -1)


def test_a_detector_without_gradient(guarded):
    net = guarded.estimator_
    model = RejectingClassifier(net, FrozenEstimator(NoGradient())).fit(X)
    assert has_view(guarded) and has_view(net) and not has_view(model)
    with pytest.raises(TypeError, match=r"NoGradient.* has no differentiable view"):
        as_module(model)
    result = RandomSearch(3.0, max_queries=60, bounds=None, random_state=0).run(
        model, rows, labels
    )
    assert result.fooled.mean() > 0.5 and (result.X_adv[result.fooled, 0] <= 1).all()


def test_through_fresh_masks(reader, digits):
    """One who does not know the sub-networks lowers what others find suspicious."""
    Z = digits.X.astype(np.float32)
    attack = clone(WIDE).set_params(masks="fresh", loss="margin", steps=15)
    result = attack.run(reader, Z, digits.y)
    answers = reader.predict(result.X_adv)
    taken = (answers != digits.y) & (answers != -1)
    np.testing.assert_array_equal(result.fooled, taken)
    assert taken.mean() > 0.5
    again = attack.run(reader, Z, digits.y)
    np.testing.assert_array_equal(again.X_adv, result.X_adv)
    own = clone(attack).set_params(masks="own").run(reader, Z, digits.y)
    assert (own.X_adv != result.X_adv).any()
    with pytest.raises(ValueError, match="'masks' parameter of PGD"):
        clone(attack).set_params(masks="none").run(reader, Z, digits.y)
