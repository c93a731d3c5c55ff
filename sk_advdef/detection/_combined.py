"""Detection by several detectors together, trained on attacked rows."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from scipy.special import expit, logit
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.utils.metaestimators import _BaseComposition
from sklearn.utils.validation import _num_samples, check_is_fitted

from sk_advdef._torch._fingerprint import fingerprint, remembered
from sk_advdef._torch._models import class_scores, is_frozen, is_net, unfrozen
from sk_advdef._torch._registry import missing_view
from sk_advdef._validation import check_classifier, check_number, invalid, with_seed
from sk_advdef.attacks._several import attacks_of
from sk_advdef.detection._base import Detector, _rows_of, finite_scores
from sk_advdef.detection._dropout import DropoutUncertaintyDetector, differentiable
from sk_advdef.detection._lesson import (
    GENUINE,
    Lesson,
    default_attacks,
    grouped_folds,
    make_lesson,
)
from sk_advdef.detection._odds import calibrated_odds
from sk_advdef.detection._threshold import one_split

#: Folds in which the final estimator is judged on rows that it was not fitted on.
N_FOLDS = 5


class CombinedDetector(Detector, _BaseComposition):
    """Detect adversarial rows by a classifier on the scores of several detectors.

    One model is fitted and given to all detectors. Rows that it has not seen are
    attacked, and noise as large as what the attack changed is added to others, so that
    the final estimator learns to tell attacked rows from genuine and from noisy ones
    [1]_.

    Parameters
    ----------
    detectors : list of (str, detector)
        Named detectors of this package. Their parameters are those of this one as
        ``name__parameter``. One with ``estimator=None`` watches the model of this
        detector; one with an estimator of its own is fitted on the rows that the model
        is fitted on, and ``FrozenEstimator(detector)`` is taken as it is. Their own
        thresholds are not used. Detectors by dropout with the same passes and without
        a ``random_state`` share their sub-networks, and so the price of them.
    estimator : classifier or None, default=None
        The model that is watched: any classifier that the detectors take;
        ``FrozenEstimator(model)`` for one that is fitted already. None is
        ``LogisticRegression(max_iter=1000)``, or the classifier of the
        :class:`RejectingClassifier` around this detector.
    attack : attack, list of attacks or None, default=None
        Makes the adversarial rows, against the model alone. None is PGD twice, with 20
        steps and ``eps`` = 0.1 of the range of each feature (of all pixels, for stacked
        images) inside that range: once a row leaves as soon as it is fooled, once it
        goes on to the end. Where the model has no differentiable view it is
        RandomSearch with 100 queries. Attacks from which an attacker may choose belong
        in the list: see the notes.
    final_estimator : classifier or None, default=None
        Tells attacked rows (class 1) from the others (class 0) by the detectors'
        scores: any classifier with ``decision_function`` or ``predict_proba``. It is
        given, for each detector, how far the score is from the median of genuine rows,
        in units of their interquartile range, as its inverse hyperbolic sine. None is
        ``LogisticRegression(class_weight="balanced")``.
    prior : float or None, default=None
        Share of adversarial rows, in (0, 1), for which ``predict_proba`` is calibrated.
        None leaves it the uncalibrated score of the other detectors. The threshold
        follows from ``contamination`` in any case.
    contamination : float, default=0.05
        Share of genuine rows that may be flagged, in (0, 0.5].
    cv : float, int or splitter, default=0.2
        Share of the rows that the model is not fitted on, the number of folds of which
        the first is held out, or a splitter whose first split is used. One half of
        these rows is attacked and trains the final estimator, the other half sets the
        threshold. Around a frozen model the other rows are for detectors that learn
        from rows, and where there are none, the two halves are all there is.
    memory : str, joblib.Memory or None, default=None
        Where to keep attacked rows, the scores of the detectors and what ``fit``
        learns, as a folder or a Memory, so that searches attack once a model. Models
        count by their weights.
    random_state : int, RandomState instance or None, default=None
        Seeds the splits, the noise, the training of a net, and all detectors, attacks
        and final estimators that have no seed of their own.

    Attributes
    ----------
    estimator_ : estimator
        The fitted model.
    detectors_ : list of (str, detector)
        The fitted detectors.
    final_estimator_ : estimator
        The fitted final estimator.
    attacks_ : list of attacks
        The attacks in use.
    fooled_ : ndarray of shape (n_attacks,)
        Share of the attacked rows whose answer changed.
    attack_l2_ : ndarray of shape (n_attacks,)
        Mean L2 length of what each attack changed.
    noise_l2_ : ndarray of shape (n_attacks,)
        The same of the noise; shorter only where the range of the rows cuts it.
    auc_ : ndarray of shape (n_attacks,)
        Area under the ROC curve of genuine rows and those of each attack, scored by
        final estimators that were fitted on other rows. Its attacker ignores the
        detector.
    offset_ : float
        Score below which a row is flagged; ``-inf`` where rows were too few.
    scale_ : float
        Interquartile range of the held-out scores, the unit of ``predict_proba``.
    n_features_in_ : int
        Number of features seen in ``fit`` (for stacked images, their first axis).
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of features seen in ``fit``, where ``X`` has names that are all strings.

    Raises
    ------
    ValueError
        If fewer than two rows are left for the final estimator.

    Warns
    -----
    UserWarning
        If an attack fools the model on fewer than 10 rows; all rows that it tried count
        as adversarial then.

    See Also
    --------
    DropoutUncertaintyDetector : Detection by disagreement, for nets with dropout.
    DensityDetector : Detection by where rows lie inside the model.
    FeatureSqueezingDetector : Compares answers before and after squeezing.
    RejectingClassifier : A classifier that rejects what a detector flags.

    Notes
    -----
    The score is minus the log-odds of "adversarial". No row serves two of: the model
    and the detectors; the final estimator; the threshold. Where the final estimator is
    judged (``auc_``, ``prior``), a row, its noisy and its attacked copies are in the
    same fold. ``prior`` describes a mix of genuine rows and of rows as ``attack`` makes
    them; of other attacks its probabilities say nothing.

    Attacked rows are those whose answer changed, from what the model answers to another
    class. Noise is not Gaussian: each feature changes by what the attack changed of it
    in some other row, up or down by chance, so that noise is as sparse as the attack
    and in the units of the features.

    The final estimator knows the attacks that it was trained with. Attacks leave
    opposite traces: rows just past the boundary are uncertain, rows far beyond it more
    certain than genuine ones; a detector trained with one kind alone may take the other
    for genuine. Judge it by an attack that was left out.

    **What an adaptive attacker does to it**: the final estimator is one more function
    on top of the detectors, and where it has a differentiable view, as the default has,
    the attacker climbs through all of them at once. Combining weak detectors gave no
    strong one [2]_ [3]_. Figures of ``auc_`` and of
    :func:`make_detection_scorer` are from attackers who ignore it: put
    :func:`rejection_robust_error` beside them.

    References
    ----------
    .. [1] R. Feinman, R. Curtin, S. Shintre, A. Gardner, "Detecting Adversarial Samples
       from Artifacts", 2017, arXiv:1703.00410.
    .. [2] W. He, J. Wei, X. Chen, N. Carlini, D. Song, "Adversarial Example Defenses:
       Ensembles of Weak Defenses are not Strong", WOOT 2017, arXiv:1706.04701.
    .. [3] N. Carlini, D. Wagner, "Adversarial Examples Are Not Easily Detected", AISec
       2017, arXiv:1705.07263.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sk_advdef import PGD, CombinedDetector, DensityDetector
    >>> X, y = load_digits(return_X_y=True)
    >>> detector = CombinedDetector(
    ...     [
    ...         ("density", DensityDetector()),
    ...         ("distance", DensityDetector(method="mahalanobis")),
    ...     ],
    ...     attack=PGD(eps=2.0, bounds=(0, 16), steps=5),
    ...     random_state=0,
    ... ).fit(X, y)
    >>> detector.detector_scores(X[:3]).shape
    (3, 2)
    >>> bool(detector.auc_[0] > 0.5)
    True
    >>> detector.set_params(density__bandwidth=3.0).get_params()["density"]
    DensityDetector(bandwidth=3.0)
    """

    def __init__(
        self,
        detectors: Any,
        *,
        estimator: Any = None,
        attack: Any = None,
        final_estimator: Any = None,
        prior: float | None = None,
        contamination: float = 0.05,
        cv: Any = 0.2,
        memory: Any = None,
        random_state: Any = None,
    ) -> None:
        self.detectors = detectors
        self.estimator = estimator
        self.attack = attack
        self.final_estimator = final_estimator
        self.prior = prior
        self.contamination = contamination
        self.cv = cv
        self.memory = memory
        self.random_state = random_state

    def __sklearn_tags__(self) -> Any:
        """Return scikit-learn's tags of this estimator."""
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = is_net(self.estimator)
        tags.non_deterministic = self.masks == "fresh"
        return tags

    @property
    def masks(self) -> str | None:
        """Kind of sub-networks: "fresh", "fixed" or, where there are none, None."""
        kinds = {getattr(unfrozen(d), "masks", None) for d in self._inner()}
        return next((kind for kind in ("fresh", "fixed") if kind in kinds), None)

    def _inner(self) -> list[Any]:
        """Return the detectors, fitted where they are; none where they are no pairs."""
        given = getattr(self, "detectors_", self.detectors)
        return [pair[1] for pair in given] if _are_named_detectors(given) else []

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the parameters, those of the named detectors too.

        Parameters
        ----------
        deep : bool, default=True
            Whether to return those of the estimators and of the detectors.

        Returns
        -------
        params : dict of str to object
            Parameters by name.
        """
        return self._get_params("detectors", deep=deep)

    def set_params(self, **params: Any) -> CombinedDetector:
        """Set parameters, those of the named detectors as ``name__parameter``.

        Parameters
        ----------
        **params : object
            Parameters by name; the name of a detector alone replaces it.

        Returns
        -------
        self : CombinedDetector
            The detector.
        """
        try:
            self._set_params("detectors", **params)
        except ValueError as error:
            self._refuse_unnamed(error)
            raise
        return self

    def _refuse_unnamed(self, cause: Exception | None = None) -> None:
        if not _are_named_detectors(self.detectors):
            allowed = "a list of (name, detector of this package), not empty"
            raise invalid(self, "detectors", allowed, self.detectors) from cause

    def _check_parameters(self) -> None:
        super()._check_parameters()
        self._refuse_unnamed()
        self._validate_names([name for name, _ in self.detectors])
        for name, detector in self.detectors:
            if isinstance(detector, CombinedDetector):
                # its final estimator would know the rows that this one is judged by
                raise TypeError(
                    f"The detector {name!r} of CombinedDetector is a CombinedDetector "
                    "itself, and would learn from the same rows. Name its detectors "
                    "here, or fit it on other rows and pass FrozenEstimator(it)."
                )
        attacks_of(self)
        final = self.final_estimator
        if final is not None:
            check_classifier(self, "final_estimator", final)
            if not any(
                hasattr(final, m) for m in ("decision_function", "predict_proba")
            ):
                raise TypeError(
                    "The final_estimator of CombinedDetector must have "
                    f"decision_function or predict_proba, and {final!r} has neither. "
                    "Wrap it in CalibratedClassifierCV, or take LogisticRegression()."
                )
        if self.prior is not None:
            kind: dict[str, Any] = {"closed": "neither", "otherwise": " or None"}
            check_number(self, "prior", self.prior, low=0, high=1, **kind)

    # --- fit

    def _learns(self, X: Any) -> bool:
        inner = [d for d in self._given() if not is_frozen(d)]
        return any(d.estimator is not None or d._learns(X) for d in inner)

    def _given(self) -> list[Any]:
        return [detector for _, detector in self.detectors]

    def _set_aside(self, X: Any, y: Any, seed: int) -> tuple[Any, Any]:
        # the detectors learn from the larger part
        held, fitted = super()._set_aside(X, y, seed)
        return fitted, held

    def _learn_around(self, X: Any, y: Any, known: Any, seed: int) -> Any:
        if known is None and self._learns(X):
            known, (X, y) = self._set_aside(X, y, seed)
        n = _num_samples(X)
        if n < 3:
            raise ValueError(
                f"{n} rows are left that the model and the detectors of "
                "CombinedDetector have not seen, and at least 3 are needed: 2 to "
                "attack and 1 for the threshold. Give more rows or a larger cv."
            )
        labels = np.zeros(n) if y is None else y
        learned, held = one_split(self, 1 / 3 if n == 3 else 0.5, X, labels, seed)
        rows, labels = _rows_of(X, y, learned)
        self.detectors_ = [
            (name, self._fit_detector(detector, rows, labels, known, seed))
            for name, detector in self.detectors
        ]
        self._fit_final(rows, seed)
        return _rows_of(X, y, held)[0]

    def _fit_detector(
        self, detector: Any, X: Any, y: Any, known: Any, seed: int
    ) -> Any:
        if is_frozen(detector):
            return detector
        detector = with_seed(clone(detector), seed)
        with warnings.catch_warnings():
            # of thresholds that are not used
            warnings.filterwarnings("ignore", ".*held-out rows cannot tell")
            if detector.estimator is not None:
                return detector.fit(*known)
            model = self.estimator_
            model = model if is_frozen(model) else FrozenEstimator(model)
            return detector.set_params(estimator=model)._fit_on(X, y, known)

    def _fit_final(self, X: Any, seed: int) -> None:
        attacks = attacks_of(self) or default_attacks(self.estimator_, X)
        lesson = make_lesson(self.estimator_, attacks, X, seed, self.memory)
        self.attacks_ = attacks
        self.fooled_, self.attack_l2_, self.noise_l2_ = lesson[3:]
        scores = np.concatenate([self._inner_scores(rows) for rows in lesson.blocks])
        genuine = scores[lesson.kind == GENUINE]
        self._location, self._scale = location_and_scale(genuine)
        given, target = self._units(scores), (lesson.kind >= 0).astype(int)
        final = self.final_estimator
        if final is None:
            final = LogisticRegression(class_weight="balanced")
        final = with_seed(clone(final), seed)
        self._judge(final, given, target, lesson, seed)
        self.final_estimator_ = final.fit(given, target)

    def _judge(
        self,
        final: Any,
        given: np.ndarray,
        target: np.ndarray,
        lesson: Lesson,
        seed: int,
    ) -> None:
        """Score each row by a final estimator that has not seen its source."""
        n_attacked = len(np.unique(lesson.source[target == 1]))
        odds = np.empty(len(target))
        for learned, scored in grouped_folds(lesson, min(N_FOLDS, n_attacked), seed):
            fitted = clone(final).fit(given[learned], target[learned])
            odds[scored] = _log_odds(fitted, given[scored])
        genuine = lesson.kind == GENUINE
        self.auc_ = np.array(
            [
                roc_auc_score(target[of_two], odds[of_two])
                for number in range(len(self.attacks_))
                for of_two in [genuine | (lesson.kind == number)]
            ]
        )
        # noisy rows are no part of what ``prior`` describes
        part = genuine | (target == 1)
        self._odds = calibrated_odds(odds[part], target[part] == 1)

    # --- scores

    def _groups(self) -> list[list[int]]:
        """Return positions of detectors; those that share sub-networks together."""
        groups: dict[Any, list[int]] = {}
        for i, (_, detector) in enumerate(self.detectors_):
            detector = unfrozen(detector)
            key: Any = i
            if isinstance(detector, DropoutUncertaintyDetector):
                model = id(unfrozen(detector.estimator_))
                key = model, detector.n_passes, detector.masks, detector._seed
            groups.setdefault(key, []).append(i)
        return list(groups.values())

    def _inner_scores(self, X: Any) -> np.ndarray:
        """Return the score of each row by each detector, (n_samples, n_detectors)."""
        if self._is_fresh():
            return self._raw_inner_scores(X)
        return remembered(
            self.memory,
            lambda: fingerprint("inner scores", self.detectors_, X),
            lambda: self._raw_inner_scores(X),
        )

    def _raw_inner_scores(self, X: Any) -> np.ndarray:
        columns: dict[int, np.ndarray] = {}
        for group in self._groups():
            inner = [unfrozen(self.detectors_[i][1]) for i in group]
            if len(inner) > 1:
                names = [detector.statistic for detector in inner]
                found = -inner[0]._raw_statistics(X, names)
            else:
                found = inner[0]._raw_scores(X)[:, None]
            found = finite_scores(self, found)
            columns |= dict(zip(group, found.T, strict=True))
        return np.stack([columns[i] for i in range(len(columns))], axis=1)

    def _units(self, scores: np.ndarray) -> np.ndarray:
        return np.arcsinh((scores - self._location) / self._scale)

    def _raw_scores(self, X: Any) -> np.ndarray:
        return -_log_odds(self.final_estimator_, self._units(self._inner_scores(X)))

    def detector_scores(self, X: Any) -> np.ndarray:
        """Return the score of each detector by itself.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, n_features), or stacked images
            Rows.

        Returns
        -------
        scores : ndarray of float64 of shape (n_samples, n_detectors)
            ``score_samples`` of each of ``detectors_``, higher for more genuine.
        """
        check_is_fitted(self)
        return self._inner_scores(self._rows(X))

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the probability of "adversarial" and of "genuine".

        With ``prior`` it is calibrated for a mix of genuine rows and of that share of
        rows as ``attack`` makes them. Without, it is a score that rises with
        ``decision_function`` and is 0.5 at the threshold.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, n_features), or stacked images
            Rows.

        Returns
        -------
        proba : ndarray of shape (n_samples, 2)
            Columns for -1 (adversarial) and +1 (genuine).
        """
        check_is_fitted(self)
        if self.prior is None:
            return super().predict_proba(X)
        slope, intercept = self._odds
        odds = intercept - slope * self.score_samples(X) + logit(self.prior)
        return np.stack([expit(odds), expit(-odds)], axis=1)

    # --- the differentiable view

    def _missing_suspicion(self) -> Any:
        """Return the first part that a gradient cannot pass, or None."""
        for detector in map(unfrozen, self._inner()):
            own = getattr(detector, "_missing_suspicion", None)
            part = None if own is None else own()
            if part is not None:
                return part
        final = getattr(self, "final_estimator_", self.final_estimator)
        return None if final is None else missing_view(final)

    def _as_score_module(self) -> Any:
        from sk_advdef._torch._combination import Column, Combination, Statistics
        from sk_advdef._torch._registry import as_score_module, build

        check_is_fitted(self)
        parts: list[Any] = []
        for group in self._groups():
            inner = [unfrozen(self.detectors_[i][1]) for i in group]
            suspicion = as_score_module(inner[0])
            if len(inner) > 1:
                wanted = [differentiable(detector.statistic) for detector in inner]
                parts.append(Statistics(suspicion, wanted))
            else:
                parts.append(Column(suspicion))
        order = np.argsort(np.concatenate(self._groups()))
        final = build(self.final_estimator_)
        return Combination(parts, order.tolist(), self._location, self._scale, final)


def location_and_scale(genuine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Median and interquartile range of each column, never 0."""
    low, location, high = np.quantile(genuine, [0.25, 0.5, 0.75], axis=0)
    spread = np.where(high > low, high - low, genuine.std(axis=0))
    return location, np.where(spread > 0, spread, 1.0)


def _are_named_detectors(given: Any) -> bool:
    return (
        isinstance(given, (list, tuple))
        and len(given) > 0
        and all(
            isinstance(pair, (list, tuple))
            and len(pair) == 2
            and isinstance(pair[0], str)
            and isinstance(unfrozen(pair[1]), Detector)
            for pair in given
        )
    )


def _log_odds(final: Any, given: np.ndarray) -> np.ndarray:
    scores = class_scores(final, given)
    return scores[:, 1] - scores[:, 0]
