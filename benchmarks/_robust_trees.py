"""Forests that others make robust, as forests of scikit-learn; two classes, Linf.

- *GROOT* (Vos and Verwer, ICML 2021) grows trees whose splits allow for an attacker.
- *Relabelling* (Vos and Verwer, AAAI 2022, arXiv:2106.15227) leaves the splits of a
  forest as they are. Two training rows of different classes that can be moved into one
  leaf are in conflict; the largest set of rows without a conflict, which matching finds
  in a bipartite graph, decides the labels of the leaves.
"""

import copy
import sys
import types
from typing import Any

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching
from sklearn.ensemble import RandomForestClassifier
from sklearn.tree import DecisionTreeClassifier
from sklearn.tree._tree import Tree


def groot_forest(X: np.ndarray, y: np.ndarray, eps: float, n_trees: int) -> Any:
    """Fit a forest of GROOT."""
    # its only name from there, which NumPy 2 has taken away
    shim = types.ModuleType("numpy.lib.function_base")
    shim.iterable = np.iterable  # type: ignore[attr-defined]
    sys.modules.setdefault(shim.__name__, shim)
    from groot.model import GrootRandomForestClassifier

    grown = GrootRandomForestClassifier(
        n_trees, attack_model=[eps] * X.shape[1], random_state=0
    ).fit(X, y)
    forest = RandomForestClassifier(n_trees, max_depth=1, random_state=0).fit(X, y)
    shapes = [_nodes(tree.root_) for tree in grown.estimators_]
    forest.estimators_ = [
        _tree(like, *shape)
        for like, shape in zip(forest.estimators_, shapes, strict=True)
    ]
    apart = np.abs(forest.predict_proba(X) - grown.predict_proba(X)).max(axis=1)
    # scikit-learn compares float32 with a threshold, GROOT float64
    assert (apart > 1e-6).mean() <= 0.01
    return forest


def _nodes(root: Any) -> tuple[list[tuple[int, int, int, float]], list[np.ndarray]]:
    """Return (left, right, feature, threshold) and value of each node, root first."""
    nodes: list[Any] = []
    values: list[np.ndarray] = []

    def add(node: Any) -> int:
        number = len(nodes)
        nodes.append((-1, -1, -2, -2.0))
        values.append(np.full(2, 0.5))
        if getattr(node, "left_child", None) is None or isinstance(
            node.left_child, (int, np.integer)
        ):
            values[number] = np.asarray(node.value, dtype=np.float64)
        else:
            left, right = add(node.left_child), add(node.right_child)
            nodes[number] = (left, right, int(node.feature), float(node.threshold))
        return number

    add(root)
    return nodes, values


def _tree(
    like: DecisionTreeClassifier,
    nodes: list[tuple[int, int, int, float]],
    values: list[np.ndarray],
) -> DecisionTreeClassifier:
    """Return a tree of scikit-learn with these nodes."""
    state = like.tree_.__getstate__()
    table = np.zeros(len(nodes), dtype=state["nodes"].dtype)
    for name, column in zip(
        ("left_child", "right_child", "feature", "threshold"),
        zip(*nodes, strict=True),
        strict=True,
    ):
        table[name] = column
    table["n_node_samples"] = table["weighted_n_node_samples"] = 1
    inner = Tree(like.n_features_in_, np.array([2]), 1)
    state |= {"nodes": table, "node_count": len(nodes)}
    state |= {"max_depth": len(nodes), "values": np.array(values)[:, None, :]}
    inner.__setstate__(state)
    made = copy.copy(like)
    made.tree_ = inner
    return made


def relabelled(forest: Any, X: np.ndarray, y: np.ndarray, eps: float) -> Any:
    """Return a copy of a forest whose leaves have the labels that hold most rows."""
    forest = copy.deepcopy(forest)
    codes = np.searchsorted(forest.classes_, y)
    for tree in forest.estimators_:
        reached = reachable(tree.tree_, X, eps)
        kept = consistent(reached, codes)
        for code in (0, 1):
            leaves = reached[kept & (codes == code)].any(axis=0)
            tree.tree_.value[leaves] = np.eye(2)[code]
    return forest


def reachable(tree: Any, X: np.ndarray, eps: float) -> np.ndarray:
    """Return which leaf each row can be moved into, (n_samples, n_nodes)."""
    low = np.clip(X - eps, 0, 1).astype(np.float32)
    high = np.clip(X + eps, 0, 1).astype(np.float32)
    found = np.zeros((len(X), tree.node_count), dtype=bool)
    found[:, 0] = True
    for node in range(tree.node_count):  # parents come before their children
        left, right = tree.children_left[node], tree.children_right[node]
        if left < 0:
            continue
        feature, threshold = tree.feature[node], tree.threshold[node]
        found[:, left] = found[:, node] & (low[:, feature] <= threshold)
        found[:, right] = found[:, node] & (high[:, feature] > threshold)
        found[:, node] = False
    return found


def consistent(reached: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Return a largest set of rows without a conflict, as a mask.

    By König's theorem: what is neither in a smallest cover of the conflicts.
    """
    sides = [np.flatnonzero(codes == code) for code in (0, 1)]
    meets = [reached[side].astype(np.int32) for side in sides]
    conflicts = (meets[0] @ meets[1].T) > 0
    partner = maximum_bipartite_matching(csr_array(conflicts), perm_type="column")
    seen = [partner < 0, np.zeros(len(sides[1]), dtype=bool)]
    todo = list(np.flatnonzero(seen[0]))
    of_right = np.full(len(sides[1]), -1)
    of_right[partner[partner >= 0]] = np.flatnonzero(partner >= 0)
    while todo:
        for right in np.flatnonzero(conflicts[todo.pop()] & ~seen[1]):
            seen[1][right] = True
            left = of_right[right]
            if left >= 0 and not seen[0][left]:
                seen[0][left] = True
                todo.append(left)
    kept = np.zeros(len(codes), dtype=bool)
    kept[sides[0][seen[0]]] = True
    kept[sides[1][~seen[1]]] = True
    return kept
