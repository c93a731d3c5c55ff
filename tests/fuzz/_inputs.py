"""Rows in every form that a caller may hand over, and what they are equal to."""

from __future__ import annotations

import copy
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import torch
from hypothesis import strategies as st
from scipy import sparse

WIDE = np.finfo(np.float64).max
TINY = np.finfo(np.float64).tiny

#: What all rows are multiplied by; the first stands for ordinary rows.
SCALES = (1.0, 0.0, 5e-324, TINY, 1e-30, 1e-8, 1e8, 1e30, 1e38, 1e300, WIDE)
#: What one value of the rows is replaced by.
POISONS = (np.nan, np.inf, -np.inf, WIDE, -WIDE, 5e-324, -TINY, -0.0, 1e19, 0.5)
DTYPES = (
    *("float64", "float32", "float16", ">f8", ">f4", "longdouble", "int8", "uint8"),
    *("int64", "uint64", ">i4", "bool", "object", "complex64", "U8", "S8"),
    *("datetime64[s]", "timedelta64[s]"),
)
SAME = (
    *("C", "F", "every other column", "backward", "transposed", "read-only", "mapped"),
    *("unaligned", "subclass", "list", "tuple", "list of arrays", "pandas", "polars"),
    *("nullable", "masked", "array-like"),
)
#: Forms without a dtype that scikit-learn would look at.
UNTYPED = ("list", "tuple", "list of arrays", "array-like", "polars", "nullable")
OTHER = (
    *("1-D", "0-D", "3-D", "5-D", "matrix", "sparse", "tensor", "series", "set"),
    *("dict", "generator", "ragged", "None", "text", "number", "categories", "bytes"),
    *("structured", "mixed frame", "strings", "NA", "nested objects", "complex list"),
    *("twice the same name", "numbers for names", "no columns", "masked values"),
)
#: Numbers of rows of most cases.
COUNTS = (3, 1, 2, 8, 17)


@dataclass(repr=False)
class Rows:
    """What is handed over; ``plain`` is what it is equal to, None where to nothing."""

    X: Any
    plain: np.ndarray | None
    made: tuple[Any, ...]
    form_alone: bool = False

    @property
    def how(self) -> str:
        """The form that the rows are handed over in."""
        return self.made[-1]

    def __repr__(self) -> str:
        return f"Rows{self.made}"


with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    Matrix = type(np.asmatrix(np.zeros((1, 1))))


class Subclass(np.ndarray):
    """An array of a type of its own."""


class Arraylike:
    """Something that NumPy can make an array of."""

    def __init__(self, values: np.ndarray) -> None:
        self.values = values
        self.shape = values.shape

    def __len__(self) -> int:
        return len(self.values)

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return np.array(self.values, dtype=dtype)


