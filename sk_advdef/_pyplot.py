"""matplotlib, which need not be installed."""

from __future__ import annotations

from typing import Any

from sk_advdef._validation import name_of


def pyplot(owner: object, method: str = "plot") -> Any:
    """Import matplotlib.pyplot, or say which method needs it and what to install."""
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError(
            f"{name_of(owner)}.{method} needs matplotlib. Install it with "
            'pip install "sk_advdef[plot]".'
        ) from error
    return plt
