"""What classes and functions of the user's do, told by their code.

Their text would not do: there is none of what was typed at a prompt, it says nothing of
classes above and of functions that are called, and it changes with comments.
"""

from __future__ import annotations

import dis
import functools
import inspect
import io
import logging
import sys
import sysconfig
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

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

#: What changes by being used, and sets no result or a random one.
_RESTLESS = (
    *(types.ModuleType, np.random.RandomState, np.random.Generator, io.IOBase),
    *(logging.Logger, logging.Handler, logging.LoggerAdapter),
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
    elif isinstance(value, functools.singledispatchmethod):
        feed(["dispatched", value.dispatcher])
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
    registry = getattr(function, "registry", None)
    if isinstance(registry, types.MappingProxyType):  # of singledispatch
        for kind, chosen in sorted(registry.items(), key=lambda item: repr(item[0])):
            feed([repr(kind), chosen])
        return
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        feed(name)
        try:
            feed(cell.cell_contents)
        except ValueError:
            feed("not set yet")
    if is_own(function.__module__):
        names = _names(code)
        for module in sorted(names.modules & sys.modules.keys()):
            _feed_module(feed, later, sys.modules[module], names, [])
        _feed_read(feed, later, function.__globals__, names.reads, names, [])


def _feed_read(
    feed: Feed,
    later: Feed,
    namespace: dict[str, Any],
    wanted: set[str],
    names: Names,
    modules: list[Any],
) -> None:
    """Tell what a function reads by its names, in modules of the user's too."""
    for name in sorted(wanted & namespace.keys()):
        value = namespace[name]
        if isinstance(value, types.ModuleType):
            _feed_module(feed, later, value, names, modules)
        elif _counts(value):
            feed(name)
            later(value)


def _feed_module(
    feed: Feed, later: Feed, module: Any, names: Names, modules: list[Any]
) -> None:
    if is_own(module.__name__) and module not in modules:
        feed(module.__name__)
        inner = [*modules, module]
        _feed_read(feed, later, vars(module), names.attributes, names, inner)


def _plain(constant: Any) -> Any:
    """Turn code, and code within code, to its instructions."""
    if not isinstance(constant, types.CodeType):
        return constant
    code = constant
    counts = [code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount]
    told = [code.co_code, code.co_exceptiontable, code.co_names, counts]
    return [*told, *map(_plain, code.co_consts)]


class Names(NamedTuple):
    """What code reads: by global names, as attributes, and modules that it imports."""

    reads: set[str]
    attributes: set[str]
    modules: set[str]


def _names(code: types.CodeType) -> Names:
    by_kind: dict[str, set[str]] = {}
    for step in _instructions(code):
        by_kind.setdefault(step.opname, set()).add(str(step.argval))

    def of(*kinds: str) -> set[str]:
        return set().union(*(by_kind.get(kind, ()) for kind in kinds))

    # what a function sets itself, such as a counter, is no part of what it does
    reads = of("LOAD_GLOBAL", "LOAD_NAME") - of("STORE_GLOBAL")
    attributes = of("LOAD_ATTR", "LOAD_METHOD", "IMPORT_FROM")
    return Names(reads, attributes, of("IMPORT_NAME"))


def _instructions(code: types.CodeType) -> Iterator[dis.Instruction]:
    yield from dis.get_instructions(code)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _instructions(constant)


def _counts(value: Any) -> bool:
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Generator):
        return False
    return not isinstance(value, _RESTLESS)
