"""Check wheel and sdist: contents, metadata, installation, a first prediction.

Run by ``make dist``, which builds them: ``python -m tests.check_dist dist``. The
installation goes into an environment that is empty but for what they ask for.
"""

import subprocess
import sys
import tarfile
import tempfile
import zipfile
from email.parser import Parser
from pathlib import Path

ROOT = Path(__file__).parents[1]

FIRST = """
import importlib.metadata
import numpy as np
import sk_advdef
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

assert "site-packages" in sk_advdef.__file__, sk_advdef.__file__
assert importlib.metadata.version("sk_advdef") == sk_advdef.__version__
X, y = load_iris(return_X_y=True)
model = make_pipeline(
    sk_advdef.BitDepthSqueezer(4), LogisticRegression(max_iter=1000)
).fit(X, y)
share = sk_advdef.robust_accuracy_score(
    model, X[::5], y[::5], eps=0.3, bounds=None, random_state=0
)
assert 0 < share < model.score(X[::5], y[::5]) <= 1, share
print("clean", model.score(X[::5], y[::5]), "attacked", share)
"""


def sources():
    """Return the files of the package, as Git knows them."""
    listed = subprocess.run(
        ["git", "ls-files", "sk_advdef"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return set(listed.stdout.split())


def check_wheel(path):
    with zipfile.ZipFile(path) as wheel:
        names = set(wheel.namelist())
        info = next(n.split("/")[0] for n in names if n.endswith("dist-info/METADATA"))
        metadata = Parser().parsestr(wheel.read(f"{info}/METADATA").decode())
        entries = wheel.read(f"{info}/entry_points.txt").decode()
    inside = {name for name in names if not name.startswith(f"{info}/")}
    assert inside == sources(), inside ^ sources()
    assert "sk_advdef/py.typed" in inside
    assert f"{info}/licenses/LICENSE" in names
    assert "sk-advdef = sk_advdef.__main__:main" in entries
    assert metadata["Name"] == "sk_advdef"
    assert metadata["License-Expression"] == "BSD-3-Clause"
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata.get_payload().startswith("# sk_advdef")
    needed = {
        line.split(">=")[0]
        for line in metadata.get_all("Requires-Dist")
        if "extra ==" not in line
    }
    assert needed == {
        "joblib",
        "numpy",
        "scikit-learn",
        "scipy",
        "skorch",
        "torch",
        "tqdm",
    }, needed


def check_sdist(path):
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for name in ("pyproject.toml", "README.md", "LICENSE", "PKG-INFO", *sources()):
        assert name in names, name
    unwanted = [name for name in names if "__pycache__" in name or ".venv" in name]
    assert not unwanted, unwanted


def run(*command, cwd):
    subprocess.run(list(map(str, command)), cwd=cwd, check=True)


def check_installed(python, cwd):
    run(python, "-W", "error", "-c", FIRST, cwd=cwd)
    run(python.with_name("sk-advdef"), "--version", cwd=cwd)


def main(folder):
    (wheel,) = folder.glob("*.whl")
    (sdist,) = folder.glob("*.tar.gz")
    check_wheel(wheel)
    check_sdist(sdist)
    with tempfile.TemporaryDirectory() as empty:
        run(sys.executable, "-m", "venv", "env", cwd=empty)
        python = Path(empty) / "env" / "bin" / "python"
        install = [python, "-m", "pip", "install", "--quiet"]
        install += ["--disable-pip-version-check", "-c", ROOT / "constraints.txt"]
        run(*install, wheel, cwd=empty)
        check_installed(python, empty)
        run(*install, "--no-deps", "--force-reinstall", sdist, cwd=empty)
        check_installed(python, empty)
        run(python, "-m", "pip", "check", cwd=empty)
    print(f"{wheel.name} and {sdist.name}: contents, metadata, installation sound")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
