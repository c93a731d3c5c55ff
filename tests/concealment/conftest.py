import os
import shutil
import socket
import subprocess
import time

import pytest

NEEDS_REDIS = "redis-server is not installed; `make test-services` installs it"


@pytest.fixture(scope="session")
def redis_uri(tmp_path_factory):
    """A Redis server of this test session's own."""
    command = shutil.which("redis-server")
    if command is None:
        pytest.skip(NEEDS_REDIS)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("redis")
    server = subprocess.Popen(
        [command, "--port", str(port), "--bind", "127.0.0.1", "--save", ""],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    for _ in range(500):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.01)
    yield f"redis://127.0.0.1:{port}/0"
    server.terminate()
    server.wait()


@pytest.fixture
def uri(request, tmp_path):
    """Return the URI of a store that nobody has used yet."""
    if request.param == "memory":
        return "memory://"
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/guard.db"
    prefix = f"{os.getpid()}-{time.monotonic_ns()}"
    return f"{request.getfixturevalue('redis_uri')}?prefix={prefix}"
