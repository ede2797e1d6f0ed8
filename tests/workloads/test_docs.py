from __future__ import annotations

import re
from pathlib import Path

from llmgate.workloads import formats, names, options, trace_options

PAGE = Path("docs/workloads.md").read_text()


def row(name: str) -> str:
    found = [line for line in PAGE.splitlines() if line.startswith(f"| `{name}`")]
    assert len(found) == 1, name
    return found[0]


def test_the_page_has_every_format_with_its_options_and_defaults() -> None:
    for name in formats():
        for option, default in trace_options(name).items():
            told = "all|none" if default is None else "true" if default is True else f"{default:g}"
            assert re.search(rf"`{option}` \(({told})\)", row(name)), option


def test_the_page_has_every_synthetic_workload_with_its_options_and_defaults() -> None:
    for name in names():
        for option, default in options(name).items():
            if option == "requests" or (name == "gamma" and option != "cv"):
                continue
            assert re.search(rf"`{option}` \({default:g}[,)]", row(name)), (name, option)
