"""Answer what the guard lets through.

The environment names the pickle (GUARDED_MODEL), the audit log (AUDIT_LOG), and may
hold the keys of clients (API_KEYS, JSON from key to account).
"""

import hmac
import json
import logging
import os
from typing import Any

import joblib
from fastapi import Depends, FastAPI, HTTPException, Request, Response

from sk_advdef import QueryGuardMiddleware

DEMONSTRATION = '{"key of alice": "alice", "key of bob": "bob"}'
KEYS = json.loads(os.environ.get("API_KEYS", DEMONSTRATION))

guard = joblib.load(os.environ["GUARDED_MODEL"])
logging.getLogger("sk_advdef.audit").addHandler(
    logging.FileHandler(os.environ.get("AUDIT_LOG", "audit.log"))
)


def account_of(scope: Any) -> str | None:
    """Return whose key a request brings; None is shared by all that bring none."""
    given = [value for name, value in scope["headers"] if name == b"x-api-key"]
    if len(given) != 1:
        return None
    for key, account in KEYS.items():
        if hmac.compare_digest(key.encode(), given[0]):
            return str(account)
    return None


def name_worker(response: Response) -> None:
    """Say which process answers."""
    response.headers["x-worker"] = str(os.getpid())


app = FastAPI(title="A defended model", dependencies=[Depends(name_worker)])
app.add_middleware(
    QueryGuardMiddleware, guard=guard, account=account_of, exempt_paths=["/health"]
)


@app.post("/predict")
def predict(request: Request) -> dict[str, Any]:
    admitted = request.state.guard
    if admitted.account is None:
        raise HTTPException(401, "A key is needed, in the header x-api-key.")
    # the model, not the guard: the rows are counted already
    proba = guard.estimator.predict_proba(admitted.rows)
    labels = guard.classes_[proba.argmax(axis=1)]
    return {"labels": labels.tolist(), "probabilities": proba.tolist()}


@app.get("/health")
def health() -> dict[str, str]:
    return {"status": "ok"}
