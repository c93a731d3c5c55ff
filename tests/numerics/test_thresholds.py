"""Thresholds: no more genuine rows are flagged than stated, whatever their scores are.

Scores have ties, differ by the last bit, or are as large or as small as floats can be.
"""

import math
import warnings
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from sk_advdef import DetectionCurveDisplay, SimilarQueryDetector
from sk_advdef.detection._threshold import conformal_offset
from sk_advdef.evaluation._detection import tpr_at_fpr

SCORES = st.one_of(
    st.sampled_from([0.0, -0.0, 1.0, np.nextafter(1.0, 2), 5e-324, -5e-324]),
    st.sampled_from([-1e200, 1e200, -1.0, -np.nextafter(1.0, 2)]),
    st.floats(-1e200, 1e200),
    st.integers(-2, 2).map(float),
)
SHARES = st.sampled_from([1e-12, 0.001, 0.01, 0.05, 0.1, 0.2, 0.25, 0.3, 1 / 3, 0.5])
many = settings(max_examples=150, deadline=None)


@many
@given(st.lists(SCORES, min_size=1, max_size=60), SHARES)
def test_held_out_rows(scores, share):
    scores = np.array(scores)
    n = len(scores)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        offset = conformal_offset(scores, share)
    flagged = int((scores < offset).sum())
    assert flagged <= Fraction(share) * n
    # leave one out: of n + 1 rows that may each be the new one, no more than the share
    # lies below the offset of the n others
    allowed = math.floor(share * (n + 1) + 1e-9)
    if allowed == 0:
        assert offset == -math.inf
        return
    below = 0
    for i in range(n):
        rest = np.delete(scores, i)
        if math.floor(share * n + 1e-9) == 0:
            continue
        below += scores[i] < conformal_offset(rest, share)
    assert below <= share * n + 1e-9
    # the verdict by the difference is that by the comparison
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(scores - offset < 0, scores < offset)


@many
@given(
    st.lists(SCORES, min_size=1, max_size=60),
    st.lists(SCORES, min_size=1, max_size=20),
    st.sampled_from([0.01, 0.05, 0.1, 0.5]),
)
def test_true_positives_at_a_rate(genuine, attacked, rate):
    """By brute force: the best threshold of all that flag no more than the rate."""
    genuine, attacked = np.array(genuine), np.array(attacked)
    found = tpr_at_fpr(genuine, attacked, rate)
    tried = [*genuine, *attacked, math.inf]
    allowed = [
        t
        for t in tried
        if Fraction(int((genuine < t).sum()), len(genuine)) <= Fraction(rate)
    ]
    best = max(((attacked < t).mean() for t in allowed), default=0.0)
    # the threshold is a genuine score, so rows between two of them may be missed
    own = [t for t in genuine if t in allowed]
    assert found == max((attacked < t).mean() for t in own)
    assert found <= best


@many
@given(
    st.lists(SCORES, min_size=1, max_size=30),
    st.lists(SCORES, min_size=1, max_size=30),
)
def test_curves_of_tied_scores(genuine, attacked):
    display = DetectionCurveDisplay(genuine=genuine, attacked=attacked)
    genuine, attacked = np.array(genuine), np.array(attacked)
    above = (genuine[:, None] > attacked).mean()
    area = above + (genuine[:, None] == attacked).mean() / 2
    assert display.roc_auc_ == pytest.approx(area, abs=1e-12)
    # each point of the curve is that of some threshold
    rates = zip(display.false_positive_rate_, display.true_positive_rate_, strict=True)
    tried = [-math.inf, *genuine, *attacked]
    points = {
        (round((genuine <= t).mean(), 9), round((attacked <= t).mean(), 9))
        for t in tried
    }
    assert all((round(x, 9), round(y, 9)) in points for x, y in rates)


def test_infinite_scores_of_a_curve():
    display = DetectionCurveDisplay(
        genuine=[math.inf, 0.0, 1.0], attacked=[-math.inf, 0.0, math.inf]
    )
    expected = roc_auc_score([0, 0, 0, 1, 1, 1], [-3, 0, -1, 3, 0, -3])
    assert display.roc_auc_ == pytest.approx(expected)


@pytest.mark.parametrize("method", ["knn", "fingerprint", "provenance"])
@pytest.mark.parametrize("rate", [0.02, 0.1, 0.5])
@pytest.mark.parametrize("rounded", [0, 1, None])
def test_similar_queries_with_ties(method, rate, rounded):
    """Rows that repeat and distances that are equal: what is flagged is the share."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(120, 6))
    X = X if rounded is None else X.round(rounded)
    X[60:70] = X[:10]  # and rows that repeat
    detector = SimilarQueryDetector(
        method=method, false_positive_rate=rate, random_state=0
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        detector.fit(X)
    seen = {}

    def kept(scores, share):
        seen["scores"] = np.asarray(scores)
        return conformal_offset(scores, share)

    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        patch.setattr("sk_advdef.concealment._similar.conformal_offset", kept)
        again = SimilarQueryDetector(
            method=method, false_positive_rate=rate, random_state=0
        ).fit(X)
    assert again.offset_ == detector.offset_
    assert np.isfinite(detector.offset_)
    assert (seen["scores"] < detector.offset_).mean() <= rate
