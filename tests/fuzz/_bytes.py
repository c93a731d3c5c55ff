"""Bytes that come from outside: bodies of requests, and files of an audit."""

from __future__ import annotations

import asyncio
import io
import json
import tempfile
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st
from sklearn.frozen import FrozenEstimator

from sk_advdef import GuardedClassifier, QueryGuardMiddleware
from sk_advdef.evaluation import _audit_inputs as inputs
from tests.fuzz._judge import untouched
from tests.fuzz._targets import attacked_rows, model

leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(10**18, 10**25)
    | st.floats()
    | st.text(max_size=5)
)
values = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner)
    ),
    max_leaves=20,
)
keys = st.sampled_from(["inputs", "instances", "dataframe_split", "data", "columns"])
matrix = st.lists(
    st.lists(st.floats(0, 1), min_size=6, max_size=6)
    | st.lists(st.floats(0, 1) | leaves, min_size=6, max_size=6),
    max_size=3,
)
split = st.fixed_dictionaries(
    {"columns": st.lists(st.sampled_from("abcdef") | leaves, max_size=6) | values},
    optional={"data": matrix | values, "index": values},
)
servers = ("inputs", "instances", "dataframe_split")
contents = (
    st.dictionaries(st.sampled_from(servers[:2]), matrix, min_size=1, max_size=1)
    | st.dictionaries(keys, matrix | values | split, max_size=2)
    | values
)
CODES = ("utf-8",) * 5 + ("utf-16", "utf-32", "utf-8-sig", "latin-1", "utf-7")


@st.composite
def edited(draw: Any, original: bytes) -> bytes:
    """Draw bytes that differ from some in a few places, or are others."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=60))
    found = bytearray(original)
    for _ in range(draw(st.sampled_from([0, 0, 1, 1, 2, 4]))):
        at = draw(st.integers(0, len(found)))
        what = draw(
            st.sampled_from(["flip", "cut", "insert", "repeat", "end", "digit"])
        )
        length = draw(st.integers(1, 12))
        if what == "flip" and at < len(found):
            found[at] ^= draw(st.integers(1, 255))
        elif what == "cut":
            del found[at : at + length]
        elif what == "insert":
            found[at:at] = draw(st.binary(min_size=1, max_size=length))
        elif what == "repeat":
            found[at:at] = found[at : at + length] * draw(st.sampled_from([1, 3, 1000]))
        elif what == "end":
            del found[at:]
        else:
            found[at : at + 1] = draw(
                st.sampled_from([b"9", b"-", b"1e999", b"[", b","])
            )
    return bytes(found)


# --- bodies


class App:
    """An application that keeps what it finds beside the request."""

    def __init__(self) -> None:
        self.rows: Any = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.rows = scope["state"]["guard"].rows
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})


@cache
def guarded() -> tuple[App, QueryGuardMiddleware]:
    app = App()
    guard = GuardedClassifier(FrozenEstimator(model("linear")))
    served = QueryGuardMiddleware(app, guard, max_bytes=20_000, threads=1)
    asyncio.run(ask(served, b"{}"))
    return app, served


async def ask(served: Any, *parts: bytes) -> int:
    """Return the status of the answer."""
    waiting = [
        {"type": "http.request", "body": part, "more_body": i < len(parts)}
        for i, part in enumerate(parts, 1)
    ]
    sent: list[Any] = []

    async def receive() -> Any:
        return waiting.pop(0) if waiting else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    kind = {"type": "http", "method": "POST", "path": "/", "http_version": "1.1"}
    scope = kind | {"headers": [], "client": ("192.0.2.1", 1)}
    await served(scope, receive, send)
    return int(sent[0]["status"])


def body_case(name: str, draw: Callable[..., Any]) -> str:
    """Send a body: what the application sees is what JSON says, or it sees nothing."""
    app, served = guarded()
    text = json.dumps(draw(contents))
    body = text.encode(draw(st.sampled_from(CODES)), "replace")
    body = draw(edited(body))
    at = draw(st.integers(0, len(body)))
    app.rows = None
    with untouched([], []):
        status = asyncio.run(ask(served, body[:at], body[at:]))
    if status != 200:
        assert 400 <= status < 500, f"{status} for {body!r}"
        assert app.rows is None, "the application saw what was refused"
        return "refused"
    rows = np.asarray(app.rows)
    assert rows.ndim == 2 and rows.shape[1] == 6 and np.isfinite(rows).all()
    [said] = [v for k, v in json.loads(body).items() if k in servers]
    said = said["data"] if isinstance(said, dict) else said
    np.testing.assert_array_equal(rows, np.array(said, dtype=np.float64))
    return "right"


# --- files of an audit


def file_of(write: Callable[[Any], Any]) -> bytes:
    held = io.BytesIO()
    write(held)
    return held.getvalue()


@cache
def files() -> dict[str, bytes]:
    """Return the bytes of a file of each kind, as somebody would write them."""
    import joblib
    import pandas as pd
    from skops import io as skops

    X, y = attacked_rows()
    X, y = X[:6].round(2), y[:6]
    frame = pd.DataFrame(X, columns=list("abcdef")).assign(label=y)
    return {
        "npz": file_of(lambda held: np.savez(held, X=X, y=y)),
        "compressed npz": file_of(lambda held: np.savez_compressed(held, X=X, y=y)),
        "csv": frame.to_csv(index=False).encode(),
        "skops": skops.dumps(model("linear")),
        "pickle": file_of(lambda held: joblib.dump(model("linear"), held)),
    }


def file_case(name: str, draw: Callable[..., Any]) -> str:
    """Read a file: it is rows and labels, or a model, or an error in words."""
    content = draw(edited(files()[name]))
    kind = name.split()[-1]
    scale = draw(st.sampled_from(inputs.SCALES))
    bounds = draw(st.sampled_from(["data", "none", "0,1", "1,0", "a,b", "nan,nan", ""]))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"file.{kind}"
        path.write_bytes(content)
        try:
            with untouched([], []), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                if kind in ("skops", "pickle"):
                    found = inputs.load_model(path, trust=False)
                    assert hasattr(found, "predict")
                    return "opened"
                target = "label" if kind == "csv" else None
                data = inputs.load_data(path, target)
                data = inputs.fitted_to(model("linear"), data)
                inputs.threat_of(data, 0.1, scale, [], bounds)
        except inputs.AuditError as error:
            assert str(error)
            return "refused"
    assert len(data.X) == len(data.y) > 0
    return "right"


BYTES = {
    "body": body_case,
    **dict.fromkeys(("npz", "compressed npz", "csv", "skops", "pickle"), file_case),
}


def bytes_case(name: str, draw: Callable[..., Any]) -> str:
    """Hand bytes to whatever reads them."""
    return BYTES[name](name, draw)
