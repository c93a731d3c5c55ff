"""What every estimator of the package shares."""

from __future__ import annotations

import warnings
from typing import Any

from sklearn.base import BaseEstimator

from sk_advdef._version import __version__


class Stamped(BaseEstimator):
    """A BaseEstimator whose pickles carry the version that wrote them."""

    _doc_link_module = "sk_advdef"

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
