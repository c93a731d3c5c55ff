"""What every estimator of the package shares."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils import assert_all_finite, check_consistent_length, column_or_1d
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import validate_data

from sk_advdef._version import __version__


class Stamped(BaseEstimator):
    """A BaseEstimator whose pickles carry the version that wrote them."""

    _doc_link_module = "sk_advdef"

    def _rows(self, X: Any, *, reset: bool = False) -> Any:
        """Check the shape and the names of ``X`` and leave its values to the model.

        DataFrames stay what they are, anything else becomes an array.
        """
        if hasattr(X, "columns") and hasattr(X, "to_numpy"):
            validate_data(self, X, skip_check_array=True, reset=reset)
            return X
        return validate_data(
            self, X, reset=reset, dtype=None, allow_nd=True, ensure_all_finite=False
        )

    def _labels(self, X: Any, y: Any, way_out: str = "") -> np.ndarray:
        """Return class labels as an array, a label a row of ``X``."""
        if y is None:
            raise ValueError(
                f"This {type(self).__name__} estimator requires y to be passed, but "
                f"the target y is None.{way_out}"
            )
        y = column_or_1d(y, warn=True)
        if y.dtype.kind == "f":
            assert_all_finite(y, input_name="y")
        check_classification_targets(y)
        check_consistent_length(X, y)
        return y

    def __getstate__(self) -> dict[str, Any]:
        """Return the state to pickle, stamped with this version."""
        return dict(super().__getstate__(), _sk_advdef_version=__version__)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take a pickled state, with a warning where another version wrote it."""
        state = dict(state)
        written_by = state.pop("_sk_advdef_version", "an unknown version")
        if written_by != __version__:
            warnings.warn(
                f"This {type(self).__name__} was pickled by sk_advdef {written_by} "
                f"and is opened by {__version__}: it may not work, or answer "
                "otherwise. Fit and save it again with the version in use.",
                UserWarning,
                stacklevel=2,
            )
        super().__setstate__(state)
