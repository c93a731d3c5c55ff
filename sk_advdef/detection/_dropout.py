"""Detection by the disagreement of sampled sub-networks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from scipy.special import entr, softmax
from sklearn.utils import gen_batches
from sklearn.utils.validation import check_is_fitted

from sk_advdef._torch._models import is_net
from sk_advdef._validation import check_number, check_option, invalid, seed_from
from sk_advdef.detection._base import Detector
from sk_advdef.detection._blocks import blocks_of


def variance(proba: Any) -> Any:
    """Variance of the class probabilities over the passes, mean over the classes."""
    return ((proba - proba.mean(0)) ** 2).mean(0).mean(-1)


def predictive_entropy(proba: Any) -> Any:
    """Entropy of the mean probabilities, in nats."""
    return _entropy(proba.mean(0))


def mutual_information(proba: Any) -> Any:
    """Entropy of the mean less the mean of the entropies, in nats."""
    return _entropy(proba.mean(0)) - _entropy(proba).mean(0)


def variation_ratio(proba: Any) -> Any:
    """Share of passes that do not answer the class most of them answer."""
    votes = proba.argmax(-1)
    counts = np.stack([(votes == c).sum(0) for c in range(proba.shape[-1])])
    return 1 - counts.max(0) / len(votes)


def soft_variation_ratio(proba: Any) -> Any:
    """Variation ratio as a value, with the gradient of its smooth kin."""
    votes = proba.argmax(-1)
    same = (votes[:, None] == votes[None]).sum(0)
    hard = 1 - same.amax(0) / len(votes)
    soft = 1 - proba.mean(0).amax(-1)
    return hard.to(proba.dtype) + (soft - soft.detach())


def logit_margin(logits: Any) -> Any:
    """Lead of the second best mean logit over the best: at most 0."""
    mean = logits.mean(0)
    if isinstance(mean, np.ndarray):
        best = np.partition(mean, (-2, -1), axis=-1)
        return best[..., -2] - best[..., -1]
    best = mean.topk(2, dim=-1).values
    return best[..., 1] - best[..., 0]


def logit_variance(logits: Any) -> Any:
    """Variance over the passes of logits less their mean, mean over the classes.

    The mean over the classes, which softmax does not see, is taken out of each pass.
    """
    return variance(logits - logits.mean(-1, keepdims=True))


def _entropy(proba: Any) -> Any:
    if isinstance(proba, np.ndarray):
        return entr(proba).sum(-1)
    return -(proba * proba.clamp_min(1e-30).log()).sum(-1)


#: probabilities of shape (n_passes, n_samples, n_classes) -> uncertainty of each row
STATISTICS = {
    "variance": variance,
    "predictive_entropy": predictive_entropy,
    "mutual_information": mutual_information,
    "variation_ratio": variation_ratio,
}

#: logits of the same shape -> uncertainty of each row
LOGIT_STATISTICS = {"logit_margin": logit_margin, "logit_variance": logit_variance}

NAMES = (*STATISTICS, *LOGIT_STATISTICS)


def of_passes(logits: Any, names: Iterable[str]) -> Any:
    """Statistics of the passes of some rows, (n_samples, n_statistics)."""
    proba = softmax(logits, axis=-1)
    columns = [
        STATISTICS[name](proba)
        if name in STATISTICS
        else LOGIT_STATISTICS[name](logits)
        for name in names
    ]
    return np.stack(columns, axis=1)


def differentiable(name: str) -> tuple[Callable[..., Any], bool]:
    """Return a statistic with a gradient, and whether it is one of logits."""
    if name == "variation_ratio":
        return soft_variation_ratio, False
    if name in STATISTICS:
        return STATISTICS[name], False
    return LOGIT_STATISTICS[name], True


class DropoutUncertaintyDetector(Detector):
    """Detect adversarial rows by the disagreement of dropout sub-networks.

    A net trained with dropout holds many sub-networks. On genuine rows they agree; on
    many adversarial rows they do not [1]_. Each of ``n_passes`` passes drops one set of
    activations for all rows, so that the passes share what comes before the first
    dropout, and a row's score does not depend on the rows beside it.

    Parameters
    ----------
    estimator : net or None, default=None
        A skorch net with ``torch.nn.Dropout`` modules, a training estimator of this
        package around one, or a Pipeline that ends in either; ``FrozenEstimator(net)``
        for one that is fitted already. None is a small ``nets.DropoutMLP``.
    n_passes : int, default=50
        Number of sub-networks, at least 2.
    statistic : {"variance", "predictive_entropy", "mutual_information", \
            "variation_ratio", "logit_margin", "logit_variance"}, default="variance"
        Measure of disagreement: of class probabilities, or of logits, which still move
        where the probabilities are as good as sure. "logit_margin" is how far the mean
        logit of the second best class is ahead of that of the best.
    masks : {"fixed", "fresh"}, default="fixed"
        "fixed" draws the sub-networks once, in ``fit``; "fresh" draws new ones at
        every call, so that scores vary from call to call.
    contamination : float, default=0.05
        Share of genuine rows that may be flagged, in (0, 0.5].
    cv : float, int or splitter, default=0.2
        Share of the rows held out for the threshold, the number of folds of which the
        first is held out, or a splitter whose first split is used. Not used around a
        frozen model.
    memory : str, joblib.Memory or None, default=None
        Where to keep what ``fit`` learns and the scores of rows, as a folder or a
        Memory, so that a search over ``contamination`` fits and scores once. Models
        count by their weights.
    random_state : int, RandomState instance or None, default=None
        Seeds the split, the training and the sub-networks.

    Attributes
    ----------
    estimator_ : estimator
        The fitted model.
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
        If the net has no dropout module, or calls ``torch.nn.functional.dropout``.
    TypeError
        If the estimator is not a net.

    Warns
    -----
    UserWarning
        If there are too few held-out rows for ``contamination``, or so many of them
        share the lowest score that next to nothing will be flagged.

    See Also
    --------
    RejectingClassifier : A classifier that rejects what a detector flags.

    Notes
    -----
    The threshold comes from rows that the model was not fitted on, by a conformal rank:
    the share of new genuine rows that is flagged is at most ``contamination``, on
    average over draws of the held-out rows.

    All dropout modules of torch are sampled, and the dropout inside MultiheadAttention
    and between the layers of LSTM, GRU and RNN. Functions that drop are refused.

    **What an adaptive attacker does to it**: the sub-networks are differentiable, so he
    lowers the disagreement together with the loss; an attack through all of them
    succeeded on 98 % of MNIST rows [2]_. Variance alone also misses confident
    adversarial rows, on which the sub-networks agree. The masks belong to the fitted
    model and are no secret.

    References
    ----------
    .. [1] R. Feinman, R. Curtin, S. Shintre, A. Gardner, "Detecting Adversarial Samples
       from Artifacts", 2017, arXiv:1703.00410.
    .. [2] N. Carlini, D. Wagner, "Adversarial Examples Are Not Easily Detected", AISec
       2017, arXiv:1705.07263.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sk_advdef import DropoutUncertaintyDetector
    >>> X, y = load_iris(return_X_y=True)
    >>> detector = DropoutUncertaintyDetector(random_state=0).fit(X, y)
    >>> detector.predict(X[:2])
    array([1, 1])
    >>> detector.mean_proba(X[:2]).shape
    (2, 3)
    """

    def __init__(
        self,
        estimator: Any = None,
        *,
        n_passes: int = 50,
        statistic: str = "variance",
        masks: str = "fixed",
        contamination: float = 0.05,
        cv: Any = 0.2,
        memory: Any = None,
        random_state: Any = None,
    ) -> None:
        self.estimator = estimator
        self.n_passes = n_passes
        self.statistic = statistic
        self.masks = masks
        self.contamination = contamination
        self.cv = cv
        self.memory = memory
        self.random_state = random_state

    def __sklearn_tags__(self) -> Any:
        """Return scikit-learn's tags of this estimator."""
        tags = super().__sklearn_tags__()
        tags.non_deterministic = self.masks == "fresh"
        return tags

    def _check_parameters(self) -> None:
        super()._check_parameters()
        check_number(self, "n_passes", self.n_passes, integer=True, low=2)
        check_option(self, "statistic", self.statistic, NAMES)
        check_option(self, "masks", self.masks, ("fixed", "fresh"))
        if self.estimator is not None and not is_net(self.estimator):
            raise TypeError(
                "DropoutUncertaintyDetector needs a net with dropout: a skorch net, "
                "one of our training estimators around one, or a Pipeline that ends in "
                f"either. Got {self.estimator!r}."
            )

    def _default_estimator(self, y: Any) -> Any:
        import torch
        from skorch import NeuralNetClassifier

        from sk_advdef.nets import DropoutMLP

        return NeuralNetClassifier(
            DropoutMLP,
            module__n_classes=max(2, len(np.unique(y))),
            criterion=torch.nn.CrossEntropyLoss,
            optimizer=torch.optim.Adam,
            lr=3e-3,
            batch_size=32,
            max_epochs=20,
            iterator_train__shuffle=True,
            train_split=None,
            verbose=0,
        )

    def _fit_scores(self, X: Any, y: Any, seed: int) -> None:
        self._seed = seed

    def _passes(self, X: Any) -> Iterator[np.ndarray]:
        """Yield scores of all passes, block by block of rows, in float64."""
        import torch

        from sk_advdef._torch._net import locate_net, transformed
        from sk_advdef._torch._net_view import view_of_net
        from sk_advdef._torch._sampled import SampledNet

        before, net, n_classes = locate_net(self.estimator_)
        sampled = None
        for block in blocks_of(X):
            block = transformed(before, block)
            sampled = sampled or SampledNet(
                view_of_net(net, n_classes),
                torch.tensor(block[:2]),
                n_passes=self.n_passes,
                seed=self._seed if self.masks == "fixed" else seed_from(None),
            )
            for rows in gen_batches(len(block), sampled.rows_at_a_time()):
                with torch.inference_mode():
                    scores = sampled.scores(torch.tensor(block[rows]))
                yield scores.cpu().numpy().astype(np.float64)

    def _raw_statistics(self, X: Any, names: Iterable[str]) -> np.ndarray:
        return np.concatenate([of_passes(block, names) for block in self._passes(X)])

    def _raw_scores(self, X: Any) -> np.ndarray:
        return -self._raw_statistics(X, [self.statistic])[:, 0]

    def _as_score_module(self) -> Any:
        from torch import nn

        from sk_advdef._torch._net import locate_net
        from sk_advdef._torch._net_view import view_of_net
        from sk_advdef._torch._registry import build
        from sk_advdef._torch._sampled import Disagreement

        check_is_fitted(self)
        before, net, n_classes = locate_net(self.estimator_)
        return Disagreement(
            view_of_net(net, n_classes),
            *differentiable(self.statistic),
            n_passes=self.n_passes,
            seed=self._seed if self.masks == "fixed" else None,
            before=nn.Sequential(*(build(step, "transform") for step in before)),
        )

    def uncertainty(self, X: Any) -> np.ndarray:
        """Return the disagreement of the sub-networks: minus ``score_samples``.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, n_features), or stacked images
            Rows.

        Returns
        -------
        uncertainty : ndarray of float64 of shape (n_samples,)
            The chosen statistic, at least 0 up to rounding ("logit_margin": at most 0).
        """
        check_is_fitted(self)
        return -self.score_samples(X)

    def statistics(self, X: Any, names: Sequence[str] | None = None) -> np.ndarray:
        """Return several statistics of the same passes, for the price of one.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, n_features), or stacked images
            Rows.
        names : sequence of str or None, default=None
            Statistics, as for the parameter ``statistic``; None for all of them.

        Returns
        -------
        statistics : ndarray of float64 of shape (n_samples, n_statistics)
            A column for each name, higher for more uncertain.
        """
        check_is_fitted(self)
        names = NAMES if names is None else names
        if isinstance(names, str) or not names:
            raise invalid(self, "names", "a list of statistics, not empty", names)
        for name in names:
            check_option(self, "names", name, NAMES)
        return self._raw_statistics(self._rows(X), names)

    def mean_proba(self, X: Any) -> np.ndarray:
        """Return class probabilities, mean over the sub-networks.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, n_features), or stacked images
            Rows.

        Returns
        -------
        proba : ndarray of shape (n_samples, n_classes)
            Rows sum to one; columns as in ``estimator_.classes_``.
        """
        check_is_fitted(self)
        passes = self._passes(self._rows(X))
        return np.concatenate([softmax(block, axis=-1).mean(0) for block in passes])
