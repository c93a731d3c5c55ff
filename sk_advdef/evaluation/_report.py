"""What an evaluation found: figures, words and pictures."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from sk_advdef._pyplot import pyplot
from sk_advdef.evaluation._html import escaped
from sk_advdef.evaluation._intervals import wilson


@dataclass(frozen=True)
class AttackFigures:
    """What one attack left of the accuracy, and what it took.

    ``knows`` says what the attacker knew; ``share`` is the accuracy under this attack
    on the rows it was run on, ``distortion`` the median length of the successful
    changes, ``queries`` the mean number of forward passes a row, ``settings`` the
    attack with what it was given.
    """

    attack: str
    knows: str
    share: float
    low: float
    high: float
    rows: int
    distortion: float
    queries: float
    seconds: float
    settings: str = ""


@dataclass(frozen=True, eq=False)
class RobustnessReport:
    """The outcome of :func:`evaluate_robustness`.

    Parameters
    ----------
    attacks : list of AttackFigures
        A line for the clean rows, and one for each attack.
    held : ndarray of bool of shape (n_samples,)
        Rows that were right and stayed so under every attack (worst case per row).
    evaluated : ndarray of bool of shape (n_samples,)
        Rows that every attack was run on; others were cut off by the time budget and
        count neither as held nor as lost.
    threat : dict
        Norm, eps, bounds, seed: what the attackers may do.
    not_tried : list of str
        What was not tried, in words.
    rejection : dict
        For estimators that reject: the error at 1 % and 5 % clean rejection, the share
        of genuine rows rejected, and the share that can be pushed into rejection.
    detection : dict
        For detectors: the share of attacked rows found at 5 % and 1 % false positives,
        beside three baselines on the same rows.
    certified : float or None
        For trees and a CertifiedClassifier, the share of rows of which it is proved
        that nothing the attacker may do changes the right answer: a lower bound. None
        where no proof was tried.
    certified_by : str
        What proved it.

    See Also
    --------
    evaluate_robustness : The function that makes it.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sk_advdef import evaluate_robustness
    >>> X, y = load_iris(return_X_y=True)
    >>> model = LogisticRegression(max_iter=1000).fit(X, y)
    >>> report = evaluate_robustness(
    ...     model, X, y, eps=0.3, bounds=None, random_state=0
    ... )
    >>> report.worst_case_accuracy < report.clean_accuracy
    True
    """

    attacks: list[AttackFigures]
    held: np.ndarray
    evaluated: np.ndarray
    threat: dict[str, Any]
    not_tried: list[str] = field(default_factory=list)
    rejection: dict[str, Any] = field(default_factory=dict)
    detection: dict[str, dict[str, float]] = field(default_factory=dict)
    certified: float | None = None
    certified_by: str = "TreeExact"

    @property
    def clean_accuracy(self) -> float:
        """Accuracy on the rows as they are."""
        return self.attacks[0].share

    @property
    def worst_case_accuracy(self) -> float:
        """Share of the evaluated rows that no attack took: an upper bound."""
        return (
            float(self.held[self.evaluated].mean()) if self.evaluated.any() else np.nan
        )

    @property
    def worst_case_interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the worst case, for the rows as a sample."""
        return wilson(self.worst_case_accuracy, int(self.evaluated.sum()))

    def to_dict(self) -> dict[str, Any]:
        """Return all figures as plain Python objects.

        Returns
        -------
        figures : dict
            Ready for JSON.
        """
        low, high = self.worst_case_interval
        return {
            "threat": {k: plain(v) for k, v in self.threat.items()},
            "rows": len(self.held),
            "evaluated": int(self.evaluated.sum()),
            "clean_accuracy": self.clean_accuracy,
            "worst_case_accuracy": self.worst_case_accuracy,
            "worst_case_interval": [low, high],
            "attacks": [asdict(line) for line in self.attacks],
            "rejection": {k: plain(v) for k, v in self.rejection.items()},
            "detection": self.detection,
            "certified": self.certified,
            "certified_by": None if self.certified is None else self.certified_by,
            "not_tried": self.not_tried,
        }

    def to_json(self) -> str:
        """Return all figures as JSON.

        Returns
        -------
        text : str
            A JSON object; figures that do not exist are null.
        """
        return json.dumps(_without_nan(self.to_dict()), indent=2)

    def to_frame(self) -> Any:
        """Return a line for each attack, and the worst case, as a pandas DataFrame.

        Returns
        -------
        frame : pandas.DataFrame
            Columns as in the printed table.
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise ImportError(
                "RobustnessReport.to_frame needs pandas: pip install pandas"
            ) from error
        return pd.DataFrame([asdict(line) for line in self._lines()])

    def _lines(self) -> list[AttackFigures]:
        low, high = self.worst_case_interval
        worst = AttackFigures(
            "worst case per row",
            "",
            self.worst_case_accuracy,
            low,
            high,
            int(self.evaluated.sum()),
            np.nan,
            float(np.sum([a.queries for a in self.attacks[1:]])),
            float(np.sum([a.seconds for a in self.attacks])),
        )
        return [*self.attacks, worst]

    def _cells(self) -> list[list[str]]:
        head = [
            "attack",
            "knows",
            "accuracy",
            "95 % interval",
            "rows",
            "change",
            "queries",
            "seconds",
        ]
        lines = [
            [
                line.attack,
                line.knows,
                f"{line.share:.1%}",
                f"{line.low:.1%} to {line.high:.1%}",
                f"{line.rows}",
                "" if np.isnan(line.distortion) else f"{line.distortion:.3g}",
                f"{line.queries:.0f}",
                f"{line.seconds:.1f}",
            ]
            for line in self._lines()
        ]
        return [head, *lines]

    def _words(self) -> list[str]:
        threat = ", ".join(f"{k} {_short(v)}" for k, v in self.threat.items())
        words = [
            f"Accuracy under the strongest attack we ran (an upper bound): "
            f"{self.worst_case_accuracy:.1%} of {int(self.evaluated.sum())} rows "
            f"({threat})."
        ]
        cut = len(self.held) - int(self.evaluated.sum())
        if cut:
            words.append(f"Not evaluated, for lack of time: {cut} rows.")
        if self.certified is not None:
            words.append(
                f"Certified by {self.certified_by}: {self.certified:.1%} of these rows."
            )
        for name, value in self.rejection.items():
            words.append(f"{name}: {_short(value)}.")
        for name, figures in self.detection.items():
            told = ", ".join(f"{k} {v:.1%}" for k, v in figures.items())
            words.append(f"Attacked rows found by {name}: {told}.")
        return words + [f"Not tried: {text}" for text in self.not_tried]

    def __str__(self) -> str:
        """Return the table and what it means, as text."""
        cells = self._cells()
        widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
        lines = []
        for row in cells:
            padded = [
                cell.ljust(w) if i < 2 else cell.rjust(w)
                for i, (cell, w) in enumerate(zip(row, widths, strict=True))
            ]
            lines.append("  ".join(padded).rstrip())
        return "\n".join([*lines, "", *self._words()])

    def _repr_html_(self) -> str:
        head, *body = self._cells()
        rows = "".join(
            "<tr>" + "".join(f"<td>{escaped(c)}</td>" for c in row) + "</tr>"
            for row in body
        )
        words = "".join(f"<p>{escaped(w)}</p>" for w in self._words())
        top = "".join(f"<th>{escaped(c)}</th>" for c in head)
        return (
            f"<table><thead><tr>{top}</tr></thead><tbody>{rows}</tbody></table>{words}"
        )

    def plot(self, ax: Any = None) -> Any:
        """Draw the accuracy under each attack, with intervals.

        Parameters
        ----------
        ax : matplotlib Axes or None, default=None
            Where to draw; None makes a figure.

        Returns
        -------
        ax : matplotlib Axes
            The axes drawn on.
        """
        if ax is None:
            _, ax = pyplot(self).subplots(figsize=(7, 0.4 * len(self.attacks) + 1.5))
        lines = self._lines()[::-1]
        shares = np.array([line.share for line in lines])
        below = shares - np.array([line.low for line in lines])
        above = np.array([line.high for line in lines]) - shares
        colors = [
            "C3" if line.knows == "" and line.attack != "clean" else "C0"
            for line in lines
        ]
        ax.barh(range(len(lines)), shares, xerr=[below, above], color=colors, alpha=0.8)
        ax.set_yticks(range(len(lines)), [line.attack for line in lines])
        ax.set_xlim(0, 1)
        ax.set_xlabel("accuracy under attack (upper bound)")
        return ax


def plain(value: Any) -> Any:
    """Return a value as JSON can hold it."""
    if hasattr(value, "to_numpy"):
        value = value.to_numpy()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    known = value is None or isinstance(value, (bool, int, float, str))
    return value if known else repr(value)


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_nan(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_without_nan(v) for v in value]
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, dict):
        return ", ".join(f"{_short(k)}: {_short(v)}" for k, v in value.items())
    if isinstance(value, np.ndarray) and value.size > 4:
        return f"{value.min():.3g} to {value.max():.3g} by feature"
    if isinstance(value, (list, tuple)):
        return f"({', '.join(map(_short, value))})"
    return str(value)
