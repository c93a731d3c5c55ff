"""What holds the house together: floors, lazy names, light imports."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import sk_advdef

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "sk_advdef"

# From the ground up: each may import from those above it in this list and from its own
# sub-package only. A new module or sub-package must be given its floor here.
FLOORS = (
    {"_version"},
    {"_validation"},
    {"_files", "_progress", "_pyplot", "_base", "_images"},
    {"squeezers", "nets"},
    {"_torch"},
    {"attacks"},
    {"training", "detection"},
    {"concealment"},
    {"evaluation"},
    {"_demo"},
    {"__main__"},
)
FLOOR_OF = {unit: floor for floor, units in enumerate(FLOORS) for unit in units}

# Who may import torch and skorch when imported; all others do so inside a function.
TORCH_UNITS = {"_torch", "nets"}
TORCH_MODULES = {
    "attacks._accepted",
    "attacks._ahead",
    "attacks._apgd_steps",
    "attacks._gradient",
    "attacks._minimal_l0",
    "attacks._minimal_l2",
    "attacks._row_tensors",
    "training._loop",
    "training._reach",
    "training._steps",
    "training._weights",
}

FILES = sorted(PACKAGE.rglob("*.py"))
INIT = PACKAGE / "__init__.py"


def module_name(path):
    """Return the name below sk_advdef: "attacks._pgd", or "" for its __init__."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in FILES}


def parse(path):
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def is_type_checking(node):
    return isinstance(node, ast.If) and ast.unparse(node.test) in (
        "TYPE_CHECKING",
        "typing.TYPE_CHECKING",
    )


def nodes_that_run(node, *, inside_functions=True):
    """Walk the tree, past what only a type checker reads."""
    for child in ast.iter_child_nodes(node):
        if is_type_checking(child):
            for other in child.orelse:
                yield other
                yield from nodes_that_run(other, inside_functions=inside_functions)
            continue
        yield child
        is_function = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef))
        if inside_functions or not (is_function or isinstance(child, ast.Lambda)):
            yield from nodes_that_run(child, inside_functions=inside_functions)


def imported(path, *, inside_functions=True):
    """Yield (line, module, name or None) of every import, relative ones resolved."""
    here = ["sk_advdef", *filter(None, module_name(path).split("."))]
    package = here if path.name == "__init__.py" else here[:-1]
    for node in nodes_that_run(parse(path), inside_functions=inside_functions):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name, None
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *filter(None, [node.module])])
            for alias in node.names:
                yield node.lineno, module, alias.name
        elif (
            isinstance(node, ast.Call)
            and ast.unparse(node.func).endswith("import_module")
            and node.args
            and isinstance(node.args[0], ast.Constant)
        ):
            yield node.lineno, node.args[0].value, None


def imported_units(path):
    """Yield (line, unit): which parts of sk_advdef a module imports from."""
    for line, module, name in imported(path):
        parts = module.split(".")
        if parts[0] != "sk_advdef":
            continue
        if len(parts) > 1:
            yield line, parts[1]
        elif name in {known.split(".")[0] for known in MODULES}:
            yield line, name  # from sk_advdef import _validation
        else:
            yield line, f"sk_advdef ({name or 'the whole'})"


@pytest.mark.parametrize("name", sorted(filter(None, MODULES)))
def test_floors(name):
    unit = name.split(".")[0]
    assert unit in FLOOR_OF, f"{name} has no floor: give {unit!r} one in FLOORS"
    wrong = [
        f"line {line}: imports from {other}"
        for line, other in imported_units(MODULES[name])
        if other != unit and FLOOR_OF.get(other, len(FLOORS)) >= FLOOR_OF[unit]
    ]
    assert not wrong, (
        f"sk_advdef.{name} may import from its own sub-package and from lower floors "
        f"only, each name from its home and not from sk_advdef itself: {wrong}"
    )


