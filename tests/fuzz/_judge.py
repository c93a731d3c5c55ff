"""What every case must end in, and what it must leave alone."""

from __future__ import annotations

import faulthandler
import random
import re
import signal
import sys
import threading
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import sklearn
import torch

from tests.fuzz._inputs import kept, same

#: Seconds after which a case is a hang; a machine may be busy with other things.
DEADLINE = 120

#: What an error says that is about rows or labels, by our words or scikit-learn's.
ABOUT_INPUT = re.compile(
    r"\b(X|y|n_samples|rows?|labels?|classes|class|samples?|features?|columns?|arrays?|data|"
    r"images?|targets?|input|dtype|1D|2D|NaN|infinity|sequence|string|strings)\b"
)

#: What a model that is concealed or guarded says, whatever is wrong within it.
CONCEALED = "The model could not answer this input."

#: Cases run, and how they ended, by target.
ENDED: dict[str, Counter[str]] = {}


class Hang(BaseException):
    """A case that did not end in time."""


@contextmanager
def deadline(seconds: int) -> Iterator[None]:
    """Raise in a case that takes too long; kill what does not even answer to that."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*args: Any) -> None:
        raise Hang(f"still running after {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    faulthandler.dump_traceback_later(2 * seconds, exit=True, file=sys.__stderr__)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def modules_in(thing: Any, depth: int = 8) -> list[torch.nn.Module]:
    """Find the nets inside an estimator."""
    found: dict[int, torch.nn.Module] = {}
    seen: set[int] = set()

    def walk(thing: Any, depth: int) -> None:
        if id(thing) in seen or depth < 0:
            return
        seen.add(id(thing))
        if isinstance(thing, torch.nn.Module):
            found.update((id(module), module) for module in thing.modules())
        elif isinstance(thing, Mapping):
            for value in thing.values():
                walk(value, depth - 1)
        elif isinstance(thing, (list, tuple)):
            for value in thing:
                walk(value, depth - 1)
        elif hasattr(thing, "__dict__") and not isinstance(thing, type):
            walk(vars(thing), depth - 1)

    walk(thing, depth)
    return list(found.values())


def state_of_module(module: torch.nn.Module) -> tuple[Any, ...]:
    hooks = (
        len(module._forward_hooks),
        len(module._forward_pre_hooks),
        len(module._backward_hooks),
        len(module._backward_pre_hooks),
        len(module._parametrizations) if hasattr(module, "_parametrizations") else 0,
    )
    weights = tuple(
        (id(p), p.requires_grad, p.grad is None, p._version)
        for p in module.parameters(recurse=False)
    )
    return hooks, weights, module.forward.__func__ is type(module).forward


def of_loky(thread: threading.Thread) -> bool:
    """Whether a thread belongs to joblib's pool of workers, which is kept for later."""
    return thread.name.startswith(("ExecutorManager", "QueueFeeder"))


def state_of_process() -> dict[str, Any]:
    """Everything that others would notice."""
    numpy_state = np.random.get_state()  # noqa: NPY002
    every = torch.nn.modules.module
    return {
        "random": hash(random.getstate()),
        "numpy.random": (hash(numpy_state[1].tobytes()), *numpy_state[2:]),
        "torch's generator": hash(torch.random.get_rng_state().numpy().tobytes()),
        "threads of torch": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "torch's grad mode": torch.is_grad_enabled(),
        "torch's inference mode": torch.is_inference_mode_enabled(),
        "torch's dtype": torch.get_default_dtype(),
        "hooks of all modules": (
            len(every._global_forward_hooks),
            len(every._global_forward_pre_hooks),
            len(every._global_backward_hooks),
        ),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "numpy's errors": tuple(np.geterr().items()),
        "scikit-learn's configuration": tuple(sklearn.get_config().items()),
        "filters of warnings": tuple(warnings.filters),
        "threads": sorted({t.name for t in threading.enumerate() if not of_loky(t)}),
    }


@contextmanager
def untouched(given: Iterable[Any], modules: list[torch.nn.Module]) -> Iterator[None]:
    """Fail if input, nets or process are not as they were."""
    given = list(given)
    before = [kept(thing) for thing in given]
    nets = [state_of_module(module) for module in modules]
    process = state_of_process()
    with deadline(DEADLINE):
        yield
    after = state_of_process()
    changed = [name for name, value in after.items() if value != process[name]]
    assert not changed, {name: (process[name], after[name]) for name in changed}
    for thing, was in zip(given, before, strict=True):
        assert same(thing, was), "the input was changed"
    assert nets == [state_of_module(module) for module in modules], "a net was changed"


def check_error(error: BaseException, names: Iterable[str], about_input: bool) -> None:
    """Fail where an error is not one that a caller can do something with."""
    if str(error) == CONCEALED:
        return
    text = "".join(traceback.format_exception(error))
    assert isinstance(error, (ValueError, TypeError)), text
    place = traceback.extract_tb(error.__traceback__)[-1]
    inside = re.search(r"/(torch|skorch|functorch)/", place.filename)
    assert not inside, f"an error of torch or skorch came out\n{text}"
    said = str(error)
    told = any(name in said for name in names)
    told |= about_input and ABOUT_INPUT.search(said) is not None
    assert told, f"the message names none of {list(names)}\n{text}"


def attempt(
    call: Callable[[], Any],
    *,
    given: Iterable[Any] = (),
    modules: Iterable[torch.nn.Module] = (),
    names: Iterable[str] = (),
    about_input: bool = True,
) -> tuple[Any, Exception | None]:
    """Return what a call answers, or its error, which has been judged."""
    with untouched(given, list(modules)), warnings.catch_warnings():
        # messages to the caller; what overflows must not come out as an answer
        warnings.simplefilter("ignore", UserWarning)
        warnings.simplefilter("ignore", RuntimeWarning)
        # of NumPy to torch, where an array is made of a tensor
        warnings.filterwarnings("ignore", "__array__ impl", DeprecationWarning)
        # torch's, where it was handed memory that is not ours
        warnings.filterwarnings("error", ".*NumPy array is not writ", UserWarning)
        try:
            return call(), None
        except Exception as error:
            caught = error
    check_error(caught, list(names), about_input)
    return None, caught


def ended(target: str, how: str) -> None:
    """Count a case."""
    ENDED.setdefault(target, Counter())[how] += 1


def assert_finite(answers: Mapping[str, Any], n: int) -> None:
    """Fail where an answer is no number, or not one a row."""
    for name, values in answers.items():
        values = np.asarray(values)
        assert len(values) == n, f"{name} answers {len(values)} rows, asked {n}"
        if values.dtype.kind == "f":
            assert np.isfinite(values).all(), f"{name} is not finite: {values}"
