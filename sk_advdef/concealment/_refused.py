"""The answer to a query that is refused."""

from __future__ import annotations


class QueryRefused(RuntimeError):
    """A guard gives no answer.

    Parameters
    ----------
    reason : {"rate", "similar", "unavailable"}
        The account asked too often; a row was like earlier ones; the guard's store did
        not answer.
    retry_after : float
        Seconds after which asking again makes sense.

    Attributes
    ----------
    reason : str
        Why.
    retry_after : float
        Seconds to wait.

    See Also
    --------
    GuardedClassifier : Raises this.

    Examples
    --------
    >>> from sk_advdef import QueryRefused
    >>> try:
    ...     raise QueryRefused("rate", 1.5)
    ... except QueryRefused as refused:
    ...     print(refused.reason, refused.retry_after)
    rate 1.5
    """

    def __init__(self, reason: str, retry_after: float) -> None:
        self.reason = reason
        self.retry_after = retry_after
        super().__init__(reason, retry_after)

    def __str__(self) -> str:
        """Return words that are fit for whoever asked."""
        return f"The query is refused. Try again after {self.retry_after:.3g} seconds."
