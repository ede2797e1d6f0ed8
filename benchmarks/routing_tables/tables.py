"""Figures of many runs as Markdown."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean

from llmgate.sim.paired import Difference, difference

Samples = Mapping[str, Sequence[float]]
"""Figure → its value for each seed."""

Means = Mapping[str, float]

COLUMNS = (  # heading, figure, format, factor
    ("TTFT mean, s", "ttft.mean", ".2f", 1.0),
    ("p50", "ttft.p50", ".2f", 1.0),
    ("p90", "ttft.p90", ".2f", 1.0),
    ("p99", "ttft.p99", ".1f", 1.0),
    ("TPOT mean, ms", "tpot.mean", ".1f", 1000.0),
    ("E2E mean, s", "e2e.mean", ".1f", 1.0),
    ("hit rate", "prefix_hit_ratio", ".3f", 1.0),
    ("goodput", "goodput_ratio", ".3f", 1.0),
    ("imbalance", "imbalance", ".2f", 1.0),
    ("failed", "failed", ".0f", 1.0),
)
COMPARED = ("ttft.mean", "e2e.mean")  # with the baseline, pair by pair
PERCENTILES = ("p50", "p90", "p95", "p99")


def table(rows: Mapping[str, Samples], baseline: str) -> str:
    """One load of one scene: means over the seeds, and what TTFT and E2E are against the baseline."""
    headings = ["policy"]
    for heading, figure, *_ in COLUMNS:
        headings += [heading, "against " + baseline] if figure in COMPARED else [heading]
    lines = [headings, ["---"] + ["---:"] * (len(headings) - 1)]
    for name, samples in rows.items():
        cells = [name]
        for _, figure, form, factor in COLUMNS:
            cells.append(format(fmean(samples[figure]) * factor, form))
            if figure in COMPARED:
                cells.append("" if name == baseline else against(samples[figure], rows[baseline][figure]))
        lines.append(cells)
    return _markdown(lines)


def against(policy: Sequence[float], baseline: Sequence[float]) -> str:
    """The paired difference as a share of the baseline's mean, with half of its 95 % interval: `-12 ± 3 %`."""
    each = difference(policy, baseline)
    whole = fmean(baseline)
    return f"{_signed(each, whole)} %"


def _signed(each: Difference, whole: float) -> str:
    share, half = 100 * each.mean / whole, 100 * (each.high - each.low) / 2 / whole
    digits = 0 if half >= 1 else 1
    return f"{round(share, digits) + 0.0:+.{digits}f} ± {half:.{digits}f}".replace("-", "−")  # + 0.0: no -0


def gap_closed(value: float, best_peer: float, oracle: float) -> float | None:
    """Of the way from the best peer to the oracle: 0 is as good as the peer, 1 as the oracle, below 0 worse than the
    peer. None where the oracle is no better than the peer."""
    return (best_peer - value) / (best_peer - oracle) if oracle < best_peer else None


def standing(
    columns: Mapping[str, Mapping[str, Samples]], peers: Iterable[str], oracle: str, figure: str = "ttft.mean"
) -> str:
    """Where each row stands between the best peer and the oracle, a column for each scene and load."""
    peers = list(peers)
    means = {
        column: {name: fmean(samples[figure]) for name, samples in rows.items()} for column, rows in columns.items()
    }
    best = {column: min(peers, key=rows.__getitem__) for column, rows in means.items()}
    names = list(next(iter(means.values())))
    lines = [["policy", *means], ["---"] + ["---:"] * len(means)]
    lines.append(["*best peer*", *(f"*{best[column]}, {means[column][best[column]]:.2f} s*" for column in means)])
    lines.append(["*oracle*", *(f"*{rows[oracle]:.2f} s*" for rows in means.values())])
    for name in names:
        if name == oracle:
            continue
        shares = [gap_closed(rows[name], rows[best[column]], rows[oracle]) for column, rows in means.items()]
        lines.append([name, *(_percent(share) for share in shares)])
    return _markdown(lines)


def ratios(
    columns: Mapping[str, Mapping[str, Samples]], peers: Iterable[str], name: str, baseline: str, oracle: str
) -> str:
    """Parts that a policy's figures are of the best peer's, which is the one with the lowest mean TTFT, and of the
    baseline's; a column for each scene and load."""
    peers = list(peers)
    best: list[str] = []
    found: list[Mapping[str, float]] = []
    for rows in columns.values():
        means = {row: {figure: fmean(values) for figure, values in samples.items()} for row, samples in rows.items()}
        best.append(min(peers, key=lambda row: means[row]["ttft.mean"]))
        found.append(_ratios(means[name], means[best[-1]], means[baseline], means[oracle], baseline))
    lines = [
        [f"{name} / …", *columns],
        ["---"] + ["---:"] * len(columns),
        ["*best peer*", *(f"*{row}*" for row in best)],
    ]
    lines += [[label, *(f"{each[label]:.2f}" for each in found)] for label in found[0]]
    return _markdown(lines)


def _ratios(ours: Means, peer: Means, plain: Means, oracle: Means, baseline: str) -> Mapping[str, float]:
    percentiles = [f"{figure}.{part}" for figure in ("ttft", "tpot", "e2e") for part in PERCENTILES]
    return {
        "mean TTFT, best peer": ours["ttft.mean"] / peer["ttft.mean"],
        "*the oracle's mean TTFT, best peer*": oracle["ttft.mean"] / peer["ttft.mean"],
        "p90 TTFT, best peer": ours["ttft.p90"] / peer["ttft.p90"],
        "*the oracle's p90 TTFT, best peer*": oracle["ttft.p90"] / peer["ttft.p90"],
        "mean E2E, best peer": ours["e2e.mean"] / peer["e2e.mean"],
        "the worst percentile of TTFT, TPOT, E2E, best peer": max(ours[each] / peer[each] for each in percentiles),
        f"p90 TTFT, {baseline}": ours["ttft.p90"] / plain["ttft.p90"],
        f"p99 TTFT, {baseline}": ours["ttft.p99"] / plain["ttft.p99"],
    }


def capacity_table(rates: Mapping[str, Mapping[str, float]], peers: Iterable[str]) -> str:
    """Requests a second by row and scene, and what part they are of the best peer's there."""
    scenes = list(next(iter(rates.values())))
    best = {scene: max((rates[row][scene] for row in peers if row in rates), default=math.nan) for scene in scenes}
    lines = [["policy", *scenes], ["---"] + ["---:"] * len(scenes)]
    for row, found in rates.items():
        lines.append([row, *(f"{rate:.2f} ({rate / best[scene]:.2f})" for scene, rate in found.items())])
    return _markdown(lines)


def _percent(share: float | None) -> str:
    if share is None:
        return "–"
    return "< −1000 %" if share < -10 else f"{100 * share:.0f} %".replace("-", "−")


def _markdown(lines: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
