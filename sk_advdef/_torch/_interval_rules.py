"""How bounds go through the functions of torch, one rule a kind."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from sk_advdef._torch._interval import (
    Interval,
    Linear,
    Unbounded,
    intervals,
    least,
    part_of,
    rule,
)

_T = torch.Tensor

#: Relative error of an elementary function, in units of rounding.
ELEMENTARY = 16

#: What sets the precision of oneDNN from outside, as its manual has it.
_MODES = ("ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE")


def _modes() -> set[str]:
    return {os.environ.get(name, "STRICT").upper() for name in _MODES}


#: What they were when this was imported: oneDNN looks once, and not always later.
_EARLY = _modes()

#: Up to here the exponential of a softplus is held by every dtype.
HIGHEST_THRESHOLD = 80.0


def unit_of(dtype: torch.dtype, device: torch.device) -> float:
    """Largest relative error of one operation in a dtype, as torch is set now."""
    unit = float(torch.finfo(dtype).eps) / 2
    if dtype == torch.float32:
        if device.type == "cuda":  # convolutions may use TF32 unless told otherwise
            unit = 2.0**-11
        if _computes_narrowly():
            unit = 2.0**-8
    return unit


def _computes_narrowly() -> bool:
    """Whether torch may compute with numbers of float32 in a narrower dtype."""
    try:
        if torch.get_float32_matmul_precision() != "highest":
            return True
    except RuntimeError:  # set by both of torch's interfaces, which it does not like
        return True
    onednn = torch.backends.mkldnn
    # of which convolutions and products may each have their own, from torch 2.9 on
    parts = (getattr(onednn, name, None) for name in ("conv", "matmul"))
    places = (torch.backends, onednn, *parts)
    asked = {getattr(place, "fp32_precision", "none") for place in places}
    return not (asked <= {"none", "ieee"} and _modes() | _EARLY <= {"STRICT", ""})


def kind_of(dtype: np.dtype) -> torch.dtype:
    """Return the dtype that models compute in on rows of a dtype.

    Rows of float16 stay what they are in transformers of scikit-learn.
    """
    kinds = {np.dtype(np.float16): torch.float16, np.dtype(np.float32): torch.float32}
    return kinds.get(np.dtype(dtype), torch.float64)


# --- layout: the same for lower, upper and point

_LAYOUT = (
    *(torch.flatten, _T.flatten, torch.reshape, _T.reshape, _T.view, _T.view_as),
    *(torch.permute, _T.permute, torch.transpose, _T.transpose, _T.contiguous),
    *(torch.squeeze, _T.squeeze, torch.unsqueeze, _T.unsqueeze, _T.expand),
    *(torch.movedim, _T.movedim, torch.moveaxis, _T.moveaxis, _T.t, torch.t),
    *(torch.unflatten, _T.unflatten, _T.detach, _T.adjoint),
    *(torch.clone, _T.clone, torch.flip, _T.flip, torch.roll, _T.roll),
    *(_T.requires_grad_, torch.swapaxes, _T.swapaxes, F.pixel_shuffle),
    *(torch.pixel_shuffle, F.pixel_unshuffle, torch.pixel_unshuffle, _T.repeat),
    *(torch.select, _T.select, torch.narrow, _T.narrow, _T.index_select),
    *(torch.index_select, torch.cat, torch.concat, torch.stack, F.pad),
    *(torch.ravel, _T.ravel, _T.expand_as),
)

_COPYING = {torch.clone, _T.clone}


def each(func: Any, x: Interval, args: Any, kwargs: Any, **more: Any) -> Interval:
    lower, upper = (func(*part_of(args, n), **kwargs) for n in ("lower", "upper"))
    return x.like(lower, upper, of_points(func, args, kwargs), **more)


def of_points(func: Any, args: Any, kwargs: Any) -> Any:
    if any(x.point is None for x in intervals(args)):
        return None
    return func(*part_of(args, "point"), **kwargs)


@rule(*_LAYOUT)
def layout(func: Any, *args: Any, **kwargs: Any) -> Interval:
    """Move values about."""
    found = intervals(args)
    read_as = [v for v in (*args, *kwargs.values()) if isinstance(v, torch.dtype)]
    if any(dtype != found[0].dtype for dtype in read_as):
        raise Unbounded("no bounds are known for bits that are read as another dtype")
    dtype = torch.promote_types(found[0].dtype, found[-1].dtype)
    unit = max(x.unit for x in found)
    shared = func not in _COPYING
    for x in found:
        x.shared |= shared
    more: dict[str, Any] = {"dtype": dtype, "unit": unit, "shared": shared}
    moved = each(func, found[0], args, kwargs, **more)
    if func is not F.pad or not unit:
        return moved
    # the module rounds what it pads with
    error = 4 * unit * moved.magnitude
    return moved.like(*moved.ends, moved.point, error=error, **more)


@rule(torch.chunk, _T.chunk, torch.split, _T.split, torch.unbind, _T.unbind)
def several(func: Any, x: Interval, *args: Any, **kwargs: Any) -> tuple[Interval, ...]:
    """Cut into parts."""
    lower, upper = func(x.lower, *args, **kwargs), func(x.upper, *args, **kwargs)
    points = of_points(func, (x, *args), kwargs) or [None] * len(lower)
    x.shared = True
    parts = zip(lower, upper, points, strict=True)
    return tuple(x.like(*part, shared=True) for part in parts)


@rule(_T.__getitem__)
def getitem(func: Any, x: Interval, index: Any) -> Interval:
    """Take a part; of columns, with the linear layer that they come from."""
    linear = None
    if x.linear is not None and isinstance(index, tuple) and len(index) == 2:
        rows, columns = index
        whole = isinstance(rows, slice) and rows == slice(None)
        if whole and isinstance(columns, slice):
            source, weight, bias = x.linear.source, x.linear.weight, x.linear.bias
            error = x.linear.error
            error = error[:, columns] if torch.is_tensor(error) else error
            linear = Linear(source, weight[columns], bias[columns], error)
    x.shared = True
    return each(func, x, (x, index), {}, linear=linear, shared=True)


@rule(_T.to, _T.float, _T.double, _T.type, _T.type_as, _T.cpu, _T.cuda)
def to(func: Any, x: Interval, *args: Any, **kwargs: Any) -> Any:
    """Change dtype or device; values are rounded where the dtype is narrower."""
    if not isinstance(x, Interval):  # a constant that is to be like what is bounded
        like = intervals([*args, *kwargs.values()])[0]
        return x.to(like.device, like.dtype)
    found = func(torch.empty(0, dtype=x.dtype, device=x.device), *args, **kwargs)
    if not found.is_floating_point():
        raise Unbounded(f"no bounds are known for a cast to {found.dtype}")
    # bounds with rounding stay in float64, whatever the module computes in
    dtype = torch.float64 if x.unit else found.dtype
    lower, upper = (v.to(found.device, dtype) for v in (x.lower, x.upper))
    point = None if x.point is None else x.point.to(found.device, dtype)
    more: dict[str, Any] = {"dtype": found.dtype, "shared": True}
    x.shared = True
    if not x.unit:
        return x.like(lower, upper, point, linear=x.linear, **more)
    widest = torch.float32 if x.raw and x.dtype == torch.float16 else x.dtype
    unit = x.unit if widest == x.dtype else unit_of(widest, found.device)
    unit = max(unit, unit_of(found.dtype, found.device))
    error = None
    if torch.finfo(found.dtype).eps > torch.finfo(x.dtype).eps:
        smallest = torch.finfo(found.dtype).tiny
        error = x.magnitude * torch.finfo(found.dtype).eps + smallest
    linear = x.linear if error is None else None
    return x.like(lower, upper, point, error=error, linear=linear, unit=unit, **more)


# --- elementwise

#: What writes to its argument -> the same without.
_WRITING = {
    torch.relu_: torch.relu,
    _T.relu_: torch.relu,
    _T.clamp_: torch.clamp,
    torch.sigmoid_: torch.sigmoid,
    _T.sigmoid_: torch.sigmoid,
    torch.tanh_: torch.tanh,
    _T.tanh_: torch.tanh,
}
_EXACT = (
    *(torch.relu, _T.relu, F.relu, F.relu6, torch.relu_, _T.relu_),
    *(torch.round, _T.round, torch.floor, _T.floor, torch.ceil, _T.ceil, torch.trunc),
    *(_T.trunc,),
)
#: Exact but for the ends, which the module rounds.
_CLAMPED = (
    *(F.hardtanh, _T.clamp_, torch.clamp, _T.clamp, torch.clip, _T.clip),
    *(_T.clamp_min, _T.clamp_max, torch.clamp_min, torch.clamp_max),
)
_ROUNDED = (
    *(torch.sigmoid, _T.sigmoid, F.sigmoid, torch.tanh, _T.tanh, F.tanh, torch.exp),
    *(_T.exp, F.softplus, F.logsigmoid, F.hardsigmoid, F.softsign, F.elu, F.selu),
    *(F.celu, F.leaky_relu, torch.log, _T.log, torch.sqrt, _T.sqrt, torch.selu),
    *(_T.log1p, torch.log1p, _T.expm1, torch.expm1, _T.atan, torch.atan),
    *(torch.sigmoid_, _T.sigmoid_, torch.tanh_, _T.tanh_),
)
RELUS = {torch.relu, _T.relu, F.relu, F.leaky_relu, torch.relu_, _T.relu_}


@rule(*_EXACT, *_CLAMPED, *_ROUNDED)
def monotone(func: Any, x: Interval, *args: Any, **kwargs: Any) -> Interval:
    """Go through a function that never falls."""
    writes = kwargs.pop("inplace", False) or func in _WRITING
    settings = [*args, *kwargs.values()]
    rounds = func in (torch.round, _T.round) and kwargs.get("decimals", 0)
    below = _slopes(settings) if func in (F.elu, F.celu, F.leaky_relu) else []
    if rounds or intervals(settings) or not all(slope >= 0 for slope in below):
        raise Unbounded(f"no bounds are known for this {func.__name__}()")
    if x.seen is not None and func in RELUS:
        x.seen.append((*x.ends, *x.middle))
    func = _WRITING.get(func, func)
    fall = _softplus_fall(*args, **kwargs) if func is F.softplus else 0.0
    found = each(func, x, (x, *args), kwargs)
    if x.unit and func not in _EXACT:
        size = found.magnitude if func in _CLAMPED else 1 + found.magnitude
        if func in (F.elu, F.celu):
            # torch 2.6 takes 1 from an exponential, and multiplies by alpha
            size = size + sum(below)
        error = ELEMENTARY * x.unit * size + fall
        found = found.like(found.lower, found.upper, found.point, error=error)
    return x.written(found) if writes else found


def _slopes(settings: list[Any]) -> list[float]:
    """Return what is set below zero, whatever kind of number it is."""
    numbers = [v for v in settings if not isinstance(v, (bool, Interval))]
    try:
        return [float(v) for v in numbers]
    except (TypeError, ValueError, RuntimeError) as error:
        raise Unbounded("no bounds are known for a slope that is no number") from error


def _softplus_fall(beta: float = 1.0, threshold: float = 20.0) -> float:
    """How far softplus falls where it turns into a line."""
    if not (beta > 0 and threshold <= HIGHEST_THRESHOLD):
        raise Unbounded("no bounds are known for softplus() with this threshold")
    return math.log1p(math.exp(-threshold)) / beta


@rule(torch.neg, _T.neg, _T.__neg__, torch.negative, _T.negative)
def neg(func: Any, x: Interval) -> Interval:
    """Turn about."""
    return x.like(-x.upper, -x.lower, None if x.point is None else -x.point)


@rule(torch.abs, _T.abs, _T.__abs__)
def absolute(func: Any, x: Interval) -> Interval:
    """Fold at zero."""
    lower = torch.maximum(x.lower, -x.upper).clamp_min(0)
    return x.like(lower, x.magnitude, None if x.point is None else x.point.abs())


def wide(x: Interval, value: Any) -> Any:
    """Return a constant in the dtype of the bounds."""
    return value.to(x.held) if isinstance(value, torch.Tensor) else value


def result_dtype(x: Interval, y: Any) -> torch.dtype:
    """Return the dtype of a result; a scalar tensor does not widen another's."""
    if not torch.is_tensor(y):
        return x.dtype
    pair = (torch.empty((1,) * v.ndim, dtype=v.dtype) for v in (x, y))
    return torch.result_type(*pair)


