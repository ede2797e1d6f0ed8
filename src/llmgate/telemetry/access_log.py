"""The access log: a line of JSON for each request, for people and for tools that replay it. Never any content.

What a request costs here is a tuple of numbers and a share of encoding BATCH of them at once; the writing is a
thread's. `python -m benchmarks.access_log` measures it.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from hashlib import blake2b
from random import Random

import msgspec
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from llmgate.telemetry.line_writer import LineWriter

BATCH = 64
FLUSH_SECONDS = 0.2
"""How late a line may be in the file when there are few of them."""

CLOSE_SECONDS = 2.0
"""How long the end of the process may wait for a reader that takes nothing."""

HASH_BYTES = 8
KNOWN_BLOCKS = 65_536
"""Hashes of prompt blocks that are remembered, for traffic repeats its beginnings: about 10 MB."""


class Entry(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """One request, in the order of the line. Times are seconds, sizes bytes; null is unknown or not applicable."""

    ts: float  # arrival, Unix time
    request_id: str
    route: str  # the path, without its query
    key_id: str | None
    model: str | None  # the public name, aliases resolved; null: it was not understood
    endpoint: str | None  # the last one tried
    policy: str
    status: int  # 499: the client left
    cause: str  # a TerminationCause, or `rejected`: the gateway answered it without an endpoint
    attempts: int  # endpoints tried
    stream: bool | None  # asked for
    prompt_tokens_estimated: int | None  # what routing went by; exact where the model has a tokenizer
    prompt_tokens: int | None
    cached_tokens: int | None
    completion_tokens: int | None
    usage_source: str | None  # engine | counted
    queue_s: float | None  # arrival to the first dispatch
    ttft_s: float | None  # arrival to the first byte of the answer
    duration_s: float  # arrival to the last
    bytes_in: int  # of the request's body
    bytes_out: int  # of the answer's
    session: str | None  # keyed hash
    prefix: Sequence[str] | None  # keyed hashes of the prompt's first blocks; null unless asked for
    trace_id: str | None = None  # hexadecimal; left out where the trace is not recorded


class AccessLog:
    """Takes entries on the event loop; hashes what must not stand in clear.

    `to` is `stdout`, `stderr` or a path. Hashes can be compared as long as `key` is the same; an empty one is made up.
    `prefix_blocks`: how many blocks of a prompt are hashed. `sample`: the part of good answers that is wanted.
    Raises OSError if it cannot be opened.
    """

    def __init__(
        self,
        to: str,
        *,
        key: str = "",
        prefix_blocks: int = 0,
        sample: float = 1.0,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.prefix_blocks = prefix_blocks
        self.wall_clock = wall_clock
        self._sample = sample
        self._random = Random()
        self._key = blake2b(key.encode()).digest() if key else secrets.token_bytes(64)
        self._block_hash = lru_cache(KNOWN_BLOCKS)(self._hash_block)
        self._entries: list[Entry] = []
        self._encode = msgspec.json.Encoder().encode_lines
        self._timer: asyncio.TimerHandle | None = None
        self._writer = LineWriter(to)

    def wants(self, status: int) -> bool:
        """Whether a request that ended so is to be written."""
        return self._sample >= 1.0 or status >= 400 or self._random.random() < self._sample

    def write(self, entry: Entry) -> None:
        """Needs a running event loop."""
        entries = self._entries
        entries.append(entry)
        if len(entries) >= BATCH:
            self.flush()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(FLUSH_SECONDS, self._on_timer)

    def session(self, key: str) -> str:
        """Sessions can be told apart in the log, and not recognised."""
        return blake2b(key.encode("utf-8", "replace"), key=self._key, digest_size=HASH_BYTES).hexdigest()

    def prefix(self, keys: Sequence[int]) -> list[str]:
        """Of a prompt's chain keys: equal beginnings have equal hashes, and only with `key` could one be guessed."""
        return [self._block_hash(key) for key in keys[: self.prefix_blocks]]

    def flush(self) -> None:
        """Hand everything to the writer."""
        if self._entries:
            entries, self._entries = self._entries, []
            self._writer.put(self._encode(entries), len(entries))

    def reopen(self) -> None:
        """The file was moved away: go on in a new one."""
        self.flush()
        self._writer.reopen()

    async def close(self) -> None:
        """Write what is left, within CLOSE_SECONDS."""
        self.flush()
        if self._timer is not None:
            self._timer.cancel()
        await asyncio.to_thread(self._writer.close, CLOSE_SECONDS)

    @property
    def dropped(self) -> dict[str, int]:
        """Lines that were lost, by reason."""
        return {"queue_full": self._writer.overflowed, "write_failed": self._writer.failed}

    def _on_timer(self) -> None:
        self._timer = None
        self.flush()

    def _hash_block(self, chain_key: int) -> str:
        return blake2b(chain_key.to_bytes(8, "little"), key=self._key, digest_size=HASH_BYTES).hexdigest()


class DroppedCollector(Collector):
    """`llmgate_access_log_dropped_total`, of whichever log is in use at the scrape."""

    def __init__(self, log: Callable[[], AccessLog | None]) -> None:
        self._log = log

    def collect(self) -> Iterator[CounterMetricFamily]:
        if (log := self._log()) is not None:
            family = CounterMetricFamily(
                "llmgate_access_log_dropped", "Lines of the access log that were lost.", labels=["reason"]
            )
            for reason, lines in log.dropped.items():
                family.add_metric([reason], lines)
            yield family
