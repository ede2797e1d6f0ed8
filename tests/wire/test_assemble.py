"""From a stream's events to the answer that the engine would have given without streaming."""

from __future__ import annotations

import json
from itertools import pairwise
from time import process_time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgate.core.errors import ProtocolViolation, Truncated, UpstreamError
from llmgate.wire.assemble import (
    MOST_INDEXED,
    Assembly,
    ChatAssembly,
    CompletionAssembly,
    MessageAssembly,
    ResponseAssembly,
)

DONE = b"data: [DONE]\n\n"


def events(*payloads: Any) -> bytes:
    return b"".join(b"data: %b\n\n" % json.dumps(payload).encode() for payload in payloads)


def answer(assembly: Assembly, stream: bytes) -> Any:
    assembly.feed(stream)
    status, body = assembly.finish()
    assert status == 200
    return json.loads(body)


def chunk(delta: dict[str, Any], index: int = 0, finish: str | None = None, **more: Any) -> dict[str, Any]:
    choice = {"index": index, "delta": delta, "finish_reason": finish}
    if "logprobs" in more:
        choice["logprobs"] = more.pop("logprobs")
    return {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice], **more}


def block_delta(delta: dict[str, Any]) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": 0, "delta": delta}


CALL = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": ""}}
CHAT = (
    b": ping\n\ndata: null\n\n"
    + events(
        chunk({"role": "assistant", "content": None}, 1, system_fingerprint="f"),
        chunk({"role": "assistant", "content": None}),
        chunk({"reasoning_content": "hm"}),
        chunk({"reasoning_content": "m"}),
        chunk({"content": "d"}, 1, logprobs={"content": [{"token": "d", "logprob": -1}], "refusal": None}),
        chunk({"content": "é"}, 1, logprobs={"content": [{"token": "é", "logprob": -2}], "refusal": None}),
        chunk({"tool_calls": [{"index": 0, **CALL}]}),
        chunk({"tool_calls": [{"index": 0, "function": {"arguments": '{"a"'}}]}),
        chunk({"tool_calls": [{"index": 1, **CALL, "id": "call_2"}]}),
        chunk({"tool_calls": [{"index": 0, "function": {"arguments": ":1}"}}]}),
        chunk({"tool_calls": [{"index": 1, "function": {"arguments": "{}"}}]}),
        chunk({}, 0, "tool_calls"),
        chunk({}, 1, "stop", timings={"n": 1}),
        {
            "id": "c",
            "object": "chat.completion.chunk",
            "choices": [],
            "usage": {"prompt_tokens": 5},
            "timings": {"n": 2},
        },
    )
    + DONE
)
WHOLE_CHAT = {
    "id": "c",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "system_fingerprint": "f",
    "usage": {"prompt_tokens": 5},
    "timings": {"n": 2},
    "choices": [
        {
            "index": 0,
            "finish_reason": "tool_calls",
            "message": {
                "role": "assistant",
                "content": None,
                "reasoning_content": "hmm",
                "tool_calls": [
                    {**CALL, "function": {"name": "look", "arguments": '{"a":1}'}},
                    {**CALL, "id": "call_2", "function": {"name": "look", "arguments": "{}"}},
                ],
            },
        },
        {
            "index": 1,
            "finish_reason": "stop",
            "message": {"role": "assistant", "content": "dé"},
            "logprobs": {
                "content": [{"token": "d", "logprob": -1}, {"token": "é", "logprob": -2}],
                "refusal": None,
            },
        },
    ],
}


def test_a_chat_with_everything_is_put_together() -> None:
    assert answer(ChatAssembly(), CHAT) == WHOLE_CHAT


@given(cuts=st.lists(st.integers(0, 10_000), max_size=30))
def test_wherever_the_chunks_are_cut(cuts: list[int]) -> None:
    assembly = ChatAssembly()
    edges = [0, *sorted(cut % len(CHAT) for cut in cuts), len(CHAT)]
    for start, end in pairwise(edges):
        assembly.feed(CHAT[start:end])
    assert json.loads(assembly.finish()[1]) == WHOLE_CHAT


