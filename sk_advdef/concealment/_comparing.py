"""What rows are compared by: fingerprints, or scaled features."""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.utils.validation import validate_data

from sk_advdef._base import Stamped
from sk_advdef._torch._models import is_frozen
from sk_advdef._validation import invalid
from sk_advdef.concealment._calibration import (
    FOR_WINDOW,
    chosen_window,
    family_scores,
    neighbor_scores,
    sketch_scores,
)
from sk_advdef.concealment._secrets import key_from
from sk_advdef.concealment._sketch import Sketcher, background_of
from sk_advdef.concealment._watch import Watch

#: A feature of which more rows than this have the same value has a background.
BACKGROUND_SHARE = 0.2
#: The range of a feature is taken for at most so many standard deviations.
MAX_STDS = 4


class Comparing(Stamped):
    """Learns what rows are compared by; the parameters are those of its subclass."""

    method_: str
    history_size: int | None
    n_neighbors: int
    encoder: Any
    window: int | None
    sketch_size: int
    quantization: int
    value_range: tuple[float, float] | None
    false_positive_rate: float
    secret: str

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
            if not (
                hasattr(self.encoder, "fit") and hasattr(self.encoder, "transform")
            ):
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

    def _codes(self, rows: np.ndarray, watch: Watch) -> list[np.ndarray]:
        if self.method_ == "fingerprint":
            return [watch.coder(row) for row in rows]
        return list(self._scaled(self._encoded(rows)).astype(np.float32))


def digest_of(row: np.ndarray, key: bytes) -> int:
    """Return a number that stands for exactly this row."""
    digest = blake2b(row.tobytes(), key=key, digest_size=8).digest()
    return int.from_bytes(digest, "little")
