from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any
from urllib.parse import quote

import pytest
from fastapi import FastAPI
from httpx2 import ASGITransport, AsyncClient, Response
from starlette.routing import BaseRoute

from llmgate.core.pool import EndpointPool
from llmgate.core.protocols import Candidates, Router
from llmgate.core.scheduler import Scheduler
from llmgate.core.types import EndpointMetrics, EndpointSpec, InferenceRequest, Verdict
from llmgate.dashboard import CONTENT_SECURITY_POLICY, load_assets
from llmgate.gateway.admin import create_admin_app
from llmgate.gateway.comparison_views import ComparisonView
from llmgate.telemetry.metrics import Metrics
from tests.core import make
from tests.support.control import FakeControl
from tests.support.live import data_app, live_of

SOCKET = "/run/vllm.sock"
NOW = 1000.0
UNIX_NOW = 1_700_000_000.0


class CheapestFirst(Router):
    """Costs 2, 1, 3 … by position, so that the second endpoint wins."""

    def score(self, request: InferenceRequest, candidates: Candidates) -> list[float]:
        return [[2.0, 1.0, float("inf")][index] for index in range(len(candidates.endpoints))]


@pytest.fixture
def scheduler() -> Scheduler:
    specs = [
        EndpointSpec("a", "http://user:secret@a:8000", 1.6, "vllm", {"m": "served"}, "H100", {"zone": "x"}),
        EndpointSpec("b", "http://b:8000", models={"m": "m"}),
        EndpointSpec(SOCKET, f"unix:{SOCKET}", models={"m": "m"}),
    ]
    scheduler = Scheduler(EndpointPool(specs), CheapestFirst())
    for endpoint in scheduler.pool:
        endpoint.health.probe_passed()
    return scheduler


def app_of(
    scheduler: Scheduler, *, token: str = "", hosts: tuple[str, ...] = (), control: FakeControl | None = None
) -> FastAPI:
    return create_admin_app(
        scheduler,
        Metrics(scheduler.pool, lambda: NOW),
        control or FakeControl(),
        live=live_of(scheduler, lambda: NOW),
        data=data_app,
        clock=lambda: NOW,
        wall_clock=lambda: UNIX_NOW,
        token=token,
        hosts=hosts,
    )


async def ask(
    app: FastAPI, path: str, method: str = "GET", *, host: str = "localhost", json: object = None, **headers: str
) -> Response:
    async with AsyncClient(transport=ASGITransport(app), base_url=f"http://{host}:8081") as client:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        return await client.request(method, path, json=json, headers=sent)


async def ask_endpoint(scheduler: Scheduler, name: str) -> dict[str, Any]:
    answer = (await ask(app_of(scheduler), "/api/endpoints")).json()
    found: dict[str, Any] = next(each for each in answer if each["name"] == name)
    return found


def routes(app: FastAPI) -> Iterator[tuple[str, str]]:
    """Method and path of everything that the application serves."""
    for path, operations in app.openapi()["paths"].items():
        for method in operations:
            yield method.upper(), path
    route: BaseRoute
    for route in app.routes:
        if (path := getattr(route, "path", "")) and not getattr(route, "include_in_schema", True):
            yield "GET", path


# Endpoints


async def test_an_endpoint_is_shown_with_its_specification_state_and_load(scheduler: Scheduler) -> None:
    endpoint = scheduler.pool.get("a")
    assert endpoint is not None
    endpoint.metrics = EndpointMetrics(
        at=NOW - 2, running=3, waiting=0, kv_usage=0.5, kv_capacity_tokens=1000, max_running=8
    )
    scheduler.ledger.book(make.request(100, 50), endpoint, NOW)
    assert await ask_endpoint(scheduler, "a") == {
        "name": "a",
        "url": "http://a:8000",
        "engine": "vllm",
        "models": {"m": "served"},
        "aliases": {},
        "precisions": {},
        "weight": 1.6,
        "effective_weight": 1.6,
        "labels": {"zone": "x"},
        "gpu": "H100",
        "node": None,
        "gpus": [],
        "state": "up",
        "reason": "",
        "ejected_seconds": None,
        "draining": False,
        "in_flight": {"requests": 1, "prefill_tokens": 100, "decode_tokens": 50},
        "recent_tokens": 150.0,
        "gauges": {
            "age_seconds": 2.0,
            "fresh": True,
            "running": 3,
            "waiting": 0,
            "kv_usage": 0.5,
            "kv_capacity_tokens": 1000,
            "max_running": 8,
        },
    }


