"""An OTLP collector in this process: takes spans over HTTP as OpenTelemetry's own does, and keeps them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span

SERVER, CLIENT, ERROR = Span.SPAN_KIND_SERVER, Span.SPAN_KIND_CLIENT, 2
PATIENCE = 15.0


class Collector:
    """`status`: what it answers; it does so only while `answers` is set."""

    def __init__(self) -> None:
        self.status = 200
        self.answers = threading.Event()
        self.answers.set()
        self.requests: list[dict[str, str]] = []  # their headers, in lower case
        self.batches: list[int] = []  # how many spans came at a time
        self.raw = b""  # all that came
        self.resource: dict[str, Any] = {}
        self._spans: list[Span] = []
        self.url = ""

    async def spans(self, count: int) -> list[Span]:
        """Waits until so many have come."""
        deadline = asyncio.get_running_loop().time() + PATIENCE
        while len(self._spans) < count:
            assert asyncio.get_running_loop().time() < deadline, f"{len(self._spans)} spans came, not {count}"
            await asyncio.sleep(0.02)
        return list(self._spans)

    async def asked(self, count: int) -> None:
        """Waits until so many requests have come."""
        deadline = asyncio.get_running_loop().time() + PATIENCE
        while len(self.requests) < count:
            assert asyncio.get_running_loop().time() < deadline
            await asyncio.sleep(0.02)

    def take(self, path: str, headers: dict[str, str], body: bytes) -> None:
        assert path == "/v1/traces"
        assert headers["content-type"] == "application/x-protobuf"
        self.requests.append(headers)
        self.raw += body
        if self.status != 200:
            return
        request = ExportTraceServiceRequest.FromString(body)
        self.batches.append(sum(len(scope.spans) for each in request.resource_spans for scope in each.scope_spans))
        for each in request.resource_spans:
            self.resource = attributes(each.resource)
            for scope in each.scope_spans:
                self._spans += scope.spans


def attributes(of: Any) -> dict[str, Any]:
    """Of a span, an event or a resource."""
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in of.attributes}


def server_span(spans: list[Span]) -> Span:
    """The only one."""
    (found,) = (each for each in spans if each.kind == SERVER)
    return found


def client_spans(spans: list[Span]) -> list[Span]:
    """In the order in which they began."""
    return sorted((each for each in spans if each.kind == CLIENT), key=lambda each: each.start_time_unix_nano)


@contextmanager
def collecting() -> Iterator[Collector]:
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            collector.take(self.path, {name.lower(): value for name, value in self.headers.items()}, body)
            collector.answers.wait()
            answer = ExportTraceServiceResponse().SerializeToString()
            self.send_response(collector.status)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    collector.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield collector
    finally:
        collector.answers.set()
        server.shutdown()
        server.server_close()
        thread.join()
