import numpy as np
import pytest

from sk_advdef import Diagnosis, RobustnessReport
from sk_advdef.evaluation._audit import Audit
from sk_advdef.evaluation._report import AttackFigures


@pytest.fixture
def made_by_hand():
    """Make an audit of given figures, of which nothing was run."""

    def make(worst=0.5, diagnosis=None, fail_under=None, **params):
        n = 0 if np.isnan(worst) else 10
        held = np.arange(n) < worst * 10 if n else np.zeros(0, dtype=bool)
        lines = [
            AttackFigures("clean", "", 0.9, 0.6, 0.98, 10, np.nan, 0.0, 0.0),
            AttackFigures("PGD", "all", 0.5, 0.2, 0.8, 10, 0.1, 40.0, 1.0, "PGD()"),
        ]
        report = RobustnessReport(
            lines,
            held,
            np.ones(n, dtype=bool),
            {"norm": "linf", "eps": 0.1, "bounds": (0.0, 1.0)},
            ["other norms."],
        )
        given = {
            "telling": [],
            "positions": np.arange(n),
            "eps": 0.1,
            "model": "Model()",
            "files": {"model.joblib": "0" * 64, "rows.npz": "1" * 64},
            "command": "sk-advdef audit model.joblib rows.npz --eps 0.1",
        }
        return Audit(
            report=report,
            diagnosis=Diagnosis([]) if diagnosis is None else diagnosis,
            fail_under=fail_under,
            **given | params,
        )

    return make
