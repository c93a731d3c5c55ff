"""What the exact attack on trees returns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sk_advdef.attacks._base import AttackResult


@dataclass(frozen=True, eq=False)
class TreeExactResult(AttackResult):
    """What is known of each row: broken, certified, or neither (unknown).

    Parameters
    ----------
    X_adv : array of the type, shape and dtype of the attacked ``X``
        The attacked rows; a row that is not fooled comes back unchanged.
    fooled : ndarray of bool of shape (n_samples,)
        Whether the row is broken: the model's own ``predict`` answers wrongly on its
        row of ``X_adv``.
    n_queries : ndarray of int of shape (n_samples,)
        How often ``predict`` was asked for the row.
    distortion : ndarray of float64 of shape (n_samples,)
        Length of the change in the attack's norm, in units of ``X``.
    certified : ndarray of bool of shape (n_samples,)
        Whether it is proved that nothing the attacker may do changes the answer.

    See Also
    --------
    TreeExact : The attack that returns this from ``run``.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.tree import DecisionTreeClassifier
    >>> from sk_advdef import TreeExact
    >>> X, y = load_iris(return_X_y=True)
    >>> model = DecisionTreeClassifier(random_state=0).fit(X, y)
    >>> result = TreeExact(eps=0.3, bounds=None).run(model, X, y)
    >>> bool((result.certified ^ result.fooled).all())
    True
    """

    certified: np.ndarray
