"""What stands inside a fitted model: outputs of layers, and transformed rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn

from sk_advdef._torch._copies import copied


class Tap(NamedTuple):
    """A layer by name, and whether its output or its input is looked at."""

    name: str
    of_output: bool = True

    def __str__(self) -> str:
        return self.name if self.of_output else f"input of {self.name}"


def _twin(module: nn.Module) -> Any:
    """Copy the structure of a module, share its tensors: hooks leave no trace."""
    shared = {id(t): t for t in (*module.parameters(), *module.buffers())}
    return copied(module, shared)


def _first(output: Any) -> Any:
    return output[0] if isinstance(output, (tuple, list)) else output


def as_features(output: Any, n_rows: int, tap: Tap) -> torch.Tensor:
    """Make a row a sample; maps of images are averaged over their positions."""
    output = _first(output)
    if not torch.is_tensor(output) or output.ndim < 1 or len(output) != n_rows:
        raise ValueError(
            f"The layer {str(tap)!r} gives no tensor with a row a sample. Name layers "
            "of which the first axis of the output is that of the batch."
        )
    if output.ndim > 3:
        output = output.flatten(2).mean(dim=2)
    # a copy: the layer behind may change its input in place
    return output.reshape(n_rows, -1).to(torch.float64, copy=True)


def last_hidden(view: Any, rows: torch.Tensor) -> Tap:
    """Find the last layer with weights that a net calls: its input is hidden last."""
    twin = _twin(view)
    called: list[str] = []
    for name, module in twin.module.named_modules():
        if module._parameters:
            module.register_forward_pre_hook(_noting(called, name))
    with torch.no_grad():
        twin(rows)
    if not called:
        raise ValueError(
            "No layer with weights of its own is called by the net, so that none is "
            "the last hidden one. Name layers."
        )
    return Tap(called[-1], of_output=False)


def _noting(called: list[str], name: str) -> Callable[..., None]:
    def note(*_: Any) -> None:
        called.append(name)

    return note


def check_layers(view: Any, names: list[str]) -> list[Tap]:
    """Refuse names that are of no layer of the net."""
    known = [name for name, _ in view.module.named_modules() if name]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(
            f"The net has no layers {unknown}. Its layers are {known} (see "
            "named_modules() of the module)."
        )
    return [Tap(name) for name in names]


class HiddenLayers(nn.Module):
    """Scores of a net and what its layers hold, behind the views of some steps."""

    def __init__(
        self, view: Any, taps: list[Tap], before: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.before = nn.Identity() if before is None else before
        self.view, self.taps = view, taps

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Return scores, and features in float64 for each layer."""
        x = self.before(x)
        twin = _twin(self.view)
        held: dict[int, torch.Tensor] = {}
        layers = dict(twin.module.named_modules())
        for i, tap in enumerate(self.taps):
            hook = _holding(held, i, tap, len(x))
            if tap.of_output:
                layers[tap.name].register_forward_hook(
                    lambda _, given, output, hook=hook: hook(output)
                )
            else:
                layers[tap.name].register_forward_pre_hook(
                    lambda _, given, hook=hook: hook(given)
                )
        scores = twin(x)
        silent = [str(tap) for i, tap in enumerate(self.taps) if i not in held]
        if silent:
            raise ValueError(f"The net does not call its layers {silent}. Name others.")
        return scores, [held[i].to(x.device) for i in range(len(self.taps))]


def _holding(
    held: dict[int, torch.Tensor], i: int, tap: Tap, n_rows: int
) -> Callable[[Any], None]:
    def hold(value: Any) -> None:
        held[i] = as_features(value, n_rows, tap)

    return hold


class LastStep(nn.Module):
    """Scores of a model and the rows that its last step takes."""

    def __init__(self, before: nn.Module, answer: nn.Module) -> None:
        super().__init__()
        self.before, self.answer = before, answer

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Return scores, and the features in float64."""
        x = self.before(x)
        return self.answer(x), [x.flatten(1).double()]
