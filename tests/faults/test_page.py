"""Every row of the page on faults names a test that there is, and every test a row."""

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
PAGE = (TESTS.parent / "docs" / "faults.md").read_text(encoding="utf-8")
NAME = re.compile(r"`((?:\w+/)?test_\w+)::(test_\w+)`")
ROWS = [
    line
    for line in PAGE.splitlines()
    if line.startswith("|") and not re.fullmatch(r"\|(-+\|)+", line)
]
HEADS = [line for line in ROWS if line.endswith("| test |")]
#: What is told in words, or is no fault of the surroundings.
OTHERS = {"test_page", "test_clock::test_rows_from_a_time_to_come_grow_old"}


def names_in(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


def path_of(name):
    return TESTS / f"{name}.py" if "/" in name else TESTS / "faults" / f"{name}.py"


@pytest.mark.parametrize("row", [row for row in ROWS if row not in HEADS])
def test_a_row_names_a_test(row):
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert len(cells) == 5 and all(cells), row
    named = NAME.fullmatch(cells[-1])
    assert named, f"{cells[-1]} is no test"
    assert named[2] in names_in(path_of(named[1]))


def test_a_test_has_a_row():
    told = {"::".join(found) for found in NAME.findall(PAGE)}
    there = {
        f"{path.stem}::{name}"
        for path in (TESTS / "faults").glob("test_*.py")
        for name in names_in(path)
        if path.stem not in OTHERS
    }
    assert there - told <= OTHERS
