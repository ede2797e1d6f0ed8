"""What some clients asked and were answered, for finding out what goes wrong with them. It is the only place where
texts are written, for clients whose keys are listed, with what looks like a secret taken out."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Collection, Iterable, Iterator
from hashlib import sha256
from typing import Any

import msgspec
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from llmgate.telemetry.line_writer import LineWriter
from llmgate.wire.headers import Header
from llmgate.wire.redaction import Leak, redact

CLOSE_SECONDS = 2.0
LONGEST_SECRET = 4096
"""Characters."""
TEXTS = frozenset(
    ["content", "reasoning_content", "reasoning", "text", "delta", "arguments", "partial_json", "thinking"]
)
"""Fields of events in which engines' APIs have texts."""

_encode = msgspec.json.Encoder().encode


def fingerprint(key: str) -> str:
    """What stands for a client's key in the configuration: `printf %s "$KEY" | sha256sum`."""
    return sha256(key.encode()).hexdigest()


def client_keys(credentials: Iterable[Header]) -> Iterator[str]:
    for name, value in credentials:
        text = value.decode("latin-1")
        if name == b"authorization":
            scheme, _, rest = text.partition(" ")
            yield rest.strip() if scheme.lower() in ("bearer", "basic") else text
        elif name in (b"x-api-key", b"api-key"):
            yield text.strip()


def answer_text(raw: bytes) -> bytes:
    """Of a stream what its events say together: a secret that comes in pieces would not be seen as one."""
    if not raw.startswith((b"data:", b"event:", b":")):
        return raw
    pieces: list[str] = []
    for line in raw.splitlines():
        if line.startswith(b"data:") and line[5:].strip() != b"[DONE]":
            try:
                _collect(msgspec.json.decode(line[5:]), pieces)
            except (msgspec.DecodeError, RecursionError):
                continue  # cut off, or no event of an engine's
    return "".join(pieces).encode()


def _collect(said: Any, pieces: list[str]) -> None:
    """The texts of an event, in their order: those of deltas, whatever API they are of."""
    if isinstance(said, dict):
        for key, value in said.items():
            if isinstance(value, str) and key in TEXTS:
                pieces.append(value)
            else:
                _collect(value, pieces)
    elif isinstance(said, list):
        for each in said:
            _collect(each, pieces)


class DebugLog(Collector):
    """A line of JSON a request. Raises OSError if the file cannot be opened; it is only its owner's to read."""

    def __init__(self, to: str, keys: Collection[str], *, most: int, secrets: Collection[str] = ()) -> None:
        """`keys` are beginnings of fingerprints, `most` the bytes of each text that are kept, `secrets` the gateway's
        own."""
        os.close(os.open(to, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600))
        self.most = most
        self._keys = tuple(keys)
        self._secrets = frozenset(secrets)
        self._writer = LineWriter(to)
        self.withheld = 0  # texts in which something secret was left

    def wants(self, credentials: Iterable[Header]) -> bool:
        """Whether one of a client's keys is listed."""
        return any(fingerprint(key).startswith(self._keys) for key in client_keys(credentials))

    def write(
        self,
        *,
        at: float,
        request_id: str,
        model: str | None,
        endpoint: str | None,
        status: int,
        credentials: Iterable[Header],
        asked: bytes,
        answered: bytes,
    ) -> None:
        known = self._secrets.union(client_keys(credentials))
        line = {
            "ts": at,
            "request_id": request_id,
            "model": model,
            "endpoint": endpoint,
            "status": status,
            "asked": self._text(asked, known),
            "answered": self._text(answer_text(answered), known),
        }
        self._writer.put(_encode(line) + b"\n", 1)

    def collect(self) -> Iterator[Metric]:
        family = CounterMetricFamily(
            "llmgate_debug_log_withheld", "Texts that were not written as something secret was left in them."
        )
        family.add_metric((), self.withheld)
        yield family

    def reopen(self) -> None:
        self._writer.reopen()

    async def close(self) -> None:
        await asyncio.to_thread(self._writer.close, CLOSE_SECONDS)

    def _text(self, raw: bytes, known: Collection[str]) -> str | None:
        """Cut before it is looked through, which holds the event loop up, and again after that, by as much as a secret
        may be long: of one that was cut in two nothing is left."""
        text = raw.decode("utf-8", "replace")
        beginning = text[: self.most + LONGEST_SECRET]
        try:
            done = redact(beginning, known)
        except Leak:
            self.withheld += 1
            return None
        if len(beginning) < len(text):
            done = done[:-LONGEST_SECRET]
        return done if len(done) <= self.most and len(beginning) == len(text) else f"{done[: self.most]}…"
