"""An object store on loopback, SeaweedFS from its wheel, and a proxy in front of it that does what networks do."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

KEY, SECRET = "tests-only", "not-a-secret-of-anybody"


def free_port() -> int:
    """Below 50,000: the server takes the port 10,000 above too."""
    while True:
        with socket.socket() as free, socket.socket() as above, contextlib.suppress(OSError):
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
            if port < 50_000:
                above.bind(("127.0.0.1", port + 10_000))
                return port


def environment(port: int) -> dict[str, str]:
    """What a user sets."""
    return {
        "AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_REGION": "us-east-1", "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_EC2_METADATA_DISABLED": "true",
    }  # fmt: skip


@contextmanager
def seaweed(folder: Path) -> Iterator[int]:
    """The port of a store with a bucket `bucket`."""
    weed = shutil.which("weed", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    who = [{"name": "tests", "credentials": [{"accessKey": KEY, "secretKey": SECRET}], "actions": ["Admin", "Read", "Write", "List", "Tagging"]}]
    (folder / "s3.json").write_text(json.dumps({"identities": who}))
    ports = {name: free_port() for name in ("master.port", "volume.port", "filer.port", "s3.port")}
    command = [weed, "server", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3", f"-s3.config={folder}/s3.json"]
    command += ["-master.volumeSizeLimitMB=64", "-volume.max=20", "-master.telemetry=false"]
    command += ["-s3.port.iceberg=0", "-s3.port.lance=0", *(f"-{name}={port}" for name, port in ports.items())]
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        make_bucket(ports["s3.port"], server, folder / "log")
        yield ports["s3.port"]
    finally:
        server.kill()  # a stop takes it 10 to 25 s
        server.wait(30)


def make_bucket(port: int, server: subprocess.Popen, log: Path) -> None:
    from pyarrow.fs import S3FileSystem

    files = S3FileSystem(access_key=KEY, secret_key=SECRET, endpoint_override=f"127.0.0.1:{port}", scheme="http", region="us-east-1", allow_bucket_creation=True)
    until = time.monotonic() + 60
    while True:
        try:
            return files.create_dir("bucket")
        except OSError:
            assert server.poll() is None and time.monotonic() < until, log.read_text()[-3000:]
            time.sleep(0.3)


class Trouble:
    """What the proxy does to requests to come, in order: 503, `cut` (half of the body, then the connection ends), `drop`
    (no answer), `lose` (passed on, and no answer), `expired` (the store's answer to a token that has), `hang` (not passed on, and
    no answer until the client is gone), `hold` (the same, passed on), else it passes on.

    `n_bytes`: of all answers. `of`: requests whose "METHOD path" it finds are the ones that are meant. `seconds`: each waits as long. `hidden`: listings
    leave out keys that it finds.
    """

    def __init__(self):
        self.next: list[int | str] = []
        self.done: list[int | str] = []
        self.asked: list[str] = []
        self.away, self.of, self.seconds, self.hidden = False, "", 0.0, None
        self.hangs, self.n_bytes = threading.Event(), 0

    def take(self, request: str) -> int | str:
        self.asked.append(request)
        if not re.search(self.of, request):
            return "pass"
        what = "drop" if self.away else self.next.pop(0) if self.next else "pass"
        self.done.append(what)
        return what

    def wait(self, what: int | str) -> None:
        """Tell the test that a request hangs, and let it, as long as the test needs to kill the client."""
        if what in ("hang", "hold"):
            self.hangs.set()
            time.sleep(3)


EXPIRED = b"<?xml version='1.0' encoding='UTF-8'?><Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message></Error>"


@contextmanager
def troubled(port: int) -> Iterator[tuple[int, Trouble]]:
    """A proxy's port in front of the store's, and what it is to do."""
    trouble = Trouble()

    class Proxy(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def body(self) -> bytes:
            """As it came, chunks with their frames."""
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))
            parts = []
            while not parts or int(parts[-2].split(b";")[0], 16):
                parts.append(self.rfile.readline())
                parts.append(self.rfile.read(int(parts[-1].split(b";")[0], 16) + 2))
            return b"".join(parts)

        def handle_any(self) -> None:
            body = self.body()
            what = trouble.take(f"{self.command} {self.path}")
            time.sleep(trouble.seconds if re.search(trouble.of, f"{self.command} {self.path}") else 0)
            if what in ("drop", "hang"):
                self.close_connection = True
                trouble.wait(what)
                return
            if what in (503, "expired"):
                said = EXPIRED if what == "expired" else b""
                self.send_response_only(503 if what == 503 else 400)
                self.send_header("Content-Length", str(len(said)))
                self.end_headers()
                self.wfile.write(b"" if self.command == "HEAD" else said)
                return
            store = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            store.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                store.putheader(name, value)
            store.endheaders(body)
            answer = store.getresponse()
            data = answer.read()
            if what in ("lose", "hold"):
                self.close_connection = True
                trouble.wait(what)
                return
            if trouble.hidden and "list-type=2" in self.path:
                data = re.sub(rb"<Contents>.*?</Contents>", lambda one: b"" if re.search(trouble.hidden, one[0].decode()) else one[0], data, flags=re.S)
            self.send_response_only(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                    self.send_header(name, value)
            self.send_header("Content-Length", answer.getheader("Content-Length") if self.command == "HEAD" else str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                trouble.n_bytes += len(data)
                self.wfile.write(data[: len(data) // 2] if what == "cut" else data)
            self.close_connection = self.close_connection or what == "cut"

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_any

        def log_message(self, *_) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as listening:
        listening.handle_error = lambda *_: None  # clients that were killed, or that hung up
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield listening.server_port, trouble
        listening.shutdown()
