"""The door of every attack: arrays and frames in, the same kind out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from sklearn.compose import ColumnTransformer
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import FeatureUnion, Pipeline
from sklearn.utils import check_array

from sk_advdef._validation import name_of

#: From here on float64 does not hold all whole numbers.
EXACT = 2**53


class Table:
    """The input at the door: a NumPy array to work on, and the way back.

    ``values`` is float32 or float64; without ``copy`` it may be the input itself.
    ``restore`` gives rows back in the type and dtype that came in; what that does not
    hold is rounded toward the original value, which keeps the result in the ball.
    """

    def __init__(self, X: Any, *, keep_text: bool = False, copy: bool = True) -> None:
        X = as_rows(X) if _is_frame(X) else X
        self._given: Any = X if _is_frame(X) else None
        #: positions of the numeric columns among all; the others are kept aside
        self.numeric: Any = _numeric_columns(X, keep_text) if _is_frame(X) else None
        #: names of all columns, None where there are none
        self.names: Any = list(X.columns) if _is_frame(X) else None
        given = X if self.numeric is None else _frame_values(X, self.numeric)
        given = check_array(given, allow_nd=True, dtype="numeric", input_name="X")
        self.dtype = given.dtype
        small = given.dtype in (np.float32, np.float16, np.uint8, np.int8)
        copy = copy or not given.flags.carray  # torch warns of what is read-only
        self.values = given.astype(np.float32 if small else np.float64, copy=copy)
        # the dtype of each column of a frame, or the one of an array
        kinds = [self.dtype] if self.numeric is None else _kinds(X, self.numeric)
        self._kinds = kinds
        if self.numeric is None:
            self.numeric = list(range(self.width))
        self._whole = np.array([k.kind in "iub" for k in kinds])
        if any(k.kind in "iu" and k.itemsize > 4 for k in kinds):
            self._refuse_inexact()
        ends = [_ends(k, self.values.dtype) for k in kinds]
        self._lowest, self._highest = np.array(ends).T
        self._narrow = [
            (i, k)
            for i, k in enumerate(kinds)
            if k.kind == "f" and k.itemsize < self.values.itemsize
        ]

    def __len__(self) -> int:
        return len(self.values)

    def _refuse_inexact(self) -> None:
        top = np.abs(self.values)[..., self.whole].max(initial=0)
        if top >= EXACT:
            raise ValueError(
                f"X has whole numbers up to {top:g}, and attacks compute with float64, "
                "which holds those below 2**53. Scale X, or pass it as floats."
            )

    def held(self, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Narrow a box to what narrow integers hold; wide ones are no box."""
        narrow = np.array([k.kind in "iub" and k.itemsize <= 2 for k in self._kinds])
        return (
            np.maximum(low, np.where(narrow, self._lowest, -np.inf)),
            np.minimum(high, np.where(narrow, self._highest, np.inf)),
        )

    def settle(self, values: np.ndarray, rows: Any) -> np.ndarray:
        """Round what the given dtypes cannot hold toward the original."""
        start = self.values[rows]
        if np.isfinite(self._highest).any():
            kept = np.clip(values, self._lowest, self._highest)
            values = kept.astype(values.dtype, copy=False)
        if self._whole.any():
            whole = start + np.trunc(values - start)
            values = np.where(self._whole, whole, values)
        for i, dtype in self._narrow:
            at = ... if self._given is None else (slice(None), i)
            values = values.copy()
            values[at] = _toward(start[at], values[at], dtype)
        return values

    def restore(self, values: np.ndarray, rows: Any = slice(None)) -> Any:
        """Return ``values``, settled already, as the given type had these rows."""
        if self._given is None:
            return values.astype(self.dtype)
        return _like_frame(self._given, values, rows, self.numeric)

    @property
    def computed(self) -> np.dtype:
        """The dtype that models compute in on these rows."""
        # scikit-learn's transformers stay in float16
        return self.dtype if self.dtype == np.float16 else self.values.dtype

    @property
    def width(self) -> int:
        """Number of columns, with those that are kept aside."""
        return self.values.shape[1] if self._given is None else len(self.names)

    @property
    def whole(self) -> np.ndarray:
        """Which numeric columns are of an integer or bool dtype."""
        return np.broadcast_to(self._whole, self.values.shape[1:])

    @property
    def narrow(self) -> bool:
        """Whether some numbers came in a dtype that is not float64."""
        return any(kind != np.float64 for kind in self._kinds)

    def kind(self, at: int) -> np.dtype:
        """Return the dtype that a numeric column came in."""
        return self._kinds[at if len(self._kinds) > 1 else 0]

    def cast(self, values: np.ndarray, at: int) -> np.ndarray:
        """Round float64 values of one column to what its dtype holds."""
        kind = self.kind(at)
        cast = values.astype(kind) if kind.kind == "f" else values
        return cast.astype(self.values.dtype)

    def same_text(self, other: Table) -> np.ndarray:
        """Tell for each row whether what is kept aside is the same in both."""
        same = np.ones(len(self), dtype=bool)
        if self._given is None:
            return same
        for i in set(range(len(self.names))) - set(self.numeric):
            name = self.names[i]
            mine, theirs = np.asarray(self._given[name]), np.asarray(other._given[name])
            same &= np.equal(mine, theirs, dtype=object).astype(bool)
        return same


def as_rows(X: Any) -> Any:
    """Return a frame as it is, and anything else as an array to pick rows from."""
    if not _is_frame(X):
        return check_array(
            X, dtype=None, allow_nd=True, ensure_all_finite=False, input_name="X"
        )
    if 0 in X.shape:
        check_array(np.empty(X.shape), input_name="X")  # refuses it
    return X


