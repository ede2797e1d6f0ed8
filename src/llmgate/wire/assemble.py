"""From the events of a streamed answer to the answer that the engine would have given without streaming.

For engines that work on for clients that have left, unless they stream: such a request is carried as a stream. Sans-IO.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from secrets import token_hex
from typing import Any

import msgspec

from llmgate.core.errors import ProtocolViolation, Truncated, UpstreamError
from llmgate.core.retry import RETRYABLE_STATUSES
from llmgate.wire.event_edits import EventSplitter, data_of

SET_ONCE = frozenset({"id", "type", "role", "object", "name"})
"""Strings of a delta that are said once or repeated; all others are pieces of a longer one."""

MOST_INDEXED = 1024
"""Items of a list that come in pieces by index, such as tool calls: each piece is looked for among all of them."""

Json = dict[str, Any]

SHAPELESS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError, TypeError, KeyError, AttributeError)
"""What comes of events that are no JSON, or not of the shape that they should have."""


class Assembly(ABC):
    """One answer. `feed` never raises; `finish` says what became of it."""

    model = ""  # the engine's name for it, where its stream does not tell

    def __init__(self) -> None:
        self._splitter = EventSplitter()
        self._failure: Json | None = None  # an error that the engine reports in its stream
        self.begun = False  # something of the answer has come
        self._done = False
        self._malformed = False

    def feed(self, chunk: bytes) -> None:
        for event in self._splitter.split(chunk):
            self._take(data_of(event))

    def finish(self) -> tuple[int, bytes]:
        """Status and JSON of the answer, which may be the engine's refusal; the stream has ended well as far as HTTP
        goes.

        Raises UpstreamError: Truncated if it lacks its end, ProtocolViolation if it is no such stream, or the plain one
        if the engine reports that it failed.
        """
        if rest := self._splitter.rest():
            self._take(data_of(rest))
        if self._failure is not None:
            code = self._failure.get("code")
            if self.begun or not isinstance(code, int) or not 400 <= code < 500 or code in RETRYABLE_STATUSES:
                raise UpstreamError("the engine reported an error in its stream")
            return code, msgspec.json.encode({"error": self._failure})
        if self._malformed:
            raise ProtocolViolation("the engine's stream cannot be put together to an answer")
        if not self.begun or not self._complete():
            raise Truncated("the engine's stream ended before its answer did")
        try:
            return 200, msgspec.json.encode(self._answer())
        except SHAPELESS:
            raise ProtocolViolation("the engine's stream cannot be put together to an answer") from None

    def _take(self, data: bytes) -> None:
        if not data:
            return
        if data.strip() == b"[DONE]":
            self._done = True
            return
        try:
            event = msgspec.json.decode(data)
            if not isinstance(event, dict):
                return  # llama.cpp sends `null` where it has nothing to say
            if isinstance(event.get("error"), dict):
                self._failure = event["error"]
                return
            self._add(event)
        except SHAPELESS:
            self._malformed = True

    def _complete(self) -> bool:
        return self._done

    @abstractmethod
    def _add(self, event: Json) -> None:
        """Take in an event; TypeError, KeyError or AttributeError if it is not of the expected shape."""

    @abstractmethod
    def _answer(self) -> Json: ...


class _ChoicesAssembly(Assembly):
    """OpenAI's chunks: fields of the whole answer, the last value of each, and pieces of its choices."""

    object = ""

    def __init__(self) -> None:
        super().__init__()
        self._fields: Json = {}
        self._choices: dict[int, Json] = {}

    def _add(self, event: Json) -> None:
        pieces = event.pop("choices", [])
        self._fields |= event
        for piece in pieces:
            self.begun = True
            index = piece.pop("index", 0)
            if index not in self._choices:
                self._choices[index] = self._begin()
            choice = self._choices[index]
            choice["finish_reason"] = piece.pop("finish_reason", None) or choice["finish_reason"]
            logprobs = piece.pop("logprobs", None)
            if logprobs is not None:
                choice["logprobs"] = (
                    logprobs if choice.get("logprobs") is None else joined(choice["logprobs"], logprobs)
                )
            self._piece(choice, piece)

    def _answer(self) -> Json:
        choices = [self._end(index, choice) for index, choice in sorted(self._choices.items())]
        return {"choices": choices, **self._fields, "object": self.object}

    def _complete(self) -> bool:
        return self._done or all(choice["finish_reason"] for choice in self._choices.values())  # some omit [DONE]

    def _begin(self) -> Json:
        return {"finish_reason": None}

    @abstractmethod
    def _piece(self, choice: Json, piece: Json) -> None: ...

    @abstractmethod
    def _end(self, index: int, choice: Json) -> Json: ...


