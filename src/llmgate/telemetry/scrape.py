"""The page that Prometheus reads, made in slices: 100 endpoints have 15,000 lines, which take 10 ms and more, and every
stream would wait for the last of them."""

from __future__ import annotations

import asyncio
import time

from llmgate.telemetry import exposition
from llmgate.telemetry.metrics import Metrics

SLICE_SECONDS = 0.002


async def scrape(metrics: Metrics, accept: str | None) -> tuple[bytes, str]:
    """The page and its content type, by a request's Accept header. Others get their turn after each slice."""
    openmetrics = exposition.wants_openmetrics(accept)
    pieces: list[bytes] = []
    slice_: list[str] = []
    ends = time.perf_counter() + SLICE_SECONDS
    for piece in metrics.pieces(openmetrics=openmetrics):
        slice_.append(piece)
        if time.perf_counter() > ends:
            pieces.append("".join(slice_).encode())
            slice_.clear()
            await asyncio.sleep(0)
            ends = time.perf_counter() + SLICE_SECONDS
    pieces.append("".join(slice_).encode())
    return b"".join(pieces), exposition.content_type(openmetrics=openmetrics)
