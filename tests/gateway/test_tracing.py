"""A gateway that traces, its engines, and a real collector."""

from __future__ import annotations

import json
import logging
import os
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes
from opentelemetry.semconv.attributes import error_attributes, http_attributes, server_attributes, url_attributes

from llmgate.demo.engines import Engine
from llmgate.demo.model import TINY
from llmgate.telemetry.tracing import sample_by_environment
from llmgate.testing.fake_upstream import RESET, STREAM_HEAD, Script, answer, chunk
from tests.support.collector import (
    CLIENT,
    ERROR,
    SERVER,
    Collector,
    attributes,
    client_spans,
    collecting,
    server_span,
)
from tests.support.fake_engine import FakeEngine, completion, gone, in_turn, sse, stream, until
from tests.support.processes import free_ports
from tests.support.raw_client import connect, post
from tests.support.serving import HELLO, STREAMED, Served, serving

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED, UNSAMPLED = f"00-{TRACE}-{SPAN}-01", f"00-{TRACE}-{SPAN}-00"
EVENTS = stream(*sse(*({"choices": [{"index": 0, "delta": {"content": f"word {n}"}}]} for n in range(3))))


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spans are exported at once, not after five seconds, and nobody's own variables count."""
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as made:
        yield made


def to(collector: Collector, **more: Any) -> dict[str, Any]:
    return {"enabled": True, "endpoint": collector.url, **more}


def traceparent(engine: FakeEngine, index: int = -1) -> str:
    (value,) = (value for name, value in engine.asked[index].headers if name == b"traceparent")
    return value.decode()


async def test_a_request_is_a_server_span_with_a_client_span_for_its_attempt(collector: Collector) -> None:
    async with (
        FakeEngine([completion()]) as engine,
        serving({"url": engine.url, "engine": "vllm"}, tracing=to(collector)) as served,
    ):
        assert (await served.chat(HELLO | {"max_tokens": 9}, x_request_id="mine")).status_code == 200
        spans = await collector.spans(2)
    server, (client,) = server_span(spans), client_spans(spans)
    assert (server.name, client.name) == ("chat m", "chat m")
    assert server.parent_span_id == b""
    assert client.parent_span_id == server.span_id
    assert client.trace_id == server.trace_id
    assert server.start_time_unix_nano <= client.start_time_unix_nano
    assert client.end_time_unix_nano <= server.end_time_unix_nano
    assert traceparent(engine) == f"00-{client.trace_id.hex()}-{client.span_id.hex()}-01"
    said = attributes(server)
    for name, value in {
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": "m",
        "gen_ai.request.max_tokens": 9,
        "gen_ai.request.stream": False,
        "gen_ai.provider.name": "vllm",
        "gen_ai.usage.input_tokens": 7,
        "gen_ai.usage.output_tokens": 3,
        "http.request.method": "POST",
        "http.route": "/v1/chat/completions",
        "http.response.status_code": 200,
        "llmgate.request_id": "mine",
        "llmgate.policy": "round-robin",
        "llmgate.endpoint": "a",
        "llmgate.attempts": 1,
        "llmgate.cause": "completed",
    }.items():
        assert said[name] == value, name
    assert said["llmgate.prompt_tokens.estimated"] > 0
    assert 0 <= said["llmgate.queue_time"] <= said["llmgate.duration"] < 5
    assert "error.type" not in said
    asked = attributes(client)
    assert (asked["server.address"], asked["server.port"]) == ("127.0.0.1", int(engine.url.rpartition(":")[2]))
    assert (asked["llmgate.endpoint"], asked["http.response.status_code"]) == ("a", 200)
    assert collector.resource["service.name"] == "llmgate"


async def test_a_clients_trace_goes_on(collector: Collector) -> None:
    async with FakeEngine([completion()]) as engine, serving(engine, tracing=to(collector, sample=0)) as served:
        await served.chat(traceparent=SAMPLED, tracestate="vendor=1")
        spans = await collector.spans(2)
    server, (client,) = server_span(spans), client_spans(spans)
    assert (server.trace_id.hex(), server.parent_span_id.hex()) == (TRACE, SPAN)
    assert traceparent(engine) == f"00-{TRACE}-{client.span_id.hex()}-01"
    assert (b"tracestate", b"vendor=1") in engine.asked[0].headers