async def test_an_endpoint_that_was_never_read_has_no_gauges(scheduler: Scheduler) -> None:
    assert (await ask_endpoint(scheduler, "b"))["gauges"] is None


async def test_an_old_reading_is_marked_as_not_fresh(scheduler: Scheduler) -> None:
    endpoint = scheduler.pool.get("b")
    assert endpoint is not None
    endpoint.metrics = EndpointMetrics(at=NOW - 60, waiting=4)
    gauges = (await ask_endpoint(scheduler, "b"))["gauges"]
    assert (gauges["age_seconds"], gauges["fresh"], gauges["kv_usage"]) == (60, False, None)


async def test_an_ejected_endpoint_says_why_and_for_how_long(scheduler: Scheduler) -> None:
    endpoint = scheduler.pool.get("b")
    assert endpoint is not None
    endpoint.health.request_ended(Verdict.UNREACHABLE, NOW - 10, trial=0, reason="connection refused")
    shown = await ask_endpoint(scheduler, "b")
    assert (shown["state"], shown["reason"], shown["ejected_seconds"]) == ("ejected", "connection refused", 20)


@pytest.mark.parametrize("name", ["a", SOCKET])
@pytest.mark.parametrize("escaped", [True, False])
async def test_an_endpoint_is_drained_and_undrained_and_again_to_no_effect(
    scheduler: Scheduler, name: str, escaped: bool
) -> None:
    app, endpoint = app_of(scheduler), scheduler.pool.get(name)
    assert endpoint is not None
    path = f"/api/endpoints/{quote(name, safe='') if escaped else name}"
    for verb, draining in [("drain", True), ("drain", True), ("undrain", False), ("undrain", False)]:
        answer = await ask(app, f"{path}/{verb}", "POST")
        assert answer.status_code == 200
        assert (answer.json()["name"], answer.json()["draining"]) == (name, draining)
        assert endpoint.draining is draining
        assert (endpoint in scheduler.pool.ready("m", NOW)) is not draining


# Decisions


async def test_decisions_are_explained_newest_first(scheduler: Scheduler) -> None:
    for at in (NOW - 3, NOW - 1):
        scheduler.schedule(make.request(100, 50), at)
    newest, older = (await ask(app_of(scheduler), "/api/decisions")).json()
    assert older["age_seconds"] == 3
    newest.pop("request_id")
    assert newest == {
        "at": NOW - 1,
        "time": UNIX_NOW - 1,
        "age_seconds": 1,
        "model": "m",
        "prompt_tokens": 100,
        "endpoint": "b",
        "cached_tokens": 0,
        "tied": 1,
        "candidates": [
            {"endpoint": "b", "cost": 1, "cached_tokens": 0, "cached_source": "learnt"},
            {"endpoint": "a", "cost": 2, "cached_tokens": 0, "cached_source": "learnt"},
            {"endpoint": SOCKET, "cost": None, "cached_tokens": 0, "cached_source": "learnt"},  # JSON has no infinity
        ],
        "explanation": None,  # the scheduler of these tests explains none
    }


async def test_a_limit_keeps_the_newest_decisions(scheduler: Scheduler) -> None:
    for at in (1.0, 2.0, 3.0):
        scheduler.schedule(make.request(), at)
    answer = (await ask(app_of(scheduler), "/api/decisions?limit=2")).json()
    assert [each["age_seconds"] for each in answer] == [NOW - 3, NOW - 2]


# The configuration


async def test_an_endpoint_is_added_as_the_configuration_would_have_it(scheduler: Scheduler) -> None:
    control = FakeControl()
    answer = await ask(app_of(scheduler, control=control), "/api/endpoints", "POST", json={"url": "http://c:8000"})
    assert (answer.status_code, answer.json()["name"], answer.json()["state"]) == (201, "c:8000", "starting")
    assert control.calls == ["add c:8000"]


