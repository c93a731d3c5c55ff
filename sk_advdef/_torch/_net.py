"""skorch nets as scikit-learn classifiers that keep every rule of the house."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import numpy as np
import torch
from scipy.special import softmax
from sklearn.base import ClassifierMixin, clone
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline
from sklearn.utils import check_array
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import nn

from sk_advdef._base import Stamped
from sk_advdef._torch._models import is_net, is_skorch, unfrozen, with_gradients
from sk_advdef._torch._net_view import (
    as_input,
    check_output,
    check_rows,
    frozen,
    net_scores,
    view_of_net,
)
from sk_advdef._torch._random import seeded
from sk_advdef._torch._registry import build
from sk_advdef._torch._resume import Training
from sk_advdef._validation import seed_from


def _refuse_diverged(net: Any) -> None:
    """Refuse weights that are no numbers: such a net answers all rows alike."""
    for name, weight in net.module_.state_dict().items():
        if weight.is_floating_point() and not bool(torch.isfinite(weight).all()):
            raise ValueError(
                f"Training left {name} of {type(net.module_).__name__} with values "
                f"that are not finite. Lower lr={net.lr!r} of the net or the "
                "parameters that scale its loss or its steps, or scale X."
            )


class NetClassifier(ClassifierMixin, Stamped):
    """A skorch net with labels of any kind, checked input and own inference.

    Parameters
    ----------
    net : skorch net
        The net; a clone is trained.
    random_state : int, RandomState instance or None, default=None
        Seeds initialization, shuffling and dropout.

    Attributes
    ----------
    net_ : skorch net
        The fitted net. It knows classes by their position in ``classes_``.
    classes_ : ndarray of shape (n_classes,)
        Sorted labels.
    """

    def __init__(self, net: Any, *, random_state: Any = None) -> None:
        self.net = net
        self.random_state = random_state

    def __sklearn_tags__(self) -> Any:
        """Return scikit-learn's tags of this estimator."""
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags

    def _wraps_net(self) -> bool:
        return True

    @with_gradients
    def fit(
        self,
        X: Any,
        y: Any,
        *,
        around: Callable[[Any, np.ndarray, np.ndarray], AbstractContextManager[Any]]
        | None = None,
        classes: np.ndarray | None = None,
    ) -> NetClassifier:
        """Train a clone of the net.

        ``around(net, X, codes)`` may return a context manager under which the epochs
        run on what it yields in the place of ``X``; ``classes`` may name more labels
        than ``y`` has.
        """
        X, y = validate_data(
            self, X, y, dtype=np.float32, order="C", allow_nd=True, ensure_min_samples=2
        )
        if not X.flags.writeable:
            X = X.copy()  # torch warns of what it must not write to
        check_classification_targets(y)
        self.classes_ = np.unique(y) if classes is None else np.asarray(classes)
        if len(self.classes_) < 2:
            raise ValueError(
                f"Classifier can't train when only one class is present: "
                f"{self.classes_.tolist()[0]!r}."
            )
        codes = np.searchsorted(self.classes_, y).astype(np.int64)
        net = clone(self.net)
        seed = seed_from(self.random_state)
        training = Training(net, seed)
        with seeded(seed), training.watched():
            net.initialize()
            check_output(net, X, len(self.classes_))
            if isinstance(net.criterion_, nn.BCEWithLogitsLoss):
                codes = codes.astype(np.float32)
            with nullcontext(X) if around is None else around(net, X, codes) as given:
                net.partial_fit(given, codes)
                training.raise_if_interrupted()
        _refuse_diverged(net)
        net.module_.eval()
        self.net_ = net
        return self

    def scores(self, X: Any) -> np.ndarray:
        """Return scores of shape (n_samples, n_classes), logits where there are any."""
        check_is_fitted(self)
        X = validate_data(
            self, X, dtype=np.float32, order="C", allow_nd=True, reset=False
        )
        return net_scores(self.net_, X, len(self.classes_))

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the probability of each class, shape (n_samples, n_classes)."""
        return softmax(self.scores(X).astype(np.float64), axis=1)

    def predict(self, X: Any) -> np.ndarray:
        """Return the most probable class of each row."""
        scores = self.scores(X)
        return self.classes_[scores.argmax(axis=1)]

    def _as_module(self) -> nn.Module:
        return view_of_net(self.net_, len(self.classes_))

    def __getstate__(self) -> dict[str, Any]:
        """Return the state to pickle, with the weights as NumPy arrays."""
        state = super().__getstate__()
        if "net_" in state:
            state["net_"] = _packed(state["net_"])
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Rebuild the net from its class, its parameters and its weights."""
        if isinstance(state.get("net_"), dict):
            state = dict(state, net_=_unpacked(state["net_"]))
        super().__setstate__(state)


def _packed(net: Any) -> dict[str, Any]:
    weights = {
        name: value.detach().cpu().numpy() if torch.is_tensor(value) else value
        for name, value in net.module_.state_dict().items()
    }
    return {"net": clone(net), "weights": weights, "history": net.history.to_list()}


@contextmanager
def _no_folders(net: Any) -> Iterator[None]:
    """Keep skorch's checkpoints from making a folder for a net that is only opened."""
    given = net.callbacks if isinstance(net.callbacks, (list, tuple)) else []
    callbacks = [c[1] if isinstance(c, tuple) else c for c in given]
    kept = [(c, c.dirname) for c in callbacks if hasattr(c, "dirname")]
    for callback, _ in kept:
        callback.dirname = ""
    try:
        yield
    finally:
        for callback, folder in kept:
            callback.dirname = folder
            if hasattr(callback, "checkpoint_"):
                callback.checkpoint_.dirname = folder


