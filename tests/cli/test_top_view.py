from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from llmgate.cli.top_view import COLUMNS, SORTS, Screen, number, rate, seconds, sparkline


def endpoint(name: str, *, load: int = 0, **more: Any) -> dict[str, Any]:
    rates = dict.fromkeys(("requests", "errors", "prompt_tokens", "output_tokens"), 0.0)
    return {
        "name": name,
        "state": "up",
        "draining": False,
        "in_flight": {"requests": load, "prefill_tokens": 10 * load, "decode_tokens": 0},
        "gauges": {"fresh": True, "waiting": 2, "kv_usage": 0.375, "running": 1},
        "rates": {**rates, "ttft_p50": 0.12, "ttft_p99": 4.2, "prefix_hit_ratio": None},
        "gpus": [],
    } | more


def snapshot(*endpoints: dict[str, Any], history: Any = None, decisions: int = 1) -> dict[str, Any]:
    rates = dict.fromkeys(("requests", "errors", "prompt_tokens", "output_tokens"), 1.0)
    brief = {
        "age_seconds": 0.5,
        "endpoint": "a",
        "model": "llama-3.1-70b",
        "prompt_tokens": 12_345,
        "cached_tokens": 100,
        "cost": 0.0123456,
        "candidates": 3,
        "tied": 1,
    }
    return {
        "gateway": {"version": "0.1.0", "policy": "expected-latency", "uptime_seconds": 7500.0, "draining": False},
        "totals": {
            "endpoints": len(endpoints),
            "ready": len(endpoints),
            "in_flight": {"requests": 4},
            "waiting": 2,
            "rejected": 0.0,
            "rates": {**rates, "ttft_p50": 0.1, "ttft_p99": None},
        },
        "endpoints": list(endpoints),
        "decisions": [brief] * decisions,
        "history": history,
    }


def shown(*endpoints: dict[str, Any], width: int = 80, height: int | None = None, sort: str = "load") -> str:
    screen = Screen(sort)
    screen.take(snapshot(*endpoints, decisions=8))
    console = Console(width=width, file=io.StringIO(), record=True)
    console.print(screen.lines(console, height=height, note="q quits"))
    return console.export_text()


def names(text: str) -> list[str]:
    return [line.split()[0] for line in text.splitlines()[3:] if line.split()[1:3] == ["●", "up"]]


@pytest.mark.parametrize("width", [80, 100, 110, 200])
def test_every_line_fits_and_every_number_is_whole(width: int) -> None:
    text = shown(endpoint("a-rather-long-name-of-an-endpoint:8000", load=123_456), endpoint("b"), width=width)
    assert max(map(len, text.splitlines())) <= width
    for value in ("123k", "1.2M", "38%", "120ms", "4.2s", "expected-latency", "12k", "0.01235"):
        assert value in text


def test_the_busiest_endpoint_comes_first_or_what_is_asked_for() -> None:
    endpoints = [endpoint("a", load=1), endpoint("b", load=3), endpoint("c", load=2)]
    assert names(shown(*endpoints)) == ["b", "c", "a"]
    assert names(shown(*endpoints, sort="name")) == ["a", "b", "c"]
    assert names(shown(*endpoints, sort="waiting")) == ["a", "b", "c"]


def test_the_column_that_it_is_sorted_by_is_marked() -> None:
    assert "KV▾" in shown(endpoint("a"), sort="kv")
    assert "▾" not in shown(endpoint("a"), sort="name")


def test_each_press_sorts_by_the_next_column_and_all_of_them_come() -> None:
    screen = Screen("name")
    seen = []
    for _ in SORTS:
        seen.append(screen.sort)
        screen.next_sort()
    assert (seen, screen.sort) == (["name", *COLUMNS], "name")


def test_a_fleet_that_is_higher_than_the_terminal_says_how_many_are_not_shown() -> None:
    text = shown(*(endpoint(f"e{i}") for i in range(50)), height=24)
    lines = text.rstrip("\n").splitlines()
    assert len(lines) <= 24
    assert lines[-1].startswith(f"{50 - len(names(text))} more endpoints · q quits")


def test_what_is_stale_or_unknown_is_not_shown_as_a_number() -> None:
    stale = endpoint("a", gauges={"fresh": False, "waiting": 77, "kv_usage": 0.77, "running": 1})
    text = shown(stale, endpoint("b", gauges=None))
    assert "77" not in text
    assert "–" in text


def test_a_name_cannot_move_the_cursor() -> None:
    assert "\x1b" not in shown(endpoint("evil\x1b[2Jname"))


def test_states_differ_by_more_than_colour() -> None:
    text = shown(endpoint("a", state="down"), endpoint("b", draining=True), endpoint("c", state="half_open"))
    for sign in ("✕ down", "↓ draining", "◐ trial"):
        assert sign in text


def test_sparklines_go_on_from_the_history() -> None:
    history = {"totals": {"output_tokens": [0, 1]}, "endpoints": {"a": {"in_flight": [0, 2]}}}
    screen = Screen()
    screen.take(snapshot(endpoint("a"), history=history))
    screen.take(snapshot(endpoint("a", load=4)))
    console = Console(width=80, file=io.StringIO(), record=True)
    console.print(screen.lines(console))
    assert " ▅█" in console.export_text()


@pytest.mark.parametrize(
    ("values", "line"),
    [([], "    "), ([0, 0], "    "), ([1, 2, 4, 8], "▂▃▅█"), ([9, 9, 1, 0, 0, 8], "▂  █"), ([0.001], "   █")],
)
def test_a_sparkline_is_of_the_last_values_and_the_highest_fills_it(values: list[float], line: str) -> None:
    assert sparkline(values, 4) == line


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        (number(None), "–"),
        (number(9_999), "9999"),
        (number(12_345), "12k"),
        (number(1_234_567), "1.2M"),
        (number(10**10), "10G"),
        (rate(0), "0"),
        (rate(0.04), "0.0"),
        (rate(12.34), "12.3"),
        (rate(1234), "1234"),
        (seconds(0.0123), "12ms"),
        (seconds(0.9999), "1.0s"),
        (seconds(120), "120s"),
    ],
)
def test_numbers_are_short(shown: str, text: str) -> None:
    assert shown == text
