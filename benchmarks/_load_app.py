"""The application that is asked under load: a guarded model, and the guard's books.

The environment names the pickle (GUARDED_MODEL) and the audit log (AUDIT_LOG).
"""

import logging
import os
from typing import Annotated, Any

import joblib
from fastapi import FastAPI, Query, Request

from sk_advdef import QueryGuardMiddleware
from sk_advdef.concealment._memory_store import MemoryStore
from sk_advdef.concealment._redis_store import LOG

guard = joblib.load(os.environ["GUARDED_MODEL"])
logging.getLogger("sk_advdef.audit").addHandler(
    logging.FileHandler(os.environ["AUDIT_LOG"])
)
app = FastAPI(title="A model under load")
app.add_middleware(QueryGuardMiddleware, guard=guard, account="x-account")


@app.post("/predict")
def predict(request: Request) -> dict[str, Any]:
    proba = guard.estimator.predict_proba(request.state.guard.rows)
    labels = guard.classes_[proba.argmax(axis=1)]
    return {"labels": labels.tolist(), "probabilities": proba.tolist()}


@app.get("/books")
def books(account: Annotated[list[str], Query()] = []) -> dict[str, Any]:  # noqa: B006
    """Tell what the guard has counted, and what its store holds.

    ``appended`` numbers the rows that a shared store was given to remember; ``ahead``
    is the time up to which each account has taken rows, in microseconds.
    """
    gate = guard._gate()
    store, keys = gate.store, {name: gate.key_of(name) for name in account}
    appended = None
    if isinstance(store, MemoryStore):
        ahead = {name: store._ahead.get(key, 0) for name, key in keys.items()}
    else:
        client, prefix = store._client, store._prefix
        counters = client.keys(prefix + LOG + b"*:counter")
        appended = sum(int(client.get(key)) for key in counters)
        ahead = {
            name: int(client.get(prefix + b"ahead:" + key) or 0)
            for name, key in keys.items()
        }
    return {"counted": guard.stats(), "appended": appended, "ahead": ahead}
