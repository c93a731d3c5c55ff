"""What a test of an attack's strength found."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from sk_advdef.evaluation._intervals import wilson

#: Share of planted rows that an attack must find.
REQUIRED = 0.95


@dataclass(frozen=True)
class StrengthReport:
    """The outcome of :func:`attack_strength_test`.

    Parameters
    ----------
    success_rate : float
        Share of the planted rows in which the attack found an adversarial example.
    random_rate : float
        The same for random sampling of the ball.
    rows : int
        Rows in which an adversarial example was planted.
    not_planted : int
        Rows in which none could be planted: the scores do not tell it from the other
        points of the ball.
    attack : str
        The attack, as it was given.

    See Also
    --------
    attack_strength_test : The function that makes it.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sk_advdef import PGD, attack_strength_test
    >>> X, y = load_iris(return_X_y=True)
    >>> model = LogisticRegression(max_iter=1000).fit(X, y)
    >>> report = attack_strength_test(
    ...     model, PGD(eps=0.5, bounds=None, random_state=0), X[::10], random_state=0
    ... )
    >>> report.passed
    True
    """

    success_rate: float
    random_rate: float
    rows: int
    not_planted: int
    attack: str

    @property
    def passed(self) -> bool:
        """Whether at least 95 % were found, and more than by random sampling."""
        return self.success_rate >= REQUIRED and self.success_rate > self.random_rate

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the success rate, for the rows as a sample."""
        return wilson(self.success_rate, self.rows)

    def to_dict(self) -> dict[str, Any]:
        """Return all figures as plain Python objects.

        Returns
        -------
        figures : dict
            Ready for JSON.
        """
        return {
            **asdict(self),
            "interval": list(self.interval),
            "passed": self.passed,
        }

    def __str__(self) -> str:
        """Return the verdict as text."""
        if not self.rows:
            return (
                "No adversarial example could be planted: the scores are the same all "
                f"over the ball in {self.not_planted} rows. Gradient and query attacks "
                "have nothing to follow there."
            )
        low, high = self.interval
        verdict = (
            "It passes, which is needed and not enough"
            if self.passed
            else "It is too weak for this model: what it leaves is no figure to quote"
        )
        return (
            f"{self.attack} found {self.success_rate:.1%} ({low:.1%} to {high:.1%}) of "
            f"{self.rows} planted adversarial examples, random sampling "
            f"{self.random_rate:.1%}. {verdict}. Rows without a planted example: "
            f"{self.not_planted}."
        )