def _points(func: Any, x: Any, y: Any) -> Any:
    box = next(v for v in (x, y) if isinstance(v, Interval))
    first, second = (
        v.point if isinstance(v, Interval) else wide(box, v) for v in (x, y)
    )
    return None if first is None or second is None else func(first, second)


@rule(torch.add, _T.add, _T.__add__, _T.__radd__)
def add(func: Any, x: Any, y: Any, *, alpha: float = 1) -> Interval:
    """Add bounds, or a constant."""
    if alpha != 1:
        raise Unbounded("no bounds are known for add() with alpha")
    if not isinstance(x, Interval):
        x, y = y, x
    point, dtype, linear = _points(torch.add, x, y), result_dtype(x, y), None
    if isinstance(y, Interval):
        lower, upper = x.lower + y.lower, x.upper + y.upper
        unit, other = max(x.unit, y.unit), y.magnitude
    else:
        other, unit = wide(x, y), x.unit
        lower, upper = x.lower + other, x.upper + other
        linear, other = x.linear, abs(other)
    error = 4 * unit * (x.magnitude + other) if unit else None
    widened = lower.shape != x.held.shape  # to more columns than the layer has
    if linear is not None and not (widened or (torch.is_tensor(y) and y.ndim > 1)):
        bias, after = linear.bias + wide(x, y), linear.error
        after = after if error is None else after + error
        linear = Linear(linear.source, linear.weight, bias, after)
    else:
        linear = None
    more = {"dtype": dtype, "unit": unit, "linear": linear}
    return x.like(lower, upper, point, error=error, **more)


