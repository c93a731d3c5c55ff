"""A classifier that rejects what a detector flags."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
from sklearn.base import ClassifierMixin, MetaEstimatorMixin, clone
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline
from sklearn.utils import _safe_indexing
from sklearn.utils.validation import check_is_fitted

from sk_advdef._base import Stamped, all_or_nothing
from sk_advdef._torch._models import (
    check_frozen_fitted,
    classes_of,
    is_frozen,
    is_net,
    predict,
    torch_generators_kept,
    unfrozen,
)
from sk_advdef._torch._registry import missing_view
from sk_advdef._validation import check_classifier, check_number, seed_from, with_seed
from sk_advdef.detection._base import Detector
from sk_advdef.detection._threshold import one_split


class RejectingClassifier(MetaEstimatorMixin, ClassifierMixin, Stamped):
    """Answer with a label of its own where a detector finds a row adversarial.

    Parameters
    ----------
    estimator : classifier
        Answers the rows that are not rejected. A classifier to be fitted, or
        ``FrozenEstimator(model)``.
    detector : detector
        Flags rows. With ``estimator=None`` it watches the classifier above: one model
        is fitted, and the rows that the detector's ``cv`` holds out are for its
        threshold. A detector with an estimator of its own is fitted on all rows, and
        ``FrozenEstimator(detector)`` is taken as it is.
    reject_label : label or "auto", default="auto"
        The answer for flagged rows, of the kind of the labels and not among them.
        "auto" is ``"rejected"`` for strings, else -1, or one less than the smallest
        label if -1 is taken.

    Attributes
    ----------
    estimator_ : estimator
        The fitted classifier.
    detector_ : estimator
        The fitted detector.
    classes_ : ndarray of shape (n_classes,)
        Sorted labels, without the one for rejection.
    reject_label_ : label
        The answer for flagged rows.
    n_features_in_ : int
        Number of features seen in ``fit`` (for stacked images, their first axis).
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of features seen in ``fit``, where ``X`` has names that are all strings.

    Raises
    ------
    ValueError
        If ``reject_label`` is among the labels or of another kind.
    TypeError
        If ``detector`` is neither a detector of this package nor frozen.

    See Also
    --------
    DropoutUncertaintyDetector : A detector.
    rejection_robust_error : What rejection is worth under attack.

    Notes
    -----
    There is no ``predict_proba``: a rejection is none of the classes. Bagging, voting
    and boosting of scikit-learn number the labels and would take a rejection for a
    class: put them inside, as ``estimator``, and not around this classifier.

    **What an adaptive attacker does to it**: he looks for a row that is wrong and not
    flagged, by lowering the detector's suspicion once the class is wrong. The attacks
    of this package do so by themselves when they meet this classifier. Rejection also
    opens an attack on availability: small changes that get genuine rows rejected.

    References
    ----------
    .. [1] F. Tramer, "Detecting Adversarial Examples Is (Nearly) As Hard As Classifying
       Them", ICML 2022, arXiv:2107.11630.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sk_advdef import DropoutUncertaintyDetector, RejectingClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> detector = DropoutUncertaintyDetector(random_state=0).fit(X, y)
    >>> defended = RejectingClassifier(detector.estimator_, detector).fit(X, y)
    >>> defended.reject_label_
    -1
    >>> defended.predict(X[:3])
    array([0, 0, 0])
    """

    def __init__(
        self, estimator: Any, detector: Any, *, reject_label: Any = "auto"
    ) -> None:
        self.estimator = estimator
        self.detector = detector
        self.reject_label = reject_label

    def __sklearn_tags__(self) -> Any:
        """Return scikit-learn's tags of this estimator."""
        tags = super().__sklearn_tags__()
        frozen = is_frozen(self.estimator)
        tags.target_tags.required = not frozen
        tags.input_tags.three_d_array = is_net(self.estimator)
        tags.non_deterministic = getattr(self.detector, "masks", "fixed") == "fresh"
        return tags

    def _missing_view(self) -> Any:
        missing = missing_view(getattr(self, "estimator_", self.estimator))
        detector = unfrozen(getattr(self, "detector_", self.detector))
        if missing is not None:
            return missing
        # attacks along the gradient have to pass the detector too
        if isinstance(detector, Pipeline):
            for _, step in detector.steps[:-1]:
                missing = missing_view(step, "transform")
                if step not in (None, "passthrough") and missing is not None:
                    return missing
            detector = unfrozen(detector.steps[-1][1])
        if not hasattr(detector, "_as_score_module"):
            return detector
        own = getattr(detector, "_missing_suspicion", None)
        return None if own is None else own()

    @all_or_nothing
    def fit(self, X: Any, y: Any = None) -> RejectingClassifier:
        """Fit the classifier, and the detector on rows that it has not seen.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, n_features), or stacked images
            Genuine rows. Around a frozen classifier all of them are for the detector,
            and must be rows that the classifier was not fitted on.
        y : array-like of shape (n_samples,) or None, default=None
            Labels; not needed around a frozen classifier.

        Returns
        -------
        self : RejectingClassifier
            The fitted classifier.
        """
        check_classifier(self, "estimator", self.estimator)
        X = self._rows(X, reset=True)
        detector = self.detector
        if not is_frozen(detector) and not isinstance(detector, Detector):
            raise TypeError(
                "The 'detector' parameter of RejectingClassifier must be a detector of "
                f"this package, or one as FrozenEstimator(detector). Got {detector!r} "
                "instead."
            )
        shared = not is_frozen(detector) and detector.estimator is None
        if is_frozen(self.estimator):
            check_frozen_fitted(self.estimator)
            self.estimator_ = self.estimator
            rows, labels, known = X, y, None
        else:
            y = self._labels(X, y)
            rows, labels, known = X, y, None
            if shared:
                seed = seed_from(detector.random_state)
                fitted, held = one_split(detector, detector.cv, X, y, seed)
                rows, labels = _safe_indexing(X, held), _safe_indexing(y, held)
                X, y = _safe_indexing(X, fitted), _safe_indexing(y, fitted)
                known = X, y
            self.estimator_ = self._adapted().fit(X, y)
        self.classes_ = classes_of(self.estimator_)
        self.reject_label_ = self._checked_label()
        if is_frozen(detector):
            self.detector_ = detector
        else:
            detector = clone(detector)
            if shared:
                detector.set_params(estimator=FrozenEstimator(self.estimator_))
            self.detector_ = detector._fit_on(rows, labels, known)
        return self

    def _adapted(self) -> Any:
        seed = getattr(self.detector, "random_state", None)
        if not is_net(self.estimator):
            model = clone(self.estimator)
            # a copy: the detector draws from its generator as it would by itself
            drawn = None if seed is None else seed_from(copy.deepcopy(seed))
            return model if drawn is None else with_seed(model, drawn)
        from sk_advdef._torch._net import with_adapter

        return with_adapter(self.estimator, seed)

    def _checked_label(self) -> Any:
        label, classes = self.reject_label, self.classes_
        text = isinstance(classes[0], str)
        dates = classes.dtype.kind in "mM"
        if dates or (classes.dtype.kind == "u" and classes.max() > 2**63 - 1):
            raise ValueError(
                "RejectingClassifier has no place for a rejection among labels "
                f"{'of ' + str(classes.dtype) if dates else 'beyond 2**63 - 1'}. Pass "
                "them as strings."
            )
        if isinstance(label, str) and label == "auto":
            if text:
                label = "rejected"
            else:
                label = -1 if -1 not in classes else int(classes.min()) - 1
        elif isinstance(label, str) != text:
            raise ValueError(
                f"reject_label={label!r} of RejectingClassifier is of another kind "
                f"than the labels {classes.tolist()}. Take a "
                f"{'string' if text else 'number'}."
            )
        elif not text:
            whole = classes.dtype.kind in "biu"
            check_number(
                self,
                "reject_label",
                label,
                integer=whole,
                # answers become int64
                low=-(2**63) if whole else -np.inf,
                high=2**63 - 1 if whole else np.inf,
                otherwise=', a string or "auto"',
            )
        if label in classes:
            raise ValueError(
                f"reject_label={label!r} of RejectingClassifier is among the labels "
                f"{classes.tolist()}. Take one that is not."
            )
        return label

    def predict(self, X: Any) -> np.ndarray:
        """Return the classifier's answers, or ``reject_label_`` where flagged.

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
        X = self._rows(X)
        with torch_generators_kept():
            answers = predict(self.estimator_, X)
        flagged = self.detector_.predict(X) == -1
        kind = np.result_type(answers, np.asarray([self.reject_label_]))
        if kind.kind == "f" and answers.dtype.kind in "iu":
            kind = np.dtype(np.int64)  # of uint64, which has no place for -1
        answers = answers.astype(kind)
        answers[flagged] = self.reject_label_
        return answers

    def _as_module(self) -> Any:
        from sk_advdef._torch._registry import build

        return build(self.estimator_)