@pytest.mark.parametrize("body", [{}, {"url": "http://c", "wight": 2}, {"url": "nonsense"}, []])
async def test_a_description_with_a_mistake_adds_nothing(scheduler: Scheduler, body: object) -> None:
    control = FakeControl()
    answer = await ask(app_of(scheduler, control=control), "/api/endpoints", "POST", json=body)
    assert (answer.status_code, control.calls) == (422, [])


@pytest.mark.parametrize("name", ["a", SOCKET])
async def test_an_endpoint_is_removed_by_its_name(scheduler: Scheduler, name: str) -> None:
    control = FakeControl()
    answer = await ask(app_of(scheduler, control=control), f"/api/endpoints/{name}", "DELETE")
    assert (answer.status_code, answer.json()["name"], control.calls) == (202, name, [f"remove {name}"])


async def test_one_that_is_leaving_is_not_undrained(scheduler: Scheduler) -> None:
    app = app_of(scheduler, control=FakeControl(leaving=True))
    assert (await ask(app, "/api/endpoints/a/undrain", "POST")).status_code == 409
    assert (await ask(app, "/api/endpoints/a/drain", "POST")).status_code == 200


async def test_the_configuration_is_shown_without_its_secrets(scheduler: Scheduler) -> None:
    answer = await ask(app_of(scheduler), "/api/config")
    assert answer.json()["admin"]["token"] == "**********"
    assert "canary" not in answer.text
    assert answer.headers["cache-control"] == "no-store"


async def test_a_reload_says_what_it_changed_or_everything_that_is_wrong(scheduler: Scheduler) -> None:
    control = FakeControl()
    app = app_of(scheduler, control=control)
    changes = {"added": ["b"], "removed": [], "changed": [], "sections": ["router"]}
    assert (await ask(app, "/api/reload", "POST")).json() == changes
    control.problems = ["timeouts.idle: too small", "endpoints: none"]
    refused = await ask(app, "/api/reload", "POST")
    assert refused.status_code == 422
    assert "timeouts.idle: too small; endpoints: none" in refused.json()["error"]["message"]


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/api/reload"), ("POST", "/api/endpoints"), ("DELETE", "/api/endpoints/a")]
)
async def test_pages_of_other_origins_change_nothing(scheduler: Scheduler, method: str, path: str) -> None:
    control = FakeControl()
    app = app_of(scheduler, control=control)
    answer = await ask(app, path, method, json={"url": "http://c"}, origin="http://elsewhere")
    assert (answer.status_code, control.calls) == (403, [])
    answer = await ask(app, path, method, json={"url": "http://c"}, host="rebound.example")
    assert (answer.status_code, control.calls) == (421, [])


# Errors


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("POST", "/api/endpoints/nobody/drain", 404, "not_found"),
        ("POST", "/api/endpoints//nobody.sock/undrain", 404, "not_found"),
        ("GET", "/api/nothing", 404, "not_found"),
        ("GET", "/../../etc/passwd", 404, "not_found"),
        ("GET", "/app.js/..%2f__init__.py", 404, "not_found"),
        ("DELETE", "/api/endpoints", 405, "method_not_allowed"),
        ("GET", "/api/decisions?limit=0", 422, "unprocessable_content"),
        ("GET", "/api/decisions?limit=many", 422, "unprocessable_content"),
    ],
)
async def test_errors_have_the_envelope_of_the_data_port(
    scheduler: Scheduler, method: str, path: str, status: int, code: str
) -> None:
    answer = await ask(app_of(scheduler), path, method)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert (error["type"], error["code"]) == ("invalid_request_error", code)
    assert error["message"]


async def test_a_mistake_of_our_own_is_answered_without_its_details(scheduler: Scheduler) -> None:
    endpoint = scheduler.pool.get("a")
    assert endpoint is not None
    endpoint.models = None  # type: ignore[assignment]
    transport = ASGITransport(app_of(scheduler), raise_app_exceptions=False)
    async with AsyncClient(transport=transport, base_url="http://localhost") as client:
        answer = await client.get("/api/endpoints")
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal_error")
    assert "models" not in answer.text


# Pages and metrics


