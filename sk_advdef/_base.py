"""What every estimator of the package shares."""

from __future__ import annotations

import functools
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any, TypeVar, cast
from urllib.parse import quote

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline
from sklearn.utils import (
    assert_all_finite,
    check_array,
    check_consistent_length,
    column_or_1d,
)
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import validate_data

from sk_advdef._validation import kinds_in
from sk_advdef._version import __version__

Fit = TypeVar("Fit", bound=Callable[..., Any])

#: Environment variable with the address of the documentation, as built or hosted.
DOCS = "SK_ADVDEF_DOCS"
#: What such an address begins with; others, such as javascript:, are no link.
SCHEMES = ("https://", "http://", "file://")
#: Characters that it may hold as they are: scikit-learn writes it into an attribute.
PLAIN = "%/:?#[]@!$&()*+,;=~{}"


class Documented(BaseEstimator):
    """A BaseEstimator whose HTML diagram links to our own documentation.

    There is a link where the environment says where the documentation lies, and for
    public classes only: others have no page.
    """

    _doc_link_module = "sk_advdef"

    @property
    def _doc_link_template(self) -> str:
        name, docs = type(self).__name__, os.environ.get(DOCS, "").rstrip("/")
        public = getattr(sys.modules.get("sk_advdef"), "__all__", ())
        if not docs.lower().startswith(SCHEMES) or name not in public:
            return ""
        # scikit-learn formats it: braces of the address stay what they are
        address = quote(docs, safe=PLAIN).replace("{", "{{").replace("}", "}}")
        return f"{address}/generated/sk_advdef.{name}.html"


def asked_in_fit(inner: Any) -> list[str]:
    """Return the metadata that the ``fit`` of an estimator, or of several, asks for."""
    if isinstance(inner, (list, tuple)):
        return [name for one in inner for name in asked_in_fit(one)]
    if isinstance(inner, Pipeline):  # what is frozen in it may have asked when fitted
        return sorted({name for _, step in inner.steps for name in asked_in_fit(step)})
    # what is frozen is not fitted, and a class asks for nothing
    if isinstance(inner, (type, FrozenEstimator)) or not hasattr(
        inner, "get_metadata_routing"
    ):
        return []
    return sorted(set(_asked_by(inner.get_metadata_routing())))


def _asked_by(routing: Any) -> Iterator[str]:
    if not hasattr(routing, "fit"):  # that of a Pipeline or a search
        for _, pair in routing:
            yield from _asked_by(pair.router)
        return
    for name, wanted in routing.fit.requests.items():
        if wanted is True or (isinstance(wanted, str) and wanted.isidentifier()):
            yield name


def all_or_nothing(fit: Fit) -> Fit:
    """Let a ``fit`` that fails or is interrupted leave the estimator as it was."""

    @functools.wraps(fit)
    def whole(self: Any, *args: Any, **kwargs: Any) -> Any:
        before = dict(vars(self))
        try:
            return fit(self, *args, **kwargs)
        except BaseException:
            vars(self).clear()
            vars(self).update(before)
            raise

    return cast(Fit, whole)


class Stamped(Documented):
    """A BaseEstimator whose pickles carry the version that wrote them."""

    def _rows(self, X: Any, *, reset: bool = False) -> Any:
        """Check the shape and the names of ``X`` and leave its values to the model.

        DataFrames stay what they are, anything else becomes an array.
        """
        if hasattr(X, "columns") and hasattr(X, "to_numpy"):
            validate_data(self, X, skip_check_array=True, reset=reset)
            if 0 in X.shape:
                # refuses it in scikit-learn's words
                check_array(np.empty(X.shape), estimator=self, input_name="X")
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
        elif y.dtype.kind == "O":
            try:
                np.unique(y)
            except TypeError:
                raise TypeError(
                    "The labels in y must be all strings or all numbers. Got "
                    f"{kinds_in(y)} instead."
                ) from None
        check_classification_targets(y)
        check_consistent_length(X, y)
        return y

    def get_metadata_routing(self) -> Any:
        """Return what metadata the methods ask for.

        Returns
        -------
        routing : MetadataRequest
            What is asked for.

        Raises
        ------
        NotImplementedError
            If the ``fit`` of an estimator within asks for metadata, such as
            ``sample_weight``: none is passed on.
        """
        for name, inner in self.get_params(deep=False).items():
            asked = asked_in_fit(inner)
            if asked:
                raise NotImplementedError(
                    f"{type(self).__name__} passes no metadata on, and the fit of its "
                    f"{name} asks for {', '.join(asked)}. Take that back there, by "
                    f"set_fit_request({asked[0]}=False)."
                )
        return super().get_metadata_routing()

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
