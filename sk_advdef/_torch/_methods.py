"""How answers of nets are proved to stay: the methods, by name."""

from __future__ import annotations

#: Method -> the times that CROWN is tried on rows left open so far, and in each whether
#: it bounds what goes into the ReLUs too.
REFINING: dict[str, tuple[bool, ...]] = {
    "ibp": (),
    "crown-ibp": (False,),
    "alpha-crown": (False, True),
}

METHODS = tuple(REFINING)
