"""What the squeezers share: reading images out of ``X`` and working block by block."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
from joblib import effective_n_jobs, parallel_config
from sklearn import config_context, get_config
from sklearn.base import OneToOneFeatureMixin, TransformerMixin
from sklearn.utils import assert_all_finite, gen_batches, gen_even_slices
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted, validate_data

from sk_advdef._base import Stamped
from sk_advdef._images import ImageLayout, resolve_layout
from sk_advdef._validation import check_n_jobs
from sk_advdef.squeezers._names import has_features
from sk_advdef.squeezers._operators import AxisBands, nearest_bytes

#: Bytes of input that are squeezed at a time: they and the result stay in the cache.
BLOCK = 1 << 19


def run_blocks(run: Callable[[slice], None], blocks: list[slice], n_jobs: Any) -> None:
    """Run a function on all blocks of rows, in threads where that is asked for."""
    # A backend for many hosts would count the cores of all of them.
    with parallel_config(backend="threading"):
        n_threads = min(effective_n_jobs(n_jobs), len(blocks))
    if n_threads <= 1:
        for rows in blocks:
            run(rows)
        return
    config = get_config()

    def run_part(part: slice) -> None:
        with config_context(**config):
            for rows in blocks[part]:
                run(rows)

    # A part for each: a block takes hardly longer than to hand it over. joblib's own
    # threads take longer to start than most of this does to run.
    with ThreadPoolExecutor(n_threads) as threads:
        list(threads.map(run_part, gen_even_slices(len(blocks), n_threads)))


class Squeezer(OneToOneFeatureMixin, TransformerMixin, Stamped):
    """Rows or stacked images in, the same with less precision out.

    float32 stays float32, float64 stays float64, uint8 stays uint8; other kinds of
    numbers become float64. Subclasses write ``_squeeze``, and end ``fit`` by setting
    ``_shape_out``, the shape of one squeezed sample.
    """

    n_jobs: Any
    _block = BLOCK
    _sample_shape: tuple[int, ...]
    _shape_out: tuple[int, ...]

    def __sklearn_tags__(self) -> Any:
        """Return scikit-learn's tags of this estimator."""
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        tags.input_tags.three_d_array = True
        return tags

    def __sklearn_is_fitted__(self) -> bool:
        """Whether the last ``fit`` came to its end."""
        return hasattr(self, "_shape_out")

    @available_if(has_features)
    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """Return the names of the output's features, which are those of the input.

        Parameters
        ----------
        input_features : array-like of str or None, default=None
            Names of the input's features; None takes those seen in ``fit``.

        Returns
        -------
        feature_names_out : ndarray of str objects
            Names of features.
        """
        return super().get_feature_names_out(input_features)

    def _validated(self, X: Any, *, reset: bool) -> np.ndarray:
        check_n_jobs(self, self.n_jobs)
        X = validate_data(
            self,
            X,
            reset=reset,
            allow_nd=True,
            dtype=[np.float64, np.float32, np.uint8],
            # transform looks at the values block by block, as it reads them
            ensure_all_finite=reset,
        )
        if not reset and tuple(X.shape[1:]) != self._sample_shape:
            raise ValueError(
                f"X has samples of shape {tuple(X.shape[1:])}, but "
                f"{type(self).__name__} is expecting the shape {self._sample_shape} "
                "that it was fitted on."
            )
        if reset:
            self._sample_shape = tuple(X.shape[1:])
        return X

    def transform(self, X: Any) -> np.ndarray:
        """Return ``X`` with less precision.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or stacked images of shape \
                (n_samples, height, width[, n_channels])
            Rows or images, of the shape given to ``fit``. Memory-mapped input is read
            a block at a time.

        Returns
        -------
        X_squeezed : ndarray
            The squeezed input, of the dtype of ``X``; never ``X`` itself.
        """
        check_is_fitted(self)
        X = self._validated(X, reset=False)
        self._check_scale(X)
        squeezed = np.empty((len(X), *self._shape_out), dtype=X.dtype)

        def run(rows: slice) -> None:
            block = np.ascontiguousarray(X[rows])
            huge = X.dtype != np.uint8 and self._check_finite(block)
            squeeze = self._squeeze_huge if huge else self._squeeze
            squeeze(block, squeezed[rows])

        # Blocks do not hang on n_jobs. Bytes are computed with as floats.
        bytes_of_row = X[0].size * max(X.itemsize, 4)
        blocks = gen_batches(len(X), max(1, self._block // bytes_of_row))
        run_blocks(run, list(blocks), self.n_jobs)
        return squeezed

    def _check_scale(self, X: np.ndarray) -> None:
        """Warn of rows on another scale than those of ``fit``, where that matters."""

    def _check_finite(self, X: np.ndarray) -> bool:
        """Refuse what is not finite; tell whether squares of ``X`` are not."""
        # One pass over what is in the cache anyway; a second one only to be sure.
        with np.errstate(all="ignore"):
            if np.isfinite(np.vdot(X, X)):
                return False
        assert_all_finite(X, estimator_name=type(self).__name__, input_name="X")
        return True

    def _squeeze(self, X: np.ndarray, out: np.ndarray) -> None:
        """Write ``X``, a C-contiguous block of rows, squeezed to ``out``, another."""
        raise NotImplementedError

    def _squeeze_huge(self, X: np.ndarray, out: np.ndarray) -> None:
        """Do the same for values whose squares are larger than any number."""
        self._squeeze(X, out)


class ImageSqueezer(Squeezer):
    """A squeezer that knows where the pixels of a sample lie."""

    image_shape: Any
    channel_axis: Any
    image_shape_: tuple[int, ...]
    _layout: ImageLayout

    def fit(self, X: Any, y: Any = None) -> Any:
        """Learn the shape of the images.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or stacked images of shape \
                (n_samples, height, width[, n_channels])
            Rows or images.
        y : None
            Ignored.

        Returns
        -------
        self : object
            The fitted squeezer.
        """
        X = self._validated(X, reset=True)
        layout = resolve_layout(self, X.shape, self.image_shape, self.channel_axis)
        out = self._prepare(X, layout)
        self._layout = layout
        self._layout_out = out
        self.image_shape_ = layout.shape
        self._shape_out = out.shape if out.stacked else (int(np.prod(out.shape)),)
        return self

    def _prepare(self, X: np.ndarray, layout: ImageLayout) -> ImageLayout:
        """Check parameters, learn what is to learn, return the output's layout."""
        raise NotImplementedError

    def _squeeze(self, X: np.ndarray, out: np.ndarray) -> None:
        self._squeeze_images(self._layout.unfold(X), self._layout_out.unfold(out))

    def _squeeze_images(self, images: np.ndarray, out: np.ndarray) -> None:
        """Write (n, height, width, channels) squeezed to ``out``, a view as well."""
        raise NotImplementedError


class SeparableSqueezer(ImageSqueezer):
    """A linear operator along the height and one along the width."""

    def _axis_operators(self, height: int, width: int, signal: bool) -> tuple[Any, Any]:
        raise NotImplementedError

    def _prepare(self, X: np.ndarray, layout: ImageLayout) -> ImageLayout:
        height, width, _ = layout.unfolded
        signal = len(layout.shape) == 1
        self._operators = self._axis_operators(height, width, signal)
        self._bands = []
        shape = list(layout.shape)
        operators = self._operators[-len(layout.spatial_axes) :]
        for axis, operator in zip(layout.spatial_axes, operators, strict=True):
            if operator is not None:
                self._bands.append(AxisBands(operator, shape, axis))
                shape[axis] = operator.shape[0]
        return replace(layout, shape=tuple(shape))

    def _squeeze(self, X: np.ndarray, out: np.ndarray) -> None:
        is_uint8 = X.dtype == np.uint8
        X = X.astype(np.float64) if is_uint8 else X
        for i, bands in enumerate(self._bands, start=1):
            last = i == len(self._bands) and not is_uint8
            X = bands.apply(X, out if last else None)
        if is_uint8:
            out[...] = nearest_bytes(X).reshape(out.shape)
        elif not self._bands:
            out[...] = X

    def _squeeze_huge(self, X: np.ndarray, out: np.ndarray) -> None:
        # a mean that is rounded up can be larger than any number
        self._squeeze(X / 4, out)
        largest = np.finfo(X.dtype).max / 4
        np.clip(out, -largest, largest, out=out)
        out *= 4
