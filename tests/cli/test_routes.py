"""`routes` against a running gateway."""

from __future__ import annotations

import asyncio
import json

import pytest
from click.testing import CliRunner, Result

from llmgate.cli.routes import routes
from tests.support.fake_engine import FakeEngine
from tests.support.serving import Served, serving


async def run(served: Served, *options: str) -> Result:
    url = str(served.admin.base_url)
    return await asyncio.to_thread(CliRunner().invoke, routes, [url, *options])


async def test_routes_shows_models_aliases_and_states_of_a_running_gateway() -> None:
    async with (
        FakeEngine(models=["m"]) as a,
        FakeEngine(models=["m", "n"]) as b,
        serving(a, b, models=[{"name": "m", "aliases": ["gpt-4o"]}]) as served,
    ):
        await served.admin.post("/api/endpoints/b/drain")
        result = await run(served, "--json", "-")
    assert result.exit_code == 0, result.output
    rows = [(row["model"], row["aliases"], row["endpoint"], row["state"]) for row in json.loads(result.stdout)]
    assert rows == [("m", ["gpt-4o"], "a", "up"), ("m", ["gpt-4o"], "b", "draining"), ("n", [], "b", "draining")]


async def test_routes_takes_the_admin_token_and_never_shows_it() -> None:
    async with FakeEngine() as engine, serving(engine, admin={"token": "canary"}) as served:
        refused = await run(served)
        assert refused.exit_code == 1
        assert "401" in refused.stderr
        shown = await run(served, "--token", "canary")
        wrong = await run(served, "--token", "canary-wrong")
    assert shown.exit_code == 0
    assert "up" in shown.stdout
    assert "canary" not in refused.output + shown.output + wrong.output


@pytest.mark.parametrize("token", ["canary", "t\u00f6ken"])
async def test_a_token_may_come_with_the_end_of_its_line_and_hold_any_character(token: str) -> None:
    async with FakeEngine() as engine, serving(engine, admin={"token": token}) as served:
        shown = await run(served, "--token", f"{token}\n")
    assert shown.exit_code == 0, shown.output


def test_a_token_that_cannot_be_sent_is_not_shown_either() -> None:
    result = CliRunner().invoke(routes, ["http://127.0.0.1:1"], env={"LLMGATE_ADMIN_TOKEN": "canary\ncanary"})
    assert result.exit_code == 2
    assert "must not contain control characters" in result.stderr
    assert "canary" not in result.output


async def test_the_token_is_given_to_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    async with FakeEngine() as engine, FakeEngine() as proxy, serving(engine, admin={"token": "canary"}) as served:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        shown = await run(served, "--token", "canary")
        assert not proxy.probed
    assert shown.exit_code == 0, shown.output


async def test_an_endpoint_of_unknown_models_is_shown_all_the_same() -> None:
    async with serving("http://127.0.0.1:1", wait=False) as served:
        result = await run(served, "--json", "-")
    (row,) = json.loads(result.stdout)
    assert (row["endpoint"], row["model"], row["state"]) == ("a", "?", "starting")


async def test_the_data_port_is_not_taken_for_the_admin_port() -> None:
    async with FakeEngine() as engine, serving(engine) as served:
        result = await asyncio.to_thread(CliRunner().invoke, routes, [served.url])
    assert result.exit_code == 1
    assert "give the admin URL" in result.stderr
