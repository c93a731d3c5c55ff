"""A classifier that says no more than it must."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.utils.metaestimators import available_if

from sk_advdef._base import all_or_nothing
from sk_advdef._torch._models import rejection_of, unfrozen
from sk_advdef._validation import check_number, check_option
from sk_advdef.concealment._feedback import noisy, one_hot, only_top, rounded
from sk_advdef.concealment._secrets import VARIABLE, key_from
from sk_advdef.concealment._wrapping import WrappingClassifier, has_proba

REVEALS = ("label", "top", "rounded", "noisy")


def _tells_proba(self: ConcealedClassifier) -> bool:
    if isinstance(self.reveal, str) and self.reveal == "label":
        return rejection_of(self._model) is None
    return has_proba(self)


class ConcealedClassifier(WrappingClassifier):
    """Answer with less than the model knows, and with errors that tell nothing.

    Labels are those of the model. Class probabilities are reduced, and always name the
    model's own label: its column has the largest value, with no tie, and rows sum to
    one. There is no ``decision_function``.

    Parameters
    ----------
    estimator : classifier
        A classifier to be fitted, or ``FrozenEstimator(model)``, around which no
        ``fit`` is needed.
    reveal : {"label", "top", "rounded", "noisy"}, default="label"
        What ``predict_proba`` tells. "label": one for the label, zero elsewhere; works
        for any classifier. "top": the probability of the label, the rest spread evenly.
        "rounded": rounded to ``decimals``. "noisy": noise on the log-probabilities.
    decimals : int, default=1
        Decimals that "rounded" keeps, in [0, 12].
    noise : float, default=0.5
        Standard deviation of the noise of "noisy", in units of log-probability, in
        [0, inf).
    cell_size : float, default=0.1
        Width of the cells of the input space, in units of the features, in (0, inf).
        Inputs of one cell get the same noise.
    secret : str, default="SK_ADVDEF_SECRET"
        Name of the environment variable with the secret that "noisy" draws from, of at
        least 16 characters. Unset, a key is drawn for each process, with a warning.

    Attributes
    ----------
    estimator_ : estimator
        The fitted classifier.
    classes_ : ndarray of shape (n_classes,)
        Labels, a column of ``predict_proba`` each.
    n_features_in_ : int
        Number of features seen in ``fit`` (for stacked images, their first axis).
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of features seen in ``fit``, where ``X`` has names that are all strings.

    Raises
    ------
    ValueError
        If a parameter is not of the kind described, or ``reveal="noisy"`` gets rows
        that are not all numbers.
    RuntimeError
        By ``predict`` and ``predict_proba`` where the model itself fails on an input
        that is well formed. The model's own error goes to the log
        "sk_advdef.concealment". Input that is not well formed gets scikit-learn's
        usual errors.

    See Also
    --------
    GuardedClassifier : Notices who asks too often nearly the same.

    Notes
    -----
    ``as_module`` looks straight through: hiding is not robustness.

    **What an adaptive attacker does to it**: he makes do with labels. Attacks on
    labels, such as `HopSkipJump`, need more queries and reach the same changes, and a
    copy of the model trained on labels serves for `Transfer`. "rounded" and "top" still
    tell of the way to the boundary wherever the top probability moves. The noise of
    "noisy" is the same for all of a cell: it hides no difference between two queries in
    one, so gradients come through as they are. Over neighboring cells it averages out:
    with queries in m cells its standard deviation falls as one over the square root of
    m.

    References
    ----------
    .. [1] F. Tramer, F. Zhang, A. Juels, M. Reiter, T. Ristenpart, "Stealing Machine
       Learning Models via Prediction APIs", USENIX Security 2016, arXiv:1609.02943.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sk_advdef import ConcealedClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> model = LogisticRegression(max_iter=1000)
    >>> ConcealedClassifier(model).fit(X, y).predict_proba(X[:1])
    array([[1., 0., 0.]])
    >>> ConcealedClassifier(model, reveal="rounded").fit(X, y).predict_proba(X[70:71])
    array([[0. , 0.4, 0.6]])
    """

    def __init__(
        self,
        estimator: Any,
        *,
        reveal: str = "label",
        decimals: int = 1,
        noise: float = 0.5,
        cell_size: float = 0.1,
        secret: str = VARIABLE,
    ) -> None:
        self.estimator = estimator
        self.reveal = reveal
        self.decimals = decimals
        self.noise = noise
        self.cell_size = cell_size
        self.secret = secret

    def _check_parameters(self) -> None:
        check_option(self, "reveal", self.reveal, REVEALS)
        check_number(self, "decimals", self.decimals, integer=True, low=0, high=12)
        check_number(self, "noise", self.noise, low=0)
        check_number(self, "cell_size", self.cell_size, low=0, closed="neither")
        if self.reveal == "noisy":
            self._key()

    def _key(self) -> bytes:
        return key_from(self, self.secret, "noise of probabilities")

    @all_or_nothing
    def fit(self, X: Any, y: Any = None) -> ConcealedClassifier:
        """Fit the classifier within; a frozen one stays as it is.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, n_features), or stacked images
            Rows.
        y : array-like of shape (n_samples,) or None, default=None
            Labels; not needed around a frozen classifier.

        Returns
        -------
        self : ConcealedClassifier
            The fitted classifier.
        """
        self._fit_model(X, y)
        return self

    def set_params(self, **params: Any) -> ConcealedClassifier:
        """Set parameters; another frozen classifier answers at once.

        Parameters
        ----------
        **params : dict
            Parameters, or those of what is within, as ``estimator__name``.

        Returns
        -------
        self : ConcealedClassifier
            The classifier.
        """
        before = unfrozen(self.estimator)
        super().set_params(**params)
        is_other = unfrozen(self.estimator) is not before
        if is_other and self._is_ready_without_fit():
            self._forget_adopted()
        return self

    def _numbers(self, X: Any) -> np.ndarray:
        try:
            return np.asarray(X, dtype=np.float64)
        except (TypeError, ValueError):
            pass
        raise ValueError(
            f"reveal={self.reveal!r} of ConcealedClassifier draws its noise by where a "
            'row lies, and X is not all numbers. Take "rounded" or "top", or encode X '
            "before."
        )

    def predict(self, X: Any) -> np.ndarray:
        """Return the labels of the classifier within.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, n_features), or stacked images
            Rows.

        Returns
        -------
        y : ndarray of shape (n_samples,)
            Labels.
        """
        self._adopt()
        return self._ask("predict", self._inputs(X))

    @available_if(_tells_proba)
    def predict_proba(self, X: Any) -> np.ndarray:
        """Return class probabilities that are reduced to what ``reveal`` says.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, n_features), or stacked images
            Rows.

        Returns
        -------
        proba : ndarray of shape (n_samples, n_classes)
            Probabilities; rows sum to one, and the largest is that of the label.
        """
        self._adopt()
        X = self._inputs(X)
        winners = self._places(self._ask("predict", X))
        if self.reveal == "label":
            return one_hot(winners, len(self.classes_))
        proba = self._ask("predict_proba", X)
        if self.reveal == "top":
            return only_top(proba, winners)
        if self.reveal == "rounded":
            return rounded(proba, winners, self.decimals)
        return noisy(
            proba,
            winners,
            self._numbers(X),
            scale=self.noise,
            cell_size=self.cell_size,
            key=self._key(),
        )
