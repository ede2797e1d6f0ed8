from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import logging
import signal
import sys
from collections.abc import Sequence

import click
import httpx2
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

from llmgate.cli.serve import event_loop
from llmgate.config import Config, ConfigError, from_data
from llmgate.core.errors import LlmgateError
from llmgate.demo.engine import EngineOptions
from llmgate.demo.engines import start_engines
from llmgate.demo.flow import Answered, Asked, DemoFailed, Piece, demo_requests
from llmgate.demo.model import SMOLLM2, TINY, find_model
from llmgate.gateway.server import bind, quiet_uvicorn
from llmgate.routing.registry import DEFAULT
from llmgate.runtime import Gateway

READY_SECONDS = 30.0
PORT_OPTIONS = "(--port, --admin-port)"


@click.command(epilog="\b\nExamples:\n  llmgate demo\n  llmgate demo --once --engines 3")
@click.option("--once", is_flag=True, help="Send a few requests, show which engine served each, and exit.")
@click.option("--engines", "count", type=click.IntRange(1, 16), default=2, show_default=True, metavar="N")
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True, metavar="N")
@click.option("--admin-port", type=click.IntRange(0, 65535), default=8081, show_default=True, metavar="N")
@click.option("--policy", default=DEFAULT, show_default=True, metavar="NAME")
def demo(once: bool, count: int, port: int, admin_port: int, policy: str) -> None:
    """Real llama.cpp engines with a small real model behind the gateway, on this machine's CPU."""
    _refuse_early(port, admin_port, policy)
    if importlib.util.find_spec("xllamacpp") is None:
        click.echo("llmgate: the demo needs llama.cpp: run pip install 'llmgate-lb[demo]'", err=True)
        sys.exit(1)
    console = Console(highlight=False, emoji=False)
    with Progress(
        TextColumn("{task.description}"), BarColumn(), DownloadColumn(), console=console, transient=True
    ) as progress:
        task = progress.add_task(f"Looking for {SMOLLM2.alias}", total=None)

        def show(done: int, total: int) -> None:
            progress.update(task, description=f"Downloading {SMOLLM2.alias}", completed=done, total=total)

        model = find_model(show)
    if model.fallback_reason:
        console.print(f"[yellow]{escape(model.fallback_reason)}[/yellow]")
    try:
        with contextlib.ExitStack() as stack:
            with console.status(f"Loading {model.alias} into {count} llama.cpp engines …"):
                engines = stack.enter_context(
                    start_engines(
                        EngineOptions(model.path, model.alias),
                        count,
                        on_ready=lambda engine: console.print(f"engine ready at {engine.url}"),
                    )
                )
            urls = [engine.url for engine in engines]
            config = _config(urls, model.alias, port, admin_port, policy, exact=not model.fallback_reason)
            sys.exit(_run(console, config, model.alias, once))
    except LlmgateError as error:
        click.echo(f"llmgate: {error}", err=True)
        sys.exit(1)


def _refuse_early(port: int, admin_port: int, policy: str) -> None:
    """Says what would end the demo anyway before a model is downloaded and engines load, and exits."""
    try:
        config = _config(["http://127.0.0.1"], TINY.alias, port, admin_port, policy, exact=False)
        for section in (config.server, config.admin):
            bind(section.host, section.port).close()
    except ConfigError as error:
        for problem in error.problems:
            click.echo(f"llmgate: {error.source}: {problem}", err=True)
        sys.exit(1)
    except OSError as error:
        click.echo(f"llmgate: {error} {PORT_OPTIONS}", err=True)
        sys.exit(1)


def _config(urls: Sequence[str], alias: str, port: int, admin_port: int, policy: str, *, exact: bool) -> Config:
    return from_data(
        {
            "server": {"host": "127.0.0.1", "port": port},
            "admin": {"port": admin_port},
            "endpoints": [{"url": url, "name": f"llama-{number}"} for number, url in enumerate(urls, 1)],
            "router": {"policy": policy},
            "models": [{"name": alias, "tokenizer": "embedded"}] if exact else [],
            "timeouts": {"notice": 0, "drain": 10},
        },
        "command line",
    )


def _run(console: Console, config: Config, model: str, once: bool) -> int:
    logging.basicConfig(level="WARNING", format="%(levelname)s %(message)s", stream=sys.stderr)
    quiet_uvicorn()
    with asyncio.Runner(loop_factory=event_loop()) as runner:
        return runner.run(_serve(console, config, model, once))


async def _serve(console: Console, config: Config, model: str, once: bool) -> int:
    """The gateway in this process, and the demo's requests to it through its real port."""
    try:
        gateway = Gateway(config)
    except OSError as error:
        click.echo(f"llmgate: {error} {PORT_OPTIONS}", err=True)
        return 1
    running = asyncio.create_task(gateway.run())
    base = f"http://127.0.0.1:{gateway.data_port}"
    asking = asyncio.create_task(_ask(console, base, model))

    def stop() -> None:
        asking.cancel()  # before its request breaks off, which would look like a failure
        gateway.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop)
    try:
        await asyncio.wait([asking, running], return_when=asyncio.FIRST_COMPLETED)
        if asking.cancelled():
            console.print("\nStopped.")
        elif asking.done():
            asking.result()
            if not once:
                console.print(_invitation(base, gateway.admin_port, model), soft_wrap=True)
                await asyncio.wait([running])
    except LlmgateError as error:
        click.echo(f"llmgate: {error}", err=True)
        return 1
    finally:
        asking.cancel()
        gateway.stop()
        await running
    return 1 if once and asking.cancelled() else 0


async def _ask(console: Console, base: str, model: str) -> None:
    # trust_env: a proxy that is meant for the world outside cannot reach this machine's own port
    async with httpx2.AsyncClient(base_url=base, timeout=60, trust_env=False) as client:
        await _until_ready(client)
        async for event in demo_requests(client, model):
            match event:
                case Asked(question, stream, turn):
                    kind = "streamed" if stream else "whole"
                    console.print(f"\n[bold]{escape(question)}[/bold]  [dim]{kind}, turn {turn}[/dim]")
                case Piece(text):
                    console.print(escape(text), end="", soft_wrap=True)
                case Answered() as answer:
                    cached = "" if answer.cached_tokens is None else f", {answer.cached_tokens} of them cached"
                    console.print(
                        f"\n[green]→ served by {answer.endpoint}[/green]  [dim]first text after "
                        f"{answer.first_text_s:.2f} s, all after {answer.total_s:.2f} s; {answer.prompt_tokens} prompt "
                        f"tokens{cached}, {answer.completion_tokens} of answer[/dim]",
                        soft_wrap=True,
                    )


async def _until_ready(client: httpx2.AsyncClient) -> None:
    try:
        async with asyncio.timeout(READY_SECONDS):
            while True:
                with contextlib.suppress(httpx2.TransportError):
                    if (await client.get("/ready")).status_code == 200:
                        return
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise DemoFailed(
            f"The gateway saw no engine ready within {READY_SECONDS:g} s: "
            "try fewer of them (--engines), or again when the machine is less busy."
        ) from None


def _invitation(base: str, admin_port: int, model: str) -> str:
    body = f'{{"model": "{model}", "messages": [{{"role": "user", "content": "Hello!"}}]}}'
    return (
        f"\nThe gateway is at [bold]{base}[/bold], the dashboard at [bold]http://127.0.0.1:{admin_port}[/bold]. Try:\n"
        f"  curl {base}/v1/chat/completions -H 'content-type: application/json' -d '{escape(body)}'\n"
        "Ctrl-C ends everything."
    )
