"""Training that may be killed or interrupted, and how it goes on.

A checkpoint of skorch holds weights, optimizer and history. What else must be known to
go on as if nothing had been is a file more: ``Checkpoint(..., f_training=...)``.
"""

from __future__ import annotations

import errno
import json
import os
import random
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import numpy as np
import torch

from sk_advdef._files import written_whole
from sk_advdef._torch._fingerprint import fingerprint

#: What may be another when training goes on.
_FREE = {"estimator", "verbose", "memory", "random_state"}


@contextmanager
def hooked(net: Any, **hooks: Callable[..., Any]) -> Iterator[None]:
    """Put functions around methods of a net: ``hook(original, *args, **kwargs)``."""
    try:
        for name, hook in hooks.items():
            setattr(net, name, partial(hook, getattr(net, name)))
        yield
    finally:
        for name in hooks:
            vars(net).pop(name, None)


def generators() -> dict[str, Any]:
    """Return the state of all global random generators."""
    drawn: dict[str, Any] = dict(np.random.get_state(legacy=False))  # noqa: NPY002
    drawn["state"] = {k: np.asarray(v).tolist() for k, v in drawn["state"].items()}
    return {
        "python": json.dumps(random.getstate()),
        "numpy": json.dumps(drawn),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_generators(state: dict[str, Any]) -> None:
    """Put all global random generators where they were."""
    version, inner, gauss = json.loads(state["python"])
    random.setstate((version, tuple(inner), gauss))
    np.random.set_state(json.loads(state["numpy"]))  # noqa: NPY002
    torch.set_rng_state(state["torch"].cpu())
    for i, one in enumerate(state["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(one.cpu(), i)


def _refuse_cut(path: Path) -> None:
    """Refuse a file of torch.save without its end: torch 2.6 says nothing."""
    if not path.exists():
        return
    with path.open("rb") as file:
        is_cut = file.read(2) == b"PK" and not is_zipfile(file)
    if is_cut:
        raise OSError(errno.ENOSPC, "written in part", str(path))


class Training:
    """What is known of training beside the net: ``net.training_`` while it trains.

    ``part`` is what a defence has gathered in the loop, and saves and loads itself;
    ``about`` is what must be the same where training goes on.
    """

    def __init__(self, net: Any, seed: int) -> None:
        self.net = net
        self.about: tuple[Any, ...] = (seed,)
        self.part: Any = None
        #: whether training was left in the middle of an epoch
        self.is_under_way = False
        self._of = ""
        self._loaded: dict[str, Any] | None = None
        self._pending: dict[str, Any] | None = None

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Stand by a net while it trains."""
        vars(self.net)["training_"] = self
        hooks: dict[str, Callable[..., Any]] = {
            "fit_loop": self._fit_loop,
            "notify": self._notify,
            "on_epoch_begin": self._before_callbacks,
            "on_epoch_end": self._before_callbacks,
            "save_params": self._save_params,
        }
        try:
            with hooked(self.net, **hooks):
                yield
        finally:
            vars(self.net).pop("training_", None)

    def raise_if_interrupted(self) -> None:
        """Raise what skorch takes for the end of training.

        A callback that stops training at the end of an epoch is no interruption.
        """
        if self.is_under_way:
            raise KeyboardInterrupt

    # what skorch saves and loads

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint holds."""
        return {
            "of": self._of,
            "epochs": len(self.net.history),
            "generators": generators(),
            "part": None if self.part is None else self.part.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take what a checkpoint held; it is looked at when training begins."""
        self._loaded = state

    # hooks

    def _fit_loop(
        self, original: Callable[..., Any], X: Any, y: Any, **params: Any
    ) -> Any:
        self.is_under_way = True
        if any(getattr(c, "f_training", None) for _, c in self.net.callbacks_):
            self._of = fingerprint(self.about, X, y)
        done = len(self.net.history)
        if done:
            self._go_on(done)
            params["epochs"] = max(0, self.net.max_epochs - done)
        try:
            result = original(X, y, **params)
        finally:
            self._set_pending()
        self.is_under_way = False
        return result

    def _go_on(self, done: int) -> None:
        state, self._loaded = self._loaded, None
        if state is None:
            raise ValueError(
                f"A callback has loaded a history of {done} epochs and nothing of "
                "where training stood. To go on with it, let the checkpoint hold that "
                'too: Checkpoint(..., f_training="training.pt"). To begin anew, delete '
                "the checkpoint."
            )
        if state["of"] != self._of:
            raise ValueError(
                "The checkpoint that a callback has loaded is of another training: "
                "with other rows, labels or parameters, another random_state (give it "
                "an int) or another version of sk_advdef. Give each training a dirname "
                "of its own, or delete the checkpoint to begin anew."
            )
        if state["epochs"] != done:
            raise ValueError(
                f"The checkpoint that a callback has loaded holds a history of {done} "
                f"epochs and a training of {state['epochs']}: it was cut short while "
                "files were written over. Give the files of each epoch names of their "
                'own: f_params="params_{last_epoch[epoch]}.pt", and in the same way '
                "f_optimizer and f_training."
            )
        self._recall_best()
        self._pending = state["generators"]
        if self.part is not None:
            self.part.load_state_dict(state["part"])

    def _recall_best(self) -> None:
        """Tell skorch's scoring the best of the epochs that are done.

        It looks for that when training begins, and so before a history is loaded.
        """
        for _, callback in self.net.callbacks_:
            if not hasattr(callback, "best_score_"):
                continue
            name = getattr(callback, "name_", None) or callback.name
            best = [row[name] for row in self.net.history if row.get(f"{name}_best")]
            if best:
                callback.best_score_ = best[-1]

    def _set_pending(self) -> None:
        """Go on with the random numbers; what comes before the first epoch is as ever.

        Such as the split, which must be the same again.
        """
        if self._pending is not None:
            set_generators(self._pending)
            self._pending = None

    def _notify(
        self, original: Callable[..., Any], name: str, *args: Any, **params: Any
    ) -> Any:
        """Pass on what skorch tells the net, then its callbacks."""
        if name == "on_epoch_begin":
            self._set_pending()
        result = original(name, *args, **params)
        if name in ("on_epoch_begin", "on_epoch_end"):
            self.is_under_way = True
        return result

    def _before_callbacks(
        self, original: Callable[..., Any], *args: Any, **params: Any
    ) -> Any:
        """Be told between epochs, after what we do there ourselves.

        What interrupts now is a callback, which ends training by it.
        """
        result = original(*args, **params)
        self.is_under_way = False
        return result

    def _save_params(
        self, original: Callable[..., Any], *args: Any, **files: Any
    ) -> None:
        named = {
            name: Path(target)
            for name, target in files.items()
            if name.startswith("f_") and isinstance(target, (str, os.PathLike))
        }
        try:
            with written_whole(*named.values()) as parts:
                own = dict(zip(named, map(str, parts), strict=True))
                original(*args, **(files | own))
                for part in parts:
                    _refuse_cut(part)
        except Exception as error:
            # Checkpoint tells this to its sink only, which is silent unless asked
            warnings.warn(
                f"A checkpoint could not be written to "
                f"{', '.join(map(str, named.values()))}: {error}",
                UserWarning,
                stacklevel=2,
            )
            raise


def settings(owner: Any) -> dict[str, Any]:
    """Return the parameters of a defence that must stay where training goes on."""
    params = owner.get_params(deep=False)
    return {name: params[name] for name in sorted(params.keys() - _FREE)}


def take_part(net: Any, about: dict[str, Any], part: Any = None) -> Training | None:
    """Let checkpoints of a net in training hold what a defence gathers.

    Returns None for a net that nobody watches.
    """
    training: Training | None = vars(net).get("training_")
    if training is not None:
        training.about = (*training.about, about)
        training.part = part
    return training
