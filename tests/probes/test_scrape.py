from __future__ import annotations

import logging
from dataclasses import replace

import pytest

from llmgate.core.errors import FirstByteTimeout
from llmgate.core.health import Health
from llmgate.core.types import Endpoint, EndpointMetrics, EndpointSpec, EngineCounts
from llmgate.probes.page import Page
from llmgate.probes.scrape import DELAY_WHILE_OFF, Scraper
from llmgate.wire.engine_metrics import MAX_PAGE_BYTES
from tests.probes.fakes import HANGS, REFUSED, Answer, FakeEngines, ManualTime, asleep, llamacpp, page, vllm
from tests.probes.test_health import Pace
from tests.wire.engine_pages import recorded

LOAD = "vllm-0.32/metrics-load.txt"


class Probe:
    """What the scraper needs of a health probe."""

    def __init__(self) -> None:
        self.times_learnt = 1
        self.known = True
        self.forgotten = 0
        self.slept = 0

    def forget(self) -> None:
        self.forgotten += 1

    def asleep(self) -> None:
        self.slept += 1


class Case:
    def __init__(self, engine: str | None, answers: dict[str, Answer] | None, *, up: bool = True) -> None:
        self.time = ManualTime()
        self.probe = Probe()
        self.endpoint = Endpoint(EndpointSpec("a", "http://a"), 0, Health(), engine=engine)
        if up:
            self.endpoint.health.probe_passed()
        self.engines = FakeEngines(**({} if answers is None else {"a": answers}))
        self.scraper = Scraper(self.endpoint, self.engines.fetch, Pace(1.0, 0.01), self.time.clock, self.probe)

    @property
    def answers(self) -> dict[str, Answer]:
        return self.engines.engines["a"]

    def asked(self, path: str) -> int:
        return self.engines.asked["a", path]

    @property
    def gauges(self) -> EndpointMetrics | None:
        """The last reading, but for its counters."""
        metrics = self.endpoint.metrics
        return None if metrics is None else replace(metrics, counts=EngineCounts())

    def fresh(self) -> bool:
        metrics = self.endpoint.metrics
        return metrics is not None and metrics.fresh(self.time.now)

    async def scrapes(self, count: int) -> None:
        for _ in range(count):
            await self.scraper()
            self.time.now += self.scraper.interval()


async def test_a_reading_replaces_the_last_one_and_bears_the_time_of_asking() -> None:
    case = Case("vllm", vllm())
    await case.scrapes(1)
    first = case.endpoint.metrics
    assert first is not None
    assert case.gauges == EndpointMetrics(1000.0, 0, 0, 0.0, 8192)
    case.answers["/metrics"] = page(recorded(LOAD))
    await case.scrapes(1)
    counts = EngineCounts(928, 0, 397, 0)
    assert case.endpoint.metrics == EndpointMetrics(1001.0, 4, 20, 12 / 63, 8192, counts=counts)
    assert first.running == 0, "whoever holds the old reading keeps it as it was"


@pytest.mark.parametrize(
    "failure",
    [
        REFUSED,
        HANGS,
        FirstByteTimeout("late"),
        page(status=500),
        page(status=404),
        page(b"#" * (MAX_PAGE_BYTES + 1)),
    ],
    ids=["refused", "hangs", "late", "500", "404", "too large"],
)
async def test_what_cannot_be_read_leaves_the_old_reading_to_age(failure: Answer) -> None:
    case = Case("vllm", vllm(LOAD))
    await case.scrapes(1)
    before = case.endpoint.metrics
    case.answers["/metrics"] = failure
    await case.scrapes(4)
    assert case.endpoint.metrics is before
    case.time.now += 2.0
    assert not case.fresh()


