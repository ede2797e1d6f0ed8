"""KV events as a subscriber of vLLM's decodes them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest
import zmq
import zmq.asyncio

from llmgate.engines.request import CacheEvent
from llmgate.sim.http_engine.chain import chain_ids, root
from llmgate.sim.http_engine.kv_events import BlockBook
from llmgate.sim.http_engine.publisher import binds
from llmgate.sim.http_engine.settings import KvEventsConfig
from llmgate.sim.http_engine.tokenizer import FourByteTokenizer
from tests.sim.http_engine.sims import PATIENCE, PROFILE, ByHand, simulated
from tests.support.processes import free_ports

END = b"\xff" * 8
BLOCK = PROFILE.block_tokens


# as a subscriber declares them, apart from what the engine declares


class BlockStored(msgspec.Struct, tag=True):
    block_hashes: list[int]
    parent_block_hash: int | None
    token_ids: list[int]
    block_size: int
    lora_id: int | None = None
    medium: str | None = None
    lora_name: str | None = None


class BlockRemoved(msgspec.Struct, tag=True):
    block_hashes: list[int]
    medium: str | None = None


class AllBlocksCleared(msgspec.Struct, tag=True):
    pass


class Batch(msgspec.Struct, array_like=True):
    ts: float
    events: list[BlockStored | BlockRemoved | AllBlocksCleared]
    data_parallel_rank: int | None = None


@contextmanager
def sockets() -> Iterator[zmq.asyncio.Context]:
    context = zmq.asyncio.Context()
    try:
        yield context
    finally:
        context.destroy(linger=0)


async def batches(socket: zmq.asyncio.Socket) -> AsyncIterator[tuple[int, Batch]]:
    """What comes, until the end of a replay."""
    while True:
        async with asyncio.timeout(PATIENCE):
            *_, sequence, payload = await socket.recv_multipart()
        if sequence == END:
            return
        yield int.from_bytes(sequence, "big"), msgspec.msgpack.decode(payload, type=Batch)


async def replayed(context: zmq.asyncio.Context, port: int, start: int = 0) -> list[tuple[int, Batch]]:
    with context.socket(zmq.DEALER) as dealer:
        dealer.connect(f"tcp://127.0.0.1:{port}")
        await dealer.send_multipart([b"", start.to_bytes(8, "big")])
        return [each async for each in batches(dealer)]


async def test_a_subscriber_learns_which_tokens_which_block_holds() -> None:
    port, replay = free_ports(2)
    config = KvEventsConfig(f"tcp://*:{port}", f"tcp://*:{replay}")
    prompt = list(range(1000, 1000 + 3 * BLOCK + 5))
    async with simulated(kv_events=config) as sim:
        with sockets() as context:
            await sim.post("/v1/completions", {"prompt": prompt, "max_tokens": 2})
            sent = await replayed(context, replay)
    assert [sequence for sequence, _ in sent] == list(range(len(sent)))
    [event] = sent[0][1].events
    assert isinstance(event, BlockStored)
    assert (event.token_ids, event.block_size, event.medium) == (prompt[: 3 * BLOCK], BLOCK, "GPU")
    assert (len(event.block_hashes), event.parent_block_hash, sent[0][1].data_parallel_rank) == (3, None, 0)


async def test_live_batches_have_a_topic_and_count_from_where_a_replay_ends() -> None:
    port, replay = free_ports(2)
    config = KvEventsConfig(f"tcp://127.0.0.1:{port}", f"tcp://*:{replay}", topic="kv")
    async with asyncio.timeout(PATIENCE):
        with sockets() as context, context.socket(zmq.SUB) as subscriber:
            subscriber.bind(f"tcp://127.0.0.1:{port}")  # the engine connects, as vLLM does to an address without *
            subscriber.subscribe(b"kv")
            async with simulated(kv_events=config) as sim:
                frames: list[bytes] = []
                salt = 0
                while not frames:  # until the subscription has arrived, what is published is lost
                    await sim.post("/v1/completions", {"prompt": f"{salt:04d}" * 40, "max_tokens": 1})
                    salt += 1
                    if await subscriber.poll(10):
                        frames = await subscriber.recv_multipart()
                sequence = int.from_bytes(frames[1], "big")
                assert (len(frames), frames[0], len(frames[1])) == (3, b"kv", 8)
                [(first, batch), *_] = await replayed(context, replay, start=sequence)
                assert (first, batch) == (sequence, msgspec.msgpack.decode(frames[2], type=Batch))


async def test_only_so_many_batches_are_kept_for_a_replay() -> None:
    port, replay = free_ports(2)
    config = KvEventsConfig(f"tcp://*:{port}", f"tcp://*:{replay}", buffer_steps=2)
    async with simulated(kv_events=config) as sim:
        for salt in range(4):
            await sim.post("/v1/completions", {"prompt": f"{salt:04d}" * 20, "max_tokens": 1})
        with sockets() as context:
            assert [sequence for sequence, _ in await replayed(context, replay)] == [2, 3]
        assert (await sim.client.get("/kv_event_sources")).json() == {
            "0": {
                "enable_kv_cache_events": True,
                "publisher": "zmq",
                "endpoint": f"tcp://*:{port}",
                "replay_endpoint": f"tcp://*:{replay}",
                "buffer_steps": 2,
                "hwm": 100000,
                "max_queue_size": 100000,
                "topic": "",
            }
        }


async def test_an_address_that_is_taken_is_said() -> None:
    [port] = free_ports(1)
    config = KvEventsConfig(f"tcp://127.0.0.1:{port}", f"tcp://*:{port}")
    async with simulated(kv_events=KvEventsConfig(f"tcp://*:{port}")):
        with pytest.raises(OSError, match=str(port)):
            async with simulated(kv_events=config):
                pass


@pytest.mark.parametrize(
    ("endpoint", "rule"),
    [("tcp://*:5557", True), ("tcp://[::]:5557", True), ("ipc:///kv", True), ("tcp://gateway:5557", False)],
)
def test_it_binds_what_vllm_binds(endpoint: str, rule: bool) -> None:
    assert binds(endpoint) is rule


def stored(sim: ByHand) -> list[Any]:
    return [event for batch in sim.published for event in batch]


def test_answers_extend_the_chain_of_their_prompt() -> None:
    sim = ByHand()
    sim.send({"prompt": [7] * BLOCK, "max_tokens": BLOCK + 2, "ignore_eos": True}, chat=False)
    sim.run(5.0)
    prompt, answer = stored(sim)
    assert answer.parent_block_hash == prompt.block_hashes[-1]
    assert len(answer.token_ids) == BLOCK


def test_evicted_blocks_are_told_of_and_forgotten() -> None:
    sim = ByHand()
    blocks = PROFILE.kv_tokens // BLOCK
    for salt in range(4):
        sim.send({"prompt": [salt] * 1500, "max_tokens": 1}, chat=False)
        sim.run(5.0)
    events = stored(sim)
    kept: set[int] = set()
    for event in events:
        kept = (
            kept - set(event.block_hashes) if type(event).__name__ == "BlockRemoved" else kept | {*event.block_hashes}
        )
    assert any(type(event).__name__ == "BlockRemoved" for event in events)
    assert len(kept) <= blocks
    book = sim.service._book
    assert book is not None
    assert len(book) == len(kept)


def test_a_cache_that_was_emptied_is_told_of_with_the_next_step() -> None:
    sim = ByHand()
    body = {"prompt": [7] * 40, "max_tokens": 1}
    sim.send(body, chat=False)
    sim.run(1.0)
    assert sim.service.reset_prefix_cache()
    assert len(sim.published) == 1
    sim.send(body, chat=False)
    sim.run(1.0)
    assert [type(event).__name__ for event in sim.published[-1]] == ["AllBlocksCleared", "BlockStored"]


def test_blocks_of_requests_that_stored_nothing_are_not_kept() -> None:
    sim = ByHand()
    for _ in range(5):
        job, _wire = sim.send({"prompt": [7] * 40, "max_tokens": 500, "ignore_eos": True}, chat=False)
        job.exchange.left()
    sim.run(5.0)
    assert sim.service._book is not None
    assert len(sim.service._book) == 0


def test_runs_that_do_not_follow_each_other_are_events_of_their_own() -> None:
    book = BlockBook(2)
    tokenizer = FourByteTokenizer()
    ids = [tokenizer.encode(text * 4) for text in ("abcd", "efgh")]
    chains = [chain_ids(each, 2) for each in ids]
    for chain, tokens in zip(chains, ids, strict=True):
        book.opened(chain, tokens)
    first, second = book.events([CacheEvent(0.0, [*chains[0], *chains[1]], [])])
    assert [first.block_hashes, second.block_hashes] == chains  # type: ignore[union-attr]


def test_chains_are_equal_where_beginnings_are_and_apart_by_adapter_and_salt() -> None:
    tokenizer = FourByteTokenizer()
    one, two = (tokenizer.encode("word" * 32 + tail) for tail in ("abcd" * 16, "efgh" * 16))
    assert chain_ids(one, 16)[:2] == chain_ids(two, 16)[:2]
    assert not set(chain_ids(one, 16)[2:]) & set(chain_ids(two, 16)[2:])
    roots = {root(None, None), root("a", None), root("b", None), root("a", "salt")}
    assert len(roots) == 4
    assert all(0 <= key < 2**64 for key in chain_ids(one, 16, root("a", "salt")))
