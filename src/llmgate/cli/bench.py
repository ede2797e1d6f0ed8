from __future__ import annotations

import json
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmgate.bench.errors import BenchError
from llmgate.cli.output import STDOUT, to_file

if TYPE_CHECKING:
    from llmgate.bench.measure import Options
    from llmgate.bench.record import Record
    from llmgate.bench.result import Result
    from llmgate.bench.run import Warmup
    from llmgate.bench.slo import Slo
    from llmgate.workloads.types import Workload

EPILOG = """\b
Examples:
  llmgate bench http://127.0.0.1:8080 --concurrency 8 --requests 200 --max-tokens 128
  llmgate bench http://127.0.0.1:8080 --rate 4 --requests 500 --warmup 20 --slo ttft=2,tpot=50ms --json a.json
  llmgate bench http://127.0.0.1:8080 --trace trace.jsonl --rate-scale 2 --report out/
  llmgate bench --compare a.json b.json"""
DEFAULT_REQUESTS, DEFAULT_PROMPT, DEFAULT_OUTPUT = 100, 256, 128


def _slo(context: click.Context, parameter: click.Parameter, value: str | None) -> Slo | None:
    from llmgate.bench.slo import parse_slo

    try:
        return None if value is None else parse_slo(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def _warmup(context: click.Context, parameter: click.Parameter, value: str) -> Warmup:
    from llmgate.bench.run import Warmup

    number = value.removesuffix("s")
    try:
        if number != value and float(number) >= 0:
            return Warmup(seconds=float(number))
        if number == value and int(number) >= 0:
            return Warmup(requests=int(number))
    except ValueError:
        pass
    raise click.BadParameter(f"give a number of requests, as in 20, or seconds, as in 10s, not {value!r}")


def _positive(context: click.Context, parameter: click.Parameter, value: float | None) -> float | None:
    if value is not None and not 0 < value < float("inf"):
        raise click.BadParameter(f"must be a number above zero, not {value:g}")
    return value


def _key(context: click.Context, parameter: click.Parameter, value: str) -> str:
    key = value.strip()
    if not key.isprintable():
        raise click.BadParameter("must not contain control characters: it is sent in a header")
    return key


def _extra_body(context: click.Context, parameter: click.Parameter, value: str | None) -> dict[str, Any]:
    try:
        fields = json.loads(value or "{}")
    except ValueError:
        fields = None
    if not isinstance(fields, dict):
        raise click.BadParameter('must be a JSON object, as in {"temperature": 0}')
    return fields


@click.command(epilog=EPILOG)
@click.argument("url", required=False)
@click.option("--trace", metavar="FILE", help="Replay a recorded trace: FILE or FILE:option=value,…")
@click.option("--workload", metavar="NAME", help="A synthetic workload, as NAME or NAME:key=value,…")
@click.option("--rate", type=float, callback=_positive, help="Open loop: requests a second, whatever the server does.")
@click.option(
    "--burstiness", type=float, default=1.0, callback=_positive, help="With --rate: 1 is Poisson, less is burstier."
)
@click.option(
    "--rate-scale",
    type=float,
    default=1.0,
    callback=_positive,
    help="Open loop by the workload's times, so much faster.",
)
@click.option("--concurrency", type=click.IntRange(min=1), help="Closed loop: so many requests in flight.")
@click.option("--requests", type=click.IntRange(min=1), help="At most so many.  [default: 100, or the whole trace]")
@click.option("--duration", type=float, callback=_positive, help="End after so many seconds.")
@click.option("--prompt-tokens", type=click.IntRange(min=1), help=f"Without a workload.  [default: {DEFAULT_PROMPT}]")
@click.option(
    "--max-tokens",
    type=click.IntRange(min=1),
    help=f"Output tokens of a request; with a workload at most.  [default: {DEFAULT_OUTPUT}, or the workload's]",
)
@click.option("--model", help="Needed only if several are served.")
@click.option("--endpoint", type=click.Choice(["chat", "completions"]), default="chat", show_default=True)
@click.option("--stream/--no-stream", default=True, show_default=True)
@click.option(
    "--ignore-eos/--no-ignore-eos",
    default=True,
    show_default=True,
    help="Have answers as long as asked for; left out if the server refuses it.",
)
@click.option("--extra-body", metavar="JSON", callback=_extra_body, help="Fields to add to each request.")
@click.option("--tokenizer", metavar="PATH", help="The model's own, for prompts of exact length.")
@click.option("--warmup", default="0", callback=_warmup, metavar="N|Ns", help="Requests, or seconds, not to measure.")
@click.option("--slo", callback=_slo, metavar="BOUNDS", help="For goodput, as in ttft=2,tpot=50ms,e2e=30.")
@click.option("--timeout", type=float, default=600.0, callback=_positive, show_default=True, help="Seconds of silence.")
@click.option("--skip-bad", is_flag=True, help="Skip malformed lines of the trace.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of arrivals and synthetic workloads.")
@click.option(
    "--prompt-seed",
    type=int,
    default=lambda: secrets.randbelow(1 << 32),
    help="Of the prompts' words.  [default: a new one each time, or a run would profit from an earlier one's cache]",
)
@click.option("--api-key", envvar="OPENAI_API_KEY", default="", callback=_key, help="Better by OPENAI_API_KEY.")
@click.option("--json", "json_file", metavar="FILE", help="Write the result there (- is stdout).")
@click.option("--records", metavar="FILE", help="Write a line of JSON for each request.")
@click.option("--report", type=click.Path(path_type=Path), metavar="DIR", help="Write an HTML page with plots there.")
@click.option(
    "--compare",
    nargs=2,
    type=click.Path(path_type=Path),
    metavar="A.json B.json",
    help="Compare two result files; takes no URL.",
)
def bench(
    url: str | None,
    compare: tuple[Path, Path] | None,
    json_file: str | None,
    records: str | None,
    report: Path | None,
    **given: Any,
) -> None:
    """Put load on a live OpenAI endpoint and measure it: TTFT, ITL, TPOT, E2E, throughput, goodput.

    With --rate or a trace's own times requests go out on time whatever the server does, and latencies count from when
    they were meant to go out. With --concurrency a request goes out when another has ended. Without any of them: a
    workload by its own times, or one request at a time.
    """
    if compare is not None:
        if url is not None:
            raise click.UsageError("--compare takes two result files and no URL")
        _reported(_compare, *compare, json_file, report)
        return
    if url is None:
        raise click.UsageError("give the URL of an endpoint, or two files to --compare")
    _reported(_bench, url, json_file, records, report, given)


def _reported(function: Any, *arguments: Any) -> None:
    try:
        function(*arguments)
    except BenchError as error:
        click.echo(f"llmgate: {error}", err=True)
        sys.exit(1)


def _compare(first: Path, second: Path, json_file: str | None, report: Path | None) -> None:
    from llmgate.bench.compare import as_data
    from llmgate.bench.result import encode, read_result
    from llmgate.bench.table import show_comparison

    a, b = read_result(first), read_result(second)
    if json_file != STDOUT:
        show_comparison(a, b, _console())
    if json_file is not None:
        _to_file(json_file, encode(as_data(a, b)))
    if report is not None:
        from llmgate.bench.report import write_comparison

        click.echo(f"report: {write_comparison(a, b, report)}", err=True)


def _bench(
    url: str, json_file: str | None, records_file: str | None, report: Path | None, given: dict[str, Any]
) -> None:
    import uvloop

    from llmgate.bench.display import show
    from llmgate.bench.measure import measure

    result, records = uvloop.run(measure(_options(url, given), show))
    _write(result, records, json_file, records_file)
    if report is not None:
        from llmgate.bench.report import write_report

        click.echo(f"report: {write_report(result, records, report)}", err=True)
    if result.requests and not result.succeeded:
        kinds = ", ".join(f"{count} × {kind}" for kind, count in result.errors.items())
        example = next((text for text in result.error_examples.values() if text), "no word of explanation")
        raise BenchError(f"every request failed ({kinds}): {example}")


def _write(result: Result, records: Sequence[Record], json_file: str | None, records_file: str | None) -> None:
    from llmgate.bench.result import encode
    from llmgate.bench.table import show_result

    if STDOUT not in (json_file, records_file):
        show_result(result, _console())
    if json_file is not None:
        _to_file(json_file, encode(result))
    if records_file is not None:
        _to_file(records_file, b"".join(json.dumps(record.as_row()).encode() + b"\n" for record in records))


def _options(url: str, given: dict[str, Any]) -> Options:
    from llmgate.bench.measure import Options

    rate, concurrency = given["rate"], given["concurrency"]
    if rate is not None and concurrency is not None:
        raise click.UsageError("--rate is an open loop and --concurrency a closed one: give one of them")
    if rate is None and given["burstiness"] != 1:
        raise click.UsageError("--burstiness shapes the arrivals of --rate: give both")
    if given["rate_scale"] != 1 and (rate is not None or concurrency is not None):
        raise click.UsageError("--rate-scale is for the workload's own times: leave out --rate and --concurrency")
    own_times = given["trace"] is not None or given["workload"] is not None
    if rate is None and concurrency is None and not own_times:
        concurrency = 1
    shared = ("burstiness", "rate_scale", "endpoint", "stream", "ignore_eos", "extra_body", "model", "tokenizer")
    more = ("api_key", "timeout", "duration", "warmup", "slo", "seed", "prompt_seed")
    return Options(
        url=url,
        workload=_workload(given),
        rate=rate,
        concurrency=concurrency,
        **{name: given[name] for name in (*shared, *more)},
    )


def _workload(given: dict[str, Any]) -> Workload:
    from llmgate.bench import workload

    if given["trace"] is not None and given["workload"] is not None:
        raise click.UsageError("--trace and --workload both say what to send: give one of them")
    if given["trace"] is None and given["workload"] is None:
        return workload.plain(
            given["requests"] or DEFAULT_REQUESTS,
            given["prompt_tokens"] or DEFAULT_PROMPT,
            given["max_tokens"] or DEFAULT_OUTPUT,
        )
    if given["prompt_tokens"] is not None:
        raise click.UsageError("--prompt-tokens is for a load without a workload: the trace or workload has its own")
    if given["trace"] is not None:
        found = workload.from_trace(given["trace"], seed=given["seed"], skip_bad=given["skip_bad"])
    else:
        found = workload.from_name(given["workload"], seed=given["seed"], requests=given["requests"])
    for reason, count in found.dropped.items():
        click.echo(f"{found.name}: {count} left out: {reason}", err=True)
    return workload.bounded(found, given["requests"], given["max_tokens"])


def _to_file(name: str, content: bytes) -> None:
    try:
        to_file(name, content)
    except ValueError as error:
        raise BenchError(str(error)) from None


def _console() -> Any:
    from rich.console import Console

    # names of models and messages of servers are anyone's: they may hold [brackets] and :colons:
    return Console(markup=False, emoji=False, highlight=False, soft_wrap=True)
