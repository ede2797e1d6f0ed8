"""The answer's half of the hot path: from an engine's first byte to the last that goes to the client.

Which of five ways it takes: a stream as it comes, edited or not; a stream put together for a client that did not ask
for one; a whole answer with an edit; one that comes in pieces; one that has come whole.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from llmgate.core.errors import ProtocolViolation, UpstreamError
from llmgate.core.ledger import Charge
from llmgate.core.scheduler import Scheduler
from llmgate.core.types import Endpoint, Usage
from llmgate.gateway.edits import Edits
from llmgate.gateway.exchange import Exchange
from llmgate.upstream.base import UpstreamResponse
from llmgate.wire.asked import EXPLAIN, explanation_header
from llmgate.wire.event_edits import Edit, EventEditor
from llmgate.wire.headers import Header, find, response_headers
from llmgate.wire.sse import SseMeter
from llmgate.wire.usage import UsageTail, whole_usage

STREAM_HEADERS = (b"content-length", b"content-type", b"cache-control", b"x-accel-buffering")
"""What an engine says of a stream, and does not say of a whole answer."""

MOST_HELD = 256 * 1024 * 1024
"""Bytes of an answer that must be whole before anything of it can go out. 2,048 embeddings of 4,096 numbers, of some 12
bytes each, have 100 MB."""


def relay(
    exchange: Exchange,
    charge: Charge,
    response: UpstreamResponse,
    chunk: bytes,
    scheduler: Scheduler,
    clock: Callable[[], float],
) -> Awaitable[None] | None:
    """Pass on the answer, of which `chunk` is the first that came; what is left to be awaited, as more will come. The
    head goes out with it and not before: until then another endpoint can serve."""
    client = exchange.client
    content_type = (find(response.headers, b"content-type") or b"").lower()
    if response.status == 200 and exchange.spec.kind.generates:
        if content_type.startswith(b"text/html"):
            raise ProtocolViolation("the engine answered with a web page")
        if not chunk:
            raise ProtocolViolation("the engine's answer is empty")
    headers = response_headers(response.headers, _own_headers(exchange, charge.endpoint))
    exchange.first_byte = clock()
    exchange.kept = True
    if response.status < 400:
        scheduler.answered(charge, exchange.first_byte)
    edits = exchange.edits
    if content_type.startswith(b"text/event-stream"):
        if _is_encoded(response.headers):
            return _pass_on_encoded(exchange, charge, response, headers, chunk)
        meter = SseMeter(exchange.spec.usage_at_start)
        charge.prefill_done()
        if edits is not None and edits.assembly is not None:
            return _put_together(exchange, charge, response, headers, chunk, meter, edits)
        return _stream(exchange, charge, response, headers, chunk, meter)
    if (
        edits is not None
        and edits.answer
        and content_type.startswith(b"application/json")
        and not _is_encoded(response.headers)
    ):
        return _pass_on_whole(exchange, response, headers, chunk, edits.answer)
    if exchange.begun:  # the stream that has begun gets it as one event
        return _pass_on_whole(exchange, response, headers, chunk, ())
    if not response.ended:
        return _pass_on_pieces(exchange, response, headers, chunk)
    exchange.begun = exchange.ended = True
    exchange.drained = client.respond(response.status, headers, chunk, False)
    exchange.usage = whole_usage(chunk)
    return None


def begin_early(exchange: Exchange) -> list[Header] | None:
    """The head of a stream that is kept alive goes out before its engine has answered: no other may, from then."""
    if exchange.endpoint is None:
        return None
    exchange.begun = True
    exchange.meter = SseMeter()
    return [*_own_headers(exchange, exchange.endpoint), (b"content-type", b"text/event-stream")]


def _own_headers(exchange: Exchange, endpoint: Endpoint) -> list[Header]:
    headers = [
        (b"x-request-id", exchange.id_bytes),
        (b"x-llmgate-endpoint", endpoint.name.encode()),
        exchange.policy[1],
    ]
    if exchange.explain and exchange.explanation is not None:
        headers.append((EXPLAIN, explanation_header(exchange.request, exchange.explanation)))
    return headers


def _stream_taker(exchange: Exchange, charge: Charge, meter: SseMeter) -> Callable[[bytes], bool]:
    client, edits = exchange.client, exchange.edits
    if edits is None or not edits.answer:

        def take(piece: bytes) -> bool:
            charge.progress(meter.feed(piece))
            return client.write(piece, True)

        return take
    editor = exchange.editor = EventEditor(edits.answer)

    def take_edited(piece: bytes) -> bool:
        charge.progress(meter.feed(piece))
        return client.write(editor.feed(piece), True)

    return take_edited


async def _stream(
    exchange: Exchange,
    charge: Charge,
    response: UpstreamResponse,
    headers: list[Header],
    first: bytes,
    meter: SseMeter,
) -> None:
    exchange.meter = meter
    take = _stream_taker(exchange, charge, meter)
    # without its length, if it has one: should it break, there must be room for an error event
    headers = [header for header in headers if header[0] != b"content-length"]
    charge.progress(meter.feed(first))
    if exchange.editor is not None:
        first = exchange.editor.feed(first)
    await _pass_on(exchange, response, headers, first, take)
    spec, request = exchange.spec, charge.request
    exchange.usage = meter.usage() or Usage(
        request.prompt_tokens if spec.prompt else 0, meter.counted_tokens(spec.framing), counted=True
    )


async def _pass_on_pieces(exchange: Exchange, response: UpstreamResponse, headers: list[Header], first: bytes) -> None:
    client, tail = exchange.client, UsageTail()
    tail.keep(first)

    def keep(piece: bytes) -> bool:
        tail.keep(piece)
        return client.write(piece, True)

    await _pass_on(exchange, response, headers, first, keep)
    exchange.usage = tail.usage()


def _is_encoded(headers: Sequence[Header]) -> bool:
    """Nobody asked for it, but an engine may compress its answer all the same: then it is no text to be read."""
    return (find(headers, b"content-encoding") or b"identity").lower() != b"identity"


async def _pass_on_encoded(
    exchange: Exchange, charge: Charge, response: UpstreamResponse, headers: list[Header], first: bytes
) -> None:
    """A compressed stream passes as it is: not counted, not edited, and an error event cannot be put into it."""
    if exchange.begun or (exchange.edits is not None and exchange.edits.assembly is not None):
        exchange.kept = False  # the client has seen nothing of it: another endpoint may be asked
        raise ProtocolViolation("the engine compressed a stream that was to be read")
    charge.prefill_done()
    await _pass_on_pieces(exchange, response, headers, first)


async def _put_together(
    exchange: Exchange,
    charge: Charge,
    response: UpstreamResponse,
    headers: list[Header],
    first: bytes,
    meter: SseMeter,
    edits: Edits,
) -> None:
    """A stream that the client did not ask for: it gets the answer that the stream makes, at its end."""
    assembly = edits.assembly
    assert assembly is not None

    def take(piece: bytes) -> None:
        charge.progress(meter.feed(piece))
        assembly.feed(piece)

    await _hold(exchange, response, first, take)
    try:
        exchange.status, body = assembly.finish()
    except UpstreamError:
        exchange.kept = False
        raise
    exchange.usage = whole_usage(body)
    headers = [header for header in headers if header[0] not in STREAM_HEADERS]
    headers.append((b"content-type", b"application/json"))
    _send_whole(exchange, headers, body, edits.answer)


async def _pass_on_whole(
    exchange: Exchange, response: UpstreamResponse, headers: list[Header], first: bytes, edits: Sequence[Edit]
) -> None:
    """An answer that goes out in one piece: its length is known only when it has been edited, or a stream that has
    begun gets all of it as one event."""
    pieces: list[bytes] = []
    await _hold(exchange, response, first, pieces.append)
    body = b"".join(pieces)
    exchange.usage = whole_usage(body)
    _send_whole(exchange, headers, body, edits)


async def _hold(exchange: Exchange, response: UpstreamResponse, first: bytes, take: Callable[[bytes], object]) -> None:
    """Have `take` get all of an answer of which the client sees nothing before it is whole. Should it break or be too
    long for that, another endpoint may be asked."""
    size = 0

    def counted(piece: bytes) -> bool:
        nonlocal size
        size += len(piece)
        if size > MOST_HELD:
            response.close()
        else:
            take(piece)
        return True

    try:
        counted(first)
        await response.pump(counted, exchange.client.drained)
    except UpstreamError:
        exchange.kept = False
        if size > MOST_HELD:
            raise ProtocolViolation(f"the answer has more than the {MOST_HELD >> 20} MiB that are held") from None
        raise


def _send_whole(exchange: Exchange, headers: list[Header], body: bytes, edits: Sequence[Edit]) -> None:
    for edit in edits:
        body = edit.change(body)
    headers = [header for header in headers if header[0] != b"content-length"]
    headers.append((b"content-length", b"%d" % len(body)))
    exchange.begun = exchange.ended = True
    exchange.client.respond(exchange.status, headers, body, False)


async def _pass_on(
    exchange: Exchange,
    response: UpstreamResponse,
    headers: list[Header],
    first: bytes,
    take: Callable[[bytes], bool],
) -> None:
    """The answer as it comes: its first bytes, and the rest, which `take` sends on."""
    client, editor = exchange.client, exchange.editor
    exchange.begun, exchange.ended = True, response.ended
    if editor is not None and exchange.ended:
        first += editor.rest()
    if not client.respond(response.status, headers, first, not exchange.ended) and not exchange.ended:
        await client.drained()
    if not exchange.ended:
        await response.pump(take, client.drained)
        exchange.ended = True
        client.write(b"" if editor is None else editor.rest(), False)
