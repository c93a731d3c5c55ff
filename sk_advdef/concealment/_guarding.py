"""How a guard takes a call: check, throttle, ask, watch, act."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Self

import numpy as np

from sk_advdef._torch._models import is_frozen, last_step, unfrozen
from sk_advdef._validation import check_flag, check_number, check_option, invalid
from sk_advdef.concealment._accounts import account_id, per_row
from sk_advdef.concealment._concealed import ConcealedClassifier
from sk_advdef.concealment._gate import Gate
from sk_advdef.concealment._gcra import SECOND, parse_rate
from sk_advdef.concealment._history import NO_NOTE, Seen
from sk_advdef.concealment._refused import QueryRefused
from sk_advdef.concealment._secrets import check_variable, is_set, key_from
from sk_advdef.concealment._similar import SimilarQueryDetector
from sk_advdef.concealment._store import StoreError, open_store
from sk_advdef.concealment._watch import drop_state, state_of
from sk_advdef.concealment._wrapping import WrappingClassifier

ACTIONS = ("reject", "label", "delay", "flag", "decoy")
#: Parameters that the live state is made of.
OF_STATE = ("limit", "burst", "store", "on_store_failure", "secret", "clock")
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


class Guarding(WrappingClassifier):
    """All of a guard but what it answers; the parameters are those of its subclass."""

    limit: str | None
    monitor: Any
    store: str
    action: str
    burst: int | None
    suspicious_cost: float | None
    delay: float
    allow: Sequence[Any]
    on_store_failure: str
    log_inputs: bool
    secret: str
    clock: Callable[[], float] | None

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
        allow = self.allow
        # an iterator would be used up by the first look at it
        several = (
            np.ndim(allow)
            if hasattr(allow, "__array__")
            else (isinstance(allow, Iterable) and not isinstance(allow, Iterator))
        )
        if isinstance(allow, (str, bytes)) or not several:
            raise invalid(self, "allow", "a sequence of accounts", allow)
        for account in allow:
            account_id(self, account, parameter="allow")
        if self.clock is not None and not callable(self.clock):
            raise invalid(self, "clock", "a callable or None", self.clock)
        if not isinstance(unfrozen(self.monitor), (SimilarQueryDetector, type(None))):
            allowed = "None or a SimilarQueryDetector, frozen or not"
            raise invalid(self, "monitor", allowed, self.monitor)
        check_variable(self, self.secret)
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
                f"action={self.action!r} of {type(self).__name__} is not quiet: {why}. "
                "Quiet are 'flag' and 'decoy', with a suspicious_cost of 1.",
                UserWarning,
                stacklevel=4,
            )

    def _cost(self) -> float:
        if self.suspicious_cost is not None:
            return self.suspicious_cost
        return 1.0 if self.action in ("flag", "decoy") else VISIBLE_COST

    def _adopt(self) -> None:
        super()._adopt()
        if "monitor_" not in vars(self):
            self.monitor_ = unfrozen(self.monitor)

    def set_params(self, **params: Any) -> Self:
        """Set parameters; those of a guard that is in use take effect at once.

        A change of ``limit``, ``burst``, ``store``, ``on_store_failure``, ``secret`` or
        ``clock`` begins anew with what the guard remembers in this process, as do
        another ``estimator`` and ``monitor`` where both are frozen.

        Parameters
        ----------
        **params : dict
            Parameters of the guard, or of what is within it, as ``monitor__scope``.

        Returns
        -------
        self : GuardedClassifier
            The guard.

        Raises
        ------
        ValueError
            If a name is unknown, or the guard is in use and a value is not allowed. The
            guard is then as before; of an object that was given by the same call, what
            was set within it is not.
        """
        before = self.get_params(deep=True)
        models = [unfrozen(model) for model in (self.estimator, self.monitor)]
        in_use = "estimator_" in vars(self)
        try:
            super().set_params(**params)
            if not in_use:
                return self
            self._check_parameters()
        except BaseException:
            own = self.get_params(deep=False)
            for name in own:
                setattr(self, name, before[name])
            # and what was set within, as monitor__scope
            within = {name: before[name] for name in params if name in before}
            super().set_params(**{k: v for k, v in within.items() if k not in own})
            raise
        now = (unfrozen(model) for model in (self.estimator, self.monitor))
        is_other = any(a is not b for a, b in zip(now, models, strict=True))
        if is_other and self._is_ready_without_fit():
            self._forget_adopted()
            drop_state(self)
        elif any(getattr(self, name) != before[name] for name in OF_STATE):
            drop_state(self)
        return self

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
        gate = self._gate()
        if self.monitor_ is not None:
            gate.catch_up(self._monitor_time())

    def _monitor_time(self) -> float:
        """Return the time of the monitor, which goes by the guard's clock if any."""
        return self.monitor_._now() if self.clock is None else self._gate().now()

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

    def _throttle(self, call: Call) -> Call:
        """Let a call through, or refuse it; watch none that the store failed."""
        gate = self._gate()
        free = call.n_rows - len(call.watched)
        gate.count(calls=1, rows=call.n_rows, allowed_rows=free)
        failed = gate.throttle(call.accounts)
        return call._replace(rows=None) if failed else call

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
                self._monitor_time(),
            )
        except StoreError as error:
            gate.fail(error, names)
            return suspicious, found
        suspicious[at] = [one.score < self.monitor_.offset_ for one in seen]
        found[at] = [one.note for one in seen]
        self._report(gate, call, seen)
        return suspicious, found

    def _report(self, gate: Gate, call: Call, seen: list[Seen]) -> None:
        names = call.accounts
        gate.count(repeated_rows=sum(one.is_repeat for one in seen))
        gate.remember_scores(names, seen)
        offset = self.monitor_.offset_
        at = [i for i, one in enumerate(seen) if one.score < offset]
        if not at:
            return
        gate.count(suspicious_rows=len(at))
        suspects = [names[i] for i in at]
        more: dict[str, Any] = {"rows": call.watched[at].tolist()}
        more |= {"action": self.action, "offset": offset}
        more["scores"] = [seen[i].score for i in at]
        if self.log_inputs and call.rows is not None:
            more["inputs"] = call.rows[at].tolist()
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
        call = self._throttle(self._checked_call(X, account))
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

    def _are_classes(self, notes: np.ndarray) -> np.ndarray:
        """Tell which notes are columns of classes; another model may have made them."""
        return (notes != NO_NOTE) & (notes < len(self.classes_))

    def _labels_for_decoys(self, method: str, X: Any, answers: np.ndarray) -> Any:
        """Return the column of each answer, NO_NOTE where it is none of the classes."""
        if self.action not in ("decoy", "label"):
            return None
        labels = answers if method == "predict" else self._ask("predict", X)
        at = self._places(labels)
        return np.where(self.classes_[at] == labels, at, NO_NOTE)

    def _admit(self, call: Call) -> np.ndarray:
        """Throttle and watch a call; return which rows are suspicious."""
        return self._watch(self._throttle(call))[0]
