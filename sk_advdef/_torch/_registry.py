"""Which estimators have a differentiable view, and the way to it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from sk_advdef._torch._models import is_skorch, unfrozen

#: The package that defines a class and the class's name -> builder in _views.
_BUILTIN = {
    "sk_advdef.BitDepthSqueezer": "bit_depth",
    "sk_advdef.BlurSqueezer": "separable",
    "sk_advdef.Downscaler": "separable",
    "sklearn.LogisticRegression": "logistic_regression",
    "sklearn.MLPClassifier": "mlp_classifier",
    "sklearn.MaxAbsScaler": "max_abs_scaler",
    "sklearn.MinMaxScaler": "min_max_scaler",
    "sklearn.RobustScaler": "robust_scaler",
    "sklearn.StandardScaler": "standard_scaler",
}

#: What a subclass must leave alone for its parent's view to be its own.
_ANSWERS = ("decision_function", "predict", "predict_proba", "transform")
_NET_ANSWERS = (*_ANSWERS, "evaluation_step", "forward_iter", "infer")

_registered: dict[type, Callable[[Any], Any]] = {}


class NoViewError(TypeError):
    """An estimator has no differentiable view."""


def _same_answers(
    child: type, parent: type, answers: tuple[str, ...] = _ANSWERS
) -> bool:
    # static: a method behind available_if is a new object each time it is asked for
    return all(
        inspect.getattr_static(child, name, None)
        is inspect.getattr_static(parent, name, None)
        for name in answers
    )


def _is_plain_pipeline(estimator: Any) -> bool:
    return isinstance(estimator, Pipeline) and _same_answers(type(estimator), Pipeline)


def _is_plain_net(estimator: Any) -> bool:
    cls = type(estimator)
    if not is_skorch(estimator):
        return False
    home = next(c for c in cls.__mro__ if c.__module__.partition(".")[0] == "skorch")
    return _same_answers(cls, home, _NET_ANSWERS)


def _builder(estimator: Any) -> Callable[[Any], Any] | str | None:
    for cls in type(estimator).__mro__:
        if cls in _registered:
            return _registered[cls]
        name = f"{cls.__module__.partition('.')[0]}.{cls.__name__}"
        if name in _BUILTIN and _same_answers(type(estimator), cls):
            return _BUILTIN[name]
    return None


def missing_view(estimator: Any) -> Any:
    """Return the first part of the estimator that has no view, or None."""
    estimator = unfrozen(estimator)
    if _builder(estimator) is not None:
        return None
    if _is_plain_pipeline(estimator):
        parts = [s for _, s in estimator.steps if s is not None and s != "passthrough"]
        return next((m for m in map(missing_view, parts) if m is not None), None)
    own = getattr(estimator, "_missing_view", None)
    if callable(own):
        return own()
    if hasattr(estimator, "_as_module") or _is_plain_net(estimator):
        return None
    return estimator


def has_view(estimator: Any) -> bool:
    """Whether ``as_module`` will work. Loads no torch."""
    return missing_view(estimator) is None


def build(estimator: Any) -> Any:
    """Make the view of a fitted estimator: a module with scores or features out."""
    from sk_advdef._torch import _views

    estimator = unfrozen(estimator)
    missing = missing_view(estimator)
    if missing is not None:
        raise NoViewError(
            f"{type(missing).__name__} has no differentiable view. Register one with "
            "as_module.register(cls, builder), or use an attack that only asks for "
            "scores, such as RandomSearch."
        )
    builder = _builder(estimator)
    if callable(builder):
        return builder(estimator)
    if isinstance(estimator, Pipeline):
        return _views.pipeline(estimator)
    if hasattr(estimator, "fit"):
        check_is_fitted(estimator)
    if hasattr(estimator, "_as_module"):
        return estimator._as_module()
    if is_skorch(estimator):
        return _views.skorch_net(estimator)
    return getattr(_views, str(builder))(estimator)


def as_module(estimator: Any) -> Any:
    """Return a fitted estimator as a differentiable torch module.

    The module takes raw input rows, as the estimator's own ``predict`` does, and
    returns one score a class: the softmax of the scores is ``predict_proba`` where
    there is one, and the scores are ``decision_function`` elsewhere. Two classes with
    one decision value ``d`` get the scores ``[-d / 2, d / 2]``. Steps that round pass
    gradients straight through. The module is in eval mode, holds no trainable
    parameters, and using it leaves the estimator as it was.

    Parameters
    ----------
    estimator : estimator
        A fitted classifier or Pipeline. Views are built in for skorch nets,
        Pipeline, FrozenEstimator, the squeezers of this package, StandardScaler,
        MinMaxScaler, MaxAbsScaler, RobustScaler, LogisticRegression and MLPClassifier.
        ``as_module.register(cls, builder)`` adds one: ``builder(fitted)`` returns the
        module of a fitted instance of ``cls`` or of its subclasses. A subclass of a
        type built in that overrides how it answers has no view until it is registered.

    Returns
    -------
    module : torch.nn.Module
        From a float tensor of shape (n_samples, ...) to one of shape
        (n_samples, n_classes), differentiable in its input.

    Raises
    ------
    TypeError
        If a part of the estimator has no view; the message names the part.
    NotFittedError
        If a part of the estimator is not fitted yet.

    See Also
    --------
    PGD : An attack along the gradient of this view.
    RandomSearch : An attack for estimators that have no view.

    References
    ----------
    .. [1] A. Athalye, N. Carlini, D. Wagner, "Obfuscated Gradients Give a False Sense
       of Security", ICML 2018, arXiv:1802.00420.

    Examples
    --------
    >>> import torch
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from sk_advdef import as_module
    >>> X, y = load_iris(return_X_y=True)
    >>> model = make_pipeline(StandardScaler(), LogisticRegression()).fit(X, y)
    >>> rows = torch.tensor(X[:2], requires_grad=True)
    >>> scores = as_module(model)(rows)
    >>> scores.shape
    torch.Size([2, 3])
    >>> torch.autograd.grad(scores[:, 0].sum(), rows)[0].shape
    torch.Size([2, 4])
    """
    view = build(estimator)
    from sk_advdef._torch._net import frozen

    return frozen(view)


def register(cls: type, builder: Callable[[Any], Any]) -> None:
    """Give a class of estimators a differentiable view.

    Parameters
    ----------
    cls : type
        The class; its subclasses use the same builder unless they have their own.
    builder : callable
        ``builder(fitted)`` returns a torch module: a classifier's gives scores of
        shape (n_samples, n_classes), a transformer's the transformed rows.
    """
    if not isinstance(cls, type):
        raise TypeError(f"as_module.register takes a class first. Got {cls!r}.")
    if not callable(builder):
        raise TypeError(f"as_module.register takes a callable second. Got {builder!r}.")
    _registered[cls] = builder


def as_score_module(detector: Any) -> Any:
    """Return a fitted detector as a differentiable torch module of suspicion.

    Parameters
    ----------
    detector : estimator
        A fitted detector of this package.

    Returns
    -------
    module : torch.nn.Module
        From a float tensor of raw rows, shape (n_samples, ...), to the suspicion of
        each, shape (n_samples,): minus ``score_samples``, differentiable in its input.

    Raises
    ------
    TypeError
        If the detector, or the model that it watches, has no differentiable view.

    See Also
    --------
    as_module : The same for classifiers.

    Examples
    --------
    >>> import torch
    >>> from sklearn.datasets import load_iris
    >>> from sk_advdef import DropoutUncertaintyDetector, as_score_module
    >>> X, y = load_iris(return_X_y=True)
    >>> detector = DropoutUncertaintyDetector(random_state=0).fit(X, y)
    >>> rows = torch.tensor(X[:2], requires_grad=True)
    >>> suspicion = as_score_module(detector)(rows)
    >>> suspicion.shape
    torch.Size([2])
    >>> torch.autograd.grad(suspicion.sum(), rows)[0].shape
    torch.Size([2, 4])
    """
    detector = unfrozen(detector)
    if not hasattr(detector, "_as_score_module"):
        raise NoViewError(f"{type(detector).__name__} has no differentiable suspicion.")
    return detector._as_score_module().eval().requires_grad_(False)


as_module.register = register  # type: ignore[attr-defined]
