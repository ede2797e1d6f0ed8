"""Host names that only the gateway sees, and that can be pointed elsewhere while it runs.

It is started in a mount namespace of its own in which /etc/hosts is another file: the system's resolver reads it anew
at each look-up. That takes root and `unshare`; without them the gateway is given addresses, and names cannot change.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

DOMAIN = "llmgate.test"


def available() -> bool:
    try:
        tried = subprocess.run(["unshare", "--mount", "mount", "--bind", os.devnull, "/etc/hosts"], capture_output=True)
    except FileNotFoundError:
        return False
    return tried.returncode == 0


class Names:
    def __init__(self, file: Path, addresses: Sequence[str]) -> None:
        """The host of the engine N is the Nth of `hosts`, at the address given for it."""
        self._file = file
        self._addresses = dict(enumerate(addresses))
        self.hosts = [f"engine-{number}.{DOMAIN}" for number in self._addresses]
        self._write()

    def point(self, number: int, address: str) -> None:
        self._addresses[number] = address
        self._write()

    def within(self, command: Sequence[str]) -> list[str]:
        """The command, with these names; its process keeps its number."""
        script = 'mount --bind "$0" /etc/hosts && exec "$@"'
        return ["unshare", "--mount", "sh", "-c", script, str(self._file), *command]

    def _write(self) -> None:
        """In place: another file of the same name would not be the one that is mounted."""
        lines = ["127.0.0.1 localhost", *(f"{self._addresses[n]} {host}" for n, host in enumerate(self.hosts))]
        self._file.write_text("\n".join(lines) + "\n")
