"""What clients make up leaves no trace in the metrics."""

from __future__ import annotations

from tests.support.fake_engine import FakeEngine, completion
from tests.support.raw_client import connect, post
from tests.support.serving import HELLO, Served, serving

INVENTED, AT_ONCE = 100_000, 100


async def series(served: Served) -> set[str]:
    """Names and labels of all that is counted of requests; readings of engines come and go by themselves."""
    page = (await served.client.get("/metrics")).text
    names = {line.rpartition(" ")[0] for line in page.splitlines() if line.startswith("llmgate_")}
    return {name for name in names if not name.startswith("llmgate_endpoint_")}


async def test_names_of_models_that_clients_invent_add_no_series() -> None:
    async with FakeEngine([completion()]) as engine, serving(engine) as served:
        assert (await served.chat()).status_code == 200
        assert (await served.chat(HELLO | {"model": "first-invented"})).status_code == 404
        before = await series(served)
        async with connect(served.gateway.data_port) as client:
            for first in range(0, INVENTED, AT_ONCE):
                client.send(b"".join(post(HELLO | {"model": f"invented-{first + n}"}) for n in range(AT_ONCE)))
                assert [(await client.answer())[0].status for _ in range(AT_ONCE)] == [404] * AT_ONCE
        assert await series(served) == before
        assert await served.metric('llmgate_rejected_total{reason="model_not_found"}') == INVENTED + 1


async def test_nor_do_paths_methods_and_headers() -> None:
    async with FakeEngine([completion()]) as engine, serving(engine) as served:
        await served.chat(x_session_id="s", x_request_id="r", x_llmgate_priority="p", user_agent="u")
        await served.client.get("/v1/models/first")
        await served.client.request("FIRST", "/first")
        before = await series(served)
        for number in range(50):
            name = f"invented-{number}"
            await served.chat(x_session_id=name, x_request_id=name, x_llmgate_priority=name, user_agent=name)
            await served.client.get(f"/v1/models/{name}")
            await served.client.request("GET", f"/{name}")
        assert await series(served) == before
