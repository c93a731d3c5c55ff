"""Adversarial training, with true labels or with a class of its own."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.utils import _safe_indexing
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted
from tqdm import tqdm

from sk_advdef._torch._models import is_net, last_step
from sk_advdef._torch._registry import has_view
from sk_advdef._validation import check_number, check_option, invalid, seed_from
from sk_advdef.attacks._base import Attack, Table
from sk_advdef.attacks._pgd import PGD
from sk_advdef.attacks._random_search import RandomSearch
from sk_advdef.training._base import TrainingClassifier, fit_net, stacked

METHODS = ("pgd",)

#: Rows of the training set on which the accuracy under attack is watched.
WATCHED_ROWS = 256

#: Fall of the watched accuracy below its best that is called a collapse, and the same
#: in standard deviations, lest a few rows raise the alarm.
COLLAPSE = 0.2
COLLAPSE_DEVIATIONS = 3.0


def _has_own_class(estimator: Any) -> bool:
    if estimator.adversarial_label is None:
        raise AttributeError(
            "adversarial_proba needs a class for adversarial input: set "
            "adversarial_label."
        )
    return True


class AdversariallyAugmentedClassifier(TrainingClassifier):
    """Adversarial training: learn on rows that are attacked while one learns.

    A net meets, in each batch, rows that ``attack`` makes against its current weights.
    Any other classifier is fitted in rounds: on the rows, then again with rows attacked
    in each round before. Attacked rows keep their label, or get a class of their own.

    Parameters
    ----------
    estimator : net or classifier
        A skorch net, any classifier with ``predict_proba``, or a Pipeline that ends in
        either. Its optimizer, callbacks and schedules stay in force.
    attack : attack or None, default=None
        Makes the rows, in units of the raw input. None is PGD with 10 steps and, for
        each feature, ``eps`` = 0.1 of its range in training, without a box; for a
        classifier that has no differentiable view, RandomSearch with 100 queries.
    adversarial_label : label or None, default=None
        A class for attacked rows, of the kind of the other labels and not among them.
        None trains on attacked rows with their true label.
    method : {"pgd"}, default="pgd"
        How attacked rows enter training.
    ratio : float, default=0.5
        Share of rows that is attacked, in (0, 1]: of each batch of a net, of the
        training rows in each round else.
    rounds : int, default=3
        Rounds of attack and refitting of classifiers that are no nets, at least 1.
    random_state : int, RandomState instance or None, default=None
        Seeds the training and the choice of rows.
    verbose : int, default=0
        1 shows a progress bar.

    Attributes
    ----------
    estimator_ : estimator
        The fitted model.
    attack_ : attack
        The attack in use.
    classes_ : ndarray of shape (n_classes,)
        Sorted labels, the adversarial one among them where it is set.
    genuine_classes_ : ndarray
        Sorted labels without the adversarial one.
    history_ : list of dict
        An entry an epoch (for nets: all that the net recorded, and
        ``clean_accuracy`` and ``attacked_accuracy`` on up to 256 rows of the training
        set, the latter under a few steps of PGD) or a round.
    n_features_in_ : int
        Number of features seen in ``fit`` (for stacked images, their first axis).
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of features seen in ``fit``, where ``X`` has names that are all strings.

    Raises
    ------
    ValueError
        If ``estimator`` is frozen, or ``adversarial_label`` is among the labels.

    Warns
    -----
    UserWarning
        If the accuracy under attack collapses in training (catastrophic overfitting).

    See Also
    --------
    DistilledClassifier : Train on softened labels.

    Notes
    -----
    With ``adversarial_label``, ``predict_proba`` has a column more than there are
    genuine classes: scorers that compare labels work, those of scikit-learn that take
    probabilities do not.

    Rows for training are made to the end: unlike in ``attack.run`` none leaves early,
    and rows that are wrong already are attacked too.

    **What an adaptive attacker does to it**: training on attacked rows is the defence
    that has held up best [1]_, within the norm and the radius that it was trained for;
    a larger radius or another norm breaks it. A class of its own [2]_ learns the attack
    that it was shown and misses others, and one who knows it aims at a genuine class.

    References
    ----------
    .. [1] A. Madry, A. Makelov, L. Schmidt, D. Tsipras, A. Vladu, "Towards Deep
       Learning Models Resistant to Adversarial Attacks", ICLR 2018, arXiv:1706.06083.
    .. [2] K. Grosse, P. Manoharan, N. Papernot, M. Backes, P. McDaniel, "On the
       (Statistical) Detection of Adversarial Examples", 2017, arXiv:1702.06280.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sk_advdef import PGD, AdversariallyAugmentedClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> model = AdversariallyAugmentedClassifier(
    ...     LogisticRegression(max_iter=1000),
    ...     attack=PGD(eps=0.3, bounds=None, random_state=0),
    ...     random_state=0,
    ... ).fit(X, y)
    >>> model.score(X, y) > 0.8
    True
    """

    def __init__(
        self,
        estimator: Any,
        *,
        attack: Any = None,
        adversarial_label: Any = None,
        method: str = "pgd",
        ratio: float = 0.5,
        rounds: int = 3,
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        self.estimator = estimator
        self.attack = attack
        self.adversarial_label = adversarial_label
        self.method = method
        self.ratio = ratio
        self.rounds = rounds
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: Any, y: Any) -> AdversariallyAugmentedClassifier:
        """Train on clean and attacked rows.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, n_features), or stacked images
            Rows, inside the bounds of ``attack``.
        y : array-like of shape (n_samples,)
            Labels.

        Returns
        -------
        self : AdversariallyAugmentedClassifier
            The fitted classifier.
        """
        check_option(self, "method", self.method, METHODS)
        check_number(self, "ratio", self.ratio, low=0, high=1, closed="right")
        check_number(self, "rounds", self.rounds, integer=True, low=1)
        if self.attack is not None and not isinstance(self.attack, Attack):
            raise invalid(self, "attack", "an attack or None", self.attack)
        X, y = self._checked(X, y)
        genuine = np.unique(y)
        classes = self._all_classes(genuine)
        seed = seed_from(self.random_state)
        self.genuine_classes_ = genuine
        if is_net(self.estimator):
            self._fit_net(X, y, classes, seed)
        else:
            self._fit_rounds(X, y, seed)
        self.classes_ = classes
        return self

    def _all_classes(self, genuine: np.ndarray) -> np.ndarray:
        label = self.adversarial_label
        if label is None:
            return genuine
        if len(genuine) < 2:
            raise ValueError(
                "Classifier can't train when only one class is present: "
                f"{genuine.tolist()[0]!r}. The adversarial one does not count."
            )
        if label in genuine:
            raise ValueError(
                f"adversarial_label={label!r} of AdversariallyAugmentedClassifier is "
                f"among the labels {genuine.tolist()}. Take one that is not."
            )
        text = isinstance(label, str)
        if text != (genuine.dtype.kind in "UO" and isinstance(genuine[0], str)):
            raise ValueError(
                f"adversarial_label={label!r} of AdversariallyAugmentedClassifier is "
                f"of another kind than the labels {genuine.tolist()}. Take a "
                f"{'number' if text else 'string'}."
            )
        return np.unique(np.append(genuine, label))

    def _default_eps(self, X: Any) -> np.ndarray:
        values = Table(X).values
        return 0.1 * (values.max(axis=0) - values.min(axis=0)).astype(np.float64)

    # --- nets: attacked rows inside the batch loop

    def _fit_net(self, X: Any, y: np.ndarray, classes: np.ndarray, seed: int) -> None:
        self.attack_ = self.attack
        if self.attack is None:
            self.attack_ = PGD(
                self._default_eps(X), steps=10, bounds=None, random_state=seed
            )
        raw = Table(X).values.astype(np.float32)
        watch: list[dict[str, float]] = []

        def around(net: Any, Xt: Any, codes: np.ndarray, before: list[Any]) -> Any:
            return _in_the_loop(self, net, raw, codes, classes, before, seed, watch)

        self.estimator_ = fit_net(self.estimator, X, y, seed, around, classes=classes)
        net = last_step(self.estimator_).net_
        self.history_ = [
            {k: v for k, v in row.items() if k != "batches"}
            for row in net.history.to_list()
        ]
        rows = min(len(y), WATCHED_ROWS)
        _warn_of_collapse(watch, rows)

    # --- any other classifier: rounds of refitting

    def _fit_rounds(self, X: Any, y: np.ndarray, seed: int) -> None:
        rng = np.random.default_rng(seed)
        blocks, labels = [X], [y]
        model = clone(self.estimator).fit(X, y)
        self.attack_ = self.attack
        if self.attack is None:
            eps = self._default_eps(X)
            self.attack_ = (
                PGD(eps, steps=10, bounds=None, random_state=seed)
                if has_view(model)
                else RandomSearch(eps, max_queries=100, bounds=None, random_state=seed)
            )
        self.history_ = []
        count = max(1, round(self.ratio * len(y)))
        for _ in tqdm(range(self.rounds), disable=not self.verbose, desc="rounds"):
            rows = rng.permutation(len(y))[:count]
            part, truth = _safe_indexing(X, rows), y[rows]
            known = _WithGenuine(model, self.genuine_classes_)
            attacked = self.attack_.rows_to_train_on(known, part, truth)
            self.history_.append(
                {
                    "clean_accuracy": float((model.predict(part) == truth).mean()),
                    "attacked_accuracy": float(
                        (model.predict(attacked) == truth).mean()
                    ),
                }
            )
            blocks.append(attacked)
            if self.adversarial_label is None:
                labels.append(truth)
            else:
                labels.append(np.full(count, self.adversarial_label))
            model = clone(self.estimator).fit(stacked(blocks), np.concatenate(labels))
        self.estimator_ = model

    # --- answers

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return class probabilities.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, n_features), or stacked images
            Rows.

        Returns
        -------
        proba : ndarray of shape (n_samples, n_classes)
            Rows sum to one; columns as in ``classes_``, the adversarial class among
            them where it is set.
        """
        check_is_fitted(self)
        return self.estimator_.predict_proba(self._rows(X))

    def predict(self, X: Any) -> np.ndarray:
        """Return the most probable class, which may be the adversarial one.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, n_features), or stacked images
            Rows.

        Returns
        -------
        y : ndarray of shape (n_samples,)
            Labels.
        """
        check_is_fitted(self)
        return self.estimator_.predict(self._rows(X))

    @available_if(_has_own_class)
    def adversarial_proba(self, X: Any) -> np.ndarray:
        """Return the probability of the adversarial class.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, n_features), or stacked images
            Rows.

        Returns
        -------
        proba : ndarray of shape (n_samples,)
            The column of ``adversarial_label`` in ``predict_proba``.
        """
        proba = self.predict_proba(X)
        return proba[:, np.searchsorted(self.classes_, self.adversarial_label)]

    def _as_module(self) -> Any:
        from sk_advdef._torch._registry import build

        return build(self.estimator_)


