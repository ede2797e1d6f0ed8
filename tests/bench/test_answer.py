from __future__ import annotations

import itertools
import json
from array import array
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgate.bench.answer import ErrorEvent, Malformed, StreamReader, check_whole, error_message

STREAMS = Path(__file__).parents[1] / "data" / "streams"


def event(**delta: object) -> bytes:
    return b"data: " + json.dumps({"choices": [{"index": 0, "delta": delta}]}).encode() + b"\n\n"


def read(*pieces: bytes) -> StreamReader:
    """Reads one piece a second."""
    reader = StreamReader(array("d"))
    for second, piece in enumerate(pieces):
        reader.feed(piece, float(second))
    reader.end(float(len(pieces)))
    return reader


def test_only_events_with_content_arrive() -> None:
    reader = read(
        event(role="assistant", content=""),
        event(content="a"),
        event(reasoning_content="b"),
        event(tool_calls=[{"index": 0}]),
        event(),
        b'data: {"choices": [{"delta": {}, "finish_reason": "stop"}]}\n\n',
        b'data: {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 4}}\n\n',
        b"data: [DONE]\n\n",
    )
    assert list(reader.arrivals) == [1, 2, 3]
    assert reader.finished
    assert reader.done
    usage = reader.usage()
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens) == (3, 4)


def test_the_text_of_a_completion_is_content() -> None:
    assert list(read(b'data: {"choices": [{"text": "a"}]}\n\ndata: {"choices": [{"text": ""}]}\n\n').arrivals) == [0]


def test_an_event_arrives_with_the_read_that_ends_it() -> None:
    whole = event(content="a")
    assert list(read(whole[:9], whole[9:-1], whole[-1:]).arrivals) == [2]


def test_events_of_one_read_arrive_together() -> None:
    assert list(read(event(content="a") + event(content="b")).arrivals) == [0, 0]


def test_comments_do_not_count() -> None:
    assert list(read(b": keep-alive\n\n", event(content="a")).arrivals) == [1]


@pytest.mark.parametrize("file", ["chat.sse", "completion.sse", "multi-line.sse", "comments.sse"])
@given(cuts=st.lists(st.integers(0, 4000), max_size=20), ends=st.sampled_from([b"\n", b"\r\n", b"\r"]))
def test_recorded_streams_are_read_alike_wherever_they_are_cut(file: str, cuts: list[int], ends: bytes) -> None:
    text = (STREAMS / file).read_bytes()
    whole = _tolerant(text)
    text = text.replace(b"\n", ends)
    borders = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    pieces = [text[a:b] for a, b in itertools.pairwise(borders)]
    assert _tolerant(*pieces) == whole


def _tolerant(*pieces: bytes) -> tuple[int, bool, str]:
    reader, failure = StreamReader(array("d")), ""
    try:
        for piece in pieces:
            reader.feed(piece, 0.0)
        reader.end(0.0)
    except Malformed as error:
        failure = str(error)
    return len(reader.arrivals), reader.done, failure


@given(st.lists(st.binary(max_size=60), max_size=6))
def test_any_bytes_are_read_or_refused(pieces: list[bytes]) -> None:
    try:
        reader = read(*pieces)
    except (Malformed, ErrorEvent):
        return
    assert reader.done or reader.finished or reader.arrivals


@pytest.mark.parametrize("text", [b"data: {oops\n\n", b"<html>", b"", b"data: []\n\n", b'data: {"choices": 3}\n\n'])
def test_what_is_no_stream_is_malformed(text: bytes) -> None:
    with pytest.raises(Malformed):
        read(text)


def test_an_error_within_a_stream_is_told() -> None:
    with pytest.raises(ErrorEvent, match="out of blocks"):
        read(event(content="a"), b'data: {"error": {"message": "out of  blocks"}}\n\n')


def test_a_whole_answer_has_choices_and_perhaps_usage() -> None:
    usage = check_whole(b'{"choices": [{"message": {"content": "a"}}], "usage": {"prompt_tokens": 5}}')
    assert usage is not None
    assert usage.prompt_tokens == 5
    assert check_whole(b'{"choices": [{"text": "a"}]}') is None
    for broken in (b"{}", b"<html>", b"[]"):
        with pytest.raises(Malformed):
            check_whole(broken)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"error": {"message": "too\\nlong"}}', "too long"),
        (b'{"error": "no"}', "no"),
        (b'{"message": "no"}', "no"),
        (b'{"detail": "no"}', "no"),
        (b'{"error": {}}', ""),
        (b"<html>", ""),
        (b'{"error": "' + b"x" * 999 + b'"}', "x" * 200),
    ],
)
def test_what_an_error_says_fits_a_line(body: bytes, said: str) -> None:
    assert error_message(body) == said
