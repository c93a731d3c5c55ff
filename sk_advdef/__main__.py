"""The command line: ``sk-advdef`` and ``python -m sk_advdef``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from sk_advdef._version import __version__


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sk-advdef",
        description="Adversarial defences for scikit-learn, each judged by an attacker "
        "who knows it.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    demo = commands.add_parser(
        "demo",
        help="fool classifiers of digits, defend them, and judge the defences",
        description="Train classifiers of handwritten digits, fool them, put defences "
        "to work, and judge each by an attacker who ignores it and one who knows it. "
        "Writes a table (CSV), a picture and the chosen model.",
    )
    demo.add_argument("--quick", action="store_true", help="fewer rows and queries")
    demo.add_argument(
        "--out",
        type=Path,
        default=Path("demo_out"),
        help="folder for what it writes (default: %(default)s)",
    )
    demo.add_argument(
        "--seed", type=int, default=0, help="seed of all that is drawn (default: 0)"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    args = _parser().parse_args(argv)
    from sk_advdef._demo import run

    run(args.out, quick=args.quick, seed=args.seed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
