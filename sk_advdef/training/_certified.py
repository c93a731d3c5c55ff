"""Training for answers that are proved to stay as they are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from sk_advdef._base import all_or_nothing
from sk_advdef._progress import progress
from sk_advdef._torch._models import is_net, last_step, with_gradients
from sk_advdef._validation import (
    check_classifier,
    check_flag,
    check_number,
    check_option,
    seed_from,
)
from sk_advdef.attacks._geometry import check_bounds, check_eps
from sk_advdef.attacks._table import Table
from sk_advdef.training._base import TrainingClassifier, fit_net
from sk_advdef.training._certified_result import CertifiedResult, box_of, certificate

#: Rows of the training set on which the certified accuracy is watched.
WATCHED_ROWS = 256


class CertifiedClassifier(TrainingClassifier):
    """Train a net by interval bounds, and certify its answers.

    In each batch the whole box around a row goes through the net, as bounds of every
    activation, and the loss is that of the worst scores that the bounds allow [1]_. A
    row whose class leads at the end, whatever the bounds allow, is certified: no
    attack within ``eps``, known or yet to be found, changes the answer. Weights start
    where bounds keep their width, ``eps`` grows from 0, and regularizers hold bounds
    tight and units balanced while it grows [2]_.

    Parameters
    ----------
    estimator : net
        A skorch net, or a Pipeline that ends in one. Its optimizer, callbacks and
        schedules stay in force. See the notes for what may be in it.
    eps : float or array of floats that fits one sample
        Radius of the ball (Linf), in [0, inf), in units of the raw input, also where a
        Pipeline scales it.
    bounds : tuple (low, high) or None, default=(0.0, 1.0)
        Box that input stays in: two numbers, or arrays with a value a feature; None
        for no box. A box makes more rows certain.
    eps_train : float, array of floats or None, default=None
        Radius to train with; None is ``eps``. Somewhat more than ``eps`` often
        certifies more at ``eps``.
    ramp : float, default=0.4
        Part of the net's ``max_epochs``, in [0, 1], in which the radius grows to
        ``eps_train``.
    clean_weight : float, default=0.0
        Weight, in [0, 1), of the loss on the clean rows beside that of the bounds.
    regularization : float, default=0.5
        Weight, in [0, inf), of the regularizers; it falls to 0 as the radius grows.
    normalize_by : {"rows", "centers"}, default="rows"
        Where batch normalization takes its statistics from in training: the clean rows,
        as in [2]_, or the centers of what their boxes become. The latter saves the
        clean rows' way through the net, about a fifth of the time. It needs a
        ``clean_weight`` of 0.
    initialize : bool, default=True
        Whether linear and convolution layers get new weights that suit bounds. False
        keeps those that the module comes with.
    random_state : int, RandomState instance or None, default=None
        Seeds the training and the choice of rows that are watched.
    verbose : int, default=0
        1 shows a progress bar.

    Attributes
    ----------
    estimator_ : estimator
        The fitted model.
    classes_ : ndarray of shape (n_classes,)
        Sorted labels.
    history_ : list of dict
        An entry an epoch: all that the net recorded; ``train_eps_share``, the part of
        ``eps_train`` reached; and ``clean_accuracy`` and ``certified_accuracy`` (within
        ``eps``) on up to 256 rows of the training set.
    n_features_in_ : int
        Number of features seen in ``fit`` (for stacked images, their first axis).
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of features seen in ``fit``, where ``X`` has names that are all strings.

    Raises
    ------
    TypeError
        If ``estimator`` is not a net, or a part of it cannot be bounded; the message
        names the module.
    ValueError
        If ``estimator`` is frozen, ``X`` lies outside ``bounds``, ``normalize_by`` is
        ``"centers"`` beside a ``clean_weight`` above 0, or the loss that the net's
        criterion means on worst scores is not known: that of a subclass of ``NLLLoss``,
        for one.

    See Also
    --------
    certified_accuracy_score : The share of rows certified, for linear models and trees
        too.
    AdversariallyAugmentedClassifier : Train on attacked rows: more accuracy under the
        attacks that one runs, nothing proved.

    Notes
    -----
    *What can be bounded.* The bounds go through the module's own ``forward``. Known are
    linear layers, convolutions (not transposed), batch normalization, most activations
    that never fall (ReLU, leaky ReLU, sigmoid, tanh, ELU, SELU, softplus, clamping),
    average and max pooling (adaptive too), dropout, sums (residual connections),
    products, and reshaping, slicing, joining and padding. Steps before the net in a
    Pipeline go the same way. Anything else, such as attention, layer normalization or
    PReLU, is an error that names it.

    *Rounding.* ``certify`` computes in float64 and widens the bounds at each step by
    the largest error that the net's own float32 arithmetic can make, in any order of
    summation; a lead must also exceed what a softmax may round to a tie. So the
    certificate is about the numbers that ``predict`` computes and not about an ideal
    net, for rows of float32 and of float64. It does not cover convolution by transforms
    (Winograd, FFT): nets are refused where PyTorch is set to choose them on a CPU, that
    is without oneDNN while NNPACK is on.

    torch can be told to multiply numbers of float32 in a narrower dtype, by
    ``torch.set_float32_matmul_precision``, ``fp32_precision`` of a backend, or the
    environment variable ``ONEDNN_DEFAULT_FPMATH_MODE``. Then rounding to bfloat16 is
    accounted for, and little is certified. A certificate holds while torch stays set
    as it was in ``certify``.

    *Mixed precision.* A module that goes through its layers under
    ``torch.autocast("cpu", torch.bfloat16, enabled=self.training)`` is trained so:
    products are narrowed, and bounds stay in the dtype of the rows. On CPUs with
    instructions for bfloat16 this saves time; on others it takes many times as long. A
    module that answers under autocast cannot be certified.

    *Methods.* ``certify`` by ``"ibp"`` takes interval bounds, as in training [1]_. They
    are loose on a net that was not trained for them. ``"crown-ibp"`` then bounds each
    lead of the class answered, of rows left open, by a linear function of the input
    that goes backward through the net, in which a line stands for each ReLU, leaky ones
    too [3]_; the lines' slopes are searched for each lead, by 20 steps of Adam [4]_.
    Intervals still bound what goes into each ReLU: ``"alpha-crown"`` bounds that by
    linear functions too, by two backward passes a unit that may be on or off, where
    [4]_ searches those slopes as well. Behind any other function that is no line
    (sigmoid, max pooling, clipping, a product, log-softmax) linear bounds start anew
    from intervals: end a module in logits. Where modules move rows off the first axis,
    these are bounded one by one.

    *What it costs.* Training for bounds costs clean accuracy.

    **What an adaptive attacker does to it**: within ``eps`` and ``bounds``, nothing to
    a certified row: this is a proof about this model, not a record of attacks that
    failed. Rows that are not certified, larger changes, other norms (an L2 ball of the
    same radius lies inside, a larger one does not) and changes that are no small ones
    are open to him, and so is all that happens before ``X``.

    References
    ----------
    .. [1] S. Gowal et al., "On the Effectiveness of Interval Bound Propagation for
       Training Verifiably Robust Models", 2018, arXiv:1810.12715.
    .. [2] Z. Shi, Y. Wang, H. Zhang, J. Yi, C.-J. Hsieh, "Fast Certified Robust
       Training with Short Warmup", NeurIPS 2021, arXiv:2103.17268.
    .. [3] H. Zhang, T.-W. Weng, P.-Y. Chen, C.-J. Hsieh, L. Daniel, "Efficient Neural
       Network Robustness Certification with General Activation Functions", NeurIPS
       2018, arXiv:1811.00866.
    .. [4] K. Xu et al., "Fast and Complete: Enabling Complete Neural Network
       Verification with Rapid and Massively Parallel Incomplete Verifiers", ICLR 2021,
       arXiv:2011.13824.

    Examples
    --------
    >>> import torch
    >>> from skorch import NeuralNetClassifier
    >>> from sklearn.datasets import load_digits
    >>> from sk_advdef import CertifiedClassifier
    >>> from sk_advdef.nets import DropoutMLP
    >>> X, y = load_digits(return_X_y=True)
    >>> net = NeuralNetClassifier(
    ...     DropoutMLP,
    ...     module__n_classes=10,
    ...     module__hidden=(32,),
    ...     module__dropout=0.0,
    ...     criterion=torch.nn.CrossEntropyLoss,
    ...     optimizer=torch.optim.Adam,
    ...     lr=0.01,
    ...     max_epochs=12,
    ...     train_split=None,
    ...     verbose=0,
    ... )
    >>> model = CertifiedClassifier(net, eps=0.05, random_state=0).fit(X / 16, y)
    >>> result = model.certify(X[:200] / 16)
    >>> bool(result.certified.mean() > 0.5)
    True
    """

    def __init__(
        self,
        estimator: Any,
        *,
        eps: Any,
        bounds: Any = (0.0, 1.0),
        eps_train: Any = None,
        ramp: float = 0.4,
        clean_weight: float = 0.0,
        regularization: float = 0.5,
        normalize_by: str = "rows",
        initialize: bool = True,
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        self.estimator = estimator
        self.eps = eps
        self.bounds = bounds
        self.eps_train = eps_train
        self.ramp = ramp
        self.clean_weight = clean_weight
        self.regularization = regularization
        self.normalize_by = normalize_by
        self.initialize = initialize
        self.random_state = random_state
        self.verbose = verbose

    @all_or_nothing
    def fit(self, X: Any, y: Any) -> CertifiedClassifier:
        """Train by interval bounds.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, n_features), or stacked images
            Rows, inside ``bounds``.
        y : array-like of shape (n_samples,)
            Labels.

        Returns
        -------
        self : CertifiedClassifier
            The fitted classifier.
        """
        check_number(self, "ramp", self.ramp, low=0, high=1)
        check_number(
            self, "clean_weight", self.clean_weight, low=0, high=1, closed="left"
        )
        check_number(self, "regularization", self.regularization, low=0)
        check_option(self, "normalize_by", self.normalize_by, ("rows", "centers"))
        if self.normalize_by == "centers" and self.clean_weight > 0:
            raise ValueError(
                "CertifiedClassifier with normalize_by='centers' sends no clean rows "
                f"through the net, and clean_weight={self.clean_weight!r} needs them. "
                "Set clean_weight=0 or normalize_by='rows'."
            )
        check_flag(self, "initialize", self.initialize)
        check_classifier(self, "estimator", self.estimator)
        if not is_net(self.estimator):
            raise TypeError(
                f"CertifiedClassifier trains nets, and {self.estimator!r} is none. "
                "Linear models and trees need no training to be certified: fit one and "
                "ask certified_accuracy_score."
            )
        X, y = self._checked(X, y)
        raw = Table(X).values
        box_of(self, raw, self.eps, self.bounds)  # refuses what is no box
        if self.eps_train is not None:
            check_eps(self, self.eps_train, raw.shape[1:], name="eps_train")
        classes = np.unique(y)
        seed = seed_from(self.random_state)

        def around(net: Any, Xt: Any, codes: np.ndarray, before: list[Any]) -> Any:
            return _bounds_in_the_loop(
                self, net, raw, codes, before, len(classes), seed
            )

        self.estimator_ = fit_net(self.estimator, X, y, seed, around)
        self.history_ = [
            {k: v for k, v in row.items() if k != "batches"}
            for row in last_step(self.estimator_).net_.history.to_list()
        ]
        self.classes_ = classes
        return self

    @with_gradients
    def certify(
        self, X: Any, *, eps: Any = None, method: str = "ibp"
    ) -> CertifiedResult:
        """Tell which answers are proved to stay as they are.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, n_features), or stacked images
            Rows inside ``bounds``.
        eps : float, array of floats or None, default=None
            Radius (Linf) in units of ``X``; None is the ``eps`` of the classifier.
        method : {"ibp", "crown-ibp", "alpha-crown"}, default="ibp"
            How it is proved; each of these goes on where the one before leaves a row
            open: see *Methods* in the notes of the class.

        Returns
        -------
        result : CertifiedResult
            Whether each answer of ``predict`` is certified, and by which margin. It
            says nothing of whether the answer is right: see
            :func:`certified_accuracy_score`.
        """
        check_is_fitted(self)
        X = self._rows(X)
        eps = self.eps if eps is None else eps
        return certificate(self, self.estimator_, X, eps, self.bounds, method)

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return class probabilities.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, n_features), or stacked images
            Rows.

        Returns
        -------
        proba : ndarray of shape (n_samples, n_classes)
            Rows sum to one; columns as in ``classes_``.
        """
        check_is_fitted(self)
        return self.estimator_.predict_proba(self._rows(X))

    def predict(self, X: Any) -> np.ndarray:
        """Return the most probable class.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, n_features), or stacked images
            Rows.

        Returns
        -------
        y : ndarray of shape (n_samples,)
            Labels.
        """
        check_is_fitted(self)
        return self.estimator_.predict(self._rows(X))

    def _as_module(self) -> Any:
        from sk_advdef._torch._registry import build

        return build(self.estimator_)


