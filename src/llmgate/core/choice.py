"""From costs to a choice."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from llmgate.core.types import Endpoint


def pick(endpoints: Sequence[Endpoint], costs: Sequence[float], tie_margin: float, random: Random) -> tuple[int, int]:
    """Index of the choice, and how many candidates were tied at the lowest cost. Of these it is the one with the fewest
    recent tokens for its weight, or a draw; never position."""
    best = min(costs)
    if not tie_margin and costs.count(best) == 1:
        return costs.index(best), 1
    limit = best + abs(best) * tie_margin if tie_margin else best
    tied = [index for index, cost in enumerate(costs) if cost <= limit]
    if len(tied) == 1:
        return tied[0], 1
    recent = [endpoints[index].load.recent_tokens / endpoints[index].weight for index in tied]
    fewest = min(recent)
    least_used = [index for index, tokens in zip(tied, recent, strict=True) if tokens <= fewest]
    chosen = least_used[0] if len(least_used) == 1 else random.choice(least_used)
    return chosen, len(tied)
