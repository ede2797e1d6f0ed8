"""How clear the decisions of a policy are: one that is often tied does not tell its endpoints apart."""

from __future__ import annotations

from collections.abc import Iterator

from llmgate.telemetry import exposition


class Decisions:
    """Of one policy, counted by how many candidates there were and how many of them were as good as the chosen one."""

    __slots__ = ("best", "only", "tied")

    def __init__(self) -> None:
        self.only = 0  # there was no other candidate
        self.best = 0
        self.tied = 0

    def made(self, candidates: int, tied: int) -> None:
        """`tied`: candidates that shared the lowest cost, the chosen one among them."""
        if tied == 1 < candidates:
            self.best += 1
        elif candidates > 1:
            self.tied += 1
        else:
            self.only += 1


class DecisionsByPolicy:
    """Policies are those that are or were configured."""

    def __init__(self) -> None:
        self._policies: dict[str, Decisions] = {}

    def of(self, policy: str) -> Decisions:
        """To be kept by whoever counts there."""
        return self._policies.setdefault(policy, Decisions())

    def lines(self, openmetrics: bool) -> Iterator[str]:
        name = "llmgate_decisions_total"
        help = "Choices of an endpoint: the only candidate, the one of the lowest cost, or one of several that tied."
        yield exposition.header(name, "counter", help, openmetrics=openmetrics)
        for policy, decisions in tuple(self._policies.items()):
            labels = exposition.labels(policy=policy)
            for choice in Decisions.__slots__:
                yield f'{name}{{{labels},choice="{choice}"}} {getattr(decisions, choice)}\n'
