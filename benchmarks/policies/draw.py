"""Draws the pictures of docs/policies. Run: `python -m benchmarks.policies.draw`; it writes docs/images/*.svg."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import click

from benchmarks.policies import scenes
from benchmarks.policies.scenes import Outcome, names

IMAGES = Path(__file__).parents[2] / "docs" / "images"
WIDTH = 720
LEFT = 170  # where bars begin; labels stand before
STYLE = """
    .paper { fill: #fff } text { font: 14px system-ui, sans-serif; fill: #1b2130 } .title { font-weight: 600 }
    .quiet { fill: #5b6477; font-size: 12.5px } .in { fill: #fff; font-size: 12.5px } .bar { fill: #2f6fed }
    .pale { fill: #9db8ee } .on-pale { fill: #14203a; font-size: 12.5px } .end { text-anchor: end }
    .middle { text-anchor: middle } .axis { stroke: #c9cfdb } .line { fill: none; stroke: #2f6fed; stroke-width: 2 }
    .second { stroke: #d9680f }
    @media (prefers-color-scheme: dark) {
      .paper { fill: #10141c } text { fill: #e6e9f0 } .quiet { fill: #a2abbd } .in { fill: #fff } .bar { fill: #3f72d8 }
      .pale { fill: #8fb0f0 } .on-pale { fill: #0c1424 } .axis { stroke: #3a4252 } .line { stroke: #7aa5ff }
      .second { stroke: #ffa35c }
    }"""


def picture(title: str, height: int, shapes: Iterable[str]) -> str:
    """An SVG on a paper of its own, so that it can be read in light and dark surroundings alike."""
    lines = "\n".join(f"  {shape}" for shape in shapes)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{title}">\n'
        f"  <style>{STYLE}\n  </style>\n"
        f'  <rect class="paper" width="{WIDTH}" height="{height}" rx="8"/>\n'
        f"{text(16, 28, title, 'title')}\n{lines}\n</svg>\n"
    )


def text(x: float, y: float, words: str, kind: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}">{words}</text>'


def bar(x: float, y: float, width: float, kind: str = "bar", height: float = 24) -> str:
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="3" class="{kind}"/>'


def round_robin() -> str:
    outcome = scenes.turns()
    step = (WIDTH - 2 * 16) / len(outcome.order)
    shapes = []
    for place, name in enumerate(outcome.order):
        heavy = name == "engine A"
        shapes.append(bar(16 + place * step, 48, step - 3, "bar" if heavy else "pale", 30))
        shapes.append(text(16 + (place + 0.5) * step - 1.5, 68, name[-1], "middle " + ("in" if heavy else "on-pale")))
    counts = ", ".join(f"{name[-1]} {outcome.requests[name]}" for name in names(3))
    shapes.append(
        text(16, 102, f"One cell is one request, in order. Weights A 2, B 1, C 1; requests: {counts}.", "quiet")
    )
    return picture("round-robin: 24 requests over three engines", 118, shapes)


def least_connections() -> str:
    outcomes = scenes.slow_engine("round-robin", "least-connections")
    slow = names(4)[-1]
    top, bottom, left, right = 48.0, 218.0, 56.0, WIDTH - 150.0
    curves = {name: [(at, flying[slow]) for at, flying in run.in_flight] for name, run in outcomes.items()}
    highest = max(value for curve in curves.values() for _, value in curve)
    longest = max(at for curve in curves.values() for at, _ in curve)
    shapes = [f'<path class="axis" fill="none" d="M{left} {top} V{bottom} H{right}"/>']
    for name, curve in curves.items():
        points = [(left + (right - left) * at / longest, bottom - (bottom - top) * n / highest) for at, n in curve]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points[::4])
        shapes.append(f'<polyline class="line{" second" if name == "round-robin" else ""}" points="{path}"/>')
        shapes.append(text(right + 8, points[-1][1] + (4 if name == "round-robin" else -4), name))
    shapes += [text(left - 8, top + 6, str(highest), "end quiet"), text(left - 8, bottom, "0", "end quiet")]
    shapes.append(text(left, bottom + 20, "0 s", "quiet"))
    shapes.append(text(right, bottom + 20, f"{longest:.0f} s", "end quiet"))
    shares = ", ".join(f"{name} {share(outcome, slow):.0f} %" for name, outcome in outcomes.items())
    shapes.append(text(16, 262, f"It has a tenth of the fleet's speed. Its share of the requests: {shares}.", "quiet"))
    return picture("Requests in flight on the slow one of four engines", 278, shapes)


def token_aware() -> str:
    waits = {name: (outcome.mean_wait, outcome.wait_p99) for name, outcome in scenes.mixed_sizes().items()}
    below = "Dark: mean; light: 99th percentile. Nine of ten requests have 300 tokens, one has 8,800."
    return times("Wait before an engine begins, four engines at 70 %", waits, below)


def power_of_two() -> str:
    waits = {name: (outcome.mean_wait, outcome.wait_p99) for name, outcome in scenes.two_choices().items()}
    below = "Dark: mean; light: 99th percentile. Requests of 200 tokens and more, 700 in the mean."
    return times("Wait before an engine begins, eight engines at 80 %", waits, below)


def least_latency() -> str:
    outcomes = scenes.slow_engine("round-robin", "least-connections", "least-latency")
    taken = {name: (outcome.mean_time, outcome.time_p99) for name, outcome in outcomes.items()}
    slow = names(4)[-1]
    shares = ", ".join(f"{name} {share(outcome, slow):.0f} %" for name, outcome in outcomes.items())
    below = f"Dark: mean; light: 99th percentile.\nThe slow engine's share of the requests: {shares}."
    return times("Response time where one of four engines has a third of the others' speed", taken, below)


def times(title: str, values: Mapping[str, tuple[float, float]], below: str) -> str:
    """Two bars of seconds for each policy."""
    longest = max(max(pair) for pair in values.values())
    room = WIDTH - LEFT - 110
    shapes, y = [], 48.0
    for name, pair in values.items():
        shapes.append(text(16, y + 26, name))
        for value, kind in zip(pair, ("bar", "pale"), strict=True):
            shapes.append(bar(LEFT, y, room * value / longest, kind, 18))
            shapes.append(text(LEFT + room * value / longest + 6, y + 14, f"{value:.2f} s", "quiet"))
            y += 20
        y += 14
    for line in below.split("\n"):
        shapes.append(text(16, y + 10, line, "quiet"))
        y += 18
    return picture(title, int(y + 8), shapes)


def random() -> str:
    outcome = scenes.chance()
    even = outcome.requests.total() / 8
    room = WIDTH - LEFT - 110
    most = max(outcome.requests.values())
    shapes, y = [], 48.0
    for name in names(8):
        count = outcome.requests[name]
        shapes.append(text(16, y + 15, name))
        shapes.append(bar(LEFT, y, room * count / most, "bar", 20))
        shapes.append(text(LEFT + room * count / most + 6, y + 15, str(count), "quiet"))
        y += 25
    x = LEFT + room * even / most
    shapes.append(f'<path class="line second" d="M{x:.1f} 44 V{y:.1f}"/>')
    shapes.append(text(16, y + 18, f"The line is an even share: {even:.0f}. Round-robin would be on it.", "quiet"))
    return picture("240 requests by chance over eight equal engines", int(y + 34), shapes)


def hardware_weighted() -> str:
    weights, outcome = scenes.fleet()
    room = WIDTH - LEFT - 110
    highest = max(weights.values()) / sum(weights.values())
    shapes, y = [], 48.0
    for gpu, name in zip(weights, names(len(weights)), strict=True):
        by_weight = weights[gpu] / sum(weights.values())
        by_tokens = outcome.tokens[name] / outcome.tokens.total()
        shapes.append(text(16, y + 26, f"{gpu}: {weights[gpu]:g}"))
        for value, kind in ((by_tokens, "bar"), (by_weight, "pale")):
            shapes.append(bar(LEFT, y, room * value / highest, kind, 18))
            shapes.append(text(LEFT + room * value / highest + 6, y + 14, f"{100 * value:.1f} %", "quiet"))
            y += 20
        y += 14
    shapes.append(text(16, y + 10, "Dark: share of the tokens; light: share of the weights.", "quiet"))
    return picture("Five GPUs that are sent more than they can do", int(y + 26), shapes)


def expected_latency() -> str:
    costs = scenes.expectations()
    left, room = 270, WIDTH - 270 - 90
    shapes, y = [], 48.0
    for name, seconds in costs.items():
        chosen = seconds == min(costs.values())
        shapes.append(text(16, y + 17, name))
        shapes.append(bar(left, y, room * seconds / max(costs.values()), "bar" if chosen else "pale"))
        shapes.append(text(left + room * seconds / max(costs.values()) + 6, y + 17, f"{seconds:.2f} s", "quiet"))
        y += 32
    shapes.append(
        text(
            16,
            y + 12,
            "Seconds that the answer takes and takes from others. Dark: the one that is chosen. Nothing learnt yet.",
            "quiet",
        )
    )
    return picture("A prompt of 8,192 tokens, 100 to answer: four engines", int(y + 28), shapes)


def session_affinity() -> str:
    return shares("300 conversations of six turns, nothing in common, four engines", scenes.conversations())


def prefix_affinity() -> str:
    return shares("1,000 users with one system prompt, four turns each, four engines", scenes.shared_prompt())


def shares(title: str, outcomes: Mapping[str, Outcome]) -> str:
    """Each policy's requests by engine, and what of their prompts was cached there."""
    shapes, y = [], 70.0
    room, gap = 350, 2
    shapes.append(text(LEFT, 58, "share of the requests, by engine", "quiet"))
    shapes.append(text(LEFT + room + 24, 58, "prompt tokens cached", "quiet"))
    for name, outcome in outcomes.items():
        shapes.append(text(16, y + 17, name))
        x = float(LEFT)
        for engine in names(4):
            part = share(outcome, engine)
            if part:
                shapes.append(bar(x, y, room * part / 100 - gap))
                shapes.append(text(x + room * part / 200, y + 17, f"{engine[-1]} {part:.0f} %", "middle in"))
                x += room * part / 100
        cached = 100 * outcome.cached_share
        shapes.append(bar(LEFT + room + 24, y, 1.1 * cached, "pale"))
        shapes.append(text(LEFT + room + 24 + 1.1 * cached + 6, y + 17, f"{cached:.0f} %"))
        y += 34
    return picture(title, int(y + 8), shapes)


def share(outcome: Outcome, engine: str) -> float:
    """Percent of the requests."""
    return 100 * outcome.requests[engine] / len(outcome.order)


PICTURES: Mapping[str, Callable[[], str]] = {
    "round-robin.svg": round_robin,
    "least-connections.svg": least_connections,
    "token-aware.svg": token_aware,
    "prefix-affinity.svg": prefix_affinity,
    "random.svg": random,
    "power-of-two.svg": power_of_two,
    "least-latency.svg": least_latency,
    "session-affinity.svg": session_affinity,
    "hardware-weighted.svg": hardware_weighted,
    "expected-latency.svg": expected_latency,
}


@click.command()
@click.option("--to", type=click.Path(path_type=Path, file_okay=False), default=IMAGES, help="Another directory.")
def main(to: Path) -> None:
    """Draw them all."""
    to.mkdir(parents=True, exist_ok=True)
    for name, draw in PICTURES.items():
        (to / name).write_text(draw(), encoding="utf-8")
        click.echo(to / name)


if __name__ == "__main__":
    main()
