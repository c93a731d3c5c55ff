"""What a diagnosis found, in words, as HTML and as plain objects."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from sk_advdef.evaluation._html import escaped
from sk_advdef.evaluation._report import plain

SEVERITIES = ("severe", "warning", "note")


@dataclass(frozen=True)
class Finding:
    """One sign that a figure is not to be trusted.

    Parameters
    ----------
    name : str
        Short name of the check, such as "zero_gradient".
    severity : {"severe", "warning", "note"}
        "severe": the figures say nothing as they stand. "warning": they are likely too
        high. "note": worth knowing.
    evidence : str
        The figures measured.
    meaning : str
        What they are a sign of.
    what_to_do : str
        The next step.
    """

    name: str
    severity: str
    evidence: str
    meaning: str
    what_to_do: str

    def __str__(self) -> str:
        """Return the finding as four lines of text."""
        return (
            f"[{self.severity}] {self.name}\n"
            f"  evidence: {self.evidence}\n"
            f"  meaning: {self.meaning}\n"
            f"  what to do: {self.what_to_do}"
        )


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """The outcome of :func:`diagnose_defense`.

    It is true in a condition where something severe, or worth a warning, was found.

    Parameters
    ----------
    findings : list of Finding
        The worst first; each has ``name``, ``severity``, ``evidence``, ``meaning`` and
        ``what_to_do``.
    figures : dict of str to float
        What was measured on the way: accuracies and shares of rows.
    threat : dict
        Norm, eps, bounds, rows, seed.
    not_checked : list of str
        Checks that could not be made, and why.

    See Also
    --------
    diagnose_defense : The function that makes it.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sk_advdef import diagnose_defense
    >>> X, y = load_iris(return_X_y=True)
    >>> model = LogisticRegression(max_iter=1000).fit(X, y)
    >>> diagnosis = diagnose_defense(
    ...     model, X[::3], y[::3], eps=0.5, bounds=None, random_state=0
    ... )
    >>> diagnosis.ok
    True
    """

    findings: list[Finding]
    figures: dict[str, float] = field(default_factory=dict)
    threat: dict[str, Any] = field(default_factory=dict)
    not_checked: list[str] = field(default_factory=list)

    @property
    def severe(self) -> list[Finding]:
        """The severe findings alone."""
        return [f for f in self.findings if f.severity == "severe"]

    @property
    def ok(self) -> bool:
        """Whether nothing severe and nothing worth a warning was found."""
        return all(f.severity == "note" for f in self.findings)

    def __bool__(self) -> bool:
        """Tell whether anything worse than a note was found."""
        return not self.ok

    def to_dict(self) -> dict[str, Any]:
        """Return findings and figures as plain Python objects.

        Returns
        -------
        diagnosis : dict
            Ready for JSON.
        """
        threat = {k: plain(v) for k, v in self.threat.items()}
        return {
            "ok": self.ok,
            "findings": [asdict(finding) for finding in self.findings],
            "figures": plain(self.figures),
            "threat": threat,
            "not_checked": list(self.not_checked),
        }

    def _summary(self) -> str:
        counts = [sum(f.severity == s for f in self.findings) for s in SEVERITIES]
        found = ", ".join(
            f"{count} {name}" for count, name in zip(counts, SEVERITIES, strict=True)
        )
        threat = ", ".join(f"{k} {_short(v)}" for k, v in self.threat.items())
        if not self.findings:
            return (
                f"No sign that the evaluation fails ({threat}). That is no proof: "
                "only these checks were made."
            )
        return f"Findings: {found} ({threat})."

    def __str__(self) -> str:
        """Return the findings as text."""
        lines = [self._summary(), *map(str, self.findings)]
        return "\n".join([*lines, *(f"Not checked: {t}" for t in self.not_checked)])

    def _repr_html_(self) -> str:
        names = ("severity", "name", "evidence", "meaning", "what_to_do")
        head = "".join(f"<th>{name.replace('_', ' ')}</th>" for name in names)
        body = "".join(
            "<tr>"
            + "".join(f"<td>{escaped(getattr(f, name))}</td>" for name in names)
            + "</tr>"
            for f in self.findings
        )
        table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        words = "".join(
            f"<p>Not checked: {escaped(text)}</p>" for text in self.not_checked
        )
        top = f"<p>{escaped(self._summary())}</p>"
        return top + (table if self.findings else "") + words


def _short(value: Any) -> str:
    if isinstance(value, np.ndarray) and value.size > 4:
        return f"{value.min():.3g} to {value.max():.3g} by feature"
    if isinstance(value, tuple):
        return f"({', '.join(map(_short, value))})"
    return str(value)
