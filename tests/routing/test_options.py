"""Every option of every policy, filter and scorer: its ends are taken, and what is beyond them is refused."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgate.routing import registry
from llmgate.routing.catalogue import Catalogue

INF = math.inf

RANGES: Mapping[tuple[str, str], tuple[float, float, bool]] = {
    # (policy, option): (least, most, whether the least itself is allowed)
    ("token-aware", "kv_limit"): (0, 1, False),
    ("token-aware", "tie_margin"): (0, 1, True),
    ("least-latency", "time_constant"): (0, 86_400, False),
    ("least-latency", "stale_after"): (0, 86_400, False),
    ("least-latency", "explore"): (0, 1, True),
    ("least-latency", "tie_margin"): (0, 1, True),
    ("prefix-affinity", "relative"): (0, math.nextafter(1e6, 0), True),
    ("prefix-affinity", "patience"): (0, math.nextafter(1e6, 0), True),
    ("prefix-affinity", "capacity_share"): (0, 1, False),
    ("session-affinity", "entries"): (1, 10_000_000, True),
    ("session-affinity", "ttl"): (0, 31_536_000, False),
    ("session-affinity", "max_lead"): (0, 1e9, True),
    ("session-affinity", "kv_limit"): (0, 1, False),
    ("expected-latency", "ttft_weight"): (0, 1e6, True),
    ("expected-latency", "e2e_weight"): (0, 1e6, True),
    ("expected-latency", "prefill_harm"): (0, 1e6, True),
    ("expected-latency", "decode_harm"): (0, 1e6, True),
    ("expected-latency", "occupancy"): (0, 1e6, True),
    ("expected-latency", "waiting_tokens"): (0, 1e9, True),
    ("expected-latency", "tie_margin"): (0, 1, True),
    ("kv-room", "limit"): (0, 1, False),
    ("short-queue", "limit"): (0, 1e6, True),
    ("load-within", "relative"): (0, 1e6, True),
    ("load-within", "tokens"): (0, 1e9, True),
    ("session", "entries"): (1, 10_000_000, True),
    ("session", "ttl"): (0, 31_536_000, False),
    ("latency", "time_constant"): (0, 86_400, False),
}
CATALOGUES: tuple[Catalogue[Any], ...] = (registry.POLICIES, registry.FILTERS, registry.SCORERS)


def catalogue(name: str) -> Catalogue[Any]:
    return next(each for each in CATALOGUES if name in each.built_in)


def test_there_is_a_range_for_every_option_with_a_number() -> None:
    options = {
        (name, parameter.name)
        for each in CATALOGUES
        for name, make in each.built_in.items()
        for parameter in inspect.signature(make).parameters.values()
        if isinstance(parameter.default, int | float)
    }
    assert options == RANGES.keys()


@pytest.mark.parametrize(("name", "option"), RANGES)
def test_the_ends_of_the_range_are_taken_and_more_is_refused(name: str, option: str) -> None:
    least, most, inclusive = RANGES[name, option]
    good = [least if inclusive else math.nextafter(least, most), most]
    bad = [math.nan, -INF, INF, -1, math.nextafter(most, INF), 10**400]
    if not inclusive:
        bad.append(least)
    if option == "entries":
        good, bad = [least, most], [*bad, 1.5, 0]
    for value in good:
        made = catalogue(name).create(name, {option: value})
        assert vars(made)[option] == value
    for value in bad:
        with pytest.raises(ValueError, match=rf"^options: {option} must be .*not "):
            catalogue(name).create(name, {option: value})


@given(st.sampled_from(sorted(RANGES)), st.floats() | st.integers())
def test_any_number_is_taken_if_it_is_in_range_and_else_refused_in_one_sentence(
    which: tuple[str, str], value: float
) -> None:
    name, option = which
    least, most, inclusive = RANGES[which]
    fits = (least <= value if inclusive else least < value) and value <= most
    fits = fits and (option != "entries" or isinstance(value, int))
    if fits:
        catalogue(name).create(name, {option: value})
    else:
        with pytest.raises(ValueError, match=r"^[^\n]+$"):
            catalogue(name).create(name, {option: value})


@pytest.mark.parametrize("value", ["much", True, None, [1], {}])
@pytest.mark.parametrize(("name", "option"), RANGES)
def test_what_is_no_number_is_refused(name: str, option: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"options\.{option}: must be a number, not "):
        catalogue(name).create(name, {option: value})


@pytest.mark.parametrize("value", [{}, [], "zone", {"zone": 1}, {1: "a"}, {"spot": True}])
def test_labels_must_be_texts_by_name(value: object) -> None:
    with pytest.raises(ValueError, match="options: labels must be"):
        registry.FILTERS.create("labels", {"labels": value})
    with pytest.raises(ValueError, match="options: labels must be a mapping of at least one"):
        registry.FILTERS.create("labels")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("least-latecy", "did you mean least-latency"),
        ("session", "did you mean session-affinity"),
        ("power-of-2", "did you mean power-of-two"),
        ("hardware", "did you mean hardware-weighted"),
        ("radom", "did you mean random"),
    ],
)
def test_an_unknown_policy_names_the_nearest(name: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        registry.create(name)


def test_an_unknown_option_names_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"options\.tll: .*no such option \(did you mean ttl\? it has: entries, ttl"):
        registry.create("session-affinity", {"tll": 5})