async def test_what_the_client_does_not_record_is_not_recorded_and_goes_on_as_it_came(collector: Collector) -> None:
    async with FakeEngine([completion()]) as engine, serving(engine, tracing=to(collector)) as served:
        await served.chat(traceparent=UNSAMPLED, tracestate="vendor=1")
        assert traceparent(engine) == UNSAMPLED
        assert (b"tracestate", b"vendor=1") in engine.asked[0].headers
        await served.chat()
        await collector.spans(2)
    assert {each.trace_id.hex() for each in await collector.spans(2)} != {TRACE}
    assert len(await collector.spans(2)) == 2


async def test_what_is_not_sampled_tells_the_engine_so(collector: Collector) -> None:
    """Else it would begin a trace of its own for each."""
    async with FakeEngine([completion()]) as engine, serving(engine, tracing=to(collector, sample=0)) as served:
        await served.chat()
        await served.chat()
        first, second = traceparent(engine, 0), traceparent(engine, 1)
    assert re.fullmatch("00-[0-9a-f]{32}-[0-9a-f]{16}-00", first)
    assert first != second
    assert collector.requests == []


@pytest.mark.parametrize("sample", [0, 1])
async def test_a_state_without_a_trace_goes_no_further(collector: Collector, sample: int) -> None:
    async with FakeEngine([completion()]) as engine, serving(engine, tracing=to(collector, sample=sample)) as served:
        await served.chat(tracestate="vendor=1")
        assert traceparent(engine).endswith(f"-0{sample}")
        assert not any(name == b"tracestate" for name, _ in engine.asked[0].headers)


@pytest.mark.parametrize(
    "given", ["00-0-0-01", f"ff-{TRACE}-{SPAN}-01", f"00-{'0' * 32}-{SPAN}-01", f"{SAMPLED}-more", "x"]
)
async def test_a_traceparent_that_is_none_begins_a_new_trace(collector: Collector, given: str) -> None:
    async with FakeEngine([completion()]) as engine, serving(engine, tracing=to(collector)) as served:
        await served.chat(traceparent=given, tracestate="vendor=1")
        spans = await collector.spans(2)
        assert traceparent(engine).endswith("-01")
        assert not any(name == b"tracestate" for name, _ in engine.asked[0].headers)
    assert server_span(spans).parent_span_id == b""


async def test_without_tracing_the_clients_headers_pass_as_they_are() -> None:
    async with FakeEngine([completion()]) as engine, serving(engine) as served:
        await served.chat(traceparent="whatever", tracestate="vendor=1")
        assert traceparent(engine) == "whatever"
        assert (b"tracestate", b"vendor=1") in engine.asked[0].headers


async def test_each_attempt_is_a_span_of_its_own(collector: Collector) -> None:
    behaviour = in_turn([answer(b"{}", status=503)], [RESET], [completion()])
    async with (
        FakeEngine(behaviour) as a,
        FakeEngine(behaviour) as b,
        FakeEngine(behaviour) as c,
        serving(a, b, c, tracing=to(collector)) as served,
    ):
        assert (await served.chat()).status_code == 200
        spans = await collector.spans(4)
    server, attempts = server_span(spans), client_spans(spans)
    assert {each.parent_span_id for each in attempts} == {server.span_id}
    assert [attributes(each).get("http.request.resend_count") for each in attempts] == [None, 1, 2]
    assert [attributes(each).get("error.type") for each in attempts] == ["503", "connection_lost", None]
    assert [each.status.code for each in attempts] == [ERROR, ERROR, 0]
    assert len({attributes(each)["llmgate.endpoint"] for each in attempts}) == 3
    assert (attributes(server)["llmgate.attempts"], server.status.code) == (3, 0)
    sent = {traceparent(engine).split("-")[2] for engine in (a, b, c)}
    assert sent == {each.span_id.hex() for each in attempts}


async def test_a_stream_has_its_first_token_as_an_event(collector: Collector) -> None:
    async with FakeEngine(EVENTS) as engine, serving(engine, tracing=to(collector)) as served:
        await served.chat(STREAMED)
        server = server_span(await collector.spans(2))
    (event,) = server.events
    assert event.name == "first_token"
    assert server.start_time_unix_nano < event.time_unix_nano <= server.end_time_unix_nano
    said = attributes(server)
    assert said["gen_ai.request.stream"] is True
    assert 0 < said["gen_ai.response.time_to_first_chunk"] <= said["llmgate.duration"]


