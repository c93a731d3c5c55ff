"""Defences against adversarial examples as scikit-learn estimators."""

import importlib as _importlib
from typing import TYPE_CHECKING, Any

from sk_advdef._version import __version__ as __version__

if TYPE_CHECKING:
    from sk_advdef._torch._registry import as_module, as_score_module
    from sk_advdef.attacks._apgd import APGD
    from sk_advdef.attacks._base import AttackResult
    from sk_advdef.attacks._carlini_wagner import CarliniWagnerL2
    from sk_advdef.attacks._ddn import DDN
    from sk_advdef.attacks._deepfool import DeepFool
    from sk_advdef.attacks._fgsm import FGSM
    from sk_advdef.attacks._hop_skip_jump import HopSkipJump
    from sk_advdef.attacks._jsma import JSMA
    from sk_advdef.attacks._pgd import PGD
    from sk_advdef.attacks._random_search import RandomSearch
    from sk_advdef.attacks._sigma_zero import SigmaZero
    from sk_advdef.attacks._space import FeatureSpace
    from sk_advdef.attacks._transfer import Transfer
    from sk_advdef.attacks._tree_exact import TreeExact
    from sk_advdef.attacks._tree_result import TreeExactResult
    from sk_advdef.concealment._concealed import ConcealedClassifier
    from sk_advdef.concealment._guarded import GuardedClassifier
    from sk_advdef.concealment._middleware import QueryGuardMiddleware
    from sk_advdef.concealment._refused import QueryRefused
    from sk_advdef.concealment._similar import SimilarQueryDetector
    from sk_advdef.detection._combined import CombinedDetector
    from sk_advdef.detection._density import DensityDetector
    from sk_advdef.detection._dropout import DropoutUncertaintyDetector
    from sk_advdef.detection._rejecting import RejectingClassifier
    from sk_advdef.detection._squeezing import FeatureSqueezingDetector
    from sk_advdef.evaluation._certified import certified_accuracy_score
    from sk_advdef.evaluation._detection import (
        make_detection_scorer,
        rejection_robust_error,
    )
    from sk_advdef.evaluation._detection_curve import DetectionCurveDisplay
    from sk_advdef.evaluation._diagnose import diagnose_defense
    from sk_advdef.evaluation._diagnosis import Diagnosis
    from sk_advdef.evaluation._perturbation import PerturbationDisplay
    from sk_advdef.evaluation._report import RobustnessReport
    from sk_advdef.evaluation._robustness import evaluate_robustness
    from sk_advdef.evaluation._robustness_curve import RobustnessCurveDisplay
    from sk_advdef.evaluation._scores import make_robust_scorer, robust_accuracy_score
    from sk_advdef.evaluation._strength import attack_strength_test
    from sk_advdef.evaluation._strength_report import StrengthReport
    from sk_advdef.evaluation._training_history import TrainingHistoryDisplay
    from sk_advdef.squeezers._bit_depth import BitDepthSqueezer
    from sk_advdef.squeezers._blur import BlurSqueezer
    from sk_advdef.squeezers._downscale import Downscaler
    from sk_advdef.squeezers._grayscale import GrayscaleSqueezer
    from sk_advdef.squeezers._jpeg import JpegSqueezer
    from sk_advdef.squeezers._median import MedianSqueezer
    from sk_advdef.squeezers._stack import stack_images
    from sk_advdef.training._augmented import AdversariallyAugmentedClassifier
    from sk_advdef.training._certified import CertifiedClassifier
    from sk_advdef.training._certified_result import CertifiedResult
    from sk_advdef.training._distilled import DistilledClassifier

__all__ = [
    "APGD",
    "AdversariallyAugmentedClassifier",
    "AttackResult",
    "BitDepthSqueezer",
    "BlurSqueezer",
    "CarliniWagnerL2",
    "CertifiedClassifier",
    "CertifiedResult",
    "CombinedDetector",
    "ConcealedClassifier",
    "DDN",
    "DeepFool",
    "DensityDetector",
    "DetectionCurveDisplay",
    "Diagnosis",
    "DistilledClassifier",
    "Downscaler",
    "DropoutUncertaintyDetector",
    "FGSM",
    "FeatureSpace",
    "FeatureSqueezingDetector",
    "GrayscaleSqueezer",
    "GuardedClassifier",
    "HopSkipJump",
    "JSMA",
    "JpegSqueezer",
    "MedianSqueezer",
    "PGD",
    "PerturbationDisplay",
    "QueryGuardMiddleware",
    "QueryRefused",
    "RandomSearch",
    "RejectingClassifier",
    "RobustnessCurveDisplay",
    "RobustnessReport",
    "SigmaZero",
    "SimilarQueryDetector",
    "StrengthReport",
    "TrainingHistoryDisplay",
    "Transfer",
    "TreeExact",
    "TreeExactResult",
    "as_module",
    "as_score_module",
    "attack_strength_test",
    "certified_accuracy_score",
    "diagnose_defense",
    "evaluate_robustness",
    "make_detection_scorer",
    "make_robust_scorer",
    "rejection_robust_error",
    "robust_accuracy_score",
    "stack_images",
]

