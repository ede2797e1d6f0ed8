"""An engine's metrics page → EndpointMetrics. Pure; the names that count are in engines.py.

Pages are read each second, for every endpoint, on the event loop that carries the traffic, and vLLM's has 600 lines:
so one regular expression looks for the few names that are wanted and skips the rest. On vLLM 0.32's page (50 kB, in
tests/data/engines) that takes 0.07 ms, where prometheus_client's parser takes 6.1 ms: with 30 endpoints the latter
would hold the loop for a fifth of each second.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

from llmgate.core.types import EndpointMetrics, EngineCounts
from llmgate.wire.engines import ENGINES, EngineKind, Reading, product

MAX_PAGE_BYTES = 8 * 1024 * 1024
"""Larger pages are refused: vLLM's has 50 kB, and grows with its ranks and models."""


MAX_SAMPLES = 4096
"""More lines with wanted names are refused: 64 ranks have some hundred, and each takes microseconds."""


class PageTooLarge(ValueError):
    """A metrics page over MAX_PAGE_BYTES bytes, or MAX_SAMPLES lines that count."""


_Rank = tuple[bytes, bytes]


@dataclass(frozen=True, slots=True)
class _Sample:
    rank: _Rank
    labels: Mapping[bytes, bytes]
    value: float | None  # None: not a number that counts or measures


def parse_metrics(engine: str, page: bytes, at: float) -> EndpointMetrics:
    """Read the gauges that `engine` (a key of ENGINES) is known to have; `at` is when the page was asked for.

    What is missing, or is no finite number, is None. Queues and capacity are summed over data-parallel ranks; KV usage
    is that of the worst rank; if one rank sleeps, the engine does. Raises PageTooLarge.
    """
    if len(page) > MAX_PAGE_BYTES:
        raise PageTooLarge(f"the page has more than {MAX_PAGE_BYTES} bytes")
    kind = ENGINES[engine]
    samples = _samples(_WANTED[engine], page)
    return EndpointMetrics(
        at,
        running=_total(_first(kind.running, samples)),
        waiting=_total(_first(kind.waiting, samples)),
        kv_usage=_worst_ratio(_first(kind.kv_usage, samples)),
        kv_capacity_tokens=next((tokens for source in kind.capacity if (tokens := _capacity(source, samples))), None),
        asleep=_asleep(kind, samples),
        max_running=_total(_first(kind.max_running, samples)) or None,
        counts=EngineCounts(
            _counted(kind.prompt_tokens, samples),
            _counted(kind.cached_tokens, samples),
            _counted(kind.completion_tokens, samples),
            _counted(kind.preemptions, samples),
        ),
    )


def _wanted(kind: EngineKind) -> re.Pattern[bytes]:
    """A line with a wanted name: the name, its labels (in quotes they may hold anything), the value.

    The newline is matched as a character, not as `^`: the search for it is three times as fast. Quantifiers are
    possessive and the labels bounded, so that no page, however made, takes more than one pass.
    """
    names = {
        *kind.running,
        *kind.waiting,
        *kind.kv_usage,
        *kind.max_running,
        *chain.from_iterable(kind.prompt_tokens + kind.cached_tokens + kind.completion_tokens + kind.preemptions),
        *(part.metric for source in kind.capacity for part in source),
        *(kind.awake or ())[:1],
    }
    alternatives = "|".join(re.escape(name) for name in sorted(names)) or "(?!)"
    return re.compile(
        rf'\n({alternatives})(?:\{{((?:[^"}}\n]++|"(?:[^"\\\n]|\\.)*+"){{0,512}}+)\}})?[ \t]++(\S+)'.encode()
    )


_WANTED = {engine: _wanted(kind) for engine, kind in ENGINES.items()}
_LABEL = re.compile(rb'([A-Za-z_][A-Za-z0-9_]*)="((?:[^"\\\n]|\\.)*+)"')


