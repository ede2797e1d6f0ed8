from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, Metric, generate_latest
from prometheus_client.core import CounterMetricFamily
from prometheus_client.openmetrics import parser as openmetrics_parser
from prometheus_client.openmetrics.exposition import generate_latest as openmetrics_of
from prometheus_client.parser import text_string_to_metric_families as parse_text
from prometheus_client.registry import Collector

from llmgate.core.types import EndpointMetrics, EndpointSpec, Usage
from llmgate.telemetry import exposition
from llmgate.telemetry.metrics import Metrics
from llmgate.telemetry.scrape import scrape
from tests.core import make
from tests.support.scrapes import page_of

OPENMETRICS = "application/openmetrics-text; version=1.0.0,text/plain;q=0.5"


def parse_openmetrics(text: str) -> list[Metric]:
    return list(openmetrics_parser.text_string_to_metric_families(text))  # type: ignore[no-untyped-call]


def lively(endpoints: int) -> Metrics:
    pool = make.pool(endpoints)
    metrics = Metrics(pool, lambda: 0.0)
    for endpoint in pool:
        endpoint.metrics = EndpointMetrics(0.0, 1, 1, 0.5, 1000)
        end(metrics, endpoint.name)
    return metrics


def end(metrics: Metrics, endpoint: str, status: int = 200, model: str = "m") -> None:
    usage = Usage(10, 10, cached_tokens=5)
    metrics.request_ended(model, endpoint, status, stream=True, duration=1.0, ttft=0.1, overhead=0.001, usage=usage)


async def test_the_format_follows_the_accept_header() -> None:
    metrics = lively(1)
    body, content_type = await scrape(metrics, OPENMETRICS)
    assert content_type == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    assert body.endswith(b"# EOF\n")
    assert parse_openmetrics(body.decode())
    for accept in (None, "text/html"):
        body, content_type = await scrape(metrics, accept)
        assert content_type == "text/plain; version=0.0.4; charset=utf-8"
        assert b"# EOF" not in body


async def test_a_page_in_slices_is_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmgate.telemetry.scrape.SLICE_SECONDS", 0.0)
    metrics = lively(20)
    body, _ = await scrape(metrics, None)
    own = [line for line in body.decode().splitlines() if "llmgate_" in line]
    assert own == [line for line in page_of(metrics).splitlines() if "llmgate_" in line]


async def test_others_get_their_turn_after_each_slice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmgate.telemetry.scrape.SLICE_SECONDS", 0.0)
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    other = asyncio.create_task(count())
    await scrape(lively(50), None)
    other.cancel()
    assert turns > 1000


async def test_whatever_happens_between_slices_the_page_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests end with new statuses, endpoints come and go, histograms grow: and each series is consistent."""
    monkeypatch.setattr("llmgate.telemetry.scrape.SLICE_SECONDS", 0.0)
    metrics = lively(20)
    pool = metrics._pool

    async def change() -> None:
        for number in itertools.count():
            some, name = number % 50, f"new-{number % 50}"
            if pool.remove(name) is None:
                pool.add(EndpointSpec(name, "http://x", models={f"m{some}": "m"}))
            end(metrics, name, model=f"m{some}")
            end(metrics, "e0", status=200 + some)
            metrics.retried("e1", f"reason-{some}")
            metrics.rejected(f"reason-{some}")
            metrics.objectives.ttft_predicted("m", name, 1.0)
            metrics.objectives.slo_ended(name, "ttft", True)
            metrics.decisions.of(name).made(2, 1)
            metrics.totals()  # takes in what has ended
            await asyncio.sleep(0)

    changing = asyncio.create_task(change())
    body, _ = await scrape(metrics, OPENMETRICS)
    assert not changing.done()
    changing.cancel()
    families = parse_openmetrics(body.decode())  # which sees to it that buckets and counts agree
    assert len({family.name for family in families}) == len(families)


class Many(Collector):
    def collect(self) -> Iterator[Metric]:
        family = CounterMetricFamily("many", "How many.", labels=("kind",))
        for number in range(3 * exposition.SAMPLES + 1):
            family.add_metric((f'kind "{number}"',), number)
        yield family


@pytest.fixture
def registry() -> CollectorRegistry:
    made = CollectorRegistry()
    Info("build", "Of the build.", registry=made).info({"version": "1"})
    Counter("things", "How many.", ("kind",), registry=made).labels("one").inc()
    made.register(Many())
    Gauge("empty", "With no series.", ("kind",), registry=made)
    Histogram("took", "Seconds.", ("who",), registry=made).labels("me").observe(3)
    return made


def test_the_librarys_families_in_pieces_are_what_it_says_itself(registry: CollectorRegistry) -> None:
    pieces = list(exposition.pieces(registry, openmetrics=False))
    assert "".join(pieces) == generate_latest(registry).decode()
    assert max(piece.count("\n") for piece in pieces) <= exposition.SAMPLES + 2
    rich = "".join(exposition.pieces(registry, openmetrics=True))
    assert rich == openmetrics_of(registry).decode()  # type: ignore[no-untyped-call]
    assert len(list(parse_text("".join(pieces)))) == len(parse_openmetrics(rich)) + 2  # _created are apart
