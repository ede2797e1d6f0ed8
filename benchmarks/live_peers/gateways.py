"""The gateways to compare: how each is started in front of the engines."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.live_peers.processes import Refused, running
from benchmarks.overhead.peers import WHEELS, environment

PORT = 9000  # the gateway's; those after it are its admin's and metrics'

NGINX = """worker_processes 1; daemon off; pid {home}/nginx.pid; error_log {home}/nginx.log;
events {{ worker_connections 8192; }}
http {{ access_log off; client_body_buffer_size 4m; client_max_body_size 64m; keepalive_requests 1000000;
upstream engines {{ {balance} {servers} keepalive 512; keepalive_requests 1000000; }}
server {{ listen 127.0.0.1:{port} backlog=4096; location / {{
  proxy_pass http://engines; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;
  proxy_read_timeout 600s; }} }} }}
"""


@dataclass(frozen=True, slots=True)
class Start:
    """What a gateway is started with."""

    home: Path
    engines: Sequence[str]  # URLs
    speed: float  # engine seconds a second


def _llmgate(policy: str) -> Callable[[Start], list[str]]:
    def command(start: Start) -> list[str]:
        config = {
            "server": {"host": "127.0.0.1", "port": PORT},
            "admin": {"host": "127.0.0.1", "port": PORT + 1},
            "endpoints": [{"url": url, "weight": start.speed} for url in start.engines],  # of 1: at their own speed
            "router": {"policy": policy},
            "scrape": {"interval": max(1.0 / start.speed, 0.05)},  # 1 s of the engines' time
            "health": {"slow_start": 0.0},
        }
        path = start.home / "llmgate.yaml"
        path.write_text(json.dumps(config))  # JSON is YAML
        return [sys.executable, "-m", "llmgate", "serve", "--config", str(path), "--log-level", "warning"]

    return command


def _smg(policy: str) -> Callable[[Start], list[str]]:
    def command(start: Start) -> list[str]:
        binary = environment(start.home, WHEELS["smg"]) / "smg"
        ports = ("--host", "127.0.0.1", "--port", str(PORT), "--prometheus-port", str(PORT + 2))
        return [
            str(binary),
            "launch",
            "--worker-urls",
            *start.engines,
            *ports,
            "--policy",
            policy,
            "--log-level",
            "error",
        ]

    return command


def _vllm_router(policy: str) -> Callable[[Start], list[str]]:
    def command(start: Start) -> list[str]:
        binary = environment(start.home, WHEELS["vllm-router"]) / "vllm-router"
        ports = ("--host", "127.0.0.1", "--port", str(PORT), "--prometheus-port", str(PORT + 2))
        return [str(binary), "--worker-urls", *start.engines, *ports, "--policy", policy, "--log-level", "error"]

    return command


def _nginx(balance: str) -> Callable[[Start], list[str]]:
    def command(start: Start) -> list[str]:
        binary = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
        if binary is None:
            raise Refused("nginx is not installed: apt-get install nginx-light, or leave it out with --rows")
        servers = " ".join(f"server {url.removeprefix('http://')};" for url in start.engines)
        path = start.home / "nginx.conf"
        path.write_text(NGINX.format(home=start.home, balance=balance, servers=servers, port=PORT))
        return [binary, "-c", str(path)]

    return command


ROWS: Mapping[str, Callable[[Start], list[str]]] = {
    "llmgate prefix-affinity": _llmgate("prefix-affinity"),
    "llmgate expected-latency": _llmgate("expected-latency"),
    "llmgate least-connections": _llmgate("least-connections"),
    "smg cache_aware": _smg("cache_aware"),
    "smg power_of_two": _smg("power_of_two"),
    "vllm-router cache_aware": _vllm_router("cache_aware"),
    "nginx least_conn": _nginx("least_conn;"),
    "nginx round robin": _nginx(""),
}


@contextmanager
def gateway(row: str, start: Start) -> Iterator[tuple[str, int]]:
    """Its URL, once it serves, and its process id."""
    url = f"http://127.0.0.1:{PORT}"
    with running(row, ROWS[row](start), url, start.home / "gateway.log") as process:
        yield url, process.pid
