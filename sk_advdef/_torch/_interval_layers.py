"""How bounds go through the layers of nets: linear, pooling, normalizing, dropping."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from sk_advdef._torch._interval import (
    Interval,
    Linear,
    Unbounded,
    gamma,
    intervals,
    largest_held,
    least,
    rule,
)
from sk_advdef._torch._interval_rules import (
    ELEMENTARY,
    each,
    of_points,
    result_dtype,
    wide,
)

_T = torch.Tensor


# --- linear maps, by center and radius

Map = Callable[[torch.Tensor, torch.Tensor, Any], torch.Tensor]


def _linear_map(
    x: Interval, function: Map, weight: Any, bias: Any, terms: int, **more: Any
) -> Interval:
    if isinstance(weight, Interval):
        raise Unbounded("no bounds are known for a product of bounds")
    dtype = result_dtype(x, weight)
    factor, shift = wide(x, weight), wide(x, bias)
    center, radius = x.center, x.radius

    def apply(v: torch.Tensor, w: torch.Tensor, b: Any) -> torch.Tensor:
        return function(v, w, b).to(v.dtype)  # which autocast narrows

    rounding = gamma(x, terms)
    if rounding:
        radius = radius + rounding * (center.abs() + radius)
    middle = apply(center, factor, shift)
    spread = apply(
        radius, factor.abs(), shift.abs() * rounding if _adds(x, bias) else None
    )
    if rounding:
        # products underflow by as much whatever the weights are; and a partial sum,
        # of which spread holds a share, may be more than the module can hold
        spread = spread + least(x, terms)
        spread = spread.masked_fill(spread > rounding * largest_held(x), torch.nan)
    point = None if x.point is None else apply(x.point, factor, shift)
    return x.around(middle, spread, point, dtype=dtype, **more)


def _adds(x: Interval, bias: Any) -> bool:
    return bias is not None and x.unit > 0


@rule(F.linear)
def linear(func: Any, input: Any, weight: Any, bias: Any = None) -> Interval:
    """Go through a linear layer."""
    source = None
    if isinstance(input, Interval) and input.ndim == 2 and torch.is_tensor(weight):
        factor = wide(input, weight)
        zero = factor.new_zeros(len(factor))
        given = input.like(*input.ends, None)  # as it is now, if written to later
        source = Linear(given, factor, zero if bias is None else wide(input, bias))
    return _linear_map(
        input, F.linear, weight, bias, weight.shape[-1] + 1, linear=source
    )


@rule(torch.matmul, _T.matmul, _T.__matmul__, _T.__rmatmul__, torch.mm, _T.mm)
def matmul(func: Any, x: Any, y: Any) -> Interval:
    """Multiply by a constant matrix from either side."""
    if func is _T.__rmatmul__:
        x, y = y, x
    known = isinstance(x, Interval) and not isinstance(y, Interval)
    if known and x.ndim == y.ndim == 2:
        return linear(func, x, y.mT)
    if isinstance(x, Interval):
        terms = x.shape[-1]
        return _linear_map(x, lambda v, w, _: v @ w, y, None, terms)
    return _linear_map(y, lambda v, w, _: w @ v, x, None, x.shape[-1])


@rule(torch.conv1d, torch.conv2d, torch.conv3d, F.conv1d, F.conv2d, F.conv3d)
def conv(
    func: Any, input: Any, weight: Any, bias: Any = None, *args: Any, **kwargs: Any
) -> Interval:
    """Go through a convolution."""

    def apply(v: torch.Tensor, w: torch.Tensor, b: Any) -> torch.Tensor:
        return func(v, w, b, *args, **kwargs)

    if isinstance(input, Interval) and input.unit and _by_transforms(input):
        raise Unbounded(
            "torch is set to convolve by NNPACK, whose transforms round in ways that "
            "bounds do not know (torch.backends.nnpack.set_flags(False) turns it off)"
        )
    return _linear_map(input, apply, weight, bias, math.prod(weight.shape[1:]) + 1)


def _by_transforms(x: Interval) -> bool:
    """Whether torch may convolve by NNPACK, as it does on CPUs without oneDNN."""
    if x.ndim > 4 or x.dtype != torch.float32 or x.device.type != "cpu":
        return False
    onednn = torch.backends.mkldnn
    if onednn.is_available() and torch._C._get_mkldnn_enabled():
        return False
    return torch.backends.nnpack.is_available() and torch._C._get_nnpack_enabled()


_AVERAGES = (
    *(torch.mean, _T.mean, torch.sum, _T.sum, F.avg_pool1d, F.avg_pool2d),
    *(F.avg_pool3d, torch.avg_pool1d, F.adaptive_avg_pool1d, F.adaptive_avg_pool2d),
    *(F.adaptive_avg_pool3d, torch.adaptive_avg_pool1d),
)


@rule(*_AVERAGES)
def average(func: Any, x: Interval, *args: Any, **kwargs: Any) -> Interval:
    """Add or average values of one row."""
    _check_dtype(x, args, kwargs)
    error = None
    found = each(func, x, (x, *args), kwargs)
    if (found.lower > found.upper).any():
        raise Unbounded("no bounds are known for an average with a negative divisor")
    if found.shape[:1] != x.shape[:1]:
        raise Unbounded("no bounds are known for a sum over rows")
    if x.unit:
        terms = max(1, math.prod(x.shape[1:]))
        size = func(x.magnitude, *args, **kwargs)
        error = gamma(x, terms) * size + least(x, terms)
        # a mean is a sum first
        error = error.masked_fill(size > largest_held(x) / terms, torch.nan)
    return found.like(found.lower, found.upper, found.point, error=error)


_LARGEST = (
    *(torch.max_pool1d, torch.max_pool2d, torch.max_pool3d, torch.amax, _T.amax),
    *(F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.adaptive_max_pool3d),
    *(F.max_pool1d, F.max_pool2d, F.max_pool3d),
)


@rule(*_LARGEST)
def largest(func: Any, x: Interval, *args: Any, **kwargs: Any) -> Interval:
    """Take largest values."""
    if kwargs.pop("return_indices", False):
        raise Unbounded("no bounds are known for the place of a largest value")
    return each(func, x, (x, *args), kwargs)


@rule(torch.maximum, torch.minimum, _T.maximum, _T.minimum)
def larger(func: Any, x: Any, y: Any) -> Interval:
    """Take the larger, or the smaller, of two."""
    found = intervals((x, y))
    args = tuple(v if isinstance(v, Interval) else wide(found[0], v) for v in (x, y))
    unit = max(v.unit for v in found)
    return each(func, found[0], args, {}, dtype=result_dtype(x, y), unit=unit)


@rule(F.batch_norm, torch.batch_norm)
def batch_norm(
    func: Any,
    input: Interval,
    running_mean: Any,
    running_var: Any,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Interval:
    """Normalize by fixed statistics; in training by those of the batch."""
    x = input
    if training:
        mean, var = _learned(x, running_mean, running_var, momentum)
    else:
        mean, var = wide(x, running_mean), wide(x, running_var)
    scale = (var + eps).rsqrt()
    if weight is not None:
        scale = scale * wide(x, weight)
    shift = -mean * scale if bias is None else wide(x, bias) - mean * scale
    shape = (1, -1) + (1,) * (x.ndim - 2)
    scale, shift = scale.view(shape), shift.view(shape)
    middle, spread = x.center * scale + shift, x.radius * scale.abs()
    if x.unit:
        size = x.magnitude * scale.abs() + (mean.view(shape) * scale).abs()
        size = size + (0 if bias is None else wide(x, bias).abs().view(shape))
        # the factor is rounded too, and may underflow
        below = least(x, 4) * (1 + x.magnitude + mean.abs().view(shape))
        spread = spread + gamma(x, ELEMENTARY) * size + below
        beyond = torch.maximum(size, scale.abs()) > largest_held(x)
        spread = spread.masked_fill(beyond, torch.nan)
    point = None
    if x.point is not None:
        point = x.point * scale + shift
    return x.around(middle, spread, point)


def _learned(
    x: Interval, running_mean: Any, running_var: Any, momentum: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the statistics of a batch and let the running ones learn from them.

    They are those of the clean rows where these go along, and of the centers if not.
    """
    if x.unit:
        raise Unbounded(
            "this batch normalization takes its statistics from the batch in use, so "
            "that the answer for a row depends on the others (track_running_stats)"
        )
    known = x.center if x.point is None else x.point
    axes = [axis for axis in range(x.ndim) if axis != 1]
    mean = known.mean(axes)
    # several times as fast as var_mean, which reduces over images slowly
    shape = (1, -1) + (1,) * (x.ndim - 2)
    var = (known - mean.view(shape)).square().mean(axes)
    if running_mean is not None:
        n = known.numel() / known.shape[1]
        with torch.no_grad():
            running_mean.lerp_(mean.to(running_mean), momentum)
            running_var.lerp_(var.to(running_var) * (n / max(n - 1, 1)), momentum)
    return mean, var


