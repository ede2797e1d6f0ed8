"""Starts llama.cpp engines, a process each, so that one can be killed without harm to the others."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import IO, Final, Self

from llmgate.core.errors import LlmgateError
from llmgate.demo.engine import EngineOptions

LOAD_TIMEOUT: Final = 60.0  # seconds; SmolLM2-135M takes less than one, a cold disk some more
STOP_TIMEOUT: Final = 5.0  # seconds between SIGTERM and SIGKILL
LOG_TAIL: Final = 4096  # bytes


class EngineFailed(LlmgateError):
    """An engine did not start. The message is one sentence with the engine's own reason."""

    code = "engine_failed"


class Engine:
    """A running engine. It ends with `stop()`, with `kill()`, or with this process, however that ends."""

    def __init__(self, options: EngineOptions) -> None:
        command = [
            *(sys.executable, "-P", "-m", "llmgate.demo.engine", "--with-parent"),  # -P: nothing from the cwd
            *("--model", str(options.model), "--alias", options.alias, "--port", str(options.port)),
            *("--ctx", str(options.ctx), "--slots", str(options.slots), "--threads", str(options.threads)),
        ]
        self.options = options
        self.url = ""  # known once it is ready
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (closed when the engine has ended)
        self._process: subprocess.Popen[bytes] = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,  # held open, never written: its end tells the engine that this process is gone
            stdout=subprocess.PIPE,
            stderr=self._log,
            process_group=0,  # Ctrl-C is for the gateway, which first finishes what is in flight
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def wait_ready(self, timeout: float = LOAD_TIMEOUT) -> None:
        """Returns when the model is loaded and the engine answers at `url`.

        `timeout` is seconds. Raises EngineFailed when it ended instead or took too long.
        """
        stdout = _pipe(self._process.stdout)
        deadline = time.monotonic() + timeout
        line = b""
        # Read with os.read: a buffered reader could hide a part of the line from select.
        while not line.endswith(b"\n"):
            remaining = max(0.0, deadline - time.monotonic())
            if not select.select([stdout], [], [], remaining)[0]:
                raise EngineFailed(f"The engine for {self.options.alias} did not load within {timeout:g} s.")
            piece = os.read(stdout.fileno(), 1024)
            if not piece:
                self._process.wait()
                raise EngineFailed(f"The engine for {self.options.alias} did not start: {self._reason()}.")
            line += piece
        self.url = line.decode().strip()

    def kill(self) -> None:
        """SIGKILL, as a crash would look; returns when the process is gone."""
        self._process.kill()
        self._close()

    def stop(self) -> None:
        """SIGTERM, and SIGKILL when that is not obeyed; returns when the process is gone. May be called twice."""
        self._process.terminate()
        try:
            self._process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._close()

    def _close(self) -> None:
        self._process.wait()
        _pipe(self._process.stdin).close()
        _pipe(self._process.stdout).close()
        self._log.close()

    def _reason(self) -> str:
        """The first error that the engine logged (the later ones follow from it), else how it ended."""
        # pread leaves the offset alone, which the child shares.
        log = os.pread(self._log.fileno(), LOG_TAIL, max(0, os.fstat(self._log.fileno()).st_size - LOG_TAIL))
        lines = [line.strip() for line in log.decode(errors="replace").splitlines() if line.strip()]
        # llama.cpp's lines read `0.00.005.276 E what: why`, a traceback's last line says the most
        llama = [line.partition(" E ")[2] for line in lines if " E " in line]
        return (llama[:1] or lines[-1:] or [f"exit code {self._process.returncode}"])[0].rstrip(".")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<Engine {self.options.alias} {self.url or 'loading'} pid={self.pid}>"


@contextlib.contextmanager
def start_engines(
    options: EngineOptions,
    count: int = 2,
    *,
    on_ready: Callable[[Engine], None] = lambda engine: None,
    timeout: float = LOAD_TIMEOUT,
) -> Iterator[Sequence[Engine]]:
    """Runs `count` engines of the same model side by side; they load at the same time and end with the block.

    Blocks while they load: call it before the event loop starts, or in a thread. `on_ready` is told of each engine that
    answers. `timeout` is seconds for each. Raises EngineFailed when one cannot start; the others are then stopped.
    """
    with contextlib.ExitStack() as stack:
        engines = [stack.enter_context(Engine(options)) for _ in range(count)]
        for engine in engines:
            engine.wait_ready(timeout)
            on_ready(engine)
        yield engines


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None, "the process was started with pipes"
    return stream
