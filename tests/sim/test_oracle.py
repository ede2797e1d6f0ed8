"""The policy that sees everything."""

from __future__ import annotations

from llmgate.sim.run import simulate
from tests.sim.make import fleet, request, workload


def engines(*requests: object, count: int = 2, **profile: object) -> list[int]:
    load = workload(*requests)  # type: ignore[arg-type]
    chosen: list[int] = simulate(load, fleet(count, **profile), "oracle").outcome.requests.engine.tolist()
    return chosen


def test_it_goes_where_the_prompt_is_cached_though_nobody_told_the_gateway() -> None:
    blocks = tuple(range(500))
    first, again = engines(request(0.0, 8000, blocks=blocks), request(20.0, 8001, blocks=blocks))
    assert first == again


def test_it_waits_for_a_prompt_that_is_being_computed_rather_than_compute_it_twice() -> None:
    blocks = tuple(range(1000))
    load = [request(0.0, 16_000, blocks=blocks), request(0.5, 16_001, blocks=blocks)]
    assert len(set(engines(*load))) == 1


def test_it_knows_which_answers_will_be_short() -> None:
    """Two engines with a request each, alike to the gateway: one ends soon."""
    long, short, third = engines(request(0.0, 100, 5000), request(0.1, 100, 3), request(0.2, 5000, 500))
    assert long != short
    assert third == short


def test_it_avoids_an_engine_whose_cache_is_full() -> None:
    load = [request(0.0, 9000, 500), request(0.5, 9000, 400), request(2.0, 2000, 10)]
    first, second, third = engines(*load, kv_tokens=10_000)
    assert first != second
    assert third == second  # there it ends first


def test_what_delays_others_counts_by_how_many_they_are() -> None:
    """Where two are decoding, a little of the prompt is cached; the other engine has one."""
    blocks = tuple(range(100))
    load = workload(
        request(0.0, 1600, 900, blocks=blocks),
        request(0.1, 100, 3000),
        request(1.0, 1610, 900, blocks=blocks),
        request(2.0, 20_000, 10, blocks=blocks),
    )

    def chosen(harm: str) -> list[int]:
        policy = f"oracle:prefill_harm={harm},decode_harm=0"
        engines: list[int] = simulate(load, fleet(2), policy).outcome.requests.engine.tolist()
        return engines

    cached, alone, again, free = chosen("0")
    assert cached == again == free != alone
    cached, alone, again, kind = chosen("3")
    assert cached == again != alone == kind


def test_where_much_was_done_lately_much_is_expected_to_come() -> None:
    """A block that is cached saves less than company will cost."""
    first, other = engines(request(0.0, 20_000, 500, blocks=(1,)), request(10.0, 1000, 300, blocks=(1,)))
    assert first != other
