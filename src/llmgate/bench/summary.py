"""From records to a result."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

from llmgate import __version__
from llmgate.bench.histogram import Distribution, Stats
from llmgate.bench.record import ABORTED, Record
from llmgate.bench.result import Generator, Goodput, Interval, Result, Throughput, Tokens
from llmgate.bench.slo import Slo

INTERVALS = ((0.1, 20), (0.2, 20), (0.5, 20), *((each, 120) for each in (1, 2, 5, 10, 30, 60, 300, 1800, 86400)))
"""(s, at most so many of them): a curve over time is of the shortest that are few enough. Shorter ones than a second
hold few requests, and are for runs that a second would cut into a handful of pieces."""

LARGE_LAG = 0.005  # s at p99; a timer of the event loop is exact to 1 ms
LARGE_LAG_RATIO = 0.1  # of the median TTFT
BUSY = 0.85  # of a core


def summarise(
    records: Sequence[Record],
    *,
    model: str,
    parameters: dict[str, Any],
    slo: Slo | None,
    open_loop: bool,
    ended_early: bool,
    run_s: float,
    cpu_s: float,
    notes: Sequence[str] = (),
) -> Result:
    """`run_s` and `cpu_s`: seconds that the run took and that this process computed. Raises BenchError without
    HdrHistogram."""
    kept = measured(records)
    good = [record for record in kept if record.good]
    window = max(record.ended for record in kept) - min(record.intended for record in kept) if kept else 0.0
    latencies = {
        "ttft": Distribution(ttft for record in good if (ttft := record.ttft) is not None),
        "itl": Distribution(gap for record in good for gap in gaps(record)),
        "tpot": Distribution(tpot for record in good if (tpot := record.tpot) is not None),
        "e2e": Distribution(record.e2e for record in good),
    }
    stats = {name: distribution.stats() for name, distribution in latencies.items()}
    generator = _generator(records, open_loop, run_s, cpu_s)
    tokens = _tokens(good)
    interval, timeline = _timeline(kept)
    first_of_kind = {record.error: record.message for record in reversed(kept) if record.error}
    return Result(
        version=__version__,
        parameters=parameters,
        model=model,
        requests=len(kept),
        succeeded=len(good),
        failed=len(kept) - len(good),
        warmup=sum(record.warmup for record in records),
        aborted=sum(record.error == ABORTED for record in records),
        ended_early=ended_early,
        duration_s=window,
        errors=dict(Counter(record.error for record in kept if record.error).most_common()),
        error_examples=dict(sorted(first_of_kind.items())),
        throughput=Throughput(_per(len(good), window), _per(tokens.prompt, window), _per(tokens.output, window)),
        goodput=None if slo is None else _goodput(kept, slo, window),
        tokens=tokens,
        generator=generator,
        interval_s=interval,
        timeline=timeline,
        histograms={name: each.encoded() for name, each in latencies.items() if stats[name] is not None},
        warnings=[*notes, *_warnings(generator, stats["ttft"], tokens, open_loop)],
        ttft=stats["ttft"],
        itl=stats["itl"],
        tpot=stats["tpot"],
        e2e=stats["e2e"],
    )


def measured(records: Sequence[Record]) -> list[Record]:
    """Those that count: after the warm-up, and ended by the server."""
    return [record for record in records if not record.warmup and record.error != ABORTED]


def gaps(record: Record) -> Iterator[float]:
    """Inter-token latencies, s: between events with content. An event that holds several tokens makes one gap; events
    that one read brought came together, with gaps of 0."""
    if record.streamed:
        yield from (later - earlier for earlier, later in pairwise(record.arrivals))


def _tokens(good: Sequence[Record]) -> Tokens:
    told = [record for record in good if record.prompt_tokens is not None]
    reported = sum(record.prompt_tokens or 0 for record in told)
    asked = sum(record.asked_prompt_tokens for record in told)
    cached = [record.cached_tokens for record in good if record.cached_tokens is not None]
    output = sum(record.output_tokens for record in good)
    events = sum(len(record.arrivals) for record in good)
    counted = sum(record.counted for record in good)
    return Tokens(
        prompt=reported + sum(record.asked_prompt_tokens for record in good if record.prompt_tokens is None),
        output=output,
        cached=sum(cached) if cached else None,
        prompt_ratio=reported / asked if asked else None,
        counted_by={name: n for name, n in (("usage", len(good) - counted), ("events", counted)) if n},
        per_event=output / events if events else None,
    )


def _goodput(kept: Sequence[Record], slo: Slo, window: float) -> Goodput:
    met = sum(record.good and slo.met(record.ttft, record.tpot, record.e2e) for record in kept)
    return Goodput(slo.bounds(), _per(met, len(kept)), _per(met, window))


def _generator(records: Sequence[Record], open_loop: bool, run_s: float, cpu_s: float) -> Generator:
    lags = (max(record.lag, 0.0) for record in records) if open_loop else ()
    return Generator(Distribution(lags).stats(), _per(cpu_s, run_s), _per(1e6 * cpu_s, len(records)))


def _timeline(kept: Sequence[Record]) -> tuple[float, list[Interval]]:
    if not kept:
        return 1.0, []
    last = max(record.ended for record in kept)
    interval = next(each for each, most in INTERVALS if last / each <= most)
    requests, errors = Counter[int](), Counter[int]()
    tokens: defaultdict[int, float] = defaultdict(float)
    for record in kept:
        (requests if record.good else errors)[int(record.ended // interval)] += 1
        if record.good:
            whens = record.arrivals if record.streamed and record.arrivals else (record.ended,)
            per_event = record.output_tokens / len(whens)
            for when in whens:
                tokens[int(when // interval)] += per_event
    return float(interval), [
        Interval(float(n * interval), requests[n], errors[n], tokens[n]) for n in range(int(last // interval) + 1)
    ]


def _warnings(generator: Generator, ttft: Stats | None, tokens: Tokens, open_loop: bool) -> Iterator[str]:
    lag = generator.lag
    if lag is not None and lag.p99 > max(LARGE_LAG, LARGE_LAG_RATIO * ttft.p50 if ttft else 0.0):
        yield (
            f"the generator itself was late by {lag.p99 * 1e3:.0f} ms (p99): this machine is too busy for the load; "
            "lower --rate, or run it where there is a core to spare"
        )
    if not open_loop and generator.cpu_ratio > BUSY:
        yield (
            f"the generator used {generator.cpu_ratio:.0%} of a core: it may be the bottleneck, not the server; "
            "lower --concurrency, or run several with a part of it each"
        )
    if tokens.counted_by.get("events"):
        yield "output tokens were counted as events for want of usage: events that hold several tokens count once"
    if tokens.prompt_ratio is not None and abs(tokens.prompt_ratio - 1) > 0.1:
        yield (
            f"prompts came out {tokens.prompt_ratio:.2f} times as long as asked for; "
            "--tokenizer with the model's own makes them exact"
        )


def _per(amount: float, of: float) -> float:
    return amount / of if of > 0 else 0.0