@pytest.mark.parametrize("body", [b"<html>", b"", b"vllm:num_requests_waiting NaN\n"])
async def test_a_page_without_the_gauges_makes_load_unknown_not_zero(
    body: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    case = Case("vllm", vllm(LOAD))
    await case.scrapes(1)
    case.answers["/metrics"] = page(body)
    await case.scrapes(3)
    metrics = case.endpoint.metrics
    assert metrics is not None
    assert (metrics.running, metrics.waiting, metrics.kv_usage) == (None, None, None)
    assert metrics.kv_capacity_tokens == 8192, "which does not change while the engine runs"
    assert [record.getMessage() for record in caplog.records] == [
        "a: its metrics hold none of the gauges that are known of vllm"
    ]


async def test_the_capacity_of_llama_cpp_is_asked_once_per_start() -> None:
    case = Case("llamacpp", llamacpp())
    await case.scrapes(5)
    assert case.gauges == EndpointMetrics(1004.0, 2, 4, None, 4096, max_running=2)
    assert case.asked("/props") == 1
    case.probe.times_learnt += 1
    await case.scrapes(5)
    assert case.asked("/props") == 2


async def test_a_capacity_that_cannot_be_had_now_is_asked_again_and_one_that_is_not_told_is_not() -> None:
    case = Case("llamacpp", {**llamacpp(), "/props": REFUSED})
    await case.scrapes(2)
    assert case.endpoint.metrics is not None
    assert (case.endpoint.metrics.waiting, case.endpoint.metrics.kv_capacity_tokens) == (4, None)
    case.answers["/props"] = page(b"{}")
    await case.scrapes(5)
    assert case.asked("/props") == 3


async def test_another_engine_does_not_inherit_the_capacity() -> None:
    case = Case("vllm", vllm())
    await case.scrapes(1)
    case.endpoint.engine = "tgi"
    case.probe.times_learnt += 1
    case.engines.engines["a"] = {"/metrics": page(recorded("reconstructed/tgi.txt"))}
    await case.scrapes(1)
    assert case.gauges == EndpointMetrics(1001.0, 8, 5)


@pytest.mark.parametrize("status", [404, 501])
async def test_metrics_that_are_off_are_looked_for_rarely_and_logged_once(
    status: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "llmgate.probes")
    case = Case("llamacpp", {**llamacpp(), "/metrics": page(status=status)})
    await case.scrapes(3)
    assert case.scraper.interval() == DELAY_WHILE_OFF
    assert [record.getMessage() for record in caplog.records] == [
        f"a: its metrics are off (/metrics answered {status})"
    ]
    assert case.endpoint.metrics is None
    case.answers.update(llamacpp())
    await case.scrapes(1)
    assert case.scraper.interval() == 1.0
    assert case.fresh()


async def test_sglang_without_metrics_still_tells_its_load() -> None:
    loads = "/v1/loads?include=core&format=prometheus"
    case = Case("sglang", {loads: page(recorded("reconstructed/sglang-loads.txt"))})
    await case.scrapes(3)
    assert case.gauges == EndpointMetrics(1002.0, 8, 1, 0.4, 200_000, max_running=96)
    assert (case.asked("/metrics"), case.asked(loads), case.asked("/get_server_info")) == (1, 3, 0)


async def test_what_the_metrics_of_sglang_leave_open_its_server_info_tells() -> None:
    info = page(recorded("reconstructed/sglang-server-info.json"))
    metrics = page(recorded("reconstructed/sglang-dp2-priority.txt"))
    case = Case("sglang", {"/metrics": metrics, "/get_server_info": info})
    await case.scrapes(3)
    assert case.gauges == EndpointMetrics(1002.0, 11, 3, 0.91, 800_000, max_running=512), "metrics come first"
    assert case.asked("/get_server_info") == 1


async def test_a_page_with_too_many_series_is_not_read(caplog: pytest.LogCaptureFixture) -> None:
    case = Case("vllm", {**vllm(), "/metrics": page(b"vllm:num_requests_running 1\n" * 5000)})
    await case.scrapes(3)
    assert case.endpoint.metrics is None
    assert [record.getMessage() for record in caplog.records] == [
        "a: its metrics cannot be read: the page has more than 4096 lines that count"
    ]


async def test_an_engine_of_unknown_make_or_one_that_is_down_is_not_asked() -> None:
    for case in (Case(None, vllm()), Case("openai", vllm()), Case("vllm", vllm(), up=False)):
        await case.scrapes(3)
        assert not case.engines.asked
    down = Case("vllm", vllm())
    for _ in range(3):
        down.endpoint.health.probe_failed("x")
    down.probe.known = False
    await down.scrapes(3)
    assert not down.engines.asked


async def test_only_a_refused_connection_hints_at_a_restart() -> None:
    case = Case("vllm", {"/metrics": FirstByteTimeout("late")})
    await case.scrapes(3)
    assert case.probe.forgotten == 0
    case.answers["/metrics"] = REFUSED
    await case.scrapes(1)
    assert case.probe.forgotten == 1


async def test_a_failure_that_comes_and_goes_is_logged_once_per_start(caplog: pytest.LogCaptureFixture) -> None:
    case = Case("vllm", vllm())
    for _ in range(3):
        case.answers["/metrics"] = REFUSED
        await case.scrapes(1)
        case.answers.update(vllm())
        await case.scrapes(1)
    assert [record.getMessage() for record in caplog.records] == [
        "a: its metrics cannot be read: /metrics: connection refused"
    ]


async def test_an_engine_that_is_down_but_answers_is_asked_for_it_may_be_asleep() -> None:
    case = Case("vllm", {**vllm(), "/metrics": page(asleep())})
    await case.scrapes(1)
    assert case.probe.slept == 1
    case.endpoint.health.probe_failed("asleep", certain=True)
    await case.scrapes(1)
    assert case.probe.slept == 2
    case.answers.update(vllm())
    await case.scrapes(1)
    assert case.probe.slept == 2
    assert case.endpoint.metrics is not None
    assert not case.endpoint.metrics.asleep


async def test_a_page_that_was_asked_for_before_a_restart_is_not_a_reading_of_the_engine_after_it() -> None:
    case = Case("vllm", vllm())
    fetch = case.engines.fetch

    async def restarts_meanwhile(endpoint: Endpoint, path: str, timeout: float, /) -> Page:
        case.probe.times_learnt += 1
        return await fetch(endpoint, path, timeout)

    case.scraper = Scraper(case.endpoint, restarts_meanwhile, Pace(1.0, 0.01), case.time.clock, case.probe)
    await case.scrapes(1)
    assert case.endpoint.metrics is None


@pytest.mark.parametrize(("interval", "lifetime"), [(0.1, 5.0), (1.0, 5.0), (10.0, 50.0)])
async def test_a_reading_is_current_for_five_periods_and_at_least_five_seconds(
    interval: float, lifetime: float
) -> None:
    case = Case("vllm", vllm(LOAD))
    case.scraper = Scraper(case.endpoint, case.engines.fetch, Pace(interval, 0.01), case.time.clock, case.probe)
    await case.scraper()
    case.time.now += lifetime
    assert case.fresh()
    case.time.now += 0.1
    assert not case.fresh()
