"""The admin port: the fleet as JSON, the switches an operator needs, metrics, and pages that show all that.

Every handler is a coroutine on purpose: FastAPI runs plain functions in threads, and the core belongs to the loop.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Collection
from http import HTTPStatus
from itertools import islice
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException as StarletteHTTPException

from llmgate import __version__
from llmgate.config import Config, ConfigError, EndpointConfig
from llmgate.core.scheduler import Scheduler
from llmgate.core.types import Endpoint
from llmgate.dashboard import CONTENT_SECURITY_POLICY, load_assets
from llmgate.gateway.admin_guard import BodyLimit, BrowserGuard, error_response, require
from llmgate.gateway.admin_views import DecisionView, EndpointView, ErrorView, ReloadView
from llmgate.gateway.asgi import ASGIApp
from llmgate.gateway.audit import Audit
from llmgate.gateway.comparison_views import ComparisonView
from llmgate.gateway.control import Control, NameTaken, NothingToReload
from llmgate.gateway.live import MOST_WATCHERS, Live
from llmgate.gateway.live_views import Snapshot
from llmgate.gateway.passing import Chat, Handed
from llmgate.telemetry.metrics import Metrics
from llmgate.telemetry.scrape import scrape

FULL: dict[str, Any] = {"model": ErrorView, "description": "too many are watching already"}

ERRORS: dict[int | str, dict[str, Any]] = {
    401: {"model": ErrorView, "description": "the admin token is missing or wrong"},
    404: {"model": ErrorView, "description": "there is no such endpoint"},
    409: {"model": ErrorView, "description": "that does not fit what there is"},
    422: {"model": ErrorView, "description": "a parameter is not what it should be"},
}


def create_admin_app(
    scheduler: Scheduler,
    metrics: Metrics,
    control: Control,
    *,
    live: Live,
    data: ASGIApp,
    clock: Callable[[], float],
    wall_clock: Callable[[], float] = time.time,
    token: str = "",
    hosts: Collection[str] = (),
) -> FastAPI:
    """The ASGI application of the admin port, to run on the event loop that the scheduler lives on.

    `data` is the data port's application, `clock` the scheduler's monotonic clock and `wall_clock` the Unix time, both
    in seconds. With a `token`, /api and /metrics want it as a bearer token. Without one, only localhost, IP literals
    and `hosts` (the configured host) are taken as Host: a page that had its name pointed here could read everything,
    and cannot know a token.
    """
    app = FastAPI(
        title="llmgate admin",
        version=__version__,
        description="The fleet behind one llmgate gateway.",
        docs_url=None,  # FastAPI's pages run scripts from elsewhere beside the dashboard's token: ours is in dashboard/
        redoc_url=None,
    )
    app.add_middleware(BodyLimit)
    app.add_middleware(BrowserGuard, hosts=None if token else hosts)
    app.add_middleware(Audit)  # added last, so the outermost: it sees what the others refuse
    app.add_exception_handler(StarletteHTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(Exception, _unexpected_error)
    protected = APIRouter(dependencies=[Depends(require(token))])
    _add_api(protected, scheduler, control, clock, wall_clock)
    _add_configuration(protected, control)
    _add_live(protected, live, data)
    _add_policies(protected, control)

    @protected.get("/metrics", tags=["metrics"], response_class=Response, responses={401: ERRORS[401]})
    async def prometheus_metrics(request: Request) -> Response:
        """Prometheus' text format, or OpenMetrics if asked for."""
        body, content_type = await scrape(metrics, request.headers.get("accept"))
        return Response(body, headers={"content-type": content_type, "cache-control": "no-store"})

    app.include_router(protected)
    _add_pages(app)
    return app


def _add_api(
    router: APIRouter,
    scheduler: Scheduler,
    control: Control,
    clock: Callable[[], float],
    wall_clock: Callable[[], float],
) -> None:
    pool = scheduler.pool

    def known(name: str) -> Endpoint:
        endpoint = pool.get(name)
        if endpoint is None:
            raise HTTPException(404, f"There is no endpoint named `{name[:200]}`.")
        return endpoint

    def view(endpoint: Endpoint) -> EndpointView:
        now = clock()
        pool.refresh(now)
        return EndpointView.of(endpoint, now, pool.aliases)

    def drain(name: str, draining: bool) -> EndpointView:
        endpoint = known(name)
        if not draining and control.is_leaving(endpoint):
            raise HTTPException(409, f"`{name[:200]}` is being removed: add it again to keep it.")
        pool.set_draining(endpoint, draining)
        return view(endpoint)

    @router.get("/api/endpoints", tags=["endpoints"], responses={401: ERRORS[401]})
    async def list_endpoints(response: Response) -> list[EndpointView]:
        """Every endpoint with its state and live load, in the order in which they came."""
        response.headers["cache-control"] = "no-store"
        return [view(endpoint) for endpoint in pool]

    @router.post(
        "/api/endpoints",
        tags=["endpoints"],
        status_code=201,
        responses={status: ERRORS[status] for status in (401, 409, 422)},
    )
    async def add_endpoint(wanted: EndpointConfig) -> EndpointView:
        """Take an engine in, described as in the configuration. It gets requests once it has been found to be up. It
        stays over reloads, until it is removed; a restart forgets it."""
        try:
            return view(await control.add_endpoint(wanted))
        except NameTaken:
            raise HTTPException(409, f"There is an endpoint named `{wanted.name}` already.") from None
        except ValueError as error:
            raise HTTPException(422, str(error)) from None

    @router.delete(
        "/api/endpoints/{name:path}",
        tags=["endpoints"],
        status_code=202,
        responses={status: ERRORS[status] for status in (401, 404, 422)},
    )
    async def remove_endpoint(name: str) -> EndpointView:
        """It gets no new requests, and is gone when those in flight are done or the drain time is over. One of the
        configuration's file comes back with the next reload."""
        endpoint = known(name)
        await control.remove_endpoint(endpoint)
        return view(endpoint)

    # names may contain slashes: that of a unix socket is its path

    @router.post("/api/endpoints/{name:path}/drain", tags=["endpoints"], responses=ERRORS)
    async def drain_endpoint(name: str) -> EndpointView:
        """Send it no new requests; those in flight go on. Has no effect when it is draining already."""
        return drain(name, True)

    @router.post("/api/endpoints/{name:path}/undrain", tags=["endpoints"], responses=ERRORS)
    async def undrain_endpoint(name: str) -> EndpointView:
        """Send it requests again. Has no effect when it is not draining."""
        return drain(name, False)

    @router.get("/api/decisions", tags=["decisions"], responses={401: ERRORS[401], 422: ERRORS[422]})
    async def list_decisions(
        response: Response, limit: Annotated[int, Query(ge=1, le=1000, description="at most so many")] = 50
    ) -> list[DecisionView]:
        """The last routing decisions, newest first, with the costs that explain them."""
        response.headers["cache-control"] = "no-store"
        now, unix_now = clock(), wall_clock()
        return [DecisionView.of(decision, now, unix_now) for decision in islice(reversed(scheduler.decisions), limit)]


