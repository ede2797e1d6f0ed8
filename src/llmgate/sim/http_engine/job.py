"""One completion request on its way through the engine, and the answer that it gets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llmgate.engines.request import EngineRequest
from llmgate.sim.http_engine.answer import DONE, Named, Stream, usage, whole
from llmgate.sim.http_engine.errors import Refused
from llmgate.sim.http_engine.http import Exchange
from llmgate.sim.http_engine.tokenizer import TokenIds


@dataclass(slots=True, eq=False)
class Job:
    """Times are the engine's, in seconds. The last of `pieces` is empty where the answer ends of its own accord: it is
    the token that ends it."""

    exchange: Exchange
    request: EngineRequest
    named: Named
    chat: bool
    pieces: list[bytes]  # one a token, as they stand within a JSON string
    reason: str  # why it will end: stop, length
    max_tokens: int
    stream: Stream | None  # None: answered as a whole
    ids: TokenIds  # of the prompt and the answer
    lora: tuple[int, str] | None = None  # id and name of its adapter
    salt: str | None = None
    tell_times: bool = False
    tell_cached: bool = False
    break_after: int | None = None  # events, then the stream is cut
    arrived: float = 0.0
    scheduled: float | None = None
    first: float | None = None  # its first token
    last: float = 0.0  # when its tokens were last looked at
    cached: int = 0
    preemptions: int = 0
    counted: int = 0  # tokens that have been seen
    sent: int = 0  # tokens that have been written
    started: bool = False  # what goes before the first token is out
    cut: bool = False

    def start(self) -> None:
        """Its head, which vLLM sends before there is a token."""
        if self.stream is not None:
            self.exchange.start_stream()

    def write(self, tokens: int) -> None:
        """Let go out what it has produced by now, all but the last token: `finish` does that."""
        if self.stream is None or self.cut:
            return
        upto = min(tokens, len(self.pieces) - 1)
        if self.break_after is not None:
            room = self.break_after - (1 if self.chat else 0)
            self.cut = upto >= room
            upto = min(upto, room)
        data = self.stream.tokens(self.pieces[self.sent : upto], self.sent)
        if tokens and not self.started:
            data = self.stream.first() + data
            self.started = True
        self.sent = max(self.sent, upto)
        if data:
            self.exchange.write(data)
        if self.cut:
            self.exchange.cut()

    def finish(self, at: float, tokens: int, reason: str) -> None:
        """It has ended at `at` with so many tokens."""
        counted = self._usage(at, tokens)
        if self.stream is None:
            body = whole(self.named, b"".join(self.pieces[:tokens]), reason, counted, chat=self.chat)
            self.exchange.respond(200, body)
            return
        whole_answer = tokens == len(self.pieces)
        self.write(tokens)
        if not self.cut:
            last = self.pieces[-1] if whole_answer else b""
            before = b"" if self.started else self.stream.first()
            self.exchange.end(before + self.stream.finish(last, tokens, reason, counted))

    def fail(self, refused: Refused) -> None:
        """It cannot be served after all; the head of a stream is out already."""
        if self.stream is None:
            self.exchange.respond(refused.status, refused.body)
        else:
            self.exchange.end(b"data: %b\n\n" % refused.body + DONE)

    def _usage(self, at: float, tokens: int) -> dict[str, Any]:
        counted = usage(self.request.prompt_tokens, tokens)
        if self.stream is None:
            counted["prompt_tokens_details"] = None
        if self.tell_cached:
            counted["prompt_tokens_details"] = self._details()
        if self.stream is None:
            counted["completion_tokens_details"] = None
        if self.tell_times:
            counted["x_sim"] = self._times(at, tokens)
        return counted

    def _details(self) -> dict[str, int | None]:
        block = self.request.block_tokens
        created = self.request.prompt_tokens // block * block - self.cached
        details: dict[str, int | None] = {"cached_tokens": self.cached}
        if self.chat or self.stream is None:
            details["created_cache_tokens"] = created if self.chat else None
        if self.stream is None:
            details["multimodal_tokens"] = None
        return details

    def _times(self, at: float, tokens: int) -> dict[str, float | int | None]:
        """What the model says, in its own seconds."""
        ttft = None if self.first is None else self.first - self.arrived
        decoded = at - self.first if self.first is not None and tokens > 1 else None
        return {
            "arrival_s": self.arrived,
            "ttft_s": ttft,
            "tpot_s": None if decoded is None else decoded / (tokens - 1),
            "e2e_s": at - self.arrived,
            "cached_tokens": self.cached,
        }