def mapped(values: np.ndarray) -> np.ndarray:
    """Put rows into a file that is read as it is needed, and cannot be written to."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.npy"
        np.save(path, values)
        # the file lives on until the map is closed
        return np.load(path, mmap_mode="r")


def frame_of(values: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame(values, columns=[f"f{i}" for i in range(values.shape[1])])


def dressed(values: np.ndarray, how: str) -> Any:
    """Hand the same rows over in another form."""
    if how == "F":
        return np.asfortranarray(values)
    if how == "every other column":
        wide = np.repeat(values, 2, axis=1)
        return wide[:, ::2]
    if how == "backward":
        return values[::-1, ::-1].copy()[::-1, ::-1]
    if how == "transposed":
        return values.T.copy().T
    if how == "read-only":
        values.flags.writeable = False
        return values
    if how == "mapped":
        return mapped(values) if values.size and values.dtype.kind != "O" else values
    if how == "unaligned":
        if values.dtype.kind == "O":
            return values
        raw = np.empty(values.nbytes + 1, dtype=np.uint8)[1:]
        moved = raw.view(values.dtype).reshape(values.shape)
        moved[...] = values
        return moved
    if how == "subclass":
        return values.view(Subclass)
    if how == "list":
        return values.tolist()
    if how == "tuple":
        return tuple(map(tuple, values.tolist()))
    if how == "list of arrays":
        return list(typeless(values))
    if how == "masked":
        return np.ma.array(values)
    if how == "array-like":
        return Arraylike(typeless(values))
    if how in ("pandas", "nullable"):
        native = values.astype(values.dtype.newbyteorder("="))
        frame = frame_of(native)
        # pandas 2 looks at complex numbers as if they were real
        nullable = how == "nullable" and native.dtype.kind != "c"
        return frame.convert_dtypes() if nullable else frame
    if how == "polars":
        if values.dtype.kind in "cOUSMm" or not values.size:
            return values
        columns = values.astype(values.dtype.newbyteorder("=")).T
        if values.dtype in (np.longdouble, np.float16):
            columns = columns.astype(np.float64)
        return pl.DataFrame({f"f{i}": column for i, column in enumerate(columns)})
    return values


def typeless(values: np.ndarray) -> np.ndarray:
    """Take a type away that scikit-learn keeps where it is not asked for another."""
    kind = values.dtype.kind
    if kind == "u" and values.size and values.max() > np.iinfo(int).max:
        kind = "O"
    return values.astype({"u": int, "O": float}.get(kind, values.dtype))


def other(values: np.ndarray, what: str) -> Any:
    """Hand over something that is no rows, or hardly."""
    n, width = values.shape
    odd = {
        "1-D": lambda: values.ravel(),
        "0-D": lambda: np.float64(1.0),
        "3-D": lambda: values.reshape(n, width, 1),
        "5-D": lambda: values.reshape(n, width, 1, 1, 1),
        "matrix": lambda: values.view(Matrix),
        "sparse": lambda: sparse.csr_array(values),
        "tensor": lambda: torch.as_tensor(values),
        "series": lambda: pd.Series(values.ravel()),
        "set": lambda: set(values.ravel().tolist()),
        "dict": lambda: {"X": values.tolist()},
        "generator": lambda: (row for row in values),
        "ragged": lambda: [[0.0] * (1 + i % 2) for i in range(max(n, 2))],
        "None": lambda: None,
        "text": lambda: "rows",
        "number": lambda: 3,
        "bytes": lambda: values.tobytes(),
        "categories": lambda: frame_of(values).astype("category"),
        "structured": lambda: np.zeros(n, dtype=[("a", float), ("b", int)]),
        "mixed frame": lambda: frame_of(values).assign(f0="ham"),
        "strings": lambda: np.full(values.shape, "ham", dtype=object),
        "NA": lambda: frame_of(values).convert_dtypes().mask(values == values),
        "nested objects": lambda: np.full(values.shape, None),
        "complex list": lambda: [[1j] * width] * n,
        "twice the same name": lambda: pd.DataFrame(values, columns=["f0"] * width),
        "numbers for names": lambda: pd.DataFrame(values),
        "no columns": lambda: pd.DataFrame(index=range(n)),
        "masked values": lambda: np.ma.array(values, mask=values > 0),
    }
    return odd[what]()


def plain_of(values: np.ndarray) -> np.ndarray | None:
    """Return rows as a caller would hand them over who takes no risk."""
    kind = values.dtype
    if kind.kind in "cUSMm":
        return None
    # scikit-learn reads numbers of another byte order as float64
    native = kind if kind in (np.float32, np.uint8) else np.dtype(np.float64)
    with np.errstate(all="ignore"):
        return np.ascontiguousarray(values.astype(native))


def made(base: np.ndarray, n: int, width: int, scale: float, poison: Any) -> np.ndarray:
    """Take ``n`` rows of ``width`` features, of ordinary or extraordinary size."""
    rows = np.resize(base, (max(n, 1), max(base.shape[1], 1)))[:n]
    values = np.resize(rows, (n, width)) if n and width else np.zeros((n, width))
    with np.errstate(all="ignore"):
        if scale != 1.0:
            top = np.abs(values).max(initial=1.0)
            values = values / top * scale
    if poison is not None and values.size:
        at, value = poison
        values.flat[at % values.size] = value
    return values


@st.composite
def rows(draw: Any, base: np.ndarray, *, counts: tuple[int, ...] = COUNTS) -> Rows:
    """Draw rows for something that takes rows like ``base``.

    Two cases in five or more differ from ordinary rows in their form alone, so that
    there is an answer to compare with.
    """
    width = base.shape[1]
    form_alone = draw(st.integers(0, 4)) < 2
    n = draw(st.sampled_from(counts if form_alone else (0, 1, 2, *counts)))
    n_columns = width
    scale, poison, dtype = 1.0, None, "float64"
    if not form_alone:
        n_columns = draw(st.sampled_from([width] * 6 + [0, 1, width + 1, 2 * width]))
        scale = draw(st.sampled_from((1.0,) * len(SCALES) + SCALES))
        poison = draw(
            st.none() | st.tuples(st.integers(0, 10**4), st.sampled_from(POISONS))
        )
        if draw(st.integers(0, 3)) == 0:
            what = draw(st.sampled_from(OTHER))
            values = made(base, max(n, 1), max(n_columns, 1), scale, poison)
            given = other(values, what)
            return Rows(given, None, (n, n_columns, scale, poison, what))
    dtype = draw(st.sampled_from(DTYPES[:8] if form_alone else DTYPES))
    how = draw(st.sampled_from(SAME))
    values = cast(made(base, n, n_columns, scale, poison), dtype)
    X = dressed(values.copy(), how)
    native = values.dtype.newbyteorder("=") if how == "pandas" else values.dtype
    plain = plain_of(values.astype(native))
    if plain is not None and how in UNTYPED:
        plain = plain.astype(np.float64)
    return Rows(X, plain, (n, n_columns, scale, poison, dtype, how), form_alone)


def cast(values: np.ndarray, dtype: str) -> np.ndarray:
    with np.errstate(all="ignore"):
        if dtype.startswith(("datetime", "timedelta")):
            return np.nan_to_num(values).clip(0, 9).astype(np.int64).astype(dtype)
        return values.astype(dtype)


def kept(X: Any) -> Any:
    """Take a copy to compare with afterwards."""
    if isinstance(X, (np.ndarray, pd.DataFrame, pd.Series)):
        return X.copy()
    if isinstance(X, Arraylike):
        return Arraylike(X.values.copy())
    if isinstance(X, torch.Tensor):
        return X.clone()
    if isinstance(X, (list, tuple, dict, set)):
        return copy.deepcopy(X)
    return X


def same(X: Any, before: Any) -> bool:
    """Whether something is, to the bit, what it was."""
    if isinstance(X, Arraylike):
        return same(X.values, before.values)
    if isinstance(X, torch.Tensor):
        return same(X.numpy(), before.numpy())
    if isinstance(X, np.ndarray):
        if X.dtype.kind == "O":
            return repr(X.tolist()) == repr(before.tolist())
        return X.dtype == before.dtype and X.tobytes() == before.tobytes()
    if isinstance(X, (pd.DataFrame, pd.Series, pl.DataFrame)):
        return X.equals(before)
    if isinstance(X, list) and X and isinstance(X[0], np.ndarray):
        return all(map(same, X, before))
    if isinstance(X, (list, tuple, dict)):
        return repr(X) == repr(before)
    return X is before if not isinstance(X, set) else len(X) == len(before)
