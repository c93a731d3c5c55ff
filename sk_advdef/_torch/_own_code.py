"""What classes and functions of the user's do, told by their code.

Their text would not do: there is none of what was typed at a prompt, it says nothing of
classes above and of functions that are called, and it changes with comments.
"""

from __future__ import annotations

import functools
import inspect
import sys
import sysconfig
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator

#: Packages whose classes are told by name and version alone.
_KNOWN = ("builtins", "numpy", "scipy", "sk_advdef", "sklearn", "skorch", "torch")

#: Attributes of classes that hold no code, or none that their other attributes lack.
_NO_CODE = {
    *("_abc_impl", "__abstractmethods__", "__annotate__", "__annotate_func__"),
    *("__annotations__", "__annotations_cache__", "__dataclass_fields__"),
    *("__dataclass_params__", "__dict__", "__doc__", "__firstlineno__"),
    *("__match_args__", "__module__", "__orig_bases__", "__parameters__"),
    *("__qualname__", "__slotnames__", "__static_attributes__", "__weakref__"),
}

#: What is told by its value where a function reads it by name or a class holds it.
_VALUES = (
    *(type(None), bool, int, float, complex, str, bytes, list, tuple, dict, set),
    *(frozenset, np.ndarray, np.generic, np.ufunc, functools.partial, BaseEstimator),
    *(types.FunctionType, types.BuiltinFunctionType, types.MethodType, type),
)

Feed = Callable[[Any], None]


@functools.cache
def is_own(module: str | None) -> bool:
    """Whether a module is the user's: not installed, and none of Python's."""
    name = module or "__main__"
    top = name.partition(".")[0]
    if name == "__main__":  # also where what is run is installed
        return True
    if top in _KNOWN or top in sys.builtin_module_names:
        return False
    file = getattr(sys.modules.get(name), "__file__", None)
    if file is None:  # a prompt, a notebook, or what came from another process
        return top not in sys.stdlib_module_names
    path = Path(file).resolve()
    installed = {"site-packages", "dist-packages"} & set(path.parts)
    return not installed and not any(place in path.parents for place in _places())


@functools.cache
def _places() -> tuple[Path, ...]:
    names = ("stdlib", "platstdlib")
    return tuple(Path(sysconfig.get_path(name)).resolve() for name in names)


def feed_class(feed: Feed, later: Feed, cls: type) -> None:
    """Tell a class, and what those of the user's do that it is made of."""
    for part in cls.__mro__:
        top = part.__module__.partition(".")[0]
        if part is not cls and top in _KNOWN:
            continue
        feed([part.__module__, part.__qualname__])
        if is_own(part.__module__):
            for name, value in sorted(vars(part).items()):
                if name not in _NO_CODE:
                    feed(name)
                    _feed_attribute(feed, later, value)
        elif top not in _KNOWN:
            feed(str(getattr(sys.modules.get(top), "__version__", "")))


def _feed_attribute(feed: Feed, later: Feed, value: Any) -> None:
    if isinstance(value, (staticmethod, classmethod)):
        feed([type(value).__name__, value.__func__])
    elif isinstance(value, property):
        feed(["property", value.fget, value.fset, value.fdel])
    elif isinstance(value, functools.cached_property):
        feed(["property", value.func])
    elif isinstance(value, functools.partialmethod):
        feed(["partial", value.func, value.args, value.keywords])
    elif isinstance(value, types.FunctionType):
        feed(value)
    elif not inspect.isdatadescriptor(value) and _counts(value):
        later(value)


def feed_function(feed: Feed, later: Feed, function: types.FunctionType) -> None:
    """Tell a function: its code, its defaults, and what it reads from elsewhere.

    ``later`` takes what is to be told after all else: a chain of calls may be long.
    """
    code = function.__code__
    feed([function.__module__, function.__qualname__, _plain(code)])
    feed([function.__defaults__, function.__kwdefaults__])
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        feed(name)
        try:
            feed(cell.cell_contents)
        except ValueError:
            feed("not set yet")
    if is_own(function.__module__):
        _feed_read(feed, later, function.__globals__, frozenset(_names(code)), [])


def _feed_read(
    feed: Feed,
    later: Feed,
    namespace: dict[str, Any],
    names: frozenset[str],
    modules: list[Any],
) -> None:
    """Tell what a function may read by names, in modules of the user's too."""
    for name in sorted(names & namespace.keys()):
        value = namespace[name]
        if isinstance(value, types.ModuleType):
            if is_own(value.__name__) and value not in modules:
                feed([name, value.__name__])
                inner = [*modules, value]
                _feed_read(feed, later, vars(value), names, inner)
        elif _counts(value):
            feed(name)
            later(value)


def _plain(constant: Any) -> Any:
    """Turn code, and code within code, to its instructions."""
    if not isinstance(constant, types.CodeType):
        return constant
    code = constant
    counts = [code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount]
    told = [code.co_code, code.co_exceptiontable, code.co_names, counts]
    return [*told, *map(_plain, code.co_consts)]


def _names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


def _counts(value: Any) -> bool:
    torch = sys.modules.get("torch")
    of_torch = () if torch is None else (torch.Tensor, torch.nn.Module)
    if isinstance(value, (*_VALUES, *of_torch)):
        return True
    return is_own(type(value).__module__)
