"""What a pickle would import if it were opened, told without opening it."""

from __future__ import annotations

import io
import pickletools
import zipfile
from collections.abc import Iterator
from typing import Any

_MARK = object()
_MEMO_PUT = {"PUT", "BINPUT", "LONG_BINPUT"}
_MEMO_GET = {"GET", "BINGET", "LONG_BINGET"}
#: Ask the unpickler's owner, or a registry, for what they name.
_ELSEWHERE = {"PERSID", "BINPERSID", "EXT1", "EXT2", "EXT4"}

Global = tuple[str, str]


def imports(data: bytes) -> set[Global]:
    """Return (module, name) of all that the pickle itself imports.

    The opcodes are followed with a stack and a memo of strings; names that come from
    anywhere else are a ValueError.
    """
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    found: set[Global] = set()
    for op, arg, _ in pickletools.genops(data):
        if op.name in _ELSEWHERE:
            raise ValueError(f"{op.name} names something outside of the pickle")
        if op.name in ("GLOBAL", "INST"):
            module, _, name = str(arg).partition(" ")
            found.add((module, name))
        elif op.name == "STACK_GLOBAL":
            if not all(isinstance(word, str) for word in stack[-2:]):
                raise ValueError("the pickle works out what it imports")
            found.add((stack[-2], stack[-1]))
        if op.name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif op.name in _MEMO_PUT:
            memo[int(str(arg))] = stack[-1]
        elif op.name in _MEMO_GET:
            stack.append(memo[int(str(arg))])
        elif op.name == "DUP":
            stack.append(stack[-1])
        elif op.name == "MARK":
            stack.append(_MARK)
        else:
            below = list(op.stack_before)
            if pickletools.markobject in below:
                while stack.pop() is not _MARK:
                    pass
                below = below[: below.index(pickletools.markobject)]
            del stack[len(stack) - len(below) :]
            stack += [arg if isinstance(arg, str) else None for _ in op.stack_after]
    return found


def blobs(data: bytes) -> Iterator[bytes]:
    """Yield the bytes and the texts that the pickle holds as values."""
    for _, arg, _ in pickletools.genops(data):
        if isinstance(arg, (bytes, bytearray)):
            yield bytes(arg)
        elif isinstance(arg, str):
            yield arg.encode("utf-8", "surrogatepass")


def hidden(data: bytes) -> Iterator[bytes]:
    """Yield bytes within the pickle that are an archive or a pickle that imports."""
    for blob in blobs(data):
        try:
            is_pickle = bool(imports(blob))
        except Exception:  # whatever it is, it is no pickle
            is_pickle = False
        if is_pickle or zipfile.is_zipfile(io.BytesIO(blob)):
            yield blob
