"""What the training estimators share: the checks, and the answers of the model."""

from __future__ import annotations

from numbers import Integral
from typing import Any

import numpy as np
from sklearn.base import ClassifierMixin, MetaEstimatorMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.model_selection import KFold, StratifiedKFold
from sklearn.pipeline import Pipeline
from sklearn.utils import get_tags
from sklearn.utils.validation import has_fit_parameter

from sk_advdef._base import Stamped
from sk_advdef._torch._models import is_frozen, is_net
from sk_advdef._torch._registry import missing_view


class TrainingClassifier(MetaEstimatorMixin, ClassifierMixin, Stamped):
    """A classifier that trains a clone of ``estimator`` in its own way."""

    estimator: Any
    #: what a classifier that is no net must have one of
    _scores: tuple[str, ...] = ("predict_proba",)

    def __sklearn_tags__(self) -> Any:
        """Return scikit-learn's tags of this estimator."""
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = is_net(self.estimator)
        if not is_net(self.estimator):
            tags.input_tags.sparse = False
            inner = get_tags(self.estimator).classifier_tags
            if inner is not None:
                tags.classifier_tags.multi_class = inner.multi_class
        return tags

    def _wraps_net(self) -> bool:
        return is_net(self.estimator)

    def _missing_view(self) -> Any:
        return missing_view(getattr(self, "estimator_", self.estimator))

    def _checked(self, X: Any, y: Any) -> tuple[Any, np.ndarray]:
        """Check the estimator, the rows and the labels."""
        name = type(self).__name__
        if is_frozen(self.estimator):
            raise ValueError(
                f"{name} trains its estimator, and this one is frozen: "
                f"{self.estimator!r}. Pass the model itself, not fitted, to train a "
                "clone of it."
            )
        if not hasattr(self.estimator, "fit"):
            raise TypeError(
                f"The 'estimator' parameter of {name} must be a classifier with fit "
                f"and {' or '.join(self._scores)}. Got {self.estimator!r} instead."
            )
        answers = any(hasattr(self.estimator, score) for score in self._scores)
        if not is_net(self.estimator) and not answers:
            raise TypeError(
                f"{name} needs the scores of its estimator, and {self.estimator!r} has "
                f"no {' and no '.join(self._scores)}."
            )
        kind = get_tags(self.estimator).estimator_type
        if kind not in ("classifier", None):
            raise TypeError(
                f"The 'estimator' parameter of {name} must be a classifier. Got "
                f"{self.estimator!r} instead, which is for another task ({kind})."
            )
        X = self._rows(X, reset=True)
        return X, self._labels(X, y)


def fit_net(
    net: Any, X: Any, y: Any, random_state: Any, around: Any, **params: Any
) -> Any:
    """Fit a clone of a net with ``around`` about its epochs."""
    from sk_advdef._torch._net import fit_adapted

    return fit_adapted(net, X, y, random_state, around, **params)


def has_sample_weight(estimator: Any) -> bool:
    """Whether the estimator, or the last step of a Pipeline, takes sample weights."""
    if isinstance(estimator, Pipeline):
        return has_sample_weight(estimator.steps[-1][1])
    if (
        isinstance(estimator, CalibratedClassifierCV)
        and estimator.estimator is not None
    ):
        # it takes weights, and drops them where its own estimator takes none
        within = estimator.estimator
        return is_frozen(within) or has_fit_parameter(within, "sample_weight")
    return has_fit_parameter(estimator, "sample_weight")


def stacked(parts: list[Any]) -> Any:
    """Put blocks of rows of one kind below one another."""
    first = parts[0]
    if hasattr(first, "iloc"):
        import pandas as pd

        return pd.concat(parts, ignore_index=True)
    if type(first).__module__.partition(".")[0] == "polars":
        return type(first)(
            {
                name: np.concatenate([p[name].to_numpy() for p in parts])
                for name in first.columns
            }
        )
    return np.concatenate([np.asarray(part) for part in parts])


def _cuts_anywhere(cv: Any) -> bool:
    return cv is None or isinstance(cv, (Integral, KFold, StratifiedKFold))


def kept_together(
    estimator: Any, rows: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Mix rows for an estimator that splits them, which may come class by class.

    What belongs to one of ``rows`` stays together: its copies on both sides of a split
    would tell of one another. Where rows are split by their numbers, or in their order,
    they stay where they are.
    """
    params = estimator.get_params().items()
    splits = [value for name, value in params if name.rpartition("__")[2] == "cv"]
    if not splits or not all(_cuts_anywhere(cv) for cv in splits):
        return np.arange(len(rows))
    place = rng.permutation(rows.max() + 1)
    return np.argsort(place[rows], kind="stable")
