"""Where trained nets are kept between units, and how they are told apart."""

import hashlib
import tempfile
from pathlib import Path
from typing import Any

import joblib

from benchmarks._harness import HERE

#: Fitted nets, by benchmark and name; not under version control.
KEPT = HERE / "data"


def fingerprint(model: Any) -> str:
    """Tell weights apart."""
    weights = model.estimator_.net_.module_.state_dict().values()
    digest = hashlib.sha1()
    for value in weights:
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()[:12]


def keep(benchmark: str, name: str, model: Any, quick: bool) -> None:
    """Save a fitted model for units to come."""
    path = _path(benchmark, name, quick)
    path.parent.mkdir(parents=True, exist_ok=True)
    joblib.dump(model, path)


def lost(benchmark: str, name: str, quick: bool, unit: str = "") -> str | None:
    """Say how to get a model that is not there; ``unit``, its ``name``, saves it."""
    path = _path(benchmark, name, quick)
    if path.exists():
        return None
    return (
        f"{path.name} is not there any more (remove the unit {unit or name} from "
        f"results/{benchmark}/ to train it again)"
    )


def kept(benchmark: str, name: str, unit: str, quick: bool) -> Any:
    """Load a model that ``unit`` has saved."""
    if why := lost(benchmark, name, quick, unit):
        raise FileNotFoundError(why)
    return joblib.load(_path(benchmark, name, quick))


def _path(benchmark: str, name: str, quick: bool) -> Path:
    folder = Path(tempfile.gettempdir()) / "sk_advdef-quick" if quick else KEPT
    return folder / benchmark / f"{name}.joblib"
