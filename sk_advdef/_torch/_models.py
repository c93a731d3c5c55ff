"""What kind of model an estimator is, and what it answers. Loads no torch itself."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import numpy as np
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

P = ParamSpec("P")
R = TypeVar("R")


def unfrozen(estimator: Any) -> Any:
    """Take the estimator out of the FrozenEstimators around it."""
    while isinstance(estimator, FrozenEstimator):
        estimator = estimator.estimator
    return estimator


def last_step(estimator: Any) -> Any:
    """Follow Pipelines and FrozenEstimators to the step that answers."""
    while isinstance(estimator, (Pipeline, FrozenEstimator)):
        estimator = unfrozen(estimator)
        if isinstance(estimator, Pipeline):
            estimator = estimator.steps[-1][1]
    return estimator


def is_frozen(estimator: Any) -> bool:
    """Whether the estimator, or the last step of a Pipeline, is frozen."""
    while isinstance(estimator, Pipeline):
        estimator = estimator.steps[-1][1]
    return isinstance(estimator, FrozenEstimator)


def is_skorch(estimator: Any) -> bool:
    """Whether the estimator is a skorch net itself."""
    return any(
        c.__name__ == "NeuralNet" and c.__module__.partition(".")[0] == "skorch"
        for c in type(estimator).__mro__
    )


def is_net(estimator: Any) -> bool:
    """Whether the estimator is a net in the wide sense.

    A skorch net, one of our estimators around one, a Pipeline that ends in either, or
    any of these frozen.
    """
    last = last_step(estimator)
    if is_skorch(last):
        return True
    around = getattr(last, "_wraps_net", None)
    return bool(around()) if callable(around) else False


def classes_of(estimator: Any) -> np.ndarray:
    """Classes of a fitted model, a column each; "rejected" is not among them."""
    rejects = rejection_of(estimator)
    last = last_step(rejects[0] if rejects else estimator)
    if is_skorch(last):
        # skorch answers with the number of the column, whatever its labels were
        return np.arange(int(np.max(last.classes_)) + 1)
    return np.asarray(last.classes_)


def check_frozen_fitted(estimator: Any) -> None:
    """Raise NotFittedError where a frozen model was never fitted.

    Only models that tell it by their attributes are looked at.
    """
    last = last_step(estimator)
    if not is_skorch(last):
        if type(last).__module__.partition(".")[0] in ("sklearn", "sk_advdef"):
            check_is_fitted(last)
        return
    # the weights of a net may have been loaded and not learned
    if last.initialized_:
        return
    raise NotFittedError(
        f"This {type(last).__name__} instance is not fitted yet. Call 'fit' with "
        "appropriate arguments before using this estimator."
    )


def genuine_classes_of(estimator: Any) -> np.ndarray:
    """Classes of a fitted model that stand for something real.

    Neither "adversarial" nor "rejected" is among them.
    """
    rejects = rejection_of(estimator)
    last = last_step(rejects[0] if rejects else estimator)
    genuine = getattr(last, "genuine_classes_", None)
    return classes_of(estimator) if genuine is None else np.asarray(genuine)


def rejection_of(estimator: Any) -> tuple[Any, Any] | None:
    """Return the model and the detector of an estimator that rejects, else None.

    Both take the rows that the estimator takes, behind the steps of its Pipeline.
    """
    estimator = unfrozen(estimator)
    if isinstance(estimator, Pipeline):
        name, last = estimator.steps[-1]
        rejects = rejection_of(last)
        if rejects is None or len(estimator.steps) == 1:
            return rejects
        model = Pipeline([*estimator.steps[:-1], (name, rejects[0])])
        return model, Behind(estimator[:-1], rejects[1])
    if hasattr(estimator, "reject_label_"):
        detector = unfrozen(estimator.detector_)
        if isinstance(detector, Pipeline) and len(detector.steps) > 1:
            detector = Behind(detector[:-1], detector.steps[-1][1])
        elif isinstance(detector, Pipeline):
            detector = unfrozen(detector.steps[0][1])
        return estimator.estimator_, detector
    if hasattr(estimator, "_behind"):  # concealment is looked through
        return rejection_of(estimator._behind())
    return None


def with_offset(estimator: Any, offset: float) -> Any:
    """Copy a fitted estimator that rejects, with another threshold."""

    def moved(detector: Any) -> Any:
        detector = copy.copy(detector)
        detector.offset_ = offset
        return detector

    return _with_inner(estimator, moved)


def with_detector(estimator: Any, other: Any) -> Any:
    """Copy a fitted estimator that rejects, with another detector in its place."""
    return _with_inner(estimator, lambda _: other)


def _with_inner(estimator: Any, change: Callable[[Any], Any]) -> Any:
    """Copy an estimator, with what detects inside it changed; concealment is left."""
    estimator = unfrozen(estimator)
    if hasattr(estimator, "_behind"):
        return _with_inner(estimator._behind(), change)
    if isinstance(estimator, Pipeline):
        model = copy.copy(estimator)
        name, last = model.steps[-1]
        model.steps = [*model.steps[:-1], (name, _with_inner(last, change))]
        return model
    if hasattr(estimator, "detector_"):
        model = copy.copy(estimator)
        model.detector_ = _with_inner(model.detector_, change)
        return model
    return change(estimator)


def sampling_detector(estimator: Any) -> Any:
    """Return the detector that rejects by sub-networks drawn once, or None."""
    rejects = rejection_of(estimator)
    detector = None if rejects is None else rejects[1]
    while isinstance(detector, Behind):
        detector = detector.detector
    detector = unfrozen(detector)
    return detector if getattr(detector, "masks", None) == "fixed" else None


class Behind:
    """A fitted detector behind the first steps of a Pipeline."""

    def __init__(self, before: Pipeline, detector: Any) -> None:
        self.before, self.detector = before, unfrozen(detector)

    @property
    def offset_(self) -> float:
        """Score below which a row is flagged."""
        return self.detector.offset_

    @property
    def scale_(self) -> float:
        """Unit of the scores."""
        return self.detector.scale_

    def score_samples(self, X: Any) -> np.ndarray:
        """Score rows, higher for more genuine."""
        return self.detector.score_samples(self.before.transform(X))

    def decision_function(self, X: Any) -> np.ndarray:
        """Return at least 0 for genuine."""
        return self.detector.decision_function(self.before.transform(X))

    def predict(self, X: Any) -> np.ndarray:
        """Return +1 for genuine, -1 for adversarial."""
        return self.detector.predict(self.before.transform(X))

    def _as_score_module(self) -> Any:
        from sk_advdef._torch._registry import as_score_module, build
        from sk_advdef._torch._views import Behind as View

        return View(build(self.before, "transform"), as_score_module(self.detector))


def for_model(estimator: Any, X: Any) -> Any:
    """Return ``X`` in the only dtype that a bare skorch net takes."""
    if is_skorch(unfrozen(estimator)):
        return np.asarray(X, dtype=np.float32, order="C")
    return X


def predict(estimator: Any, X: Any) -> np.ndarray:
    """Labels by the estimator's own ``predict``."""
    return np.asarray(estimator.predict(for_model(estimator, X)))


