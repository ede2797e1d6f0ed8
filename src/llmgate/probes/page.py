"""How probes ask an engine: what they need of a client, and what becomes of its failures."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from llmgate.core.errors import ConnectFailed, OutOfResources, UpstreamError
from llmgate.core.types import Endpoint
from llmgate.wire.engine_metrics import MAX_PAGE_BYTES

__all__ = ["MAX_PAGE_BYTES", "MISSING", "Ask", "Fetch", "Pace", "Page", "ProbeFailed", "answered", "asker"]

MISSING = (404, 405, 501)
"""Statuses that say "there is no such page here"."""


@dataclass(frozen=True, slots=True)
class Page:
    """One whole answer."""

    status: int
    headers: Sequence[tuple[bytes, bytes]]  # names in lower case
    body: bytes

    def header(self, name: bytes) -> str:
        """The first of that name; empty if there is none."""
        return next((value.decode("latin-1") for key, value in self.headers if key == name), "")


class Fetch(Protocol):
    async def __call__(self, endpoint: Endpoint, path: str, timeout: float, /) -> Page:
        """GET `path` of the endpoint, whatever the status.

        `timeout`, in seconds, bounds each step (the caller bounds the whole). Raises UpstreamError, also for a body
        of more than MAX_PAGE_BYTES.
        """
        ...


class Pace(Protocol):
    """How often, and how long to wait for an answer; seconds. The configuration's `health` and `scrape` are such."""

    @property
    def interval(self) -> float: ...
    @property
    def timeout(self) -> float: ...


class ProbeFailed(Exception):
    """A question to an engine that had no good answer; the text is one line that says why.

    `ours`: it could not even be asked, which says nothing of the engine.
    """

    def __init__(self, reason: str, *, unreachable: bool = False, ours: bool = False) -> None:
        super().__init__(" ".join(reason.split()))
        self.unreachable = unreachable
        self.ours = ours


Ask = Callable[[str], Awaitable[Page]]
"""GET a path of one endpoint. Raises ProbeFailed when no answer comes."""


def asker(fetch: Fetch, endpoint: Endpoint, timeout: float) -> Ask:
    """Bind `fetch` to one endpoint, with `timeout` seconds for the whole answer."""

    async def ask(path: str) -> Page:
        try:
            async with asyncio.timeout(timeout):
                return await fetch(endpoint, path, timeout)
        except TimeoutError:
            raise ProbeFailed(f"{path} did not answer within {timeout:g} s") from None
        except OutOfResources as error:
            raise ProbeFailed(error.message, ours=True) from error
        except UpstreamError as error:
            raise ProbeFailed(f"{path}: {error.message}", unreachable=isinstance(error, ConnectFailed)) from error

    return ask


def answered(path: str, page: Page) -> ProbeFailed:
    """The failure that consists in the answer's status."""
    hint = "; check its api_key" if page.status in (401, 403) else ""
    return ProbeFailed(f"{path} answered {page.status}{hint}")
