"""``sk-advdef audit``: make an audit, write it down, and say how it went."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sk_advdef._files import written_whole
from sk_advdef.evaluation._audit import audit
from sk_advdef.evaluation._audit_inputs import AuditError
from sk_advdef.evaluation._html import visible

#: Exit codes: nothing to object, the verdict failed, and no audit could be made.
PASSED, FAILED, NO_AUDIT = 0, 1, 2


def _check_folder(out: Path) -> None:
    """Refuse a folder that cannot be written to, before hours of attacks."""
    there = next(path for path in (out, *out.absolute().parents) if path.exists())
    if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
        raise AuditError(f"--out={out}: {there} is no folder that can be written to.")


def run(args: argparse.Namespace, argv: Sequence[str]) -> int:
    """Make the audit that the command line asks for; return its exit code."""
    from sk_advdef.evaluation._audit_page import page

    command = shlex.join(["sk-advdef", *argv])
    try:
        _check_folder(args.out)
        found = audit(args, command)
        written = json.dumps(found.to_dict(), indent=2, allow_nan=False)
        targets: dict[Path, str] = {
            args.out / "report.json": written,
            args.out / "report.html": page(found),
        }
    except AuditError as error:
        print(visible(f"sk-advdef audit: {error}"), file=sys.stderr)
        return NO_AUDIT
    except Exception:
        # exit code 1 is the verdict's: a crash must not look like one
        traceback.print_exc()
        print("sk-advdef audit: no audit could be made.", file=sys.stderr)
        return NO_AUDIT
    # first, since nobody may listen to what is said
    failed = _write(args.out, targets)
    for note in found.notes:
        _say(f"note: {note}", sys.stderr)
    said = "\n\n".join(map(str, (found.report, found.diagnosis, found.verdict)))
    _say(said, sys.stdout)
    if failed is not None:
        why = f"the report could not be written to {args.out}: {failed}"
        _say(f"sk-advdef audit: {why}", sys.stderr)
        return NO_AUDIT
    _say(f"\nWritten: {' '.join(map(str, targets))}", sys.stdout)
    return FAILED if found.failures else PASSED


def _write(out: Path, targets: dict[Path, str]) -> OSError | None:
    """Write all files, or none and return why."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with written_whole(*targets) as parts:
            for part, text in zip(parts, targets.values(), strict=True):
                part.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        return error
    return None


def _say(text: str, stream: Any) -> None:
    """Print, whatever the stream takes; a crash would exit with the verdict's code."""
    text = visible(text)  # a terminal does what control characters tell it
    try:
        print(text, file=stream, flush=True)
    except UnicodeEncodeError:
        plain = text.encode("ascii", "backslashreplace").decode("ascii")
        print(plain, file=stream, flush=True)
    except OSError:
        # a pipe that is closed or a full disk; else Python would fail again at its end
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