@rule(F.dropout, F.dropout1d, F.dropout2d, F.dropout3d)
def dropout(
    func: Any,
    input: Interval,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
) -> Interval:
    """Drop the same activations of the bounds and of the clean rows."""
    x = input
    if not training or p == 0:
        return x
    if x.unit:
        raise Unbounded("the answer is drawn at random: dropout is on in it")
    kept = func(torch.ones_like(x.lower), p, True)
    point = None if x.point is None else x.point * kept
    found = x.like(x.lower * kept, x.upper * kept, point)
    return x.written(found) if inplace else found


def _check_over_classes(x: Interval, args: Any, kwargs: Any) -> None:
    """Refuse a softmax over anything but the classes, or in a narrower dtype."""
    dim = kwargs.get("dim", args[0] if args else None)
    _check_dtype(x, args, kwargs)
    if x.ndim != 2 or dim not in (None, 1, -1):
        raise Unbounded("a softmax has bounds only over the classes of rows")


def _check_dtype(x: Interval, args: Any, kwargs: Any) -> None:
    given = [v for v in (*args, *kwargs.values()) if isinstance(v, torch.dtype)]
    if any(torch.promote_types(x.dtype, dtype) != dtype for dtype in given):
        raise Unbounded("no bounds are known for a result in a narrower dtype")


