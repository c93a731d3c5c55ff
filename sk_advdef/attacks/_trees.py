"""Fitted trees of scikit-learn as arrays, with thresholds in units of the raw input."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from sklearn.ensemble import (
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
)
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    MaxAbsScaler,
    MinMaxScaler,
    RobustScaler,
    StandardScaler,
)
from sklearn.tree import DecisionTreeClassifier

from sk_advdef._torch._known import same_answers
from sk_advdef._torch._models import unfrozen
from sk_advdef.squeezers._bit_depth import BitDepthSqueezer

FORESTS = (RandomForestClassifier, ExtraTreesClassifier)
BOOSTED = (GradientBoostingClassifier, HistGradientBoostingClassifier)
TREES = (DecisionTreeClassifier, *FORESTS, *BOOSTED)
#: Steps that act on each feature alone and never turn the order around.
MONOTONE = (
    StandardScaler,
    MinMaxScaler,
    MaxAbsScaler,
    RobustScaler,
    BitDepthSqueezer,
)


class Tree(NamedTuple):
    """One tree: a leaf where ``left`` is negative; ``x <= threshold`` goes left."""

    left: np.ndarray
    right: np.ndarray
    feature: np.ndarray
    threshold: np.ndarray
    values: np.ndarray


class Ensemble(NamedTuple):
    """Trees whose leaves are summed; the largest score is the answer.

    ``paths`` has a row a leaf: for each node above it ``2 * test + went_right``, filled
    up with ``2 * n_tests``; ``nodes`` names these nodes. With ``votes`` all scores are
    whole numbers and the first of equal scores is the answer.
    """

    test_feature: np.ndarray
    test_threshold: np.ndarray
    paths: np.ndarray
    nodes: np.ndarray
    tree_of: np.ndarray
    values: np.ndarray
    base: np.ndarray
    votes: bool


def parts_of(estimator: Any) -> tuple[list[Any], Any]:
    """Split a model into the steps before the trees, and the trees."""
    steps: list[Any] = []
    model = _looked_through(estimator)
    while isinstance(model, Pipeline):
        steps += [unfrozen(step) for _, step in model.steps[:-1]]
        model = _looked_through(model.steps[-1][1])
    steps = [s for s in steps if s not in (None, "passthrough")]
    if not isinstance(model, TREES) or not _is_own(model):
        raise TypeError(
            "TreeExact is for DecisionTreeClassifier, ExtraTreeClassifier, "
            "RandomForestClassifier, ExtraTreesClassifier, GradientBoostingClassifier "
            "and HistGradientBoostingClassifier of scikit-learn, alone, frozen or last "
            f"in a Pipeline. Got {model!r}; use RandomSearch."
        )
    for step in steps:
        identity = _transforms_as(step, FunctionTransformer) and step.func is None
        if not (identity or any(_transforms_as(step, cls) for cls in MONOTONE)):
            raise TypeError(
                "TreeExact sees through steps that change each feature alone: "
                f"{', '.join(c.__name__ for c in MONOTONE)}. Got {step!r}; attack the "
                "trees behind it, or use RandomSearch."
            )
    return steps, model


def _looked_through(estimator: Any) -> Any:
    """Return what answers inside a search, or one of ours that adds nothing to it."""
    model = unfrozen(estimator)
    for name in ("_answers_of", "best_estimator_"):
        within = getattr(model, name, None)
        if within is not None:
            return _looked_through(within)
    return model


def ends_in_trees(estimator: Any) -> bool:
    """Whether trees answer, whatever is before them and whether or not it is known."""
    model = _looked_through(estimator)
    while isinstance(model, Pipeline):
        model = _looked_through(model.steps[-1][1])
    return isinstance(model, TREES) and _is_own(model)


def is_trees(estimator: Any) -> bool:
    """Whether TreeExact can answer for a fitted estimator."""
    try:
        read(parts_of(estimator)[1])
    except TypeError:
        return False
    return True


def _transforms_as(step: Any, cls: type) -> bool:
    """Whether a step is of a class, or of a subclass that transforms as it does."""
    return isinstance(step, cls) and same_answers(type(step), cls, ("transform",))


def _is_own(model: Any) -> bool:
    # a subclass may answer in a way that its trees do not tell
    return type(model).__module__.startswith("sklearn.")


def transformed(steps: list[Any], model: Any, X: Any) -> np.ndarray:
    """Return what the tests of the trees compare with their thresholds, float64."""
    for step in steps:
        X = step.transform(X)
    values = np.asarray(X)
    if not isinstance(model, HistGradientBoostingClassifier):
        values = values.astype(np.float32)
    return values.astype(np.float64)


def read(model: Any) -> Ensemble:
    """Read the trees of a fitted model."""
    if isinstance(model, HistGradientBoostingClassifier):
        trees, base, votes = *_of_histograms(model), False
    elif isinstance(model, GradientBoostingClassifier):
        trees, base, votes = *_of_boosting(model), False
    else:
        if getattr(model, "n_outputs_", 1) > 1:
            raise TypeError("TreeExact is for classifiers of a single output.")
        members = getattr(model, "estimators_", [model])
        trees = [_of_tree(m.tree_, m.tree_.value[:, 0, :]) for m in members]
        base = np.zeros(len(model.classes_))
        if len(trees) == 1:
            first = trees[0].values.argmax(axis=1)
            trees = [trees[0]._replace(values=np.eye(len(base))[first])]
        leaves = [t.values[t.left < 0] for t in trees]
        votes = all(((v == 0) | (v == 1)).all() for v in leaves)
    return _joined(trees, base, votes)


def _of_tree(tree: Any, values: np.ndarray) -> Tree:
    return Tree(
        tree.children_left, tree.children_right, tree.feature, tree.threshold, values
    )


def _spread(values: np.ndarray, k: int, n_classes: int) -> np.ndarray:
    """Put the values of a tree that speaks for one class into a column a class."""
    spread = np.zeros((len(values), n_classes))
    spread[:, 1 if n_classes == 2 else k] = values
    return spread


def _base(raw: np.ndarray, n_classes: int) -> np.ndarray:
    raw = np.ravel(raw).astype(np.float64)
    return np.array([0.0, raw[0]]) if n_classes == 2 else raw


def _of_boosting(model: Any) -> tuple[list[Tree], np.ndarray]:
    n_classes = len(model.classes_)
    if not (isinstance(model.init_, str) or _is_constant(model.init_)):
        raise TypeError(
            "TreeExact is for gradient boosting that starts from a constant. Got "
            f"init={model.init!r}; use RandomSearch."
        )
    start = np.zeros((1, model.n_features_in_), dtype=np.float32)
    base = _base(model._raw_predict_init(start)[0], n_classes)
    trees = [
        _of_tree(
            member.tree_,
            _spread(model.learning_rate * member.tree_.value[:, 0, 0], k, n_classes),
        )
        for stage in model.estimators_
        for k, member in enumerate(stage)
    ]
    return trees, base


def _is_constant(init: Any) -> bool:
    strategy = getattr(init, "strategy", None)
    return type(init).__name__ == "DummyClassifier" and strategy == "prior"


def _of_histograms(model: Any) -> tuple[list[Tree], np.ndarray]:
    n_classes = len(model.classes_)
    trees = []
    for stage in model._predictors:
        for k, predictor in enumerate(stage):
            nodes = predictor.nodes
            leaf = nodes["is_leaf"].astype(bool)
            if model.is_categorical_ is not None:
                raise TypeError(
                    "TreeExact cannot read splits on categories of "
                    "HistGradientBoostingClassifier; use RandomSearch."
                )
            left, right = (
                np.where(leaf, -1, nodes[side].astype(np.int64))
                for side in ("left", "right")
            )
            values = _spread(nodes["value"], k, n_classes)
            trees.append(
                Tree(left, right, nodes["feature_idx"], nodes["num_threshold"], values)
            )
    return trees, _base(model._baseline_prediction, n_classes)


def _leaves(tree: Tree) -> Iterator[tuple[int, list[int], list[bool]]]:
    """Yield each leaf with the nodes above it and where they were left."""
    stack: list[tuple[int, list[int], list[bool]]] = [(0, [], [])]
    while stack:
        node, above, turns = stack.pop()
        if tree.left[node] < 0:
            yield node, above, turns
            continue
        for child, turn in ((tree.left[node], False), (tree.right[node], True)):
            stack.append((int(child), [*above, node], [*turns, turn]))


def _joined(trees: list[Tree], base: np.ndarray, votes: bool) -> Ensemble:
    inner = [np.flatnonzero(t.left >= 0) for t in trees]
    tests = np.array(
        [
            (t.feature[n], t.threshold[n])
            for t, nodes in zip(trees, inner, strict=True)
            for n in nodes
        ]
    ).reshape(-1, 2)
    tests, which = np.unique(tests, axis=0, return_inverse=True)
    which = which.ravel()
    codes, nodes, tree_of, values = [], [], [], []
    start = 0
    for k, (tree, own) in enumerate(zip(trees, inner, strict=True)):
        number = dict(zip(own.tolist(), range(start, start + len(own)), strict=True))
        start += len(own)
        for leaf, above, turns in _leaves(tree):
            at = [number[n] for n in above]
            codes.append(
                [2 * int(which[a]) + t for a, t in zip(at, turns, strict=True)]
            )
            nodes.append(at)
            tree_of.append(k)
            values.append(tree.values[leaf])
    depth = max(map(len, codes), default=0)
    none = 2 * len(tests)
    return Ensemble(
        test_feature=tests[:, 0].astype(np.intp),
        test_threshold=tests[:, 1],
        paths=np.array([c + [none] * (depth - len(c)) for c in codes], dtype=np.intp),
        nodes=np.array([n + [-1] * (depth - len(n)) for n in nodes], dtype=np.intp),
        tree_of=np.array(tree_of),
        values=np.array(values),
        base=base,
        votes=votes,
    )


# --- thresholds in units of the raw input


def _keys(values: np.ndarray) -> np.ndarray:
    """Return numbers for floats, such that neighbors differ by one."""
    bits = np.int32 if values.dtype == np.float32 else np.int64
    keys = values.view(bits).astype(np.int64)
    least = np.int64(np.iinfo(bits).min)
    return np.where(keys < 0, least - keys, keys)


def _floats(keys: np.ndarray, dtype: np.dtype) -> np.ndarray:
    bits = np.int32 if dtype == np.float32 else np.int64
    least = np.int64(np.iinfo(bits).min)
    return np.where(keys < 0, least - keys, keys).astype(bits).view(dtype)


def raw_thresholds(
    ensemble: Ensemble,
    steps: list[Any],
    model: Any,
    table: Any,
    low: np.ndarray,
    high: np.ndarray,
) -> np.ndarray:
    """Return for each test the largest raw value between low and high that passes it.

    ``-inf`` where none passes, ``inf`` where all do. Found by halving on the model's
    own steps, so that every rounding in them is in the result.
    """
    feature, threshold = ensemble.test_feature, ensemble.test_threshold
    # tests are sorted by feature: their number within it
    first = np.searchsorted(feature, feature)
    line = np.arange(len(feature)) - first
    height = int(line.max(initial=-1)) + 1
    dtype = table.values.dtype

    def passes(keys: np.ndarray) -> np.ndarray:
        grid = np.tile(low.astype(dtype), (height, 1))
        grid[line, feature] = _floats(keys, dtype)
        given = table.restore(grid, np.zeros(height, dtype=np.intp))
        return transformed(steps, model, given)[line, feature] <= threshold

    if not height:
        return np.zeros(0)
    least, most = _keys(low.astype(dtype))[feature], _keys(high.astype(dtype))[feature]
    none, every = ~passes(least), passes(most)
    while (least + 1 < most).any():
        # the sum of both may not fit
        middle = (least >> 1) + (most >> 1) + (least & most & 1)
        below = passes(middle)
        least, most = np.where(below, middle, least), np.where(below, most, middle)
    found = _floats(least, dtype).astype(np.float64)
    return np.where(none, -np.inf, np.where(every, np.inf, found))
