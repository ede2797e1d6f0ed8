"""Real gateways before the same simulated engines, the same slice of a trace replayed through each:

    python -m benchmarks.live_peers [--requests 600] [--speed 4] [--rate-scale 1] [--rows NAME,…] [--json FILE]

`llmgate sim-engine` processes stand for the engines, `llmgate bench` replays the trace. smg and vllm-router are the
wheels of PyPI (installed below ~/.cache/llmgate-overhead the first time), nginx is the distribution's. Ports 9000 to
9002 and 9100 and up must be free. Between two rows the engines come to rest and their prefix caches are emptied.

The engines run `--speed` times as fast as the real ones would, and so does the trace; times in the table are the
engines' own. What a gateway does on its own clock is not made faster: its overhead counts `--speed` times, so that one
which needs much of a core (`cores` in the table) is slowed by its own work, and its periods and memories are that much
longer. llmgate's scrape period and the weights of its endpoints are set to match; smg's readings of KV usage (10 s)
cannot be.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click
import msgspec
from rich.console import Console

from benchmarks.live_peers.engines import engines
from benchmarks.live_peers.gateways import ROWS, Start
from benchmarks.live_peers.processes import Refused
from benchmarks.live_peers.row import Row, measure

TRACE = Path(__file__).parents[1] / "data" / "mooncake_conversation_first_half.jsonl.gz"
MODEL = "unknown"
"""As smg calls the models of engines that it does not ask, in the list that `llmgate bench` goes by."""


@click.command(help=__doc__, context_settings={"max_content_width": 120})
@click.option("--rows", default=",".join(ROWS), help="Some of: " + ", ".join(ROWS))
@click.option("--trace", type=click.Path(exists=True, path_type=Path), default=TRACE, show_default=True)
@click.option("--requests", type=click.IntRange(min=1), default=600, show_default=True, help="The first of the trace.")
@click.option("--rate-scale", type=float, default=1.0, show_default=True, help="So much faster than recorded.")
@click.option("--engines", "number", type=click.IntRange(1, 64), default=8, show_default=True)
@click.option("--profile", default="4xh100:llama-3.1-70b", show_default=True)
@click.option("--speed", type=float, default=4.0, show_default=True)
@click.option("--rounds", type=click.IntRange(min=1), default=1, show_default=True, help="Each row so many times.")
@click.option("--home", type=click.Path(path_type=Path), default=Path.home() / ".cache/llmgate-overhead")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the rows there.")
def main(
    rows: str,
    trace: Path,
    requests: int,
    rate_scale: float,
    number: int,
    profile: str,
    speed: float,
    rounds: int,
    home: Path,
    json_file: Path | None,
) -> None:
    names = [name.strip() for name in rows.split(",")]
    if unknown := [name for name in names if name not in ROWS]:
        raise click.BadParameter(f"{unknown[0]!r} is none of {', '.join(ROWS)}", param_hint="--rows")
    home.mkdir(parents=True, exist_ok=True)
    load = [
        "--model",
        MODEL,
        "--trace",
        str(trace),
        "--requests",
        str(requests),
        "--rate-scale",
        str(rate_scale * speed),
    ]
    taken: list[Row] = []
    console = Console(stderr=True)
    try:
        with engines(number, profile, MODEL, speed, home) as urls:
            for name in [name for _ in range(rounds) for name in names]:
                console.print(f"{name} …")
                taken.append(measure(name, Start(home, urls, speed), load))
    except Refused as error:
        console.print(f"live_peers: {error}")
        sys.exit(1)
    finally:
        if json_file is not None and taken:
            json_file.write_bytes(msgspec.json.encode(taken))
    click.echo(table(taken))


def table(rows: list[Row]) -> str:
    """Markdown."""
    lines = [
        "| gateway | TTFT mean | p50 | p90 | p99 | E2E mean | p50 | p99 | hit rate | busiest / mean | cores | failed |",
        "|---|" + "---:|" * 11,
    ]
    for row in rows:
        ttft = [f"{row.ttft[key]:.2f}" for key in ("mean", "p50", "p90", "p99")]
        e2e = [f"{row.e2e[key]:.1f}" for key in ("mean", "p50", "p99")]
        rest = [f"{row.hit_ratio:.3f}", f"{row.spread:.2f}", f"{row.cores:.2f}", str(row.failed)]
        lines.append("| " + " | ".join([row.name, *ttft, *e2e, *rest]) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
