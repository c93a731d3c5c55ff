"""What every case needs around it, and the account of what was run."""

from __future__ import annotations

import logging
from collections import Counter

import pytest

from tests.fuzz._judge import ENDED


@pytest.fixture(autouse=True)
def nowhere(tmp_path, monkeypatch):
    """Let what is written by a wrong parameter fall into a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(logging.getLogger("sk_advdef"), "disabled", True)
    ENDED.clear()


@pytest.fixture(autouse=True)
def told(record_property):
    """Hand the counts to the report, which the workers of xdist send on."""
    yield
    for target, ends in ENDED.items():
        record_property("fuzz", [target, dict(ends)])


def pytest_terminal_summary(terminalreporter, config):
    """Say how many cases were run of each target, and how they ended."""
    if config.option.markexpr != "fuzz":
        return
    found: dict[str, Counter[str]] = {}
    for reports in terminalreporter.stats.values():
        for report in reports:
            for name, value in getattr(report, "user_properties", ()):
                if name == "fuzz" and getattr(report, "when", "") == "teardown":
                    target, ends = value
                    found.setdefault(target, Counter()).update(ends)
    if not found:
        return
    terminalreporter.section("cases")
    for target, ends in sorted(found.items()):
        how = ", ".join(f"{count} {end}" for end, count in sorted(ends.items()))
        terminalreporter.line(f"{sum(ends.values()):6}  {target}: {how}")
    total = sum(sum(ends.values()) for ends in found.values())
    terminalreporter.line(f"{total:6}  in all")
