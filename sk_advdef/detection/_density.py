"""Detection by the density of hidden features."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from sklearn.pipeline import Pipeline
from sklearn.utils import check_array, column_or_1d, gen_batches
from sklearn.utils.validation import check_is_fitted

from sk_advdef._torch._models import (
    classes_of,
    is_net,
    predict,
    rejection_of,
    torch_generators_kept,
    unfrozen,
)
from sk_advdef._torch._registry import missing_view
from sk_advdef._validation import check_number, check_option, invalid
from sk_advdef.detection import _densities
from sk_advdef.detection._base import Detector
from sk_advdef.detection._blocks import blocks_of

METHODS = (
    "kernel_density",
    "mahalanobis",
    "relative_mahalanobis",
    "nearest_neighbors",
)

#: Rows that go through a net at a time.
ROWS_AT_A_TIME = 1024


class DensityDetector(Detector):
    """Detect adversarial rows by where they lie among genuine ones inside the model.

    An adversarial row is answered with a class whose genuine rows it does not resemble.
    What stands in a hidden layer, or at the last step of a Pipeline, is compared with
    what stood there for genuine rows.

    Parameters
    ----------
    estimator : classifier or None, default=None
        A net, any scikit-learn classifier, a Pipeline that ends in either, or one of
        them that is fitted, as ``FrozenEstimator(model)``. None is a
        LogisticRegression. For what is not a net, features are what the last step of
        the Pipeline is given.
    method : {"kernel_density", "mahalanobis", "relative_mahalanobis", \
            "nearest_neighbors"}, default="kernel_density"
        "kernel_density": log-density among the rows of the predicted class [1]_.
        "mahalanobis": distance to the nearest class, all classes with one covariance
        [2]_; "relative_mahalanobis": the same, less the distance to all rows together
        [3]_. "nearest_neighbors": distance to the ``n_neighbors``-th nearest row of the
        predicted class (cf. [4]_, which does not ask for the class).
    layers : str, list of str or None, default=None
        Modules of a net, as ``named_modules()`` names them, whose outputs are the
        features; maps of images are averaged over their positions. None is what the
        last layer with weights takes. Of several layers the mean score counts, each in
        units of its spread on genuine rows.
    bandwidth : float or "auto", default="auto"
        Standard deviation of the kernel, in (0, inf), in units of the features. "auto"
        is half the median distance of a row to the nearest other one of its class,
        among 1000 rows of a class at most, at even steps. Only for "kernel_density".
    n_neighbors : int, default=2
        Rank of the neighbor, at least 1. Only for "nearest_neighbors".
    shrinkage : float or "auto", default="auto"
        Part of the covariance, in [0, 1], that gives way to a sphere; "auto" is the
        estimate of Ledoit and Wolf. Only for the two Mahalanobis distances.
    contamination : float, default=0.05
        Share of genuine rows that may be flagged, in (0, 0.5].
    cv : float, int or splitter, default=0.2
        Share of the rows held out for the threshold, the number of folds of which the
        first is held out, or a splitter whose first split is used. Around a frozen
        model the other rows are those that the density is fitted on.
    memory : str, joblib.Memory or None, default=None
        Where to keep what ``fit`` learns and the scores of rows, as a folder or a
        Memory, so that a search over ``contamination`` fits and scores once. Models
        count by their weights.
    random_state : int, RandomState instance or None, default=None
        Seeds the split, and the training of a net.

    Attributes
    ----------
    estimator_ : estimator
        The fitted model.
    layers_ : tuple of str
        The layers looked at; of what is not a net, ``"last step"``.
    bandwidth_ : ndarray of shape (n_layers,)
        Bandwidths, for ``method="kernel_density"`` only.
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
    ValueError
        If the net has no layer of a name in ``layers``, or ``y`` holds labels that a
        frozen model does not know.
    TypeError
        If ``layers`` are named for what is not a net.

    Warns
    -----
    UserWarning
        If there are too few held-out rows for ``contamination``, or so many of them
        share the lowest score that next to nothing will be flagged.

    See Also
    --------
    DropoutUncertaintyDetector : Detection by disagreement, for nets with dropout.
    FeatureSqueezingDetector : Compares answers before and after squeezing.

    Notes
    -----
    Distances are Euclidean in the features: put a scaler before a model whose columns
    have units of their own. A class that no row was fitted on is compared with all
    rows. Densities and thresholds come from different rows; where the detector fits
    its model, densities come from the rows that the model was fitted on.

    Covariances that cannot be inverted (constant features, more features than rows) are
    shrunk, and directions in which genuine rows do not vary count as thin, not as
    absent: a row that goes there is suspicious. Only "relative_mahalanobis" takes no
    account of what is as rare among all rows as in the class.

    **What an adaptive attacker does to it**: the density has a gradient, so he moves
    the features to those of a genuine row of the class he wants, once the row is wrong
    [5]_. Densities in a hidden layer also say little about a row whose features are
    those of another class.

    References
    ----------
    .. [1] R. Feinman, R. Curtin, S. Shintre, A. Gardner, "Detecting Adversarial Samples
       from Artifacts", 2017, arXiv:1703.00410.
    .. [2] K. Lee, K. Lee, H. Lee, J. Shin, "A Simple Unified Framework for Detecting
       Out-of-Distribution Samples and Adversarial Attacks", NeurIPS 2018,
       arXiv:1807.03888.
    .. [3] J. Ren, S. Fort, J. Liu, A. Roy, S. Padhy, B. Lakshminarayanan, "A Simple Fix
       to Mahalanobis Distance for Improving Near-OOD Detection", 2021,
       arXiv:2106.09022.
    .. [4] Y. Sun, Y. Ming, X. Zhu, Y. Li, "Out-of-Distribution Detection with Deep
       Nearest Neighbors", ICML 2022, arXiv:2204.06507.
    .. [5] N. Carlini, D. Wagner, "Adversarial Examples Are Not Easily Detected", AISec
       2017, arXiv:1705.07263.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sk_advdef import DensityDetector
    >>> X, y = load_iris(return_X_y=True)
    >>> detector = DensityDetector(random_state=0).fit(X, y)
    >>> detector.predict([X[0], X[0] + 3])
    array([ 1, -1])
    >>> detector.layers_
    ('last step',)
    """

    def __init__(
        self,
        estimator: Any = None,
        *,
        method: str = "kernel_density",
        layers: Any = None,
        bandwidth: Any = "auto",
        n_neighbors: int = 2,
        shrinkage: Any = "auto",
        contamination: float = 0.05,
        cv: Any = 0.2,
        memory: Any = None,
        random_state: Any = None,
    ) -> None:
        self.estimator = estimator
        self.method = method
        self.layers = layers
        self.bandwidth = bandwidth
        self.n_neighbors = n_neighbors
        self.shrinkage = shrinkage
        self.contamination = contamination
        self.cv = cv
        self.memory = memory
        self.random_state = random_state

    def __sklearn_tags__(self) -> Any:
        """Return scikit-learn's tags of this estimator."""
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = is_net(self.estimator)
        return tags

    def _check_parameters(self) -> None:
        super()._check_parameters()
        check_option(self, "method", self.method, METHODS)
        check_number(self, "n_neighbors", self.n_neighbors, integer=True, low=1)
        rest: dict[str, Any] = {"otherwise": ' or "auto"'}
        if not (isinstance(self.bandwidth, str) and self.bandwidth == "auto"):
            kind = {"low": 0, "closed": "neither", **rest}
            check_number(self, "bandwidth", self.bandwidth, **kind)
        if not (isinstance(self.shrinkage, str) and self.shrinkage == "auto"):
            check_number(self, "shrinkage", self.shrinkage, low=0, high=1, **rest)
        if self.layers is not None:
            self._layer_names()
            if not is_net(self.estimator):
                raise TypeError(
                    f"layers={self.layers!r} of DensityDetector names modules of a "
                    f"net, and estimator={self.estimator!r} is none. Leave it None: "
                    "features are then what the last step of the Pipeline is given."
                )

    def _layer_names(self) -> list[str]:
        layers = self.layers
        names = [layers] if isinstance(layers, str) else layers
        if not (
            isinstance(names, (list, tuple))
            and names
            and all(isinstance(name, str) for name in names)
        ):
            allowed = "a name, a list of names, or None"
            raise invalid(self, "layers", allowed, layers)
        return list(names)

    def _learns(self, X: Any) -> bool:
        return True

    def _set_aside(self, X: Any, y: Any, seed: int) -> tuple[Any, Any]:
        # the other way around than where there is little to learn
        held, fitted = super()._set_aside(X, y, seed)
        return fitted, held

    # --- what the densities are fitted on

    def _fit_scores(self, X: Any, y: Any, seed: int) -> None:
        with torch_generators_kept():
            self._taps = self._find_taps(X) if is_net(self.estimator_) else None
        self.layers_ = tuple(map(str, self._taps or ["last step"]))
        blocks = list(self._looked(X))
        predicted, *features = map(np.concatenate, zip(*blocks, strict=True))
        codes = predicted if y is None else self._codes(y)
        self._densities = [self._fit_density(f, codes) for f in features]
        if self.method == "kernel_density":
            self.bandwidth_ = np.array([bandwidth for _, bandwidth in self._densities])
        self._location, self._scale = np.zeros(1), np.ones(1)
        if len(features) > 1:
            spreads = map(self._spread, self._densities, features)
            self._location, self._scale = np.array(list(spreads)).T

    def _spread(self, fitted: Any, features: np.ndarray) -> tuple[float, float]:
        """Median and interquartile range of the scores of rows fitted on.

        Where a row is its own neighbor it is left out.
        """
        density, extra = fitted
        if self.method == "kernel_density":
            scores = _densities.left_out_log_density(density, extra)
        elif self.method == "nearest_neighbors":
            scores = _densities.left_out_neighbor_score(density, self.n_neighbors)
        else:
            scores = _densities.mahalanobis_score(density, extra, features)
        if not len(scores):
            return 0.0, 1.0
        low, median, high = np.quantile(scores, [0.25, 0.5, 0.75])
        return float(median), float(high - low) if high > low else 1.0

    def _codes(self, y: Any) -> np.ndarray:
        """Return positions of labels among the classes of the model."""
        y = column_or_1d(y)
        classes = classes_of(self.estimator_)
        unknown = np.setdiff1d(y, classes)
        if len(unknown):
            raise ValueError(
                f"y has the labels {unknown.tolist()}, and the frozen model of "
                f"DensityDetector answers with {classes.tolist()}. Give labels of "
                "these, or y=None for what the model answers."
            )
        return np.searchsorted(classes, y)

    def _fit_density(self, features: np.ndarray, codes: np.ndarray) -> Any:
        n_classes = len(classes_of(self.estimator_))
        if self.method in ("mahalanobis", "relative_mahalanobis"):
            all_rows = np.zeros(len(codes), dtype=int)
            background = None
            if self.method == "relative_mahalanobis":
                background = _densities.shared_gaussian(
                    features, all_rows, self.shrinkage
                )
            of_classes = _densities.shared_gaussian(features, codes, self.shrinkage)
            return of_classes, background
        near = _densities.neighborhood(features, codes, n_classes)
        if self.method == "nearest_neighbors":
            return near, None
        bandwidth = self.bandwidth
        if isinstance(bandwidth, str):
            bandwidth = _densities.default_bandwidth(near)
        return near, float(bandwidth)

    # --- scores

    def _looked(self, X: Any) -> Iterator[tuple[np.ndarray, ...]]:
        """Yield predicted classes, by position, and features of each layer."""
        if self._taps is None:
            yield from map(self._looked_at_steps, blocks_of(X))
            return
        import torch

        from sk_advdef._torch._net import locate_net, transformed

        before = locate_net(self.estimator_)[0]
        look = self._look([])
        for block in blocks_of(X):
            block = transformed(before, block)
            for rows in gen_batches(len(block), ROWS_AT_A_TIME):
                with torch.inference_mode(), torch_generators_kept():
                    scores, features = look(torch.tensor(block[rows]))
                yield scores.argmax(dim=1).numpy(), *(f.numpy() for f in features)

    def _looked_at_steps(self, X: Any) -> tuple[np.ndarray, np.ndarray]:
        before, last = _steps_of(self.estimator_)
        for step in before:
            X = step.transform(X)
        rejects = rejection_of(last)
        if rejects is not None:  # the class behind a rejection, as the view has it
            last = rejects[0]
        with torch_generators_kept():
            answers = predict(last, X)
        values = X.toarray() if hasattr(X, "toarray") else X
        values = check_array(values, dtype=np.float64, allow_nd=True, input_name="X")
        codes = np.searchsorted(classes_of(last), answers)
        return codes, values.reshape(len(values), -1)

    def _find_taps(self, X: Any) -> list[Any]:
        import torch

        from sk_advdef._torch._hidden import check_layers, last_hidden
        from sk_advdef._torch._net import locate_net, transformed
        from sk_advdef._torch._net_view import check_threshold, view_of_net

        before, net, n_classes = locate_net(self.estimator_)
        check_threshold(net)
        view = view_of_net(net, n_classes)
        if self.layers is not None:
            return check_layers(view, self._layer_names())
        rows = transformed(before, X[:2])
        return [last_hidden(view, torch.tensor(rows))]

    def _look(self, before: list[Any]) -> Any:
        """Make the view of what is looked at, behind the views of some steps."""
        from torch import nn

        from sk_advdef._torch._hidden import HiddenLayers, LastStep
        from sk_advdef._torch._registry import build

        steps = nn.Sequential(*(build(step, "transform") for step in before))
        if self._taps is None:
            return LastStep(steps, build(_steps_of(self.estimator_)[1]))
        from sk_advdef._torch._net import locate_net
        from sk_advdef._torch._net_view import view_of_net

        _, net, n_classes = locate_net(self.estimator_)
        return HiddenLayers(view_of_net(net, n_classes), self._taps, steps)

    def _of_layers(
        self, features: list[np.ndarray], predicted: np.ndarray
    ) -> np.ndarray:
        """Return the score of each row in each layer, (n_samples, n_layers)."""
        columns = []
        for (density, extra), rows in zip(self._densities, features, strict=True):
            if self.method == "kernel_density":
                score = _densities.log_kernel_density(density, extra, rows, predicted)
            elif self.method == "nearest_neighbors":
                score = _densities.neighbor_score(
                    density, self.n_neighbors, rows, predicted
                )
            else:
                score = _densities.mahalanobis_score(density, extra, rows)
            columns.append(score)
        return np.stack(columns, axis=1)

    def _raw_layer_scores(self, X: Any) -> np.ndarray:
        return np.concatenate([self._of_layers(f, p) for p, *f in self._looked(X)])

    def _raw_scores(self, X: Any) -> np.ndarray:
        scores = self._raw_layer_scores(X)
        return ((scores - self._location) / self._scale).mean(axis=1)

    def layer_scores(self, X: Any) -> np.ndarray:
        """Return the score of each layer by itself.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, n_features), or stacked images
            Rows.

        Returns
        -------
        scores : ndarray of float64 of shape (n_samples, n_layers)
            Log-densities, or minus squared Mahalanobis distances, or minus distances,
            higher for more genuine; a column for each of ``layers_``.
        """
        check_is_fitted(self)
        return self._raw_layer_scores(self._rows(X))

    # --- the differentiable view

    def _missing_suspicion(self) -> Any:
        """Return the first part that a gradient cannot pass, or None."""
        return missing_view(getattr(self, "estimator_", self.estimator))

    def _as_score_module(self) -> Any:
        from sk_advdef._torch import _suspicion

        check_is_fitted(self)
        if self._taps is None:
            before = _steps_of(self.estimator_)[0]
        else:
            from sk_advdef._torch._net import locate_net

            before = locate_net(self.estimator_)[0]
        parts: list[Any] = []
        for density, extra in self._densities:
            if self.method == "kernel_density":
                width = density.rows.shape[1]
                rest = _densities.log_normalizer(extra, width)
                kernel = _suspicion.LogKernelDensity(extra, rest)
                parts.append(_suspicion.OfClass(density, kernel))
            elif self.method == "nearest_neighbors":
                rank = _suspicion.KthDistance(self.n_neighbors)
                parts.append(_suspicion.OfClass(density, rank))
            elif extra is None:
                parts.append(_suspicion.Nearest(density))
            else:
                both = map(_suspicion.Nearest, (density, extra))
                parts.append(_suspicion.Relative(*both))
        look = self._look(before)
        return _suspicion.DensitySuspicion(look, parts, self._location, self._scale)


def _steps_of(model: Any) -> tuple[list[Any], Any]:
    """Take a fitted model apart: transformers before the last step, and that."""
    before: list[Any] = []
    while True:
        model = unfrozen(model)
        if isinstance(model, Pipeline):
            before += [s for _, s in model.steps[:-1] if s not in (None, "passthrough")]
            model = model.steps[-1][1]
        elif hasattr(model, "_wraps_net") and hasattr(model, "estimator_"):
            model = model.estimator_  # one of our training estimators
        else:
            return before, model