@rule(torch.sub, _T.sub, _T.__sub__, torch.subtract, _T.subtract)
def sub(func: Any, x: Any, y: Any) -> Interval:
    """Subtract bounds, or a constant; a tensor from itself leaves nothing."""
    if isinstance(x, Interval) and isinstance(y, Interval) and _same(x, y):
        zeros = 0 * x.lower + 0 * x.upper  # no numbers where nothing is known
        return x.like(zeros, zeros, _points(torch.sub, x, y), linear=None)
    return x + (-y)


def _same(x: Interval, y: Interval) -> bool:
    """Whether two bounds stand for one tensor: one of them may be detached."""
    pairs = ((x.lower, y.lower), (x.upper, y.upper))
    return all(
        a.data_ptr() == b.data_ptr() and a.shape == b.shape and a.stride() == b.stride()
        for a, b in pairs
    )


@rule(_T.__rsub__, torch.rsub)
def rsub(func: Any, x: Any, y: Any) -> Interval:
    """Subtract from bounds, or from a constant."""
    return (-x) + y


@rule(torch.mul, _T.mul, _T.__mul__, _T.__rmul__, torch.multiply, _T.multiply)
def mul(func: Any, x: Any, y: Any) -> Interval:
    """Multiply bounds, or by a constant."""
    if not isinstance(x, Interval):
        x, y = y, x
    point, dtype, linear = _points(torch.mul, x, y), result_dtype(x, y), None
    if not isinstance(y, Interval):
        factor, after = wide(x, y), 0.0
        center, radius = x.center * factor, x.radius * abs(factor)
        if x.unit:
            after = 8 * x.unit * (center.abs() + radius) + least(x, 1)
            radius = radius + after
        if x.linear is not None and not torch.is_tensor(y) and y > 0:
            parts = x.linear
            after = parts.error * y + after
            linear = Linear(parts.source, parts.weight * y, parts.bias * y, after)
        return x.around(center, radius, point, dtype=dtype, linear=linear)
    ends = [a * b for a in (x.lower, x.upper) for b in (y.lower, y.upper)]
    lower, upper = ends[0], ends[0]
    for end in ends[1:]:
        lower, upper = torch.minimum(lower, end), torch.maximum(upper, end)
    unit, error = max(x.unit, y.unit), None
    if unit:
        error = 4 * unit * torch.maximum(lower.abs(), upper.abs()) + least(x, 1)
    return x.like(lower, upper, point, error=error, dtype=dtype, unit=unit)


