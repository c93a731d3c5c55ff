"""The audit of a saved model: attack it, and judge the attacks."""

from __future__ import annotations

import argparse
import platform
import warnings
from dataclasses import asdict, dataclass, field
from importlib import metadata
from typing import Any

import numpy as np
from sklearn.utils import _safe_indexing

from sk_advdef._images import resolve_layout
from sk_advdef._version import __version__
from sk_advdef.evaluation import _audit_inputs as inputs
from sk_advdef.evaluation._audit_inputs import AuditError
from sk_advdef.evaluation._diagnose import diagnose_defense
from sk_advdef.evaluation._diagnosis import Diagnosis
from sk_advdef.evaluation._report import RobustnessReport, _without_nan, plain
from sk_advdef.evaluation._robustness import evaluate_robustness
from sk_advdef.evaluation._telling import TellingRow, telling_rows
from sk_advdef.evaluation._trials import default_trials

#: Form of the JSON; raised when a key changes its meaning.
SCHEMA = "sk_advdef-audit-1"
PACKAGES = ("numpy", "scipy", "scikit-learn", "torch", "skorch", "joblib")


@dataclass(frozen=True, eq=False)
class Audit:
    """What an audit found, and all that is needed to make it again.

    ``positions`` are the rows of the data that were audited, ``layout`` how a row is
    an image (None for features).
    """

    report: RobustnessReport
    diagnosis: Diagnosis
    telling: list[TellingRow]
    positions: np.ndarray
    eps: Any
    model: str
    files: dict[str, str]
    command: str
    fail_under: float | None = None
    names: list[str] | None = None
    layout: Any = None
    notes: list[str] = field(default_factory=list)

    @property
    def failures(self) -> list[str]:
        """Why the verdict failed; empty where ``fail_under`` was not asked for."""
        if self.fail_under is None:
            return []
        worst, why = self.report.worst_case_accuracy, []
        # a worst case of no rows is NaN, which is no pass
        if not worst >= self.fail_under:
            why.append(
                f"accuracy under the strongest attack we ran is {worst:.2%}, below "
                f"{self.fail_under:.2%}"
            )
        return why + [f"severe: {finding.name}" for finding in self.diagnosis.severe]

    @property
    def verdict(self) -> str:
        """What became of it, in a sentence."""
        if self.fail_under is None:
            return "No limit was set (--fail-under), so nothing passed or failed."
        if self.failures:
            return f"Failed: {'; '.join(self.failures)}."
        return (
            f"Passed: at least {self.fail_under:.1%} under the attacks we ran, and no "
            "severe finding. A better attack may lower the figure."
        )

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain Python objects, ready for JSON."""
        found = {
            "schema": SCHEMA,
            "verdict": {
                "passed": None if self.fail_under is None else not self.failures,
                "fail_under": self.fail_under,
                "failures": self.failures,
            },
            "robustness": self.report.to_dict(),
            "diagnosis": self.diagnosis.to_dict(),
            "telling_rows": [
                {**asdict(row), "at": int(self.positions[row.at])}
                for row in self.telling
            ],
            "feature_names": self.names,
            "rows": self.positions,
            "model": self.model,
            "files": self.files,
            "command": self.command,
            "versions": versions(),
            "notes": self.notes,
        }
        told: dict[str, Any] = _without_nan(plain(found))
        return told


def versions() -> dict[str, str]:
    """Return the versions that a report was made with."""
    found = {"sk_advdef": __version__, "Python": platform.python_version()}
    found |= {name: metadata.version(name) for name in PACKAGES}
    return found | {"platform": platform.platform()}


def audit(args: argparse.Namespace, command: str) -> Audit:
    """Load, attack, and judge, as the command line says."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = inputs.load_model(args.model, trust=args.trust)
        data = inputs.fitted_to(model, inputs.load_data(args.data, args.target))
        eps, bounds = inputs.threat_of(
            data, args.eps, args.scale, args.fixed, args.bounds
        )
        layout = _layout(data, args.image_shape, args.channel_axis)
        at = np.arange(len(data.y))
        if len(at) > args.rows:
            drawn = np.random.default_rng(args.seed).permutation(len(at))
            at = np.sort(drawn[: args.rows])
        X, y = _safe_indexing(data.X, at), data.y[at]
        report = evaluate_robustness(
            model,
            X,
            y,
            eps=eps,
            bounds=bounds,
            random_state=args.seed,
            n_jobs=args.jobs,
            verbose=args.verbose,
        )
        diagnosis = diagnose_defense(
            model,
            X,
            y,
            eps=eps,
            bounds=bounds,
            random_state=args.seed,
            n_rows=len(at),
            verbose=args.verbose,
        )
        common = {"bounds": bounds, "random_state": args.seed, "space": None}
        lost = (np.asarray(_answers(model, X)) == y) & ~report.held & report.evaluated
        trials = default_trials(model, eps, common, None, [])
        telling = telling_rows(
            model, X, y, lost, trials, eps, few=np.ndim(X) == 2 and layout is None
        )
    files = {str(path): inputs.sha256(path) for path in (args.model, args.data)}
    notes = [*data.notes, *inputs.said_of(caught)]
    if len(at) < len(data.y):
        notes.append(f"{len(at)} of {len(data.y)} rows were drawn (--rows).")
    return Audit(
        report=report,
        diagnosis=diagnosis,
        telling=telling,
        positions=at,
        eps=eps,
        model=repr(model),
        files=files,
        command=command,
        fail_under=args.fail_under,
        names=data.names,
        layout=layout,
        notes=notes,
    )


def _answers(model: Any, X: Any) -> np.ndarray:
    from sk_advdef._torch._models import predict, torch_generators_kept

    with torch_generators_kept():
        return predict(model, X)


def _layout(data: inputs.Data, image_shape: Any, channel_axis: int) -> Any:
    """Tell how rows are images; None where they are features."""
    shape = np.shape(data.X)
    if len(shape) == 2 and image_shape is None:
        return None
    try:
        layout = resolve_layout("audit", shape, image_shape, channel_axis)
    except ValueError as error:
        raise AuditError(f"--image-shape and --channel-axis: {error}") from error
    return layout if len(layout.shape) > 1 else None
