"""What the outermost estimators share: the model within, input checks, dull errors."""

from __future__ import annotations

import logging
import threading
from typing import Any

import numpy as np
from sklearn.base import ClassifierMixin, MetaEstimatorMixin
from sklearn.compose import ColumnTransformer
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import check_array, get_tags
from sklearn.utils.validation import check_is_fitted, validate_data

from sk_advdef._base import Stamped
from sk_advdef._torch._models import (
    check_frozen_fitted,
    classes_of,
    for_model,
    is_frozen,
    is_net,
    rejection_of,
    torch_generators_kept,
    unfrozen,
)
from sk_advdef._torch._registry import build, missing_view
from sk_advdef._validation import check_classifier

logger = logging.getLogger("sk_advdef.concealment")

_adopting = threading.Lock()

#: What a wrapper takes over at its first call.
ADOPTED = ("estimator_", "monitor_", "n_features_in_", "feature_names_in_")

FLOATS = (np.dtype(np.float32), np.dtype(np.float64))


def has_proba(wrapper: Any) -> bool:
    """Whether the model within tells probabilities, and rejects nothing."""
    model = wrapper._model
    return hasattr(model, "predict_proba") and rejection_of(model) is None


def may_take_images(model: Any) -> bool:
    """Whether rows may have axes of their own, as stacked images have.

    Only where scikit-learn's own estimators say no, and nothing else is within them:
    transformers that people write make rows of images and do not tell.
    """
    if is_net(model):
        return True
    while isinstance(model, (Pipeline, FrozenEstimator)):
        model = unfrozen(model)
        if isinstance(model, Pipeline):
            model = model.steps[0][1]
    of_sklearn = type(model).__module__.partition(".")[0] == "sklearn"
    if not of_sklearn or isinstance(model, FunctionTransformer):
        return True
    has_others = any("__" in name for name in model.get_params())
    return has_others or bool(get_tags(model).input_tags.three_d_array)


def takes(model: Any, what: str) -> bool:
    """Whether a model, or what its rows meet first, takes missing values or words.

    Pipelines and searches do not tell it of what is within them. ``what`` is one of
    scikit-learn's tags of input, such as "allow_nan" or "categorical".
    """
    model = unfrozen(model)
    if isinstance(model, ColumnTransformer):
        return True  # each of its columns meets another
    if isinstance(model, Pipeline):
        for _, step in model.steps:
            if step in (None, "passthrough"):
                continue
            if not takes(step, what):
                return False
            fills = type(step).__module__.startswith("sklearn.impute")
            if what != "allow_nan" or fills or isinstance(step, ColumnTransformer):
                return True
        return True
    try:
        if getattr(get_tags(model).input_tags, what):
            return True
    except (AttributeError, TypeError, ValueError):
        return False  # scikit-learn's own Pipeline passes over those that do not tell
    within = getattr(model, "best_estimator_", getattr(model, "estimator", None))
    return hasattr(within, "fit") and not is_net(within) and takes(within, what)


