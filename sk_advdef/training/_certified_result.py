"""What a certificate says, and how it comes about."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from sk_advdef._torch._methods import METHODS
from sk_advdef._torch._models import classes_of, predict, torch_generators_kept
from sk_advdef._validation import check_option
from sk_advdef.attacks._geometry import check_bounds, check_eps
from sk_advdef.attacks._table import Table, check_columns


@dataclass(frozen=True, eq=False)
class CertifiedResult:
    """Which answers are proved to stay as they are, row by row.

    Parameters
    ----------
    certified : ndarray of bool of shape (n_samples,)
        Whether no row within ``eps`` and the box, of float32 or float64, is answered
        otherwise. True is proved; False is "not proved", which is less than "broken".
    margin : ndarray of float64 of shape (n_samples,)
        Lower bound of the score of the class answered minus the best other one,
        anywhere within ``eps`` and the box; above 0 where the row is certified. How low
        it is where it is not says little: a row is done with at the first class over
        which no lead could be proved.

    See Also
    --------
    CertifiedClassifier : Its ``certify`` returns this.

    Examples
    --------
    >>> from sk_advdef import CertifiedResult
    >>> import numpy as np
    >>> result = CertifiedResult(np.array([True, False]), np.array([0.3, -2.0]))
    >>> bool((result.certified == (result.margin > 0)).all())
    True
    """

    certified: np.ndarray
    margin: np.ndarray


def box_of(
    owner: object, X: np.ndarray, eps: Any, bounds: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Return the box within ``eps`` of each row and within ``bounds``, as float64.

    Its lower and upper ends are rounded outward, to what they may become in float32; a
    row on the rounded end of ``bounds`` stays inside.
    """
    low, high = check_bounds(owner, bounds, X)
    eps = check_eps(owner, eps, X.shape[1:])
    exact = X.astype(np.float64)
    lower = np.nextafter(np.maximum(exact - eps, low), -np.inf)
    upper = np.nextafter(np.minimum(exact + eps, high), np.inf)
    with np.errstate(over="ignore"):
        lower = np.minimum(lower, lower.astype(np.float32))
        upper = np.maximum(upper, upper.astype(np.float32))
    return np.minimum(lower, exact), np.maximum(upper, exact)


def certificate(
    owner: object, estimator: Any, X: Any, eps: Any, bounds: Any, method: str
) -> CertifiedResult:
    """Certify the answers of a fitted estimator by bounds of its view."""
    from sk_advdef._torch._bounds import bounded_view, certified_margins

    check_option(owner, "method", method, METHODS)
    check_columns(owner, estimator, X)
    table = Table(X)
    lower, upper = box_of(owner, table.values, eps, bounds)
    with torch_generators_kept():
        answers = predict(estimator, X)
        classes = classes_of(estimator)
        columns = np.searchsorted(classes, answers)
        view = bounded_view(estimator)
        margin = certified_margins(
            view, lower, upper, columns, dtype=table.computed, method=method
        )
    return CertifiedResult(margin > 0, margin)
