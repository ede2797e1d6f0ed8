"""What the load generator itself costs: CPU time a request and a chunk.

    python -m benchmarks.bench_check.cost [--rounds 3]

Fake engines that answer at once stand on one core, `llmgate bench` on the other: streams of 1 and of 101 chunks, 16 in
flight, prompts of 256 words. The slope is the cost of a chunk, the rest that of a request. Needs taskset and two cores.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from statistics import median

from benchmarks.overhead import fake_engines

PORT = 9650
FEW, MANY = 1, 101
GAP = 0.01  # s between chunks: each comes in a read of its own
REQUESTS = {FEW: 8000, MANY: 800}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    few, many = (median(cpu_us(chunks) for _ in range(rounds)) for chunks in (FEW, MANY))
    chunk = (many - few) / (MANY - FEW)
    print(f"{few - chunk * FEW:.0f} µs a request, {chunk:.1f} µs a chunk (medians of {rounds} rounds)")  # noqa: T201


def cpu_us(chunks: int) -> float:
    """Of a request of so many chunks."""
    options = map(str, (PORT, 1, chunks, GAP))
    engine = subprocess.Popen(["taskset", "-c", "1", sys.executable, fake_engines.__file__, *options])
    try:
        time.sleep(0.5)
        command = ["taskset", "-c", "0", sys.executable, "-m", "llmgate", "bench", f"http://127.0.0.1:{PORT}"]
        load = ["--concurrency", "16", "--requests", str(REQUESTS[chunks]), "--json", "-"]
        done = subprocess.run([*command, *load], check=True, stdout=subprocess.PIPE)
    finally:
        engine.terminate()
        engine.wait()
    result = json.loads(done.stdout)
    assert result["succeeded"] == REQUESTS[chunks], result["errors"]
    return float(result["generator"]["cpu_us_per_request"])


if __name__ == "__main__":
    main()
