"""The command line: ``sk-advdef`` and ``python -m sk_advdef``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sk_advdef._version import __version__

EXIT_CODES = """\
exit codes:
  0  the audit was made; with --fail-under, it passed as well
  1  with --fail-under: the accuracy is below it, or a finding is severe
  2  no audit could be made: wrong arguments, unreadable files, a model not trusted
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sk-advdef",
        description="Adversarial defences for scikit-learn, each judged by an attacker "
        "who knows it.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    _add_demo(commands)
    _add_audit(commands)
    return parser


def _add_demo(commands: Any) -> None:
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
        "--seed", type=_seed, default=0, help="seed of all that is drawn (default: 0)"
    )


def _add_audit(commands: Any) -> None:
    audit = commands.add_parser(
        "audit",
        help="attack a saved model, judge the attacks, write a report",
        description="Attack a saved classifier by everything at hand, look for signs "
        "that the attacks failed for reasons of their own, and write report.html and "
        "report.json.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = audit.add_argument
    add("model", type=Path, metavar="MODEL", help="a skops file, pickle or joblib file")
    add(
        "data",
        type=Path,
        metavar="DATA",
        help="rows that the model has not seen: .npz with X and y, or .csv with "
        "--target",
    )
    add(
        "--trust",
        action="store_true",
        help="open a pickle, or a skops file with foreign types: this runs code that "
        "the file holds",
    )
    add(
        "--target", metavar="NAME", help="column of the labels (.npz: array, default y)"
    )
    add(
        "--eps",
        type=_not_negative,
        required=True,
        help="how far a feature may be changed (Linf)",
    )
    add(
        "--scale",
        choices=["none", "iqr", "std", "range"],
        default="none",
        help="what eps is a multiple of, by feature of the data (default: %(default)s)",
    )
    add(
        "--fixed",
        nargs="+",
        default=[],
        metavar="NAME",
        help="columns that cannot be changed (numbers for .npz)",
    )
    add(
        "--bounds",
        default="0,1",
        metavar="LOW,HIGH",
        help="box that rows stay in (--bounds=-1,1 where LOW is negative), or data for "
        "the range of each feature, or none (default: %(default)s)",
    )
    add(
        "--image-shape",
        type=_shape,
        metavar="H,W[,C]",
        help="rows are images of this shape",
    )
    add(
        "--channel-axis",
        type=int,
        default=-1,
        help="axis of the channels within an image (default: %(default)s)",
    )
    add(
        "--rows",
        type=_count,
        default=200,
        help="rows to draw at most (default: %(default)s)",
    )
    add(
        "--fail-under",
        type=_share,
        metavar="SHARE",
        help="fail where the accuracy under attack is below this, in [0, 1], or a "
        "finding is severe",
    )
    add(
        "--out",
        type=Path,
        default=Path("audit_out"),
        help="folder for what it writes (default: %(default)s)",
    )
    add("--seed", type=_seed, default=0, help="seed of all that is drawn (default: 0)")
    add("--jobs", type=_jobs, help="processes that share the rows")
    add("--verbose", action="store_true", help="show progress")


def _not_negative(text: str) -> float:
    value = _number(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number in [0, inf), got {text}")
    return value


def _number(text: str) -> float:
    """Read a number; NaN stands for what is none."""
    try:
        return float(text)
    except ValueError:
        return float("nan")


def _share(text: str) -> float:
    value = _number(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"must be a number in [0, 1], got {text}")
    return value


def _count(text: str) -> int:
    value = int(text) if text.isdecimal() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1, got {text}")
    return value


def _seed(text: str) -> int:
    value = int(text) if text.isdecimal() else -1
    if not 0 <= value < 2**32:
        raise argparse.ArgumentTypeError(
            f"must be a whole number in [0, 2**32), got {text}"
        )
    return value


def _jobs(text: str) -> int:
    value = int(text) if text.removeprefix("-").isdecimal() else 0
    if value == 0:
        raise argparse.ArgumentTypeError(
            f"must be a whole number other than 0 (-1: all cores), got {text}"
        )
    return value


def _shape(text: str) -> tuple[int, ...]:
    parts = text.split(",")
    if not all(part.strip().isdecimal() for part in parts):
        raise argparse.ArgumentTypeError(f"must be H,W or H,W,C, got {text}")
    return tuple(int(part) for part in parts)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    argv = sys.argv[1:] if argv is None else list(argv)
    args = _parser().parse_args(argv)
    if args.command == "audit":
        from sk_advdef.evaluation._audit_command import run as audit

        return audit(args, argv)
    from sk_advdef._demo import run

    run(args.out, quick=args.quick, seed=args.seed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
