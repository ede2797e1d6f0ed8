from __future__ import annotations

import asyncio

import httpx2
import pytest

from llmgate.sim.http_engine.faults import Dice, Faults, parse_faults
from tests.sim.http_engine.sims import PATIENCE, ByHand, events, simulated


def test_fates_are_drawn_in_the_order_of_the_seed_and_as_often_as_asked() -> None:
    faults = Faults(fail_rate=0.25, stall_rate=0.5)
    fates = [[Dice(3).fate(faults) for _ in range(1)] for _ in range(2)]
    assert fates[0] == fates[1]
    dice = Dice(3)
    drawn = [dice.fate(faults) for _ in range(10_000)]
    assert drawn.count("fail") == pytest.approx(2500, abs=150)
    assert drawn.count("stall") == pytest.approx(3750, abs=150)
    assert drawn.count("reject") == 0


@pytest.mark.parametrize(
    ("status", "faults"), [(500, {"fail_rate": 1}), (429, {"reject_rate": 1, "reject_status": 429})]
)
async def test_requests_are_failed_or_refused_and_later_served_again(status: int, faults: dict[str, float]) -> None:
    async with simulated() as sim:
        assert (await sim.post("/sim/faults", faults)).status_code == 200
        refused = await sim.chat()
        assert (refused.status_code, refused.json()["error"]["code"]) == (status, status)
        await sim.post("/sim/faults", {"fail_rate": 0, "reject_rate": 0})
        assert (await sim.chat()).status_code == 200


async def test_a_stalled_request_gets_nothing_and_takes_no_place_in_the_engine() -> None:
    async with simulated(faults=Faults(stall_rate=1.0)) as sim:
        waiting = asyncio.create_task(sim.chat())
        await sim.until_load(1)
        assert await sim.metric('vllm:num_requests_running{engine="0",model_name="m"}') == 0
        assert not waiting.done()
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await sim.until_load(0)


@pytest.mark.parametrize("count", [1, 2, 4])
async def test_a_stream_breaks_after_so_many_events(count: int) -> None:
    async with simulated(faults=Faults(break_after=count)) as sim:
        received = b""
        body = {"messages": [{"role": "user", "content": "x"}], "stream": True, "max_tokens": 50, "ignore_eos": True}
        async with sim.client.stream("POST", "/v1/chat/completions", json=body) as answer:
            with pytest.raises(httpx2.RemoteProtocolError):  # noqa: PT012  (what came before is looked at)
                async for data in answer.aiter_bytes():
                    received += data
        assert len(events(received.decode())) == count
        await sim.until_load(0)


async def test_a_crash_ends_the_process_when_it_is_asked_for() -> None:
    died = asyncio.Event()
    async with simulated(die=died.set) as sim:
        await sim.post("/sim/faults", {"crash_at_s": 0.001})
        async with asyncio.timeout(PATIENCE):
            await died.wait()


async def test_until_it_has_started_it_is_not_healthy_and_serves_nothing() -> None:
    async with simulated(startup_s=1000.0) as sim:
        assert ((await sim.client.get("/health")).status_code, (await sim.chat()).status_code) == (503, 503)
        sim.engine._become_ready()
        assert ((await sim.client.get("/health")).status_code, (await sim.chat()).status_code) == (200, 200)


async def test_it_becomes_ready_by_itself() -> None:
    async with simulated(startup_s=0.001) as sim, asyncio.timeout(PATIENCE):
        while (await sim.client.get("/health")).status_code != 200:
            await asyncio.sleep(0)


async def test_a_fault_that_there_is_not_is_refused_with_what_there_is() -> None:
    async with simulated() as sim:
        unknown = await sim.post("/sim/faults", {"fail_rates": 1})
        beyond = await sim.post("/sim/faults", {"fail_rate": 2})
        assert (unknown.status_code, beyond.status_code) == (400, 400)
        assert "fail_rates" in unknown.json()["error"]["message"]
        assert (await sim.client.get("/sim/faults")).json()["fail_rate"] == 0


def test_faults_are_named_on_the_command_line() -> None:
    assert parse_faults(["fail_rate=0.5", "break-after=3"]) == Faults(fail_rate=0.5, break_after=3)
    with pytest.raises(ValueError, match="did you mean fail_rate"):
        parse_faults(["failrate=1"])
    with pytest.raises(ValueError, match="fail_rate=x"):
        parse_faults(["fail_rate=x"])


def test_a_stream_that_was_cut_leaves_the_engine() -> None:
    sim = ByHand()
    job, wire = sim.send({"prompt": "x", "stream": True, "max_tokens": 100, "ignore_eos": True}, chat=False)
    job.break_after = 3
    sim.run(1.0)
    assert (wire.tokens, wire.closed, sim.service.gauges().running, sim.service.open_requests) == (3, True, 0, 0)
