"""Class probabilities at a temperature, and nets that train at one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from scipy.special import softmax

from sk_advdef._torch._models import is_net

#: Stands for the log of 0, which stays 0 at any temperature, but gives no NaN.
LOG_OF_ZERO = -1e9


def log_proba(model: Any, X: Any) -> np.ndarray:
    """Log of the class probabilities, up to a constant a row; of nets, the logits."""
    if is_net(model):
        from sk_advdef._torch._net import locate_net, transformed
        from sk_advdef._torch._net_view import net_scores

        before, net, n_classes = locate_net(model)
        return net_scores(net, transformed(before, X), n_classes).astype(np.float64)
    proba = np.asarray(model.predict_proba(X), dtype=np.float64)
    with np.errstate(divide="ignore"):
        return np.maximum(np.log(proba), LOG_OF_ZERO)


def soften(log_probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Class probabilities at a temperature: ``p ** (1 / T)``, made to sum to one."""
    return softmax(log_probabilities / temperature, axis=1)


@contextmanager
def at_temperature(
    net: Any,
    X: np.ndarray,
    codes: np.ndarray,
    *,
    temperature: float,
    before: list[Any],
    soft: np.ndarray | None = None,
) -> Iterator[Any]:
    """Let a net train with its logits divided by ``temperature``.

    With ``soft``, on these labels: rows then carry their number, by which the loss
    finds the soft label, while what callbacks score goes on with the hard one.
    """
    import torch

    from sk_advdef._torch._criteria import ScoreLoss
    from sk_advdef._torch._net_view import output_kind, view_of_net
    from sk_advdef._torch._resume import hooked, take_part

    take_part(net, {"temperature": temperature, "soft": soft})
    loss_of = None if output_kind(net) == "logits" else ScoreLoss(net)
    scores_of = view_of_net(net).scores
    targets = None if soft is None else torch.tensor(soft, dtype=torch.float32)

    def infer(original: Any, x: Any, **params: Any) -> Any:
        return original(x["x"] if isinstance(x, dict) else x, **params)

    def get_loss(
        original: Any, y_pred: Any, y_true: Any, X: Any = None, **more: Any
    ) -> Any:
        target, many = y_true, isinstance(y_pred, tuple)
        logits = y_pred[0] if many else y_pred
        if targets is not None:
            target = targets[X["row"].cpu()]
        if loss_of is None:
            if target.ndim == 2:
                spare = logits.shape[1] - target.shape[1]
                target = torch.nn.functional.pad(target, (0, spare))
            cooled = logits / temperature
            y_pred = (cooled, *y_pred[1:]) if many else cooled
            return original(y_pred, target.to(cooled.device), X=X, **more)
        if target.ndim == 1:
            target = target.long()
        return loss_of(scores_of(logits) / temperature, target)

    with hooked(net, infer=infer, get_loss=get_loss):
        yield X if soft is None else {"x": X, "row": np.arange(len(X))}