class ChatAssembly(_ChoicesAssembly):
    object = "chat.completion"

    def _piece(self, choice: Json, piece: Json) -> None:
        delta = piece.pop("delta", {})
        choice["message"] = joined(choice.get("message") or {}, delta)
        choice |= piece

    def _end(self, index: int, choice: Json) -> Json:
        message = choice.get("message") or {}
        message = {"role": "assistant", "content": None} | message
        for call in message.get("tool_calls") or ():
            call.pop("index", None)
        return {**choice, "index": index, "message": message}


class CompletionAssembly(_ChoicesAssembly):
    object = "text_completion"

    def _begin(self) -> Json:
        return {"text": "", "logprobs": None, "finish_reason": None}

    def _piece(self, choice: Json, piece: Json) -> None:
        extend(choice, "text", piece.pop("text", None) or "")
        choice |= piece

    def _end(self, index: int, choice: Json) -> Json:
        return {**choice, "index": index}


class ResponseAssembly(Assembly):
    """The last event of a response holds all of it."""

    ENDS = frozenset({"response.completed", "response.incomplete", "response.failed"})

    def __init__(self) -> None:
        super().__init__()
        self._response: Json = {}

    def _add(self, event: Json) -> None:
        self.begun = self.begun or event["type"] not in ("response.created", "response.in_progress")
        if event["type"] in self.ENDS:
            self._response = event["response"]
            self.begun = self._done = True

    def _answer(self) -> Json:
        return self._response


class MessageAssembly(Assembly):
    """Anthropic's events: a message, its blocks piece by piece, and how it ended."""

    def __init__(self) -> None:
        super().__init__()
        self._message: Json = {}
        self._blocks: dict[int, Json] = {}
        self._inputs: dict[int, str] = {}  # of tool calls, JSON in pieces

    def _add(self, event: Json) -> None:
        match event["type"]:
            case "message_start":
                self._message = event["message"]
            case "content_block_start":
                self.begun = True
                self._blocks[event["index"]] = event["content_block"]
            case "content_block_delta":
                self._delta(event["index"], event["delta"])
            case "message_delta":
                self._message |= event["delta"]
                usage = {name: count for name, count in (event.get("usage") or {}).items() if count is not None}
                self._message["usage"] = (self._message.get("usage") or {}) | usage
            case "message_stop":
                self.begun = self._done = True

    def _delta(self, index: int, delta: Json) -> None:
        block = self._blocks[index]
        match delta["type"]:
            case "input_json_delta":
                extend(self._inputs, index, delta["partial_json"])
            case "citations_delta":
                citations = block["citations"] = block.get("citations") or []
                citations.append(delta["citation"])
            case _:  # text_delta, thinking_delta, signature_delta: one string each, named as in the block
                for name, piece in delta.items():
                    if name != "type":
                        extend(block, name, piece)

    def _answer(self) -> Json:
        for index, text in self._inputs.items():
            self._blocks[index]["input"] = msgspec.json.decode(text) if text else {}
        start: Json = {}
        if "id" not in self._message:  # llama.cpp sends no message_start if the first token is but part of a character
            start = {"id": f"msg_{token_hex(12)}", "type": "message", "role": "assistant", "model": self.model}
        return {**start, **self._message, "content": [block for _, block in sorted(self._blocks.items())]}


def extend(texts: dict[Any, Any], name: object, piece: str) -> None:
    """A text on top of what came before. TypeError if one of them is none."""
    text = texts.get(name) or ""
    texts[name] = None  # CPython extends a string in place if nobody else has it; copies, one a piece, take minutes
    text += piece
    texts[name] = text


def joined(before: Json, more: Json) -> Json:
    """A delta on top of what came before: texts and lists grow, numbers and what is said once are replaced. Items of a
    list that have an `index` are pieces of the item with that index."""
    for name, piece in more.items():
        known = before.get(name)
        if piece is None:
            before.setdefault(name, None)
        elif known is None or name in SET_ONCE:
            before[name] = piece if piece != "" or known is None else known
            if isinstance(piece, list):
                before[name] = _merged([], piece)
        elif isinstance(known, str) and isinstance(piece, str):
            del known  # see `extend`
            extend(before, name, piece)
        elif isinstance(known, dict) and isinstance(piece, dict):
            before[name] = joined(known, piece)
        elif isinstance(known, list) and isinstance(piece, list):
            before[name] = _merged(known, piece)
        else:
            before[name] = piece
    return before


def _merged(known: list[Any], more: list[Any]) -> list[Any]:
    """TypeError if there are too many to look through."""
    for item in more:
        index = item.get("index") if isinstance(item, dict) else None
        same = None if index is None else next((each for each in known if each.get("index") == index), None)
        if same is None:
            if index is not None and len(known) >= MOST_INDEXED:
                raise TypeError
            known.append(item)
        else:
            joined(same, item)
    return known
