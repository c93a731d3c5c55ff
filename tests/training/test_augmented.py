"""Adversarial training: what enters the loop, what comes out, and what is noticed."""

import pickle
from typing import ClassVar

import numpy as np
import pytest
import torch
from scipy.special import softmax
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeClassifier
from skorch import NeuralNetBinaryClassifier
from skorch.callbacks import Callback, EarlyStopping, EpochScoring, LRScheduler
from skorch.dataset import ValidSplit
from torch import nn

from sk_advdef import (
    FGSM,
    PGD,
    AdversariallyAugmentedClassifier,
    DeepFool,
    FeatureSpace,
    HopSkipJump,
    RandomSearch,
    Transfer,
    as_module,
)
from sk_advdef._torch._net import NetClassifier
from sk_advdef._torch._resume import hooked
from sk_advdef.attacks._base import Attack
from sk_advdef.nets import DropoutMLP
from sk_advdef.training import _watch
from tests._instances import make_rows, small_net
from tests._torch._cases import OneLogit, Probabilities, make_net

X, y = make_rows(n_samples=100)
codes = np.unique(y, return_inverse=True)[1]
MARK = 77.0
SEEN = []


class Spy(Attack):
    """Notes what it meets, and marks every row that it returns."""

    def __init__(self, eps=1e9, *, norm="linf", bounds=None, random_state=None):
        self.eps, self.norm, self.bounds = eps, norm, bounds
        self.random_state = random_state

    def rows_to_train_on(self, estimator, X, y):
        net = getattr(estimator, "net", None)
        weights = None
        if net is not None:
            module = net.module_
            weights = [w.detach().numpy().copy() for w in module.parameters()]
            with torch.no_grad():
                x = torch.tensor(X)
                scores = module.eval()(estimator.before(x)).numpy()
                scores = scores[:, : len(estimator.classes_)]
            module.train()
            found = as_module(estimator)(x).numpy()
            np.testing.assert_allclose(found, scores, rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(
                estimator.predict_proba(X), softmax(scores, axis=1), rtol=1e-4
            )
        SEEN.append((X, y, self.random_state, weights))
        return np.full_like(X, MARK)


class Recording(DropoutMLP):
    batches: ClassVar = []

    def forward(self, X):
        if self.training:
            self.batches.append(X.detach().clone())
        return super().forward(X)


@pytest.fixture(autouse=True)
def nothing_seen_yet():
    SEEN.clear()
    Recording.batches.clear()


def make(estimator, **params):
    given = {"attack": PGD(0.3, steps=3, bounds=None, random_state=0)}
    return AdversariallyAugmentedClassifier(
        estimator, **given | {"random_state": 0} | params
    )


@pytest.mark.parametrize("ratio, counts", [(0.25, [8, 8, 8, 1]), (1, [32, 32, 32, 4])])
# the marked rows are far away from all others
@pytest.mark.filterwarnings("ignore:Accuracy under attack fell")
def test_rows_in_the_loop_attack_the_weights_of_the_moment(ratio, counts):
    net = small_net(max_epochs=2)
    net.set_params(module=Recording)
    given = pickle.dumps(net)
    model = make(net, attack=Spy(), ratio=ratio).fit(X, y)
    assert pickle.dumps(net) == given
    assert [len(x) for x, *_ in SEEN] == counts * 2
    marked = [int((b == MARK).all(dim=1).sum()) for b in Recording.batches]
    assert marked == counts * 2
    assert [len(b) for b in Recording.batches] == [32, 32, 32, 4] * 2
    # rows come with their labels, and no two batches meet the same weights or seed
    label_of = {row.tobytes(): c for row, c in zip(X.astype("f4"), codes, strict=True)}
    for x, labels, *_ in SEEN:
        assert [label_of[row.tobytes()] for row in x] == labels.tolist()
    first = np.array([weights[0] for *_, weights in SEEN])
    assert (np.diff(first, axis=0) != 0).any(axis=(1, 2)).all()
    assert len({seed for *_, seed, _ in SEEN}) == len(SEEN)
    assert type(model.attack_) is type(model.attack)


class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.BatchNorm1d(6),
            nn.Linear(6, 16),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(16, 3),
        )

    def forward(self, X):
        return self.layers(X)


def test_what_is_watched_is_the_net_in_use():
    """Dropout is off, and BatchNorm learns from training alone."""
    net = make_net(Normed, max_epochs=4, batch_size=32)
    model = make(net, ratio=0.01).fit(X, y)
    assert model.history_[-1]["clean_accuracy"] == model.score(X, y)
    norm = model.estimator_.net_.module_.layers[0]
    assert norm.num_batches_tracked == 4 * 4


