"""A standalone cluster of pip's Spark on loopback: a master, and workers of a core each."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyspark

SPARK_CLASS = Path(pyspark.__file__).parent / "bin" / "spark-class"
DEPLOY = "org.apache.spark.deploy"
LOOPBACK = {"SPARK_LOCAL_IP": "127.0.0.1", "PYSPARK_PYTHON": sys.executable, "SPARK_DAEMON_MEMORY": "256m"}
WORKER_MEMORY = "1500m"
SECONDS = 180  # for a server to start


@contextmanager
def cluster(folder: Path, n_workers: int = 2) -> Iterator[str]:
    """The address of the master, which ends with its workers behind the block. Raises RuntimeError, with its log, for
    a server that does not start."""
    port, servers = free_port(), []
    address = f"spark://127.0.0.1:{port}"
    folder.mkdir(parents=True)
    try:
        servers.append(start("master.Master", folder / "master", "elected leader", "--port", port))
        for i in range(n_workers):
            more = ["--cores", 1, "--memory", WORKER_MEMORY, "--work-dir", folder / f"work-{i}"]
            servers.append(start("worker.Worker", folder / f"worker-{i}", "registered with master", address, *more))
        yield address
    finally:
        for server in reversed(servers):
            os.killpg(server.pid, signal.SIGTERM)
            server.wait(30)


def start(kind: str, log: Path, said: str, *arguments: object) -> subprocess.Popen:
    """A server of this class, once its log says so."""
    command = [SPARK_CLASS, f"{DEPLOY}.{kind}", *arguments, "--host", "127.0.0.1", "--webui-port", free_port()]
    with log.open("w") as file:
        started = subprocess.Popen(
            list(map(str, command)), env=os.environ | LOOPBACK, stdout=file, stderr=file, start_new_session=True
        )
    until = time.monotonic() + SECONDS
    while said not in log.read_text():
        if started.poll() is not None or time.monotonic() > until:
            started.kill()
            raise RuntimeError(f"expected {kind} to start, found {log.read_text()[-2000:]}")
        time.sleep(0.2)
    return started


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]