@rule(torch.softmax, _T.softmax, F.softmax)
def softmax(func: Any, x: Interval, *args: Any, **kwargs: Any) -> Interval:
    """End in a softmax, through which the views of nets look at the logits."""
    reason = "a softmax has bounds only where it comes last"
    if x.ndim == 2:
        _check_over_classes(x, args, kwargs)
    x.shared = True  # it is looked through later
    zeros = torch.zeros_like(x.lower)
    point = of_points(func, (x, *args), kwargs)
    return x.like(zeros, zeros + 1, point, closed=reason)


@rule(torch.log_softmax, _T.log_softmax, F.log_softmax)
def log_softmax(func: Any, x: Interval, *args: Any, **kwargs: Any) -> Interval:
    """Take the log of a softmax, which keeps differences as they are."""
    _check_over_classes(x, args, kwargs)
    lower = x.lower - x.upper.logsumexp(dim=-1, keepdim=True)
    upper = (x.upper - x.lower.logsumexp(dim=-1, keepdim=True)).clamp(max=0)
    point = of_points(func, (x, *args), kwargs)
    error = ELEMENTARY * x.unit * (1 + x.magnitude + lower.abs()) if x.unit else None
    return x.like(lower, upper, point, error=error, linear=x.linear)


def normalizes(module: nn.Module) -> bool:
    """Whether training takes statistics of batches."""
    return any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in module.modules())
