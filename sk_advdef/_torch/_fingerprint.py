"""Keys of what was computed: by the values that matter, weights as NumPy arrays.

Loads no torch itself.
"""

from __future__ import annotations

import functools
import hashlib
import pickle
import sys
import types
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import joblib
import numpy as np
from sklearn.frozen import FrozenEstimator
from sklearn.utils.validation import check_memory

from sk_advdef._torch._models import is_skorch
from sk_advdef._torch._own_code import feed_class, feed_function, is_own
from sk_advdef._validation import invalid
from sk_advdef._version import __version__

#: What is raised by values that are no data.
_UNREADABLE = (
    *(AttributeError, NotImplementedError, OSError, RecursionError, RuntimeError),
    *(TypeError, ValueError, pickle.PicklingError),
)

#: What changes no result.
_NO_MATTER = {"memory", "n_jobs", "verbose"}

#: What a trained skorch net answers by.
_ANSWERS_BY = ("module_", "criterion_", "predict_nonlinearity")

#: What a lazy module has before its first call, or after it only; the weights tell it.
_OF_LAZY = {
    "_initialize_hook",
    "_load_hook",
    "in_channels",
    "in_features",
    "num_features",
}


def remembered(memory: Any, key: Callable[[], str], compute: Callable[[], Any]) -> Any:
    """Return what ``compute`` returns, from ``memory`` where the key is known there."""
    if memory is None:
        return compute()
    try:
        answer = check_memory(memory).cache(_answer, ignore=["compute"])
    except OSError as error:
        raise OSError(
            f"Nothing can be kept in the folder of memory={memory!r}: {error}"
        ) from error
    return answer(key(), compute)


def _answer(key: str, compute: Callable[[], Any]) -> Any:
    return compute()


def check_memory_parameter(owner: object, memory: Any) -> None:
    """Refuse what cannot hold anything."""
    if isinstance(memory, str):
        usable = memory.isprintable() and memory != ""
    else:
        usable = memory is None or callable(getattr(memory, "cache", None))
    if not usable:
        raise invalid(owner, "memory", "a path as str, a joblib.Memory or None", memory)


def fingerprint(*values: Any) -> str:
    """Return the same text for the same values, in any process.

    Models count by their parameters and by what they learned; the weights of nets are
    read as NumPy arrays. Classes and functions of the user's count by their code, and
    by what that reads. What sets no result, such as ``n_jobs``, is left out.
    """
    digest = hashlib.sha256(__version__.encode())
    seen = _Seen()
    try:
        _feed(digest.update, values, seen)
    except _UNREADABLE as error:
        if "memory=None" in str(error):
            raise
        raise TypeError(
            "Something that memory= is to know a result by cannot be read "
            f"({type(error).__name__}: {error}). Use memory=None."
        ) from error
    while seen.later:
        value, parts = seen.later.popleft(), list[Any]()
        try:
            _feed(parts.append, value, seen)
        except _UNREADABLE:  # such as a lock, in what a function only reads
            parts = [type(value).__qualname__.encode()]
        for part in parts:
            digest.update(part)
    return digest.hexdigest()


class _Seen(dict[int, Any]):
    """What has been told, by its id, and what is to be told after all else."""

    def __init__(self) -> None:
        super().__init__()
        self.later: deque[Any] = deque()


