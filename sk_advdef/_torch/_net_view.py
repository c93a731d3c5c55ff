"""The module of a skorch net as scores of classes, whatever it returns."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from sklearn.utils import gen_batches
from torch import nn
from torch.overrides import TorchFunctionMode

from sk_advdef._torch._bpda import Through
from sk_advdef._torch._copies import copied
from sk_advdef._torch._known import changes_rows

#: Rows that go through a module at a time.
BATCH_SIZE = 1024

_SOFTMAX = {torch.softmax, torch.Tensor.softmax, nn.functional.softmax}


class _SoftmaxWatch(TorchFunctionMode):
    """Remembers what went into the last softmax, to see through its saturation."""

    logits: torch.Tensor | None = None
    proba: torch.Tensor | None = None

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in _SOFTMAX:
            source = args[0] if args else (kwargs or {})["input"]
            self.logits, self.proba = source, result
        return result


def eval_mode(module: nn.Module) -> nn.Module:
    """Return the module in eval mode, as a copy unless all of it is so already."""
    if any(m.training for m in module.modules()):
        module = copied(module).eval()
    return module


def frozen(module: nn.Module) -> nn.Module:
    """Return the module in eval mode, with nothing to train in it.

    Unless it is so already this is a copy that shares the weights: the module may be
    the user's own, who wants to train on.
    """
    if any(p.requires_grad for p in module.parameters()) or any(
        m.training for m in module.modules()
    ):
        shared: dict[int, Any] = {id(b): b for b in module.buffers()}
        for weight in module.parameters():
            shared[id(weight)] = nn.Parameter(weight.detach(), requires_grad=False)
        module = copied(module, shared).eval()
    return module


def output_kind(net: Any) -> str:
    """Say what the module of an initialized net returns, by its criterion.

    ``"logits"``, ``"binary"`` (one logit), ``"proba"``, or ``"nonlinearity"`` where
    the user gave skorch a function of his own that turns the output to probabilities.
    """
    if callable(net.predict_nonlinearity):
        return "nonlinearity"
    if isinstance(net.criterion_, nn.CrossEntropyLoss):
        return "logits"
    if isinstance(net.criterion_, nn.BCEWithLogitsLoss):
        return "binary"
    return "proba"


class NetView(nn.Module):
    """The module of a net, from an input batch to one score a class.

    The scores' softmax is the probability of each class. ``n_classes`` cuts columns
    that stand for no class. ``threshold`` is where skorch's own ``predict`` parts two.
    ``narrowed`` says that rows become float32 before a module of float64 gets them, as
    our estimators give them.
    """

    #: what looks at the functions that the module calls, while an attack runs
    through: Through | None = None

    def __init__(
        self,
        module: nn.Module,
        kind: str,
        *,
        n_classes: int | None = None,
        nonlinearity: Callable[..., Any] | None = None,
        threshold: float = 0.5,
        narrowed: bool = True,
    ) -> None:
        super().__init__()
        self.module = module
        wide = dtype_of(module, torch.empty(0)) == torch.float64
        self.narrowed = narrowed and wide
        self.threshold = threshold
        self.kind = kind
        self.n_classes = n_classes
        self.nonlinearity = nonlinearity

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return scores of shape (n_samples, n_classes)."""
        given = as_input(self.module, x.to(torch.float32) if self.narrowed else x)
        if self.kind != "proba":
            with self.through or nullcontext():
                output = _first(self.module(given))
            return self.scores(output).to(x.device)
        with _SoftmaxWatch() as watch, self.through or nullcontext():
            output = _first(self.module(given))
        if output is watch.proba and watch.logits is not None:
            return watch.logits[:, : self.n_classes].to(x.device)
        return self.scores(output).to(x.device)

    def scores(self, output: torch.Tensor) -> torch.Tensor:
        """Turn what the module returned into scores."""
        if self.kind == "nonlinearity":
            assert self.nonlinearity is not None
            output = _safe_log(self.nonlinearity(output))
        elif self.kind == "binary":
            half = output.reshape(len(output)) / 2
            output = torch.stack([-half, half], dim=1)
        elif self.kind == "proba":
            # a criterion of the user's own may ask for scores: no row of these has to
            # be free of negative ones
            is_proba = (output >= 0).all(dim=1, keepdim=True)
            output = torch.where(is_proba, _safe_log(output), output)
        return output[:, : self.n_classes]