@pytest.mark.parametrize("name", sorted(MODULES))
def test_torch_is_imported_late(name):
    if name.split(".")[0] in TORCH_UNITS or name in TORCH_MODULES:
        return
    wrong = [
        f"line {line}: {module}"
        for line, module, _ in imported(MODULES[name], inside_functions=False)
        if module.split(".")[0] in ("torch", "skorch")
    ]
    assert not wrong, f"sk_advdef.{name} must import these inside a function: {wrong}"


def assigned_literal(name):
    for node in parse(INIT).body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        targets = [node.target] if isinstance(node, ast.AnnAssign) else targets
        if any(isinstance(t, ast.Name) and t.id == name for t in targets):
            return ast.literal_eval(node.value)
    raise AssertionError(f"{name} is not assigned as a literal in {INIT.name}")


def test_lazy_namespace_is_one_list():
    names = assigned_literal("__all__")
    lazy = assigned_literal("_LAZY")
    seen_by_checkers = {
        alias.asname or alias.name
        for block in parse(INIT).body
        if is_type_checking(block)
        for node in ast.walk(block)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert sk_advdef.__all__ == names == sorted(set(names))
    assert set(names) - {"__version__"} == set(lazy) == seen_by_checkers
    assert set(names) <= set(dir(sk_advdef))


@pytest.mark.parametrize("name", sk_advdef.__all__)
def test_lazy_name_resolves_once(name):
    found = getattr(sk_advdef, name)
    assert vars(sk_advdef)[name] is found
    home = getattr(found, "__module__", "sk_advdef")
    assert home.startswith("sk_advdef"), f"{name} comes from {home}"


def test_lazy_namespace_refuses_an_unknown_name():
    with pytest.raises(AttributeError, match=r"sk_advdef.*no_such_name"):
        _ = sk_advdef.no_such_name


@pytest.mark.parametrize("name", ["sk_advdef", "sk_advdef.nets"])
def test_all_is_sorted(name):
    names = list(importlib.import_module(name).__all__)
    assert names and names == sorted(names)


LIGHT = """
import sys

import sk_advdef

{lines}

heavy = {{"torch", "skorch", "matplotlib", "PIL"}} & set(sys.modules)
assert not heavy, sorted(heavy)
"""
SQUEEZE = """
import numpy as np

X = np.linspace(0, 1, 60).reshape(10, 6)
squeezer = sk_advdef.{name}()
assert squeezer.fit_transform(X).shape == X.shape
images = np.linspace(0, 1, 180).reshape(5, 6, 6)
assert squeezer.fit(images).transform(images).shape == images.shape
"""


@pytest.mark.parametrize(
    "name",
    [
        None,
        "BitDepthSqueezer",
        "BlurSqueezer",
        "Downscaler",
        "GrayscaleSqueezer",
        "MedianSqueezer",
    ],
)
def test_squeezers_load_nothing_heavy(name):
    lines = "" if name is None else SQUEEZE.format(name=name)
    done = subprocess.run(
        [sys.executable, "-c", LIGHT.format(lines=lines)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_one_public_class_a_private_file():
    public = set(sk_advdef.__all__)
    for path in FILES:
        if not path.name.startswith("_") or path.name.startswith("__"):
            continue
        classes = {n.name for n in parse(path).body if isinstance(n, ast.ClassDef)}
        assert len(classes & public) <= 1, f"{module_name(path)}: {classes & public}"


# Put together here, so that this file passes its own test.
PRIVATE_PATHS = ["/".join(parts) for parts in (("..", "shared"), ("", "work", ""))]
PRIVATE_PATHS.append("/".join(("", "tmp", "")))


def test_no_file_names_a_path_of_one_machine():
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    for name in filter(None, listed.stdout.split("\0")):
        path = ROOT / name
        if path.is_file():
            text = path.read_bytes().decode("utf-8", errors="replace")
            found = [private for private in PRIVATE_PATHS if private in text]
            assert not found, f"{name} names {found}"
