"""Real vLLM servers on the CPU for tests: `scripts/test --vllm` installs them and says so by LLMGATE_TEST_VLLM."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from tests.support.processes import free_ports

SCRIPT = Path(__file__).parents[1] / "scripts" / "vllm"
WANTED = "LLMGATE_TEST_VLLM" in os.environ
READY_WITHIN = 600.0  # seconds; half a minute on an idle machine, several on one that is busy
STOP_WITHIN = 30.0


class VllmServer:
    """One server in a process group of its own, since it is several processes."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  (closed in stop)
        self._process = subprocess.Popen(
            [SCRIPT, "serve", str(port)],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def wait_ready(self) -> None:
        deadline = time.monotonic() + READY_WITHIN
        while not self._answers():
            assert self._process.poll() is None, f"vLLM ended instead of serving:\n{self._end_of_log()}"
            assert time.monotonic() < deadline, f"vLLM is not ready after {READY_WITHIN:g} s:\n{self._end_of_log()}"
            time.sleep(0.5)

    def kill(self) -> None:
        """SIGKILL to all of its processes, as when the machine goes down."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def stop(self) -> None:
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_WITHIN)
        self.kill()
        self._log.close()

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def _end_of_log(self) -> str:
        self._log.seek(0)
        return self._log.read().decode(errors="replace")[-4000:]


@contextlib.contextmanager
def start_vllm(count: int) -> Iterator[list[VllmServer]]:
    """So many servers on free ports, ready; they load side by side."""
    with contextlib.ExitStack() as stack:
        servers = []
        for port in free_ports(count):
            server = VllmServer(port)
            stack.callback(server.stop)
            servers.append(server)
        for server in servers:
            server.wait_ready()
        yield servers
