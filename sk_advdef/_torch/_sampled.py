"""Many dropout passes for the price of a few: sampled sub-networks, shared by all rows.

Each pass is a sub-network with one mask for every row, so that what comes before the
first dropout is the same in all passes and is computed once, and a row's result does
not depend on the rows beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch import nn

from sk_advdef._torch._places import Mask, Place, places_of, twin_of
from sk_advdef._torch._probe import Shapes, drops_by_itself, shapes_of
from sk_advdef._validation import seed_from

#: Activations of all passes that are held at a time; about what the cache can hold.
CELLS_AT_A_TIME = 2**21

#: Activations of one layer that are held at a time, before any is dropped or after.
WIDEST_AT_A_TIME = 2**23

#: Activations at the widest dropout that are held at a time, before any is dropped.
ROW_CELLS_AT_A_TIME = 2**20

_ADVICE = (
    "Give the net torch.nn.Dropout modules between its layers (such as "
    "sk_advdef.nets.DropoutMLP or DropoutCNN has)."
)


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
        seen = self._seen(rows[:2])
        shapes = seen.called
        if any(
            shape[place.batch_axis] != len(rows[:2])
            for place, calls in shapes.values()
            for shape in calls
        ):
            self._check_batch_comes_first(shapes, rows)
        generator = torch.Generator().manual_seed(seed)
        like = next(view.parameters(), rows)
        self.masks: list[tuple[str, list[Mask]]] = [
            (name, [self._draw(place, shape, generator, like) for shape in calls])
            for name, (place, calls) in shapes.items()
        ]
        #: the widest place of a mask, what each pass holds for itself, without and with
        #: gradients, and the widest of all, in values a row
        self.width = max(
            int(torch.Size(shape[1:]).numel())
            for _, calls in shapes.values()
            for shape in calls
        )
        self.held_width, self.widest = seen.held, seen.widest
        self.width_with_gradient = max(self.width, seen.with_gradient)
        self._loops = False

    def _seen(self, rows: torch.Tensor) -> Shapes:
        if drops_by_itself(self.view, rows):
            raise ValueError(
                "The net calls torch.nn.functional.dropout (or a kin of it), which no "
                f"mask can stand in for. {_ADVICE}"
            )
        seen = shapes_of(self.view, rows)
        if not seen.called:
            raise ValueError(
                "The net has no dropout module with p > 0 that its forward pass "
                f"calls, so there is no uncertainty to sample. {_ADVICE}"
            )
        return seen

    def _check_batch_comes_first(self, shapes: Any, rows: torch.Tensor) -> None:
        """Refuse masks that would have an entry for each row of a batch."""
        other = rows[:1] if len(rows) > 1 else torch.cat([rows, rows])
        for name, (place, calls) in shapes_of(self.view, other).called.items():
            axis = place.batch_axis
            if [_without(s, axis) for s in calls] != [
                _without(s, axis) for s in shapes[name][1]
            ]:
                raise ValueError(
                    f"At the dropout module {name!r} the batch is not the first axis, "
                    "so that rows cannot share a mask. Let the net keep the batch "
                    "first (for recurrent and transformer layers: batch_first=True)."
                )

    def _draw(
        self,
        place: Place,
        shape: torch.Size,
        generator: torch.Generator,
        like: torch.Tensor,
    ) -> Mask:
        mask_shape = list(shape)
        mask_shape[place.batch_axis] = 1
        if place.channels_only:
            mask_shape[2:] = [1] * (len(mask_shape) - 2)
        # one pass after the other, and each place by a seed of its own, so that more
        # passes keep the masks of fewer
        seed = int(torch.randint(2**62, (), generator=generator))
        generator = torch.Generator().manual_seed(seed)
        kept = torch.stack(
            [
                torch.rand(*mask_shape, generator=generator) >= place.p
                for _ in range(self.n_passes)
            ]
        ).to(like.device, like.dtype if like.is_floating_point() else torch.float32)
        keep = 1 - place.p
        if not place.alpha:
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
        rows = min(rows, WIDEST_AT_A_TIME // self.widest)
        return max(8, min(rows, ROW_CELLS_AT_A_TIME // self.width))

    def _blocks(self, n_rows: int) -> Iterator[tuple[int, int]]:
        with_gradient = torch.is_grad_enabled()
        width = self.width_with_gradient if with_gradient else self.held_width
        size = max(1, CELLS_AT_A_TIME // max(1, n_rows * width))
        if self.n_passes * n_rows * width <= 2 * CELLS_AT_A_TIME:
            size = self.n_passes
        for first in range(0, self.n_passes, size):
            yield first, min(first + size, self.n_passes)

    def _block(self, x: torch.Tensor, first: int, stop: int) -> torch.Tensor:
        run = self._runner(twin_of(self.view), x)
        masks = {
            f"{name}.{call}.{part}": mask[first:stop]
            for name, calls in self.masks
            for call, pair in enumerate(calls)
            for part, mask in enumerate(pair)
            if mask is not None
        }
        if not self._loops:
            # Whatever vmap cannot take, such as a branch on a value, runs pass by pass
            # under the same masks; an error of the net itself comes again there.
            with suppress(Exception):
                return torch.func.vmap(run)(masks)
            run = self._runner(twin_of(self.view), x)
        passes = [run({k: m[i] for k, m in masks.items()}) for i in range(stop - first)]
        self._loops = True
        return torch.stack(passes)

    def _runner(
        self, twin: nn.Module, x: torch.Tensor
    ) -> Callable[[dict[str, torch.Tensor]], torch.Tensor]:
        places = places_of(twin)

        def run(masks: dict[str, torch.Tensor]) -> torch.Tensor:
            for name, calls in self.masks:
                place, _ = places[name]
                place.calls = 0
                place.masks = [
                    (masks[f"{name}.{call}.0"], masks.get(f"{name}.{call}.1"))
                    for call in range(len(calls))
                ]
            return twin(x)

        return run


def _without(shape: torch.Size, axis: int) -> list[int]:
    return [size for i, size in enumerate(shape) if i != axis]


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
