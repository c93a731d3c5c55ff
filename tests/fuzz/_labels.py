"""Labels and parameters of every kind, right and wrong."""

from __future__ import annotations

import decimal
import fractions
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import torch
from hypothesis import strategies as st
from scipy import sparse
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

#: Labels for ``n`` rows, by name.
LABELS: dict[str, Callable[[int], Any]] = {
    "three": lambda n: np.arange(n) % 3,
    "two": lambda n: np.arange(n) % 2,
    "one": lambda n: np.zeros(n, dtype=int),
    "each its own": np.arange,
    "thousands": lambda n: np.arange(n) * 1009,
    "negative": lambda n: -(np.arange(n) % 3),
    "huge": lambda n: np.arange(n) % 2 + 2**62,
    "uint64": lambda n: (np.arange(n) % 2).astype(np.uint64) + np.uint64(2**63),
    "bool": lambda n: np.arange(n) % 2 == 0,
    "strings": lambda n: np.array(["ham", "eggs", "spam"])[np.arange(n) % 3],
    "objects": lambda n: np.array(["ham", "eggs", "spam"], object)[np.arange(n) % 3],
    "bytes": lambda n: np.array([b"ham", b"eggs"])[np.arange(n) % 2],
    "mixed": lambda n: np.array(["ham", 1], dtype=object)[np.arange(n) % 2],
    "floats": lambda n: (np.arange(n) % 3).astype(float),
    "continuous": lambda n: np.linspace(0, 1, n),
    "NaN": lambda n: np.full(n, np.nan),
    "inf": lambda n: np.full(n, np.inf),
    "None": lambda n: None,
    "Nones": lambda n: np.full(n, None),
    "short": lambda n: np.arange(max(n - 1, 0)) % 3,
    "long": lambda n: np.arange(n + 1) % 3,
    "empty": lambda n: np.empty(0, dtype=int),
    "column": lambda n: (np.arange(n) % 3)[:, None],
    "2-D": lambda n: np.eye(3, dtype=int)[np.arange(n) % 3],
    "list": lambda n: [i % 3 for i in range(n)],
    "list of strings": lambda n: ["hamspam"[i % 2 * 3 :] for i in range(n)],
    "series": lambda n: pd.Series(np.arange(n) % 3, index=np.arange(n)[::-1]),
    "polars": lambda n: pl.Series(np.arange(n) % 3),
    "categories": lambda n: pd.Series(np.arange(n) % 3).astype("category"),
    "nullable": lambda n: pd.Series(np.arange(n) % 3, dtype="Int64"),
    "NA": lambda n: pd.Series([pd.NA] * n, dtype="Int64"),
    "complex": lambda n: np.arange(n) % 3 * 1j,
    "dates": lambda n: (np.arange(n) % 3).astype("datetime64[s]"),
    "big-endian": lambda n: (np.arange(n) % 3).astype(">i4"),
    "scalar": lambda n: 1,
    "text": lambda n: "ham",
    "dict": lambda n: {0: 1},
    "sparse": lambda n: sparse.csr_array(np.eye(max(n, 1))),
    "tensor": lambda n: torch.arange(n) % 3,
    "read-only": lambda n: read_only(np.arange(n) % 3),
    "a rare one": lambda n: (np.arange(n) == 0).astype(int),
}


def read_only(values: np.ndarray) -> np.ndarray:
    values.flags.writeable = False
    return values


class Odd:
    """An object that refuses to be compared, counted or used as a number."""

    def __eq__(self, other: object) -> bool:
        raise TypeError("not to be compared")

    __hash__ = object.__hash__


def nothing(*args: Any, **kwargs: Any) -> None:
    """Take anything and return nothing."""


#: Values for parameters, by name.
VALUES: dict[str, Callable[[], Any]] = {
    "None": lambda: None,
    "True": lambda: True,
    "False": lambda: False,
    "0": lambda: 0,
    "1": lambda: 1,
    "2": lambda: 2,
    "-1": lambda: -1,
    "3.5": lambda: 3.5,
    "-0.0": lambda: -0.0,
    "0.5": lambda: 0.5,
    "1e-300": lambda: 1e-300,
    "5e-324": lambda: 5e-324,
    "1e300": lambda: 1e300,
    "NaN": lambda: np.nan,
    "inf": lambda: np.inf,
    "-inf": lambda: -np.inf,
    "10**30": lambda: 10**30,
    "2**63": lambda: 2**63,
    "complex": lambda: 1j,
    "text": lambda: "ham",
    "empty text": lambda: "",
    "surrogate": lambda: "\ud800",
    "zero byte": lambda: "a\0b",
    "auto": lambda: "auto",
    "numpy text": lambda: np.str_("auto"),
    "bytes": lambda: b"ham",
    "int8": lambda: np.int8(1),
    "float32": lambda: np.float32(0.5),
    "float16 inf": lambda: np.float16(np.inf),
    "numpy True": lambda: np.True_,
    "0-D": lambda: np.array(0.5),
    "empty array": lambda: np.empty(0),
    "array": lambda: np.full(6, 0.5),
    "array of NaN": lambda: np.full(6, np.nan),
    "short array": lambda: np.ones(2),
    "2-D": lambda: np.ones((2, 6)),
    "objects": lambda: np.array([None, "ham"], dtype=object),
    "strings": lambda: np.array(["ham", "spam"]),
    "dates": lambda: np.array(["2020-01-01"], dtype="datetime64[D]"),
    "masked": lambda: np.ma.array(0.5, mask=True),
    "list": lambda: [0.5, 1.5],
    "empty list": lambda: [],
    "list of None": lambda: [None],
    "list of text": lambda: ["ham"],
    "pairs": lambda: [("ham", StandardScaler())],
    "triples": lambda: [("ham", 1, 2)],
    "tuple": lambda: (0, 1),
    "tuple of text": lambda: ("a", "b"),
    "tuple of NaN": lambda: (np.nan, np.nan),
    "tuple of inf": lambda: (-np.inf, np.inf),
    "tuple of huge": lambda: (-1e308, 1e308),
    "backward": lambda: (1, 0),
    "nested": lambda: ((0, 1), (2, 3)),
    "dict": lambda: {"ham": 1},
    "empty dict": dict,
    "set": lambda: {1, 2},
    "range": lambda: range(3),
    "generator": lambda: iter([1, 2]),
    "frame": lambda: pd.DataFrame({"a": [1.0]}),
    "series": lambda: pd.Series([1.0, 2.0]),
    "polars": lambda: pl.Series([1.0]),
    "NA": lambda: pd.NA,
    "NaT": lambda: pd.NaT,
    "sparse": lambda: sparse.csr_array(np.eye(2)),
    "tensor": lambda: torch.ones(3),
    "scalar tensor": lambda: torch.tensor(0.5),
    "module": lambda: torch.nn.Linear(2, 2),
    "Decimal": lambda: decimal.Decimal("0.5"),
    "sNaN": lambda: decimal.Decimal("sNaN"),
    "Fraction": lambda: fractions.Fraction(1, 2),
    "object": object,
    "odd": Odd,
    "class": lambda: LogisticRegression,
    "estimator": lambda: LogisticRegression(),
    "transformer": lambda: StandardScaler(),
    "function": lambda: nothing,
    "Ellipsis": lambda: ...,
    "Generator": lambda: np.random.default_rng(0),
    "RandomState": lambda: np.random.RandomState(0),
}

any_label = st.sampled_from(sorted(LABELS))
any_value = st.sampled_from(sorted(VALUES))
