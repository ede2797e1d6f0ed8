"""What clients ask for: recorded traces and synthetic loads in one form, for the simulator and the load generator."""

from llmgate.workloads.edits import first, repeat, scaled, window
from llmgate.workloads.errors import WorkloadError
from llmgate.workloads.load import formats, load, load_text, trace_options
from llmgate.workloads.plain import save
from llmgate.workloads.synthetic import about, names, options, parse, synthetic
from llmgate.workloads.types import TraceRequest, Workload

__all__ = [
    "TraceRequest",
    "Workload",
    "WorkloadError",
    "about",
    "first",
    "formats",
    "load",
    "load_text",
    "names",
    "options",
    "parse",
    "repeat",
    "save",
    "scaled",
    "synthetic",
    "trace_options",
    "window",
]