def test_completions_of_several_prompts_are_put_together_in_their_order() -> None:
    def piece(text: str, index: int, finish: str | None = None, **more: Any) -> dict[str, Any]:
        choice = {"text": text, "index": index, "logprobs": None, "finish_reason": finish}
        return {"id": "c", "object": "text_completion", "choices": [choice], **more}

    stream = events(piece("b", 1), piece("a", 0), piece("B", 1), piece("", 1, "stop"), piece("", 0, "length", usage={}))
    assert answer(CompletionAssembly(), stream + DONE) == {
        "id": "c",
        "object": "text_completion",
        "usage": {},
        "choices": [
            {"index": 0, "text": "a", "logprobs": None, "finish_reason": "length"},
            {"index": 1, "text": "bB", "logprobs": None, "finish_reason": "stop"},
        ],
    }


def test_legacy_logprobs_grow_list_by_list() -> None:
    def piece(token: str, at: int, finish: str | None = None) -> dict[str, Any]:
        logprobs = {"tokens": [token], "text_offset": [at], "top_logprobs": [{token: -0.5}]}
        return {"choices": [{"text": token, "index": 0, "logprobs": logprobs, "finish_reason": finish}]}

    (choice,) = answer(CompletionAssembly(), events(piece("a", 0), piece("b", 1, "stop")))["choices"]
    assert choice["logprobs"] == {
        "tokens": ["a", "b"],
        "text_offset": [0, 1],
        "top_logprobs": [{"a": -0.5}, {"b": -0.5}],
    }


def test_a_response_is_what_its_last_event_says() -> None:
    response = {"id": "r", "status": "completed", "output": [], "usage": {"input_tokens": 1}}
    stream = events(
        {"type": "response.created", "response": {"id": "r", "status": "in_progress"}},
        {"type": "response.output_text.delta", "delta": "x"},
        {"type": "response.completed", "response": response, "timings": {}},
    )
    assert answer(ResponseAssembly(), stream) == response


def test_a_message_is_put_together_from_its_blocks() -> None:
    stream = events(
        {"type": "message_start", "message": {"id": "i", "content": [], "usage": {"input_tokens": 3}}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "h"}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "m"}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "signature_delta", "signature": "s"}},
        {"type": "content_block_start", "index": 1, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": "Hi"}},
        {"type": "content_block_delta", "index": 1, "delta": {"type": "citations_delta", "citation": {"n": 1}}},
        {"type": "content_block_start", "index": 2, "content_block": {"type": "tool_use", "name": "f", "input": {}}},
        {"type": "content_block_delta", "index": 2, "delta": {"type": "input_json_delta", "partial_json": '{"a":'}},
        {"type": "content_block_delta", "index": 2, "delta": {"type": "input_json_delta", "partial_json": "1}"}},
        {"type": "content_block_stop", "index": 2},
        {"type": "ping"},
        {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 9}},
        {"type": "message_stop"},
    )
    assert answer(MessageAssembly(), stream) == {
        "id": "i",
        "stop_reason": "tool_use",
        "usage": {"input_tokens": 3, "output_tokens": 9},
        "content": [
            {"type": "thinking", "thinking": "hm", "signature": "s"},
            {"type": "text", "text": "Hi", "citations": [{"n": 1}]},
            {"type": "tool_use", "name": "f", "input": {"a": 1}},
        ],
    }


EVERY_ASSEMBLY = [ChatAssembly, CompletionAssembly, ResponseAssembly, MessageAssembly]


@pytest.mark.parametrize("assembly", EVERY_ASSEMBLY)
def test_a_refusal_before_anything_is_the_engines_answer_and_a_failure_is_a_failure(assembly: type[Assembly]) -> None:
    for code in (400, 413, 503, 500, 429, "x", 200, None, True):
        made = assembly()
        made.feed(events({"error": {"message": "no", "code": code}}))
        if code in (400, 413):
            status, body = made.finish()
            assert (status, json.loads(body)) == (code, {"error": {"message": "no", "code": code}})
        else:
            with pytest.raises(UpstreamError):
                made.finish()


def test_an_error_after_something_is_a_failure() -> None:
    assembly = ChatAssembly()
    assembly.feed(events(chunk({"content": "x"}), {"error": {"message": "secret", "code": 500}}) + DONE)
    with pytest.raises(UpstreamError, match="reported an error") as raised:
        assembly.finish()
    assert "secret" not in raised.value.message