def test_history_and_callbacks_of_the_net():
    net = small_net(
        max_epochs=15,
        train_split=ValidSplit(4, stratified=True),
        callbacks=[
            EpochScoring("f1_macro", name="f1", lower_is_better=False),
            LRScheduler("StepLR", step_size=1, gamma=0.1),
            EarlyStopping("attacked_accuracy", patience=3, lower_is_better=False),
        ],
    )
    model = make(make_pipeline(StandardScaler(), net)).fit(X, y)
    assert 3 < len(model.history_) < 15
    wanted = {"train_loss", "valid_loss", "valid_acc", "f1", "event_lr", "dur"}
    for row in model.history_:
        assert wanted <= set(row) and "batches" not in row
        assert 0 <= row["attacked_accuracy"] <= row["clean_accuracy"] <= 1
    assert model.history_[3]["event_lr"] == pytest.approx(2e-5)
    assert pickle.loads(pickle.dumps(model)).history_ == model.history_


@pytest.mark.parametrize("optimizer, lr", [("SGD", 0.3), ("Adam", 0.02), ("LBFGS", 1)])
def test_optimizers(optimizer, lr):
    net = small_net(
        optimizer=getattr(torch.optim, optimizer), lr=lr, max_epochs=8, batch_size=64
    )
    assert make(net).fit(X, y).score(X, y) > 0.8


KINDS = {
    "probabilities": make_net(Probabilities, criterion=nn.NLLLoss, max_epochs=30),
    "one logit": make_net(OneLogit, NeuralNetBinaryClassifier, max_epochs=30),
    "a step before": make_pipeline(StandardScaler(), small_net(max_epochs=8)),
    "a linear step": make_pipeline(StandardScaler(), LogisticRegression()),
    "regression": LogisticRegression(max_iter=1000),
}


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_estimators(kind):
    labels = np.array(["no", "yes"])[codes % 2] if kind == "one logit" else y
    model = make(KINDS[kind]).fit(X, labels)
    assert model.score(X, labels) > 0.8
    np.testing.assert_array_equal(model.classes_, np.unique(labels))
    np.testing.assert_array_equal(model.genuine_classes_, model.classes_)
    view = as_module(model)(torch.tensor(X)).softmax(dim=1)
    np.testing.assert_allclose(view, model.predict_proba(X), atol=1e-5)


def test_eps_is_in_units_of_the_raw_input():
    """Where a step scales, rows are attacked before it."""
    wide = X * 1000
    net = make_pipeline(StandardScaler(), small_net(max_epochs=2))
    make(net, attack=Spy()).fit(wide, y)
    given = {row.tobytes() for row in wide}
    assert all(row.tobytes() in given for x, *_ in SEEN[:4] for row in x)


@pytest.mark.parametrize("estimator", [small_net(max_epochs=2), LogisticRegression()])
def test_the_attack_by_default(estimator):
    spread = X * [1, 2, 3, 4, 5, 0]
    model = make(estimator, attack=None).fit(spread, y)
    assert model.attack is None and isinstance(model.attack_, PGD)
    assert (model.attack_.steps, model.attack_.bounds) == (10, None)
    np.testing.assert_allclose(model.attack_.eps, 0.1 * np.ptp(spread, axis=0))


@pytest.mark.parametrize("estimator", [small_net(max_epochs=2), LogisticRegression()])
def test_the_attack_that_was_fitted_stays(estimator):
    generator = np.random.RandomState(0)
    before = generator.get_state()[2]
    attack = PGD(0.1, bounds=None, steps=2, random_state=generator)
    model = AdversariallyAugmentedClassifier(
        estimator, attack=[attack, FGSM(0.1, bounds=None)], rounds=1, random_state=0
    ).fit(X, y)
    model.attack[0].set_params(eps=0.7)
    assert [one.eps for one in model.attack_] == [0.1, 0.1]
    assert generator.get_state()[2] == before
    model.set_params(estimator=LinearSVC())
    assert hasattr(model, "predict_proba")


