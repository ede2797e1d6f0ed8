"""The newcomer's hour, as it is written: every command runs, and says what the page says."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, read

PAGE = read("docs/first-hour.md")
BLOCK = re.compile(r"^<!-- (run|file: (\S+)) -->\n```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PORTS = ("8000", "8001", "8080", "8081")
COMMAND_SECONDS = 60


class Shell:
    """One bash for all commands, as a person would have."""

    def __init__(self, directory: Path) -> None:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        self._process = subprocess.Popen(
            ["timeout", "300", "bash"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=directory,
            env={**os.environ, "PATH": path, "COLUMNS": "200"},
            text=True,
        )

    def run(self, command: str) -> tuple[str, int]:
        """What it prints, and its status."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(f"{command}\necho; echo END $?\n")
        stdin.flush()
        said: list[str] = []
        for line in stdout:
            if line.startswith("END "):
                return "".join(said).strip(), int(line.split()[1])
            said.append(line)
        raise AssertionError(f"the shell ended at: {command}\n{''.join(said)}")

    def close(self) -> None:
        self.run("kill $(cat *.pid) 2>/dev/null; wait")
        self._process.communicate("exit\n")


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    if shutil.which("curl") is None:
        pytest.skip("the page uses curl")
    (tmp_path / "src").symlink_to(ROOT / "src")
    shell = Shell(tmp_path)
    yield shell
    shell.close()


def free_ports(count: int) -> list[str]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [str(each.getsockname()[1]) for each in sockets]
    for each in sockets:
        each.close()
    return ports


def steps(text: str) -> Iterator[tuple[str, str]]:
    """Each command with what it should say."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, output = part.partition("\n")
        yield command, output.strip()


def says(expected: str) -> re.Pattern[str]:
    return re.compile(".*".join(map(re.escape, expected.split("…"))), re.DOTALL)


@pytest.mark.engine
def test_every_command_does_what_the_page_says(shell: Shell, tmp_path: Path) -> None:
    page = PAGE
    for port, free in zip(PORTS, free_ports(len(PORTS)), strict=True):
        page = page.replace(port, free)
    ran = 0
    for kind, file, text in BLOCK.findall(page):
        if kind != "run":
            (tmp_path / file).write_text(text)
            continue
        for command, expected in steps(text):
            said, status = shell.run(command)
            log = tmp_path / "llmgate.log"
            told = f"$ {command}\n{said}\n{log.read_text() if log.exists() else ''}"
            assert status == 0, told
            if expected:
                assert says(expected).search(said), f"{told}\nexpected: {expected}"
            ran += 1
    assert ran > 25
