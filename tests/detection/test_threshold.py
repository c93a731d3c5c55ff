"""Thresholds: the exact rank, the split, and the share that is flagged."""

import math
import warnings

import numpy as np
import pytest
from sklearn.model_selection import GroupKFold, ShuffleSplit

from sk_advdef import DropoutUncertaintyDetector
from sk_advdef.detection._threshold import conformal_offset, one_split


@pytest.mark.parametrize("n, share", [(19, 0.05), (50, 0.1), (99, 0.01), (61, 0.5)])
def test_rank(n, share):
    """A new row falls below with probability rank / (n + 1), and no more."""
    rng = np.random.default_rng(0)
    rank = math.floor(share * (n + 1) + 1e-9)
    scores = rng.normal(size=(4000, n + 1))
    below = 0
    for row in scores:
        offset = conformal_offset(row[:n], share)
        assert (row[:n] < offset).sum() == rank - 1
        below += row[n] < offset
    expected = rank / (n + 1)
    assert expected <= share + 1e-9
    deviation = (expected * (1 - expected) / len(scores)) ** 0.5
    assert below / len(scores) == pytest.approx(expected, abs=4 * deviation)


def test_ties_are_not_flagged():
    for scores in ([0.0] * 40, [-1.0] * 20 + [2.0] * 20, [3.0, *[-1e-12] * 39]):
        scores = np.array(scores)
        offset = conformal_offset(scores, 0.1)
        assert (scores < offset).mean() <= 0.1
    assert (np.repeat([1.0, 2.0], 20) < conformal_offset(np.ones(40), 0.1)).sum() == 0


@pytest.mark.parametrize(
    "share, needed", [(0.05, 19), (0.01, 99), (0.1, 9), (0.5, 1), (0.3, 3)]
)
def test_too_few_rows(share, needed):
    if needed > 1:
        message = rf"{needed - 1} held-out rows .* {share}: .* At least {needed} are"
        with pytest.warns(UserWarning, match=message):
            assert conformal_offset(np.zeros(needed - 1), share) == -math.inf
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isfinite(conformal_offset(np.zeros(needed), share))


X = np.arange(60.0).reshape(-1, 1)
y = np.repeat(["a", "b", "c"], [30, 20, 10])
owner = DropoutUncertaintyDetector()


def split(cv, X=X, y=y, seed=0):
    fitted, held = one_split(owner, cv, X, y, seed)
    assert not set(fitted) & set(held)
    return fitted, held


@pytest.mark.parametrize("cv, held_out", [(0.2, 12), (5, 12), (0.5, 30), (2, 30)])
def test_stratified(cv, held_out):
    fitted, held = split(cv)
    assert len(held) == held_out and len(fitted) == 60 - held_out
    counts = np.unique(y[held], return_counts=True)[1]
    np.testing.assert_array_equal(counts, np.array([30, 20, 10]) * held_out / 60)
    np.testing.assert_array_equal(split(cv)[1], held)
    assert set(split(cv, seed=1)[1]) != set(held)


def test_rare_classes_are_split_all_the_same():
    labels = np.array(["a"] * 20 + ["b"])
    for cv in (0.2, 5):
        fitted, held = split(cv, X[:21], labels)
        assert len(fitted) + len(held) == 21 and len(held) == 5
    fitted, held = split(0.1, X[:10], np.repeat(np.arange(5), 2))
    assert len(held) == 1


@pytest.mark.parametrize("cv", [0.2, 5, 0.6])
@pytest.mark.parametrize("counts", [(20, 1), (30, 20, 1, 1), (3, 1, 1, 1, 1, 1)])
def test_the_only_row_of_a_class_is_for_the_model(cv, counts):
    labels = np.repeat(np.arange(len(counts)), counts)
    for seed in range(20):
        fitted, held = split(cv, X[: len(labels)], labels, seed)
        assert len(held) and len(fitted) + len(held) == len(labels)
        if len(held) <= len(labels) - len(counts):
            assert set(labels[fitted]) == set(labels)
            # the others are held out as evenly as ever
            often = np.bincount(labels[held], minlength=2)[:2]
            share = len(held) / sum(c for c in counts if c > 1)
            if min(counts[:2]) >= 20:
                np.testing.assert_allclose(often, share * np.array(counts[:2]), atol=1)


def test_splitters():
    splitter = ShuffleSplit(3, test_size=7, random_state=0)
    held = split(splitter)[1]
    np.testing.assert_array_equal(held, next(iter(splitter.split(X)))[1])
    with pytest.raises(ValueError, match="'groups' parameter"):
        split(GroupKFold(3))


def test_splitters_that_hold_out_what_they_fit_on():
    class Same:
        def split(self, X, y):
            yield np.arange(len(X)), np.arange(5)

    with pytest.raises(ValueError, match="holds out rows that it also fits on"):
        split(Same())


@pytest.mark.parametrize("cv", [0, 1, 1.0, -0.2, "auto", None, True])
def test_bad_splits(cv):
    allowed = r"an int in \[2, inf\)"
    with pytest.raises(ValueError, match=f"'cv' parameter of Dropout.*{allowed}"):
        split(cv)
