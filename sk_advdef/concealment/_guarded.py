"""A classifier that notices who asks too often, or too often nearly the same."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from sklearn.base import clone
from sklearn.utils.metaestimators import available_if

from sk_advdef._torch._models import is_frozen, last_step, unfrozen
from sk_advdef._validation import check_flag, check_number, check_option, invalid
from sk_advdef.concealment._accounts import account_id, per_row
from sk_advdef.concealment._concealed import ConcealedClassifier
from sk_advdef.concealment._feedback import one_hot
from sk_advdef.concealment._gate import Gate
from sk_advdef.concealment._gcra import SECOND, parse_rate
from sk_advdef.concealment._history import NO_NOTE, Seen
from sk_advdef.concealment._refused import QueryRefused
from sk_advdef.concealment._secrets import VARIABLE, is_set, key_from
from sk_advdef.concealment._similar import SimilarQueryDetector
from sk_advdef.concealment._store import StoreError, open_store
from sk_advdef.concealment._watch import drop_state, state_of
from sk_advdef.concealment._wrapping import WrappingClassifier, has_proba

ACTIONS = ("reject", "label", "delay", "flag", "decoy")
#: What a suspicious row costs where the answer shows that it is one.
VISIBLE_COST = 10.0
#: Seconds to wait after a rejection where there is no limit to reckon by.
WAIT = 60.0


class Call(NamedTuple):
    """What one call asks: all rows, and of those that count, which, whose and as what.

    ``rows`` are those that count as the monitor takes them, None where none watches.
    """

    X: Any
    n_rows: int
    watched: np.ndarray
    accounts: list[Any]
    rows: np.ndarray | None = None


class GuardedClassifier(WrappingClassifier):
    """Stand before a classifier, throttle those who ask, and watch what they ask.

    Parameters
    ----------
    estimator : classifier
        A classifier to be fitted, or ``FrozenEstimator(model)``. The guard is the
        outermost estimator: what is put around it asks as one account.
    limit : str or None, default=None
        Rows of one account in a time, such as "60/minute": a whole number, a slash, and
        second, minute, hour or day. All rows of a call are admitted, or none.
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
        Rows that may be asked at once. None: as many as the limit names.
    suspicious_cost : float or None, default=None
        Rows that a suspicious one counts for. None: 10 for actions that show
        themselves, 1 for "flag" and "decoy", since a cost can be seen.
    delay : float, default=1.0
        Seconds that "delay" waits.
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
    QueryRefused
        By ``predict`` and ``predict_proba``, with a ``reason`` and ``retry_after``.
    RuntimeError
        Where the model itself fails; its own error goes to a log.

    See Also
    --------
    ConcealedClassifier : Says less in each answer.
    SimilarQueryDetector : Notices what the guard acts on.

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
    answer, its form, its time, or a later ``retry_after``. "flag" and "decoy" are; for
    the others a warning says so, at ``fit`` or the first call.

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

    def _is_ready_without_fit(self) -> bool:
        has_monitor = self.monitor is None or is_frozen(self.monitor)
        return has_monitor and is_frozen(self.estimator)

    def _check_parameters(self) -> None:
        parse_rate(self, self.limit, self.burst)
        check_option(self, "action", self.action, ACTIONS)
        check_option(
            self, "on_store_failure", self.on_store_failure, ("closed", "open")
        )
        check_number(self, "delay", self.delay, low=0)
        check_flag(self, "log_inputs", self.log_inputs)
        if self.suspicious_cost is not None:
            check_number(
                self,
                "suspicious_cost",
                self.suspicious_cost,
                low=1,
                otherwise=" or None",
            )
        if isinstance(self.allow, (str, bytes)) or not hasattr(self.allow, "__iter__"):
            raise invalid(self, "allow", "a sequence of accounts", self.allow)
        for account in self.allow:
            account_id(self, account)
        if self.clock is not None and not callable(self.clock):
            raise invalid(self, "clock", "a callable or None", self.clock)
        if not isinstance(unfrozen(self.monitor), (SimilarQueryDetector, type(None))):
            allowed = "None or a SimilarQueryDetector, frozen or not"
            raise invalid(self, "monitor", allowed, self.monitor)
        open_store(self, self.store).close()
        self._warn_where_visible()

    def _warn_where_visible(self) -> None:
        if self.monitor is None:
            return
        why = {
            "reject": "a rejection tells an attacker how far apart his queries must be",
            "delay": "an attacker can measure the time of an answer",
            "label": "an attacker sees that probabilities have become labels",
        }.get(self.action)
        inner = last_step(self.estimator)
        says_labels = isinstance(inner, ConcealedClassifier) and inner.reveal == "label"
        if self.action == "label" and says_labels:
            why = None
        if why is None and self._cost() > 1 and self.limit is not None:
            why = (
                "the cost of suspicious rows shows in how soon an account is throttled"
            )
        if why is not None:
            warnings.warn(
                f"action={self.action!r} of GuardedClassifier is not quiet: {why}. "
                "Quiet are 'flag' and 'decoy', with a suspicious_cost of 1.",
                UserWarning,
                stacklevel=4,
            )

    def _cost(self) -> float:
        if self.suspicious_cost is not None:
            return self.suspicious_cost
        return 1.0 if self.action in ("flag", "decoy") else VISIBLE_COST

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

    def _adopt(self) -> None:
        super()._adopt()
        if "monitor_" not in vars(self):
            self.monitor_ = unfrozen(self.monitor)

    def _make_gate(self) -> Gate:
        store = open_store(self, self.store)
        watch = None if self.monitor_ is None else self.monitor_._make_watch(store)
        key = key_from(self, self.secret, "accounts") if is_set(self.secret) else b""
        return Gate(
            store,
            rate=parse_rate(self, self.limit, self.burst),
            watch=watch,
            key=key,
            is_open=self.on_store_failure == "open",
            clock=self.clock,
        )

    def _gate(self) -> Gate:
        return state_of(self, self._make_gate)

    def _open(self) -> None:
        """Make all that the first call would, so that what is wrong shows now."""
        self._adopt()
        self._gate()

    # one call

    def _checked_call(self, X: Any, account: Any) -> Call:
        """Check what is asked and by whom; raise ValueError, and change nothing."""
        self._adopt()
        X = self._inputs(X)
        gate, accounts = self._gate(), per_row(self, account, len(X))
        watched = np.arange(len(accounts))
        if len(self.allow):
            free = {gate.id_of(name) for name in self.allow}
            watched = watched[[gate.id_of(name) not in free for name in accounts]]
        call = Call(X, len(accounts), watched, [accounts[i] for i in watched])
        gate.check_size(call.accounts)
        if gate.watch is not None and len(watched):
            call = call._replace(rows=self.monitor_._checked(X)[watched])
        return call

    def _throttle(self, call: Call) -> None:
        """Let a call through, or refuse it."""
        gate = self._gate()
        free = call.n_rows - len(call.watched)
        gate.count(calls=1, rows=call.n_rows, allowed_rows=free)
        gate.throttle(call.accounts)

    def _watch(
        self, call: Call, notes: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Score and remember rows; return which are suspicious, and their notes."""
        suspicious = np.zeros(call.n_rows, dtype=bool)
        found = np.full(call.n_rows, NO_NOTE)
        gate, at, rows, names = self._gate(), call.watched, call.rows, call.accounts
        if rows is None:
            return suspicious, found
        notes = None if notes is None else notes[at]
        try:
            seen = self.monitor_._observe(
                rows,
                names,
                gate.watch,
                notes,
                None if self.clock is None else gate.now(),
            )
        except StoreError as error:
            gate.fail(error, names)
            return suspicious, found
        suspicious[at] = [one.score < self.monitor_.offset_ for one in seen]
        found[at] = [one.note for one in seen]
        self._report(gate, rows, names, seen)
        return suspicious, found

    def _report(
        self, gate: Gate, rows: np.ndarray, names: list[Any], seen: list[Seen]
    ) -> None:
        gate.count(repeated_rows=sum(one.is_repeat for one in seen))
        gate.remember_scores(names, seen)
        offset = self.monitor_.offset_
        at = [i for i, one in enumerate(seen) if one.score < offset]
        if not at:
            return
        gate.count(suspicious_rows=len(at))
        suspects = [names[i] for i in at]
        more: dict[str, Any] = {"rows": at, "action": self.action, "offset": offset}
        more["scores"] = [seen[i].score for i in at]
        if self.log_inputs:
            more["inputs"] = rows[at].tolist()
        gate.note("similar", suspects, **more)
        gate.charge(suspects, self._cost() - 1)

    def _refuse(self, suspicious: np.ndarray) -> None:
        """Refuse where that is the action."""
        if self.action == "reject" and suspicious.any():
            gate = self._gate()
            gate.count(refused_for_similarity=1)
            wait = WAIT if gate.rate is None else gate.rate.debit(self._cost()) / SECOND
            raise QueryRefused("similar", wait)

    def _act(self, suspicious: np.ndarray) -> None:
        """Do what shows: refuse, or wait."""
        self._refuse(suspicious)
        if self.action == "delay" and suspicious.any():
            time.sleep(self.delay)

    def _answer(self, method: str, X: Any, account: Any) -> tuple[Any, ...]:
        """Ask the model, then watch; return answers, suspicion, decoys and winners."""
        call = self._checked_call(X, account)
        self._throttle(call)
        try:
            answers = self._ask(method, call.X)
            labels = self._labels_for_decoys(method, call.X, answers)
        except RuntimeError:
            # what breaks the model is remembered like any other query
            self._watch(call)
            raise
        suspicious, notes = self._watch(call, labels)
        self._act(suspicious)
        return answers, suspicious, notes, labels

    def _labels_for_decoys(self, method: str, X: Any, answers: np.ndarray) -> Any:
        """Return the column of each answer, NO_NOTE where it is none of the classes."""
        if self.action not in ("decoy", "label"):
            return None
        labels = answers if method == "predict" else self._ask("predict", X)
        at = self._places(labels)
        return np.where(self.classes_[at] == labels, at, NO_NOTE)

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
            told = suspicious & (notes != NO_NOTE)
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
            told = np.flatnonzero(suspicious & (notes != NO_NOTE))
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

    def _admit(self, call: Call) -> np.ndarray:
        """Throttle and watch a call; return which rows are suspicious."""
        self._throttle(call)
        return self._watch(call)[0]

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
            try:
                import matplotlib.pyplot as plt
            except ImportError as error:
                raise ImportError(
                    "GuardedClassifier.plot_account needs matplotlib. Install it with "
                    'pip install "sk_advdef[plot]".'
                ) from error
            ax = plt.subplots(layout="constrained")[1]
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