#: Where each public name lives; a name is imported when it is first asked for.
_LAZY = {
    "APGD": "sk_advdef.attacks._apgd",
    "AdversariallyAugmentedClassifier": "sk_advdef.training._augmented",
    "AttackResult": "sk_advdef.attacks._base",
    "BitDepthSqueezer": "sk_advdef.squeezers._bit_depth",
    "BlurSqueezer": "sk_advdef.squeezers._blur",
    "CarliniWagnerL2": "sk_advdef.attacks._carlini_wagner",
    "CertifiedClassifier": "sk_advdef.training._certified",
    "CertifiedResult": "sk_advdef.training._certified_result",
    "CombinedDetector": "sk_advdef.detection._combined",
    "ConcealedClassifier": "sk_advdef.concealment._concealed",
    "DDN": "sk_advdef.attacks._ddn",
    "DeepFool": "sk_advdef.attacks._deepfool",
    "DensityDetector": "sk_advdef.detection._density",
    "DetectionCurveDisplay": "sk_advdef.evaluation._detection_curve",
    "Diagnosis": "sk_advdef.evaluation._diagnosis",
    "DistilledClassifier": "sk_advdef.training._distilled",
    "Downscaler": "sk_advdef.squeezers._downscale",
    "DropoutUncertaintyDetector": "sk_advdef.detection._dropout",
    "FGSM": "sk_advdef.attacks._fgsm",
    "FeatureSpace": "sk_advdef.attacks._space",
    "FeatureSqueezingDetector": "sk_advdef.detection._squeezing",
    "GrayscaleSqueezer": "sk_advdef.squeezers._grayscale",
    "GuardedClassifier": "sk_advdef.concealment._guarded",
    "HopSkipJump": "sk_advdef.attacks._hop_skip_jump",
    "JSMA": "sk_advdef.attacks._jsma",
    "JpegSqueezer": "sk_advdef.squeezers._jpeg",
    "MedianSqueezer": "sk_advdef.squeezers._median",
    "PGD": "sk_advdef.attacks._pgd",
    "PerturbationDisplay": "sk_advdef.evaluation._perturbation",
    "QueryGuardMiddleware": "sk_advdef.concealment._middleware",
    "QueryRefused": "sk_advdef.concealment._refused",
    "RandomSearch": "sk_advdef.attacks._random_search",
    "RejectingClassifier": "sk_advdef.detection._rejecting",
    "RobustnessCurveDisplay": "sk_advdef.evaluation._robustness_curve",
    "RobustnessReport": "sk_advdef.evaluation._report",
    "SigmaZero": "sk_advdef.attacks._sigma_zero",
    "SimilarQueryDetector": "sk_advdef.concealment._similar",
    "StrengthReport": "sk_advdef.evaluation._strength_report",
    "TrainingHistoryDisplay": "sk_advdef.evaluation._training_history",
    "Transfer": "sk_advdef.attacks._transfer",
    "TreeExact": "sk_advdef.attacks._tree_exact",
    "TreeExactResult": "sk_advdef.attacks._tree_result",
    "as_module": "sk_advdef._torch._registry",
    "as_score_module": "sk_advdef._torch._registry",
    "attack_strength_test": "sk_advdef.evaluation._strength",
    "certified_accuracy_score": "sk_advdef.evaluation._certified",
    "diagnose_defense": "sk_advdef.evaluation._diagnose",
    "evaluate_robustness": "sk_advdef.evaluation._robustness",
    "make_detection_scorer": "sk_advdef.evaluation._detection",
    "make_robust_scorer": "sk_advdef.evaluation._scores",
    "rejection_robust_error": "sk_advdef.evaluation._detection",
    "robust_accuracy_score": "sk_advdef.evaluation._scores",
    "stack_images": "sk_advdef.squeezers._stack",
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
