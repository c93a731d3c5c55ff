"""The example that serves a defended model, started as its README says."""

import http.client
import json
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from tests.concealment.conftest import NEEDS_REDIS

RUN = Path(__file__).parents[2] / "examples" / "serving" / "run.py"

pytestmark = pytest.mark.service

X, y = load_digits(return_X_y=True)
X = X / 16


def post(url, content, key="key of alice"):
    """Return status, headers and JSON of an answer."""
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    headers = {"content-type": "application/json", "connection": "close"}
    if key is not None:
        headers["x-api-key"] = key
    request = urllib.request.Request(f"{url}/predict", body, headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.headers, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers, json.load(error)


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

    # both workers count in one store: of eighty more rows alice is granted twenty
    answers = [post(address, {"inputs": [row.tolist()]}) for row in X[40:70]]
    statuses = [status for status, _, _ in answers]
    # a row comes back each second
    assert 20 <= statuses.count(200) <= 25 and statuses[-1] == 429
    assert len({h["x-worker"] for s, h, _ in answers if s == 200}) == 2
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
    connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=30)
    connection.putrequest("POST", "/predict")
    connection.putheader("content-length", "1000001")
    connection.endheaders()
    assert connection.getresponse().status == 413
    connection.close()
