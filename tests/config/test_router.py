"""The section `router`: a policy by name, or one that is composed."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

from llmgate.config import ConfigError, from_data
from llmgate.config.schema import RouterConfig
from llmgate.core.protocols import Router
from llmgate.routing.expected_latency import ExpectedLatency
from llmgate.routing.profile import Profile
from llmgate.routing.session_affinity import SessionAffinity


def router(**section: Any) -> RouterConfig:
    return from_data({"endpoints": [{"url": "http://a"}], "router": section}, "test", {}).router


def problems(**section: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        router(**section)
    return caught.value.problems


def test_a_policy_is_made_with_its_options() -> None:
    made = router(policy="session-affinity", options={"ttl": 60, "entries": "${N:-5}"}).create()
    assert made == SessionAffinity(ttl=60, entries=5)
    assert isinstance(router().create(), ExpectedLatency)


def test_a_profile_is_made_of_its_parts() -> None:
    section = router(
        filters=["kv-room", {"type": "labels", "options": {"labels": {"zone": "a"}}}],
        scorers=[{"type": "prefix", "weight": 2}, "load", {"type": "session", "options": {"ttl": 60}}],
        picker="weighted-random",
    )
    assert section.policy == "profile"
    made = section.create()
    assert isinstance(made, Profile)
    assert made.needs_prefix
    assert made.needs_session
    assert section.create() is not made


def test_what_was_read_may_be_read_again() -> None:
    for section in (
        router(),
        router(policy="random"),
        router(scorers=["load"]),
        router(scorers=["load"], filters=["kv-room"]),
    ):
        assert router(**section.model_dump()) == section


@pytest.mark.parametrize(
    ("section", "says"),
    [
        (
            {"scorers": [{"type": "prefx"}]},
            ["router.scorers[0]: type: there is no scorer 'prefx'; did you mean prefix?"],
        ),
        (
            {"scorers": ["load", "zzz"]},
            ["router.scorers[1]: type: there is no scorer 'zzz'; there are: prefix, load, requests, "],
        ),
        (
            {"scorers": ["load"], "filters": ["label", {"type": "kv-room", "options": {"limit": 2}}]},
            [
                "router.filters[0]: type: there is no filter 'label'; did you mean labels?",
                "router.filters[1]: options: limit must be above 0 and at most 1, not 2",
            ],
        ),
        ({"scorers": [{"type": "load", "weight": 0}]}, ["router.scorers[0].weight: Input should be greater than 0"]),
        ({"scorers": [{"type": "load", "wieght": 1}]}, ["router.scorers[0].wieght: there is no such key"]),
        ({"scorers": [{"weight": 1}]}, ["router.scorers[0].type: is required"]),
        (
            {"scorers": [{"type": "session", "options": {"tll": 1}}]},
            ["router.scorers[0]: options.tll: the scorer 'session' has no such option (did you mean ttl?"],
        ),
        ({"scorers": ["load"], "picker": "maxx"}, ["router: picker: there is no picker 'maxx'; did you mean max?"]),
        ({"filters": ["kv-room"]}, ["router: scorers: at least one is needed"]),
        ({"picker": "max"}, ["router: scorers: at least one is needed"]),
        ({"policy": "profile"}, ["router: scorers: at least one is needed"]),
        (
            {"policy": "token-aware", "scorers": ["load"]},
            ["router: policy: 'token-aware' has no filters, scorers and picker: state either it or them"],
        ),
        (
            {"policy": "token-aware", "picker": "weighted-random"},
            ["router: policy: 'token-aware' has no filters, scorers and picker: state either it or them"],
        ),
        ({"scorers": ["load"], "options": {"ttl": 1}}, ["router: options: belong to a policy"]),
        ({"policy": "least-latecy"}, ["router: policy: there is no policy 'least-latecy'; did you mean least-latency"]),
    ],
)
def test_every_mistake_is_named_with_its_path(section: dict[str, Any], says: list[str]) -> None:
    found = problems(**section)
    assert len(found) == len(says)
    for problem, start in zip(found, says, strict=True):
        assert problem.startswith(start)


def test_slow_start_is_seconds() -> None:
    def slow_start(value: object) -> float:
        return from_data(
            {"endpoints": [{"url": "http://a"}], "health": {"slow_start": value}}, "test", {}
        ).health.slow_start

    assert slow_start(0) == 0
    assert slow_start(60) == 60
    for bad in (-1, 86_401, float("nan"), "soon"):
        with pytest.raises(ConfigError, match=r"health\.slow_start"):
            slow_start(bad)


PARTS = """
from collections.abc import Sequence
from dataclasses import dataclass

from llmgate.core.protocols import Candidates, Filter, Scorer
from llmgate.core.types import InferenceRequest

@dataclass
class Cheap(Scorer):
    label: str = "price"

    def score(self, request: InferenceRequest, candidates: Candidates) -> Sequence[float]:
        return [1.0 / (1.0 + float(each.spec.labels.get(self.label, "1"))) for each in candidates.endpoints]

@dataclass
class Small(Filter):
    def keep(self, request: InferenceRequest, candidates: Candidates) -> Sequence[bool]:
        return [request.tokens < 1000 or "small" not in each.spec.labels for each in candidates.endpoints]
"""


def test_parts_of_other_packages_are_used_by_their_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "strange_parts.py").write_text(PARTS)
    info = tmp_path / "strange_parts-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: strange-parts\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[llmgate.scorers]\ncheap = strange_parts:Cheap\nwrong = strange_parts:Small\n"
        "[llmgate.filters]\nsmall = strange_parts:Small\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    try:
        made: Router = router(filters=["small"], scorers=[{"type": "cheap", "options": {"label": "cost"}}]).create()
        assert isinstance(made, Profile)
        assert "did you mean cheap?" in problems(scorers=["chep"])[0]
        (found,) = problems(scorers=["wrong"])
        assert found == "router.scorers[0]: type: 'wrong' is not a llmgate Scorer but Small"
    finally:
        sys.modules.pop("strange_parts", None)
