"""A detector of queries that are nearly the same as earlier ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from sk_advdef._base import all_or_nothing
from sk_advdef._validation import (
    check_number,
    check_option,
    check_range,
    invalid,
    seed_from,
)
from sk_advdef.concealment._accounts import per_row
from sk_advdef.concealment._comparing import digest_of
from sk_advdef.concealment._matching import SCOPES
from sk_advdef.concealment._remembering import Remembering
from sk_advdef.concealment._secrets import VARIABLE, check_variable
from sk_advdef.concealment._watch import drop_state
from sk_advdef.detection._threshold import conformal_offset

METHODS = ("auto", "knn", "fingerprint", "provenance")
#: Fewer tokens in common than this are never evidence, however few genuine rows have.
LEAST_IN_COMMON = 0.2


class SimilarQueryDetector(Remembering):
    """Notice rows that are similar, but not identical, to rows asked before.

    Who attacks a model by asking has to ask about many variants of one input. ``fit``
    learns from genuine rows how similar those are to one another. ``observe`` scores
    rows as they come in and remembers them; everything else only reads. Higher scores
    are less similar to what came before. An exact repeat, such as a retry, is no
    evidence: it is scored as it was the first time and not remembered again.

    Parameters
    ----------
    method : {"auto", "knn", "fingerprint", "provenance"}, default="auto"
        How rows are compared. "knn": mean distance to the nearest earlier rows, in
        scaled features, or in those of ``encoder`` [1]_.
        "fingerprint": one minus the share of tokens in common with the likest earlier
        row, a token being a hash of a window of coarse, salted values [2]_.
        "provenance": mean step from a row and its closest relatives to the nearest
        predecessor of each (after [3]_). "auto" is "fingerprint" for stacked images and
        "knn" for rows.
    false_positive_rate : float, default=0.001
        Share of genuine rows that are flagged, in (0, 0.5], with ``history_size`` rows
        remembered. As many as one over this are needed in ``fit``, else nothing is
        flagged, with a warning.
    history_size : int or None, default=None
        Number of earlier rows that the threshold is made for, at least 1. A history
        that is longer raises more false alarms. None: as many as ``fit`` has rows, less
        one; for "provenance" half of them, since the others come in after it.
    scope : {"corroborated", "account", "shared"}, default="corroborated"
        Whose earlier rows are evidence. "account": those of the account that asks.
        "shared": those of all accounts, so that an attack spread over many accounts is
        noticed, and others can get an account flagged by asking about near copies of
        its rows first. "corroborated": those of all, but only for an account that has
        itself asked about a similar row; nobody is flagged for what others asked. For
        "fingerprint", whose score is that of one row, this is the same as "account".
    n_neighbors : int, default=5
        Neighbors of "knn", and steps of "provenance", at least 1. An attack is noticed
        after about as many queries.
    encoder : transformer or None, default=None
        Makes features for "knn" and "provenance"; a clone is fitted, or
        ``FrozenEstimator(encoder)`` is taken as it is.
    window : int or None, default=None
        Values in a window of "fingerprint", at least 1. None: the shortest of 8, 20 and
        50 with which genuine rows have little in common.
    sketch_size : int, default=50
        Tokens of a row, in [8, 255].
    quantization : int, default=50
        Width of a cell of values that are scaled to [0, 255], in [1, 128].
    value_range : (low, high) or None, default=None
        Range of values for "fingerprint". None: the smallest and largest in ``fit``,
        one pair for images, one a feature for rows.
    max_rows : int, default=100000
        Rows that are remembered, in [1, 2**31). Where these are taken, the account that
        has the most gives up its oldest.
    account_quota : int, default=10000
        Rows of one account that are remembered, at least 1; beyond, its oldest go.
    max_age : float, default=86400.0
        Seconds after which rows are forgotten, in (0, inf).
    max_bytes : int or None, default=None
        Lowers ``max_rows`` to what fits into so many bytes, at least 1, about.
    secret : str, default="SK_ADVDEF_SECRET"
        Name of the environment variable with the secret, of at least 16 characters,
        that fingerprints are salted with, and that digests of rows are made with.
        Unset, a key of this process is taken, with a warning for fingerprints. Only in
        a store that is shared digests then have no key: who can make two rows of one
        digest has the second taken for a repeat of the first.
    clock : callable or None, default=None
        Returns the time in seconds. None: ``time.time``.
    random_state : int, RandomState instance or None, default=None
        Draws the order of rows and the history in ``fit``.

    Attributes
    ----------
    method_ : str
        The method in use.
    offset_ : float
        Score below which a row is flagged.
    window_ : int
        Values in a window. Only with "fingerprint".
    encoder_ : transformer or None
        The fitted encoder. Only with "knn" and "provenance".
    n_features_in_ : int
        Number of features seen in ``fit`` (for stacked images, their first axis).
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of features seen in ``fit``, where ``X`` has names that are all strings.

    Raises
    ------
    ValueError
        If a parameter is not of the kind described.

    Warns
    -----
    UserWarning
        If ``fit`` has too few rows for ``false_positive_rate``, or fingerprints have
        no secret.

    See Also
    --------
    GuardedClassifier : Acts on what this detector notices.

    Notes
    -----
    What is remembered is not part of the detector: it is neither cloned nor pickled,
    and ``fit`` begins anew. An alarm forgets nothing. A flag says "many variants of one
    input", and not "attack": explanation tools such as LIME and KernelSHAP ask in the
    same way, and are flagged.

    With two rows remembered at least, and none of them like it, a row is scored about
    as a genuine one; on an empty history all rows are.

    *Deviations.* [1]_ counts the distance of a row to itself in its threshold and wipes
    the memory at an alarm; here neither is so. [2]_ hashes windows with SHA-256 and
    flags more than half of the tokens in common; here hashes are keyed 64-bit rolling
    ones, windows of mere background are left out, and the threshold comes from
    ``false_positive_rate``, with a fifth of the tokens at least. Of [3]_ only the idea
    of a graph of predecessors is taken.

    **What an adaptive attacker does to it**: he asks questions that are far apart. He
    copies the model from answers to unrelated inputs and attacks the copy, which is not
    noticed. He adds large changes that the model ignores ("query blinding"), spreads
    his queries over accounts or over days, or uses visible rejections as a guide to how
    far apart his queries must be, as OARS does [4]_.

    References
    ----------
    .. [1] S. Chen, N. Carlini, D. Wagner, "Stateful Detection of Black-Box Adversarial
       Attacks", 2019, arXiv:1907.05587.
    .. [2] H. Li, S. Shan, E. Wenger, J. Zhang, H. Zheng, B. Y. Zhao, "Blacklight:
       Scalable Defense for Neural Networks against Query-Based Black-Box Attacks",
       USENIX Security 2022, arXiv:2006.14042.
    .. [3] S. Li et al., "Query Provenance Analysis: Efficient and Robust Defense
       against Query-based Black-box Attacks", 2024, arXiv:2405.20641.
    .. [4] R. Feng, A. Hooda, N. Mangaokar, K. Fawaz, S. Jha, A. Prakash, "Stateful
       Defenses for Machine Learning Models Are Not Yet Secure Against Black-box
       Attacks", CCS 2023, arXiv:2303.06280.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.datasets import load_digits
    >>> from sk_advdef import SimilarQueryDetector
    >>> X = load_digits().data / 16
    >>> detector = SimilarQueryDetector(random_state=0).fit(X[:1200])
    >>> (detector.observe(X[1200:1300], account="alice") < detector.offset_).sum()
    np.int64(0)
    >>> rng = np.random.default_rng(0)
    >>> variants = X[1300] + 0.005 * rng.normal(size=(8, 64))
    >>> scores = detector.observe(variants, account="mallory")
    >>> (scores < detector.offset_).tolist()
    [False, False, False, False, True, True, True, True]
    """

    def __init__(
        self,
        *,
        method: str = "auto",
        false_positive_rate: float = 0.001,
        history_size: int | None = None,
        scope: str = "corroborated",
        n_neighbors: int = 5,
        encoder: Any = None,
        window: int | None = None,
        sketch_size: int = 50,
        quantization: int = 50,
        value_range: tuple[float, float] | None = None,
        max_rows: int = 100_000,
        account_quota: int = 10_000,
        max_age: float = 86400.0,
        max_bytes: int | None = None,
        secret: str = VARIABLE,
        clock: Callable[[], float] | None = None,
        random_state: Any = None,
    ) -> None:
        self.method = method
        self.false_positive_rate = false_positive_rate
        self.history_size = history_size
        self.scope = scope
        self.n_neighbors = n_neighbors
        self.encoder = encoder
        self.window = window
        self.sketch_size = sketch_size
        self.quantization = quantization
        self.value_range = value_range
        self.max_rows = max_rows
        self.account_quota = account_quota
        self.max_age = max_age
        self.max_bytes = max_bytes
        self.secret = secret
        self.clock = clock
        self.random_state = random_state

    def __sklearn_tags__(self) -> Any:
        """Return scikit-learn's tags of this estimator."""
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags

    def _check_parameters(self) -> None:
        check_option(self, "method", self.method, METHODS)
        check_option(self, "scope", self.scope, SCOPES)
        rate = self.false_positive_rate
        check_number(self, "false_positive_rate", rate, low=0, high=0.5, closed="right")
        whole = {
            "history_size": (1, np.inf, " or None"),
            "n_neighbors": (1, np.inf, ""),
            "window": (1, np.inf, " or None"),
            "sketch_size": (8, 255, ""),
            "quantization": (1, 128, ""),
            "max_rows": (1, 2**31 - 1, ""),
            "account_quota": (1, np.inf, ""),
            "max_bytes": (1, np.inf, " or None"),
        }
        for name, (low, high, otherwise) in whole.items():
            value = getattr(self, name)
            if value is not None or not otherwise:
                check_number(
                    self,
                    name,
                    value,
                    integer=True,
                    low=low,
                    high=high,
                    otherwise=otherwise,
                )
        check_number(self, "max_age", self.max_age, low=0, closed="neither")
        check_variable(self, self.secret)
        if self.value_range is not None:
            check_range(self, "value_range", self.value_range)
        if self.clock is not None and not callable(self.clock):
            raise invalid(self, "clock", "a callable or None", self.clock)

    # what is learned

    @all_or_nothing
    def fit(self, X: Any, y: Any = None) -> SimilarQueryDetector:
        """Learn how similar genuine rows are to one another, and forget all queries.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, n_features), or stacked images
            Genuine rows such as users ask about, each a query of its own.
        y : None
            Not used.

        Returns
        -------
        self : SimilarQueryDetector
            The fitted detector.
        """
        self._check_parameters()
        is_image = np.ndim(X) > 2
        rows = self._checked(X, reset=True)
        n = len(rows)
        if self.history_size is not None and self.history_size >= n:
            raise ValueError(
                f"history_size={self.history_size} of {type(self).__name__} needs "
                f"{self.history_size + 1} rows in fit. Got {n}: pass more rows, or "
                "None."
            )
        rng = np.random.default_rng(seed_from(self.random_state))
        order = rng.permutation(n)
        auto = "fingerprint" if is_image else "knn"
        self.method_ = auto if self.method == "auto" else self.method
        digests = np.array([digest_of(row, b"") for row in rows], dtype=np.uint64)
        if self.method_ == "fingerprint":
            scores = self._fit_sketches(rows, digests, order, is_image)
        else:
            scores = self._fit_vectors(rows, digests, order)
        offset = conformal_offset(scores, self.false_positive_rate)
        if self.method_ == "fingerprint":
            offset = min(offset, 1 - LEAST_IN_COMMON)
        # below all scores where no row is to be flagged, and finite
        self.offset_ = max(offset, -1.0)
        drop_state(self)
        return self

    # what is remembered

    def observe(self, X: Any, *, account: Any = None) -> np.ndarray:
        """Score rows by what came before each, and remember them.

        Rows are taken one after the other, and those of one call follow each other
        immediately, however many threads call.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, n_features), or stacked images
            Rows that are asked about.
        account : str, bytes, int or None, or one a row, default=None
            Who asks.

        Returns
        -------
        scores : ndarray of shape (n_samples,)
            Scores, lower for rows that are more similar to earlier ones; those below
            ``offset_`` are to be flagged.
        """
        check_is_fitted(self)
        rows = self._checked(X)
        accounts = per_row(self, account, len(rows))
        seen = self._observe(rows, accounts, self._watch())
        return np.array([one.score for one in seen])

    def score_samples(self, X: Any) -> np.ndarray:
        """Score rows by all that is remembered, and remember nothing.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, n_features), or stacked images
            Rows. The queries of all accounts count, as if whoever asks had asked them.

        Returns
        -------
        scores : ndarray of shape (n_samples,)
            Scores, lower for rows that are more similar to earlier ones.
        """
        check_is_fitted(self)
        rows, watch = self._checked(X), self._watch()
        codes = self._codes(rows, watch)
        return np.array(
            [
                watch.history.score(digest_of(row, watch.key), code)
                for row, code in zip(rows, codes, strict=True)
            ],
            dtype=np.float64,
        )

    def decision_function(self, X: Any) -> np.ndarray:
        """Return ``score_samples`` less ``offset_``: negative where a row is flagged.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, n_features), or stacked images
            Rows.

        Returns
        -------
        decision : ndarray of shape (n_samples,)
            At least 0 for rows that are not flagged.
        """
        scores = self.score_samples(X)
        return scores - self.offset_

    def predict(self, X: Any) -> np.ndarray:
        """Return -1 for rows that are like earlier ones, +1 for others.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, n_features), or stacked images
            Rows.

        Returns
        -------
        y : ndarray of shape (n_samples,)
            Labels -1 and +1.
        """
        return np.where(self.decision_function(X) < 0, -1, 1)

    def history_stats(self) -> dict[str, int]:
        """Return how much is remembered.

        Returns
        -------
        stats : dict
            ``rows``, ``accounts``, and ``bytes``, which is an estimate.
        """
        check_is_fitted(self)
        return self._watch().history.stats()
