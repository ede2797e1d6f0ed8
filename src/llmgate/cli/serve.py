from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from llmgate.config import Config, ConfigError, ConfigFile, from_data, read_yaml
from llmgate.config.schema import AdminConfig, ServerConfig
from llmgate.routing.registry import BUILT_IN, DEFAULT
from llmgate.telemetry.app_log import Format, set_up

logger = logging.getLogger("llmgate")


@click.command(
    epilog="\b\nExamples:\n  llmgate serve http://127.0.0.1:8000 http://127.0.0.1:8001\n"
    "  llmgate serve --config configs/two-engines.yaml --port 9000"
)
@click.argument("urls", nargs=-1, metavar="[URL]...")
@click.option("--config", "file", type=click.Path(path_type=Path), metavar="FILE", help="YAML configuration.")
@click.option("--host", metavar="H", help="Address of the data port (default 0.0.0.0).")
@click.option("--port", type=click.IntRange(0, 65535), metavar="N", help="Data port (default 8080; 0: any free one).")
@click.option("--admin-port", type=click.IntRange(0, 65535), metavar="N", help="Admin port (default 8081).")
@click.option(
    "--policy",
    metavar="NAME",
    help=f"Routing policy (default {DEFAULT}): {', '.join(BUILT_IN)}, or one that a package adds.",
)
@click.option("--reuse-port", is_flag=True, help="Listen beside other processes that do so too (SO_REUSEPORT).")
@click.option("--workers", type=click.IntRange(1), default=1, metavar="N", help="Processes; only 1 for now.")
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info")
@click.option(
    "--log-format",
    type=click.Choice(["auto", "text", "json"]),
    default="auto",
    envvar="LLMGATE_LOG_FORMAT",
    help="Of the log on standard error; auto: text on a terminal, JSON lines elsewhere.",
)
def serve(
    urls: tuple[str, ...],
    file: Path | None,
    host: str | None,
    port: int | None,
    admin_port: int | None,
    policy: str | None,
    reuse_port: bool,
    workers: int,
    log_level: str,
    log_format: Format,
) -> None:
    """Run the gateway in front of the engines at the given URLs, those of the configuration, or both."""
    if workers > 1:
        raise click.UsageError(
            "--workers above 1 is not possible yet: each process would see only its own requests' load and route "
            "blindly past the others'. One process serves several thousand requests a second; start more gateways "
            "behind different engines if that is not enough."
        )
    set_up(log_level, log_format)

    def read() -> Config:
        return load(urls, file, host=host, port=port, admin_port=admin_port, policy=policy, reuse_port=reuse_port)

    try:
        config = read()
    except ConfigError as error:
        for problem in error.problems:
            click.echo(f"llmgate: {error.source}: {problem}", err=True)
        sys.exit(1)
    sys.exit(run(config, None if file is None else ConfigFile(file, read)))


def load(
    urls: tuple[str, ...],
    file: Path | None,
    *,
    host: str | None = None,
    port: int | None = None,
    admin_port: int | None = None,
    policy: str | None = None,
    reuse_port: bool = False,
) -> Config:
    """The file's configuration with the command line's on top. Raises ConfigError, or UsageError without engines."""
    if not urls and file is None:
        raise click.UsageError("there is no engine: give the URL of at least one, or --config FILE")
    data: dict[str, Any] = {} if file is None else read_yaml(file)
    if urls and isinstance(found := data.get("endpoints") or [], list):  # else its own mistake is reported
        data["endpoints"] = [*found, *({"url": _with_scheme(url)} for url in urls)]
    _override(data, "server", host=host, port=port, reuse_port=reuse_port or None)
    _override(data, "admin", port=admin_port)
    if policy is not None:
        router = data.get("router")
        same = isinstance(router, dict) and router.get("policy") == policy
        data["router"] = router if same else {"policy": policy}
    return from_data(data, "command line" if file is None else str(file))


def run(config: Config, source: ConfigFile | None = None) -> int:
    """Serve until SIGTERM or SIGINT; a second one cuts the drain short. SIGHUP reloads."""
    from llmgate.gateway.server import quiet_uvicorn
    from llmgate.runtime import Gateway
    from llmgate.tokens import TokenizerError

    async def work() -> int:
        try:
            gateway = Gateway(config, source=source)
        except (OSError, ValueError, TokenizerError) as error:
            click.echo(f"llmgate: {error}", err=True)
            return 1
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, gateway.stop)
        loop.add_signal_handler(signal.SIGHUP, gateway.hang_up)
        logger.info(
            "%d endpoints, policy %s, on %s://%s:%d (admin %s://%s:%d)",
            len(config.endpoints),
            config.router.policy,
            _scheme(config.server),
            _shown(config.server.host),
            gateway.data_port,
            _scheme(config.admin),
            _shown(config.admin.host),
            gateway.admin_port,
        )
        gc.collect()
        gc.freeze()  # what is loaded by now stays: the collector need not look at it again
        gc.set_threshold(10_000, 20, 20)  # requests leave few cycles behind: look for them less often
        await gateway.run()
        return 0

    quiet_uvicorn()
    raise_file_limit()
    with asyncio.Runner(loop_factory=event_loop()) as runner:
        return runner.run(work())


def raise_file_limit() -> None:
    """A request in flight takes two file descriptors: have as many as the process may have, as Go's runtime does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(OSError, ValueError):  # macOS refuses more than kern.maxfilesperproc
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def event_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """What makes the loop: uvloop where there is one."""
    try:
        import uvloop
    except ImportError:  # not for every Python: asyncio's own loop serves too, at twice the cost
        return None
    return uvloop.new_event_loop


def _with_scheme(url: str) -> str:
    return url if "://" in url or url.startswith("unix:") else f"http://{url}"


def _scheme(port: ServerConfig | AdminConfig) -> str:
    return "http" if port.tls is None else "https"


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _override(data: dict[str, Any], section: str, **values: Any) -> None:
    given = {key: value for key, value in values.items() if value is not None}
    if given and isinstance(found := data.get(section) or {}, dict):
        data[section] = {**found, **given}
