"""The example that serves a defended model, started as its README says."""

import http.client
import json
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from itertools import cycle
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from tests.concealment.conftest import NEEDS_REDIS

RUN = Path(__file__).parents[2] / "examples" / "serving" / "run.py"

pytestmark = pytest.mark.service

X, y = load_digits(return_X_y=True)
X = X / 16


def connect(address):
    return http.client.HTTPConnection(address.removeprefix("http://"), timeout=30)


def post(address, content, key="key of alice", connection=None):
    """Return status, headers and JSON of an answer."""
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    headers = {"content-type": "application/json"}
    if key is not None:
        headers["x-api-key"] = key
    used = connection or connect(address)
    used.request("POST", "/predict", body, headers)
    answer = used.getresponse()
    found = answer.status, answer.headers, json.load(answer)
    if connection is None:
        used.close()
    return found


def connections_to(address, n_workers):
    """Return an open connection to each worker, whichever accepts first."""
    found = {}
    until = time.monotonic() + 120
    while len(found) < n_workers and time.monotonic() < until:
        connection = connect(address)
        connection.request("GET", "/health")
        answer = connection.getresponse()
        assert json.load(answer) == {"status": "ok"}
        worker = answer.headers["x-worker"]
        # what is closed frees its worker to accept again
        if worker in found:
            connection.close()
        found.setdefault(worker, connection)
    assert len(found) == n_workers
    return found


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    pytest.importorskip("fastapi")
    pytest.importorskip("uvicorn")
    if shutil.which("redis-server") is None:
        pytest.skip(NEEDS_REDIS)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("serving")
    server = subprocess.Popen(
        [sys.executable, str(RUN), "--port", str(port), "--folder", str(folder)]
    )
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            try:
                with urllib.request.urlopen(f"{address}/health", timeout=5):
                    break
            except OSError:
                assert server.poll() is None, "the server has ended"
                time.sleep(0.2)
        yield address, folder
    finally:
        server.send_signal(signal.SIGTERM)
        assert server.wait(timeout=30) == 0
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


def test_it_answers_throttles_and_watches(url):
    address, folder = url
    status, _, found = post(address, {"instances": X[:40].tolist()})
    assert status == 200 and np.mean(np.array(found["labels"]) == y[:40]) > 0.8
    # rounded to a decimal
    proba = np.array(found["probabilities"])
    np.testing.assert_allclose(proba, proba.round(1), atol=1e-6)

    # both workers count in one store: asked in turn, they grant alice twenty more
    workers = connections_to(address, 2)
    answers = []
    for row, (worker, used) in zip(X[40:70], cycle(workers.items()), strict=False):
        answers.append(post(address, {"inputs": [row.tolist()]}, connection=used))
        status, headers, _ = answers[-1]
        assert status == 429 or headers["x-worker"] == worker
    for used in workers.values():
        used.close()
    statuses = [status for status, _, _ in answers]
    # a row comes back each second
    assert 20 <= statuses.count(200) <= 25 and statuses[-1] == 429
    status, headers, found = answers[-1]
    assert int(headers["retry-after"]) >= 1
    assert found == {"detail": "The query is refused."}

    # another account is another matter, and who attacks is written down, not told
    variants = X[100] + np.random.default_rng(0).uniform(-0.02, 0.02, (20, 64))
    status, _, found = post(address, {"inputs": variants.tolist()}, key="key of bob")
    assert status == 200 and len(found["labels"]) == 20
    events = [json.loads(x) for x in (folder / "audit.log").read_text().splitlines()]
    seen = {(event["event"], *event["accounts"]) for event in events}
    assert seen == {("rate", "alice"), ("similar", "bob")}


def test_what_it_does_not_answer(url):
    address, _ = url
    assert post(address, {"inputs": X[:1].tolist()}, key="key of eve")[0] == 401
    assert post(address, {"inputs": X[:1].tolist()}, key=None)[0] == 401
    assert post(address, b"{")[0] == 400
    assert post(address, {"inputs": [[1, 2]]})[0] == 400
    # refused for what it claims, before it is sent
    connection = connect(address)
    connection.putrequest("POST", "/predict")
    connection.putheader("content-length", "1000001")
    connection.endheaders()
    assert connection.getresponse().status == 413
    connection.close()
