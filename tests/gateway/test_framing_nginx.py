"""The same bytes, read by nginx: whatever the gateway serves nginx must pass on as the same requests.

nginx stands before a recorder and takes the whole of a body before it sends any of it, as the gateway does.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import socket
import socketserver
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from tests.support.processes import free_ports, process, program
from tests.support.requests import Read, by_gateway, conversations

CONFIG = """user {user};
daemon off;
worker_processes 1;
pid {folder}/pid;
error_log /dev/null;
events {{}}
http {{
  {temporary}
  access_log off;
  merge_slashes off;
  client_max_body_size 0;
  large_client_header_buffers 4 16k;
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://127.0.0.1:{origin};
      proxy_http_version 1.1;
      proxy_ignore_client_abort on;
    }}
  }}
}}
"""
TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
PATIENCE = 10.0


class Recorder(socketserver.ThreadingTCPServer):
    """What nginx sends is well-formed: a head, and as many bytes as its length says."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self) -> None:
        self.requests: list[Read] = []
        super().__init__(("127.0.0.1", 0), _Handler)


class _Handler(socketserver.StreamRequestHandler):
    server: Recorder

    def handle(self) -> None:
        while line := self.rfile.readline():
            method, target, _ = line.split(b" ")
            length = 0
            while (header := self.rfile.readline()) != b"\r\n":
                name, _, value = header.partition(b":")
                if name.lower() == b"content-length":
                    length = int(value)
            body = self.rfile.read(length)
            self.server.requests.append((method, target.removeprefix(b"http://g"), body))
            self.wfile.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")


class Nginx:
    def __init__(self, port: int, recorder: Recorder) -> None:
        self._port = port
        self._recorder = recorder

    def read(self, data: bytes) -> list[Read]:
        """The requests that it passes on when a client sends this and then no more."""
        self._recorder.requests.clear()
        with socket.create_connection(("127.0.0.1", self._port), PATIENCE) as client:
            client.sendall(data)
            try:
                client.shutdown(socket.SHUT_WR)
                while client.recv(65536):
                    pass
            except OSError:  # it refused, and did not wait for the rest
                pass
        return list(self._recorder.requests)


@pytest.fixture(scope="module")
def nginx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    binary, folder = program("nginx", "nginx-light"), tmp_path_factory.mktemp("nginx")
    (port,) = free_ports(1)
    with Recorder() as recorder:
        threading.Thread(target=recorder.serve_forever, daemon=True).start()
        (folder / "nginx.conf").write_text(
            CONFIG.format(
                user=pwd.getpwuid(os.getuid()).pw_name,
                folder=folder,
                temporary="\n  ".join(f"{kind}_temp_path {folder}/{kind};" for kind in TEMPORARY),
                port=port,
                origin=recorder.server_address[1],
            )
        )
        with process([binary, "-p", str(folder), "-c", str(folder / "nginx.conf")]):
            _wait_for(port, folder)
            yield Nginx(port, recorder)
        recorder.shutdown()


def _wait_for(port: int, folder: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            assert time.monotonic() < deadline, f"nginx does not listen; its files are in {folder}"
            time.sleep(0.05)
        else:
            return


def test_nginx_is_asked_and_tells_what_it_passes_on(nginx: Nginx) -> None:
    """Or the comparison below would compare nothing."""
    first = b"POST /a HTTP/1.1\r\nHost: g\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"
    two = first + b"GET /b HTTP/1.1\r\nHost: g\r\n\r\n"
    assert nginx.read(two) == [(b"POST", b"/a", b"hi"), (b"GET", b"/b", b"")]
    good = b"POST /direct HTTP/1.1\r\nHost: g\r\nContent-Length: 5\r\n\r\nhello"
    assert asyncio.run(by_gateway(good)) == nginx.read(good) == [(b"POST", b"/direct", b"hello")]
    assert nginx.read(b"POST /a HTTP/1.1\r\nHost: g\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n") == []


@given(conversations())
@settings(
    deadline=None,
    max_examples=int(os.environ.get("FUZZ", "400")),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_whatever_is_served_nginx_passes_on_as_the_same_requests(nginx: Nginx, data: bytes) -> None:
    served = asyncio.run(by_gateway(data))
    if served:
        assert served == nginx.read(data)[: len(served)], data
