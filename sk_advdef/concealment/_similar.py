"""A detector of queries that are nearly the same as earlier ones."""

from __future__ import annotations

import time
from collections.abc import Callable
from hashlib import blake2b
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.utils.validation import check_is_fitted, validate_data

from sk_advdef._base import Stamped
from sk_advdef._torch._models import is_frozen
from sk_advdef._validation import (
    check_number,
    check_option,
    check_range,
    invalid,
    seed_from,
)
from sk_advdef.concealment._accounts import account_id, per_row
from sk_advdef.concealment._calibration import (
    FOR_WINDOW,
    chosen_window,
    family_scores,
    neighbor_scores,
    sketch_scores,
)
from sk_advdef.concealment._columns import Bounds
from sk_advdef.concealment._history import NO_NOTE, History, Query, Seen
from sk_advdef.concealment._matching import SCOPES, Families, Neighbors, Sketches
from sk_advdef.concealment._secrets import VARIABLE, is_set, key_from
from sk_advdef.concealment._sketch import Sketcher, background_of
from sk_advdef.concealment._store import Store
from sk_advdef.concealment._watch import Watch, drop_state, state_of
from sk_advdef.detection._threshold import conformal_offset

METHODS = ("auto", "knn", "fingerprint", "provenance")
#: A feature of which more rows than this have the same value has a background.
BACKGROUND_SHARE = 0.2
#: Fewer tokens in common than this are never evidence, however few genuine rows have.
LEAST_IN_COMMON = 0.2
#: The range of a feature is taken for at most so many standard deviations.
MAX_STDS = 4


