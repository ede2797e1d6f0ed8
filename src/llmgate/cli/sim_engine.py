from __future__ import annotations

import asyncio
import gc
import math
import re
import signal
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from llmgate.cli.serve import event_loop, raise_file_limit

if TYPE_CHECKING:  # numpy and ZeroMQ are loaded when the engine starts, not for --help
    from llmgate.sim.http_engine.settings import KvEventsConfig, Settings

DEFAULT_PROFILE = "h100:llama-3.1-8b"


@click.command(
    name="sim-engine",
    epilog="\b\nExamples:\n  llmgate sim-engine --port 8000\n"
    "  llmgate sim-engine --port 8001 --profile 4xh100:llama-3.1-70b --speed 10 --kv-events 'tcp://*:5557'\n"
    "  llmgate sim-engine --port 8002 --max-num-queued-reqs 64 --fault fail_rate=0.01 --fault break_after=20",
)
@click.option("--port", type=click.IntRange(0, 65535), required=True, metavar="N", help="Port (0: any free one).")
@click.option("--host", default="127.0.0.1", show_default=True, metavar="H", help="Address.")
@click.option(
    "--profile",
    "profile_name",
    default=DEFAULT_PROFILE,
    show_default=True,
    metavar="NAME",
    help="[GPUSx]GPU:MODEL, as an engine spec without its count.",
)
@click.option("--speed", type=click.FloatRange(0, min_open=True), default=1.0, metavar="X", help="Engine s a second.")
@click.option("--model", metavar="NAME", help="Name that it serves (default: the profile's model).")
@click.option("--tokenizer", metavar="PATH", help="A model's tokenizer, or 'embedded' (default: 4 bytes a token).")
@click.option(
    "--output-tokens", metavar="DIST", help="Lengths of answers: N, uniform:LOW:HIGH, lognormal:MEDIAN:SIGMA."
)
@click.option("--seed", type=int, default=0, show_default=True, metavar="N", help="Of answers and faults.")
@click.option(
    "--kv-events", metavar="ENDPOINT", help="Publish KV events there: tcp://*:5557 binds, tcp://host:5557 connects."
)
@click.option("--kv-events-replay", metavar="ENDPOINT", help="Answer requests for missed KV events there.")
@click.option("--kv-events-topic", default="", metavar="TOPIC", help="Topic of KV events (default: empty).")
@click.option(
    "--kv-events-buffer-steps", type=click.IntRange(1), default=10_000, metavar="N", help="Batches to replay."
)
@click.option("--lora", "loras", multiple=True, metavar="NAME[=PATH]", help="A LoRA adapter; may be given again.")
@click.option("--block-size", type=click.IntRange(1), metavar="N", help="Tokens of a KV block.")
@click.option("--num-gpu-blocks-override", type=click.IntRange(1), metavar="N", help="KV blocks.")
@click.option("--max-model-len", type=click.IntRange(2), metavar="N", help="Tokens of a prompt and its answer.")
@click.option("--max-num-seqs", type=click.IntRange(1), metavar="N", help="Running requests.")
@click.option("--max-num-batched-tokens", type=click.IntRange(1), metavar="N", help="Tokens of a step.")
@click.option("--max-num-queued-reqs", type=click.IntRange(0), metavar="N", help="Open requests, then 503.")
@click.option("--scheduling-policy", type=click.Choice(["fcfs", "priority"]), default="fcfs", show_default=True)
@click.option("--enable-prompt-tokens-details", is_flag=True, help="Tell cached tokens in the usage.")
@click.option(
    "--tick-ms",
    type=click.FloatRange(0.1, 1000),
    default=5.0,
    show_default=True,
    metavar="MS",
    help="Tokens that are due go out at least this often.",
)
@click.option("--startup", metavar="S", help="Seconds until it is ready, or 'profile' for the profile's by --speed.")
@click.option("--fault", "faults", multiple=True, metavar="NAME=VALUE", help="What goes wrong; may be given again.")
def sim_engine(**options: Any) -> None:
    """One simulated engine that answers as vLLM 0.32 does: what it says is filler, when it says it is modelled."""
    try:
        settings = _settings(options)
    except (ValueError, LookupError) as error:
        _fail(str(error.args[0] if error.args else error))
    sys.exit(run(settings, options["host"], options["port"]))


