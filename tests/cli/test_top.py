"""`top` against a running gateway, and in a real terminal: tmux's."""

from __future__ import annotations

import asyncio
import json
import shlex
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from click.testing import CliRunner, Result

from llmgate.cli.top import top
from tests.support.fake_engine import FakeEngine, sse, stream
from tests.support.processes import free_ports, program
from tests.support.serving import STREAMED, Served, serving

EVENTS = stream(*sse({"choices": [{"delta": {"content": "hello"}}]}))
PATIENCE = 20.0


async def run(served: Served, *options: str) -> Result:
    return await asyncio.to_thread(CliRunner().invoke, top, [str(served.admin.base_url), *options])


async def test_without_a_terminal_it_is_shown_once() -> None:
    async with FakeEngine(EVENTS) as engine, serving(engine) as served:
        await served.chat(STREAMED)
        result = await run(served)
    assert result.exit_code == 0, result.output
    for text in ("1 of 1 ready", "● up", "round-robin", "last decisions", "req/s"):
        assert text in result.stdout


async def test_one_snapshot_as_json() -> None:
    async with FakeEngine() as engine, serving(engine) as served:
        result = await run(served, "--json", "-")
    content = json.loads(result.stdout)
    assert [each["name"] for each in content["endpoints"]] == ["a"]
    assert content["history"]["totals"]["in_flight"]


async def test_it_says_that_a_token_is_needed_and_never_shows_it() -> None:
    async with FakeEngine() as engine, serving(engine, admin={"token": "canary"}) as served:
        refused, wrong = await run(served), await run(served, "--token", "canary-wrong")
        shown = await run(served, "--token", "canary")
    assert (refused.exit_code, wrong.exit_code, shown.exit_code) == (1, 1, 0)
    assert "--token or LLMGATE_ADMIN_TOKEN" in refused.stderr
    assert "canary" not in refused.output + wrong.output + shown.output


async def test_the_data_port_is_not_taken_for_the_admin_port() -> None:
    async with FakeEngine() as engine, serving(engine) as served:
        result = await asyncio.to_thread(CliRunner().invoke, top, [served.url])
    assert result.exit_code == 1
    assert "give the URL of a gateway's admin port" in result.stderr


@pytest.mark.parametrize("url", ["http://127.0.0.1:{port}", "127.0.0.1:{port}", "http://[", "nonsense"])
def test_a_wrong_url_is_a_sentence(url: str) -> None:
    (port,) = free_ports(1)
    result = CliRunner().invoke(top, [url.format(port=port)])
    assert (result.exit_code, result.stdout) == (1, "")
    assert "admin port" in result.stderr
    assert "Traceback" not in result.output


def test_a_column_that_is_not_there_is_wrong_usage() -> None:
    result = CliRunner().invoke(top, ["--sort", "colour"])
    assert result.exit_code == 2


# In a terminal


class Terminal:
    def __init__(self, name: str) -> None:
        self._tmux = [program("tmux", "tmux"), "-L", name, "-f", "/dev/null"]

    async def __call__(self, *arguments: str) -> str:
        made = await asyncio.to_thread(subprocess.run, [*self._tmux, *arguments], capture_output=True, text=True)
        assert made.returncode == 0, made.stderr
        return made.stdout

    async def shows(self, *texts: str) -> str:
        """Waits until all of them are on the screen."""
        deadline = asyncio.get_running_loop().time() + PATIENCE
        while True:
            screen = await self("capture-pane", "-p", "-e")
            if all(text in screen for text in texts):
                return screen
            assert asyncio.get_running_loop().time() < deadline, screen
            await asyncio.sleep(0.05)

    async def end(self) -> None:
        await asyncio.to_thread(subprocess.run, [*self._tmux, "kill-server"], capture_output=True)


@asynccontextmanager
async def terminal(name: str, command: str, *, columns: int = 80, lines: int = 24) -> AsyncIterator[Terminal]:
    """Runs it in a shell, which then says how it ended."""
    made = Terminal(f"llmgate-{name}-{free_ports(1)[0]}")
    size = ("-x", str(columns), "-y", str(lines))
    await made("new-session", "-d", *size, f"{command}; echo ended with $?; read never")
    try:
        yield made
    finally:
        await made.end()


def command(served: Served, *options: str, environment: str = "") -> str:
    parts = [sys.executable, "-m", "llmgate", "top", str(served.admin.base_url), *options]
    return f"{environment} {shlex.join(parts)}"


async def test_in_a_terminal_it_follows_the_gateway_sorts_resizes_and_quits() -> None:
    async with (
        FakeEngine(EVENTS) as a,
        FakeEngine(EVENTS) as b,
        serving(a, b) as served,
        terminal("live", command(served)) as screen,
    ):
        await screen.shows("2 of 2 ready", "● up", "q quits", "fl▾")
        await served.chat(STREAMED)
        await screen.shows("last decisions")
        await served.admin.post("/api/endpoints/b/drain")
        await screen.shows("1 of 2 ready", "↓ draining")
        await screen("send-keys", "s")
        await screen.shows("ahead▾")
        assert "hits" not in await screen.shows("p99")
        await screen("resize-window", "-x", "130", "-y", "40")
        await screen.shows("hits", "GPU")
        await screen("send-keys", "q")
        await screen.shows("ended with 0")


async def test_a_gateway_that_goes_away_is_waited_for() -> None:
    port, admin = free_ports(2)
    where: dict[str, Any] = {"server": {"port": port}, "admin": {"port": admin}}
    async with FakeEngine() as engine:
        async with serving(engine, **where) as served:
            running = terminal("again", command(served))
            screen = await running.__aenter__()
            await screen.shows("1 of 1 ready")
        try:
            await screen.shows("does not answer: what you see is old", "1 of 1 ready")
            async with serving(engine, **where):
                await screen.shows("q quits, s sorts")
                await screen("send-keys", "C-c")
                await screen.shows("ended with 0")
        finally:
            await running.__aexit__(None, None, None)


async def test_no_color_is_heeded() -> None:
    async with FakeEngine() as engine, serving(engine) as served:
        async with terminal("plain", command(served, environment="NO_COLOR=1")) as screen:
            assert "\x1b[32m" not in await screen.shows("● ")
        async with terminal("green", command(served, environment="env -u NO_COLOR")) as screen:
            assert "\x1b[32m" in await screen.shows("● ")


async def test_a_gateway_that_wants_a_token_ends_it_with_a_sentence() -> None:
    async with (
        FakeEngine() as engine,
        serving(engine, admin={"token": "canary"}) as served,
        terminal("refused", command(served)) as screen,
    ):
        await screen.shows("wants its admin token", "ended with 1")
