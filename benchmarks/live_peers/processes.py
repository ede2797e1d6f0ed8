"""Starting programs, waiting until they serve, and ending them."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx2

READY_SECONDS = 60.0


class Refused(Exception):
    """Something cannot be run; the text says what to do."""


@contextmanager
def running(name: str, command: Sequence[str], url: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The program, once its /v1/models lists something. It is ended at the end."""
    with log.open("ab") as out:
        process = subprocess.Popen(list(command), stdout=out, stderr=out)
    try:
        wait_ready(name, process, url, log)
        yield process
    finally:
        end(process)


def wait_ready(name: str, process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    """Raises Refused if it ends, or lists no model in READY_SECONDS."""
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise Refused(f"{name} ended with {process.returncode} before it served; see {log}")
        try:
            answer = httpx2.get(f"{url}/v1/models", timeout=2.0)
            if answer.status_code == 200 and answer.json().get("data"):
                return
        except (httpx2.HTTPError, ValueError):
            pass
        time.sleep(0.1)
    raise Refused(f"{name} listed no model within {READY_SECONDS:g} s; see {log}")


def end(process: subprocess.Popen[bytes]) -> None:
    """Ask it, and insist after five seconds."""
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
