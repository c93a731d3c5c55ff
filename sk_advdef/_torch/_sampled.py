"""Many dropout passes for the price of a few: sampled sub-networks, shared by all rows.

Each pass is a sub-network with one mask for every row, so that what comes before the
first dropout is the same in all passes and is computed once, and a row's result does
not depend on the rows beside it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.modules.dropout import _DropoutNd
from torch.overrides import TorchFunctionMode

from sk_advdef._torch._masked_linear import MaskedLinear, followed_by_linear
from sk_advdef._validation import seed_from

#: Activations of all passes that are held at a time; about what the cache can hold.
CELLS_AT_A_TIME = 2**23

#: Activations at the widest dropout that are held at a time, before any is dropped.
ROW_CELLS_AT_A_TIME = 2**20

Masks = dict[str, torch.Tensor]


class _Masked(nn.Module):
    """Stands for a dropout module: multiplies and adds what it is given, call by call.

    While ``shapes`` is a list it only notes the shapes that pass through.
    """

    def __init__(self, dropout: nn.Module) -> None:
        super().__init__()
        self.__dict__["dropout"] = dropout  # not as a child: it is never called
        self.shapes: list[torch.Size] | None = None
        self.masks: list[tuple[torch.Tensor, torch.Tensor | None]] = []
        self.calls = 0
        #: whether a linear layer comes next, and the mask that it is to take over
        self.to_linear = False
        self.held: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.shapes is not None:
            self.shapes.append(x.shape)
            return x
        if not self.masks:  # p = 0
            return x
        scale, shift = self.masks[self.calls]
        self.calls += 1
        if self.to_linear and shift is None and not torch.is_grad_enabled():
            self.held = scale.expand(1, *x.shape[1:]).flatten()
            return x
        return x * scale if shift is None else x * scale + shift


class _FunctionalDropout(TorchFunctionMode):
    """Notices dropout that no module stands for."""

    found = False

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func in _FUNCTIONAL:
            self.found = True
        return func(*args, **(kwargs or {}))


_FUNCTIONAL = {
    torch.dropout,
    torch.feature_dropout,
    torch.alpha_dropout,
    nn.functional.dropout,
    nn.functional.dropout1d,
    nn.functional.dropout2d,
    nn.functional.dropout3d,
    nn.functional.alpha_dropout,
    nn.functional.feature_alpha_dropout,
}

_ADVICE = (
    "Give the net torch.nn.Dropout modules between its layers (such as "
    "sk_advdef.nets.DropoutMLP or DropoutCNN has)."
)


def _is_dropout(module: nn.Module) -> bool:
    return isinstance(module, _DropoutNd)


def _twin(module: nn.Module) -> nn.Module:
    """Copy the structure of a module, share its tensors, put masks for dropouts."""
    shared = {id(t): t for t in (*module.parameters(), *module.buffers())}
    twin = copy.deepcopy(module, shared).eval()
    masked: dict[nn.Module, _Masked] = {}
    parents = list(twin.modules())
    places = [
        child for parent in parents for child in parent.children() if _is_dropout(child)
    ]
    for parent in parents:
        for name, child in parent._modules.items():
            if child is not None and _is_dropout(child):
                parent._modules[name] = masked.setdefault(child, _Masked(child))
        if isinstance(parent, nn.TransformerEncoderLayer):
            # turns off the fused path of eval mode, which knows no dropout
            parent.activation_relu_or_gelu = 0
    for parent in parents:
        if isinstance(parent, nn.Sequential):
            for place, child in enumerate(list(parent)):
                found = followed_by_linear(parent, place)
                if found is None or not isinstance(child, _Masked):
                    continue
                if places.count(_of(child)) == 1:
                    child.to_linear = True
                    parent._modules[found[0]] = MaskedLinear(found[1], child)
    return _Masked(twin) if _is_dropout(twin) else twin


def _of(masked: _Masked) -> Any:
    return vars(masked)["dropout"]


def _places(twin: nn.Module) -> dict[str, _Masked]:
    """Return each place of a mask once, however often the module is registered."""
    return {n: m for n, m in twin.named_modules() if isinstance(m, _Masked)}


class SampledNet:
    """Sub-networks of a module in which a part of the activations is dropped.

    Parameters
    ----------
    view : nn.Module
        From rows to scores of shape (n_samples, n_classes); it is not changed.
    rows : torch.Tensor
        A few rows, to learn the shapes at each dropout.
    n_passes : int
        Number of sub-networks.
    seed : int
        Seeds the masks; the same seed gives the same masks in every process.

    Raises
    ------
    ValueError
        If there is no dropout module, or dropout that no module stands for.
    """

    def __init__(
        self, view: nn.Module, rows: torch.Tensor, *, n_passes: int, seed: int
    ) -> None:
        self.view = view
        self.n_passes = n_passes
        shapes = self._shapes(rows[:2])
        if any(s[0] != len(rows[:2]) for _, calls in shapes.values() for s in calls):
            self._check_batch_comes_first(shapes, rows)
        generator = torch.Generator().manual_seed(seed)
        self.masks: list[tuple[str, list[tuple[torch.Tensor, torch.Tensor | None]]]]
        like = next(view.parameters(), rows)
        self.masks = [
            (name, [self._draw(dropout, shape, generator, like) for shape in calls])
            for name, (dropout, calls) in shapes.items()
        ]
        places = _places(_twin(view))
        widths = [
            (int(torch.Size(shape[1:]).numel()), places[name].to_linear)
            for name, (_, calls) in shapes.items()
            for shape in calls
        ]
        #: the widest place of a mask, and of those where all passes are held at once
        self.width = max(width for width, _ in widths)
        self.held_width = max(
            (w for w, to_linear in widths if not to_linear), default=1
        )

    def _shapes(self, rows: torch.Tensor) -> dict[str, tuple[Any, list[torch.Size]]]:
        twin = _twin(self.view)
        places = _places(twin)
        for place in places.values():
            place.shapes = []
        with torch.no_grad(), _FunctionalDropout() as watch:
            twin(rows)
        if watch.found:
            raise ValueError(
                "The net calls torch.nn.functional.dropout (or a kin of it), which no "
                f"mask can stand in for. {_ADVICE}"
            )
        called: dict[str, tuple[Any, list[torch.Size]]] = {
            name: (_of(place), place.shapes or [])
            for name, place in places.items()
            if place.shapes and _of(place).p > 0
        }
        if not called:
            raise ValueError(
                "The net has no dropout module with p > 0 that its forward pass "
                f"calls, so there is no uncertainty to sample. {_ADVICE}"
            )
        return called

    def _check_batch_comes_first(self, shapes: Any, rows: torch.Tensor) -> None:
        """Refuse masks that would have an entry for each row of a batch."""
        other = rows[:1] if len(rows) > 1 else torch.cat([rows, rows])
        for name, (_, calls) in self._shapes(other).items():
            if [s[1:] for s in calls] != [s[1:] for s in shapes[name][1]]:
                raise ValueError(
                    f"At the dropout module {name!r} the batch is not the first axis, "
                    "so that rows cannot share a mask. Let the net keep the batch "
                    "first (for recurrent and transformer layers: batch_first=True)."
                )

    def _draw(
        self,
        dropout: Any,
        shape: torch.Size,
        generator: torch.Generator,
        like: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        channels_only = isinstance(
            dropout, (nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.FeatureAlphaDropout)
        )
        mask_shape = list(shape[1:])
        if channels_only:
            mask_shape[1:] = [1] * (len(mask_shape) - 1)
        # one pass after the other, and each place by a seed of its own, so that more
        # passes keep the masks of fewer
        seed = int(torch.randint(2**62, (), generator=generator))
        generator = torch.Generator().manual_seed(seed)
        kept = torch.stack(
            [
                torch.rand(1, *mask_shape, generator=generator) >= dropout.p
                for _ in range(self.n_passes)
            ]
        ).to(like.device, like.dtype if like.is_floating_point() else torch.float32)
        keep = 1 - dropout.p
        if not isinstance(dropout, (nn.AlphaDropout, nn.FeatureAlphaDropout)):
            return (kept / keep if keep > 0 else kept), None
        # dropped values go to the lower limit of SELU; mean and variance are kept
        floor = -1.7580993408473766
        scale = (keep + floor**2 * keep * (1 - keep)) ** -0.5 if keep > 0 else 0.0
        return kept * scale, (1 - kept) * (floor * scale) - scale * floor * (1 - keep)

    def scores(self, x: torch.Tensor) -> torch.Tensor:
        """Return scores of every pass, shape (n_passes, n_samples, n_classes)."""
        blocks = [self._block(x, first, stop) for first, stop in self._blocks(len(x))]
        return torch.cat(blocks)

    def rows_at_a_time(self) -> int:
        """Rows for which all passes fit the cache together."""
        rows = CELLS_AT_A_TIME // (self.n_passes * self.held_width)
        return max(8, min(rows, ROW_CELLS_AT_A_TIME // self.width))

    def _blocks(self, n_rows: int) -> Iterator[tuple[int, int]]:
        width = self.width if torch.is_grad_enabled() else self.held_width
        size = max(1, CELLS_AT_A_TIME // max(1, n_rows * width))
        if self.n_passes * n_rows * width <= 2 * CELLS_AT_A_TIME:
            size = self.n_passes
        for first in range(0, self.n_passes, size):
            yield first, min(first + size, self.n_passes)

    def _block(self, x: torch.Tensor, first: int, stop: int) -> torch.Tensor:
        twin = _twin(self.view)
        run = self._runner(twin, x)
        masks = {
            f"{name}.{call}.{part}": mask[first:stop]
            for name, calls in self.masks
            for call, pair in enumerate(calls)
            for part, mask in enumerate(pair)
            if mask is not None
        }
        try:
            return torch.func.vmap(run)(masks)
        except (RuntimeError, ValueError, NotImplementedError):
            # what vmap cannot take runs pass by pass under the same masks
            one = [
                run({k: m[i] for k, m in masks.items()}) for i in range(stop - first)
            ]
            return torch.stack(one)

    def _runner(
        self, twin: nn.Module, x: torch.Tensor
    ) -> Callable[[Masks], torch.Tensor]:
        places = _places(twin)

        def run(masks: Masks) -> torch.Tensor:
            for name, calls in self.masks:
                place = places[name]
                place.calls = 0
                place.masks = [
                    (masks[f"{name}.{call}.0"], masks.get(f"{name}.{call}.1"))
                    for call in range(len(calls))
                ]
            return twin(x)

        return run


class Disagreement(nn.Module):
    """A statistic of the probabilities, or logits, of all sub-networks, for each row.

    With ``seed=None`` every call draws sub-networks of its own.
    """

    #: a call's sub-networks follow from this and its number
    _drawn_from: tuple[int, ...] = ()
    _calls = 0

    def __init__(
        self,
        view: nn.Module,
        statistic: Callable[[torch.Tensor], torch.Tensor],
        of_logits: bool = False,
        *,
        n_passes: int,
        seed: int | None,
        before: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.before = nn.Identity() if before is None else before
        self.view, self.statistic, self.of_logits = view, statistic, of_logits
        self.n_passes, self.seed = n_passes, seed
        self._sampled: SampledNet | None = None

    def scores(self, x: torch.Tensor) -> torch.Tensor:
        """Return scores of all passes, shape (n_passes, n_samples, n_classes)."""
        x = self.before(x)
        sampled = self._sampled
        if sampled is None or self.seed is None:
            self._calls += 1
            seed = self.seed if self.seed is not None else self._fresh_seed()
            sampled = SampledNet(self.view, x, n_passes=self.n_passes, seed=seed)
            self._sampled = sampled
        return sampled.scores(x)

    def _fresh_seed(self) -> int:
        if not self._drawn_from:
            return seed_from(None)
        sequence = np.random.SeedSequence((*self._drawn_from, self._calls))
        return int(sequence.generate_state(1)[0] >> 1)

    def draw_anew(self, seed: int) -> None:
        """Draw other sub-networks at every call from now on, the same for a seed."""
        self.seed, self._drawn_from, self._calls = None, (seed,), 0

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """Return what the statistic looks at, a row each: the scores of all passes."""
        return self.scores(x).transpose(0, 1).flatten(1).to(x.device)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the statistic, shape (n_samples,)."""
        scores = self.scores(x).double()
        given = scores if self.of_logits else scores.softmax(dim=-1)
        return self.statistic(given).to(x.device)
