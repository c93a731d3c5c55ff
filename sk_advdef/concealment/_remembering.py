"""How a detector remembers: its history, its keys, and the log that it shares."""

from __future__ import annotations

import time
from collections.abc import Callable
from hashlib import blake2b
from typing import Any

import numpy as np

from sk_advdef._validation import seconds
from sk_advdef.concealment._accounts import account_id
from sk_advdef.concealment._columns import Bounds
from sk_advdef.concealment._comparing import Comparing, digest_of
from sk_advdef.concealment._history import NO_NOTE, History, Query, Seen
from sk_advdef.concealment._matching import Families, Neighbors, Sketches
from sk_advdef.concealment._secrets import is_set, key_from, process_key
from sk_advdef.concealment._store import Store
from sk_advdef.concealment._watch import LAYOUT, Watch, state_of


class Remembering(Comparing):
    """Makes and asks a watch; the parameters are those of its subclass."""

    scope: str
    max_rows: int
    account_quota: int
    max_age: float
    max_bytes: int | None
    clock: Callable[[], float] | None

    def _row_bytes(self) -> int:
        if self.method_ == "fingerprint":
            return 7 * (self.sketch_size + 1) + 44
        return 5 * (len(self._mean) + 1) + 54

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
        if not shared:
            # or two rows could be made whose digests are equal, and one hides the other
            key = key or process_key("digests of queries")
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
        settings = (LAYOUT, self.method_, self.scope, self.n_neighbors)
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

    def _now(self) -> float:
        return time.time() if self.clock is None else seconds(self, self.clock)

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
                digest_of(row, watch.key),
                code,
                NO_NOTE if notes is None else int(notes[i]),
            )
            for i, (name, row, code) in enumerate(
                zip(accounts, rows, codes, strict=True)
            )
        ]
        return watch.observe(queries)