async def test_a_whole_answer_has_no_first_token(collector: Collector) -> None:
    """When it begins to come, the engine has made all of it."""
    async with FakeEngine([completion()]) as engine, serving(engine, tracing=to(collector)) as served:
        await served.chat()
        server = server_span(await collector.spans(2))
    assert not server.events
    assert "gen_ai.response.time_to_first_chunk" not in attributes(server)


async def test_names_are_those_of_the_conventions(collector: Collector) -> None:
    behaviour = in_turn([answer(b"{}", status=503)], EVENTS)
    async with (
        FakeEngine(behaviour) as a,
        FakeEngine(behaviour) as b,
        serving(*({"url": each.url, "engine": "vllm"} for each in (a, b)), tracing=to(collector)) as served,
    ):
        await served.chat(STREAMED | {"max_tokens": 9})
        used = {name for span in await collector.spans(3) for name in attributes(span)}
    known = {
        value
        for module in (gen_ai_attributes, error_attributes, http_attributes, server_attributes, url_attributes)
        for name, value in vars(module).items()
        if name.isupper() and isinstance(value, str)
    }
    assert {name for name in used if not name.startswith("llmgate.")} <= known
    assert {"gen_ai.provider.name", "http.request.resend_count", "error.type"} <= used


async def test_a_path_that_the_gateway_does_not_know_is_no_route(collector: Collector) -> None:
    """There may be as many as clients can think of."""
    async with FakeEngine([answer(b"{}")]) as engine, serving(engine, tracing=to(collector)) as served:
        await served.client.post("/v1/some/thing-7?key=canary", json={"model": "m"})
        await served.client.post("/v1/some/thing-7", content=b"{")
        spans = await collector.spans(3)
    servers = [each for each in spans if each.kind == SERVER]
    assert len(servers) == 2
    for each in servers:
        assert attributes(each)["url.path"] == "/v1/some/thing-7"
        assert "http.route" not in attributes(each)
        assert "thing" not in each.name


async def test_an_engine_on_a_unix_socket_is_named_by_its_path(collector: Collector, tmp_path: Path) -> None:
    socket = tmp_path / "engine.sock"
    async with FakeEngine([RESET], unix=socket) as engine, serving(engine, tracing=to(collector)) as served:
        await served.chat()
        (client,) = client_spans(await collector.spans(2))
    said = attributes(client)
    assert said["server.address"] == str(socket)
    assert "server.port" not in said


async def test_a_stream_that_breaks_is_an_error_though_its_status_was_good(collector: Collector) -> None:
    broken: Script = [STREAM_HEAD, chunk(b'data: {"choices": []}\n\n'), RESET]
    async with FakeEngine(broken) as engine, serving(engine, tracing=to(collector)) as served:
        await served.chat(STREAMED)
        spans = await collector.spans(2)
    server = server_span(spans)
    assert [attributes(each)["error.type"] for each in client_spans(spans)] == ["truncated"]
    assert server.status.code == ERROR
    assert (attributes(server)["http.response.status_code"], attributes(server)["error.type"]) == (
        200,
        "upstream_error",
    )


async def test_a_client_that_leaves_is_no_error_of_the_gateways(collector: Collector) -> None:
    async with FakeEngine() as engine, serving(engine, tracing=to(collector)) as served:
        async with connect(served.gateway.data_port) as client:
            client.send(post(STREAMED))
            request = await engine.request()
        await gone(request)
        spans = await collector.spans(2)
        await served.settled()
    server, (client_span,) = server_span(spans), client_spans(spans)
    assert (attributes(server)["llmgate.cause"], server.status.code) == ("client_gone", 0)
    assert attributes(server)["http.response.status_code"] == 499
    assert attributes(client_span)["error.type"] == "client_gone"


@pytest.mark.parametrize(
    ("body", "status", "error"),
    [(b"{", 400, None), (HELLO | {"model": "none"}, 404, None)],
)
async def test_what_reaches_no_engine_is_a_server_span_alone(
    collector: Collector, body: Any, status: int, error: str | None
) -> None:
    async with FakeEngine() as engine, serving(engine, tracing=to(collector)) as served:
        assert (await served.chat(body)).status_code == status
        (server,) = await collector.spans(1)
    assert (server.kind, server.name) == (SERVER, "POST /v1/chat/completions")
    assert attributes(server).get("error.type") == error
    assert attributes(server)["http.response.status_code"] == status


