"""Serve a defended model: train it, start Redis and uvicorn, end them on Ctrl-C."""

import argparse
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(port: int, server: subprocess.Popen, seconds: float = 10) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until and server.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise SystemExit(f"nothing answers on port {port}")


def serve(folder: Path, port: int, workers: int) -> int:
    redis = shutil.which("redis-server")
    if redis is None:
        raise SystemExit("redis-server is missing; on Debian: apt install redis-server")
    redis_port = free_port()
    options = ["--port", str(redis_port), "--bind", "127.0.0.1", "--save", ""]
    # a group of its own, so that Ctrl-C ends it last
    store = subprocess.Popen(
        [redis, *options],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        wait_for(redis_port, store)
        environment = {
            "SK_ADVDEF_SECRET": secrets.token_hex(32),
            # the C library otherwise keeps a heap for each thread, and each grows
            "MALLOC_ARENA_MAX": "1",
            **os.environ,
            "GUARDED_MODEL": str(folder / "guarded.joblib"),
            "AUDIT_LOG": str(folder / "audit.log"),
        }
        uri = f"redis://127.0.0.1:{redis_port}/0"
        train = [sys.executable, HERE / "train.py", folder / "guarded.joblib"]
        subprocess.run([*train, "--store", uri], env=environment, check=True)
        options = ["--app-dir", HERE, "--host", "127.0.0.1", "--port", str(port)]
        options += ["--workers", str(workers), "--log-level", "warning"]
        application = subprocess.Popen(
            [sys.executable, "-m", "uvicorn", "app:app", *options], env=environment
        )
        print(f"http://127.0.0.1:{port}/predict", flush=True)
        try:
            return application.wait()
        finally:
            application.terminate()
            application.wait()
    finally:
        store.terminate()
        store.wait()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="for the model and the audit log")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    # being terminated ends the servers too
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if args.folder is not None:
            args.folder.mkdir(parents=True, exist_ok=True)
            return serve(args.folder.resolve(), args.port, args.workers)
        with tempfile.TemporaryDirectory() as folder:
            return serve(Path(folder), args.port, args.workers)
    except KeyboardInterrupt:
        return 0


if __name__ == "__main__":
    sys.exit(main())
