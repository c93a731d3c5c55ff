"""Who asks: names of any kind, kept only as hashes."""

from __future__ import annotations

import numbers
from hashlib import blake2b
from typing import Any

import numpy as np

from sk_advdef._validation import invalid

SIZE = 16
ALLOWED = "None, a str, bytes or an int, or one of these a row"


def account_id(
    owner: object, account: Any, key: bytes = b"", *, parameter: str = "account"
) -> bytes:
    """Return the 16 bytes that stand for an account; equal names of one kind agree."""
    if account is None:
        name = b"-"
    elif isinstance(account, str):
        name = b"s" + account.encode("utf-8", "surrogatepass")
    elif isinstance(account, bytes):
        name = b"b" + account
    elif isinstance(account, numbers.Integral) and not isinstance(account, bool):
        name = b"i%d" % int(account)
    else:
        several = "a sequence of accounts, each None, a str, bytes or an int"
        allowed = ALLOWED if parameter == "account" else several
        raise invalid(owner, parameter, allowed, account)
    return blake2b(name, key=key, digest_size=SIZE).digest()


def per_row(owner: object, account: Any, n_rows: int) -> list[Any]:
    """Return one account a row, from one for all or one for each."""
    if account is None or isinstance(account, (str, bytes, numbers.Integral)):
        return [account] * n_rows
    if np.ndim(account) == 0:  # an array of one, as metadata routing may bring
        return [np.asarray(account).item()] * n_rows
    accounts = np.asarray(account, dtype=object).tolist()
    if len(accounts) != n_rows:
        raise ValueError(
            f"The 'account' parameter of {type(owner).__name__} holds "
            f"{len(accounts)} accounts for {n_rows} rows. Pass one account, or one a "
            "row."
        )
    for one in accounts:
        if not isinstance(one, (str, bytes, numbers.Integral, type(None))):
            raise invalid(owner, "account", ALLOWED, one)
    return accounts