@contextmanager
def _bounds_in_the_loop(
    owner: CertifiedClassifier,
    net: Any,
    X: np.ndarray,
    codes: np.ndarray,
    before: list[Any],
    n_classes: int,
    seed: int,
) -> Iterator[Any]:
    """Let a net train on raw rows by the worst scores that bounds allow.

    ``before`` are the transformers before the net, through which the bounds go too.
    """
    from sk_advdef._torch._ibp import BoundedSteps, initialize_for_bounds
    from sk_advdef._torch._net import LiveModel
    from sk_advdef._torch._resume import hooked, settings, take_part

    codes = codes.astype(np.int64)
    live = LiveModel(net, before, n_classes, np.arange(n_classes))
    if owner.initialize:
        initialize_for_bounds(net.module_)
    low, high = check_bounds(owner, owner.bounds, X)
    steps = BoundedSteps(
        net,
        live,
        n_classes,
        eps=owner.eps if owner.eps_train is None else owner.eps_train,
        box=(low, high),
        ramp=owner.ramp * net.max_epochs,
        clean_weight=owner.clean_weight,
        regularization=owner.regularization,
        by_rows=owner.normalize_by == "rows",
    )
    take_part(net, settings(owner))
    rng = np.random.default_rng(seed)
    watched = rng.permutation(len(X))[:WATCHED_ROWS]
    ends = box_of(owner, X[watched], owner.eps, owner.bounds)
    bar = progress(owner, owner.verbose, total=net.max_epochs, desc="epochs")

    def on_epoch_end(original: Any, *args: Any, **params: Any) -> Any:
        reached = {"train_eps_share": steps.share}
        live.renew()
        reached |= _watched(live, X[watched], ends, codes[watched])
        for name, value in reached.items():
            net.history.record(name, value)
        bar.update(len(net.history) - bar.n)
        bar.set_postfix({k: f"{v:.2f}" for k, v in reached.items()})
        return original(*args, **params)

    with bar, hooked(net, **steps.hooks(), on_epoch_end=on_epoch_end):
        yield live.as_rows(X)


def _watched(
    live: Any, X: np.ndarray, ends: tuple[np.ndarray, np.ndarray], codes: np.ndarray
) -> dict[str, float]:
    from sk_advdef._torch._bounds import certified_margins

    margin = certified_margins(live._as_module(), *ends, codes, dtype=X.dtype)
    return {
        "clean_accuracy": float((live.predict(X) == codes).mean()),
        "certified_accuracy": float((margin > 0).mean()),
    }