def test_a_stream_that_lacks_its_end_is_truncated() -> None:
    for assembly, stream in (
        (ChatAssembly(), events(chunk({"content": "x"}))),
        (ChatAssembly(), DONE),
        (ChatAssembly(), b""),
        (MessageAssembly(), events({"type": "message_start", "message": {}})),
        (ResponseAssembly(), events({"type": "response.output_text.delta"})),
    ):
        assembly.feed(stream)
        with pytest.raises(Truncated):
            assembly.finish()


def test_the_last_event_counts_without_its_empty_line_too() -> None:
    assert answer(ChatAssembly(), events(chunk({"content": "x"}, 0, "stop")).rstrip())["choices"][0]["index"] == 0
    assert answer(ChatAssembly(), events(chunk({"content": "x"})) + DONE.rstrip())["choices"][0]["index"] == 0


SHAPELESS = [
    {"choices": [7]},
    {"choices": 7},
    {"choices": [{"delta": 7}]},
    {"choices": [{"index": [], "delta": {}}]},
    {"choices": [{"text": 7}]},
    {"type": "content_block_delta", "index": 9, "delta": {}},
    {"no": "type"},
]


@pytest.mark.parametrize("assembly", EVERY_ASSEMBLY)
def test_what_is_no_such_stream_is_a_violation_or_lacks_its_end(assembly: type[Assembly]) -> None:
    for stream in (b"data: {nonsense\n\n", b"data: \xff\n\n", *map(events, SHAPELESS)):
        made = assembly()
        made.feed(stream)
        try:
            made.finish()
        except (ProtocolViolation, Truncated):
            continue


@pytest.mark.parametrize(
    ("assembly", "piece"),
    [
        (ChatAssembly, chunk({"content": "x" * 64_000})),
        (ChatAssembly, chunk({"tool_calls": [{"index": 0, "function": {"arguments": "x" * 64_000}}]})),
        (CompletionAssembly, {"choices": [{"index": 0, "text": "x" * 64_000}]}),
        (MessageAssembly, block_delta({"type": "text_delta", "text": "x" * 64_000})),
        (MessageAssembly, block_delta({"type": "input_json_delta", "partial_json": "x" * 64_000})),
    ],
    ids=["chat", "tool call", "completion", "message", "tool use"],
)
def test_time_grows_with_the_answer_and_not_with_its_square(assembly: type[Assembly], piece: dict[str, Any]) -> None:
    """A text is not copied for each of its pieces: an engine that never ends would stop the gateway."""
    made = assembly()
    made.feed(events({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}))
    event = events(piece)
    started = process_time()
    for _ in range(1_000):
        made.feed(event)
    assert process_time() - started < 4  # seconds; it takes a half, and took 20


def test_more_tool_calls_than_anyone_makes_are_no_answer() -> None:
    """Each piece is looked for among all that came before."""
    for calls, fits in ((MOST_INDEXED, True), (MOST_INDEXED + 1, False)):
        made = ChatAssembly()
        for index in range(calls):
            made.feed(events(chunk({"tool_calls": [CALL | {"index": index}]})))
        made.feed(DONE)
        if fits:
            assert made.finish()[0] == 200
        else:
            with pytest.raises(ProtocolViolation):
                made.finish()


KEYS = ["choices", "type", "error", "delta", "index", "content_block", "content", "tool_calls", "text", "finish_reason"]
JSONS = st.recursive(
    st.none() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=8,
)


@given(st.lists(st.dictionaries(st.sampled_from(KEYS), JSONS, max_size=4), max_size=5))
def test_no_json_makes_it_raise_anything_else(payloads: list[dict[str, Any]]) -> None:
    for assembly in EVERY_ASSEMBLY:
        made = assembly()  # type: ignore[abstract]
        made.feed(events(*payloads) + DONE)
        try:
            json.loads(made.finish()[1])
        except UpstreamError:
            continue


def test_a_message_whose_stream_lacks_its_start_gets_one() -> None:
    assembly = MessageAssembly()
    assembly.model = "m"
    stream = events(
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hi"}},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 1}},
        {"type": "message_stop"},
    )
    made = answer(assembly, stream)
    assert made.pop("id").startswith("msg_")
    assert made == {
        "type": "message",
        "role": "assistant",
        "model": "m",
        "stop_reason": "end_turn",
        "usage": {"output_tokens": 1},
        "content": [{"type": "text", "text": "Hi"}],
    }
