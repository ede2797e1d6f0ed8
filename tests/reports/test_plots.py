from __future__ import annotations

import builtins
import io
import math
import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from llmgate.reports import Figure, Looks, ReportError, bars, cdf, engines_over_time, percentiles, timeline
from llmgate.reports.axes import seconds
from llmgate.reports.style import DARK, LIGHT

image = pytest.importorskip("matplotlib.image")

NAMES = ["round-robin", "prefix-affinity", "oracle"]
LOOKS = Looks(NAMES, ink=["oracle"])
TIMES = np.arange(0.0, 900.0, 1.0)
LATENCIES = {name: np.geomspace(0.05, 5.0 * (k + 1), 400) for k, name in enumerate(NAMES)}
PERCENTILES = {name: {"p50": 0.5, "p99": 3.0} for name in NAMES}
WAVES = {name: (TIMES, 50 + 40 * np.sin(TIMES / 90 + k)) for k, name in enumerate(NAMES)}
ENGINES = {name: {f"e{k}": (TIMES, np.full(900, float(k))) for k in range(4)} for name in NAMES}

PLOTS: Mapping[str, Callable[..., Figure]] = {
    "cdf": lambda rows=LATENCIES, looks=LOOKS: cdf(rows, looks, name="f", title="t", label="TTFT"),
    "percentiles": lambda rows=PERCENTILES, looks=LOOKS: percentiles(rows, looks, name="f", title="t", label="TTFT"),
    "bars": lambda rows={n: 0.2 for n in NAMES}, looks=LOOKS: bars(rows, looks, name="f", title="t", label="l"),  # noqa: C420
    "timeline": lambda rows=WAVES, looks=LOOKS: timeline(rows, looks, name="f", title="t", label="tokens/s"),
    "engines": lambda rows=ENGINES, looks=LOOKS: engines_over_time(rows, looks, name="f", title="t", label="load"),
}


def pixels(png: bytes) -> Any:
    return np.round(image.imread(io.BytesIO(png))[:, :, :3] * 255).astype(int)


def holds(png: bytes, colour: str) -> bool:
    wanted = [int(colour[k : k + 2], 16) for k in (1, 3, 5)]
    return bool((np.abs(pixels(png) - wanted).max(axis=2) <= 2).any())


@pytest.mark.parametrize("name", PLOTS)
def test_a_plot_is_one_picture_for_each_theme_and_the_same_each_time(name: str) -> None:
    figure = PLOTS[name]()
    assert pixels(figure.light).shape == pixels(figure.dark).shape
    assert tuple(pixels(figure.light)[0, 0]) == (255, 255, 255)
    assert tuple(pixels(figure.dark)[0, 0]) == tuple(int(DARK.card[k : k + 2], 16) for k in (1, 3, 5))
    assert PLOTS[name]().light == figure.light
    assert "round-robin" in figure.alt


@pytest.mark.parametrize("name", ["cdf", "percentiles", "timeline"])
def test_a_name_has_its_colour_in_every_plot_and_theme(name: str) -> None:
    figure = PLOTS[name]()
    for row in NAMES:
        assert holds(figure.light, LOOKS.colour(row, LIGHT)), row
        assert holds(figure.dark, LOOKS.colour(row, DARK)), row


@pytest.mark.parametrize("name", PLOTS)
def test_nothing_to_draw_is_an_empty_plot(name: str) -> None:
    assert pixels(PLOTS[name](rows={}, looks=Looks([])).light).size


def test_requests_without_a_latency_are_left_out() -> None:
    spoilt = {"a": [0.5, math.nan, 0.0, math.inf, 0.5], "b": [math.nan], "c": []}
    figure = cdf(spoilt, Looks(spoilt), name="f", title="t", label="TTFT")
    assert figure.alt == "Cumulative distribution of TTFT. Median: a 500 ms."


def test_engines_that_come_and_go_are_drawn_while_they_are_there() -> None:
    rows = {
        "a": {
            "first": (TIMES[:300], TIMES[:300]),
            "second": (TIMES[200:], TIMES[200:]),
            "never": (TIMES[:0], TIMES[:0]),
        }
    }
    figure = engines_over_time(rows, Looks(rows), name="f", title="t", label="load")
    assert figure.alt == "Load of each engine over time. Highest: a 899."


def test_many_names_have_a_look_of_their_own_each() -> None:
    names = [f"policy-{k}" for k in range(24)]
    looks = Looks([*names, "oracle"], ink=["oracle"])
    assert len({(looks.colour(name, LIGHT), looks.line(name)) for name in [*names, "oracle"]}) == 25


def test_without_matplotlib_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [module for module in sys.modules if module.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, module)
    real = builtins.__import__

    def without(name: str, *args: Any) -> Any:
        if name.partition(".")[0] == "matplotlib":
            raise ModuleNotFoundError(name)
        return real(name, *args)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ReportError, match=r"need matplotlib: pip install 'llmgate-lb\[sim\]'"):
        PLOTS["bars"]()


@pytest.mark.parametrize(
    ("value", "text"), [(2e-6, "2 µs"), (0.25, "250 ms"), (1, "1 s"), (90, "90 s"), (600, "10 min")]
)
def test_seconds_are_told_as_people_tell_them(value: float, text: str) -> None:
    assert seconds(value) == text
