"""Bounds beside which a value goes that can be followed backward, as CROWN does.

A lead of one class over another is bounded by a linear function of what goes into each
layer. Its coefficients come back through the module as a gradient does, but for the
ReLUs: there each takes the slope of a line below the ReLU, or above, by its sign. So
the value goes through the module's own ``forward`` beside its bounds, and torch's
gradient does the rest. What a linear function may be off is charged to an *account* of
one number a row, as if it were the gradient of that: the distance of a line from its
ReLU, the rounding of each operation, the box at the start, and the whole width of the
bounds behind a function that is no line, where the value starts anew.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch.autograd import Function
from torch.nn import functional as F

from sk_advdef._torch import _interval_layers as layers
from sk_advdef._torch import _interval_rules as rules
from sk_advdef._torch._interval import RULES, Interval, intervals

_T = torch.Tensor

#: Unit of rounding of float64, in which bounds are computed.
OWN_UNIT = 2.0**-53

#: Numbers of a gradient of some values at a time.
MANY_VALUES = 2_000_000

#: Rules that move values about, and no more.
_MOVING = {rules.layout, rules.several, rules.getitem, layers.dropout}

#: Rules of what is linear in one tensor that is bounded, but for rounding.
_LINEAR = {
    *(rules.add, rules.sub, rules.rsub, rules.neg, rules.mul, rules.div),
    *(layers.linear, layers.matmul, layers.conv, layers.average, layers.batch_norm),
}
_MAPS = {layers.linear, layers.matmul, layers.conv, layers.average}

#: Rules of what stays linear where two tensors are bounded.
_OF_TWO = {rules.add, rules.sub, rules.rsub}

#: What writes a result into its first argument -> the rule of the result.
_WRITTEN = {f: how for how, some in rules.ASSIGNING.items() for f in some}

#: What cuts a gradient and leaves the values.
_CUTTING = {_T.detach, _T.requires_grad_}


Ends = tuple[torch.Tensor, torch.Tensor]


@dataclass
class Ledger:
    """What all values of some rows share on their way through a module.

    Parameters
    ----------
    rows : int
        Number of rows.
    slopes : list of torch.Tensor
        Slope of the line below each ReLU, in [0, 1], a tensor for each call of one; is
        filled with a first choice where it is empty.
    refines : bool, default=False
        Whether what goes into each ReLU is bounded backward too. This is for one row.
    """

    rows: int
    slopes: list[torch.Tensor] = field(default_factory=list)
    refines: bool = False
    #: whether rows left the first axis, so that charges of several are mixed up
    astray: bool = False
    #: ReLUs, and what made values of several, that rows went through
    used: int = 0
    maps: int = 0

    def __post_init__(self) -> None:
        self.account = torch.zeros(self.rows, dtype=torch.float64, requires_grad=True)

    def slope(self, lower: torch.Tensor, upper: torch.Tensor) -> Any:
        """Return a function that gives the slopes of the next ReLU, as they are."""
        at, self.used = self.used, self.used + 1
        if at == len(self.slopes) or self.slopes[at].shape != lower.shape:
            self.slopes[at:] = [(upper > -lower).to(lower.dtype)]
        self.slopes[at].requires_grad_()
        return lambda: self.slopes[at].to(lower)

    def tighten(self, x: Interval) -> None:
        """Bound what goes into the next ReLU backward, where that may be better."""
        # behind one map of a box there is nothing to be bettered
        if self.refines and (self.used or self.maps > 1):
            x._ends, x._middle = _bounded_backward(x, self), None


def _bounded_backward(x: Interval, ledger: Ledger) -> Ends:
    """Bound one row's values, each by itself, of which it is unsure where they lie."""
    point = x.point
    assert point is not None
    lower, upper = (end.clone(memory_format=torch.contiguous_format) for end in x.ends)
    places = ((lower < 0) & (upper > 0)).flatten().nonzero()[:, 0]
    if not len(places):
        return lower, upper
    # memory is that of all values so far, times those bounded at a time
    size = point.numel() + sum(slope.numel() for slope in ledger.slopes)
    for at in places.split(max(1, MANY_VALUES // size)):
        each = torch.zeros(len(at), point.numel(), dtype=point.dtype)
        each = each.to(point.device)
        each[torch.arange(len(at)), at] = 1
        each = each.reshape(len(at), *point.shape)
        value = point.detach().flatten()[at]
        for end, sign in ((lower, 1), (upper, -1)):
            (charge,) = torch.autograd.grad(
                point,
                ledger.account,
                sign * each,
                retain_graph=True,
                is_grads_batched=True,
            )
            found = sign * value + charge[:, 0].to(value)
            before = sign * end.view(-1)[at]
            end.view(-1)[at] = sign * torch.where(found > before, found, before)
    # what is said of rounding takes the point for one within the bounds
    point = point.detach()
    return torch.minimum(lower, point), torch.maximum(upper, point)


def _of_rows(values: torch.Tensor, account: torch.Tensor) -> torch.Tensor:
    return values.reshape(len(account), -1).sum(dim=1).to(account)


class _Charged(Function):
    """A value that may be off by ``error``, which is charged to its row."""

    @staticmethod
    def forward(ctx: Any, value: Any, account: Any, error: Any) -> Any:
        ctx.save_for_backward(error, account)
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (grad,), (error, account) = grads, ctx.saved_tensors
        return grad, -_of_rows(grad.abs() * error, account), None


class _Hinge(Function):
    """``max(x, k x)``, whose gradient is the slope of a line below or above it.

    The line below has slope ``low + free * slope``; the one above ``chord`` and, at 0,
    the height ``rise``.
    """

    @staticmethod
    def forward(ctx: Any, x: Any, account: Any, slope: Any, *known: Any) -> Any:
        *lines, k = known
        value = torch.where(x > 0, x, k * x)
        ctx.save_for_backward(account, x.detach(), value, *lines)
        ctx.slope = slope  # a function: they are others each time one goes backward
        return value

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        account, x, value, low, free, chord, rise = ctx.saved_tensors
        for_lower, for_upper = grads[0].clamp_min(0), grads[0].clamp_max(0)
        below = low + free * ctx.slope()
        gap = for_lower * (below * x - value) + for_upper * (chord * x + rise - value)
        back = for_lower * below + for_upper * chord
        return back, _of_rows(gap, account), None, None, None, None, None, None


class Lined(Interval):
    """Bounds whose ``point`` is followed backward: see this module's head."""

    ledger: Ledger

    @classmethod
    def start(
        cls, lower: torch.Tensor, upper: torch.Tensor, ledger: Ledger, **about: Any
    ) -> Lined:
        """Make the box that goes into a module."""
        with torch.enable_grad():
            return _fresh(Interval(lower, upper, **about), ledger)

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Let bounds through, and the point after them."""
        if func not in RULES:  # a question about it, or a refusal
            return super().__torch_function__(func, types, args, kwargs)
        kwargs = kwargs or {}
        given = intervals([*args, *kwargs.values()])
        how = _WRITTEN.get(func, RULES.get(func))
        args = tuple(_ordinary(arg) for arg in args)
        kwargs = {name: _ordinary(value) for name, value in kwargs.items()}
        # what is written to is another one afterwards
        before = [_copy(x) for x in given]
        exact = _exact(args), {name: _exact(value) for name, value in kwargs.items()}
        bends = (
            func in rules.RELUS
            and args
            and isinstance(args[0], Lined)
            and 0 <= _fall(args, kwargs) <= 1
            and _goes_on(args[0], [])
        )
        # whatever the module turns off: a gradient that is missing would be wrong
        with torch.inference_mode(False), torch.enable_grad():
            if bends:
                args[0].ledger.tighten(args[0])
                before = [_copy(args[0])]
            if func in _CUTTING:
                # the values are the same, and so is what they owe
                args[0].shared = True
                made = _lined(_copy(args[0]), args[0].ledger)
                made.shared, made.raw, made.closed = True, args[0].raw, args[0].closed
                return made
            found = super().__torch_function__(func, types, args, kwargs)
            if not intervals([found]):
                return found
            ledger = next(x.ledger for x in given if isinstance(x, Lined))
            ledger.maps += how in _MAPS or len(before) > 1
            if not isinstance(found, Interval):
                return tuple(_moved(x, before, ledger) for x in found)
            if bends:
                return _hinged(found, before[0], ledger, _fall(args, kwargs))
            if how is rules.to:
                return _charged(found, before[0], before, ledger)
            if how in _MOVING and func is not F.pad:
                return _moved(found, before, ledger)
            linear = how in _LINEAR or func is F.pad
            if not linear or (len(before) > 1 and how not in _OF_TWO):
                return _fresh(found, ledger)
            alone = RULES[func](func, *exact[0], **exact[1])
            return _charged(found, alone, before, ledger)


def _ordinary(value: Any) -> Any:
    """Return a constant as one that gradients may go by, if it is none."""
    if type(value) in (tuple, list):
        return type(value)(_ordinary(part) for part in value)
    if torch.is_tensor(value) and not isinstance(value, Interval):
        with torch.inference_mode(False):
            return value.clone() if value.is_inference() else value
    return value


def _copy(x: Interval) -> Interval:
    """Return the same bounds, which stay what they are if those are written to."""
    made = Interval(x.held, x.held, dtype=x.dtype, unit=x.unit, point=x.point)
    made._ends, made._middle = x._ends, x._middle
    return made


def _exact(args: Any) -> Any:
    """Put bounds that know of no rounding in the place of bounds among arguments."""
    if isinstance(args, Interval):
        made = _copy(args)
        made.unit, made.point = 0.0, None
        return made
    if isinstance(args, (tuple, list)):
        return type(args)(_exact(arg) for arg in args)
    return args


def _apart(found: Interval, other: Interval) -> torch.Tensor:
    return torch.maximum(
        (found.lower - other.lower).abs(), (found.upper - other.upper).abs()
    )


def _lined(found: Interval, ledger: Ledger, point: Any = None) -> Lined:
    """Go on from bounds, with their point or another one."""
    if isinstance(found, Lined):
        made = found
    else:
        made = Lined(
            found.held,
            found.held,
            dtype=found.dtype,
            unit=found.unit,
            linear=found.linear,
            closed=found.closed,
            shared=found.shared,
            raw=found.raw,
        )
        made._ends, made._middle, made.ledger = found._ends, found._middle, ledger
    made.point = found.point if point is None else point
    return made


def _fresh(found: Interval, ledger: Ledger) -> Lined:
    """Start anew from bounds, of which nothing else is known."""
    lower, upper = (end.detach().double() for end in found.ends)
    found._ends, found._middle = (lower, upper), None
    return _lined(found, ledger, _charge(found, *found.middle, ledger))


def _goes_on(found: Interval, before: list[Interval]) -> bool:
    """Whether a point is still one that can be followed, in float64, all the way."""
    points = [x.point for x in (found, *before)]
    return found.held.dtype == torch.float64 and all(
        point is not None and point.requires_grad for point in points
    )


def _moved(found: Interval, before: list[Interval], ledger: Ledger) -> Lined:
    """Go on from values that were moved about."""
    if not _goes_on(found, before):
        return _fresh(found, ledger)
    return _lined(found, ledger)


def _charged(
    found: Interval, exact: Interval, before: list[Interval], ledger: Ledger
) -> Lined:
    """Go on from what is linear but for rounding, by which it is off what is exact."""
    if not _goes_on(found, before):
        return _fresh(found, ledger)
    assert found.point is not None
    # products backward are rounded too, of as many terms as the result has values
    error = _apart(found, exact) * (1 + _terms(found, ledger) * OWN_UNIT / found.unit)
    return _lined(found, ledger, _charge(found, found.point, error, ledger))


def _terms(found: Interval, ledger: Ledger) -> int:
    return found.held.numel() // ledger.rows + 64


def _charge(
    found: Interval, value: torch.Tensor, error: torch.Tensor, ledger: Ledger
) -> torch.Tensor:
    ledger.astray |= value.shape[:1] != (ledger.rows,)
    error = error + 8 * _terms(found, ledger) * OWN_UNIT * found.magnitude
    charged: torch.Tensor = _Charged.apply(value, ledger.account, error)
    return charged


def _fall(args: Any, kwargs: dict[str, Any]) -> float:
    """Return the slope of a ReLU below 0, or what no line is known for."""
    given = [v for v in (*args[1:], *kwargs.values()) if not isinstance(v, bool)]
    try:
        return float(given[0]) if given else 0.0
    except (TypeError, ValueError, RuntimeError):
        return -1.0


def _hinged(found: Interval, x: Interval, ledger: Ledger, k: float) -> Lined:
    """Go on from a ReLU, which may be a leaky one that bends upward."""
    lower, upper = x.ends
    on, off = lower >= 0, upper <= 0
    # not (on | off) but for bounds that are no numbers, of which nothing is known
    unsure = ~(on | off)
    sure = torch.where(on, 1.0, k).to(lower)
    width = torch.where(unsure, upper - lower, 1.0)
    chord = torch.where(unsure, (upper - k * lower) / width, sure)
    rise = torch.where(unsure, (1 - chord) * upper, 0.0)
    low = torch.where(unsure, k, sure).to(lower)
    free = torch.where(unsure, 1.0 - k, 0.0).to(lower)
    slope = ledger.slope(lower, upper)
    bent = _Hinge.apply(x.point, ledger.account, slope, low, free, chord, rise, k)
    # the lines are rounded too
    own = 8 * OWN_UNIT * x.magnitude
    ends = [torch.where(end > 0, end, k * end) for end in (lower, upper)]
    error = _apart(found, x.like(ends[0], ends[1], None)) + own
    return _lined(found, ledger, _charge(found, bent, error, ledger))