def as_floats(X: Any) -> Any:
    """Return rows of numbers as float64, a frame as a frame."""
    values = Table(X).values.astype(np.float64)
    if not _is_frame(X):
        return values
    if hasattr(X, "iloc"):
        return X.astype(np.float64)
    names = X.columns
    return type(X)([type(X[k])(k, v) for k, v in zip(names, values.T, strict=True)])


def _is_frame(X: Any) -> bool:
    return hasattr(X, "columns") and hasattr(X, "to_numpy")


def _toward(start: np.ndarray, values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    cast = values.astype(dtype)
    far = np.abs(cast.astype(np.float64) - start) > np.abs(
        values.astype(np.float64) - start
    )
    return np.where(far, np.nextafter(cast, start.astype(dtype)), cast)


def check_columns(owner: object, model: Any, X: Any) -> None:
    """Refuse a frame whose columns are not those of ``fit``, in their order.

    A ColumnTransformer picks columns by name, its view by position.
    """
    if not _is_frame(X):
        return
    given = list(X.columns)
    names = next((n for n in _columns_of(model) if n != given), None)
    if names is None or text_columns(X):  # which views refuse in words of their own
        return
    raise ValueError(
        f"{name_of(owner)} needs the columns that the estimator, and each part of it "
        f"that picks them, was fitted on, in their order: {names}. Got {given}."
    )


def _columns_of(model: Any) -> Iterator[list[Any]]:
    """Yield the names of the columns that each part saw that sees those of the input.

    What stands behind other steps sees their columns, whatever these are called.
    """
    if hasattr(model, "feature_names_in_"):
        yield list(model.feature_names_in_)
    if isinstance(model, Pipeline):
        steps = (step for _, step in model.steps if step not in (None, "passthrough"))
        parts: Any = [next(steps, None)]
    elif isinstance(model, FeatureUnion):
        parts = [one for _, one in model.transformer_list]
    elif isinstance(model, ColumnTransformer):
        parts = []
    elif isinstance(model, FrozenEstimator) or not hasattr(model, "get_params"):
        parts = [getattr(model, "estimator", None)]
    else:
        kept = vars(model).items()
        parts = [v for k, v in kept if k.endswith("_") and k != "final_estimator_"]
    for part in parts:
        for one in part if isinstance(part, (list, tuple)) else [part]:
            if hasattr(one, "fit") or hasattr(one, "predict_proba"):
                yield from _columns_of(one)


def text_columns(X: Any) -> list[Any]:
    """Return the names of the columns of a frame that are not numeric."""
    return [c for c, t in zip(X.columns, _dtypes(X), strict=True) if not _numeric(t)]


def _numeric_columns(X: Any, keep_text: bool) -> list[int]:
    numeric = [i for i, t in enumerate(_dtypes(X)) if _numeric(t)]
    if len(numeric) < len(X.columns) and not keep_text:
        raise ValueError(
            f"The columns {text_columns(X)} of X are not numeric. An attack changes "
            "numbers: encode them first, and attack the model behind the encoder. An "
            "attack with a FeatureSpace as its space keeps them as they are."
        )
    return numeric


def _frame_values(X: Any, numeric: list[int]) -> np.ndarray:
    if len(numeric) < len(X.columns):
        X = X.iloc[:, numeric] if hasattr(X, "iloc") else X[:, numeric]
    return np.asarray(X.to_numpy())


def _dtypes(X: Any) -> list[Any]:
    return list(X.dtypes)


def _numeric(dtype: Any) -> bool:
    try:
        return _kind(dtype).kind in "iufb"
    except TypeError:
        return False


def _kind(dtype: Any) -> np.dtype:
    name = str(dtype).lower()
    return np.dtype("bool" if name == "boolean" else name)


def _kinds(X: Any, numeric: list[int]) -> list[np.dtype]:
    dtypes = _dtypes(X)
    return [_kind(dtypes[i]) for i in numeric]


def _like_frame(X: Any, values: np.ndarray, rows: Any, numeric: list[int]) -> Any:
    if hasattr(X, "iloc"):
        first = X.dtypes.iloc[0]
        # one block of NumPy's is made at once: a call for each column takes far longer
        if isinstance(first, np.dtype) and (X.dtypes == first).all():
            index = X.index[rows]
            return type(X)(values.astype(first), index=index, columns=X.columns)
        part = X.iloc[rows].copy()
        for at, i in enumerate(numeric):
            # as a Series, which knows pandas' own dtypes too
            column = type(part.iloc[:, i])(values[:, at]).astype(X.dtypes.iloc[i])
            part.isetitem(i, column.array)
        return part
    columns = [X[name][rows] for name in X.columns]
    for at, i in enumerate(numeric):
        old = columns[i]
        columns[i] = type(old)(old.name, values[:, at]).cast(old.dtype)
    return type(X)(columns)


def _ends(kind: np.dtype, computed: np.dtype) -> tuple[float, float]:
    """Smallest and largest value that a dtype holds, infinite where no others occur."""
    if kind.kind == "b":
        return 0.0, 1.0
    if kind.kind in "iu":
        return max(np.iinfo(kind).min, -EXACT), min(np.iinfo(kind).max, EXACT)
    if kind.itemsize < computed.itemsize:
        return float(np.finfo(kind).min), float(np.finfo(kind).max)
    return -np.inf, np.inf
