"""Run the tests with the oldest and the newest versions: ``make test-matrix``.

"oldest" takes each floor of pyproject.toml that a user's installation may meet; tools
of the tests are as they come. "newest" takes whatever is out. torch is what
constraints.txt says in both: other builds for one processor are not at hand everywhere.
"""

import argparse
import re
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
#: Extras for users: what the package itself imports, and what it is run with.
EXTRAS = ("dask", "images", "plot", "redis", "serving")
#: Frames that users hand over.
FRAMES = ("pandas", "polars")
#: What the oldest versions need beneath them, which do not say so.
BENEATH = ("pyparsing==3.1.4",)  # matplotlib calls it by names that 3.3 deprecates


def floors() -> dict[str, str]:
    """Return what is asked for at least, by name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    asked = [*project["dependencies"], *(line for e in EXTRAS for line in extras[e])]
    asked += [line for line in extras["tests"] if line.startswith(FRAMES)]
    found = dict(line.split(">=") for line in asked if ">=" in line)
    return {
        name.partition("[")[0]: version.split(",")[0] for name, version in found.items()
    }


def pinned(name: str) -> str:
    """Return the line of constraints.txt about a package."""
    text = (ROOT / "constraints.txt").read_text()
    found = re.search(rf"^{name}==\S+$", text, re.MULTILINE)
    assert found is not None, f"constraints.txt does not pin {name}"
    return found[0]


def constraints(which: str) -> list[str]:
    """Return the lines of the constraints of an environment."""
    lines = [pinned("torch")]
    if which == "oldest":
        lines += [f"{n}=={v}" for n, v in floors().items() if n != "torch"]
        lines += BENEATH
    return lines


def run(which: str, arguments: list[str]) -> int:
    """Make the environment, and run pytest in it."""
    folder = ROOT / f".venv-{which}"
    python = str(folder / "bin" / "python")
    told = folder / "constraints.txt"
    if not told.exists():
        venv.create(folder, with_pip=True)
        lines = "\n".join(constraints(which))
        install = [python, "-m", "pip", "install", "--quiet", "--upgrade"]
        asked = folder / "asked.txt"
        asked.write_text(lines)
        subprocess.run([*install, "-c", asked, "-e", f"{ROOT}[tests]"], check=True)
        asked.rename(told)
    names = [line.split("==")[0] for line in told.read_text().splitlines()]
    print(f"{which}:", flush=True)
    freeze = subprocess.run(
        [python, "-m", "pip", "freeze"], capture_output=True, text=True, check=True
    )
    for line in freeze.stdout.splitlines():
        if line.split("==")[0].lower() in {*names, *floors()}:
            print(f"  {line}", flush=True)
    return subprocess.run([python, "-m", "pytest", *arguments], cwd=ROOT).returncode


def main() -> int:
    """Run one environment, or both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("which", nargs="*", default=["oldest", "newest"])
    parser.add_argument("--pytest", default="-n 2 --dist worksteal -q")
    args = parser.parse_args()
    return max(run(which, args.pytest.split()) for which in args.which)


if __name__ == "__main__":
    sys.exit(main())
