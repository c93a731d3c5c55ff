"""What an attacker may change in tabular data."""

from __future__ import annotations

import numbers
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np

from sk_advdef._validation import as_floats, check_number, check_option, invalid
from sk_advdef.attacks._space_rules import Rules
from sk_advdef.attacks._table import Table

SCALES = ("iqr", "std", "range")


class Named(dict[Any, Any]):
    """A mapping by column that is never changed, so that it has a hash."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))

    def _refuse(self, *args: Any, **params: Any) -> Any:
        raise TypeError("A FeatureSpace is never changed: make another one.")

    __setitem__ = __delitem__ = update = pop = popitem = clear = setdefault = _refuse
    __ior__ = _refuse

    def __reduce__(self) -> Any:
        return type(self), (dict(self),)


@dataclass(frozen=True, kw_only=True, repr=False)
class FeatureSpace:
    """What an attacker may change in rows of features, and by how much.

    One space serves every attack: pass it as ``space``. It is never changed and has
    neither ``get_params`` nor ``fit``, so ``clone`` copies it whole. Columns are named,
    or given by position; names need a DataFrame, or ``feature_names``. Columns of a
    DataFrame that are not numeric are kept as they are: where an attacker can change a
    category, encode it first (``pandas.get_dummies``) and name its columns in
    ``one_hot``. Columns of an integer or bool dtype are integer features without being
    named, which no ``eps`` below 1 moves: to let a flag flip, give it an eps of 1.

    Parameters
    ----------
    eps : float, sequence of floats, dict or None, default=None
        How far each feature may move, in [0, inf], in units of ``X``. A column that a
        dict does not name is not changed. A sequence has an entry a column. None leaves
        it to the attack's own ``eps``. An infinite one needs ``bounds``.
    bounds : tuple (low, high), dict of name to (low, high) or None, default=None
        Range of each feature. Where given, it takes the place of the attack's
        ``bounds``, and columns that a dict does not name have none.
    immutable : sequence of columns, default=()
        Columns that are not changed.
    increasing : sequence of columns, default=()
        Columns that only go up.
    decreasing : sequence of columns, default=()
        Columns that only go down.
    integer : sequence of columns, default=()
        Columns that hold whole numbers.
    one_hot : sequence of sequences of columns, default=()
        Groups of which exactly one column is 1 and the others 0. A change of category
        is one change and has no length: for these columns any ``eps`` above 0 allows
        it and 0 forbids it.
    relations : dict of column to dict of column to float, default=None
        Columns that follow others: the old value plus the sum of coefficient times
        change. A row whose dependent column would leave its own limits is changed less.
    max_changed : int or None, default=None
        Number of features that may change in a row, at least 1. A one-hot group counts
        once, a dependent column not at all.
    feature_names : sequence of str or None, default=None
        Names of the columns of arrays that have none.

    Raises
    ------
    ValueError
        If a parameter is not of the kind described.

    See Also
    --------
    PGD : An attack along the gradient that takes a space.
    RandomSearch : An attack by queries that takes a space.
    TreeExact : An exact answer for trees that takes a space.

    Notes
    -----
    Attacks along the gradient evaluate the row of the space that is nearest to where
    they are, and pass the gradient straight through. With ``norm="l2"`` the eps of a
    space are the half-axes of an ellipsoid. A change of category, and one of a feature
    whose eps is infinite, takes up nothing of the ball.

    *What is weaker than it could be.* `DeepFool`, `DDN` and `CarliniWagnerL2` look for
    the shortest change in units of ``X``, in which categories and features of an
    infinite eps count like all others, and take no account of the half-axes until the
    end: where a space has an eps, `PGD` and `APGD` find more.

    Examples
    --------
    >>> import pandas as pd
    >>> from sk_advdef import FeatureSpace
    >>> X = pd.DataFrame({"age": [30, 50], "debt": [0.5, 0.2], "at": ["Bern", "Rome"]})
    >>> space = FeatureSpace(eps={"age": 2, "debt": 0.1}, increasing=["age"])
    >>> moved = X.assign(age=[40, 10], debt=0.0)
    >>> space.project(moved, X)
       age  debt    at
    0   32   0.4  Bern
    1   50   0.1  Rome
    """

    eps: Any = None
    bounds: Any = None
    immutable: Any = ()
    increasing: Any = ()
    decreasing: Any = ()
    integer: Any = ()
    one_hot: Any = ()
    relations: Any = None
    max_changed: int | None = None
    feature_names: Any = field(default=None)

    def __post_init__(self) -> None:
        set_ = object.__setattr__
        for name in ("immutable", "increasing", "decreasing", "integer"):
            set_(self, name, _columns(name, getattr(self, name)))
        set_(self, "eps", _eps(self.eps))
        set_(self, "bounds", _bounds(self.bounds))
        set_(self, "one_hot", _groups(self.one_hot))
        set_(self, "relations", _relations(self.relations))
        if self.max_changed is not None:
            k = check_number(
                "FeatureSpace", "max_changed", self.max_changed, integer=True, low=1
            )
            set_(self, "max_changed", int(k))
        if self.feature_names is not None:
            names = self.feature_names
            try:
                names = tuple(names)
                told = len(set(names)) == len(names)
            except TypeError:  # no sequence, or of what has no hash
                told = False
            if isinstance(self.feature_names, (str, bytes)) or not told:
                allowed = "None or a sequence of different names"
                raise invalid("FeatureSpace", "feature_names", allowed, names)
            set_(self, "feature_names", names)

    def __repr__(self) -> str:
        said = []
        for f in fields(self):
            value = getattr(self, f.name)
            if value is not None and not (f.name != "eps" and value in ((), {})):
                said.append(f"{f.name}={value!r}")
        return f"FeatureSpace({', '.join(said)})"

    @classmethod
    def from_data(
        cls,
        X: Any,
        *,
        eps: Any,
        scale: str | None = "iqr",
        bounds: Any = "data",
        **params: Any,
    ) -> FeatureSpace:
        """Make a space whose eps and bounds are read once from data.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, n_features)
            Rows to read from, such as the training set. With ``bounds="data"`` rows
            beyond their smallest and largest values are refused later.
        eps : float, sequence of floats or dict
            How far each feature may move, as a multiple of its scale.
        scale : {"iqr", "std", "range"} or None, default="iqr"
            The interquartile range (where that is 0, as for a feature that is mostly
            the same, the standard deviation), the standard deviation, or the range of
            each column. None leaves eps in units of ``X``.
        bounds : "data", tuple (low, high), dict or None, default="data"
            "data" takes the smallest and largest value of each column; anything else is
            taken as it is. None leaves them to the attack, whose own are (0, 1) unless
            it is told ``bounds=None`` too.
        **params : dict
            The other parameters of the class.

        Returns
        -------
        space : FeatureSpace
            By name where ``X`` is a DataFrame.
        """
        check_option("FeatureSpace.from_data", "scale", scale, (*SCALES, None))
        plain = cls(eps=eps, bounds=None if isinstance(bounds, str) else bounds)
        if plain.eps is None:
            raise invalid("FeatureSpace.from_data", "eps", "a float or several", eps)
        table = Table(X, keep_text=True)
        names = params.setdefault("feature_names", table.names)
        table.names = None if names is None else tuple(names)
        units = _scale(table.values.astype(np.float64), scale)
        reach = Rules(cls(eps=plain.eps), table).eps * units
        if isinstance(bounds, str):
            check_option("FeatureSpace.from_data", "bounds", bounds, ("data",))
            low, high = table.values.min(axis=0), table.values.max(axis=0)
            bounds = _by_name(table, list(zip(low, high, strict=True)))
            if not isinstance(bounds, dict):
                bounds = (low, high)
            space = cls(eps=_by_name(table, reach), bounds=bounds, **params)
            # names only: rows that nobody attacks need be in no group
            replace(space, one_hot=(), integer=()).check(X)
            return space
        return cls(eps=_by_name(table, reach), bounds=bounds, **params)

    def _rules(self, X: Any) -> Rules:
        return Rules(self, self._table(X))

    def _table(self, X: Any) -> Table:
        table = Table(X, keep_text=True)
        if table.names is None:
            table.names = self.feature_names
            if table.names is not None and len(table.names) != table.width:
                raise ValueError(
                    f"feature_names of FeatureSpace has {len(table.names)} names for "
                    f"the {table.width} columns of X."
                )
        return table

    def check(self, X: Any) -> None:
        """Check that rows lie in the space themselves.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, n_features)
            Rows.

        Raises
        ------
        ValueError
            If a column that is named is missing, a value is outside ``bounds``, an
            integer feature has a fraction, or a one-hot group is none.
        """
        self._rules(X)

    def limits(self, X: Any) -> tuple[np.ndarray, np.ndarray]:
        """Return how far each feature of each row may move by itself.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, n_features)
            Rows in the space.

        Returns
        -------
        lower : ndarray of shape (n_samples, n_numeric_features)
            Smallest values, of the numeric columns.
        upper : ndarray of shape (n_samples, n_numeric_features)
            Largest values.
        """
        rules = self._rules(X)
        return rules.lower, rules.upper

    def project(self, values: Any, X: Any) -> Any:
        """Move changed rows into the space.

        Rows that are in it come back unchanged.

        Parameters
        ----------
        values : array-like or DataFrame of shape (n_samples, n_features)
            Changed rows.
        X : array-like or DataFrame of shape (n_samples, n_features)
            The rows that they were made of, in the space.

        Returns
        -------
        projected : array of the type, shape and dtype of ``X``
            Rows that satisfy everything exactly.
        """
        rules = self._rules(X)
        moved = Table(values, keep_text=True).values.astype(np.float64)
        if moved.shape != rules.X.shape:
            raise ValueError(f"values has shape {moved.shape}, X {rules.X.shape}.")
        return rules.table.restore(rules.project(moved))

    def contains(self, values: Any, X: Any) -> np.ndarray:
        """Tell which changed rows are in the space.

        Parameters
        ----------
        values : array-like or DataFrame of shape (n_samples, n_features)
            Changed rows.
        X : array-like or DataFrame of shape (n_samples, n_features)
            The rows that they were made of, in the space.

        Returns
        -------
        inside : ndarray of bool of shape (n_samples,)
            Whether nothing would have to be moved.
        """
        moved, table = Table(values, keep_text=True), self._table(X)
        projected = Rules(self, table).project(moved.values.astype(np.float64))
        inside = (projected == moved.values).all(axis=1)
        return inside & moved.same_text(table)


def _column(name: Any) -> Any:
    return int(name) if isinstance(name, numbers.Integral) else name


def _columns(parameter: str, given: Any) -> tuple[Any, ...]:
    try:
        columns = () if given is None else tuple(given)
        named = given is not None and all(map(_is_name, columns))
    except TypeError:
        named = False
    if isinstance(given, (str, bytes)) or not named:
        raise invalid("FeatureSpace", parameter, "a sequence of columns", given)
    return tuple(_column(name) for name in columns)


def _is_name(name: Any) -> bool:
    """Whether this may be the name of a column, as frames have them, or its number."""
    hash(name)
    return isinstance(name == name, (bool, np.bool_))


def _mapping(given: Mapping[Any, Any]) -> dict[Any, Any]:
    return {_column(name): value for name, value in given.items()}


def _numbers(given: Any) -> Any:
    values = as_floats(given)
    if values.ndim > 1 or np.isnan(values).any():
        raise ValueError
    return float(values) if values.ndim == 0 else tuple(values.tolist())


def _eps(given: Any) -> Any:
    if given is None:
        return None
    try:
        if isinstance(given, Mapping):
            named = {name: float(value) for name, value in _mapping(given).items()}
            flat, eps = list(named.values()), Named(named)
        else:
            eps = flat = _numbers(given)
        if isinstance(given, (bool, str)) or not (np.asarray(flat) >= 0).all():
            raise ValueError
    except (TypeError, ValueError):
        allowed = "None, a float in [0, inf], a sequence or a dict of them"
        raise invalid("FeatureSpace", "eps", allowed, given) from None
    return eps


def _bounds(given: Any) -> Any:
    if given is None:
        return None
    try:
        if isinstance(given, Mapping):
            pairs = {n: tuple(map(float, pair)) for n, pair in _mapping(given).items()}
            ends: Iterable[Any] = pairs.values()
            bounds: Any = Named(pairs)
        else:
            low, high = map(_numbers, given)
            bounds, ends = (low, high), [(low, high)]
        for low, high in ends:
            if not np.less_equal(low, high).all():
                raise ValueError
    except (TypeError, ValueError):
        allowed = (
            "None, a pair (low, high) of numbers or sequences, or a dict of pairs, "
            "low <= high"
        )
        raise invalid("FeatureSpace", "bounds", allowed, given) from None
    return bounds


def _groups(given: Any) -> tuple[tuple[Any, ...], ...]:
    allowed = "a sequence of groups of at least two columns, no column twice"
    try:
        parts = None if isinstance(given, (str, bytes)) else tuple(given)
    except TypeError:
        parts = None
    if parts is None:
        raise invalid("FeatureSpace", "one_hot", allowed, given)
    groups = tuple(_columns("one_hot", group) for group in parts)
    members = [name for group in groups for name in group]
    if len(set(members)) < len(members) or min(map(len, groups), default=2) < 2:
        raise invalid("FeatureSpace", "one_hot", allowed, given)
    return groups


def _relations(given: Any) -> Named:
    try:
        found = {
            name: Named({n: float(w) for n, w in _mapping(parts).items()})
            for name, parts in _mapping({} if given is None else given).items()
        }
        if not all(np.isfinite(list(parts.values())).all() for parts in found.values()):
            raise ValueError
    except (AttributeError, TypeError, ValueError):
        allowed = "None or a dict of a column to a dict of columns to floats"
        raise invalid("FeatureSpace", "relations", allowed, given) from None
    return Named(found)


def _scale(values: np.ndarray, scale: str | None) -> np.ndarray:
    if scale is None:
        return np.ones(values.shape[1])
    if scale == "range":
        return np.ptp(values, axis=0)
    spread = values.std(axis=0)
    if scale == "std":
        return spread
    low, high = np.percentile(values, [25, 75], axis=0)
    return np.where(high > low, high - low, spread)


def _by_name(table: Table, values: Sequence[Any] | np.ndarray) -> Any:
    if table.names is None:
        return np.asarray(values)
    at = np.asarray(table.numeric)
    return {table.names[i]: value for i, value in zip(at, values, strict=True)}
