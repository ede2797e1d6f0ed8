"""Reports: one HTML page with plots, for the simulator and the load generator.

looks = Looks(["round-robin", "prefix-affinity"])
figures = [cdf(ttft_by_policy, looks, name="ttft", title="Time to first token", label="TTFT")]
write(Report("Two policies", facts=[("seed", "1")], tables=[table], figures=figures), Path("out"))
"""

from llmgate.reports.page import html, write
from llmgate.reports.plots import bars, cdf, engines_over_time, percentiles, timeline
from llmgate.reports.report import Cell, Column, Figure, Report, ReportError, Table
from llmgate.reports.style import Looks

__all__ = [
    "Cell",
    "Column",
    "Figure",
    "Looks",
    "Report",
    "ReportError",
    "Table",
    "bars",
    "cdf",
    "engines_over_time",
    "html",
    "percentiles",
    "timeline",
    "write",
]
