"""Detection by what squeezing the input does to the answer."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.utils import check_array, get_tags
from sklearn.utils.metaestimators import _BaseComposition
from sklearn.utils.validation import check_is_fitted

from sk_advdef._images import resolve_layout
from sk_advdef._torch._models import (
    for_model,
    is_frozen,
    is_net,
    torch_generators_kept,
)
from sk_advdef._torch._registry import missing_view
from sk_advdef._validation import invalid
from sk_advdef.attacks._table import text_columns
from sk_advdef.detection._base import Detector, finite_scores
from sk_advdef.detection._blocks import blocks_of
from sk_advdef.squeezers._base import Squeezer
from sk_advdef.squeezers._bit_depth import BitDepthSqueezer
from sk_advdef.squeezers._median import MedianSqueezer


def l1_distance(proba: np.ndarray, other: np.ndarray) -> np.ndarray:
    """L1 distance between class probabilities, a row each, in [0, 2]."""
    return np.abs(proba - other).sum(axis=1)


class FeatureSqueezingDetector(Detector, _BaseComposition):
    """Detect adversarial rows by how much squeezing them changes the answer.

    The model answers each row as it is and squeezed. On genuine rows the answers hardly
    differ; on many adversarial rows they do, since squeezing takes away part of what
    the attacker added [1]_. A row's score is minus the largest L1 distance, over the
    squeezers, between the class probabilities on the two: 0 where nothing changes, -2
    where the model is sure of one class before and of another after.

    Parameters
    ----------
    estimator : classifier or None, default=None
        Any classifier with ``predict_proba``: a scikit-learn classifier, a skorch net,
        a training estimator of this package, or a Pipeline that ends in one;
        ``FrozenEstimator(model)`` for one that is fitted already. None is
        ``LogisticRegression(max_iter=1000)``, or the classifier of the
        :class:`RejectingClassifier` around this detector.
    squeezers : list of (str, transformer) or None, default=None
        Named transformers that return rows of the shape they are given; any
        transformer will do, a Pipeline of them too. Their parameters are those of the
        detector as ``name__parameter``. None is

        - for gray images ``[("bit_depth", BitDepthSqueezer(1)), ("median",
          MedianSqueezer(2))]``, the set that [1]_ found best on MNIST. One bit suits
          images that are nearly black and white; for gray photographs take more.
        - for color images ``[("bit_depth", BitDepthSqueezer(5)), ("median",
          MedianSqueezer(2))]``, the set that [1]_ found best on CIFAR-10 and ImageNet
          less its third, non-local means, which this package does not have.
        - for rows that are no images ``[("bit_depth", BitDepthSqueezer(4))]``: 16
          levels a feature. The order of columns means nothing there, so that there is
          nothing to smooth over; [1]_ has no such data.
    contamination : float, default=0.05
        Share of genuine rows that may be flagged, in (0, 0.5].
    cv : float, int or splitter, default=0.2
        Share of the rows held out for the threshold, the number of folds of which the
        first is held out, or a splitter whose first split is used. Around a frozen
        model all rows are for the threshold, less this share for squeezers that learn
        from rows (such as a ``value_range``) and are not frozen themselves.
    random_state : int, RandomState instance or None, default=None
        Seeds the split, and the training of a net.
    image_shape : "square", tuple of int or None, default=None
        Shape of the image in a row for the squeezers that stand for None: ``(height,
        width)`` or ``(height, width, n_channels)``. None takes stacked images as they
        are and rows as no images.
    channel_axis : int, default=-1
        Axis of the channels within one image of three axes, for the squeezers that
        stand for None.
    memory : str, joblib.Memory or None, default=None
        Where to keep what ``fit`` learns and the scores of rows, as a folder or a
        Memory, so that a search over ``contamination`` fits and scores once. Models
        count by their weights.

    Attributes
    ----------
    estimator_ : estimator
        The fitted model.
    squeezers_ : list of (str, transformer)
        The fitted squeezers.
    offset_ : float
        Score below which a row is flagged; ``-inf`` where rows were too few.
    scale_ : float
        Interquartile range of the held-out scores, the unit of ``predict_proba``.
    n_features_in_ : int
        Number of features seen in ``fit`` (for stacked images, their first axis).
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of features seen in ``fit``, where ``X`` has names that are all strings.

    Raises
    ------
    TypeError
        If the estimator has no ``predict_proba``.
    ValueError
        If ``squeezers`` is no list of named transformers, or one of them returns rows
        of another shape.

    Warns
    -----
    UserWarning
        If there are too few held-out rows for ``contamination``, or so many of them
        share the lowest score that next to nothing will be flagged.

    See Also
    --------
    RejectingClassifier : A classifier that rejects what a detector flags.
    BitDepthSqueezer : A squeezer, which can also stand before a model by itself.
    MedianSqueezer : Another.

    Notes
    -----
    The threshold comes from rows that neither the model nor the squeezers were fitted
    on, by a conformal rank: the share of new genuine rows that is flagged is at most
    ``contamination``, on average over draws of the held-out rows.

    A row costs one answer of the model more for each squeezer.

    **What an adaptive attacker does to it**: he looks for a row that the model takes
    for the same wrong class as it is and squeezed. Medians and blurs have a gradient,
    rounding one that is as good (BPDA [3]_). To pass all squeezers together is hardly
    harder than to pass each [2]_: in the benchmark ``squeezing``, on MNIST, attacks of
    least change that know the detector pass it on every row, with changes less than
    twice as long. Very confident adversarial rows survive squeezing also where nobody
    meant them to. The attacks of this package go through the squeezers by themselves.

    References
    ----------
    .. [1] W. Xu, D. Evans, Y. Qi, "Feature Squeezing: Detecting Adversarial Examples
       in Deep Neural Networks", NDSS 2018, arXiv:1704.01155.
    .. [2] W. He, J. Wei, X. Chen, N. Carlini, D. Song, "Adversarial Example Defenses:
       Ensembles of Weak Defenses are not Strong", WOOT 2017, arXiv:1706.04701.
    .. [3] A. Athalye, N. Carlini, D. Wagner, "Obfuscated Gradients Give a False Sense
       of Security", ICML 2018, arXiv:1802.00420.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sk_advdef import (
    ...     BitDepthSqueezer, FeatureSqueezingDetector, MedianSqueezer
    ... )
    >>> X, y = load_digits(return_X_y=True)
    >>> detector = FeatureSqueezingDetector(
    ...     squeezers=[
    ...         ("bit_depth", BitDepthSqueezer(2, value_range=(0, 16))),
    ...         ("median", MedianSqueezer(2, image_shape=(8, 8))),
    ...     ],
    ...     random_state=0,
    ... ).fit(X, y)
    >>> detector.distances(X[:3]).shape
    (3, 2)
    >>> detector.set_params(median__window_size=3).get_params()["median"]
    MedianSqueezer(image_shape=(8, 8))
    """

    def __init__(
        self,
        estimator: Any = None,
        *,
        squeezers: Any = None,
        contamination: float = 0.05,
        cv: Any = 0.2,
        random_state: Any = None,
        image_shape: Any = None,
        channel_axis: int = -1,
        memory: Any = None,
    ) -> None:
        self.estimator = estimator
        self.squeezers = squeezers
        self.contamination = contamination
        self.cv = cv
        self.random_state = random_state
        self.image_shape = image_shape
        self.channel_axis = channel_axis
        self.memory = memory

    def __sklearn_tags__(self) -> Any:
        """Return scikit-learn's tags of this estimator."""
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = is_net(self.estimator)
        return tags

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the parameters, those of the named squeezers too.

        Parameters
        ----------
        deep : bool, default=True
            Whether to return those of the estimator and of the squeezers.

        Returns
        -------
        params : dict of str to object
            Parameters by name.
        """
        return self._get_params("squeezers", deep=deep)

    def set_params(self, **params: Any) -> FeatureSqueezingDetector:
        """Set parameters, those of the named squeezers as ``name__parameter``.

        Parameters
        ----------
        **params : object
            Parameters by name; the name of a squeezer alone replaces it.

        Returns
        -------
        self : FeatureSqueezingDetector
            The detector.
        """
        try:
            self._set_params("squeezers", **params)
        except ValueError as error:
            self._refuse_unnamed(error)
            raise
        return self

    def _check_parameters(self) -> None:
        super()._check_parameters()
        if self.estimator is not None and not hasattr(self.estimator, "predict_proba"):
            raise TypeError(
                "FeatureSqueezingDetector compares class probabilities, and "
                f"{self.estimator!r} has no predict_proba. Use a classifier that has, "
                "or wrap it in CalibratedClassifierCV."
            )
        if self.squeezers is not None:
            self._refuse_unnamed()
            self._validate_names([name for name, _ in self.squeezers])

    def _refuse_unnamed(self, cause: Exception | None = None) -> None:
        given = self.squeezers
        named = isinstance(given, (list, tuple)) and all(
            isinstance(pair, (list, tuple))
            and len(pair) == 2
            and isinstance(pair[0], str)
            and not isinstance(pair[1], type)
            and all(hasattr(pair[1], method) for method in ("fit", "transform"))
            for pair in given
        )
        if not (named and given):
            allowed = "a list of (name, transformer), not empty, or None"
            raise invalid(self, "squeezers", allowed, given) from cause

    def _learns(self, X: Any) -> bool:
        bytes_given = getattr(X, "dtype", None) == np.uint8
        if self.squeezers is None:
            return not bytes_given
        return any(_learns(squeezer, bytes_given) for _, squeezer in self.squeezers)

    def _fit_scores(self, X: Any, y: Any, seed: int) -> None:
        squeezers = self.squeezers
        if squeezers is None:
            squeezers = self._default_squeezers(X)
        if hasattr(X, "columns") and any(isinstance(s, Squeezer) for _, s in squeezers):
            _check_numeric(X)
        self.squeezers_ = [(name, clone(s).fit(X, y)) for name, s in squeezers]

    def _default_squeezers(self, X: Any) -> list[tuple[str, Any]]:
        layout = resolve_layout(self, np.shape(X), self.image_shape, self.channel_axis)
        if len(layout.shape) == 1:
            return [("bit_depth", BitDepthSqueezer(4))]
        channels = layout.unfolded[2]
        bit_depth = BitDepthSqueezer(1 if channels == 1 else 5)
        median = MedianSqueezer(2, channel_axis=self.channel_axis)
        if not layout.stacked:
            median.set_params(image_shape=layout.shape)
            values = check_array(X, dtype=np.float64, input_name="X")
            low, high = float(values.min()), float(values.max())
            if low < high:  # one range for all pixels, and not one for each
                bit_depth.set_params(value_range=(low, high))
        return [("bit_depth", bit_depth), ("median", median)]

    def _proba(self, X: Any) -> np.ndarray:
        with torch_generators_kept():
            proba = self.estimator_.predict_proba(for_model(self.estimator_, X))
        return np.asarray(proba, dtype=np.float64)

    def _raw_distances(self, X: Any) -> np.ndarray:
        return np.concatenate([self._of_block(block) for block in blocks_of(X)])

    def _of_block(self, X: Any) -> np.ndarray:
        proba = self._proba(X)
        squeezed = (_squeezed(name, s, X) for name, s in self.squeezers_)
        columns = [l1_distance(proba, self._proba(rows)) for rows in squeezed]
        return np.stack(columns, axis=1)

    def _raw_scores(self, X: Any) -> np.ndarray:
        return -self._raw_distances(X).max(axis=1)

    def distances(self, X: Any) -> np.ndarray:
        """Return how far the answers on squeezed rows are from those on the rows.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, n_features), or stacked images
            Rows.

        Returns
        -------
        distances : ndarray of float64 of shape (n_samples, n_squeezers)
            L1 distances between class probabilities, in [0, 2]; a column for each of
            ``squeezers_``. The largest of a row is minus its score.
        """
        check_is_fitted(self)
        return finite_scores(self, self._raw_distances(self._rows(X)))

    def _missing_suspicion(self) -> Any:
        """Return the first part that a gradient cannot pass, or None."""
        model = getattr(self, "estimator_", self.estimator)
        squeezers = getattr(self, "squeezers_", self.squeezers) or []
        parts = [(squeezer, "transform") for _, squeezer in squeezers]
        if model is not None:
            parts.append((model, "proba"))
        found = (missing_view(part, role) for part, role in parts)
        return next((part for part in found if part is not None), None)

    def _as_score_module(self) -> Any:
        from sk_advdef._torch._distances import SqueezeDistance
        from sk_advdef._torch._eot import averaged
        from sk_advdef._torch._net_view import frozen
        from sk_advdef._torch._registry import build

        check_is_fitted(self)
        view = averaged(frozen(build(self.estimator_, "proba")))
        squeezers = [build(squeezer, "transform") for _, squeezer in self.squeezers_]
        return SqueezeDistance(view, squeezers)


def _learns(squeezer: Any, bytes_given: bool) -> bool:
    """Whether fitting a transformer lets it see more of the rows than their shape."""
    if is_frozen(squeezer):
        return False
    if isinstance(squeezer, Squeezer):
        return not bytes_given and getattr(squeezer, "value_range", 0) is None
    return bool(get_tags(squeezer).requires_fit)


def _check_numeric(X: Any) -> None:
    if words := text_columns(X):
        raise ValueError(
            "FeatureSqueezingDetector cannot squeeze columns that are not numeric: "
            f"{words}. Encode them before the detector, or pass squeezers within "
            'ColumnTransformer(..., remainder="passthrough").'
        )


def _squeezed(name: str, squeezer: Any, X: Any) -> Any:
    """Squeeze rows, and make of them what ``X`` is: the model knows its columns."""
    squeezed = squeezer.transform(X)
    if hasattr(squeezed, "columns") and not hasattr(X, "columns"):
        squeezed = squeezed.to_numpy()  # transform_output asked for a frame
    if np.shape(squeezed) != np.shape(X):
        raise ValueError(
            f"The squeezer {name!r} of FeatureSqueezingDetector returns rows of shape "
            f"{np.shape(squeezed)[1:]} for rows of shape {np.shape(X)[1:]}, which the "
            "model does not take. Let it keep the shape (Downscaler: restore=True; "
            "GrayscaleSqueezer: keep_channels=True)."
        )
    if not hasattr(X, "columns") or hasattr(squeezed, "columns"):
        return squeezed
    if hasattr(X, "iloc"):
        return type(X)(squeezed, columns=X.columns, index=X.index)
    return type(X)(squeezed, schema=list(X.columns))
