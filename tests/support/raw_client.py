"""An HTTP client that sends exactly the bytes it is told to, and can leave in any way."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

PATIENCE = 20.0


def post(body: dict[str, Any] | bytes, path: str = "/v1/chat/completions", **headers: str) -> bytes:
    """A whole POST request as raw bytes."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    fields = {"host": "gateway", "content-type": "application/json", "content-length": str(len(content))}
    fields |= {name.replace("_", "-"): value for name, value in headers.items()}
    lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
    return "\r\n".join(lines).encode("latin-1") + content


@dataclass(frozen=True)
class Head:
    status: int
    headers: dict[str, str]  # names in lower case


class RawClient:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @property
    def serial_number(self) -> str:
        """Of the certificate that the gateway showed."""
        certificate = self._writer.get_extra_info("ssl_object").getpeercert()
        return str(certificate["serialNumber"])

    def send(self, data: bytes) -> None:
        self._writer.write(data)

    def half_close(self) -> None:
        self._writer.write_eof()

    def leave(self) -> None:
        self._writer.close()

    def reset(self) -> None:
        """Break the connection; unread bytes make it a TCP reset."""
        self._writer.transport.abort()

    def pause(self) -> None:
        """Read nothing more."""
        self._writer.transport.pause_reading()  # type: ignore[attr-defined]  # a socket's has it

    def resume(self) -> None:
        self._writer.transport.resume_reading()  # type: ignore[attr-defined]

    async def head(self) -> Head:
        async with asyncio.timeout(PATIENCE):
            raw = await self._reader.readuntil(b"\r\n\r\n")
        first, *lines = raw[:-4].decode("latin-1").split("\r\n")
        pairs = [line.split(": ", 1) for line in lines]
        assert len({name for name, _ in pairs}) == len(pairs), f"a header stands twice: {raw!r}"
        return Head(int(first.split(" ")[1]), {name.lower(): value for name, value in pairs})

    async def chunk(self) -> bytes:
        """The next chunk of a chunked body; empty for the last."""
        async with asyncio.timeout(PATIENCE):
            size = int(await self._reader.readline(), 16)
            data = await self._reader.readexactly(size + 2)
        assert data.endswith(b"\r\n")
        return data[:-2]

    async def body(self, head: Head) -> bytes:
        """The rest of an answer. IncompleteReadError if it is cut."""
        async with asyncio.timeout(PATIENCE):
            if "content-length" in head.headers:
                return await self._reader.readexactly(int(head.headers["content-length"]))
            assert head.headers["transfer-encoding"] == "chunked"
            body = b""
            while piece := await self.chunk():
                body += piece
            return body

    async def answer(self) -> tuple[Head, bytes]:
        head = await self.head()
        return head, await self.body(head)

    async def exactly(self, data: bytes) -> None:
        """The next bytes are these."""
        async with asyncio.timeout(PATIENCE):
            assert await self._reader.readexactly(len(data)) == data

    async def rest(self) -> bytes:
        """Everything until the gateway ends the connection; AssertionError if it does not."""
        try:
            async with asyncio.timeout(PATIENCE):
                return await self._reader.read()
        except TimeoutError:
            raise AssertionError("the gateway kept the connection open") from None
        except ConnectionResetError:
            return b""


@asynccontextmanager
async def connect(port: int, tls: ssl.SSLContext | None = None) -> AsyncIterator[RawClient]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**26, ssl=tls)
    try:
        yield RawClient(reader, writer)
    finally:
        writer.transport.abort()
        await asyncio.sleep(0)