async def test_metrics_come_in_the_format_that_is_asked_for(scheduler: Scheduler) -> None:
    app = app_of(scheduler)
    plain = await ask(app, "/metrics")
    assert plain.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert 'llmgate_endpoint_up{endpoint="a"} 1.0' in plain.text
    modern = await ask(app, "/metrics", accept="application/openmetrics-text;version=1.0.0")
    assert modern.headers["content-type"].startswith("application/openmetrics-text")


@pytest.mark.parametrize("path", load_assets())
async def test_pages_are_served_with_a_strict_policy_and_in_no_frame(scheduler: Scheduler, path: str) -> None:
    answer = await ask(app_of(scheduler), path)
    kinds = {"css": "text/css", "js": "text/javascript"}
    assert answer.headers["content-type"] == f"{kinds.get(path.rpartition('.')[2], 'text/html')}; charset=utf-8"
    assert answer.headers["content-security-policy"] == CONTENT_SECURITY_POLICY
    assert answer.headers["x-frame-options"] == "DENY"
    assert answer.headers["x-content-type-options"] == "nosniff"


async def test_the_openapi_document_names_the_fields_of_the_answers(scheduler: Scheduler) -> None:
    app = app_of(scheduler, token="sesame")
    document = (await ask(app, "/openapi.json")).json()
    assert "in_flight" in document["components"]["schemas"]["EndpointView"]["properties"]
    assert document["paths"]["/api/endpoints"]["get"]["security"] == [{"HTTPBearer": []}]
    assert document["paths"]["/metrics"]["get"]["responses"].keys() == {"200", "401"}
    assert "HTTPValidationError" not in document["components"]["schemas"]  # FastAPI's own, which is never sent


async def test_two_decisions_of_one_request_id_are_told_apart_and_each_stays_the_same(scheduler: Scheduler) -> None:
    """By what the fleet page goes by."""
    request = make.request()
    for at in (NOW - 3, NOW - 1):
        scheduler.schedule(request, at)
    times = iter([UNIX_NOW, UNIX_NOW + 0.000_1])  # two clocks are never read at the same time
    app = create_admin_app(
        scheduler,
        Metrics(scheduler.pool, lambda: NOW),
        FakeControl(),
        live=live_of(scheduler, lambda: NOW),
        data=data_app,
        clock=lambda: NOW,
        wall_clock=lambda: next(times),
    )
    first, again = [(await ask(app, "/api/decisions")).json() for _ in range(2)]
    keys = [(each["at"], each["request_id"]) for each in first]
    assert len({request_id for _, request_id in keys}) == 1
    assert len(set(keys)) == 2
    assert keys == [(each["at"], each["request_id"]) for each in again]


# Who may ask


ACCESS = {
    ("GET", "/"): "everyone",
    **{("GET", path): "everyone" for path in load_assets() if path.endswith((".css", ".js"))},
    ("GET", "/docs"): "everyone",
    ("GET", "/openapi.json"): "everyone",
    ("GET", "/metrics"): "operators",
    ("GET", "/api/config"): "operators",
    ("GET", "/api/decisions"): "operators",
    ("GET", "/api/endpoints"): "operators",
    ("GET", "/api/live"): "operators",
    ("GET", "/api/policies"): "operators",
    ("GET", "/api/snapshot"): "operators",
    ("POST", "/api/chat"): "operators",
    ("POST", "/api/endpoints"): "operators",
    ("DELETE", "/api/endpoints/{name}"): "operators",
    ("POST", "/api/endpoints/{name}/drain"): "operators",
    ("POST", "/api/endpoints/{name}/undrain"): "operators",
    ("POST", "/api/reload"): "operators",
}
"""Who may ask for what, where there is a token. What everyone may see are files of the distribution."""


def test_every_route_is_in_the_table_of_who_may_ask_for_it(scheduler: Scheduler) -> None:
    app = app_of(scheduler, token="sesame")
    found = {(method, path.replace(":path", "")) for method, path in routes(app)}
    assert found == set(ACCESS)
    # and that nothing is served in a way that the list above does not know
    assert {type(route).__name__ for route in app.routes} <= {"APIRoute", "Route", "_IncludedRouter"}


