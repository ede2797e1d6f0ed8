"""Distributions of times, by HdrHistogram: percentiles to three digits, in a form that can be stored and merged."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from llmgate.bench.errors import BenchError

if TYPE_CHECKING:
    from numpy.typing import NDArray

HIGHEST_US = 24 * 3600 * 1_000_000
DIGITS = 3
QUANTILES = (*range(1, 100), 99.5, 99.9, 100)


class Stats(msgspec.Struct, frozen=True):
    """Seconds. The mean and the maximum are exact, percentiles to three digits."""

    count: int
    mean: float
    p50: float
    p90: float
    p95: float
    p99: float
    max: float


class Distribution:
    """Of times in seconds; `encoded` is HdrHistogram's own V2 compressed form, in microseconds. Raises BenchError if
    the library is not there."""

    def __init__(self, seconds: Iterable[float]) -> None:
        self._values: NDArray[np.float64] = np.fromiter(seconds, np.float64)
        self._histogram = _histogram_class()(1, HIGHEST_US, DIGITS)
        whole = np.clip(np.rint(self._values * 1e6), 1, HIGHEST_US).astype(np.int64)
        for value, count in zip(*(each.tolist() for each in np.unique(whole, return_counts=True)), strict=True):
            self._histogram.record_value(value, count)

    def stats(self) -> Stats | None:
        """None for no values."""
        values = self._values
        if not len(values):
            return None
        top = float(values.max())
        # the histogram gives the upper end of a value's bucket
        p50, p90, p95, p99 = (min(self._histogram.get_value_at_percentile(p) / 1e6, top) for p in (50, 90, 95, 99))
        return Stats(len(values), float(values.mean()), p50, p90, p95, p99, top)

    def encoded(self) -> str:
        text: bytes = self._histogram.encode()
        return text.decode("ascii")


def quantiles(encoded: str) -> list[tuple[float, float]]:
    """(seconds, share of values at or below), ascending, of an encoded distribution."""
    histogram = _histogram_class().decode(encoded.encode("ascii"))
    return [(histogram.get_value_at_percentile(q) / 1e6, q / 100) for q in QUANTILES]


def require_hdrhistogram() -> None:
    """Raises BenchError unless the library is there: better before a run than after it."""
    _histogram_class()


def _histogram_class() -> Any:
    try:
        from hdrh.histogram import HdrHistogram  # type: ignore[import-untyped]
    except ImportError:
        raise BenchError("bench needs the package hdrhistogram: pip install 'llmgate-lb[sim]'") from None
    return HdrHistogram
