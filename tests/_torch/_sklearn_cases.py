"""Fitted models of scikit-learn's other types, whose view must answer as they do."""

from __future__ import annotations

import numpy as np
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import PCA, IncrementalPCA, TruncatedSVD
from sklearn.discriminant_analysis import (
    LinearDiscriminantAnalysis,
    QuadraticDiscriminantAnalysis,
)
from sklearn.ensemble import StackingClassifier, VotingClassifier
from sklearn.feature_selection import (
    RFE,
    RFECV,
    SelectFromModel,
    SelectKBest,
    VarianceThreshold,
)
from sklearn.frozen import FrozenEstimator
from sklearn.impute import SimpleImputer
from sklearn.linear_model import (
    LogisticRegression,
    LogisticRegressionCV,
    Perceptron,
    RidgeClassifier,
    RidgeClassifierCV,
    SGDClassifier,
)
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    MinMaxScaler,
    Normalizer,
    StandardScaler,
)
from sklearn.svm import SVC, LinearSVC, NuSVC

from tests._torch._cases import Case, before, make_net, make_rows


def decides(model, n_classes=3, **params):
    return Case(model, make_rows(n_classes), answers="decision", **params)


def both(name, make, case):
    """Return a binary and a multi-class case of a kind of model."""
    return {f"{name} {k}": case(make(), k) for k in (2, 3)}


def proba(model, n_classes=3):
    return Case(model, make_rows(n_classes))


def first_three(X):
    return [0, 1, 2]


def columns(*branches, **params):
    return before(ColumnTransformer(list(branches), **params))


def gapped_rows():
    """Rows with holes, one column that is all holes, and a hole value of -7."""
    X, y = make_rows()
    X[::5, 1] = X[1::7, 4] = X[:, 3] = -7
    return X, y


def frozen(model, n_classes=3):
    return FrozenEstimator(model.fit(*make_rows(n_classes)))


def voters():
    return [("lr", LogisticRegression()), ("nb", GaussianNB()), ("no", "drop")]


def stack(*members, **params):
    named = [(str(i), member) for i, member in enumerate(members)]
    return StackingClassifier(named, cv=2, **params)


def machine(kernel, **params):
    return make_pipeline(StandardScaler(), SVC(kernel=kernel, **params))


SCALE = [("scale", StandardScaler(), [0, 1])]

COLUMNS = {
    "columns by index": columns(
        ("a", StandardScaler(), [3, -1]), ("b", MinMaxScaler(), [0])
    ),
    "columns by slice": columns(("a", StandardScaler(), slice(1, 4))),
    "columns by mask": columns(("a", MinMaxScaler(), np.arange(6) % 2 == 0)),
    "columns by function": columns(("a", StandardScaler(), first_three)),
    "columns kept": columns(*SCALE, remainder="passthrough"),
    "columns dropped": columns(*SCALE, ("b", "drop", [2]), ("c", "passthrough", [4])),
    "columns scaled on": columns(*SCALE, remainder=MinMaxScaler()),
    "columns of none": columns(*SCALE, ("b", PCA(), []), ("c", PCA(), [False] * 6)),
    "columns weighted": columns(
        *SCALE, ("b", PCA(2), [2, 3, 4]), transformer_weights={"b": 0.3}
    ),
    "columns of pipelines": columns(
        ("a", make_pipeline(StandardScaler(), PCA(2, whiten=True)), [5, 1, 0])
    ),
    "union": before(FeatureUnion([("a", PCA(2)), ("b", StandardScaler())])),
    "union weighted": before(
        FeatureUnion(
            [("a", PCA(2)), ("b", "passthrough"), ("c", "drop")],
            transformer_weights={"a": 2.0, "b": 0.5},
        )
    ),
}

TRANSFORMERS = {
    "normalizer l1": before(Normalizer("l1")),
    "normalizer l2": before(Normalizer()),
    "normalizer max": before(Normalizer("max")),
    "identity": before(FunctionTransformer()),
    "pca": before(PCA(3)),
    "pca whiten": before(PCA(whiten=True)),
    "pca incremental": before(IncrementalPCA(3, whiten=True)),
    "svd": before(TruncatedSVD(3)),
    "imputer": before(SimpleImputer()),
    "imputer indicates": before(
        SimpleImputer(missing_values=-7, add_indicator=True, keep_empty_features=True),
        data=gapped_rows(),
        smooth=False,
    ),
    "imputer constant": before(
        SimpleImputer(
            missing_values=-7,
            strategy="constant",
            fill_value=2.5,
            keep_empty_features=True,
        ),
        data=gapped_rows(),
        smooth=False,
    ),
    "select best": before(SelectKBest(k=3)),
    "select variance": before(VarianceThreshold(1.0)),
    "select from model": before(SelectFromModel(LogisticRegression())),
    "select rfe": before(RFE(LogisticRegression(), n_features_to_select=2)),
    "discriminant step": before(LinearDiscriminantAnalysis(n_components=1)),
    "discriminant eigen": before(LinearDiscriminantAnalysis(solver="eigen")),
}