def run(settings: Settings, host: str, port: int) -> int:
    """Serve until SIGTERM or SIGINT."""
    from llmgate.sim.http_engine.server import SimEngine

    async def work() -> int:
        try:
            engine = SimEngine(settings)
            bound = await engine.start(host, port)
        except OSError as error:
            click.echo(
                f"llmgate: cannot listen on {host}:{port} or publish: {error}; is another engine there?", err=True
            )
            return 1
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        gc.collect()
        gc.freeze()
        click.echo(
            f"llmgate: {settings.model} on {settings.profile.name} at speed {settings.speed:g}, "
            f"on http://{f'[{host}]' if ':' in host else host}:{bound}",
            err=True,
        )
        await stop.wait()
        await engine.close()
        return 0

    raise_file_limit()
    with asyncio.Runner(loop_factory=event_loop()) as runner:
        return runner.run(work())


def one_engine(name: str) -> str:
    """`4xh100:…`, which is how a profile is shown, as it is parsed: `4h100:…`."""
    return re.sub(r"^\s*(\d+)x(?=[a-z])", r"\1", name, flags=re.IGNORECASE)


def _settings(options: dict[str, Any]) -> Settings:
    """Raises ValueError with what is wrong."""
    from llmgate.engines.spec import parse_profile
    from llmgate.sim.http_engine.faults import parse_faults
    from llmgate.sim.http_engine.lengths import DEFAULT, parse_lengths
    from llmgate.sim.http_engine.settings import Settings, fitted

    if not options["speed"] < math.inf:  # not a number neither
        raise ValueError(f"--speed {options['speed']:g}: give a number, as in 10")
    profile = fitted(
        parse_profile(one_engine(options["profile_name"])),
        block_size=options["block_size"],
        max_model_len=options["max_model_len"],
        max_num_seqs=options["max_num_seqs"],
        max_num_batched_tokens=options["max_num_batched_tokens"],
        num_gpu_blocks=options["num_gpu_blocks_override"],
    )
    settings = Settings(
        profile,
        options["model"] or profile.model,
        speed=options["speed"],
        lengths=parse_lengths(options["output_tokens"] or DEFAULT),
        seed=options["seed"],
        tick_s=options["tick_ms"] / 1000,
        startup_s=_startup(options["startup"], profile.startup_s / options["speed"]),
        max_num_queued_reqs=options["max_num_queued_reqs"],
        priority_queue=options["scheduling_policy"] == "priority",
        prompt_tokens_details=options["enable_prompt_tokens_details"],
        lora={name: path or name for name, _, path in (each.partition("=") for each in options["loras"])},
        kv_events=_kv_events(options),
        faults=parse_faults(options["faults"]),
    )
    return settings if options["tokenizer"] is None else replace(settings, tokenizer=_tokenizer(options["tokenizer"]))


def _kv_events(options: dict[str, Any]) -> KvEventsConfig | None:
    from llmgate.sim.http_engine.settings import KvEventsConfig

    if options["kv_events"] is None:
        if options["kv_events_replay"] is not None:
            raise ValueError("--kv-events-replay replays what --kv-events publishes: give that too")
        return None
    return KvEventsConfig(
        options["kv_events"],
        options["kv_events_replay"],
        options["kv_events_buffer_steps"],
        options["kv_events_topic"],
    )


def _tokenizer(path: str) -> Any:
    from llmgate.sim.http_engine.real_tokenizer import RealTokenizer
    from llmgate.tokens import TokenizerError

    try:
        return RealTokenizer(path)
    except TokenizerError as error:
        raise ValueError(str(error)) from None


def _startup(given: str | None, of_profile: float) -> float:
    if given is None:
        return 0.0
    if given == "profile":
        return of_profile
    try:
        seconds = float(given)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < math.inf:
        raise ValueError(f"--startup {given!r}: give seconds, or 'profile'")
    return seconds


def _fail(message: str) -> None:
    click.echo(f"llmgate: {message}", err=True)
    sys.exit(1)
