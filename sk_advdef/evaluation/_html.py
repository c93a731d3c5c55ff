"""HTML put together so that every value is escaped, and pictures as data."""

from __future__ import annotations

import base64
import html
import re
import struct
import zlib
from typing import Any

import numpy as np

#: Elements of HTML that have no end; those of SVG have one.
VOID = {"img", "meta", "link"}
#: Characters that are not seen, or that turn around those beside them: control
#: characters but for tab and line feed, formats of bidirectional text, what has no
#: width, tags, and what no text may hold.
UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e"
    "\u2060-\u206f\ufdd0-\ufdef\ufeff\ufff0-\ufffb\ufffe\uffff\ud800-\udfff\U000e0000-\U000e007f]"
)


class Markup(str):
    """Text that is HTML already; any other is escaped."""

    __slots__ = ()


def visible(text: str) -> str:
    """Write characters that are not seen as Python's escapes of them."""
    return UNSEEN.sub(lambda one: ascii(one[0])[1:-1], text)


def escaped(value: Any) -> str:
    """Return a value as text within an element or an attribute of HTML."""
    return html.escape(visible(str(value)))


def tag(name: str, /, *children: Any, **attributes: Any) -> Markup:
    """Make an element; ``class_`` is ``class``, ``aria_label`` is ``aria-label``.

    Children and attributes are escaped unless they are Markup; those that are None are
    left out.
    """
    said = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escaped(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in VOID:
        return Markup(f"<{name}{said}>")
    return Markup(f"<{name}{said}>{joined(*children)}</{name}>")


def joined(*children: Any) -> Markup:
    """Put children one after the other, escaped unless they are Markup."""
    return Markup(
        "".join(
            child if isinstance(child, Markup) else escaped(child)
            for child in children
            if child is not None
        )
    )


def table(
    caption: str, head: list[str], rows: list[list[Any]], label: str | None = None
) -> Markup:
    """Make a table whose first column names the rows, in a frame that scrolls."""
    top = tag("tr", *(tag("th", name, scope="col") for name in head))
    body = (
        tag("tr", tag("th", row[0], scope="row"), *(tag("td", v) for v in row[1:]))
        for row in rows
    )
    made = tag(
        "table",
        tag("caption", caption),
        tag("thead", top),
        tag("tbody", *body),
    )
    # what scrolls must be reached by the keyboard, and then needs a name
    return tag(
        "div",
        made,
        class_="scrolls",
        role="region",
        aria_label=label or caption,
        tabindex="0",
    )


def picture(image: np.ndarray, alt: str) -> Markup:
    """Show an image of shape (height, width, 1 or 3) with values in [0, 1]."""
    levels = np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
    data = base64.b64encode(png(levels)).decode()
    height, width = levels.shape[:2]
    source = f"data:image/png;base64,{data}"
    return tag("img", src=source, alt=alt, width=width, height=height)


def png(levels: np.ndarray) -> bytes:
    """Encode uint8 of shape (height, width, 1 or 3) as PNG."""
    height, width, channels = levels.shape
    color = {1: 0, 3: 2}[channels]
    lines = levels.reshape(height, -1)
    # each line begins with its filter: 0, none
    raw = np.hstack([np.zeros((height, 1), dtype=np.uint8), lines]).tobytes()
    head = struct.pack(">IIBBBBB", width, height, 8, color, 0, 0, 0)
    parts = (b"IHDR", head), (b"IDAT", zlib.compress(raw, 9)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data))
        + kind
        + data
        + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts
    )