def dtype_of(module: nn.Module, otherwise: torch.Tensor) -> torch.dtype:
    """Return the floating dtype of a module, or that of rows if it has none."""
    like = next(module.parameters(), otherwise)
    return like.dtype if like.is_floating_point() else torch.float32


def as_input(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Move rows to the device and the floating dtype of a module."""
    return x.to(next(module.parameters(), x).device, dtype_of(module, x))


def _first(output: Any) -> torch.Tensor:
    return output[0] if isinstance(output, tuple) else output


def _safe_log(proba: torch.Tensor) -> torch.Tensor:
    return proba.clamp_min(torch.finfo(proba.dtype).tiny).log()


def view_of_net(
    net: Any,
    n_classes: int | None = None,
    *,
    live: bool = False,
    narrowed: bool = True,
) -> Any:
    """Make the view of an initialized skorch net, by default of one of ours.

    ``live=True`` keeps the module itself, for use inside training; otherwise the view
    is in eval mode whatever mode the module is in.
    """
    kind = output_kind(net)
    nonlinearity = net.predict_nonlinearity if kind == "nonlinearity" else None
    module = net.module_ if live else eval_mode(net.module_)
    return NetView(
        module,
        kind,
        n_classes=n_classes,
        nonlinearity=nonlinearity,
        threshold=getattr(net, "threshold", 0.5),
        narrowed=narrowed,
    )


def net_scores(net: Any, X: np.ndarray, n_classes: int | None = None) -> np.ndarray:
    """Scores of an initialized net on ``X``, in blocks, without skorch's overhead."""
    view = view_of_net(net, n_classes)
    with torch.inference_mode():
        blocks = [
            view(torch.tensor(X[rows], dtype=torch.float32)).cpu().numpy()
            for rows in gen_batches(len(X), BATCH_SIZE)
        ]
    return np.concatenate(blocks)


def check_threshold(net: Any) -> None:
    """Refuse a net that does not answer the more probable of two classes."""
    threshold = getattr(net, "threshold", 0.5)
    if threshold != 0.5:
        raise ValueError(
            f"threshold of {type(net).__name__} must be 0.5 inside another estimator, "
            f"which answers the more probable class. Got {threshold!r}; put "
            "sklearn.model_selection.FixedThresholdClassifier around that one."
        )


def check_rows(net: Any) -> None:
    """Refuse a net that puts something between the rows and its module."""
    if changes_rows(net):
        raise ValueError(
            f"{type(net).__name__} must give rows to its module as they are, inside "
            "another estimator: with skorch's own dataset, infer and get_dataset, and "
            "a plain iterator_valid. Put what changes rows into the module, or before "
            "the net in a Pipeline; iterator_train__collate_fn is free to."
        )


def check_output(net: Any, X: np.ndarray, n_classes: int) -> None:
    """Refuse a net whose output does not fit its criterion or the classes."""
    check_threshold(net)
    check_rows(net)
    kind = output_kind(net)
    with torch.no_grad():
        device = next(net.module_.parameters(), torch.empty(0)).device
        rows = torch.tensor(X[:2], dtype=torch.float32, device=device)
        # in eval mode from here on: the net is fresh, and training sets its own mode
        output = _first(net.module_.eval()(rows))
        if kind == "nonlinearity":
            output = net.predict_nonlinearity(output)
    name = type(net.module_).__name__
    criterion = type(net.criterion_).__name__
    if kind == "binary":
        if output.numel() != len(rows):
            raise ValueError(
                f"{name} returns an output of shape {tuple(output.shape)} for "
                f"{len(rows)} rows, but {criterion} takes one logit a row. Use "
                "criterion=torch.nn.CrossEntropyLoss."
            )
        columns = 2
    else:
        columns = output.shape[1] if output.ndim == 2 else 0
        sums = output.sum(dim=1) if columns else output.new_zeros(1)
        if kind != "logits" and not (
            columns
            and bool((output >= 0).all())
            and bool(((sums - 1).abs() < 1e-3).all())
        ):
            raise ValueError(
                f"The rows that {name} returns are no probabilities (they sum to "
                f"{', '.join(f'{s:.3g}' for s in sums.tolist())}), which is what "
                f"skorch takes them for under criterion={criterion}. If {name} returns "
                "logits, pass criterion=torch.nn.CrossEntropyLoss to the net."
            )
    if columns < n_classes or (kind == "binary" and n_classes > 2):
        raise ValueError(
            f"{name} returns {columns} columns for {n_classes} classes. Give it an "
            "output for each class."
        )
