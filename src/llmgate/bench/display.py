"""Progress on standard error: one line that changes on a terminal, a plain line every ten seconds elsewhere."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

from llmgate.bench.run import Progress, RunClock

if TYPE_CHECKING:
    from rich.status import Status

REFRESH = 0.5  # s
PLAIN = 10.0  # s


@asynccontextmanager
async def show(progress: Progress, clock: RunClock) -> AsyncIterator[None]:
    """Shows them while the block runs."""
    if sys.stderr.isatty():
        from rich.console import Console

        with Console(stderr=True).status("…") as status:
            task = asyncio.create_task(_on_terminal(status, progress, clock))
            async with _ended(task):
                yield
    else:
        async with _ended(asyncio.create_task(_plain(progress, clock))):
            yield


def line(progress: Progress, seconds: float) -> str:
    """How far it is, in one line. Errors so far are told: a run that fails need not be waited for."""
    medians = sorted(ttft for record in progress.recent if (ttft := record.ttft) is not None)
    parts = [
        f"{seconds:.0f} s: {progress.done} of {progress.total} done",
        f"{progress.in_flight} in flight",
        f"{progress.failed} failed",
        f"{progress.output_tokens / seconds if seconds else 0:.0f} output tokens/s",
    ]
    if medians:
        parts.append(f"TTFT {medians[len(medians) // 2] * 1e3:.0f} ms")
    return ", ".join(parts)


async def _on_terminal(status: Status, progress: Progress, clock: RunClock) -> None:
    while True:
        status.update(line(progress, clock()) + "; Ctrl-C ends it with the results so far")
        await asyncio.sleep(REFRESH)


async def _plain(progress: Progress, clock: RunClock) -> None:
    while True:
        await asyncio.sleep(PLAIN)
        sys.stderr.write(line(progress, clock()) + "\n")


@asynccontextmanager
async def _ended(task: asyncio.Task[None]) -> AsyncIterator[None]:
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