async def test_no_endpoint_is_an_error(collector: Collector) -> None:
    async with FakeEngine() as engine, serving(engine, tracing=to(collector)) as served:
        await served.admin.post("/api/endpoints/a/drain")
        assert (await served.chat()).status_code == 503
        (server,) = await collector.spans(1)
    assert (attributes(server)["error.type"], server.status.code) == ("503", ERROR)


async def test_secrets_and_texts_are_nowhere_in_it(collector: Collector) -> None:
    canary = "canary-7f3a"
    body = HELLO | {"messages": [{"role": "user", "content": canary}], "user": canary}
    tracing = to(collector, headers={"Authorization": "Bearer of-the-collector"})
    async with FakeEngine([completion(canary)]) as engine, serving(engine, tracing=tracing) as served:
        await served.client.post(
            f"/v1/chat/completions?key={canary}", json=body, headers={"authorization": f"Bearer {canary}"}
        )
        await served.chat(b'{"model": "canary-7f3a"}')
        await served.chat(b'{"model": "m", "messages": "canary-7f3a"')
        await collector.spans(4)
        shown = (await served.admin.get("/api/config")).text
    assert canary.encode() not in collector.raw
    assert b"of-the-collector" not in collector.raw
    assert "of-the-collector" not in shown
    assert {each["authorization"] for each in collector.requests} == {"Bearer of-the-collector"}


async def test_the_access_log_and_exemplars_name_the_trace(collector: Collector, tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    sections: dict[str, Any] = {"tracing": to(collector), "access_log": {"to": str(log)}}
    async with FakeEngine(EVENTS) as engine, serving(engine, **sections) as served:
        await served.chat(STREAMED, traceparent=UNSAMPLED)
        await served.chat(STREAMED)
        trace = server_span(await collector.spans(2)).trace_id.hex()
        accept = {"accept": "application/openmetrics-text"}
        rich = (await served.client.get("/metrics", headers=accept)).text
        plain = (await served.client.get("/metrics")).text
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line.get("trace_id") for line in lines] == [None, trace]
    for name in ("llmgate_time_to_first_token_seconds_bucket", "llmgate_request_duration_seconds_bucket"):
        marked = [line for line in rich.splitlines() if line.startswith(name) and f'# {{trace_id="{trace}"}}' in line]
        assert len(marked) == 1
    assert "trace_id" not in plain


