"""Rows out of the JSON that model servers take, read in one way only.

Whatever a second reader could take otherwise is refused: keys that come twice, more
than one key with rows, numbers that are none. Else the rows that are watched need not
be those that are answered.
"""

from __future__ import annotations

import json
from typing import Any, NoReturn

import numpy as np

KEYS = ("inputs", "instances", "dataframe_split")


class BadRequest(Exception):
    """A request that is answered by a status, and words that tell nothing."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(status, detail)
        self.status, self.detail = status, detail


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key comes twice")
    return found


def parsed(body: bytes) -> Any:
    """Read JSON in UTF-8."""
    try:
        return json.loads(
            body.decode(),
            parse_constant=_no_constant,
            object_pairs_hook=_without_duplicates,
        )
    except (ValueError, RecursionError):
        pass
    # raised outside the handler, lest the reader's error hang on to this one
    raise BadRequest(400, "The body is not valid JSON.")


def numbers(values: Any) -> np.ndarray:
    """Return nested lists of finite numbers as an array."""
    if isinstance(values, list):
        # as objects first: where there is a string, NumPy would give each value as much
        # room as the longest
        leaves = np.array(values, dtype=object).ravel()
        if {*map(type, leaves)} <= {int, float, bool}:
            found = np.array(values)
            if found.dtype.kind in "biuf" and np.isfinite(found).all():
                return found
    raise BadRequest(400, "The rows must be lists of numbers, all of one shape.")


def rows_from_json(body: bytes, names: list[str] | None = None) -> Any:
    """Return the rows of a body, as a DataFrame where features have ``names``."""
    content = parsed(body)
    given = [key for key in KEYS if isinstance(content, dict) and key in content]
    if len(given) != 1:
        raise BadRequest(
            400, "The body must be an object with one of: " + ", ".join(KEYS) + "."
        )
    values = content[given[0]]
    columns = None
    if given[0] == "dataframe_split":
        if not isinstance(values, dict) or not {"columns", "data"} <= values.keys():
            raise BadRequest(400, "dataframe_split must hold columns and data.")
        values, columns = values["data"], values["columns"]
    rows = numbers(values)
    width = rows.shape[1] if rows.ndim > 1 else None
    if columns is not None and (not isinstance(columns, list) or len(columns) != width):
        raise BadRequest(400, "dataframe_split must have a column for each value.")
    if names is None:
        return rows
    if rows.ndim != 2 or width != len(names) or columns not in (None, names):
        raise BadRequest(400, "The columns are not those that the model knows.")
    import pandas as pd

    return pd.DataFrame(rows, columns=names)
