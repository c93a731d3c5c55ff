"""Which estimators have a differentiable view, and the way to it."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

from sklearn.utils.validation import check_is_fitted

from sk_advdef._torch._known import address_of, is_plain_net, key_of
from sk_advdef._torch._models import is_skorch, unfrozen
from sk_advdef._torch._parts import PARTS, REFUSALS


class _Registered(NamedTuple):
    build: Callable[[Any], Any]
    random: bool


_registered: dict[type, _Registered] = {}


def views_registered() -> dict[type, Any]:
    """Return what users have registered, for another process."""
    return dict(_registered)


def register_views(views: dict[type, Any]) -> None:
    """Take over what another process has registered."""
    _registered.update(views)


class NoViewError(TypeError):
    """An estimator has no differentiable view."""


def _own_builder(estimator: Any) -> _Registered | None:
    found = (_registered.get(cls) for cls in type(estimator).__mro__)
    return next(filter(None, found), None)


class _Missing(NamedTuple):
    part: Any
    where: str = ""
    why: str = ""


def _missing(estimator: Any, role: str) -> _Missing | None:
    estimator = unfrozen(estimator)
    if _own_builder(estimator) is not None:
        return None
    key = key_of(estimator, role)
    if key is None:
        return _missing_unlisted(estimator, role)
    refusal = REFUSALS.get(key)
    why = refusal(estimator, role) if refusal else None
    if why is not None:
        return _Missing(estimator, why=why)
    for where, part, of_part in PARTS[key](estimator, role) if key in PARTS else ():
        missing = _missing(part, of_part)
        if missing is not None:
            return missing._replace(where=missing.where or where)
    return None


def _missing_unlisted(estimator: Any, role: str) -> _Missing | None:
    if role == "transform" and hasattr(type(estimator), "predict"):
        return _Missing(estimator)
    own = getattr(estimator, "_missing_view", None)
    if callable(own):
        part = own()
        if part is None or part is estimator:
            return None if part is None else _Missing(part)
        # asked again, for the place and the reason
        return _missing(part, role) or _Missing(part)
    if hasattr(estimator, "_as_module") or is_plain_net(estimator):
        return None
    why = (
        "it answers, or reads rows, in a way of its own" if is_skorch(estimator) else ""
    )
    return _Missing(estimator, why=why)


def missing_view(estimator: Any, role: str = "answer") -> Any:
    """Return the first part of the estimator that has no view in a role, or None."""
    missing = _missing(estimator, role)
    return None if missing is None else missing.part


def has_view(estimator: Any) -> bool:
    """Whether ``as_module`` will work. Loads no torch."""
    return _missing(estimator, "answer") is None


def build(estimator: Any, role: str = "answer") -> Any:
    """Make the view of a fitted estimator: a module with scores or features out.

    ``role="transform"`` asks a classifier that also transforms for its features;
    ``role="proba"`` refuses where the scores' softmax is not ``predict_proba``.
    """
    estimator = unfrozen(estimator)
    missing = _missing(estimator, role)
    if missing is not None:
        where = f" ({missing.where})" if missing.where else ""
        why = f": {missing.why}" if missing.why else ""
        raise NoViewError(
            f"{type(missing.part).__name__}{where} has no differentiable view{why}. "
            "Register one with as_module.register(cls, builder), or use an attack that "
            "needs no gradient: RandomSearch, HopSkipJump, or TreeExact for trees."
        )
    own = _own_builder(estimator)
    if own is not None:
        view = own.build(estimator)
        if own.random:
            view.is_random = True
        return view
    key = key_of(estimator, role)
    if key == "sklearn.Pipeline":  # its steps say for themselves if they are fitted
        return _load("_views:pipeline")(estimator, role)
    if hasattr(estimator, "fit"):
        check_is_fitted(estimator)
    if key is not None:
        return _load(address_of(key, role))(estimator)
    if hasattr(estimator, "_as_module"):
        return estimator._as_module()
    return _load("_views:skorch_net")(estimator)


def _load(address: str) -> Callable[..., Any]:
    module, _, name = address.partition(":")
    return getattr(importlib.import_module(f"sk_advdef._torch.{module}"), name)


def as_module(estimator: Any) -> Any:
    """Return a fitted estimator as a differentiable torch module.

    The module takes raw input rows, as the estimator's own ``predict`` does, and
    returns one score a class: the softmax of the scores is ``predict_proba`` where
    there is one, and the scores are ``decision_function`` elsewhere. Two classes with
    one decision value ``d`` get the scores ``[-d / 2, d / 2]``. The module is in eval
    mode, holds no trainable parameters, and using it leaves the estimator as it was.

    Parameters
    ----------
    estimator : estimator
        A fitted classifier, or a Pipeline or transformer. See the notes for the types
        that have a view; ``as_module.register(cls, builder)`` adds one.

    Returns
    -------
    module : torch.nn.Module
        From a float tensor of shape (n_samples, ...) to one of shape
        (n_samples, n_classes), differentiable in its input.

    Raises
    ------
    TypeError
        If a part of the estimator has no view. The message names the part, the reason
        where there is one, and attacks that need no view.
    NotFittedError
        If a part of the estimator is not fitted yet.

    See Also
    --------
    PGD : An attack along the gradient of this view.
    RandomSearch : An attack for estimators that have no view.

    Notes
    -----
    Views are built in for the estimators of this package that answer with classes or
    squeeze, for skorch nets, and for these types of scikit-learn, their subclasses
    included unless those override how they answer:

    - structure: Pipeline, FrozenEstimator, fitted searches, ColumnTransformer and
      FeatureUnion (branches that drop or pass through too). The rows of a
      ColumnTransformer's view have all columns that it was fitted on, as numbers; a
      branch for other columns, such as an encoder's, has no view.
    - transformers: StandardScaler, MinMaxScaler, MaxAbsScaler, RobustScaler,
      Normalizer, PCA, IncrementalPCA, TruncatedSVD, SimpleImputer (of numbers),
      whatever selects features (SelectKBest, VarianceThreshold, SelectFromModel, RFE,
      ...), FunctionTransformer without a function, and LinearDiscriminantAnalysis as a
      step before the last.
    - linear: LogisticRegression, LogisticRegressionCV, SGDClassifier, Perceptron,
      LinearSVC, RidgeClassifier, RidgeClassifierCV, LinearDiscriminantAnalysis.
    - others: SVC and NuSVC (linear, poly, rbf, sigmoid), MLPClassifier, GaussianNB,
      QuadraticDiscriminantAnalysis.
    - ensembles: VotingClassifier, StackingClassifier, CalibratedClassifierCV (sigmoid
      and temperature; isotonic calibration is a staircase), RFE and RFECV.

    The scores follow ``decision_function`` although there is a ``predict_proba`` for
    SVC with ``probability=True`` and for SGDClassifier with ``loss="modified_huber"``:
    their probabilities may disagree with ``predict``. For the same reason an ensemble
    that reads their probabilities has no view. An SVC of three classes or more has the
    scores of ``decision_function_shape="ovr"`` in either shape; ``predict`` breaks a
    tie of votes its own way unless ``break_ties=True``. Hard voting has the count of
    votes as scores.

    *Steps.* The values of a view are exact. Where the estimator rounds or counts votes,
    the gradient is that of the identity (BitDepthSqueezer), of the confidences (SVC) or
    of soft votes (VotingClassifier); an attack may ask for that of a soft step, sharper
    and sharper, instead [1]_.

    *Chance.* Where an estimator answers at random, the view averages its probabilities
    over ten draws [2]_: where a module says ``is_random = True``, where a builder was
    registered with ``random=True``, and where a skorch net is seen to draw random
    numbers at its first answer, as one that leaves dropout on does. The draws are
    seeded, and new at every call.

    References
    ----------
    .. [1] A. Athalye, N. Carlini, D. Wagner, "Obfuscated Gradients Give a False Sense
       of Security", ICML 2018, arXiv:1802.00420.
    .. [2] A. Athalye, L. Engstrom, A. Ilyas, K. Kwok, "Synthesizing Robust Adversarial
       Examples", ICML 2018, arXiv:1707.07397.

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

    A view for a type that has none:

    >>> class Square(StandardScaler):
    ...     def transform(self, X):
    ...         return super().transform(X) ** 2
    >>> class SquareView(torch.nn.Module):
    ...     def __init__(self, scaler):
    ...         super().__init__()
    ...         self.register_buffer("mean", torch.tensor(scaler.mean_))
    ...         self.register_buffer("scale", torch.tensor(scaler.scale_))
    ...
    ...     def forward(self, x):
    ...         return ((x - self.mean) / self.scale) ** 2
    >>> as_module.register(Square, SquareView)
    >>> model = make_pipeline(Square(), LogisticRegression()).fit(X, y)
    >>> proba = as_module(model)(rows).softmax(dim=1)
    >>> bool(abs(proba.detach().numpy() - model.predict_proba(X[:2])).max() < 1e-6)
    True
    """
    view = build(estimator)
    from sk_advdef._torch._eot import averaged
    from sk_advdef._torch._net_view import frozen

    view = frozen(view)
    return averaged(view) if hasattr(unfrozen(estimator), "predict") else view


def register(cls: type, builder: Callable[[Any], Any], *, random: bool = False) -> None:
    """Give a class of estimators a differentiable view.

    Parameters
    ----------
    cls : type
        The class; its subclasses use the same builder unless they have their own.
    builder : callable
        ``builder(fitted)`` returns a torch module: a classifier's gives scores of
        shape (n_samples, n_classes), a transformer's the transformed rows.
    random : bool, default=False
        Whether the module draws at random, from the global generators of torch, NumPy
        or Python, at every call. The view of a classifier that holds it then averages
        the class probabilities over ten calls; ``is_random = True`` on the module says
        the same.
    """
    if not isinstance(cls, type):
        raise TypeError(f"as_module.register takes a class first. Got {cls!r}.")
    if not callable(builder):
        raise TypeError(f"as_module.register takes a callable second. Got {builder!r}.")
    _registered[cls] = _Registered(builder, random)


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
    from sk_advdef._torch._net_view import frozen

    return frozen(detector._as_score_module())


as_module.register = register  # type: ignore[attr-defined]