async def test_a_collector_that_is_not_there_is_told_of_once_and_hurts_nobody(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.5")
    (port,) = free_ports(1)
    tracing = {"enabled": True, "endpoint": f"http://127.0.0.1:{port}"}
    async with FakeEngine([completion()]) as engine, serving(engine, tracing=tracing) as served:
        for count in (2, 4):
            assert (await served.chat()).status_code == 200
            await counted(served, "failed", count)
        assert await served.metric('llmgate_trace_spans_total{result="exported"}') == 0
    told = [each for each in caplog.records if each.name == "llmgate.tracing"]
    assert [each.levelno for each in told] == [logging.WARNING]
    assert told[0].getMessage().startswith("spans do not reach the collector: ")
    assert not [each for each in caplog.records if each.name.startswith("opentelemetry")]


async def test_one_that_is_back_is_told_of_too(collector: Collector, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    collector.status = 400
    async with FakeEngine([completion()]) as engine, serving(engine, tracing=to(collector)) as served:
        await served.chat()
        await counted(served, "failed", 2)
        collector.status = 200
        await served.chat()
        await counted(served, "exported", 2)
    told = [each.getMessage() for each in caplog.records if each.name == "llmgate.tracing"]
    assert len(told) == 2
    assert "400" in told[0]
    assert told[1] == "spans reach the collector again"


async def counted(served: Served, result: str, count: int) -> None:
    tracing = served.gateway.tracing
    assert tracing is not None
    await until(lambda: tracing.counts[result] == count, 15)


async def test_what_waits_is_exported_at_the_end(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "60000")
    async with FakeEngine([completion()]) as engine, serving(engine, tracing=to(collector)) as served:
        await served.chat()
        assert collector.requests == []
    assert {each.kind for each in await collector.spans(2)} == {SERVER, CLIENT}


async def test_a_collector_that_does_not_answer_holds_up_neither_requests_nor_the_end(
    collector: Collector, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmgate.telemetry.tracing.CLOSE_SECONDS", 0.2)
    collector.answers.clear()
    async with FakeEngine([completion()]) as engine, serving(engine, tracing=to(collector)) as served:
        await served.chat()
        await collector.asked(1)
        began = time.monotonic()
        assert (await served.chat()).status_code == 200
    assert time.monotonic() - began < 5  # the exporter itself would wait for 10 s
    told = [each.getMessage() for each in caplog.records if each.name == "llmgate.tracing"]
    assert told == ["the last spans did not reach the collector within 0.2 s"]


async def test_few_are_exported_at_once(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    """The event loop waits while they are encoded."""
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "60000")
    async with FakeEngine([completion()]) as engine, serving(engine, tracing=to(collector)) as served:
        for _ in range(40):
            await served.chat()
    assert len(await collector.spans(80)) == 80
    assert max(collector.batches) <= 32


async def test_what_is_too_much_is_dropped_and_counted(monkeypatch: pytest.MonkeyPatch, collector: Collector) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "60000")
    monkeypatch.setattr("llmgate.telemetry.tracing.MOST_WAITING", 512)
    async with FakeEngine([completion()]) as engine, serving(engine, tracing=to(collector)) as served:
        tracing = served.gateway.tracing
        assert tracing is not None
        tracing._handed = 511
        await served.chat()
        assert await served.metric('llmgate_trace_spans_total{result="dropped"}') == 1


async def test_the_environment_fills_in_what_the_configuration_leaves_out(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=one")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "by-environment")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "zone=here")
    tracing = {"enabled": True, "attributes": {"deployment": "test"}}
    async with FakeEngine([completion()]) as engine, serving(engine, tracing=tracing) as served:
        await served.chat()
        await collector.spans(2)
    assert collector.requests[0]["x-tenant"] == "one"
    said = collector.resource
    assert (said["service.name"], said["zone"], said["deployment"]) == ("by-environment", "here", "test")


@pytest.mark.parametrize(
    ("variables", "section", "recorded"),
    [
        ({"SAMPLER": "always_off"}, {}, False),
        ({"SAMPLER": "parentbased_always_off"}, {}, False),
        ({"SAMPLER": "parentbased_traceidratio", "SAMPLER_ARG": "0"}, {}, False),
        ({"SAMPLER": "traceidratio", "SAMPLER_ARG": "1"}, {}, True),
        ({"SAMPLER": "always_off"}, {"sample": 1}, True),
        ({"SAMPLER": "always_on"}, {"sample": 0}, False),
    ],
)
async def test_the_sampler_of_the_environment_holds_where_the_configuration_says_nothing(
    collector: Collector,
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    section: dict[str, Any],
    recorded: bool,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(f"OTEL_TRACES_{name}", value)
    async with FakeEngine([completion()]) as engine, serving(engine, tracing=to(collector, **section)) as served:
        await served.chat()
        assert traceparent(engine).endswith("-01" if recorded else "-00")
        await served.chat(traceparent=SAMPLED)
        spans = await collector.spans(4 if recorded else 2)
    assert len(spans) == (4 if recorded else 2)


@pytest.mark.parametrize(("sampler", "argument"), [("jaeger_remote", ""), ("traceidratio", "2"), ("traceidratio", "x")])
async def test_a_sampler_that_is_not_known_is_told_of(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, sampler: str, argument: str
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", sampler)
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", argument)
    assert sample_by_environment() == 1
    assert f"'{argument or sampler}'" in caplog.text


async def test_the_switch_of_the_sdk_turns_it_off(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, collector: Collector
) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    async with FakeEngine([completion()]) as engine, serving(engine, tracing=to(collector)) as served:
        assert (await served.chat(traceparent="whatever")).status_code == 200
        assert traceparent(engine) == "whatever"
    assert "OTEL_SDK_DISABLED" in caplog.text
    assert collector.requests == []


async def test_a_real_engine_takes_it(collector: Collector, tiny_engines: Sequence[Engine]) -> None:
    body = {"model": TINY.alias, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4, "stream": True}
    async with serving(tiny_engines[0].url, tracing=to(collector)) as served:
        assert (await served.chat(body)).status_code == 200
        spans = await collector.spans(2)
    said = attributes(server_span(spans))
    assert 1 <= said["gen_ai.usage.output_tokens"] <= 4
    assert said["gen_ai.usage.input_tokens"] > 0
    assert attributes(client_spans(spans)[0])["gen_ai.provider.name"] == "llamacpp"
