"""What workloads cost: `python -m benchmarks.data.cost [FILE|NAME …]`, options as in `llmgate simulate`.

CPU seconds and memory (growth of the peak) of a process of its own for each.
"""

from __future__ import annotations

import multiprocessing
import resource
import sys
import time
from pathlib import Path

from llmgate.workloads import load_text, names, parse, synthetic

HERE = Path(__file__).parent
USUAL = (
    str(HERE / "mooncake_conversation_first_half.jsonl.gz"),
    f"{HERE / 'claude_code_100_sessions.jsonl.gz'}:max_model_len=131072",
    str(HERE / "azure_2023_conv_30min.csv.gz"),
    "multi-turn:requests=100000,rate=100",
    "poisson:requests=100000",
)


def measure(text: str) -> None:
    before, begin = _peak(), time.process_time()
    if text.partition(":")[0] in names():
        name, options = parse(text)
        workload = synthetic(name, **options)  # type: ignore[arg-type]
    else:
        workload = load_text(text)
    seconds, growth = time.process_time() - begin, _peak() - before
    blocks = sum(len(request.blocks) for request in workload.requests)
    _say(f"{len(workload.requests):>8} {blocks:>11} {seconds:>7.2f} {growth:>6.0f}  {Path(text).name}")


def _peak() -> float:
    """MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    _say("requests      blocks   CPU s     MB")
    processes = multiprocessing.get_context("spawn")
    for each in sys.argv[1:] or USUAL:
        process = processes.Process(target=measure, args=(each,))
        process.start()
        process.join()