MODELS = {
    **both("lda", LinearDiscriminantAnalysis, proba),
    **both("qda", QuadraticDiscriminantAnalysis, proba),
    **both("naive bayes", GaussianNB, proba),
    **both(
        "logistic cv", lambda: LogisticRegressionCV(cv=2, Cs=2, max_iter=1000), proba
    ),
    **both("sgd log", lambda: SGDClassifier(loss="log_loss", random_state=0), proba),
    **both("sgd hinge", lambda: SGDClassifier(random_state=0), decides),
    **both(
        "sgd huber",
        lambda: SGDClassifier(loss="modified_huber", random_state=0),
        decides,
    ),
    **both("perceptron", Perceptron, decides),
    **both("linear svc", LinearSVC, decides),
    **both("ridge", RidgeClassifier, decides),
    **both("ridge cv", RidgeClassifierCV, decides),
    **both("rfe", lambda: RFE(LogisticRegression()), proba),
    "rfe decides": decides(RFE(LinearSVC(), n_features_to_select=2)),
    "rfe cv": proba(RFECV(LogisticRegression(), cv=2)),
    **{
        f"svc {kernel} {k}": decides(machine(kernel), k)
        for kernel in ("linear", "poly", "rbf", "sigmoid")
        for k in (2, 3, 5)
    },
    "svc poly params": decides(machine("poly", degree=2, coef0=0.7, gamma=0.2)),
    "svc ties": decides(machine("rbf", break_ties=True), 5),
    "svc ovo 2": decides(machine("rbf", decision_function_shape="ovo"), 2),
    "svc ovo 4": Case(
        machine("rbf", decision_function_shape="ovo"), make_rows(4), answers="label"
    ),
    "nu svc": decides(NuSVC(nu=0.3)),
}

ENSEMBLES = {
    **both(
        "calibrated decision",
        lambda: CalibratedClassifierCV(LinearSVC(), cv=3),
        proba,
    ),
    **both(
        "calibrated proba", lambda: CalibratedClassifierCV(GaussianNB(), cv=3), proba
    ),
    "calibrated default": proba(CalibratedClassifierCV(cv=2), 2),
    "calibrated once": proba(
        CalibratedClassifierCV(LogisticRegression(), cv=2, ensemble=False)
    ),
    "calibrated apart": proba(
        CalibratedClassifierCV(
            make_pipeline(
                StandardScaler(), SGDClassifier(loss="log_loss", random_state=0)
            ),
            cv=2,
        )
    ),
    "calibrated svc": proba(CalibratedClassifierCV(machine("rbf"), cv=2)),
    "calibrated frozen": proba(CalibratedClassifierCV(frozen(LogisticRegression()))),
    "calibrated in pipeline": proba(
        make_pipeline(StandardScaler(), CalibratedClassifierCV(LinearSVC(), cv=2))
    ),
    **both("voting", lambda: VotingClassifier(voters(), voting="soft"), proba),
    "voting weighted": proba(
        VotingClassifier(
            [("no", "drop"), ("a", GaussianNB()), *voters()[:2]],
            voting="soft",
            weights=[9, 1, 2.5, 0],
        )
    ),
    "voting nets": Case(
        VotingClassifier([("a", make_net()), ("b", GaussianNB())], voting="soft"),
        smooth=False,
        dtype=np.float32,
        smallest=1e-4,
    ),
    "voting hard": Case(
        VotingClassifier([*voters(), ("svc", SVC())], weights=[1, 1, 1, 1.5]),
        answers="label",
        smooth=False,
    ),
    **both("stacking", lambda: stack(LogisticRegression(), GaussianNB()), proba),
    **both(
        "stacking decides",
        lambda: stack(LinearSVC(), GaussianNB(), SVC(), passthrough=True),
        proba,
    ),
    "stacking shapes": decides(
        stack(
            SVC(decision_function_shape="ovo"),
            SGDClassifier(loss="log_loss", random_state=0),
            final_estimator=LinearSVC(),
            stack_method="decision_function",
        )
    ),
    "stacking frozen": proba(
        StackingClassifier([("a", frozen(LogisticRegression()))], cv="prefit")
    ),
}
METHODS = CalibratedClassifierCV._parameter_constraints["method"][0].options
if "temperature" in METHODS:  # from scikit-learn 1.8 on
    for name, member in [("decision", LogisticRegression()), ("proba", GaussianNB())]:
        ENSEMBLES |= both(
            f"calibrated temperature {name}",
            lambda member=member: CalibratedClassifierCV(
                member, method="temperature", cv=2
            ),
            proba,
        )

CASES = {**COLUMNS, **TRANSFORMERS, **MODELS, **ENSEMBLES}
