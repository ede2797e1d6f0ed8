"""Rules of core/scheduler.py about what endpoints tell of their own caches."""

from __future__ import annotations

from collections.abc import Sequence

from llmgate.core.blocks import Source
from llmgate.core.protocols import Candidates, Router
from llmgate.core.scheduler import Scheduler
from llmgate.core.types import InferenceRequest, TerminationCause
from tests.core import make

SIZE = 16
BLOCKS = list(range(1000, 1040))


class First(Router):
    """Takes the first candidate."""

    needs_prefix = True

    def score(self, request: InferenceRequest, candidates: Candidates) -> Sequence[float]:
        return list(map(float, range(len(candidates.endpoints))))


def scheduler(count: int = 3) -> Scheduler:
    return Scheduler(make.pool(count), First())


def follow(scheduler: Scheduler, slot: int, blocks: int, *, complete: bool = True, size: int = SIZE) -> Source:
    """The endpoint in `slot` tells that it holds so many of BLOCKS."""
    index = scheduler.block_index
    source = index.open(slot)
    index.clear(source, complete=complete)
    index.set_live(source, live=True)
    index.set_block_tokens(source, size)
    index.store(source, range(blocks), BLOCKS[:blocks])
    return source


def request(
    prompt: int = len(BLOCKS) * SIZE + 5, *, prefix: tuple[int, ...] = (), blocks: bool = True
) -> InferenceRequest:
    made = make.request(prompt, prefix=prefix)
    if blocks:
        made.blocks, made.block_tokens = BLOCKS[: prompt // SIZE], SIZE
    return made


def cached(scheduler: Scheduler, wanted: InferenceRequest) -> list[int]:
    return list(scheduler.schedule(wanted, 0.0).candidates.cached_tokens)


def test_endpoints_are_credited_with_whole_blocks_of_what_they_tell() -> None:
    told = scheduler()
    follow(told, 0, 3)
    follow(told, 2, 40)
    decision = told.schedule(request(), 0.0)
    assert decision.candidates.cached_tokens == [3 * SIZE, 0, 40 * SIZE]
    assert decision.cached_tokens == 3 * SIZE
    assert set(decision.told) == {0, 2}


def test_the_last_token_of_a_prompt_is_never_cached() -> None:
    told = scheduler()
    follow(told, 0, 40)
    assert cached(told, request(2 * SIZE))[0] == SIZE
    assert cached(told, request(2 * SIZE + 1))[0] == 2 * SIZE
    assert cached(told, request(SIZE - 1))[0] == 0


def test_what_was_routed_counts_where_nobody_tells_and_not_where_somebody_does() -> None:
    told = scheduler()
    wanted = request(400, prefix=(1, 2, 3, 4))  # 400 tokens of 1,600 bytes: four blocks of 256 are 256 tokens
    for endpoint in told.pool:
        decision = told.schedule(make.request(400, prefix=(1, 2, 3, 4)), 0.0)
        decision.endpoint = endpoint
        told.settle(told.book(wanted, decision, -1e6), TerminationCause.COMPLETED, 0.0)
    assert cached(told, wanted) == [256, 256, 256]
    follow(told, 0, 1)
    follow(told, 1, 1, complete=False)
    assert cached(told, wanted) == [SIZE, 256, 256], "told; told in part; not told"
    assert cached(told, request(400, prefix=(1, 2, 3, 4), blocks=False)) == [256, 256, 256]


def test_blocks_of_another_size_cannot_be_compared() -> None:
    told = scheduler()
    follow(told, 0, 3, size=32)
    decision = told.schedule(request(), 0.0)
    assert decision.candidates.cached_tokens == [0, 0, 0]
    assert not decision.told


def test_what_was_just_sent_to_an_endpoint_that_tells_is_counted_before_it_tells() -> None:
    told = scheduler()
    for slot in range(3):
        follow(told, slot, 0)
    charge = told.book(request(), told.schedule(request(), 0.0), 0.0)
    assert cached(told, request()) == [40 * SIZE, 0, 0]
    charge.prefill_done()
    assert cached(told, request()) == [0, 0, 0], "it would have told: it has not got it"


def test_an_endpoint_that_is_removed_takes_what_it_told_along() -> None:
    told = scheduler()
    follow(told, 0, 3)
    told.book(request(), told.schedule(request(), 0.0), 0.0)
    told.remove("e0")
    follow(told, told.pool.add(make.endpoint("new").spec).slot, 1)
    new = told.pool.get("new")
    assert new is not None
    new.models = {"m": "m"}
    new.health.probe_passed()
    assert new.slot == 0
    assert cached(told, request()) == [0, 0, SIZE]


def test_the_block_size_of_a_model_is_that_of_most_who_tell() -> None:
    told = scheduler(5)
    assert told.block_tokens("m") is None
    follow(told, 0, 0, size=32)
    assert told.block_tokens("m") == 32
    follow(told, 1, 0)
    source = follow(told, 2, 0)
    assert told.block_tokens("m") == SIZE
    assert told.block_tokens("another") is None
    told.block_index.set_live(source, live=False)
    told.block_index.clear(source, complete=False)
    told.remove("e1")
    assert told.block_tokens("m") == 32


def test_only_adapters_seed_their_chains_with_a_name() -> None:
    told = scheduler()
    told.block_index.adapters.add("sql")
    assert (told.chain_name("m"), told.chain_name("sql")) == ("", "sql")