def _add_configuration(router: APIRouter, control: Control) -> None:
    @router.get("/api/config", tags=["configuration"], responses={401: ERRORS[401]})
    async def show_configuration(response: Response) -> Config:
        """The configuration in effect, defaults and endpoints added here included; secrets are masked."""
        response.headers["cache-control"] = "no-store"
        return control.effective_config()

    @router.post(
        "/api/reload",
        tags=["configuration"],
        responses={status: ERRORS[status] for status in (401, 409, 422)},
    )
    async def reload_configuration() -> ReloadView:
        """Read the configuration's file again. All of it takes effect, or it is refused with every mistake and its path
        and nothing changes."""
        try:
            return await control.reload()
        except NothingToReload as error:
            raise HTTPException(409, str(error)) from None
        except ConfigError as error:
            raise HTTPException(422, f"The configuration was refused: {'; '.join(error.problems)}.") from None


def _add_live(router: APIRouter, live: Live, data: ASGIApp) -> None:
    @router.get("/api/snapshot", tags=["live"], responses={401: ERRORS[401]})
    async def take_snapshot(response: Response) -> Snapshot:
        """The gateway at this moment, with rates and the last two minutes."""
        response.headers["cache-control"] = "no-store"
        return live.snapshots.take(history=True)

    @router.get(
        "/api/live",
        tags=["live"],
        response_class=Response,
        responses={200: {"content": {"application/x-ndjson": {}}}, 401: ERRORS[401], 503: FULL},
    )
    async def watch() -> Response:
        """A snapshot a second, each a line of JSON, until you leave; the first has the last two minutes."""
        if live.full:
            raise HTTPException(503, f"{MOST_WATCHERS} are watching already: close another dashboard, or try later.")
        return Handed(live.stream)

    @router.post("/api/chat", tags=["live"], response_class=Response, responses={401: ERRORS[401]})
    async def chat() -> Response:
        """A chat as `/v1/chat/completions` of the data port takes and answers it, for those who reach this port."""
        return Chat(data)


def _add_policies(router: APIRouter, control: Control) -> None:
    @router.get(
        "/api/policies",
        tags=["decisions"],
        responses={401: ERRORS[401], 404: {"model": ErrorView, "description": "`router.compare` is off"}},
    )
    async def compare_policies(response: Response) -> ComparisonView:
        """What the other policies would have chosen on the traffic since the start, or since the policy was changed.
        Each choice is judged by itself, by what it is expected to take: what it would have led to is not seen."""
        response.headers["cache-control"] = "no-store"
        comparison = control.policies()
        if comparison is None:
            raise HTTPException(404, "Policies are not compared: `router.compare` is off.")
        return comparison


def _add_pages(app: FastAPI) -> None:
    for path, (body, content_type) in load_assets().items():
        app.router.add_route(path, _static(body, content_type), methods=["GET"], include_in_schema=False)


def _static(body: bytes, content_type: str) -> Callable[[Request], Awaitable[Response]]:
    headers = {
        "content-type": content_type,
        "content-security-policy": CONTENT_SECURITY_POLICY,
        "cache-control": "no-cache",
    }

    async def serve(_: Request) -> Response:
        return Response(body, headers=headers)

    return serve


async def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, StarletteHTTPException)
    code = HTTPStatus(error.status_code).phrase.lower().replace(" ", "_")
    return error_response(error.status_code, error.detail, code, dict(error.headers or {}))


async def _validation_error(_: Request, error: Exception) -> Response:
    """Says where and what, without repeating what was sent."""
    assert isinstance(error, RequestValidationError)
    problems = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
    return error_response(422, problems, "unprocessable_content")


async def _unexpected_error(_: Request, error: Exception) -> Response:
    """The server logs it; the client learns no more than that."""
    return error_response(500, "The gateway could not do this because of a mistake of its own.", "internal_error")
