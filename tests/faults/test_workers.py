"""Worker processes that are killed, and Ctrl-C while they work: errors, no hang."""

import numpy as np
import pytest
from joblib.externals.loky import get_reusable_executor
from joblib.externals.loky.process_executor import TerminatedWorkerError
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV

from sk_advdef import (
    ConcealedClassifier,
    RandomSearch,
    TreeExact,
    evaluate_robustness,
)
from tests._instances import make_rows
from tests.faults._workers import Fault, KilledInFit

X, y = make_rows(n_samples=120)
KILLED = pytest.raises(TerminatedWorkerError, match=r"terminated.*(?s:.*)SIGKILL\(-9\)")
exact = TreeExact(0.3, bounds=None, n_jobs=2)


@pytest.fixture(autouse=True)
def executor_of_its_own():
    yield
    get_reusable_executor().shutdown(wait=True, kill_workers=True)


@pytest.fixture
def forest():
    return RandomForestClassifier(5, max_depth=3, random_state=0).fit(X, y)


def test_tree_exact_with_a_killed_worker(forest):
    forest.fault = Fault("killed")
    with KILLED:
        exact.run(forest, X, y)
    # and the next run has workers again
    del forest.fault
    found = exact.run(forest, X[:8], y[:8])
    alone = TreeExact(0.3, bounds=None).run(forest, X[:8], y[:8])
    np.testing.assert_array_equal(found.fooled, alone.fooled)


@pytest.mark.usefixtures("ctrl_c")
def test_tree_exact_under_ctrl_c(forest):
    forest.fault = Fault("interrupted")
    with pytest.raises(KeyboardInterrupt):
        exact.run(forest, X, y)
    assert forest.predict(X).shape == y.shape


def test_evaluation_with_a_killed_worker():
    model = LogisticRegression().fit(X, y)
    model.fault = Fault("killed")
    attack = RandomSearch(0.3, bounds=None, max_queries=10)
    with KILLED:
        evaluate_robustness(
            model, np.tile(X, (4, 1)), np.tile(y, 4), attacks=[attack], n_jobs=2
        )


def test_a_search_with_a_killed_worker():
    search = GridSearchCV(
        ConcealedClassifier(KilledInFit()), {"reveal": ["label"]}, cv=2, n_jobs=2
    )
    with KILLED:
        search.fit(X, y)
    assert not hasattr(search, "best_estimator_")