@pytest.mark.parametrize(("method", "path"), ACCESS)
@pytest.mark.parametrize("key", [None, "key-of-a-user", "sesame"], ids=["no key", "user key", "admin key"])
async def test_each_route_is_for_those_whom_the_table_says(
    scheduler: Scheduler, method: str, path: str, key: str | None
) -> None:
    control = FakeControl(compared=ComparisonView(since=1.0, decisions=0, policies=[]))
    app = app_of(scheduler, token="sesame", control=control)
    given = {} if key is None else {"authorization": f"Bearer {key}"}
    body = {"url": "http://c"} if (method, path) == ("POST", "/api/endpoints") else None
    status = (await ask(app, path.replace("{name}", "a"), method, json=body, **given)).status_code
    if key == "sesame" or ACCESS[method, path] == "everyone":
        assert status in (200, 201, 202)
    else:
        assert status == 401
        assert control.calls == []
        assert not any(endpoint.draining for endpoint in scheduler.pool)


@pytest.mark.parametrize("key", [None, "sesame"])
@pytest.mark.parametrize("announced", [True, False])
async def test_a_large_body_is_refused_before_it_is_kept(
    scheduler: Scheduler, key: str | None, announced: bool
) -> None:
    taken = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal taken
        for _ in range(64):
            taken += 1
            yield b" " * 2**20

    given = {} if key is None else {"authorization": f"Bearer {key}"}
    given |= {"content-length": str(64 * 2**20)} if announced else {}
    transport = ASGITransport(app_of(scheduler, token="sesame"))
    async with AsyncClient(transport=transport, base_url="http://localhost") as client:
        answer = await client.post("/api/endpoints", content=endless(), headers=given)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")
    assert taken < 4


@pytest.mark.parametrize("body", [b"[" * 100_000, b"\xff\xfe", b'{"url": "\\ud800"}', b"{" * 10])
async def test_a_body_that_is_no_json_is_the_clients_mistake(scheduler: Scheduler, body: bytes) -> None:
    control = FakeControl()
    transport = ASGITransport(app_of(scheduler, control=control))
    async with AsyncClient(transport=transport, base_url="http://localhost") as client:
        answer = await client.post("/api/endpoints", content=body, headers={"content-type": "application/json"})
    assert answer.status_code in (400, 422)
    assert control.calls == []


@pytest.mark.parametrize("path", ["/..%2f..%2fetc/passwd", "/%2e%2e/config.yaml", "/app.js%00", "/dashboard"])
async def test_nothing_but_the_pages_themselves_is_served(scheduler: Scheduler, path: str) -> None:
    assert (await ask(app_of(scheduler), path)).status_code == 404


async def test_ranges_of_pages_are_not_served_so_that_they_cost_nothing(scheduler: Scheduler) -> None:
    ranges = "bytes=" + ",".join(f"{n}-" for n in range(20_000))
    answer = await ask(app_of(scheduler), "/app.js", range=ranges)
    assert (answer.status_code, answer.content) == (200, load_assets()["/app.js"][0])


@pytest.mark.parametrize(
    "given", ["Bearer wrong", "Bearer", "Bearer sesam", "Bearer sesame2", "Basic sesame", "sesame"]
)
async def test_a_wrong_token_is_refused_with_a_challenge_in_json(scheduler: Scheduler, given: str) -> None:
    answer = await ask(app_of(scheduler, token="sesame"), "/api/endpoints", authorization=given)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.json()["error"]["code"] == "unauthorized"


async def test_a_token_may_hold_any_character(scheduler: Scheduler) -> None:
    app = app_of(scheduler, token="sésame")
    async with AsyncClient(transport=ASGITransport(app), base_url="http://localhost") as client:
        right = await client.get("/api/endpoints", headers={b"authorization": "Bearer sésame".encode()})
        wrong = await client.get("/api/endpoints", headers={b"authorization": "Bearer sèsame".encode()})
    assert (right.status_code, wrong.status_code) == (200, 401)


async def test_a_refused_drain_changes_nothing(scheduler: Scheduler) -> None:
    await ask(app_of(scheduler, token="sesame"), "/api/endpoints/a/drain", "POST")
    assert not any(endpoint.draining for endpoint in scheduler.pool)