class WrappingClassifier(MetaEstimatorMixin, ClassifierMixin, Stamped):
    """Stands before a classifier; ready without ``fit`` around a frozen one."""

    estimator: Any

    def __sklearn_tags__(self) -> Any:
        """Return scikit-learn's tags of this estimator."""
        tags = super().__sklearn_tags__()
        tags.target_tags.required = not is_frozen(self.estimator)
        tags.requires_fit = not self._is_ready_without_fit()
        tags.input_tags.three_d_array = is_net(self.estimator)
        if not is_net(self.estimator):
            inner = get_tags(unfrozen(self.estimator))
            tags.input_tags.three_d_array = inner.input_tags.three_d_array
            for name in ("allow_nan", "string", "categorical"):
                setattr(tags.input_tags, name, takes(self.estimator, name))
            if inner.classifier_tags is not None:
                tags.classifier_tags.multi_class = inner.classifier_tags.multi_class
        return tags

    def __sklearn_is_fitted__(self) -> bool:
        """Whether there is a model to ask."""
        return "estimator_" in vars(self) or self._is_ready_without_fit()

    def _is_ready_without_fit(self) -> bool:
        return is_frozen(self.estimator)

    @property
    def _model(self) -> Any:
        return vars(self).get("estimator_", self.estimator)

    @property
    def classes_(self) -> np.ndarray:
        """Classes of the model within, a column of ``predict_proba`` each."""
        if not self.__sklearn_is_fitted__():
            raise AttributeError(
                f"{type(self).__name__} is not fitted yet and has no classes_."
            )
        check_frozen_fitted(self._model)
        return classes_of(self._model)

    @property
    def genuine_classes_(self) -> np.ndarray:
        """Classes that stand for something real, where the model tells them apart."""
        return np.asarray(unfrozen(self._model).genuine_classes_)

    def _behind(self) -> Any:
        return self._model

    def _missing_view(self) -> Any:
        return missing_view(self._model)

    def _as_module(self) -> Any:
        return build(self._model)

    def _check_parameters(self) -> None:
        """Check what the constructor was given."""

    def _fit_model(self, X: Any, y: Any) -> Any:
        """Fit a clone of the estimator, or take the frozen one; return checked rows."""
        self._check_parameters()
        check_classifier(self, "estimator", self.estimator)
        X = self._inputs(X, reset=True)
        if is_frozen(self.estimator):
            check_frozen_fitted(self.estimator)
            self.estimator_ = self.estimator
            return X
        from sk_advdef._torch._net import with_adapter

        y = self._labels(X, y)
        self.estimator_ = with_adapter(self.estimator).fit(X, y)
        return X

    def _adopt(self) -> None:
        """Take over a frozen model at the first call, where ``fit`` never ran."""
        if "estimator_" in vars(self):
            return
        check_is_fitted(self)
        with _adopting:
            if "estimator_" in vars(self):
                return
            self._check_parameters()
            check_frozen_fitted(self.estimator)
            model = unfrozen(self.estimator)
            for name in ("n_features_in_", "feature_names_in_"):
                if hasattr(model, name):
                    setattr(self, name, getattr(model, name))
            self.estimator_ = self.estimator

    def _forget_adopted(self) -> None:
        """Leave a frozen model that was taken over, for another."""
        for name in ADOPTED:
            self.__dict__.pop(name, None)

    def _inputs(self, X: Any, *, reset: bool = False) -> Any:
        """Check rows as scikit-learn would, so that the model's own errors are few."""
        if not reset and self._is_plain(X):
            return X
        tags = self.__sklearn_tags__().input_tags
        checks: dict[str, Any] = {
            "dtype": None if tags.string or tags.categorical else "numeric",
            "ensure_all_finite": self._finite(allow_nan=tags.allow_nan),
            "allow_nd": may_take_images(self._model),
        }
        if not hasattr(X, "columns"):
            return validate_data(self, X, reset=reset, **checks)
        X = self._rows(X, reset=reset)
        check_array(X, **checks | {"dtype": None}, estimator=self, input_name="X")
        return X

    def _finite(self, *, allow_nan: bool) -> bool | str:
        """Tell what scikit-learn is to check; by the model's own tag, nothing."""
        if is_net(self.estimator) or not allow_nan:
            return not allow_nan
        own = get_tags(unfrozen(self.estimator)).input_tags.allow_nan
        return False if own else "allow-nan"

    def _is_plain(self, X: Any) -> bool:
        """Whether scikit-learn's checks, which take longer, would only return X."""
        own = vars(self)
        return (
            type(X) is np.ndarray
            and X.dtype in FLOATS
            and (X.ndim == 2 or (X.ndim > 2 and may_take_images(self._model)))
            and X.size > 0
            and X.shape[1] == own.get("n_features_in_", X.shape[1])
            and "feature_names_in_" not in own
            and bool(np.isfinite(X).all())
        )

    def _ask(self, method: str, X: Any) -> np.ndarray:
        """Ask the model; what it raises goes to the log, and none of it further."""
        model = self._model
        try:
            with torch_generators_kept():
                answers = np.asarray(getattr(model, method)(for_model(model, X)))
            if answers.dtype.kind == "f" and np.isnan(answers).any():
                raise ValueError(f"{method} answers NaN")
            return answers
        except Exception:
            logger.exception("%s of %s failed", method, type(unfrozen(model)).__name__)
        # raised outside the handler, lest the model's error hang on to this one
        raise RuntimeError("The model could not answer this input.")

    def _places(self, labels: np.ndarray) -> np.ndarray:
        """Return the column of each label in ``classes_``."""
        classes = self.classes_
        order = np.argsort(classes, kind="stable")
        found = np.searchsorted(classes, labels, sorter=order)
        return order[np.minimum(found, len(classes) - 1)]
