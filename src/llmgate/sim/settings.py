"""What a simulated run assumes of the gateway and of the network between it and its engines."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from llmgate.core.health import HealthPolicy
from llmgate.core.retry import RetryPolicy

SLOW_START = 30.0
"""Seconds: the default of `health.slow_start` in the gateway's configuration."""

SCRAPE_LATENCY = 0.02
"""Seconds: how old a reading is when it can first be used. The engine renders its page, the gateway fetches and parses
it: an assumption, and small against the period."""

KV_EVENT_LATENCY = 0.01
"""Seconds from the beginning of the step that stores or drops a block to when the gateway knows: an assumption, about a
step that decodes. To be sent and read takes less than 1 ms of it (docs/kv-events.md)."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Defaults are those of the gateway's configuration (config/schema.py), where it has them. Times in seconds.

    `estimate_error` is the standard deviation of the logarithm of estimated over true prompt tokens. 0.05 gives an
    error of 3.4 % at the median and 8.6 % at the 90th percentile: what docs/token-estimates.md measured of estimators
    that have learnt from some answers (2.5 to 6.4 % and 6 to 15 %). 0 is an exact tokenizer.

    `kv_events`: engines tell what their caches hold, and prompts are counted exactly, as the gateway then has to know
    their token ids. `kv_event_latency` is from the step that stores or drops a block to its being known.
    """

    seed: int = 0
    estimate_error: float = 0.05
    scrape_period: float = 1.0
    scrape_latency: float = SCRAPE_LATENCY
    probe_period: float = 5.0
    probe_period_while_not_up: float = 1.0
    first_byte_timeout: float = 300.0
    sample_period: float = 1.0  # of the series in the results; the gateway knows nothing of these samples
    health: HealthPolicy = field(default_factory=lambda: HealthPolicy(slow_start=SLOW_START))
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    kv_events: bool = False
    kv_event_latency: float = KV_EVENT_LATENCY

    def __post_init__(self) -> None:
        if not 0.0 <= self.estimate_error <= 2.0:
            raise ValueError(f"the estimate's error must be between 0 and 2, not {self.estimate_error:g}")
        for name in ("scrape_period", "probe_period", "probe_period_while_not_up", "first_byte_timeout"):
            if not getattr(self, name) > 0.0:
                raise ValueError(f"{name} must be above 0 seconds, not {getattr(self, name):g}")
        if not 0.0 <= self.kv_event_latency < math.inf:
            raise ValueError(f"kv_event_latency must be 0 seconds or more, not {self.kv_event_latency:g}")
        if not 0.0 <= self.scrape_latency < self.scrape_period:
            raise ValueError(
                f"the scrape latency must be less than the period of {self.scrape_period:g} s, "
                f"not {self.scrape_latency:g} s"
            )
