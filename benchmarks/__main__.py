"""Run the ``bench_*.py`` of this folder: ``python -m benchmarks [--quick] [NAME ...]``.

Each script runs in its own process, so that one cannot warm or poison the next. After
a run that is not quick, RESULTS.md is written anew.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from benchmarks import report

HERE = Path(__file__).parent


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", help="without bench_ and .py; default: all")
    parser.add_argument("--quick", action="store_true", help="small sizes, for a check")
    parser.add_argument("--data", type=Path, help="folder that may hold mnist.npz")
    args = parser.parse_args()

    found = {path.stem.removeprefix("bench_"): path for path in HERE.glob("bench_*.py")}
    if unknown := sorted(set(args.names) - set(found)):
        parser.error(f"no such benchmark: {', '.join(unknown)}; known: {sorted(found)}")
    chosen = sorted(args.names or found)
    if not chosen:
        print("benchmarks: there is no benchmarks/bench_*.py yet, nothing to run")
        return 0

    failed = []
    for name in chosen:
        print(f"== {name}", flush=True)
        command = [sys.executable, "-m", f"benchmarks.bench_{name}"]
        command += ["--quick"] * args.quick
        command += ["--data", str(args.data.resolve())] if args.data else []
        if subprocess.run(command, cwd=HERE.parent, check=False).returncode:
            failed.append(name)
    if not args.quick:
        report.main()
    if failed:
        print(f"benchmarks: failed: {', '.join(failed)}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