def _unpacked(packed: dict[str, Any]) -> Any:
    net = packed["net"]  # on the CPU, with a warning by skorch, where the GPU is gone
    with seeded(0), _no_folders(net):
        net.initialize()
    net.module_.load_state_dict(
        {
            name: torch.tensor(value) if isinstance(value, np.ndarray) else value
            for name, value in packed["weights"].items()
        }
    )
    net.module_.eval()
    for row in packed["history"]:
        net.history.append(row)
    return net


def locate_net(model: Any) -> tuple[list[Any], Any, int | None]:
    """Take a fitted model apart: transformers before the net, the net, its classes.

    The number of classes is None where the net alone says it.
    """
    before: list[Any] = []
    while not is_skorch(model):
        model = unfrozen(model)
        if isinstance(model, Pipeline):
            before += [s for _, s in model.steps[:-1] if s not in (None, "passthrough")]
            model = model.steps[-1][1]
        elif isinstance(model, NetClassifier):
            return before, model.net_, len(model.classes_)
        elif not is_skorch(model):
            if not is_net(model):
                raise TypeError(f"{model!r} is not a net and does not end in one.")
            model = model.estimator_
    check_rows(model)
    return before, model, None


def transformed(before: list[Any], X: Any) -> np.ndarray:
    """Pass rows through fitted transformers, to what a net takes."""
    for step in before:
        X = step.transform(X)
    # torch takes no array that lies backward in memory
    return check_array(X, dtype=np.float32, order="C", allow_nd=True, input_name="X")


def with_adapter(estimator: Any, random_state: Any = None) -> Any:
    """Clone an estimator, with a skorch net at its end made a NetClassifier."""
    if is_skorch(estimator):
        return NetClassifier(clone(estimator), random_state=random_state)
    estimator = clone(estimator)
    if isinstance(estimator, Pipeline):
        name, last = estimator.steps[-1]
        estimator.steps[-1] = (name, with_adapter(last, random_state))
    return estimator


def fit_adapted(
    estimator: Any,
    X: Any,
    y: Any,
    random_state: Any,
    around: Callable[..., AbstractContextManager[Any]],
    **params: Any,
) -> Any:
    """Fit a net, alone or at the end of a Pipeline, with ``around`` about its epochs.

    Transformers before the net are fitted once, on ``X``, and given to ``around`` as
    ``before``.
    """
    model = with_adapter(estimator, random_state)
    pipeline, before = model, []
    while isinstance(model, Pipeline):
        for i, (name, step) in enumerate(model.steps[:-1]):
            if step not in (None, "passthrough"):
                step = step if isinstance(step, FrozenEstimator) else step.fit(X, y)
                X = step.transform(X)
                model.steps[i] = (name, step)
                before.append(step)
        model = model.steps[-1][1]
    if not isinstance(model, NetClassifier):
        raise TypeError(
            f"Training needs a skorch net to train, and {estimator!r} trains one in a "
            "way of its own. Pass the skorch net itself."
        )
    model.fit(X, y, around=partial(around, before=before), **params)
    return pipeline


def _settings(part: nn.Module) -> dict[str, Any]:
    """Return the plain values that a module holds beside its tensors."""
    return {
        name: value
        for name, value in vars(part).items()
        if name != "training" and _is_plain(value)
    }


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(_is_plain(part) for part in value)
    return isinstance(value, (int, float, str))


class LiveModel:
    """A net in training, as attacks see it: raw rows in, positions of classes out.

    Its weights are those of the net at any moment, and so is what else its modules
    hold; dropout is off and BatchNorm only reads its statistics.
    """

    def __init__(
        self, net: Any, before: list[Any], n_classes: int, genuine: np.ndarray
    ) -> None:
        self.net = net
        self.classes_ = np.arange(n_classes)
        self.genuine_classes_ = genuine
        steps = [build(step, "transform") for step in before]
        self.before = nn.Sequential(*steps).eval().requires_grad_(False)
        self._view: Any = None
        self._known: list[Any] = []

    def as_rows(self, X: Any) -> np.ndarray:
        """Return rows in a dtype that loses nothing before the net gets them."""
        X = np.asarray(X)
        kept = len(self.before) and X.dtype != np.float16
        kind = np.result_type(X.dtype, np.float32) if kept else np.float32
        return X.astype(kind, copy=False)

    def inputs(self, x: torch.Tensor) -> torch.Tensor:
        """Return what the module gets of raw rows."""
        return as_input(self.net.module_, self.before(x).to(torch.float32))

    def renew(self) -> None:
        """Take over what cannot be seen to have changed."""
        self._view = None

    def _as_module(self) -> nn.Module:
        module = self.net.module_
        # some optimizers put new tensors in the place of the old
        known = [t.data_ptr() for t in (*module.parameters(), *module.buffers())]
        known += [_settings(part) for part in module.modules()]
        if self._view is None or self._known != known:
            self._known = known
            net_view = view_of_net(self.net, len(self.classes_), live=True)
            # a copy in eval mode that shares the weights: the module itself is training
            self._view = frozen(nn.Sequential(self.before, net_view))
        return self._view

    def _missing_view(self) -> None:
        return None

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return class probabilities under the weights of this moment."""
        view = self._as_module()
        with torch.inference_mode():
            scores = view(torch.tensor(self.as_rows(X)))
        return softmax(scores.cpu().numpy().astype(np.float64), axis=1)

    def predict(self, X: Any) -> np.ndarray:
        """Return positions of classes under the weights of this moment."""
        return self.predict_proba(X).argmax(axis=1)