def torch_generators_kept() -> AbstractContextManager[Any]:
    """Put torch's global generators back afterwards; each skorch ``predict`` draws."""
    if "torch" not in sys.modules:
        return nullcontext()
    from sk_advdef._torch._random import kept

    return kept()


def with_gradients(function: Callable[P, R]) -> Callable[P, R]:
    """Let a function climb gradients where its caller switched them off."""

    @wraps(function)
    def climbing(*args: P.args, **kwargs: P.kwargs) -> R:
        torch = sys.modules.get("torch")
        if torch is None:
            return function(*args, **kwargs)
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.enable_grad())
            return function(*args, **kwargs)

    return climbing


def has_scores(estimator: Any) -> bool:
    """Whether a score for each class can be asked for."""
    return hasattr(estimator, "decision_function") or hasattr(
        estimator, "predict_proba"
    )


def logits_of(estimator: Any) -> Callable[[Any], np.ndarray] | None:
    """Return a function from rows to what a skorch net puts into its softmax.

    None for what is no skorch net, or a Pipeline before one, and for nets with code of
    their own on the way to an answer.
    """
    if not is_skorch(last_step(estimator)):
        return None
    from sk_advdef._torch._net_view import net_scores, output_kind
    from sk_advdef._torch._registry import has_view

    model = unfrozen(estimator)
    net = last_step(model)
    if not has_view(net) or output_kind(net) not in ("logits", "binary"):
        return None
    before = None
    if isinstance(model, Pipeline):
        if unfrozen(model.steps[-1][1]) is not net:  # a Pipeline within a Pipeline
            return None
        before = model[:-1] if len(model.steps) > 1 else None
    n_classes = len(classes_of(net))

    def logits(X: Any) -> np.ndarray:
        rows = X if before is None else before.transform(X)
        found = net_scores(net, np.asarray(rows, dtype=np.float32), n_classes)
        return found.astype(np.float64)

    return logits


def class_scores(estimator: Any, X: Any) -> np.ndarray:
    """Scores of shape (n_samples, n_classes), float64; the largest is the answer.

    ``decision_function`` where there is one, else the log of ``predict_proba``, which
    unlike the probability itself still moves where the model is nearly sure.
    """
    X = for_model(estimator, X)
    if hasattr(estimator, "decision_function"):
        scores = np.asarray(estimator.decision_function(X), dtype=np.float64)
        if scores.ndim == 1:
            scores = np.stack([-scores / 2, scores / 2], axis=1)
        if scores.shape[1] == len(classes_of(estimator)):
            return scores
        # one-against-one votes are a column a pair and name no class
        if not hasattr(estimator, "predict_proba"):
            raise ValueError(
                f"decision_function of {estimator!r} has {scores.shape[1]} columns for "
                f"{len(classes_of(estimator))} classes. Use one that has a column a "
                'class (for SVC: decision_function_shape="ovr").'
            )
    proba = np.asarray(estimator.predict_proba(X), dtype=np.float64)
    return np.log(np.clip(proba, np.finfo(np.float64).tiny, None))
