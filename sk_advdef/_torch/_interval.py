"""A tensor of bounds that goes through a module's own ``forward``."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

#: What stands for a rule: it takes the function that was called and its arguments.
Rule = Callable[..., Any]

#: Function of torch -> how bounds go through it.
RULES: dict[Any, Rule] = {}

_T = torch.Tensor

#: What may be asked of bounds as of any tensor: it tells nothing of their values.
_ABOUT = {
    *(
        getattr(_T, name).__get__
        for name in (
            *("shape", "dtype", "device", "ndim", "layout", "requires_grad"),
            *("is_cuda", "is_sparse", "is_quantized", "is_mkldnn", "is_nested"),
        )
    ),
    *(_T.dim, _T.size, _T.numel, _T.nelement, _T.__len__, _T.is_complex),
    *(_T.is_floating_point, torch.is_floating_point, torch.is_complex, torch.numel),
}


class NoBoundsError(TypeError):
    """Bounds cannot go through a module."""


class Unbounded(Exception):
    """Bounds cannot go through a function.

    Not a TypeError: torch's operators take one for "ask the other operand".
    """

    #: how many arose so far in this thread, those that a module has caught too
    arisen = threading.local()

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.arisen.count = Unbounded.count() + 1

    @classmethod
    def count(cls) -> int:
        """Return how many arose so far in this thread."""
        return getattr(cls.arisen, "count", 0)


@dataclass(frozen=True, eq=False)
class Linear:
    """Where bounds come from: ``source @ weight.T + bias``, a column a row.

    ``error`` is what rounding after the layer can make of a score at most.
    """

    source: Interval
    weight: torch.Tensor
    bias: torch.Tensor
    error: Any = 0.0


class Interval(torch.Tensor):
    """Lower and upper bounds that a module takes for an ordinary tensor.

    Every function that the module calls on it is looked up in ``RULES``; one that is
    not there is an error and never a guess. Its shape, dtype and device are those of
    the tensor that it stands for; the bounds may be kept in a wider dtype.

    Parameters
    ----------
    lower, upper : torch.Tensor
        The bounds, of one shape.
    dtype : torch.dtype
        Dtype of the tensor that is bounded.
    unit : float, default=0.0
        Largest relative error of one operation of the module. Above 0, every rule
        widens the bounds by what rounding can do; 0 is for training.
    point : torch.Tensor or None, default=None
        Values within the bounds that go along: the clean rows.
    seen : list or None, default=None
        Collects the bounds of what goes into an activation: lower, upper, center and
        radius.
    """

    _ends: tuple[torch.Tensor, torch.Tensor] | None
    _middle: tuple[torch.Tensor, torch.Tensor] | None
    unit: float
    point: torch.Tensor | None
    seen: list[tuple[torch.Tensor, ...]] | None
    linear: Linear | None
    #: why no function may be called on it any more
    closed: str
    #: whether it may share its memory with others, so that none may be written to
    shared: bool
    #: whether these are rows that nothing has computed with
    raw: bool

    @staticmethod
    def __new__(
        cls: type[Interval],
        lower: torch.Tensor,
        upper: torch.Tensor,
        *,
        dtype: torch.dtype,
        unit: float = 0.0,
        point: torch.Tensor | None = None,
        seen: list[tuple[torch.Tensor, ...]] | None = None,
        linear: Linear | None = None,
        closed: str = "",
        shared: bool = False,
        raw: bool = False,
    ) -> Interval:
        """Make bounds that hold no values of their own."""
        self = torch.Tensor._make_wrapper_subclass(
            cls, lower.shape, dtype=dtype, device=lower.device
        )
        self._ends, self._middle = (lower, upper), None
        self.unit, self.point, self.seen = unit, point, seen
        self.linear, self.closed, self.shared = linear, closed, shared
        self.raw = raw
        return self

    # each of the two forms is made from the other when it is first asked for

    @property
    def ends(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Lower and upper bounds."""
        if self._ends is not None:
            return self._ends
        assert self._middle is not None
        center, radius = self._middle
        made = center - radius, center + radius
        self._ends = made if _learns_as(made, self._middle) else None
        return made

    @property
    def middle(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Center and radius of the bounds."""
        if self._middle is not None:
            return self._middle
        assert self._ends is not None
        lower, upper = self._ends
        radius = (upper - lower) / 2
        made = lower + radius, radius
        self._middle = made if _learns_as(made, self._ends) else None
        return made

    @property
    def lower(self) -> torch.Tensor:
        """Lower bounds."""
        return self.ends[0]

    @property
    def upper(self) -> torch.Tensor:
        """Upper bounds."""
        return self.ends[1]

    @property
    def center(self) -> torch.Tensor:
        """Middle of the bounds."""
        return self.middle[0]

    @property
    def radius(self) -> torch.Tensor:
        """Half the distance of the bounds."""
        return self.middle[1]

    @property
    def held(self) -> torch.Tensor:
        """A tensor of their dtype, device and shape, whichever is there."""
        return (self._ends or self.middle)[0]

    @property
    def magnitude(self) -> torch.Tensor:
        """Largest absolute value within the bounds."""
        return torch.maximum(self.lower.abs(), self.upper.abs())

    def like(
        self,
        lower: torch.Tensor,
        upper: torch.Tensor,
        point: torch.Tensor | None,
        *,
        error: torch.Tensor | None = None,
        dtype: torch.dtype | None = None,
        **more: Any,
    ) -> Interval:
        """Make the bounds of a result, widened by the ``error`` of rounding."""
        if error is not None:
            lower, upper = lower - error, upper + error
        given = {"unit": self.unit, "seen": self.seen} | more
        dtype = _dtype(self) if dtype is None else dtype
        return Interval(lower, upper, dtype=dtype, point=point, **given)

    def written(self, found: Interval) -> Interval:
        """Take over the bounds of what is written in the place of this tensor."""
        if self.shared:
            raise Unbounded("no bounds are known for a view that is written to")
        self._ends, self._middle, self.point = found._ends, found._middle, found.point
        self.linear, self.unit = found.linear, found.unit
        return self

    def around(
        self,
        center: torch.Tensor,
        radius: torch.Tensor,
        point: torch.Tensor | None,
        **more: Any,
    ) -> Interval:
        """Make the bounds of a result that is given by its middle."""
        found = self.like(center, center, point, **more)
        found._ends, found._middle = None, (center, radius)
        return found

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Let bounds through a function of torch by its rule."""
        kwargs = kwargs or {}
        if func in _ABOUT:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **kwargs)
        rule = RULES.get(func)
        given = intervals([*args, *kwargs.values()])
        if kwargs.get("out") is not None:
            raise Unbounded("no bounds are known for a result that is written to out=")
        reason = next((x.closed for x in given if x.closed), "")
        if rule is None or reason:
            name = getattr(func, "__name__", str(func))
            raise Unbounded(reason or f"no bounds are known for {name}()")
        if any(x.unit and torch.is_autocast_enabled(_kind(x)) for x in given):
            raise Unbounded("autocast rounds in ways that bounds do not know")
        try:
            return _within_range(rule(func, *args, **kwargs), given)
        except (TypeError, IndexError, ValueError, OverflowError) as error:
            name = getattr(func, "__name__", str(func))
            why = f"no bounds are known for {name}() called like this: {error}"
            raise Unbounded(why) from error

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Refuse whatever went past the rules."""
        raise Unbounded(f"no bounds are known for {func}()")

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        """Return the bounds in words."""
        return f"Interval({self.lower!r}, {self.upper!r})"


def _learns_as(
    made: tuple[torch.Tensor, torch.Tensor], source: tuple[torch.Tensor, torch.Tensor]
) -> bool:
    """Whether gradients go on from one form to the other; a hook may look at one."""
    return any(v.requires_grad for v in made) == any(v.requires_grad for v in source)


def _within_range(found: Any, given: list[Interval]) -> Any:
    """Leave nothing known of what the dtype that is bounded may not hold."""
    if isinstance(found, Interval) and found.unit:
        beyond = found.magnitude > largest_held(found)
        if bool(beyond.any()):
            lower, upper = (end.masked_fill(beyond, torch.nan) for end in found.ends)
            rest = found.like(lower, upper, found.point)
            written = any(found is x for x in given)
            found = found.written(rest) if written else rest
    return found


def _dtype(x: Any) -> torch.dtype:
    with torch._C.DisableTorchFunctionSubclass():
        return x.dtype


def _kind(x: Interval) -> str:
    with torch._C.DisableTorchFunctionSubclass():
        return x.device.type


def intervals(args: Any) -> list[Interval]:
    """Return the bounds among arguments, those in lists too."""
    found: list[Interval] = []
    for arg in args:
        if isinstance(arg, Interval):
            found.append(arg)
        elif isinstance(arg, (tuple, list)):
            found += intervals(arg)
    return found


def part_of(args: Any, name: str) -> Any:
    """Put one part, such as ``"lower"``, in the place of bounds among arguments."""
    if isinstance(args, Interval):
        return getattr(args, name)
    if isinstance(args, (tuple, list)):
        return type(args)(part_of(arg, name) for arg in args)
    return args


def rule(*functions: Any) -> Callable[[Rule], Rule]:
    """Register how bounds go through some functions of torch."""

    def register(how: Rule) -> Rule:
        for function in functions:
            RULES[function] = how
        return how

    return register


def gamma(x: Interval, terms: int) -> float:
    """Relative error of a sum of products, in whatever order it is taken.

    ``n * u / (1 - n * u)`` (Higham, "Accuracy and Stability of Numerical Algorithms",
    2002, section 3.1), four times over: for the error of the module, and for that of
    the bounds where they are computed in the same precision.
    """
    return 4 * (terms + 4) * x.unit


def largest_held(x: Interval) -> float:
    """Return the largest value that the module is sure to hold."""
    return torch.finfo(_dtype(x)).max / 2


def least(x: Interval, terms: int) -> float:
    """Absolute error by underflow of a sum of products; 0 in training."""
    return 4 * (terms + 4) * torch.finfo(_dtype(x)).tiny if x.unit else 0.0
