import shutil
import signal
import socket
import subprocess
import time

import pytest

from tests.concealment.conftest import NEEDS_REDIS
from tests.concealment.conftest import redis_uri as redis_uri
from tests.concealment.conftest import uri as uri
from tests.evaluation.conftest import made_by_hand as made_by_hand


@pytest.fixture
def ctrl_c():
    """Let SIGINT be KeyboardInterrupt, also where tests run in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Server:
    """A Redis server that can be stopped, held up and started again."""

    def __init__(self, folder):
        self.folder, self.process = folder, None
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]

    def start(self, *options):
        command = shutil.which("redis-server")
        if command is None:
            pytest.skip(NEEDS_REDIS)
        own = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", ""]
        self.process = subprocess.Popen(
            [command, *own, *options],
            cwd=self.folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for _ in range(1000):
            if self._answers():
                return
            time.sleep(0.01)
        raise TimeoutError("redis-server does not answer")

    def _answers(self):
        """Whether the server listens and has read what it kept."""
        with socket.socket() as probe:
            probe.settimeout(5)
            if probe.connect_ex(("127.0.0.1", self.port)) != 0:
                return False
            probe.sendall(b"PING\r\n")
            return probe.recv(100).startswith(b"+PONG")

    def kill(self):
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def uri(self, timeout=2.0):
        return f"redis://127.0.0.1:{self.port}/0?timeout={timeout}"


@pytest.fixture
def server(tmp_path):
    """A server of this test's own, not started yet."""
    found = Server(tmp_path)
    yield found
    found.kill()
