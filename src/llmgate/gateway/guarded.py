"""uvicorn's HTTP protocol, guarded against clients that send too slowly, too much, or what two readers could understand
in two ways. httptools refuses most of the last; the rest is refused here, before anything of a request is used.

One timer a connection looks after all its deadlines: it fires at least once in the shortest of them and sees what is
being waited for. A request that comes at once costs no timer and a handful of comparisons.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from math import inf

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from llmgate.core.errors import BadRequest, HeadTooLarge, LlmgateError, RequestTimeout, UrlTooLong
from llmgate.wire.targets import objection_to_target

MOST_URL = 8192
"""Bytes; nginx's large_client_header_buffers allows as many."""

MOST_HEADERS = 100
MOST_HEAD = 32 * 1024
"""Bytes of all header names and values together: nginx's four buffers of 8 KiB."""

SLOWEST_BODY = 16 * 1024
"""Bytes for which a body gets a second more than `body_timeout`: a slow link may send a large one, a trickle not."""

_WATCHED = frozenset({b"host", b"content-length", b"transfer-encoding", b"expect"})


class GuardedProtocol(HttpToolsProtocol):
    """One client connection. Subclasses answer: `refuse_head`, `refuse_body`, `hang_up`."""

    head_timeout = inf
    """Seconds from the first byte of a head to its last, and from a connection's beginning to its first head."""
    body_timeout = inf
    """Seconds from a head to the end of its body, and one more for each SLOWEST_BODY bytes that have come."""

    unfinished = False  # a request has begun; subclasses say when it has come to its end
    length = 0  # that the head announced for its body
    _deaf = False  # what comes is not read any more
    _in_head = False
    _waiting_since = 0.0  # since when for more of the head, or of the body; 0: it has not been waited for
    _late_bytes = 0  # of the head, or of the body, that came after the first waiting
    _read = 0  # bytes of the last read
    _hosts = 0
    _host = b""
    _good_host = b""  # the last one that was found good: it is the same for each request of a connection
    _coding: bytes | None = None  # all values of Transfer-Encoding
    _idle_since = 0.0

    @abstractmethod
    def refuse_head(self, error: LlmgateError) -> None:
        """Answer a request whose head is no good, and give up the connection."""

    @abstractmethod
    def refuse_body(self, error: LlmgateError) -> None:
        """Answer a request whose body does not come to its end, and give up the connection."""

    @abstractmethod
    def hang_up(self) -> None: ...

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        self.url, self.headers = b"", []
        self._idle_since = self.loop.time()

    def watch(self) -> None:
        """Deadlines hold from now on."""
        self._arm(inf)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
            self.timeout_keep_alive_task = None
        super().connection_lost(exc)

    # What comes

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        self._read = len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._deaf = True  # it gets an answer in HTTP/1.1, its last: what follows could be another protocol
            self.cycle.keep_alive = False
        except httptools.HttpParserError:
            self._deaf = True
            refuse = self.refuse_body if self.unfinished and not self._in_head else self.refuse_head
            refuse(BadRequest("The request is not valid HTTP/1.1."))
            return
        if self.unfinished:
            self._note_waiting()

    def on_message_begin(self) -> None:
        self.unfinished = self._in_head = True
        self._waiting_since = 0.0
        self._hosts = self.length = 0
        self._coding = None
        self.url = b""
        self.headers = []
        self.expect_100_continue = False

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name in _WATCHED and self._in_head:
            self._note(name, value)
        self.headers.append((name, value))

    def head_is_complete(self) -> LlmgateError | None:
        """To be called first when it is. What speaks against the head."""
        self._in_head = False
        waited, self._waiting_since = self._waiting_since, 0.0
        url = self.url
        usual = self._hosts == 1 and self._host == self._good_host and self._coding is None
        if (
            usual
            and url[:1] == b"/"
            and b"#" not in url
            and not waited
            and self._read <= MOST_URL
            and len(self.headers) <= MOST_HEADERS
        ):
            return None
        return self._objection()

    def on_response_complete(self) -> None:
        self._idle_since = self.loop.time()
        if self.pipeline or self.transport.is_closing():
            super().on_response_complete()
            return
        self.server_state.total_requests += 1
        self.flow.resume_reading()

    # -----------------------------------------------------------------------------------------------------------------

    def _note(self, name: bytes, value: bytes) -> None:
        if name == b"host":
            self._hosts += 1
            self._host = value
        elif name == b"content-length":
            self.length = int(value)  # httptools lets nothing pass that is not a number, nor a second one
        elif name == b"transfer-encoding":
            self._coding = value if self._coding is None else self._coding + b"," + value
        elif value.lower() == b"100-continue":
            self.expect_100_continue = True

    def _objection(self) -> LlmgateError | None:
        if len(self.url) > MOST_URL:
            return UrlTooLong(f"The URL is longer than {MOST_URL} bytes.")
        size = sum(len(name) + len(value) for name, value in self.headers)
        if size > MOST_HEAD or len(self.headers) > MOST_HEADERS:
            return HeadTooLarge(f"The headers are more than {MOST_HEADERS}, or longer than {MOST_HEAD} bytes.")
        version = self.parser.get_http_version()
        if version not in ("1.1", "1.0"):
            return BadRequest("The request is not HTTP/1.1.")
        if self._coding is not None and (self._coding.lower() != b"chunked" or version == "1.0"):
            return BadRequest("The only transfer encoding that is understood is `chunked`, in HTTP/1.1.")
        if self._hosts > 1 or (version == "1.1" and not self._hosts):
            return BadRequest("The request must have one Host header.")
        wrong = objection_to_target(self.url, self._host if self._hosts else None)
        if wrong is not None:
            return BadRequest(wrong)
        self._good_host = self._host
        return None

    def _note_waiting(self) -> None:
        if not self._waiting_since:
            self._waiting_since = self.loop.time()
            self._late_bytes = 0
            return
        self._late_bytes += self._read
        if self._in_head and self._late_bytes > MOST_HEAD + MOST_URL:
            self._deaf = True
            long = len(self.url) > MOST_URL
            error = UrlTooLong if long else HeadTooLarge
            self.refuse_head(error(f"The request's head is longer than {MOST_URL} + {MOST_HEAD} bytes."))

    def _unset_keepalive_if_required(self) -> None:
        if self.transport.is_closing():
            super()._unset_keepalive_if_required()

    def timeout_keep_alive_handler(self) -> None:
        """Look after the deadlines."""
        self.timeout_keep_alive_task = None
        if self.transport.is_closing() or self._deaf:
            return
        deadline = self._deadline()
        rest = deadline - self.loop.time()
        if rest > 0:
            self._arm(rest)
        elif not self.unfinished:
            self.hang_up()
        elif self._in_head:
            self._deaf = True
            self.refuse_head(RequestTimeout(f"The request's head did not come within {self.head_timeout:g} s."))
        else:
            self.refuse_body(RequestTimeout(f"The request's body did not come within {self.body_timeout:g} s."))

    def _arm(self, rest: float) -> None:
        soon = min(rest, self.head_timeout, self.body_timeout, self.timeout_keep_alive)
        self.timeout_keep_alive_task = self.loop.call_later(soon, self.timeout_keep_alive_handler)

    def _deadline(self) -> float:
        if self.unfinished:
            since = self._waiting_since
            if not since:
                return inf
            if self._in_head:
                return since + self.head_timeout
            return since + self.body_timeout + self._late_bytes / SLOWEST_BODY
        if self.cycle is None:
            return self._idle_since + self.head_timeout
        return self._idle_since + self.timeout_keep_alive if self.cycle.response_complete else inf
