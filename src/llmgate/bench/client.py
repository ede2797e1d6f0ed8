"""One endpoint under load: what is sent to it, when its bytes came, and how it failed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from urllib.parse import quote

from llmgate.bench.answer import ErrorEvent, Malformed, StreamReader, check_whole, error_message
from llmgate.bench.record import ABORTED, Record
from llmgate.core.errors import (
    ConnectFailed,
    ConnectTimeout,
    FirstByteTimeout,
    IdleTimeout,
    OutOfResources,
    ProtocolViolation,
    Truncated,
    UpstreamError,
)
from llmgate.core.types import Usage
from llmgate.upstream.base import Headers, Target, Timeouts, UpstreamClient, UpstreamResponse

Clock = Callable[[], float]
MOST_OF_AN_ERROR = 64 * 1024  # bytes of an error answer that are read


class EndpointClient:
    """`headers` go with each request; `clock` gives the run's seconds."""

    def __init__(
        self, client: UpstreamClient, target: Target, headers: Headers, timeouts: Timeouts, clock: Clock
    ) -> None:
        self._client = client
        self._target = target
        self._headers = list(headers)
        self._timeouts = timeouts
        self._clock = clock

    async def fetch(self, method: str, path: bytes, body: bytes = b"") -> tuple[int, bytes]:
        """Status and body of a request that is not measured. Raises UpstreamError."""
        response = await self._client.open(self._target, method, path, self._headers, body, self._timeouts)
        try:
            return response.status, await _read_all(response)
        finally:
            response.close()

    async def measure(self, record: Record, path: bytes, body: bytes, session: str | None = None) -> None:
        """Send it and fill the record. An error goes into the record; cancelling closes the connection."""
        headers = self._headers
        if session is not None:
            headers = [
                *headers,
                (b"x-session-id", quote(session, safe="").encode("ascii")),
            ]  # a trace's: it may be any text
        record.sent = self._clock()
        try:
            response = await self._client.open(self._target, "POST", path, headers, body, self._timeouts)
            try:
                await self._read(response, record)
            finally:
                response.close()
        except UpstreamError as error:
            record.error, record.message = error_kind(error), str(error)
        except Malformed as error:
            record.error, record.message = "malformed", str(error)
        except ErrorEvent as error:
            record.error, record.message = "stream_error", str(error)
        except asyncio.CancelledError:
            record.error = ABORTED
            raise
        finally:
            record.ended = self._clock()

    # -----------------------------------------------------------------------------------------------------------------

    async def _read(self, response: UpstreamResponse, record: Record) -> None:
        if response.status != 200:
            record.error = f"http_{response.status}"
            record.message = error_message(await _read_all(response))
        elif record.streamed:
            reader = StreamReader(record.arrivals)
            await self._pump(response, reader)
            reader.end(self._clock())
            if not reader.done and not reader.finished:
                raise Truncated("the stream ended with neither [DONE] nor a finish reason")
            _note_usage(record, reader.usage())
        else:
            _note_usage(record, check_whole(await _read_all(response, limit=None)))

    async def _pump(self, response: UpstreamResponse, reader: StreamReader) -> None:
        """Events are read where their bytes arrive, in the event loop's own call: no task has to wake for a chunk."""
        clock, feed = self._clock, reader.feed
        failure: Exception | None = None

        def take(data: bytes) -> bool:
            nonlocal failure
            try:
                feed(data, clock())
            except (Malformed, ErrorEvent) as error:
                failure = error
                return False
            return True

        async def stopped() -> None:
            if failure is not None:
                raise failure

        await response.pump(take, stopped)


def error_kind(error: UpstreamError) -> str:
    """As the table of errors names it."""
    if isinstance(error, ConnectTimeout | FirstByteTimeout | IdleTimeout):
        return "timeout"
    if isinstance(error, ConnectFailed):
        return "connect"
    if isinstance(error, OutOfResources):
        return "client"  # this machine's fault
    if isinstance(error, ProtocolViolation):
        return "malformed"
    return "broken"  # the connection ended before the answer did


def _note_usage(record: Record, usage: Usage | None) -> None:
    if usage is not None:
        record.prompt_tokens, record.cached_tokens = usage.prompt_tokens, usage.cached_tokens
        record.output_tokens = usage.completion_tokens
    if usage is None or (not usage.completion_tokens and record.arrivals):
        record.output_tokens, record.counted = len(record.arrivals), True


async def _read_all(response: UpstreamResponse, limit: int | None = MOST_OF_AN_ERROR) -> bytes:
    parts: list[bytes] = []
    size = 0
    while (limit is None or size < limit) and (data := await response.read()):
        parts.append(data)
        size += len(data)
    return b"".join(parts)
