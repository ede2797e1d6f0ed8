"""A client whose answer is kept, for the debug log."""

from __future__ import annotations

import time

from llmgate.core.types import InferenceRequest
from llmgate.gateway.client import Around, Client
from llmgate.gateway.exchange import Exchange
from llmgate.telemetry.debug_log import DebugLog
from llmgate.wire.headers import Header

MOST = 4 * 1024 * 1024
"""Bytes of an answer that are kept."""


class Overheard(Around):
    """`heard` is what the client was sent of the answer's body."""

    def __init__(self, client: Client) -> None:
        super().__init__(client)
        self.heard = bytearray()

    def respond(self, status: int, headers: list[Header], body: bytes, more: bool) -> bool:
        self._hear(body)
        return super().respond(status, headers, body, more)

    def write(self, body: bytes, more: bool) -> bool:
        self._hear(body)
        return super().write(body, more)

    def _hear(self, body: bytes) -> None:
        if len(self.heard) < MOST:
            self.heard += body[: MOST - len(self.heard)]


def write_down(exchange: Exchange, client: Overheard, log: DebugLog) -> None:
    """At the end of the exchange."""
    request: InferenceRequest | None = getattr(exchange, "request", None)  # not there if it was not understood
    log.write(
        at=time.time(),
        request_id=exchange.id,
        model=None if request is None else request.model,
        endpoint=None if exchange.endpoint is None else exchange.endpoint.name,
        status=exchange.status,
        credentials=exchange.headers.credentials,
        asked=client.body,
        answered=bytes(client.heard),
    )
