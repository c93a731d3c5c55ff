"""Keys from environment variables: no value is ever a parameter, or in a log."""

from __future__ import annotations

import os
import re
import secrets
import threading
import warnings
from hashlib import blake2b

from sk_advdef._validation import InvalidParameterError

#: Variable that holds the secret where a parameter names no other.
VARIABLE = "SK_ADVDEF_SECRET"

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
#: So long a word of hexadecimal digits is a secret, and no name.
_HEX = re.compile(r"[0-9A-Fa-f]{24,}")

_lock = threading.Lock()
_of_process = secrets.token_bytes(32)
_warned: set[str] = set()


def is_name(variable: object) -> bool:
    """Whether this may be the name of a variable, and is not a secret by its looks."""
    return (
        isinstance(variable, str)
        and bool(_NAME.fullmatch(variable))
        and not _HEX.fullmatch(variable)
    )


def check_variable(owner: object, variable: object) -> None:
    """Raise where ``secret`` is no name; what may be the secret itself is not shown."""
    if not is_name(variable):
        raise InvalidParameterError(
            f"The 'secret' parameter of {type(owner).__name__} must be the name of an "
            "environment variable (letters, digits and _), never the secret itself. "
            f"Got a {type(variable).__name__} that is none, and not shown here."
        )


def is_set(variable: str) -> bool:
    """Whether the environment holds the secret, so that all processes share it."""
    return bool(os.environ.get(variable))


def process_key(purpose: str) -> bytes:
    """Return 32 bytes that only this process can make."""
    return blake2b(purpose.encode(), key=_of_process, digest_size=32).digest()


def key_from(owner: object, variable: str, purpose: str) -> bytes:
    """Return 32 bytes that only holders of the secret can make.

    Where the variable is unset the secret is drawn once per process, with a warning.
    """
    check_variable(owner, variable)
    text = os.environ.get(variable, "")
    if text:
        if len(text) < 16:
            raise ValueError(
                f"The environment variable {variable} must hold at least 16 "
                f"characters. Got {len(text)}: draw some with "
                "python -c 'import secrets; print(secrets.token_hex(32))'."
            )
        master = blake2b(text.encode(), digest_size=64).digest()
    else:
        master = _of_process
        with _lock:
            is_new = variable not in _warned
            _warned.add(variable)
        if is_new:
            warnings.warn(
                f"The environment variable {variable} is not set: "
                f"{type(owner).__name__} uses a key of this process. Other processes, "
                "and this one started again, will have another. Set it to at least 16 "
                "random characters.",
                UserWarning,
                stacklevel=3,
            )
    return blake2b(purpose.encode(), key=master, digest_size=32).digest()
