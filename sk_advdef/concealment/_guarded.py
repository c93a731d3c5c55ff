"""A classifier that notices who asks too often, or too often nearly the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.utils.metaestimators import available_if

from sk_advdef._base import all_or_nothing
from sk_advdef._pyplot import pyplot
from sk_advdef._torch._models import is_frozen, unfrozen
from sk_advdef.concealment._feedback import one_hot
from sk_advdef.concealment._guarding import Guarding
from sk_advdef.concealment._secrets import VARIABLE
from sk_advdef.concealment._watch import drop_state
from sk_advdef.concealment._wrapping import has_proba


class GuardedClassifier(Guarding):
    """Stand before a classifier, throttle those who ask, and watch what they ask.

    Parameters
    ----------
    estimator : classifier
        A classifier to be fitted, or ``FrozenEstimator(model)``. The guard is the
        outermost estimator: what is put around it asks as one account.
    limit : str or None, default=None
        Rows of one account in a time, such as "60/minute": a whole number, a slash, and
        second, minute, hour or day. That is the rate at which an account may go on.
        ``burst`` rows may come at once at first and after a pause, so that 119 may pass
        in the first minute of "60/minute". All rows of a call are admitted, or none.
    monitor : SimilarQueryDetector or None, default=None
        Notices rows that are like earlier ones. A clone is fitted on the rows of
        ``fit``; ``FrozenEstimator(monitor)`` is taken as it is.
    store : str, default="memory://"
        Where the guard keeps what it must remember. "memory://" is for the threads of
        one process, "sqlite:///file" for the processes of one host,
        "redis://host:port/db" for many hosts. ``?timeout=`` sets the seconds after
        which a store counts as failed (2). Redis also takes ``prefix=``, and
        ``password_env=`` with the name of an environment variable.
    action : {"reject", "label", "delay", "flag", "decoy"}, default="reject"
        What happens where a row is suspicious. "reject": `QueryRefused` is raised.
        "label": probabilities become one for the label. "delay": the answer waits for
        ``delay`` seconds. "flag": nothing but a line in the audit log. "decoy": the
        answer is the label of the oldest of the similar queries, which may be wrong,
        also for a genuine user whose row is flagged falsely.
    burst : int or None, default=None
        Rows that may be asked at once, in [1, 1000000]. None: as many as the limit
        names.
    suspicious_cost : float or None, default=None
        Rows that a suspicious one counts for, in [1, inf). None: 10 for actions that
        show themselves, 1 for "flag" and "decoy", since a cost can be seen.
    delay : float, default=1.0
        Seconds that "delay" waits, in [0, inf).
    allow : sequence of accounts, default=()
        Accounts that are neither throttled nor watched, such as tools of one's own.
    on_store_failure : {"closed", "open"}, default="closed"
        What happens where the store fails: "closed" refuses, "open" answers without
        limit and monitor. Either is logged.
    log_inputs : bool, default=False
        Whether the audit log also holds the suspicious rows themselves.
    secret : str, default="SK_ADVDEF_SECRET"
        Name of the environment variable with the secret that names of accounts are
        hashed with. Unset, the hashes are plain: whoever reads the store can try names.
    clock : callable or None, default=None
        Returns the time in seconds. None: that of the store.

    Attributes
    ----------
    estimator_ : estimator
        The fitted classifier.
    monitor_ : SimilarQueryDetector or None
        The fitted monitor.
    classes_ : ndarray of shape (n_classes,)
        Labels.
    n_features_in_ : int
        Number of features seen in ``fit`` (for stacked images, their first axis).
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of features seen in ``fit``, where ``X`` has names that are all strings.

    Raises
    ------
    ValueError
        By ``fit``, and by the first call around what is frozen, if a parameter is not
        of the kind described or the store cannot be opened.
    QueryRefused
        By ``predict`` and ``predict_proba``, with a ``reason`` and ``retry_after``.
    RuntimeError
        Where the model itself fails; its own error goes to a log.

    See Also
    --------
    ConcealedClassifier : Says less in each answer.
    SimilarQueryDetector : Notices what the guard acts on.
    QueryGuardMiddleware : Puts the guard before a web application.

    Notes
    -----
    *State.* What the guard remembers is neither cloned nor pickled. With "memory://"
    each object, and each process, counts for itself.

    *Rate.* The generic cell rate algorithm: exact, also over threads and processes, and
    one number an account.

    *Logs.* The logger "sk_advdef.audit" gets a line of JSON for each refusal and each
    suspicious call: when, who, why, which rows, their scores. Rows themselves are
    written only with ``log_inputs``.

    *Quiet actions.* An action is quiet if who is suspected cannot tell it from the
    answer, its form, a wait, or a later ``retry_after``. "flag" and "decoy" are; others
    warn. The time that looking up and logging take can still be measured from nearby.

    ``as_module`` looks straight through: hiding is not robustness.

    **What an adaptive attacker does to it**: a model that falls after few queries falls
    before much is noticed. Random search on the scores of a linear model of digits, the
    one attack that the tests try, succeeds nearly as often with the guard as without.
    He takes a visible action for an answer, as OARS does [1]_, and finds how far apart
    his queries must be so that they pass. He registers many accounts, which the limit
    does not see, nor, unless its scope is "shared", the monitor. He learns from answers
    to unrelated inputs and attacks a copy. Against "decoy" he asks far from where he is
    suspected, or asks again under another account.

    References
    ----------
    .. [1] R. Feng, A. Hooda, N. Mangaokar, K. Fawaz, S. Jha, A. Prakash, "Stateful
       Defenses for Machine Learning Models Are Not Yet Secure Against Black-box
       Attacks", CCS 2023, arXiv:2303.06280.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.frozen import FrozenEstimator
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sk_advdef import GuardedClassifier, QueryRefused
    >>> X, y = load_iris(return_X_y=True)
    >>> model = LogisticRegression(max_iter=1000).fit(X, y)
    >>> guarded = GuardedClassifier(FrozenEstimator(model), limit="3/hour")
    >>> guarded.predict(X[:3], account="alice")
    array([0, 0, 0])
    >>> try:
    ...     guarded.predict(X[:1], account="alice")
    ... except QueryRefused as refused:
    ...     print(refused.reason)
    rate
    >>> guarded.predict(X[:1], account="bob")
    array([0])
    """

    __metadata_request__predict = {"account": True}  # noqa: RUF012 - read by name
    __metadata_request__predict_proba = {"account": True}  # noqa: RUF012

    def __init__(
        self,
        estimator: Any,
        *,
        limit: str | None = None,
        monitor: Any = None,
        store: str = "memory://",
        action: str = "reject",
        burst: int | None = None,
        suspicious_cost: float | None = None,
        delay: float = 1.0,
        allow: Sequence[Any] = (),
        on_store_failure: str = "closed",
        log_inputs: bool = False,
        secret: str = VARIABLE,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self.estimator = estimator
        self.limit = limit
        self.monitor = monitor
        self.store = store
        self.action = action
        self.burst = burst
        self.suspicious_cost = suspicious_cost
        self.delay = delay
        self.allow = allow
        self.on_store_failure = on_store_failure
        self.log_inputs = log_inputs
        self.secret = secret
        self.clock = clock

    @all_or_nothing
    def fit(self, X: Any, y: Any = None) -> GuardedClassifier:
        """Fit the classifier and the monitor; what is frozen stays as it is.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, n_features), or stacked images
            Rows. A monitor that is to be fitted takes them for genuine queries.
        y : array-like of shape (n_samples,) or None, default=None
            Labels; not needed around a frozen classifier.

        Returns
        -------
        self : GuardedClassifier
            The fitted guard, which remembers nothing yet.
        """
        X = self._fit_model(X, y)
        self.monitor_ = unfrozen(self.monitor)
        if self.monitor is not None and not is_frozen(self.monitor):
            self.monitor_ = clone(self.monitor).fit(X)
        drop_state(self)
        return self

    def predict(self, X: Any, *, account: Any = None) -> np.ndarray:
        """Return labels, if the account may ask.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, n_features), or stacked images
            Rows.
        account : str, bytes, int or None, or one a row, default=None
            Who asks. None is an account of its own, shared by all who give no name.

        Returns
        -------
        y : ndarray of shape (n_samples,)
            Labels.

        Raises
        ------
        QueryRefused
            If the account asks too often, if a row is suspicious and ``action`` is
            "reject", or if the store fails and ``on_store_failure`` is "closed".
        """
        answers, suspicious, notes, _ = self._answer("predict", X, account)
        if self.action == "decoy":
            told = suspicious & self._are_classes(notes)
            answers = answers.copy()
            answers[told] = self.classes_[notes[told]]
        return answers

    @available_if(has_proba)
    def predict_proba(self, X: Any, *, account: Any = None) -> np.ndarray:
        """Return class probabilities, if the account may ask.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, n_features), or stacked images
            Rows.
        account : str, bytes, int or None, or one a row, default=None
            Who asks.

        Returns
        -------
        proba : ndarray of shape (n_samples, n_classes)
            Probabilities.

        Raises
        ------
        QueryRefused
            As by ``predict``.
        """
        proba, suspicious, notes, winners = self._answer("predict_proba", X, account)
        if self.action == "label" and suspicious.any():
            proba = proba.copy()
            proba[suspicious] = one_hot(winners[suspicious], proba.shape[1])
        if self.action == "decoy":
            told = np.flatnonzero(suspicious & self._are_classes(notes))
            best, wanted = winners[told], notes[told]
            proba = proba.copy()
            proba[told, best], proba[told, wanted] = (
                proba[told, wanted],
                proba[told, best],
            )
        return proba

    def admit(self, X: Any, *, account: Any = None) -> np.ndarray:
        """Throttle and watch rows without asking the model, as before a server.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, n_features), or stacked images
            Rows.
        account : str, bytes, int or None, or one a row, default=None
            Who asks.

        Returns
        -------
        suspicious : ndarray of bool of shape (n_samples,)
            Which rows are like earlier ones. What the answer to them should be is left
            to the caller, except that "reject" raises and "delay" waits.

        Raises
        ------
        QueryRefused
            As by ``predict``.
        """
        suspicious = self._admit(self._checked_call(X, account))
        self._act(suspicious)
        return suspicious

    # what it noticed

    def stats(self) -> dict[str, int]:
        """Return what this object has counted in this process.

        Returns
        -------
        stats : dict
            ``calls``, ``rows``, ``allowed_rows``, ``repeated_rows``,
            ``suspicious_rows``, ``refused_for_rate``, ``refused_for_similarity``,
            ``refused_as_unavailable``, ``answered_without_store``; with a monitor also
            ``history_rows``, ``history_accounts`` and ``history_bytes``.
        """
        self._adopt()
        return self._gate().stats()

    def plot_account(self, account: Any = None, *, ax: Any = None) -> Any:
        """Draw the latest scores of an account, and the threshold.

        Parameters
        ----------
        account : str, bytes, int or None, default=None
            The account.
        ax : matplotlib Axes or None, default=None
            Where to draw; None makes new axes.

        Returns
        -------
        ax : matplotlib Axes
            Scores over time; those below the line were suspicious.
        """
        self._adopt()
        if self.monitor_ is None:
            raise ValueError("GuardedClassifier has no monitor whose scores to draw.")
        if ax is None:
            ax = pyplot(self, "plot_account").subplots(layout="constrained")[1]
        found = self._gate().recent(account)
        ago = found[:, 0] - (found[-1, 0] if len(found) else 0)
        flagged = found[:, 1] < self.monitor_.offset_
        for some, color, label in (
            (~flagged, "C0", "passed"),
            (flagged, "C3", "suspicious"),
        ):
            ax.plot(ago[some], found[some, 1], ".", color=color, label=label)
        ax.axhline(
            self.monitor_.offset_, color="0.5", linestyle="--", label="threshold"
        )
        ax.set(
            xlabel="seconds before the last query",
            ylabel="distance to earlier queries",
            title=f"Account {account!r}",
        )
        ax.legend()
        return ax
