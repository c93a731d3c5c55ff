"""What an audit reads: a saved model, rows with labels, and a threat in words."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import types
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from sk_advdef.attacks._table import text_columns

#: Where types live that a skops file may hold without --trust.
OWN = "sk_advdef."
#: Parameters by which a model reads or writes elsewhere, and what does not.
REACHING = {"memory": None, "store": "memory://"}
SCALES = ("none", "iqr", "std", "range")


class AuditError(Exception):
    """An audit that cannot be made, in words for who asked for it."""


@dataclass(frozen=True)
class Data:
    """Rows and labels, with the names of the columns where there are any."""

    X: Any
    y: np.ndarray
    names: list[str] | None = None
    notes: list[str] = field(default_factory=list)


def sha256(path: Path) -> str:
    """Return the digest of a file, so that a report says which one it was."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_model(path: Path, *, trust: bool) -> Any:
    """Load a fitted classifier; code in the file runs only where it is trusted."""
    if not path.is_file():
        raise AuditError(f"There is no file {path}.")
    model = _load_skops(path, trust) if _is_skops(path) else _load_pickle(path, trust)
    if not hasattr(model, "predict"):
        raise AuditError(
            f"{path} holds {type(model).__name__}, which has no predict: save the "
            "fitted classifier itself."
        )
    return model