class SimilarQueryDetector(Stamped):
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
        Number of earlier rows that the threshold is made for. A history that is longer
        raises more false alarms. None: as many as ``fit`` has rows, less one; for
        "provenance" half of them, since the others come in after it.
    scope : {"corroborated", "account", "shared"}, default="corroborated"
        Whose earlier rows are evidence. "account": those of the account that asks.
        "shared": those of all accounts, so that an attack spread over many accounts is
        noticed, and others can get an account flagged by asking about near copies of
        its rows first. "corroborated": those of all, but only for an account that has
        itself asked about a similar row; nobody is flagged for what others asked. For
        "fingerprint", whose score is that of one row, this is the same as "account".
    n_neighbors : int, default=5
        Neighbors of "knn", and steps of "provenance". An attack is noticed after about
        as many queries.
    encoder : transformer or None, default=None
        Makes features for "knn" and "provenance"; a clone is fitted, or
        ``FrozenEstimator(encoder)`` is taken as it is.
    window : int or None, default=None
        Values in a window of "fingerprint". None: the shortest of 8, 20 and 50 with
        which genuine rows have little in common.
    sketch_size : int, default=50
        Tokens of a row, in [8, 255].
    quantization : int, default=50
        Width of a cell of values that are scaled to [0, 255], in [1, 128].
    value_range : (low, high) or None, default=None
        Range of values for "fingerprint". None: the smallest and largest in ``fit``,
        one pair for images, one a feature for rows.
    max_rows : int, default=100000
        Rows that are remembered. Where these are taken, the account that has the most
        gives up its oldest.
    account_quota : int, default=10000
        Rows of one account that are remembered; beyond, its oldest go.
    max_age : float, default=86400.0
        Seconds after which rows are forgotten.
    max_bytes : int or None, default=None
        Lowers ``max_rows`` to what fits into so many bytes, about.
    secret : str, default="SK_ADVDEF_SECRET"
        Name of the environment variable with the secret, of at least 16 characters,
        that fingerprints are salted with. Unset, they are salted with a key of this
        process, with a warning.
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
        if self.value_range is not None:
            check_range(self, "value_range", self.value_range)
        if self.clock is not None and not callable(self.clock):
            raise invalid(self, "clock", "a callable or None", self.clock)

    # what is learned

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
        digests = np.array([_digest(row, b"") for row in rows], dtype=np.uint64)
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

    def _fit_sketches(
        self, rows: np.ndarray, digests: np.ndarray, order: np.ndarray, is_image: bool
    ) -> np.ndarray:
        n_values = rows.shape[1]
        if self.window is not None and self.window > n_values:
            raise invalid(self, "window", f"an int in [1, {n_values}]", self.window)
        if self.value_range is not None:
            low, high = map(np.array, self.value_range)
        else:
            axis = None if is_image else 0
            low, high = rows.min(axis=axis), rows.max(axis=axis)
        self._low = np.asarray(low, dtype=np.float64)
        self._width = np.where(high > low, high - low, 1.0)
        self._background = background_of(rows[:FOR_WINDOW], BACKGROUND_SHARE)
        size = self.sketch_size
        self.window_ = self.window or chosen_window(
            self._sketcher, rows, digests, size, self.false_positive_rate
        )
        sketcher = self._sketcher(self.window_)
        sketches = [sketcher(row) for row in rows]
        return sketch_scores(sketches, digests, self._past(order), size)

    def _past(self, order: np.ndarray) -> np.ndarray:
        """Return the rows that stand for a history."""
        # one more, since a row that is itself among them is not compared to itself
        return order if self.history_size is None else order[: self.history_size + 1]

    def _sketcher(self, window: int) -> Sketcher:
        return Sketcher(
            key_from(self, self.secret, "salt of fingerprints"),
            window=window,
            size=self.sketch_size,
            quantization=self.quantization,
            low=self._low,
            width=self._width,
            background=self._background,
        )

    def _fit_vectors(
        self, rows: np.ndarray, digests: np.ndarray, order: np.ndarray
    ) -> np.ndarray:
        self.encoder_ = None
        if self.encoder is not None:
            if not hasattr(self.encoder, "transform"):
                raise invalid(self, "encoder", "a transformer or None", self.encoder)
            shaped = rows.reshape(len(rows), *self._row_shape)
            frozen = is_frozen(self.encoder)
            self.encoder_ = self.encoder if frozen else clone(self.encoder).fit(shaped)
        features = self._encoded(rows)
        self._mean, std = features.mean(axis=0), features.std(axis=0)
        low, high = features.min(axis=0), features.max(axis=0)
        width = np.where(high > low, high - low, 1.0)
        # a feature that is nearly always the same must not drown the others in noise
        self._scale = np.where(high > low, np.maximum(std, width / MAX_STDS), 1.0)
        self._clip = np.stack([low - width, high + width])
        vectors = self._scaled(features)
        if self.method_ == "knn":
            past = self._past(order)
            found = neighbor_scores(vectors, digests, past, self.n_neighbors)
        else:
            size = self.history_size or len(rows) // 2
            found = family_scores(vectors, digests, order, size, self.n_neighbors)
        scores, self._far = found
        return scores

    def _encoded(self, rows: np.ndarray) -> np.ndarray:
        if self.encoder_ is None:
            return rows
        shaped = rows.reshape(len(rows), *self._row_shape)
        return np.asarray(self.encoder_.transform(shaped)).reshape(len(rows), -1)

    def _scaled(self, features: np.ndarray) -> np.ndarray:
        # one feature that the model ignores must not set any two queries far apart
        clipped = np.clip(features, *self._clip)
        return ((clipped - self._mean) / self._scale).astype(np.float64)

    def _checked(self, X: Any, *, reset: bool = False) -> np.ndarray:
        """Check rows and return them flat, as float64."""
        X = validate_data(self, X, reset=reset, dtype="numeric", allow_nd=True)
        if reset:
            self._row_shape = X.shape[1:]
        elif X.shape[1:] != self._row_shape:
            raise ValueError(
                f"X has rows of shape {X.shape[1:]}, but {type(self).__name__} was "
                f"fitted on rows of shape {self._row_shape}."
            )
        rows = X.reshape(len(X), -1).astype(np.float64)
        rows += 0.0  # makes -0.0 the same as 0.0
        return rows

    # what is remembered

    def _row_bytes(self) -> int:
        if self.method_ == "fingerprint":
            return 6 * (self.sketch_size + 1) + 40
        return 5 * (len(self._mean) + 1) + 50

    def _bounds(self) -> Bounds:
        rows = self.max_rows
        if self.max_bytes is not None:
            rows = max(1, min(rows, self.max_bytes // self._row_bytes()))
        return Bounds(int(rows), int(min(self.account_quota, rows)), self.max_age)

    def _keys(self) -> bytes:
        """Key of digests and accounts; without a secret all processes have the same."""
        if self.method_ == "fingerprint" or is_set(self.secret):
            return key_from(self, self.secret, "digests of queries")
        return b""

    def _make_watch(self, store: Store | None = None) -> Watch:
        shared = store is not None and store.is_shared
        if shared and self.method_ == "fingerprint" and not is_set(self.secret):
            raise ValueError(
                f"Fingerprints in a shared store need a secret that all processes "
                f"share: set the environment variable {self.secret}."
            )
        coder, matcher = None, self._matcher()
        kind: type = np.float32
        if self.method_ == "fingerprint":
            coder, kind = self._sketcher(self.window_), np.uint32
        history = History(matcher, self._bounds())
        stream, key = self._stream(), self._keys()
        return Watch(history, kind, store, stream, coder=coder, key=key)

    def _matcher(self) -> Any:
        if self.method_ == "fingerprint":
            return Sketches(self.sketch_size, self.scope)
        if self.method_ == "provenance":
            return Families(len(self._mean), self.n_neighbors, self._far, self.scope)
        return Neighbors(len(self._mean), self.n_neighbors, self._far, self.scope)

    def _stream(self) -> str:
        """Name the log of all detectors that compare rows in exactly this way."""
        own = blake2b(key=self._keys(), digest_size=12)
        settings = (self.method_, self.scope, self.n_neighbors)
        own.update(repr((settings, self.sketch_size, self.quantization)).encode())
        fitted = (
            "_low",
            "_width",
            "_background",
            "window_",
            "_mean",
            "_scale",
            "_clip",
        )
        for name in fitted:
            own.update(
                np.asarray(vars(self).get(name, 0.0), dtype=np.float64).tobytes()
            )
        return own.hexdigest()

    def _watch(self) -> Watch:
        return state_of(self, self._make_watch)

    def _codes(self, rows: np.ndarray, watch: Watch) -> list[np.ndarray]:
        if self.method_ == "fingerprint":
            return [watch.coder(row) for row in rows]
        return list(self._scaled(self._encoded(rows)).astype(np.float32))

    def _now(self) -> float:
        return float((self.clock or time.time)())

    def _observe(
        self,
        rows: np.ndarray,
        accounts: list[Any],
        watch: Watch,
        notes: np.ndarray | None = None,
        now: float | None = None,
    ) -> list[Seen]:
        """Score and remember checked rows."""
        codes, now = self._codes(rows, watch), self._now() if now is None else now
        ids = {name: account_id(self, name, watch.key) for name in set(accounts)}
        queries = [
            Query(
                ids[name],
                now,
                _digest(row, watch.key),
                code,
                NO_NOTE if notes is None else int(notes[i]),
            )
            for i, (name, row, code) in enumerate(
                zip(accounts, rows, codes, strict=True)
            )
        ]
        return watch.observe(queries)

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
                watch.history.score(_digest(row, watch.key), code)
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


def _digest(row: np.ndarray, key: bytes) -> int:
    """Return a number that stands for exactly this row."""
    digest = blake2b(row.tobytes(), key=key, digest_size=8).digest()
    return int.from_bytes(digest, "little")
