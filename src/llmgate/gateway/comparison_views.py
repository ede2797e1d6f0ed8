"""What other policies would have chosen, as JSON."""

from __future__ import annotations

from pydantic import BaseModel, Field

from llmgate.core.comparison import Comparison, Standing


class PolicyView(BaseModel):
    """Means over the decisions that the policy was asked about; null of none."""

    name: str
    active: bool = Field(description="the one that routes")
    note: str = Field(description="why it is not compared; empty when it is")
    decisions: int
    same_choice: float | None = Field(description="part in which it chose as the one that routes, 0 to 1")
    expected_ttft: float | None = Field(description="seconds from the decision to the first token")
    expected_e2e: float | None = Field(description="seconds from the decision to the last token")
    cached_ratio: float | None = Field(description="part of the prompts thought cached where it would send them")
    busiest_share: float | None = Field(description="part of its choices that fell on the endpoint chosen most")

    @classmethod
    def of(cls, standing: Standing, active: bool) -> PolicyView:
        count = standing.decisions
        return cls(
            name=standing.name,
            active=active,
            note=standing.note,
            decisions=count,
            same_choice=standing.same / count if count else None,
            expected_ttft=standing.ttft / count if count else None,
            expected_e2e=standing.e2e / count if count else None,
            cached_ratio=standing.cached_tokens / standing.prompt_tokens if standing.prompt_tokens else None,
            busiest_share=standing.busiest / count if count else None,
        )


class ComparisonView(BaseModel):
    since: float = Field(description="seconds for which they have been compared")
    decisions: int = Field(description="that were compared: a few a second")
    policies: list[PolicyView] = Field(description="the one that routes, then the others, the fastest first")

    @classmethod
    def of(cls, comparison: Comparison, seconds: float) -> ComparisonView:
        active, *others = (PolicyView.of(standing, standing is comparison.active) for standing in comparison.standings)
        others.sort(key=lambda each: (each.expected_e2e is None, each.expected_e2e or 0.0, each.name))
        return cls(since=seconds, decisions=comparison.decisions, policies=[active, *others])