def _is_skops(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return "schema.json" in archive.namelist()
    except (OSError, ValueError, zipfile.BadZipFile):
        return False


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Say that a file cannot be read, whatever its bytes made the reader raise."""
    try:
        yield
    except AuditError:
        raise
    except Exception as error:
        kind = type(error).__name__
        raise AuditError(f"{path} cannot be read: {kind}: {error}") from error


def _load_pickle(path: Path, trust: bool) -> Any:
    if not trust:
        raise AuditError(
            f"{path} is no skops file, so it would be opened as a pickle, and a pickle "
            "runs whatever code it holds. Pass --trust if you trust who made it."
        )
    import joblib

    with _reading(path):
        try:
            return joblib.load(path)
        except ModuleNotFoundError as error:
            raise AuditError(
                f"{path} needs {error.name}, which cannot be imported. Run `python -m "
                "sk_advdef audit` from the folder that holds it, or install it."
            ) from error


def _load_skops(path: Path, trust: bool) -> Any:
    try:
        from skops import io
    except ImportError as error:
        raise AuditError(
            f"{path} is a skops file. Opening it needs skops: pip install skops"
        ) from error
    with _reading(path):
        listed = io.get_untrusted_types(file=path)
        foreign = sorted(name for name in listed if not is_ours(name))
        if foreign and not trust:
            raise AuditError(
                f"{path} holds types that neither skops nor this package vouches for: "
                f"{', '.join(foreign)}. Pass --trust if you trust who made it."
            )
        model = io.load(path, trusted=listed)
        return model if trust else without_reach(model)


def is_ours(name: str) -> bool:
    """Tell whether a name is that of a class which this package defines.

    A function is none, nor is what a module of ours imports from elsewhere: a file that
    names one of these could make it run.
    """
    module, _, attribute = name.rpartition(".")
    if not module.startswith(OWN):
        return False
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (AttributeError, ImportError):
        return False
    return inspect.isclass(found) and found.__module__ == module


def without_reach(model: Any) -> Any:
    """Take away what makes a model read or write elsewhere, with a warning.

    A ``memory`` names a folder whose pickles would be opened, a ``store`` a file to
    write, or a server that would be sent what an environment variable holds.
    """
    waiting: list[Any] = [model]
    seen: dict[int, Any] = {}
    while waiting:
        one = waiting.pop()
        if id(one) in seen or isinstance(one, (type, types.ModuleType)):
            continue
        seen[id(one)] = one
        if isinstance(one, dict):
            waiting += one.values()
        elif isinstance(one, (list, tuple, set, frozenset)):
            waiting += one
        elif isinstance(one, np.ndarray) and one.dtype == object:
            waiting += one.ravel().tolist()
        own = getattr(one, "__dict__", None)
        if isinstance(own, dict):
            for name in REACHING.keys() & own.keys():
                _take_away(type(one).__name__, own, name)
            waiting += own.values()
    return model


def _take_away(owner: str, own: dict[str, Any], name: str) -> None:
    value, harmless = own[name], REACHING[name]
    if isinstance(value, type(harmless)) and value == harmless:
        return
    own[name] = harmless
    warnings.warn(
        f"{name}={value!r} of {owner} was left out, since a model must not make an "
        "audit read or write elsewhere. Pass --trust if you trust who made the file.",
        UserWarning,
        stacklevel=2,
    )


def load_data(path: Path, target: str | None) -> Data:
    """Load rows and labels; no data file may run code."""
    if not path.is_file():
        raise AuditError(f"There is no file {path}.")
    if path.suffix == ".npz":
        return _of_one_length(path, _from_npz(path, target))
    if path.suffix == ".csv":
        return _of_one_length(path, _from_csv(path, target))
    raise AuditError(
        f"{path} must be an .npz file with X and y, or a .csv file with a line of "
        f"names and --target. Got {path.suffix or 'no suffix'} instead."
    )


def _of_one_length(path: Path, data: Data) -> Data:
    X, y = np.shape(data.X), np.shape(data.y)
    if len(X) < 2 or len(y) != 1 or X[0] != y[0] or 0 in X:
        raise AuditError(
            f"{path} must hold at least one row of features or one stacked image, and "
            f"a label for each. Got rows of shape {X} and labels of shape {y}."
        )
    return data


def _from_npz(path: Path, target: str | None) -> Data:
    name = "y" if target is None else target
    with (
        _reading(path),
        # NumPy leaves a file open that it was to open itself and cannot read
        path.open("rb") as file,
        np.load(file, allow_pickle=False) as arrays,
    ):
        missing = {"X", name} - set(arrays.files)
        if missing:
            raise AuditError(
                f"{path} has no array {sorted(missing)}; it holds {arrays.files}. "
                "Write it with np.savez(path, X=X, y=y)."
            )
        return Data(arrays["X"], arrays[name])


def _from_csv(path: Path, target: str | None) -> Data:
    try:
        import pandas as pd
    except ImportError as error:
        raise AuditError(
            "Reading .csv needs pandas: pip install pandas. Or save X and y as .npz."
        ) from error
    with _reading(path):
        frame = pd.read_csv(path)
    if target is None or target not in frame.columns:
        raise AuditError(
            f"--target must be the column of labels, one of {list(frame.columns)}. "
            f"Got {target!r} instead."
        )
    labels = frame.pop(target)
    if labels.isna().any():
        # spelled as what is missing elsewhere: NA, None, null
        column = {"usecols": [target], "dtype": str, "keep_default_na": False}
        with _reading(path):
            labels = pd.read_csv(path, **column)[target]
        if empty := int((labels == "").sum()):
            raise AuditError(f"{empty} rows of {path} have no label in {target!r}.")
    labels = np.array(labels.tolist())
    return Data(frame, labels, [str(name) for name in frame.columns])


def fitted_to(model: Any, data: Data) -> Data:
    """Give the model the columns that it knows, and check the labels."""
    data = replace(data, y=_of_the_kind(data.y, _classes(model)))
    unknown = sorted(set(data.y.tolist()) - set(_classes(model)), key=str)
    if unknown:
        raise AuditError(
            f"The labels {unknown[:5]} are no classes of the model, which are "
            f"{_classes(model)[:10]}. Pass labels of the same kind."
        )
    if data.names is None:
        return data
    known = getattr(model, "feature_names_in_", None)
    if known is None:
        return Data(data.X.to_numpy(), data.y, data.names)
    missing = [name for name in known if name not in data.names]
    if missing:
        raise AuditError(f"The data lacks columns that the model needs: {missing}.")
    notes = []
    more = [name for name in data.names if name not in set(known)]
    if more:
        notes.append(f"Columns that the model does not take were left out: {more}.")
    return Data(data.X[list(known)], data.y, [str(name) for name in known], notes)


def _of_the_kind(labels: np.ndarray, classes: list[Any]) -> np.ndarray:
    """Return labels as the classes that are spelled like them, where all are."""
    spelled = {str(label): label for label in classes}
    if set(labels.tolist()) <= set(classes) or len(spelled) < len(classes):
        return labels
    words = [str(label) for label in labels.tolist()]
    if not set(words) <= set(spelled):
        return labels
    return np.array([spelled[word] for word in words])


def _classes(model: Any) -> list[Any]:
    from sk_advdef._torch._models import genuine_classes_of

    try:
        return np.asarray(genuine_classes_of(model)).tolist()
    except AttributeError as error:
        raise AuditError(
            f"{type(model).__name__} is no fitted classifier: it has no classes_."
        ) from error


def threat_of(
    data: Data,
    eps: float,
    scale: str,
    fixed: Sequence[str],
    bounds: str,
) -> tuple[Any, Any]:
    """Return eps, a number or one a feature, and the box.

    ``bounds`` is "LOW,HIGH", "data" for the smallest and largest value of each feature,
    or "none".
    """
    values = numbers_of(data.X)
    if not np.isfinite(values).all():
        raise AuditError(
            "Some values of the data are missing or infinite, and an audit changes "
            "numbers: leave these rows out, or impute them and audit the model behind "
            "the imputer."
        )
    reach: Any = eps
    if scale != "none":
        from sk_advdef.attacks._space import _scale

        if values.ndim > 2:
            raise AuditError("--scale is for rows of features, not for stacked images.")
        reach = eps * _scale(values, scale)
    if fixed:
        if values.ndim > 2:
            raise AuditError("--fixed is for rows of features, not for stacked images.")
        names = data.names or [str(i) for i in range(values.shape[1])]
        unknown = sorted(set(fixed) - set(names))
        if unknown:
            raise AuditError(f"--fixed names columns that are not there: {unknown}.")
        reach = np.where(np.isin(names, list(fixed)), 0.0, reach)
    return reach, _box(bounds, values)


def _box(bounds: str, values: np.ndarray) -> Any:
    if bounds == "none":
        return None
    if bounds == "data":
        return values.min(axis=0), values.max(axis=0)
    try:
        low, high = (float(part) for part in bounds.split(","))
        if not (low < high and np.isfinite([low, high]).all()):
            raise ValueError(bounds)
    except ValueError as error:
        raise AuditError(
            "--bounds must be LOW,HIGH with LOW below HIGH, or data, or none. "
            f"Got {bounds!r} instead."
        ) from error
    if values.min() < low or values.max() > high:
        raise AuditError(
            f"The data has values from {values.min():g} to {values.max():g}, outside "
            f"--bounds {bounds}. Pass the range that input can have, --bounds data for "
            "that of each feature in the data, or --bounds none."
        )
    return low, high


def numbers_of(X: Any) -> np.ndarray:
    """Return rows as float64, or say that they are not numeric."""
    given = X.to_numpy() if hasattr(X, "to_numpy") else X
    try:
        return np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError) as error:
        which = f" ({text_columns(X)})" if hasattr(X, "to_numpy") else ""
        raise AuditError(
            f"Some columns are not numeric{which}, and an audit changes numbers: "
            "encode them first, and audit the model behind the encoder."
        ) from error


def said_of(caught: Sequence[warnings.WarningMessage]) -> list[str]:
    """Return the texts of warnings, each once."""
    texts = [f"{w.category.__name__}: {w.message}" for w in caught]
    return list(dict.fromkeys(texts))