@rule(torch.div, _T.div, _T.__truediv__, _T.true_divide, torch.true_divide)
def div(func: Any, x: Any, y: Any) -> Interval:
    """Divide by a constant."""
    if isinstance(y, Interval) or not isinstance(x, Interval):
        raise Unbounded("no bounds are known for a division by bounds")
    found = x * (1 / (wide(x, y) if torch.is_tensor(y) else y))
    error, linear = 4 * x.unit * found.magnitude if x.unit else None, found.linear
    if linear is not None and error is not None:
        linear = replace(linear, error=linear.error + error)
    return found.like(
        found.lower,
        found.upper,
        _points(torch.div, x, y),
        error=error,
        dtype=result_dtype(x, y),
        linear=linear,
    )


#: What writes a result into its first argument -> the rule of the result.
ASSIGNING = {
    add: (_T.add_, _T.__iadd__),
    sub: (_T.sub_, _T.__isub__),
    mul: (_T.mul_, _T.__imul__),
    div: (_T.div_, _T.__itruediv__),
}


def _assigning(how: Callable[..., Interval]) -> Callable[..., Interval]:
    def assign(func: Any, x: Any, *args: Any, **kwargs: Any) -> Interval:
        """Write the result in the place of the first argument."""
        if not isinstance(x, Interval):
            raise Unbounded("no bounds are known for a constant that is written to")
        return x.written(how(func, x, *args, **kwargs))

    return assign


for _how, _functions in ASSIGNING.items():
    rule(*_functions)(_assigning(_how))
