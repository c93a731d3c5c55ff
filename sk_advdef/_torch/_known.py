"""Types whose views are built in, by name, so that none of them need be imported."""

from __future__ import annotations

import inspect
from functools import partial
from typing import Any

from sk_advdef._torch._models import is_skorch

#: The package that defines a class and the class's name -> module and name of the
#: builder. Loaded when it is needed.
_BUILTIN = {
    "sk_advdef.BitDepthSqueezer": "_squeezer_views:bit_depth",
    "sk_advdef.BlurSqueezer": "_squeezer_views:separable",
    "sk_advdef.Downscaler": "_squeezer_views:separable",
    "sk_advdef.GrayscaleSqueezer": "_squeezer_views:grayscale",
    "sk_advdef.MedianSqueezer": "_squeezer_views:median",
    "sk_advdef.JpegSqueezer": "_jpeg_view:jpeg",
    "sklearn.BaseSearchCV": "_views:searched",
    "sklearn.CalibratedClassifierCV": "_ensemble_views:calibrated_classifier",
    "sklearn.ColumnTransformer": "_views:column_transformer",
    "sklearn.FeatureUnion": "_views:feature_union",
    "sklearn.FunctionTransformer": "_transformer_views:function_transformer",
    "sklearn.GaussianNB": "_density_views:gaussian_nb",
    "sklearn.IncrementalPCA": "_transformer_views:pca",
    "sklearn.LinearDiscriminantAnalysis": "_linear_views:linear",
    "sklearn.LinearSVC": "_linear_views:linear",
    "sklearn.LogisticRegression": "_linear_views:logistic_regression",
    "sklearn.LogisticRegressionCV": "_linear_views:logistic_regression",
    "sklearn.MLPClassifier": "_linear_views:mlp_classifier",
    "sklearn.MaxAbsScaler": "_transformer_views:max_abs_scaler",
    "sklearn.MinMaxScaler": "_transformer_views:min_max_scaler",
    "sklearn.Normalizer": "_transformer_views:normalizer",
    "sklearn.NuSVC": "_kernel_views:svc",
    "sklearn.PCA": "_transformer_views:pca",
    "sklearn.Perceptron": "_linear_views:linear",
    "sklearn.Pipeline": "_views:pipeline",
    "sklearn.QuadraticDiscriminantAnalysis": (
        "_density_views:quadratic_discriminant_analysis"
    ),
    "sklearn.RFE": "_ensemble_views:eliminated",
    "sklearn.RidgeClassifier": "_linear_views:linear",
    "sklearn.RidgeClassifierCV": "_linear_views:linear",
    "sklearn.RobustScaler": "_transformer_views:robust_scaler",
    "sklearn.SGDClassifier": "_linear_views:sgd_classifier",
    "sklearn.SVC": "_kernel_views:svc",
    "sklearn.SelectorMixin": "_transformer_views:selector",
    "sklearn.SimpleImputer": "_transformer_views:simple_imputer",
    "sklearn.StackingClassifier": "_ensemble_views:stacking_classifier",
    "sklearn.StandardScaler": "_transformer_views:standard_scaler",
    "sklearn.TruncatedSVD": "_transformer_views:truncated_svd",
    "sklearn.VotingClassifier": "_ensemble_views:voting_classifier",
}

#: The same for classifiers as steps that transform.
_TRANSFORMING = {
    "sklearn.LinearDiscriminantAnalysis": "_density_views:discriminant_transform",
    "sklearn.Pipeline": "_views:pipeline",
    "sklearn.RFE": "_transformer_views:selector",
}

#: What a subclass must leave alone for its parent's view to be its own.
_ANSWERS = ("decision_function", "predict", "predict_proba", "transform")
_NET_ANSWERS = (
    *(*_ANSWERS, "evaluation_step", "forward_iter", "infer", "get_dataset"),
    *("get_iterator", "_get_predict_nonlinearity"),
)


def same_answers(
    child: type, parent: type, answers: tuple[str, ...] = _ANSWERS
) -> bool:
    """Whether a subclass leaves alone what its parent answers by."""
    # static: a method behind available_if is a new object each time it is asked for
    return all(
        inspect.getattr_static(child, name, None)
        is inspect.getattr_static(parent, name, None)
        for name in answers
    )


def is_plain_net(estimator: Any) -> bool:
    """Whether a skorch net answers as skorch's own classes do."""
    if not is_skorch(estimator):
        return False
    return _as_skorch(estimator, _NET_ANSWERS) and not changes_rows(estimator)


def _as_skorch(net: Any, answers: tuple[str, ...]) -> bool:
    cls = type(net)
    home = next(c for c in cls.__mro__ if c.__module__.partition(".")[0] == "skorch")
    set_on_it = any(name in vars(net) for name in answers)
    return not set_on_it and same_answers(cls, home, answers)


def changes_rows(net: Any) -> bool:
    """Whether a skorch net has something between the rows and its module."""
    from skorch.dataset import Dataset
    from torch.utils.data import DataLoader, default_collate

    if not _as_skorch(net, ("infer", "get_dataset")):
        return True
    given: Any = getattr(net, "dataset", Dataset)
    given = given.func if isinstance(given, partial) else given
    own = not isinstance(given, type) or not issubclass(given, Dataset)
    reads = ("__init__", "__getitem__", "__getitems__", "transform")
    if own or not same_answers(given, Dataset, reads):
        return True
    if net.iterator_valid is not DataLoader:
        return True
    collate = net.get_params_for("iterator_valid").get("collate_fn")
    return collate not in (None, default_collate)


def key_of(estimator: Any, role: str) -> str | None:
    """Return what the estimator is built as, if it is built in for this role."""
    cls = type(estimator)
    transforms = role == "transform"
    answers = ("transform",) if transforms else _ANSWERS
    known = _TRANSFORMING if transforms and hasattr(cls, "predict") else _BUILTIN
    for parent in cls.__mro__:
        key = f"{parent.__module__.partition('.')[0]}.{parent.__name__}"
        if key in known and same_answers(cls, parent, answers):
            return key
    return None


def address_of(key: str, role: str) -> str:
    """Return the module and the name of the builder of a known type."""
    known = _TRANSFORMING if role == "transform" else {}
    return known.get(key, "") or _BUILTIN[key]
