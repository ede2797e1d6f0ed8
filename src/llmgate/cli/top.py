from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import termios
import tty
from collections.abc import Callable, Iterator
from http import HTTPStatus
from typing import Any

import click
import httpx2
from rich.console import Console
from rich.live import Live

from llmgate.cli.operator import credentials, token_option
from llmgate.cli.output import to_file
from llmgate.cli.top_view import SORTS, Screen

PATIENCE = 5.0
"""Seconds. The gateway tells something each second."""
AGAIN_SECONDS = 1.0

NO_ADMIN_PORT = "give the URL of a gateway's admin port (8081 unless configured)"
KEYS = "q quits, s sorts by the next column"


class Refused(Exception):
    """It is of no use to try again."""


@click.command(
    epilog="\b\nExamples:\n  llmgate top\n  llmgate top http://gpu-box:8081 --sort ttft\n  llmgate top --once --json -"
)
@click.argument("url", default="http://127.0.0.1:8081", metavar="[URL]")
@token_option
@click.option("--once", is_flag=True, help="Show it once and exit; so it is done where there is no terminal.")
@click.option("--sort", type=click.Choice(SORTS), default="load", show_default=True, help="Highest first.")
@click.option("--json", "json_file", metavar="FILE", help="Write one snapshot as JSON there (- is standard output).")
def top(url: str, token: str, once: bool, sort: str, json_file: str | None) -> None:
    """Watch a running gateway by its admin URL: endpoints, load, rates, the last decisions."""
    console = Console(highlight=False, markup=False, emoji=False)
    try:
        if json_file is not None:
            to_file(json_file, json.dumps(_snapshot(url, token), indent=2).encode() + b"\n")
        elif once or not console.is_terminal or not sys.stdin.isatty():
            screen = Screen(sort)
            screen.take(_snapshot(url, token))
            console.print(screen.lines(console))
        else:
            asyncio.run(_watch(url, token, console, Screen(sort)))
    except (Refused, ValueError) as error:
        click.echo(f"llmgate: {error}", err=True)
        sys.exit(1)


def _snapshot(url: str, token: str) -> dict[str, Any]:
    try:
        # trust_env: a proxy of the environment would read the token
        answer = httpx2.get(f"{url.rstrip('/')}/api/snapshot", headers=credentials(token), timeout=5, trust_env=False)
        _check(url, answer)
        return _decode(url, answer.text)
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise Refused(f"{url} does not answer ({error}): {NO_ADMIN_PORT}") from None


def _check(url: str, answer: httpx2.Response) -> None:
    if answer.status_code == HTTPStatus.UNAUTHORIZED:
        raise Refused(f"{url} wants its admin token: give the right one by --token or LLMGATE_ADMIN_TOKEN")
    if answer.status_code == HTTPStatus.SERVICE_UNAVAILABLE:
        raise Refused(f"{url} is watched by as many as it takes: close a dashboard, or try --once")
    if answer.status_code != HTTPStatus.OK:
        raise Refused(f"{url} answers {answer.status_code}: {NO_ADMIN_PORT}")


def _decode(url: str, line: str) -> dict[str, Any]:
    try:
        snapshot = json.loads(line)
        return {key: snapshot[key] for key in ("time", "gateway", "totals", "endpoints", "decisions", "history")}
    except (ValueError, KeyError, TypeError):
        raise Refused(f"{url} does not answer as an admin port does: {NO_ADMIN_PORT}") from None


async def _watch(url: str, token: str, console: Console, screen: Screen) -> None:
    """Until `q`, Ctrl-C or SIGTERM. Raises Refused; a gateway that was there and went away is waited for."""
    screen_of = Live(console=console, screen=True, auto_refresh=False, vertical_overflow="crop")
    note = KEYS

    def show(new_note: str | None = None) -> None:
        nonlocal note
        note = note if new_note is None else new_note
        screen_of.update(screen.lines(console, height=console.height, note=note), refresh=True)

    def pressed(key: str) -> None:
        if key == "s":
            screen.next_sort()
            show()

    following = asyncio.ensure_future(_follow(url, token, screen, show))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, following.cancel)
    loop.add_signal_handler(signal.SIGWINCH, show)
    with (
        screen_of,
        _keys({"q": lambda _: following.cancel(), "s": pressed}),
        contextlib.suppress(asyncio.CancelledError),
    ):
        await following


async def _follow(url: str, token: str, screen: Screen, show: Callable[[str | None], None]) -> None:
    seen = False
    async with httpx2.AsyncClient(headers=credentials(token), timeout=PATIENCE, trust_env=False) as client:
        while True:
            try:
                async with client.stream("GET", f"{url.rstrip('/')}/api/live") as answer:
                    if not seen or answer.status_code != HTTPStatus.SERVICE_UNAVAILABLE:
                        _check(url, answer)
                    async for line in answer.aiter_lines():
                        screen.take(_decode(url, line))
                        seen = True
                        show(KEYS)
            except (httpx2.HTTPError, httpx2.InvalidURL) as error:
                if not seen:
                    raise Refused(f"{url} does not answer ({error}): {NO_ADMIN_PORT}") from None
            show("the gateway does not answer: what you see is old; trying again · q quits")
            await asyncio.sleep(AGAIN_SECONDS)


@contextlib.contextmanager
def _keys(handlers: dict[str, Callable[[str], object]]) -> Iterator[None]:
    """Call them when their key is pressed, without waiting for a line's end."""
    stdin, loop = sys.stdin.fileno(), asyncio.get_running_loop()
    before = termios.tcgetattr(stdin)

    def read() -> None:
        pressed = os.read(stdin, 64)
        for key in pressed.decode("ascii", "replace") or "q":  # nothing: there is no terminal any more
            if key in handlers:
                handlers[key](key)

    tty.setcbreak(stdin)
    loop.add_reader(stdin, read)
    try:
        yield
    finally:
        loop.remove_reader(stdin)
        termios.tcsetattr(stdin, termios.TCSADRAIN, before)
