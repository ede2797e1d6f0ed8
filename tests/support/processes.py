"""Programs of others that tests run: free ports, and a process that ends with the test."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

import pytest


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody listens on, all different."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def program(name: str, package: str) -> str:
    """The path of an installed program. Without it the test is skipped, in CI it fails: a skip would go unseen."""
    path = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if path is None:
        missing(f"{name} is not installed: apt-get install {package}")
    return path


def missing(what: str) -> NoReturn:
    """Ends the test."""
    if os.environ.get("CI"):
        pytest.fail(what, pytrace=False)
    pytest.skip(what)


@contextlib.contextmanager
def process(command: Sequence[str | Path], **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """Runs it; SIGTERM at the end. What it wrote is shown if the test fails."""
    with tempfile.TemporaryFile() as log:
        started = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=os.environ | environment,
        )
        try:
            yield started
        except BaseException:
            log.seek(0)
            print(log.read().decode(errors="replace")[-4000:])  # noqa: T201  (pytest shows it with the failure)
            raise
        finally:
            started.terminate()
            try:
                started.wait(10)
            except subprocess.TimeoutExpired:
                started.kill()
                started.wait()