def _samples(wanted: re.Pattern[bytes], page: bytes) -> Mapping[str, list[_Sample]]:
    samples: dict[str, list[_Sample]] = defaultdict(list)
    for number, line in enumerate(wanted.finditer(b"\n" + page)):
        if number == MAX_SAMPLES:
            raise PageTooLarge(f"the page has more than {MAX_SAMPLES} lines that count")
        name, labels, value = line.groups(b"")
        pairs: dict[bytes, bytes] = dict(_LABEL.findall(labels))
        rank = (pairs.get(b"engine", b""), pairs.get(b"dp_rank", b""))  # vLLM's label, SGLang's label
        samples[name.decode()].append(_Sample(rank, pairs, _number(value)))
    return samples


def _first(names: Sequence[str], samples: Mapping[str, list[_Sample]]) -> list[_Sample]:
    return next((samples[name] for name in names if name in samples), [])


def _total(samples: Sequence[_Sample]) -> int | None:
    """Sum over ranks of the largest value within each.

    Within a rank there may be several series of one thing, not parts of it: SGLang's total under `priority=""` beside
    the series of each priority, and copies by each tensor-parallel process.
    """
    ranks: dict[_Rank, float] = {}
    for sample in samples:
        if sample.value is None:
            return None  # a rank of unknown pressure must not look idle
        ranks[sample.rank] = max(sample.value, ranks.get(sample.rank, 0.0))
    return int(sum(ranks.values())) if ranks else None


_COPIES = {b"tp_rank", b"pp_rank", b"moe_ep_rank"}
"""Labels of processes that work on the same requests: SGLang's."""

_WHOLE = (b"cache_source", b"total")
"""SGLang's cached tokens are counted by source, or under this label, or both, as its version and settings want it."""


def _counted(candidates: Sequence[Sequence[str]], samples: Mapping[str, list[_Sample]]) -> int | None:
    """Sum of the first candidate's counters over all their labels: the parts of a counter are what it counts."""
    names = next((each for each in candidates if all(name in samples for name in each)), ())
    wholes: dict[object, float] = {}
    parts: dict[object, float] = {}
    for name in names:
        for sample in samples[name]:
            if sample.value is None:
                return None
            labels = frozenset(pair for pair in sample.labels.items() if pair[0] not in _COPIES)
            into = wholes if _WHOLE in labels else parts
            into[name, labels] = max(sample.value, into.get((name, labels), 0.0))
    return int(max(sum(wholes.values()), sum(parts.values()))) if names else None


def _worst_ratio(samples: Sequence[_Sample]) -> float | None:
    values = [sample.value for sample in samples]
    known = [value for value in values if value is not None and value <= 1.0]
    return max(known) if known and len(known) == len(values) else None


def _asleep(kind: EngineKind, samples: Mapping[str, list[_Sample]]) -> bool:
    if kind.awake is None:
        return False
    metric, label, awake = kind.awake
    return any(
        sample.value == 0 and sample.labels.get(label.encode()) == awake.encode() for sample in samples.get(metric, ())
    )


def _capacity(source: tuple[Reading, ...], samples: Mapping[str, list[_Sample]]) -> int | None:
    by_rank: dict[_Rank, dict[Reading, float | None]] = defaultdict(dict)
    for reading in source:
        for sample in samples.get(reading.metric, ()):
            value = sample.value if reading.label is None else _number(sample.labels.get(reading.label.encode(), b""))
            by_rank[sample.rank][reading] = value
    ranks = [product(*(_whole(values.get(reading)) for reading in source)) for values in by_rank.values()]
    return sum(tokens for tokens in ranks if tokens) if ranks and all(ranks) else None


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)


def _number(text: bytes) -> float | None:
    try:
        value = float(text)
    except ValueError:  # "None", or garbage
        return None
    return value if 0 <= value < 2**53 else None  # also refuses NaN; above, floats are no longer exact counts
