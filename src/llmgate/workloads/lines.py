"""Trace files line by line: opened, numbered, decoded, and what is wrong with them said by file and line."""

from __future__ import annotations

import gzip
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TypeVar, cast

import msgspec

from llmgate.workloads.errors import BadLine, WorkloadError

T = TypeVar("T")

MAX_LINE = 1 << 28
"""Bytes. The longest real lines are sessions of claude_code, some 100 kB; a file of one endless line is no trace."""

MAX_TOKENS = 1 << 31
"""More than any model takes; keeps nonsense such as 1e18 out of sums and allocations."""

_GZIP = b"\x1f\x8b"
_POSITION = re.compile(r" ?\((?:byte|char) \d+\)$")
_PLACE = re.compile(r"^(?P<what>.*) - at `(?P<place>[^`]*)`$", re.DOTALL)


@contextmanager
def open_trace(path: Path) -> Iterator[IO[bytes]]:
    """The file's bytes, unpacked where they are gzip. Raises WorkloadError if it cannot be read, also later on."""
    try:
        with path.open("rb") as raw:
            packed = raw.read(2) == _GZIP
            raw.seek(0)
            if packed:
                with gzip.open(raw) as unpacked:
                    yield cast(IO[bytes], unpacked)
            else:
                yield raw
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or f"cannot be unpacked: {error}"
        raise WorkloadError(f"{path}: {reason}") from error


def numbered(stream: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    """Lines that are not blank, numbered from 1. Raises BadLine on one beyond MAX_LINE."""
    number = 0
    while line := stream.readline(MAX_LINE + 1):
        number += 1
        if len(line) > MAX_LINE:
            raise BadLine(f"line longer than {MAX_LINE >> 20} MiB: this is no trace")
        if line := line.strip():
            yield number, line


class Lines:
    """Reads a trace with `read(line) -> T`, which raises BadLine; bad lines are an error, or counted and skipped."""

    def __init__(self, path: Path, *, skip_bad: bool) -> None:
        self.path = path
        self.skipped: Counter[str] = Counter()  # reason → lines
        self._skip_bad = skip_bad

    def read(self, read: Callable[[bytes], T]) -> Iterator[tuple[int, T]]:
        """(line number, what was read). Raises WorkloadError."""
        number = 0
        with open_trace(self.path) as stream:
            lines = numbered(stream)
            while True:
                try:
                    entry = next(lines, None)
                except BadLine as bad:
                    raise WorkloadError(f"{self.path}:{number + 1}: {bad}") from None
                if entry is None:
                    return
                number, line = entry
                try:
                    value = read(line)
                except BadLine as bad:
                    self.bad(number, bad)
                else:
                    yield number, value

    def bad(self, number: int, bad: BadLine) -> None:
        """Line `number` cannot be used. Raises WorkloadError unless such lines are skipped."""
        if not self._skip_bad:
            raise WorkloadError(f"{self.path}:{number}: {bad}") from None
        self.skipped[bad.reason] += 1

    def dropped(self) -> dict[str, int]:
        return {f"malformed line: {reason}": count for reason, count in sorted(self.skipped.items())}


def decoder(form: type[T]) -> Callable[[bytes], T]:
    """Line of JSON → `form`; its messages name the field. The function raises BadLine."""
    decode = msgspec.json.Decoder(form).decode

    def read(line: bytes) -> T:
        try:
            return decode(line)
        except msgspec.ValidationError as error:
            raise BadLine(_by_field(str(error))) from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise BadLine(_without_position(error), _position(str(error))) from None

    return read


def _by_field(message: str) -> str:
    if (match := _PLACE.match(message)) is None:
        return message
    return f"{match['place'].removeprefix('$').removeprefix('.') or 'the line'}: {match['what']}"


def _without_position(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return "not UTF-8"
    return _POSITION.sub("", str(error)) or "JSON is malformed"


def _position(message: str) -> str:
    found = _POSITION.search(message)
    return found.group().strip() if found else ""
