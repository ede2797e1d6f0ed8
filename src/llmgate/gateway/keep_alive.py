"""A stream that says it is alive while its engine works on the prompt.

Proxies and clients give up on a connection that is silent for a minute, and a long prompt may take longer. So after
some seconds the head of the answer goes out with a comment, which clients of event streams skip, and more comments
until the engine begins. Whatever becomes of the request after that can only be told within the stream.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec

from llmgate.core.errors import UpstreamError
from llmgate.gateway.client import Around, Client
from llmgate.wire.headers import Header, find
from llmgate.wire.kinds import Dialect

COMMENT = b": keep-alive\n\n"


class KeptAlive(Around):
    """A Client around another, for a request that asks for a stream. Call `stop` when the request is done with.

    `early_head` gives the headers of an answer that begins now, or None if it must not yet; after it has given some,
    the answer has begun. From then on what is no stream must be given whole, with `respond`.
    """

    def __init__(
        self, client: Client, seconds: float, early_head: Callable[[], list[Header] | None], dialect: Dialect
    ) -> None:
        super().__init__(client)
        self._seconds = seconds
        self._early_head = early_head
        self._dialect = dialect
        self._begun = False
        self._task = asyncio.get_running_loop().create_task(self._comment())

    def respond(self, status: int, headers: list[Header], body: bytes, more: bool) -> bool:
        self.stop()
        if not self._begun:
            return self._client.respond(status, headers, body, more)
        if (find(headers, b"content-type") or b"").lower().startswith(b"text/event-stream"):
            return self._client.write(body, more)
        return self._client.write(_event(self._dialect, status, body), more)

    def stop(self) -> None:
        """No more comments."""
        self._task.cancel()

    async def _comment(self) -> None:
        client = self._client
        while not client.gone:
            await asyncio.sleep(self._seconds)
            if self._begun:
                went = client.write(COMMENT, True)
            elif (head := self._early_head()) is not None:
                self._begun = True
                went = client.respond(200, head, COMMENT, True)
            else:
                continue
            if not went:
                await client.drained()


def _event(dialect: Dialect, status: int, body: bytes) -> bytes:
    """A whole answer as the one event of a stream; if it is an error, framed as the gateway's own are."""
    ours = dialect.event(UpstreamError(f"The engine answered {status}, and not with JSON."))
    try:
        msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError):
        return ours
    frame = ours.partition(b"data: ")[0] if status >= 400 else b""
    return b"%bdata: %b\n\n" % (frame, b" ".join(body.splitlines()))
