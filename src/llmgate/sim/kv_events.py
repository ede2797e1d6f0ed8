"""KV events of simulated engines: what their caches store and drop, told to the gateway a little later."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

from llmgate.core.blocks import BlockIndex, Source
from llmgate.engines.request import CacheEvent
from llmgate.workloads.types import TraceRequest, Workload


class KvFeed:
    """One engine's events on their way into the index (probes/kv_stream.py). Engine hashes and chain keys are both the
    trace's ids. `latency` (s): from the step that stores or drops a block to when the index has it."""

    __slots__ = ("_block_tokens", "_coming", "_index", "_latency", "_slot", "_source")

    def __init__(self, index: BlockIndex, slot: int, block_tokens: int, latency: float) -> None:
        self._index = index
        self._slot = slot
        self._block_tokens = block_tokens
        self._latency = latency
        self._source: Source | None = None
        self._coming: deque[CacheEvent] = deque()

    def connect(self) -> None:
        """The gateway follows the engine, if it does not yet. What was told before is replayed: the index knows all."""
        if self._source is None:
            source = self._source = self._index.open(self._slot)
            self._index.clear(source, complete=True)
            self._index.set_block_tokens(source, self._block_tokens)
            self._index.set_live(source, True)

    def lose(self) -> None:
        """The process has died, with its cache and with what was on its way."""
        self._coming.clear()
        if self._source is not None:
            self._index.close(self._source)
            self._source = None

    def tell(self, events: Iterable[CacheEvent], now: float) -> None:
        """These have happened; those that are due by `now` get into the index."""
        coming, source = self._coming, self._source
        coming.extend(events)
        while source is not None and coming and coming[0].at + self._latency <= now:
            event = coming.popleft()
            if event.stored:
                self._index.store(source, event.stored, event.stored)
            else:
                self._index.remove(source, event.removed)


def trace_block_tokens(workload: Workload) -> int:
    """Tokens of the workload's blocks. ValueError if they differ: an engine's cache has blocks of one size."""
    sizes = {request.block_tokens for request in workload.requests if request.blocks}
    if len(sizes) > 1:
        raise ValueError(
            f"KV events need a workload whose blocks are of one size, and here they are of "
            f"{' and '.join(map(str, sorted(sizes)))} tokens: run it without them"
        )
    return sizes.pop() if sizes else 1


def prompt_blocks(request: TraceRequest, block_tokens: int) -> Sequence[int]:
    """Chain ids of the prompt's whole blocks of `block_tokens`, as an engine with such blocks tells them; none if the
    trace's are larger or do not fit into them."""
    each, odd = divmod(block_tokens, request.block_tokens)
    if odd or not each:
        return ()
    return request.blocks[each - 1 : request.prompt_tokens // block_tokens * each : each]
