"""What the README and the documentation show is run, in order, file by file.

The line before a block may say ``<!-- no-run -->`` (``.. no-run`` in reST): it is
skipped then.
"""

import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OPENING = re.compile(r"^(\s*)(?:```\s*python|\.\. code-block:: python)\s*$")
SKIPPED = ("<!-- no-run -->", ".. no-run")


def blocks(text):
    """Yield (line number, code) of every Python block."""
    lines = text.splitlines()
    i = 0
    while i < len(lines):
        opening = OPENING.match(lines[i])
        i += 1
        if not opening:
            continue
        skipped = i > 1 and lines[i - 2].strip() in SKIPPED
        indent = len(opening[1])
        fenced = "```" in opening[0]
        start = i
        while i < len(lines):
            line = lines[i]
            depth = len(line) - len(line.lstrip())
            if fenced and line.strip() == "```":
                break
            if not fenced and line.strip() and depth <= indent:
                break
            i += 1
        if not skipped:
            yield start, textwrap.dedent("\n".join(lines[start:i]))


def script(text):
    """Put the blocks together so that line numbers are those of the file."""
    lines = []
    for start, code in blocks(text):
        lines += [""] * (start - len(lines)) + code.splitlines()
    return "\n".join(lines) + "\n"


FILES = [ROOT / "README.md"]
FILES += sorted(p for p in (ROOT / "docs").glob("*") if p.suffix in (".md", ".rst"))
WITH_CODE = [p for p in FILES if list(blocks(p.read_text(encoding="utf-8")))]


@pytest.mark.parametrize("path", WITH_CODE, ids=lambda p: p.name)
def test_blocks_run(path, tmp_path):
    source = tmp_path / f"{path.stem}.py"
    source.write_text(script(path.read_text(encoding="utf-8")), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error", source.name],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{path.name}:\n{done.stdout}\n{done.stderr}"


def test_blocks_are_found_in_both_markups():
    text = (
        "x\n```python\na = 1\n```\n<!-- no-run -->\n```python\nb\n```\n"
        ".. code-block:: python\n\n   c = 3\n\n   d = 4\n\ntext\n"
    )
    assert script(text).split() == ["a", "=", "1", "c", "=", "3", "d", "=", "4"]
    assert script(text).splitlines()[10] == "c = 3"
