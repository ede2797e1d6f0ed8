"""The two load generators under the same name for the same figure."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.overhead.peers import environment
from llmgate.tokens import EMBEDDED, find_tokenizer

GUIDELLM = "guidellm==0.8.1"
FIGURES = (
    "TTFT ms",
    "time per output token ms",
    "E2E ms",
    "requests/s",
    "output tokens/s",
    "prompt tokens",
    "output tokens",
)

Figures = dict[str, float]


@dataclass(frozen=True, slots=True)
class Load:
    """A closed loop, or an open one that sends at even times."""

    url: str
    model: str
    concurrency: int
    rate: float | None  # requests/s of an open loop
    requests: int
    prompt_tokens: int
    output_tokens: int  # mean; between half and one and a half of it

    @property
    def kind(self) -> str:
        """In words."""
        return f"{self.concurrency} in flight" if self.rate is None else f"one each {1 / self.rate:g} s"

    @property
    def outputs(self) -> tuple[int, int]:
        """Lengths differ, or an engine's slots would keep step and who starts when would decide the TTFT."""
        return self.output_tokens // 2, self.output_tokens + self.output_tokens // 2


Lengths = list[tuple[int, int]]
"""Prompt and output tokens of each request, by the server's count."""


def guidellm(load: Load, seed: int, home: Path) -> tuple[Figures, Lengths]:
    """Means of the requests that succeeded, and their lengths in the order of sending.

    `seed` decides lengths and texts: the same one again would find its prompts in the engine's cache. guidellm's ITL is
    the mean gap between tokens, its TPOT divides the whole time.
    """
    output = home / "guidellm.json"
    low, high = load.outputs
    profile = f"kind=concurrent,streams={load.concurrency}" if load.rate is None else f"kind=constant,rate={load.rate}"
    outputs = f"output_tokens={load.output_tokens},output_tokens_min={low},output_tokens_max={high}"
    _run(
        [
            *(str(environment(home, GUIDELLM) / "guidellm"), "run", "--disable-console"),
            *("--backend", f"kind=openai_http,target={load.url},model={load.model}"),
            *("--profile", profile),
            *("--seed", f"kind=static,value={seed}"),
            *("--constraint", f"kind=max_requests,count={load.requests}"),
            *("--tokenizer", f"kind=hf_auto,model={find_tokenizer(EMBEDDED)}"),
            *(
                "--data",
                f"kind=synthetic_text,prompt_tokens={load.prompt_tokens},{outputs}",
                "--output",
                f"kind=json,path={output}",
            ),
        ],
    )
    found = json.loads(output.read_text())["benchmarks"][0]
    metrics = found["metrics"]

    def mean(name: str) -> float:
        return float(metrics[name]["successful"]["mean"])

    succeeded = metrics["request_totals"]["successful"]
    if succeeded != load.requests:
        sys.exit(f"guidellm: {succeeded} of {load.requests} requests succeeded")
    figures = {
        "TTFT ms": mean("time_to_first_token_ms"),
        "time per output token ms": mean("inter_token_latency_ms"),
        "E2E ms": mean("request_latency") * 1e3,
        "requests/s": mean("requests_per_second"),
        "output tokens/s": mean("output_tokens_per_second"),
        "prompt tokens": mean("prompt_token_count"),
        "output tokens": mean("output_token_count"),
    }
    sent = sorted(found["requests"]["successful"], key=lambda each: float(each["request_start_time"]))
    return figures, [(each["prompt_tokens"], each["output_tokens"]) for each in sent]


def llmgate(load: Load, lengths: Lengths, home: Path) -> Figures:
    """Means of the requests that succeeded, which are of these lengths and in this order."""
    output, trace = home / "llmgate.json", home / "lengths.jsonl"
    lines = (
        {
            "timestamp": 1000 * n / load.rate if load.rate else 0,
            "input_length": prompt,
            "output_length": output,
            "hash_ids": _fresh(n, prompt),
        }
        for n, (prompt, output) in enumerate(lengths)
    )
    trace.write_text("".join(json.dumps(line) + "\n" for line in lines))
    _run(
        [
            *(sys.executable, "-m", "llmgate", "bench", load.url, "--model", load.model, "--json", str(output)),
            *(("--concurrency", str(load.concurrency)) if load.rate is None else ("--rate-scale", "1")),
            *("--trace", f"{trace}:tick_s=0"),
        ],
    )
    result = json.loads(output.read_text())
    if result["succeeded"] != load.requests:
        sys.exit(f"llmgate bench: {result['succeeded']} of {load.requests} requests succeeded")
    return {
        "TTFT ms": result["ttft"]["mean"] * 1e3,
        "time per output token ms": result["tpot"]["mean"] * 1e3,
        "E2E ms": result["e2e"]["mean"] * 1e3,
        "requests/s": result["throughput"]["requests_per_s"],
        "output tokens/s": result["throughput"]["output_tokens_per_s"],
        "prompt tokens": result["tokens"]["prompt"] / result["succeeded"],
        "output tokens": result["tokens"]["output"] / result["succeeded"],
    }


def _fresh(number: int, tokens: int) -> list[int]:
    """Ids of Mooncake's blocks of 512 tokens that no other request has."""
    return [number << 16 | block for block in range(-(-tokens // 512))]


def _run(command: list[str]) -> None:
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | {"HF_HUB_OFFLINE": "1"}
    )
    if done.returncode:
        sys.exit(f"{Path(command[0]).name} failed:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
