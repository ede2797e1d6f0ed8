"""`TIME ACTION NAME`."""

from __future__ import annotations

import pytest

from llmgate.sim.incidents import SPOT_NOTICE, Action, Incident, check_targets, free_name, parse_incident


@pytest.mark.parametrize(
    ("text", "incident"),
    [
        ("120s kill h100-3", Incident(120.0, Action.KILL, "h100-3")),
        ("2m reclaim a", Incident(120.0, Action.RECLAIM, "a", SPOT_NOTICE)),
        ("2m reclaim a 30s", Incident(120.0, Action.RECLAIM, "a", 30.0)),
        ("0 join 2xh100:llama-3.1-8b", Incident(0.0, Action.JOIN, "2xh100:llama-3.1-8b")),
        ("5s slow a x2.5", Incident(5.0, Action.SLOW, "a", 2.5)),
        ("5s restart a", Incident(5.0, Action.RESTART, "a")),
    ],
)
def test_an_incident_is_a_time_an_action_and_a_name(text: str, incident: Incident) -> None:
    assert parse_incident(text) == incident


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("kill a", "write TIME ACTION NAME"),
        ("soon kill a", "'soon' is no time"),
        ("1s kil a", "did you mean kill"),
        ("1s explode a", "there are: kill, restart"),
        ("1s slow a", "say how slow"),
        ("1s slow a x0", "say how slow"),
        ("1s slow a 2", "say how slow"),
        ("1s kill a b", "nothing may follow the name"),
        ("1s reclaim a later", "'later' is no time"),
    ],
)
def test_what_is_wrong_with_an_incident_is_said(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_incident(text)


def test_an_engine_that_never_is_has_its_nearest_named() -> None:
    check_targets([parse_incident("1s kill h100-3")], ["h100-3"])
    with pytest.raises(ValueError, match="did you mean h100-3"):
        check_targets([parse_incident("1s kill h10-3")], ["h100-3"])


def test_an_engine_that_joins_can_be_named_by_the_name_it_is_given() -> None:
    incidents = [parse_incident("9s kill h100-2"), parse_incident("1s join 2xh100:llama-3.1-8b")]
    check_targets(incidents, ["h100-0"])
    with pytest.raises(ValueError, match="there is no engine 'h100-2'"):
        check_targets(incidents[:1], ["h100-0"])


def test_a_name_that_is_taken_gets_the_next_number() -> None:
    assert free_name("h100-0", ["a-0"]) == "h100-0"
    assert free_name("h100-0", ["h100-0", "h100-1"]) == "h100-2"
    assert free_name("e", ["e"]) == "e-0"
