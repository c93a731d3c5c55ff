"""What a net does with a few rows: where it drops, how wide it is, what hides."""

from __future__ import annotations

import inspect
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.overrides import TorchFunctionMode

from sk_advdef._torch._masked_linear import MaskedLinear
from sk_advdef._torch._places import MaskedDropout, Place, places_of, twin_of
from sk_advdef._torch._random import seeded

_F = nn.functional

#: functions that drop -> names of their arguments, with defaults
_FUNCTIONAL: dict[Any, inspect.Signature] = {
    function: inspect.signature(function)
    for function in (
        _F.dropout,
        _F.dropout1d,
        _F.dropout2d,
        _F.dropout3d,
        _F.alpha_dropout,
        _F.feature_alpha_dropout,
        _F.multi_head_attention_forward,
    )
}
_PLAIN = {torch.dropout, torch.feature_dropout, torch.alpha_dropout}


def _drops(func: Any, args: Any, kwargs: Any) -> bool:
    """Whether a call drops something."""
    if func in _PLAIN:
        p, train = (*args, *kwargs.values())[1:3]
        return p > 0 and bool(train)
    if func is _F.scaled_dot_product_attention:
        return (args[4] if len(args) > 4 else kwargs.get("dropout_p", 0.0)) > 0
    if func not in _FUNCTIONAL:
        return False
    bound = _FUNCTIONAL[func].bind(*args, **kwargs)
    bound.apply_defaults()
    given = bound.arguments
    p = given["dropout_p"] if "dropout_p" in given else given["p"]
    return p > 0 and bool(given["training"])


class _Watch(TorchFunctionMode):
    """Notices dropout that no module stands for."""

    found = False

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.found = self.found or _drops(func, args, kwargs or {})
        return func(*args, **(kwargs or {}))


def drops_by_itself(view: nn.Module, rows: torch.Tensor) -> bool:
    """Whether a net would drop, in training, by functions that it calls itself."""
    twin = twin_of(view, keep_buffers=False).train()
    for module in twin.modules():
        if isinstance(module, _NormBase):
            module.eval()  # it may refuse a single row
    for place, _ in places_of(twin).values():
        place.shapes = []
    with torch.no_grad(), _Watch() as watch, seeded(0):
        try:
            twin(rows)
        except Exception:
            # what a net cannot do in training is no matter here: what it does when it
            # is asked, which is what counts, is seen by the pass in eval mode
            twin.eval()
            twin(rows)
    return watch.found


class Shapes(NamedTuple):
    """What was seen of a net, in values a row.

    ``called`` has the place and the shapes of each call, by the name of the module.
    ``held`` is the widest of what each pass has to itself, ``with_gradient`` the same
    where linear layers do not take over masks, and ``widest`` the widest of all.
    """

    called: dict[str, tuple[Place, list[torch.Size]]]
    held: int
    with_gradient: int
    widest: int


class _Widths:
    def __init__(self, n_rows: int) -> None:
        self.n_rows = n_rows
        self.widest, self.held, self.with_gradient = 1, 1, 1
        self.sampled = self.dropped = False

    def see(self, output: Any) -> None:
        output = output[0] if isinstance(output, (tuple, list)) else output
        if torch.is_tensor(output):
            width = output.numel() // self.n_rows
            self.widest = max(self.widest, width)
            if self.sampled:
                self.held = max(self.held, width)
            if self.dropped:
                self.with_gradient = max(self.with_gradient, width)

    def after(self, module: Any, given: Any, output: Any) -> None:
        place = vars(module).get("place")
        if place is not None and place.p > 0:
            self.dropped = True
            self.sampled |= not getattr(module, "to_linear", False)
        elif isinstance(module, MaskedLinear):
            self.sampled |= self.dropped
        if isinstance(place, Place) and not isinstance(module, MaskedDropout):
            for shape in place.shapes or []:
                self.see(torch.empty(shape, device="meta"))
        self.see(output)


def shapes_of(view: nn.Module, rows: torch.Tensor) -> Shapes:
    """Run a few rows and note the shapes at each place that may drop something."""
    twin = twin_of(view)
    places = places_of(twin)
    for place, _ in places.values():
        place.shapes = []
    widths = _Widths(len(rows))
    for module in twin.modules():
        looked_at = "place" in vars(module) or isinstance(module, MaskedLinear)
        if looked_at or not any(module.children()):
            module.register_forward_hook(widths.after)
    with torch.no_grad():
        twin(rows)
    called: dict[str, tuple[Place, list[torch.Size]]] = {
        name: (place, place.shapes or [])
        for name, (place, _) in places.items()
        if place.shapes and place.p > 0
    }
    return Shapes(called, widths.held, widths.with_gradient, widths.widest)
