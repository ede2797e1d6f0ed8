"""Where a configuration came from and may come from again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from llmgate.config.schema import Config


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """`read` gives what the file says now, with the command line on top; raises ConfigError."""

    path: Path
    read: Callable[[], Config]


class FileWatch:
    """Tells when a file has changed and come to rest, by looking at it now and then: a stat each time.

    Inodes count, so an editor's rename and the symbolic links of a Kubernetes ConfigMap are noticed as well.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen = self._known = self._look()

    def changed(self) -> bool:
        """Once for each change, when the file looks the same as at the look before: nobody is writing it any more."""
        seen, before = self._look(), self._seen
        self._seen = seen
        if seen is None or seen != before or seen == self._known:
            return False
        self._known = seen
        return True

    def mark(self) -> None:
        """What is there now is about to be read: it is no change."""
        self._seen = self._known = self._look()

    def _look(self) -> tuple[int, int, int, int] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None  # between an editor's removal and its rename
        return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size
