from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
import trustme
import uvloop

from llmgate.upstream.base import UpstreamClient
from llmgate.upstream.httpx_client import HttpxClient
from llmgate.upstream.native import NativeClient


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Every test here runs on both event loops: they differ in how they close, pause and fail."""
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@asynccontextmanager
async def checked_native() -> AsyncIterator[NativeClient]:
    client = NativeClient()
    yield client
    assert all(stats.in_use == 0 for stats in client.stats().values()), "a connection was not given back"
    await client.aclose()
    assert all(stats.open == 0 for stats in client.stats().values())


@pytest.fixture
async def native() -> AsyncIterator[NativeClient]:
    async with checked_native() as client:
        yield client


@pytest.fixture(params=["native", "httpx"])
async def client(request: pytest.FixtureRequest) -> AsyncIterator[UpstreamClient]:
    if request.param == "native":
        async with checked_native() as native:
            yield native
    else:
        reference = HttpxClient()
        yield reference
        await reference.aclose()


@dataclass(frozen=True)
class Tls:
    server: ssl.SSLContext
    trusting: ssl.SSLContext  # a client's context that knows the server's authority
    wary: ssl.SSLContext  # one that does not


@pytest.fixture(scope="session")
def tls() -> Tls:
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost", "127.0.0.1").configure_cert(server)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    return Tls(server, trusting, ssl.create_default_context())
