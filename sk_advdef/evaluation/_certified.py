"""The share of rows that no attack can take, as a score."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.utils import _safe_indexing, check_consistent_length, column_or_1d

from sk_advdef._torch._methods import METHODS
from sk_advdef._torch._models import (
    classes_of,
    predict,
    rejection_of,
    torch_generators_kept,
    with_gradients,
)
from sk_advdef._validation import check_model, check_option
from sk_advdef.attacks._geometry import NORMS, check_eps
from sk_advdef.attacks._table import Table, as_floats, as_rows, check_columns
from sk_advdef.attacks._tree_exact import TreeExact
from sk_advdef.attacks._trees import is_trees
from sk_advdef.evaluation._closed_form import linear_margins
from sk_advdef.evaluation._scores import check_kind, chosen
from sk_advdef.training._certified_result import box_of, certificate

NAME = "certified_accuracy_score"


def certified_accuracy_score(
    estimator: Any,
    X: Any,
    y: Any,
    eps: Any,
    *,
    norm: str = "linf",
    bounds: Any = (0.0, 1.0),
    method: str = "ibp",
) -> float:
    """Certified accuracy: the share of rows proved to be answered rightly in a ball.

    A row counts if ``predict`` is right on it and it is proved that it stays so for
    every row within ``eps`` and ``bounds``. It is a lower bound of the accuracy under
    any attack, known or yet to be found. How it is proved follows from the estimator:

    - trees, forests and boosting: :class:`TreeExact`, exact but for its time limit;
    - linear models, behind scalers, PCA and selectors too: in closed form, exact but
      for rounding;
    - whatever else has a differentiable view: bounds of that view by ``method``, which
      are loose unless the net was trained for them, as :class:`CertifiedClassifier`
      does.

    Parameters
    ----------
    estimator : estimator
        A fitted classifier.
    X : array-like or DataFrame of shape (n_samples, n_features), or stacked images
        Rows inside ``bounds``.
    y : array-like of shape (n_samples,)
        True labels.
    eps : float or array of floats that fits one sample
        Radius of the ball, in [0, inf), in units of ``X``.
    norm : {"linf", "l2"}, default="linf"
        Norm of the ball. "l2" is for trees and linear models.
    bounds : tuple (low, high) or None, default=(0.0, 1.0)
        Box that input stays in: two numbers, or arrays with a value a feature; None
        for no box.
    method : {"ibp", "crown-ibp", "alpha-crown"}, default="ibp"
        How nets are bounded: by intervals, or where these leave a row open by linear
        bounds too, which prove more and take longer: see *Methods* in the notes of
        :class:`CertifiedClassifier`. Trees and linear models need none of it.

    Returns
    -------
    score : float
        Share of rows, in [0, 1].

    Raises
    ------
    TypeError
        If a part of the estimator cannot be bounded; the message names it.
    ValueError
        If the estimator rejects, ``X`` lies outside ``bounds``, or ``norm="l2"`` is
        asked of anything but trees and linear models.

    See Also
    --------
    CertifiedClassifier : A net trained so that much can be certified.
    robust_accuracy_score : Accuracy under the attacks that one runs, an upper bound.

    Notes
    -----
    For searches pass ``functools.partial(certified_accuracy_score, eps=...)`` as
    ``scoring``: a scorer of scikit-learn is called with a fitted estimator, rows and
    labels, as this is. ``bounds`` are those given here, whatever the model was trained
    with: pass those of tables that are not scaled to (0, 1), or None.

    Rounding is accounted for, of rows in float32 and in float64: see
    :class:`CertifiedClassifier`. On features far from 0 a scaler rounds much in
    float32, and little is certified: take the offset off before. On rows of float16,
    transformers of scikit-learn compute in float16 and next to nothing is certified:
    pass float32.

    Examples
    --------
    >>> from functools import partial
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.model_selection import cross_val_score
    >>> from sk_advdef import certified_accuracy_score
    >>> X, y = load_iris(return_X_y=True)
    >>> model = LogisticRegression(max_iter=1000).fit(X, y)
    >>> certified = certified_accuracy_score(model, X, y, 0.3, bounds=None)
    >>> 0.5 < certified < model.score(X, y)
    True
    >>> scorer = partial(certified_accuracy_score, eps=0.3, bounds=None)
    >>> bool(cross_val_score(model, X, y, scoring=scorer, cv=3).mean() > 0.5)
    True
    """
    certified = certified_rows(
        estimator, X, y, eps, norm=norm, bounds=bounds, method=method
    )
    return float(certified.mean())


@with_gradients
def certified_rows(
    estimator: Any,
    X: Any,
    y: Any,
    eps: Any,
    *,
    norm: str = "linf",
    bounds: Any,
    method: str = "ibp",
) -> np.ndarray:
    """Tell for each row whether it is right and proved to stay so."""
    check_model(NAME, estimator)
    check_option(NAME, "norm", norm, NORMS)
    check_option(NAME, "method", method, METHODS)
    estimator = chosen(estimator)
    X, y = as_rows(X), column_or_1d(y)
    check_consistent_length(X, y)
    if rejection_of(estimator) is not None:
        raise ValueError(
            f"{NAME} cannot tell what {type(estimator).__name__} rejects within the "
            "ball. Certify the model inside, estimator_."
        )
    check_kind(NAME, estimator, y)
    if is_trees(estimator):
        exact = TreeExact(eps, norm=norm, bounds=bounds)
        certified = exact.run(estimator, X, y).certified
        sure = np.flatnonzero(certified)
        if len(sure) and Table(X, copy=False).narrow:
            # values of that dtype are not all that lie in the ball, nor computed alike
            floats = as_floats(_safe_indexing(X, sure))
            certified[sure] = exact.run(estimator, floats, y[sure]).certified
        return certified
    with torch_generators_kept():
        right = predict(estimator, X) == y
    return right & (_margins(estimator, X, eps, norm, bounds, method) > 0)


def _margins(
    estimator: Any, X: Any, eps: Any, norm: str, bounds: Any, method: str
) -> np.ndarray:
    from sk_advdef._torch._affine import affine_map, is_affine, rounding_of
    from sk_advdef._torch._bounds import bounded_view, dtypes_within

    check_columns(NAME, estimator, X)
    view = bounded_view(estimator)
    if not is_affine(view):
        if norm != "linf":
            raise ValueError(
                f"{NAME} bounds {type(estimator).__name__} by boxes, which know "
                'norm="linf" only. What is certified there holds for the L2 ball of '
                "the same eps too, which lies inside."
            )
        return certificate(NAME, estimator, X, eps, bounds, method).margin
    table = Table(X)
    values = table.values
    ends = box_of(NAME, values, eps, bounds)
    classes = classes_of(estimator)
    columns = np.searchsorted(classes, predict(estimator, X))
    kinds = dtypes_within(view, table.computed)
    rounding = np.max([rounding_of(view, *ends, kind) for kind in kinds], axis=0)
    return linear_margins(
        *affine_map(view, values.shape[1]),
        values.astype(np.float64),
        ends,
        columns,
        rounding,
        eps=check_eps(NAME, eps, values.shape[1:]),
        norm=norm,
    )