def _feed(put: Callable[[Any], None], value: Any, seen: _Seen) -> None:
    """Write a value in a form of its own."""
    if isinstance(value, FrozenEstimator):  # taken as it is, where another is refitted
        put(b"frozen(")
        _feed(put, value.estimator, seen)
        put(b")")
        return
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes)):
        put(f"{type(value).__name__} {value!r};".encode())
        return
    if id(value) in seen:  # the same object again: told by when it came first
        put(f"again {seen[id(value)][0]};".encode())
        return
    # held, lest another object get the id of one that is gone
    seen[id(value)] = len(seen), value
    feed = functools.partial(_feed, put, seen=seen)
    # a lazy module that was unpickled becomes what it stands for at its first call
    kind = getattr(type(value), "cls_to_become", None) or type(value)
    put(f"{kind.__module__}.{kind.__qualname__}(".encode())
    if isinstance(value, (np.ndarray, np.generic)):
        _feed_array(put, feed, np.asarray(value))
    elif isinstance(value, (list, tuple)):
        for item in value:
            feed(item)
    elif isinstance(value, (dict, types.MappingProxyType)):
        _feed_dict(feed, dict(value))
    elif isinstance(value, (set, frozenset)):
        # what has a name may read the set that it is in
        named = [v for v in value if isinstance(v, (type, types.FunctionType))]
        feed(sorted(fingerprint(v) for v in value if v not in named))
        for item in sorted(named, key=lambda v: (v.__module__ or "", v.__qualname__)):
            feed(item)
    elif hasattr(value, "columns") and hasattr(value, "to_numpy"):
        for name in value.columns:
            feed(name)
            feed(value[name].to_numpy())
    elif isinstance(value, type):
        feed_class(feed, seen.later.append, value)
    elif isinstance(value, functools.partial):
        _feed_dict(feed, {"f": value.func, "a": value.args, "k": value.keywords})
    elif isinstance(value, types.MethodType):
        feed(value.__func__)
        feed(value.__self__)
    elif isinstance(value, types.FunctionType):
        feed_function(feed, seen.later.append, value)
    elif callable(value) and hasattr(value, "__wrapped__"):  # such as by lru_cache
        feed([type(value).__qualname__, value.__wrapped__])
    elif isinstance(value, np.random.RandomState):
        feed(value.get_state(legacy=False))
    elif isinstance(value, np.random.Generator):
        feed(value.bit_generator.state)
    elif not _feed_of_torch(feed, value):
        _feed_object(feed, value)
    put(b")")


def _feed_array(put: Any, feed: Any, array: np.ndarray) -> None:
    if array.dtype.hasobject:
        feed(array.tolist())
        return
    put(f"{array.dtype.str} {array.shape}".encode())
    if array.nbytes:
        # as it lies: rows of a file that is larger than memory are not copied
        put(np.ascontiguousarray(array).reshape(-1).view(np.uint8))


def _feed_dict(feed: Any, values: dict[Any, Any]) -> None:
    for key in sorted(values, key=repr):
        feed(key)
        feed(values[key])


def _feed_of_torch(feed: Any, value: Any) -> bool:
    torch = sys.modules.get("torch")
    if torch is None:
        return False
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        feed(str(value.dtype))
        feed((value.float() if value.dtype == torch.bfloat16 else value).numpy())
    elif isinstance(value, (torch.dtype, torch.device)):
        feed(str(value))
    elif isinstance(value, torch.nn.Module):
        own = {"_parameters", "_buffers", "_modules"}
        hidden = set(vars(torch.nn.Module())) - own | _OF_LAZY
        feed(getattr(type(value), "cls_to_become", None) or type(value))
        _feed_dict(feed, {k: v for k, v in vars(value).items() if k not in hidden})
        for name in sorted(k for k in hidden if k.endswith("_hooks")):
            hooks = vars(value).get(name) or {}
            # what makes a lazy module ready is no part of what it answers
            given = [h for h in hooks.values() if not _makes_ready(h)]
            if given:
                feed([name, given])
    else:
        return False
    return True


def _makes_ready(hook: Any) -> bool:
    return getattr(hook, "__name__", "") == "_infer_parameters"


def _feed_object(feed: Any, value: Any) -> None:
    if is_skorch(value):
        params = value.get_params(deep=False)
        if hasattr(value, "module_"):
            params = {k: v for k, v in params.items() if not k.startswith("callbacks")}
            params |= {f"fitted {k}": getattr(value, k, None) for k in _ANSWERS_BY}
        feed(type(value))
        _feed_dict(feed, {k: v for k, v in params.items() if k not in _NO_MATTER})
    elif _has_state(value):
        feed(type(value))
        for part in _state(value):
            if isinstance(part, dict):
                part = {k: v for k, v in part.items() if k not in _NO_MATTER}
            feed(part)
    else:
        feed(joblib.hash(value))


def _has_state(value: Any) -> bool:
    module = type(value).__module__
    return module != "builtins" and (hasattr(value, "__dict__") or is_own(module))


def _state(value: Any) -> list[Any]:
    """Return all that an object is made of again, what it holds outside Python too."""
    try:
        made = value.__reduce_ex__(4)
    except Exception as error:
        if any(cls.__module__ == "_ctypes" for cls in type(value).__mro__):
            raise TypeError(
                f"What {value!r} points to cannot be read, so that memory= could take "
                "another for it. Use memory=None."
            ) from error
        return [vars(value)]  # such as what holds a lock
    if isinstance(made, str):  # the name under which it stands in its module
        return [made]
    _, args, *state = made
    return [
        list(part) if isinstance(part, Iterator) else part for part in (args, *state)
    ]
