"""Lines to a file or a stream, written by a thread of its own: a slow disk or a full pipe holds up nobody."""

from __future__ import annotations

import logging
import os
import select
import threading
from pathlib import Path
from queue import SimpleQueue

QUEUED_BYTES = 8 * 1024 * 1024
"""What may wait to be written: some 16,000 lines of the access log, a second at the gateway's full speed."""

STREAMS = {"stdout": 1, "stderr": 2}

logger = logging.getLogger("llmgate.telemetry")


class LineWriter:
    """Blocks of whole lines, in order. What cannot be written is dropped and counted, never waited for.

    `to` is `stdout`, `stderr` or a path, which is appended to. Raises OSError, with a sentence in it, if that cannot be
    opened.
    """

    def __init__(self, to: str, *, queued_bytes: int = QUEUED_BYTES) -> None:
        self.to = to
        self.overflowed = 0  # lines dropped since too much was waiting
        self.failed = 0  # lines dropped since they could not be written
        self._file = _open(to)
        self._limit = queued_bytes
        self._taken = 0  # bytes; only `put` writes it
        self._done = 0  # bytes; only the thread writes it
        self._torn = False  # the last write broke off within a line
        self._failing = False
        self._queue: SimpleQueue[tuple[bytes, int] | bool] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=f"lines to {to}", daemon=True)
        self._thread.start()

    def put(self, block: bytes, lines: int) -> None:
        """`block` holds `lines` lines, each with its end."""
        if self._taken - self._done + len(block) > self._limit:
            self.overflowed += lines
            return
        self._taken += len(block)
        self._queue.put((block, lines))

    def reopen(self) -> None:
        """Go on in a new file of the same name, after what was put so far: for logrotate, which has moved the old one.
        The old one stays in use if there can be no new one."""
        self._queue.put(True)

    def close(self, patience: float) -> None:
        """Write what is waiting, for at most so many seconds. Blocks; later calls of `put` have no effect."""
        self._queue.put(False)
        self._thread.join(patience)

    # The thread ------------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        while (item := self._queue.get()) is not False:
            if item is True:
                self._open_anew()
                continue
            block, lines = item
            try:
                self._write(b"\n" + block if self._torn else block)
                self._failing = False
            except OSError as error:
                self.failed += lines
                if not self._failing:  # once, not for each block while the disk is full
                    self._failing = True
                    logger.warning("the access log %s cannot be written: %s", self.to, error.strerror)
            finally:
                self._done += len(block)
        if self.to not in STREAMS:
            os.close(self._file)

    def _write(self, data: bytes) -> None:
        left = memoryview(data)
        while left:
            try:
                written = os.write(self._file, left)
            except BlockingIOError:  # whoever shares our standard output has made it non-blocking
                select.select([], [self._file], [])
                continue
            left = left[written:]
            self._torn = bool(left)

    def _open_anew(self) -> None:
        if self.to in STREAMS:
            return
        try:
            file = _open(self.to)
        except OSError as error:
            logger.warning("%s; the old file stays in use", error)
            return
        os.close(self._file)
        self._file, self._torn = file, False


def _open(to: str) -> int:
    if to in STREAMS:
        return STREAMS[to]
    try:
        # non-blocking at first: a named pipe that nobody reads would not open at all
        file = os.open(Path(to), os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC, 0o640)
    except OSError as error:
        raise OSError(f"the access log {to} cannot be opened: {error.strerror}") from None
    os.set_blocking(file, True)
    return file