@pytest.mark.parametrize("switch", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("estimator", [small_net(max_epochs=2), LogisticRegression()])
def test_training_where_gradients_were_switched_off(estimator, switch):
    attack = PGD(0.1, bounds=None, steps=2, random_state=0)
    model = AdversariallyAugmentedClassifier(
        estimator, attack=attack, rounds=1, random_state=0
    )
    expected = model.fit(X, y).predict_proba(X)
    with switch():
        model.fit(X, y)
    np.testing.assert_array_equal(model.predict_proba(X), expected)


def test_rounds():
    forest = RandomForestClassifier(10, max_depth=4, random_state=0)
    model = make(forest, attack=None, rounds=2).fit(X, y)
    assert isinstance(model.attack_, RandomSearch)
    assert not hasattr(forest, "estimators_")
    assert [set(row) for row in model.history_] == [
        {"clean_accuracy", "attacked_accuracy"}
    ] * 2
    first = model.history_[0]
    assert first["attacked_accuracy"] < first["clean_accuracy"]
    assert model.score(X, y) > 0.9


def test_what_a_round_adds():
    class Counting(DecisionTreeClassifier):
        def fit(self, X, y):
            SIZES.append((len(X), int((X == MARK).all(axis=1).sum()), list(y)))
            return super().fit(X, y)

    SIZES = []
    make(Counting(), attack=Spy(), ratio=0.3, rounds=3).fit(X, y)
    assert [s[:2] for s in SIZES] == [(100, 0), (130, 30), (160, 60), (190, 90)]
    SIZES.clear()
    make(Counting(), attack=Spy(), ratio=0.3, rounds=1, adversarial_label="adv").fit(
        X, y
    )
    assert SIZES[1][2] == [*y, *["adv"] * 30]


@pytest.mark.parametrize("estimator", [small_net(lr=0.05), LogisticRegression()])
@pytest.mark.parametrize("labels, own", [(y, "adv"), (codes, 7), (codes, -1)])
def test_a_class_of_its_own(estimator, labels, own):
    attack = Spy()
    model = make(estimator, attack=attack, adversarial_label=own).fit(X, labels)
    np.testing.assert_array_equal(model.genuine_classes_, np.unique(labels))
    np.testing.assert_array_equal(model.classes_, np.unique([*labels, own]))
    proba = model.predict_proba(X)
    assert proba.shape == (len(X), 4)
    at = list(model.classes_).index(own)
    np.testing.assert_array_equal(model.adversarial_proba(X), proba[:, at])
    far = np.full((2, X.shape[1]), MARK)
    assert (model.predict(far) == own).all() and model.score(X, labels) > 0.8
    assert (model.adversarial_proba(far) > 0.9).all()
    assert set(np.unique(model.predict(X))) <= set(model.classes_)


@pytest.mark.parametrize("estimator", [small_net(lr=0.05), LogisticRegression()])
@pytest.mark.parametrize(
    "first, kind, own, wanted",
    [
        (2**60, np.uint64, -1, np.int64),
        (2**60, np.int64, -1.0, np.int64),
        (2**63, np.uint64, 5, np.uint64),
        (0, bool, 2, np.int64),
        (0, np.int8, 1000, np.int64),
    ],
)
def test_a_class_of_its_own_among_whole_numbers(estimator, first, kind, own, wanted):
    """Floats would make large labels the same."""
    labels = (codes % 2).astype(kind)
    if first:
        labels = labels + kind(first)
    model = make(estimator, attack=Spy(), adversarial_label=own).fit(X, labels)
    known = np.unique(labels).tolist()
    assert model.genuine_classes_.tolist() == known
    assert model.classes_.tolist() == sorted([*known, int(own)])
    answers = model.predict(X)
    assert model.classes_.dtype == answers.dtype == wanted
    assert (
        np.mean([a == b for a, b in zip(answers.tolist(), labels, strict=True)]) > 0.8
    )


def test_the_own_class_is_no_success():
    model = make(
        small_net(max_epochs=20), attack=PGD(2.0, bounds=None), adversarial_label="adv"
    ).fit(X, y)
    for attack in (
        PGD(2.0, bounds=None, random_state=0),
        RandomSearch(2.0, bounds=None, max_queries=50, random_state=0),
    ):
        result = attack.run(model, X, y)
        answers = model.predict(result.X_adv)
        np.testing.assert_array_equal(
            result.fooled, (answers != y) & (answers != "adv")
        )
        assert result.fooled.any()


def test_errors_of_the_own_class():
    for own, labels, message in [
        ("ham", y, "'ham' .* is among the labels.* Take one that is not"),
        (1, codes, "=1 .* is among the labels"),
        (9, y, "of another kind than the labels.* Take a string"),
        ("adv", codes, "of another kind than the labels.* Take a number"),
        (-1, codes.astype(np.uint64) + np.uint64(2**63), "is below 0.* Take one above"),
        (-1, codes.astype("M8[D]"), r"labels of datetime64\[D\]. Pass them as str"),
    ]:
        with pytest.raises(ValueError, match=message):
            make(LogisticRegression(), adversarial_label=own).fit(X, labels)
    for estimator in (LogisticRegression(), small_net()):
        with pytest.raises(ValueError, match="only one class is present: 'ham'"):
            make(estimator, adversarial_label="adv").fit(X[:5], ["ham"] * 5)
    with pytest.raises(ValueError, match="DropoutMLP returns 3 columns for 4 classes"):
        make(small_net(module__n_classes=3), adversarial_label="adv").fit(X, y)
    plain = make(LogisticRegression()).fit(X, y)
    assert not hasattr(plain, "adversarial_proba")
    with pytest.raises(AttributeError) as caught:
        plain.adversarial_proba(X)
    assert "set adversarial_label" in str(caught.value.__cause__)


def test_collapse_is_noticed():
    """A learning rate that runs away breaks what was learned."""
    net = small_net(
        optimizer=torch.optim.SGD,
        lr=0.3,
        max_epochs=10,
        callbacks=[LRScheduler("LambdaLR", lr_lambda=lambda e: 1 if e < 8 else 1e2)],
    )
    with pytest.warns(UserWarning, match=r"fell from .*\(catastrophic.*see history_"):
        model = make(net).fit(X, y)
    attacked = [row["attacked_accuracy"] for row in model.history_]
    assert max(attacked) > attacked[-1] + 0.2


@pytest.mark.parametrize("early_stopping", [False, True])
def test_a_net_that_holds_single_steps_alone_is_noticed(early_stopping, monkeypatch):
    """It never held more, so that nothing fell: here the single step is a short one."""
    short = FGSM(1e-6, bounds=None)
    net = small_net(optimizer=torch.optim.Adam, lr=0.01, max_epochs=10)
    params = {"attack": PGD(5.0, bounds=None), "method": "fast", "random_state": 0}
    params |= {"early_stopping": early_stopping, "eps_warmup": 10_000}
    params |= {"validation_fraction": 0.4}
    AdversariallyAugmentedClassifier(net, **params).fit(X, y)
    monkeypatch.setattr(_watch, "single_step", lambda attack: short)
    told = r"is \d+%, and \d\d%.* under a single step of it \(catastrophic"
    with pytest.warns(UserWarning, match=told):
        AdversariallyAugmentedClassifier(net, **params).fit(X, y)


def test_chance_is_no_collapse():
    rng = np.random.default_rng(0)
    rows, labels = rng.normal(size=(20, 4)), np.arange(20) % 2
    for own in (None, 9):
        make(small_net(max_epochs=6), adversarial_label=own).fit(rows, labels)


@pytest.mark.parametrize("estimator", [small_net(max_epochs=2), LogisticRegression()])
def test_progress(estimator, capfd):
    make(estimator).fit(X, y)
    assert capfd.readouterr() == ("", "")
    make(estimator, verbose=1, rounds=2).fit(X, y)
    out, err = capfd.readouterr()
    word = "rounds" if isinstance(estimator, LogisticRegression) else "epochs"
    assert not out and word in err and "2/2" in err


class Interrupting(Callback):
    def __init__(self, error):
        self.error = error

    def on_epoch_end(self, net, **kwargs):
        NETS.append(net)
        if len(net.history) == 2:
            raise self.error


NETS = []


def test_nothing_stays_on_an_interrupted_net():
    hooks = {"infer", "train_step", "on_epoch_end", "get_loss"}
    net = small_net(callbacks=[Interrupting(KeyboardInterrupt)])
    model = make(net).fit(X, y)  # skorch takes it for the end of training
    assert len(model.history_) == 2
    assert model.predict(X).shape == y.shape
    assert not hooks & set(vars(NETS[-1]))
    net = small_net(callbacks=[Interrupting(ZeroDivisionError)])
    with pytest.raises(ZeroDivisionError):
        make(net).fit(X, y)
    assert not hooks & set(vars(NETS[-1]))
    bare = small_net()
    with pytest.raises(KeyboardInterrupt), hooked(bare, infer=lambda f, *a: f(*a)):
        assert "infer" in vars(bare)
        raise KeyboardInterrupt
    assert "infer" not in vars(bare)


def test_it_is_harder_to_fool():
    attack = PGD(0.6, steps=5, bounds=None, random_state=0)
    net = small_net(max_epochs=30, module__dropout=0.0)
    plain = NetClassifier(net, random_state=0).fit(X, y)
    trained = make(net, attack=attack, ratio=1).fit(X, y)
    strong = PGD(0.6, loss="margin", bounds=None, restarts=2, random_state=0)
    held = [1 - strong.run(m, X, y).fooled.mean() for m in (plain, trained)]
    assert held[1] > held[0] and trained.score(X, y) > 0.85


def test_epochs_of_the_warm_up_neither_stop_training_nor_are_kept():
    params = {"early_stopping": True, "n_iter_no_change": 1, "eps_warmup": 5}
    trained = make(small_net(max_epochs=7), attack=PGD(0.2, bounds=None), **params)
    parts = [row["eps_part"] for row in trained.fit(X, y).history_]
    np.testing.assert_allclose(parts[:6], [0.2, 0.4, 0.6, 0.8, 1.0, 1.0])
    # one that never comes to the whole radius ends as it is
    short = make(small_net(max_epochs=3), attack=PGD(0.2, bounds=None), **params)
    assert len(short.fit(X, y).history_) == 3
    assert short.score(X, y) > 0.4


class Flipping(DropoutMLP):
    """Answers by a plain value that is no weight."""

    sign = 1.0
    signs = None

    def __init__(self, **params):
        super().__init__(**params)
        self.signs = [1.0]

    def forward(self, X):
        return super().forward(X) * self.sign * self.signs[0]


class Flips(Callback):
    def __init__(self, plain):
        self.plain = plain

    def on_epoch_begin(self, net, **kwargs):
        sign = 1.0 if len(net.history) > 2 else -1.0
        if self.plain:
            net.module_.sign = sign
        else:
            net.module_.signs[0] = sign


@pytest.mark.filterwarnings("ignore:Accuracy under attack fell")
@pytest.mark.parametrize("plain", [True, False])
def test_what_is_watched_is_the_net_as_it_is(plain):
    """Also where a schedule changes what is no weight."""
    net = small_net(module__dropout=0.0, max_epochs=4, callbacks=[Flips(plain)])
    net = net.set_params(module=Flipping)
    model = make(net, attack=PGD(0.0, bounds=None)).fit(X, y)
    module = model.estimator_.net_.module_
    answers = module(torch.tensor(X, dtype=torch.float32)).argmax(dim=1).numpy()
    wanted = (answers == codes).mean()
    assert model.history_[-1]["clean_accuracy"] == pytest.approx(wanted)


@pytest.mark.parametrize(
    "attack",
    [HopSkipJump(max_queries=20, bounds=None), Transfer(DeepFool(bounds=None))],
)
def test_attacks_without_a_radius_watch_by_themselves(attack):
    attack = attack.set_params(random_state=None)
    model = make(small_net(max_epochs=1), attack=attack, ratio=0.1).fit(X[:40], y[:40])
    assert 0 <= model.history_[0]["attacked_accuracy"] <= 1
    for params in ({"eps_warmup": 2}, {"early_stopping": True}):
        with pytest.raises(ValueError, match="has no eps"):
            make(small_net(), attack=attack, **params).fit(X, y)


class Keeping(DropoutMLP):
    """Keeps what went through it."""

    def forward(self, X):
        self.kept = (X.detach(), [1.0])
        self.count = getattr(self, "count", 0) + 1
        return super().forward(X)


def test_modules_may_keep_tensors():
    net = small_net(max_epochs=2).set_params(module=Keeping)
    assert make(net, attack=PGD(0.1, bounds=None)).fit(X, y).score(X, y) > 0.3


@pytest.mark.parametrize("method", ["pgd", "fast", "free", "trades", "ccat"])
@pytest.mark.parametrize("searched", [False, True])
def test_rows_far_from_zero_keep_what_tells_them_apart(method, searched):
    """As times in seconds, of which float32 knows every two minutes."""
    far = np.random.default_rng(0).normal(size=(120, 2)) * 6
    labels = far[:, 0] > 0
    far = 1.7e9 + far + 20 * np.c_[2.0 * labels - 1, 0 * labels]
    attack = PGD(1.0, steps=2, bounds=None)
    if searched:
        space = FeatureSpace.from_data(far, eps=0.05)
        attack = PGD(None, steps=2, space=space)
    net = make_pipeline(StandardScaler(), small_net(module__n_classes=2, max_epochs=4))
    model = make(net, attack=attack, method=method, steps=2).fit(far, labels)
    assert model.score(far, labels) > 0.95
    if method != "ccat":  # where rows in doubt count as flagged
        assert model.history_[-1]["clean_accuracy"] > 0.9