class _WithGenuine:
    """A fitted model, and which of its classes are genuine."""

    def __init__(self, model: Any, genuine: np.ndarray) -> None:
        self.model, self.classes_ = model, model.classes_
        self.genuine_classes_ = np.intersect1d(genuine, model.classes_)
        for name in ("predict", "predict_proba", "decision_function"):
            if hasattr(model, name):
                setattr(self, name, getattr(model, name))

    def _as_module(self) -> Any:
        from sk_advdef._torch._registry import build

        return build(self.model)

    def _missing_view(self) -> Any:
        from sk_advdef._torch._registry import missing_view

        return missing_view(self.model)


@contextmanager
def _in_the_loop(
    owner: AdversariallyAugmentedClassifier,
    net: Any,
    X: np.ndarray,
    codes: np.ndarray,
    classes: np.ndarray,
    before: list[Any],
    seed: int,
    watch: list[dict[str, float]],
) -> Iterator[Any]:
    """Let a net train on batches of raw rows, a part of them attacked.

    Positions of classes stand for labels; ``before`` are the transformers before the
    net, through whose views rows go.
    """
    import torch

    from sk_advdef._torch._net import LiveModel, hooked

    label = owner.adversarial_label
    genuine = np.flatnonzero(np.isin(classes, owner.genuine_classes_))
    live = LiveModel(net, before, len(classes), genuine)
    rng = np.random.default_rng(seed)
    own_class = None if label is None else int(np.searchsorted(classes, label))
    watched = rng.permutation(len(X))[:WATCHED_ROWS]
    bar = tqdm(total=net.max_epochs, disable=not owner.verbose, desc="epochs")
    probe = _probe(owner.attack_, seed)

    def infer(original: Any, x: Any, **params: Any) -> Any:
        return original(live.before(x), **params)

    def train_step(original: Any, batch: Any, **params: Any) -> Any:
        x, y = batch
        count = max(1, round(owner.ratio * len(x)))
        picked = torch.from_numpy(np.sort(rng.permutation(len(x))[:count]))
        rows, labels = x[picked].numpy(), y[picked].numpy().astype(np.int64)
        attack = clone(owner.attack_)
        if "random_state" in attack.get_params():
            # other starts in each batch, the same for the same seed
            attack.set_params(random_state=int(rng.integers(2**31)))
        attacked = attack.rows_to_train_on(live, rows, labels)
        x, y = x.clone(), y.clone()
        x[picked] = torch.from_numpy(np.asarray(attacked, dtype=np.float32))
        if own_class is not None:
            y[picked] = own_class
        return original((x, y), **params)

    def on_epoch_end(original: Any, *args: Any, **params: Any) -> Any:
        rows, labels = X[watched], codes[watched]
        held = live.predict(probe.rows_to_train_on(live, rows, labels))
        reached = {
            "clean_accuracy": float((live.predict(rows) == labels).mean()),
            "attacked_accuracy": float(((held == labels) | (held == own_class)).mean()),
        }
        watch.append(reached)
        for name, value in reached.items():
            net.history.record(name, value)
        bar.update()
        bar.set_postfix({k: f"{v:.2f}" for k, v in reached.items()})
        return original(*args, **params)

    hooks: dict[str, Any] = {
        "infer": infer,
        "train_step": train_step,
        "on_epoch_end": on_epoch_end,
    }
    with bar, hooked(net, **hooks):
        yield X


def _probe(attack: Any, seed: int) -> Attack:
    """Make the attack that watches training: a few steps of PGD of the same reach."""
    if not hasattr(attack, "eps"):
        return attack
    return PGD(
        attack.eps,
        steps=10,
        norm=attack.norm,
        bounds=attack.bounds,
        random_state=seed,
        space=getattr(attack, "space", None),
    )


def _warn_of_collapse(watch: list[dict[str, float]], rows: int) -> None:
    accuracies = [row["attacked_accuracy"] for row in watch]
    # to call every row adversarial is no feat to fall from
    best = max((min(row.values()) for row in watch), default=0.0)
    fall = max(COLLAPSE, COLLAPSE_DEVIATIONS * (0.5 / rows) ** 0.5)
    if accuracies and accuracies[-1] < best - fall:
        warnings.warn(
            f"Accuracy under attack fell from {best:.0%} to {accuracies[-1]:.0%} in "
            "training (catastrophic overfitting): the net has learned to mask its "
            "gradients from this attack. Use more steps, a smaller learning rate or a "
            "smaller eps, and see history_.",
            UserWarning,
            stacklevel=4,
        )
