"""A gateway, two engines of which one tells what its cache holds, and real sockets between them."""

from __future__ import annotations

from llmgate.tokens import load_tokenizer
from tests.probes.kv_make import SIZE, stored
from tests.probes.kv_publisher import Publisher, until
from tests.support.fake_engine import FakeEngine, completion
from tests.support.serving import serving

MESSAGES = [{"role": "user", "content": "What does an engine hold that tells of it? " * 20}]


async def test_a_request_goes_where_the_engine_says_that_its_beginning_is() -> None:
    ids = load_tokenizer("embedded").chat_ids(MESSAGES)
    blocks = len(ids) // SIZE
    with Publisher() as publisher:
        async with (
            FakeEngine([completion()]) as one,
            FakeEngine([completion()]) as two,
            serving(
                one,
                {"url": two.url, "kv_events": {"endpoint": publisher.endpoint, "topic": "kv"}},
                router={"policy": "prefix-affinity"},
                models=[{"name": "m", "tokenizer": "embedded"}],
            ) as served,
        ):
            index = served.gateway.scheduler.block_index
            await publisher.wait()
            publisher.publish(stored(0, blocks, ids=ids))
            await until(lambda: index.live_slots)

            answer = await served.chat({"model": "m", "messages": MESSAGES})
            assert answer.headers["x-llmgate-endpoint"] == "b"
            (decision,) = (await served.admin.get("/api/decisions")).json()
            held = (len(ids) - 1) // SIZE * SIZE
            assert {
                each["endpoint"]: (each["cached_tokens"], each["cached_source"]) for each in decision["candidates"]
            } == {
                "a": (0, "learnt"),
                "b": (held, "events"),
            }
            assert await served.metric('llmgate_kv_index_blocks{endpoint="b"}') == blocks
            assert await served.metric('llmgate_prefix_source{endpoint="b",source="events"}') == 1

            await served.admin.delete("/api/endpoints/b")
            await publisher.gone()
            assert index.live_slots == {}
