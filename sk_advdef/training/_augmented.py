"""Adversarial training, with true labels or with a class of its own."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from sk_advdef._base import all_or_nothing
from sk_advdef._torch._models import is_net, last_step
from sk_advdef._torch._registry import has_view
from sk_advdef._validation import seed_from, with_seed
from sk_advdef.attacks._pgd import PGD
from sk_advdef.attacks._random_search import RandomSearch
from sk_advdef.attacks._several import attacks_in
from sk_advdef.attacks._table import Table
from sk_advdef.training._base import TrainingClassifier, fit_net
from sk_advdef.training._requests import (
    all_classes,
    check_parameters,
    check_together,
    split,
)
from sk_advdef.training._rounds import fit_in_rounds
from sk_advdef.training._watch import (
    HELD_ROWS,
    has_radius,
    uniform_share,
    warn_of_collapse,
)

#: Range of whole numbers from which on a step of 1 is a small change.
MANY_LEVELS = 5

#: What to do where the accuracy under attack falls, by method.
CURES = {
    "fgsm-rs": 'This is a known weakness of "fgsm-rs": use method="pgd", or "fast" '
    "with a small relative_step_size and eps_warmup over half of the epochs",
    "fast": "Use a smaller relative_step_size, eps_warmup over half of the epochs, or "
    'method="pgd"',
}
CURE = "Use more steps, a smaller learning rate or a smaller eps"


def _flags(estimator: Any) -> bool:
    if estimator.adversarial_label is None and estimator.method != "ccat":
        raise AttributeError(
            "adversarial_proba needs a class for adversarial input: set "
            'adversarial_label, or method="ccat".'
        )
    return True


def _has_proba(estimator: Any) -> bool:
    inner = _within(estimator)
    return is_net(inner) or hasattr(inner, "predict_proba")


def _has_decisions_only(estimator: Any) -> bool:
    return not _has_proba(estimator) and hasattr(
        _within(estimator), "decision_function"
    )


def _within(estimator: Any) -> Any:
    return getattr(estimator, "estimator_", estimator.estimator)


class AdversariallyAugmentedClassifier(TrainingClassifier):
    """Adversarial training: learn on rows that are attacked while one learns.

    A net meets, in each batch, rows that are attacked against its current weights. Any
    other classifier is fitted in rounds: on the rows, then again with rows attacked in
    each round before. Attacked rows keep their label, or get a class of their own.

    Parameters
    ----------
    estimator : net or classifier
        A skorch net, any classifier with ``predict_proba`` or ``decision_function``, or
        a Pipeline that ends in either. Its optimizer, callbacks and schedules stay in
        force.
    attack : attack, list of attacks or None, default=None
        Makes the rows, in units of the raw input; those of a list in turn, batch by
        batch or round by round. None is PGD with 10 steps and, for each feature,
        ``eps`` = 0.1 of its range in training, without a box; for a classifier that is
        no net, at least 1 where it holds whole numbers over a range of 5 and more, and
        if it has no differentiable view, RandomSearch with 100 queries. Methods other
        than "pgd" take only its ``eps``, ``norm``, ``bounds`` and ``space``.
    adversarial_label : label or None, default=None
        A class for attacked rows, of the kind of the other labels and not among them.
        None trains on attacked rows with their true label. For the methods "pgd",
        "fast" and "fgsm-rs". A net needs an output for it: one more than labels.
    method : {"pgd", "fast", "fgsm-rs", "free", "trades", "ccat"}, default="pgd"
        How attacked rows enter training; all but "pgd" are for nets.

        - "pgd": rows that ``attack`` makes, whatever it is [1]_.
        - "fast": one step from a row with much noise (N-FGSM) [3]_. Its defaults are
          the paper's, for eps of 8/255; where eps is large, lower
          ``relative_step_size`` and let ``eps_warmup`` last for half of the epochs, or
          it may collapse: it learns to hold that step and nothing else.
        - "fgsm-rs": one step from a random start [4]_. It is known to collapse without
          a sign in the accuracy that it trains for.
        - "free": each batch is replayed, and the pass that trains also attacks [5]_.
        - "trades": clean rows, and answers that stay near theirs under attack [6]_.
        - "ccat": attacked rows get labels that go toward uniform with the length of
          their change, so that they are answered without confidence [7]_.
    ratio : float or None, default=None
        Share of rows that is attacked, in (0, 1]: of each batch of a net, of the
        training rows in each round else. None is 0.5 for "pgd" and "ccat" and with
        ``adversarial_label``, else 1, which is all that "free" and "trades" can.
    rounds : int, default=3
        Rounds of attack and refitting of classifiers that are no nets, at least 1. 3 is
        for a first look; trees gain from 10 and more.
    steps : int, default=10
        Steps of "trades" and "ccat", at least 1.
    relative_step_size : float or None, default=None
        Length of a step as a part of eps, in (0, inf), for all methods but "pgd". None
        is 1 for "fast" and "free", 1.25 for "fgsm-rs", and 2.5 / ``steps`` for "trades"
        and "ccat".
    noise : float, default=2.0
        Noise of "fast", as a multiple of eps, in [0, inf).
    replays : int, default=4
        Steps on each batch of "free", at least 1. An epoch takes as many times longer,
        so ask the net for fewer epochs; a schedule of the net counts a batch once.
    beta : float, default=6.0
        Weight of the second part of the loss of "trades", in [0, inf).
    rho : float, default=10.0
        How fast labels of "ccat" become uniform, in (0, inf).
    eps_warmup : float, default=0.0
        Epochs over which eps rises from 0, batch by batch, in [0, inf). For nets.
    averaging : {"ema", "swa"} or None, default=None
        Leave the net with a mean of its weights: exponential over all batches, or plain
        over the ends of the epochs of the second half. At the end BatchNorm learns its
        statistics anew, on attacked rows; while training is watched, it has the mean of
        them. For nets.
    averaging_decay : float, default=0.999
        Decay of "ema" a batch, in [0, 1); smaller in the first batches.
    weight_perturbation : float, default=0.0
        Adversarial weight perturbation [8]_: length of the change of each weight
        matrix, as a part of its own length, in [0, inf). One more pass a batch. For
        nets.
    early_stopping : bool, default=False
        Whether to hold out rows, stop when the accuracy under attack on them has not
        risen for ``n_iter_no_change`` epochs or rounds, and keep the best weights or
        model. Epochs of ``eps_warmup`` do not count.
    validation_fraction : float, default=0.1
        Share of rows to hold out, in (0, 1).
    n_iter_no_change : int, default=5
        Epochs or rounds without a rise, at least 1.
    random_state : int, RandomState instance or None, default=None
        Seeds the training, the choice of rows and, in a classifier that is no net,
        each ``random_state`` that is None.
    verbose : int, default=0
        1 shows a progress bar, with the accuracies so far and the time left.

    Attributes
    ----------
    estimator_ : estimator
        The fitted model.
    attack_ : attack or list of attacks
        What is in use.
    classes_ : ndarray of shape (n_classes,)
        Sorted labels, the adversarial one among them where it is set.
    genuine_classes_ : ndarray
        Sorted labels without the adversarial one.
    history_ : list of dict
        An entry an epoch (for nets: all that the net recorded, and
        ``clean_accuracy`` and ``attacked_accuracy`` on up to 256 rows of the training
        set under 5 steps of PGD, or on 1,024 of those held out under 10; a row that is
        taken for adversarial counts as lost where it is clean and as held where it is
        attacked) or a round: ``clean_accuracy`` and ``attacked_accuracy`` of the model
        before it, on training rows, and with ``early_stopping`` ``held_out_accuracy``
        of the one after it, by which the model is chosen that is kept.
    n_features_in_ : int
        Number of features seen in ``fit`` (for stacked images, their first axis).
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of features seen in ``fit``, where ``X`` has names that are all strings.

    Raises
    ------
    ValueError
        If ``estimator`` is frozen, ``adversarial_label`` is among the labels or does
        not go with the method, what is for nets is asked of another classifier, the
        criterion of a net that "ccat" trains takes no soft labels, ``attack`` is
        targeted (rows would be moved toward their own class), or it changes no row that
        ``adversarial_label`` could be learned from.
    TypeError
        If ``estimator`` is no net and has neither ``predict_proba`` nor
        ``decision_function``.

    Warns
    -----
    UserWarning
        If the accuracy under attack collapses in training (catastrophic overfitting),
        or no attack can change columns of whole numbers.

    See Also
    --------
    DistilledClassifier : Train on softened labels.

    Notes
    -----
    With ``adversarial_label``, ``predict_proba`` has a column more than there are
    genuine classes: scorers that compare labels work, those of scikit-learn that take
    probabilities do not.

    Rows for training are made to the end: unlike in ``attack.run`` none leaves early,
    and rows that are wrong already are attacked too. Of PGD and FGSM without a space
    nets take the last iterate, as in [1]_. Attacks see a net in eval mode: dropout is
    off, and BatchNorm reads its statistics; "free" has no pass of its own for that.
    Under a FeatureSpace the noise of "fast" ends where the space does.

    In rounds a row and its attacked copies stand together where ``estimator`` has a
    ``cv``, so that an unshuffled split seldom parts them; a shuffled one, or an early
    stopping that holds rows out, does. Put searches around this classifier instead.

    "ccat" follows [7]_ in its half batch of clean rows, its targets, starts, momentum
    and shorter steps; the first step is 2.5 / ``steps`` of eps.

    **What an adaptive attacker does to it**: training on attacked rows is the defence
    that has held up best [1]_, within the norm and the radius that it was trained for;
    a larger radius or another norm breaks it. A class of its own [2]_ learns the attack
    that it was shown and misses others, and one who knows it aims at a genuine class.
    "ccat" alone changes no answer: it needs a threshold on confidence, and one who
    knows that climbs the confidence of a wrong class.

    References
    ----------
    .. [1] A. Madry, A. Makelov, L. Schmidt, D. Tsipras, A. Vladu, "Towards Deep
       Learning Models Resistant to Adversarial Attacks", ICLR 2018, arXiv:1706.06083.
    .. [2] K. Grosse, P. Manoharan, N. Papernot, M. Backes, P. McDaniel, "On the
       (Statistical) Detection of Adversarial Examples", 2017, arXiv:1702.06280.
    .. [3] P. de Jorge, A. Bibi, R. Volpi, A. Sanyal, P. H. S. Torr, G. Rogez,
       P. K. Dokania, "Make Some Noise: Reliable and Efficient Single-Step Adversarial
       Training", NeurIPS 2022, arXiv:2202.01181.
    .. [4] E. Wong, L. Rice, J. Z. Kolter, "Fast is better than free: Revisiting
       adversarial training", ICLR 2020, arXiv:2001.03994.
    .. [5] A. Shafahi, M. Najibi, A. Ghiasi, Z. Xu, J. Dickerson, C. Studer, L. S.
       Davis, G. Taylor, T. Goldstein, "Adversarial Training for Free!", NeurIPS 2019,
       arXiv:1904.12843.
    .. [6] H. Zhang, Y. Yu, J. Jiao, E. P. Xing, L. El Ghaoui, M. I. Jordan,
       "Theoretically Principled Trade-off between Robustness and Accuracy", ICML 2019,
       arXiv:1901.08573.
    .. [7] D. Stutz, M. Hein, B. Schiele, "Confidence-Calibrated Adversarial Training:
       Generalizing to Unseen Attacks", ICML 2020, arXiv:1910.06259.
    .. [8] D. Wu, S.-T. Xia, Y. Wang, "Adversarial Weight Perturbation Helps Robust
       Generalization", NeurIPS 2020, arXiv:2004.05884.

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

    _scores = ("predict_proba", "decision_function")

    def __init__(
        self,
        estimator: Any,
        *,
        attack: Any = None,
        adversarial_label: Any = None,
        method: str = "pgd",
        ratio: float | None = None,
        rounds: int = 3,
        steps: int = 10,
        relative_step_size: float | None = None,
        noise: float = 2.0,
        replays: int = 4,
        beta: float = 6.0,
        rho: float = 10.0,
        eps_warmup: float = 0.0,
        averaging: str | None = None,
        averaging_decay: float = 0.999,
        weight_perturbation: float = 0.0,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 5,
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        self.estimator = estimator
        self.attack = attack
        self.adversarial_label = adversarial_label
        self.method = method
        self.ratio = ratio
        self.rounds = rounds
        self.steps = steps
        self.relative_step_size = relative_step_size
        self.noise = noise
        self.replays = replays
        self.beta = beta
        self.rho = rho
        self.eps_warmup = eps_warmup
        self.averaging = averaging
        self.averaging_decay = averaging_decay
        self.weight_perturbation = weight_perturbation
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.random_state = random_state
        self.verbose = verbose

    @all_or_nothing
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
        check_parameters(self)
        X, y = self._checked(X, y)
        check_together(self)
        genuine = np.unique(y)
        classes = all_classes(self, genuine)
        seed = seed_from(self.random_state)
        if self.adversarial_label is not None:
            y, genuine = y.astype(classes.dtype), genuine.astype(classes.dtype)
        self.genuine_classes_ = genuine
        held = None
        if self.early_stopping:
            X, y, held = split(self, X, y, seed)
        if is_net(self.estimator):
            self._fit_net(X, y, held, classes, seed)
        else:
            self._fit_rounds(X, y, held, seed)
        self.classes_ = classes
        return self

    def _ratio(self) -> float:
        if self.ratio is not None:
            return self.ratio
        half = self.method in ("pgd", "ccat") or self.adversarial_label is not None
        return 0.5 if half else 1.0

    def _own_attack(self) -> Any:
        """Return copies of what was given, whose generators move on by themselves."""
        return None if self.attack is None else clone(self.attack)

    def _default_eps(self, X: Any, *, whole: bool = False) -> np.ndarray:
        """Return a radius a feature; where ``whole`` numbers are many, at least 1."""
        table = Table(X)
        reach = (table.values.max(axis=0) - table.values.min(axis=0)).astype(np.float64)
        least = np.where(whole & table.whole & (reach >= MANY_LEVELS), 1.0, 0.0)
        return np.maximum(0.1 * reach, least)

    # --- the two ways

    def _fit_net(
        self, X: Any, y: np.ndarray, held: Any, classes: np.ndarray, seed: int
    ) -> None:
        from sk_advdef.training._loop import Loop, around
        from sk_advdef.training._reach import with_names

        self.attack_ = self._own_attack()
        if self.attack_ is None:
            self.attack_ = PGD(
                self._default_eps(X), steps=10, bounds=None, random_state=seed
            )
        table = Table(X, copy=False)
        if held is not None:
            values = Table(held[0]).values[:HELD_ROWS]
            held = values, np.searchsorted(classes, held[1][:HELD_ROWS])
        loops: list[Loop] = []
        wrapped = around(
            self,
            table.values,
            loops,
            attacks=[with_names(a, table.names) for a in attacks_in(self.attack_)],
            classes=classes,
            seed=seed,
            held=held,
        )
        self.estimator_ = fit_net(self.estimator, X, y, seed, wrapped, classes=classes)
        self.history_ = [
            {k: v for k, v in row.items() if k != "batches"}
            for row in last_step(self.estimator_).net_.history.to_list()
        ]
        loop, watched = loops[0], loops[0].history
        if not all(has_radius(attack) for attack in loop.attacks):
            return  # nothing holds rows against changes of any size
        # early stopping leaves the net as it was before a fall
        if self.early_stopping and loop.best_values is not None:
            watched = [loop.best.reached]
        cure = CURES.get(self.method, CURE)
        warn_of_collapse(watched, len(loop.watched[0]), cure, loop.single)

    def _fit_rounds(self, X: Any, y: np.ndarray, held: Any, seed: int) -> None:
        model = with_seed(clone(self.estimator), seed).fit(X, y)
        self.attack_ = self._own_attack()
        if self.attack_ is None:
            eps = self._default_eps(X, whole=True)
            self.attack_ = (
                PGD(eps, steps=10, bounds=None, random_state=seed)
                if has_view(model)
                else RandomSearch(eps, max_queries=100, bounds=None, random_state=seed)
            )
        self.estimator_, self.history_ = fit_in_rounds(
            self, model, X, y, attacks_in(self.attack_), held, seed
        )

    # --- answers

    @available_if(_has_proba)
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

    @available_if(_has_decisions_only)
    def decision_function(self, X: Any) -> np.ndarray:
        """Return the scores of a classifier that has no ``predict_proba``.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, n_features), or stacked images
            Rows.

        Returns
        -------
        scores : ndarray of shape (n_samples,) or (n_samples, n_classes)
            What ``estimator_`` returns.
        """
        check_is_fitted(self)
        return self.estimator_.decision_function(self._rows(X))

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

    @available_if(_flags)
    def adversarial_proba(self, X: Any) -> np.ndarray:
        """Return the probability of the adversarial class.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, n_features), or stacked images
            Rows.

        Returns
        -------
        proba : ndarray of shape (n_samples,)
            The column of ``adversarial_label`` in ``predict_proba``. For "ccat", the
            part of the answer that is uniform over the classes.
        """
        proba = self.predict_proba(X)
        if self.method == "ccat":
            return uniform_share(proba)
        return proba[:, np.searchsorted(self.classes_, self.adversarial_label)]

    @property
    def _answers_of(self) -> Any:
        """The model whose answers these are, unless a class was added to them."""
        own = self.adversarial_label is not None or is_net(self.estimator)
        return None if own else getattr(self, "estimator_", None)

    def _as_module(self) -> Any:
        from sk_advdef._torch._registry import build

        return build(self.estimator_)
