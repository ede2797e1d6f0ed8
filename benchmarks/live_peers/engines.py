"""Simulated engines as processes, and what their own counters say."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.live_peers.processes import Refused, end, wait_ready

FIRST_PORT = 9100
IDLE_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Counts:
    """Of all engines together, since they started."""

    queries: float  # tokens of prompts looked up in the prefix cache
    hits: float  # of these, found
    preemptions: float
    requests: tuple[float, ...]  # that ended, by engine

    def since(self, before: Counts) -> Counts:
        return Counts(
            self.queries - before.queries,
            self.hits - before.hits,
            self.preemptions - before.preemptions,
            tuple(now - then for now, then in zip(self.requests, before.requests, strict=True)),
        )


@contextmanager
def engines(number: int, profile: str, model: str, speed: float, home: Path) -> Iterator[Sequence[str]]:
    """URLs of so many engines, all of them ready."""
    urls = [f"http://127.0.0.1:{FIRST_PORT + index}" for index in range(number)]
    log = home / "engines.log"
    with ExitStack() as stack, log.open("wb") as out:
        processes = []
        for index in range(number):
            options = ("--port", str(FIRST_PORT + index), "--profile", profile, "--model", model, "--speed", str(speed))
            command = [sys.executable, "-m", "llmgate", "sim-engine", *options]
            process = subprocess.Popen(command, stdout=out, stderr=out)
            stack.callback(end, process)
            processes.append(process)
        for process, url in zip(processes, urls, strict=True):
            wait_ready(url, process, url, log)
        yield urls


def clear(urls: Sequence[str]) -> None:
    """Wait until all of them are idle, and empty their prefix caches. Raises Refused if they do not come to rest."""
    deadline = time.monotonic() + IDLE_SECONDS
    with httpx2.Client(timeout=10.0) as client:
        for url in urls:
            while _busy(client, url):
                if time.monotonic() > deadline:
                    raise Refused(f"{url} still had requests after {IDLE_SECONDS:g} s")
                time.sleep(0.2)
            client.post(f"{url}/reset_prefix_cache").raise_for_status()


def counts(urls: Sequence[str]) -> Counts:
    """What /metrics says now."""
    with httpx2.Client(timeout=10.0) as client:
        pages = [_totals(client, url) for url in urls]
    return Counts(
        sum(page.get("vllm:prefix_cache_queries_total", 0.0) for page in pages),
        sum(page.get("vllm:prefix_cache_hits_total", 0.0) for page in pages),
        sum(page.get("vllm:num_preemptions_total", 0.0) for page in pages),
        tuple(page.get("vllm:request_success_total", 0.0) for page in pages),
    )


def _busy(client: httpx2.Client, url: str) -> bool:
    totals = _totals(client, url)
    return totals.get("vllm:num_requests_running", 0.0) + totals.get("vllm:num_requests_waiting", 0.0) > 0


def _totals(client: httpx2.Client, url: str) -> dict[str, float]:
    """Sample name → sum over its labels."""
    page = client.get(f"{url}/metrics").raise_for_status().text
    totals: dict[str, float] = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            totals[sample.name] = totals.get(sample.name, 0.0) + sample.value
    return totals
