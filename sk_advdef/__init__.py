"""Defences against adversarial examples as scikit-learn estimators."""

import importlib as _importlib
from typing import TYPE_CHECKING, Any

from sk_advdef._version import __version__ as __version__

if TYPE_CHECKING:
    from sk_advdef._torch._registry import as_module, as_score_module
    from sk_advdef.attacks._base import AttackResult
    from sk_advdef.attacks._fgsm import FGSM
    from sk_advdef.attacks._pgd import PGD
    from sk_advdef.attacks._random_search import RandomSearch
    from sk_advdef.detection._dropout import DropoutUncertaintyDetector
    from sk_advdef.detection._rejecting import RejectingClassifier
    from sk_advdef.evaluation._detection import (
        make_detection_scorer,
        rejection_robust_error,
    )
    from sk_advdef.evaluation._scores import make_robust_scorer, robust_accuracy_score
    from sk_advdef.squeezers._bit_depth import BitDepthSqueezer
    from sk_advdef.squeezers._blur import BlurSqueezer
    from sk_advdef.squeezers._downscale import Downscaler
    from sk_advdef.training._augmented import AdversariallyAugmentedClassifier
    from sk_advdef.training._distilled import DistilledClassifier

__all__ = [
    "AdversariallyAugmentedClassifier",
    "AttackResult",
    "BitDepthSqueezer",
    "BlurSqueezer",
    "DistilledClassifier",
    "Downscaler",
    "DropoutUncertaintyDetector",
    "FGSM",
    "PGD",
    "RandomSearch",
    "RejectingClassifier",
    "as_module",
    "as_score_module",
    "make_detection_scorer",
    "make_robust_scorer",
    "rejection_robust_error",
    "robust_accuracy_score",
]

#: Where each public name lives; a name is imported when it is first asked for.
_LAZY = {
    "AdversariallyAugmentedClassifier": "sk_advdef.training._augmented",
    "AttackResult": "sk_advdef.attacks._base",
    "BitDepthSqueezer": "sk_advdef.squeezers._bit_depth",
    "BlurSqueezer": "sk_advdef.squeezers._blur",
    "DistilledClassifier": "sk_advdef.training._distilled",
    "Downscaler": "sk_advdef.squeezers._downscale",
    "DropoutUncertaintyDetector": "sk_advdef.detection._dropout",
    "FGSM": "sk_advdef.attacks._fgsm",
    "PGD": "sk_advdef.attacks._pgd",
    "RandomSearch": "sk_advdef.attacks._random_search",
    "RejectingClassifier": "sk_advdef.detection._rejecting",
    "as_module": "sk_advdef._torch._registry",
    "as_score_module": "sk_advdef._torch._registry",
    "make_detection_scorer": "sk_advdef.evaluation._detection",
    "make_robust_scorer": "sk_advdef.evaluation._scores",
    "rejection_robust_error": "sk_advdef.evaluation._detection",
    "robust_accuracy_score": "sk_advdef.evaluation._scores",
}


def __getattr__(name: str) -> Any:
    if name == "nets":
        return _importlib.import_module("sk_advdef.nets")
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(_importlib.import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "nets"})
