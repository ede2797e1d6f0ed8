"""A stream is changed where that is meant, and nowhere else, wherever its chunks are cut."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from random import Random
from time import process_time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgate.wire.event_edits import (
    MOST_HELD,
    WITHOUT_USAGE_CHUNK,
    EventEditor,
    EventSplitter,
    data_of,
    events_of,
    renaming,
)

STREAMS = sorted((Path(__file__).parent.parent / "data" / "streams").glob("*.sse"))

BEFORE = (
    b": ping\n\n"
    b'data: {"choices":[{"delta":{"role":"assistant","content":""}}],"usage":null}\n\n'
    b'data: {"choices":[{"delta":{"content":"\\"choices\\":[],\\"usage\\":{\\"prompt_tokens\\":1}"}}]}\n\n'
    b'data: {"choices":[],"prompt_filter_results":[{"prompt_index":0}]}\n\n'
    b'data: {"choices":[{"delta":{},"finish_reason":"stop"}],"usage":{"prompt_tokens":12,"completion_tokens":2}}\n\n'
)
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":12,"completion_tokens":3}}\n\n'
AFTER = b"data: [DONE]\n\n"
LINE_ENDS = [b"\n", b"\r\n", b"\r"]


def edited(pieces: list[bytes], *edits: object) -> bytes:
    editor = EventEditor(edits or (WITHOUT_USAGE_CHUNK,))  # type: ignore[arg-type]
    return b"".join(map(editor.feed, pieces)) + editor.rest()


@pytest.mark.parametrize("line_end", LINE_ENDS)
def test_the_usage_chunk_is_taken_out_at_every_cut_and_no_other_byte_is_changed(line_end: bytes) -> None:
    stream, wanted = ((BEFORE + chunk + AFTER).replace(b"\n", line_end) for chunk in (USAGE, b""))
    for at in range(len(stream) + 1):
        assert edited([stream[:at], stream[at:]]) == wanted, at


@pytest.mark.parametrize("line_end", LINE_ENDS)
@given(cuts=st.lists(st.integers(0, 10_000), max_size=60))
def test_the_usage_chunk_is_taken_out_wherever_there_are_many_cuts(line_end: bytes, cuts: list[int]) -> None:
    stream, wanted = ((BEFORE + chunk + AFTER).replace(b"\n", line_end) for chunk in (USAGE, b""))
    edges = [0, *sorted(cut % len(stream) for cut in cuts), len(stream)]
    assert edited([stream[start:end] for start, end in pairwise(edges)]) == wanted


def test_byte_by_byte() -> None:
    stream = BEFORE + USAGE + AFTER
    assert edited([stream[n : n + 1] for n in range(len(stream))]) == BEFORE + AFTER


@pytest.mark.parametrize("file", STREAMS, ids=lambda file: file.stem)
def test_recorded_streams_pass_byte_for_byte_and_lose_only_a_usage_chunk(file: Path) -> None:
    recorded = file.read_bytes()
    random = Random(file.name)
    end = recorded.rfind(b"data: [D")
    with_usage = recorded[:end] + USAGE + recorded[end:]
    for _ in range(50):
        cuts = [0, *sorted(random.sample(range(1, len(recorded)), min(40, len(recorded) // 3))), len(with_usage)]
        for stream in (recorded, with_usage):
            assert edited([stream[start:stop] for start, stop in pairwise(cuts)]) == recorded


def test_an_event_goes_on_as_soon_as_it_is_whole() -> None:
    editor = EventEditor((WITHOUT_USAGE_CHUNK,))
    assert editor.feed(b'data: {"choices":[1]}\n\nda') == b'data: {"choices":[1]}\n\n'
    assert editor.feed(b"ta: 2\n") == b""
    assert editor.feed(b"\n") == b"data: 2\n\n"
    assert editor.feed(b"data: 3\r\n\r\n") == b"data: 3\r\n\r\n"
    assert editor.feed(b"data: 4\r\r") == b"data: 4\r\r"
    assert editor.rest() == b""


def test_comments_within_the_removed_event_stay() -> None:
    assert edited([b": before\n" + USAGE + AFTER]) == b": before\n" + AFTER


def test_a_usage_chunk_of_several_lines_is_taken_out() -> None:
    lines = b'event: x\nid: 7\ndata: {"choices":[],\ndata: "usage":{"prompt_tokens":1}}\n\n'
    assert edited([lines + AFTER]) == AFTER


@pytest.mark.parametrize(
    "event",
    [
        b'data: {"usage":{"prompt_tokens":1}}',
        b'data: {"choices":null,"usage":{"prompt_tokens":1}}',
        b'data: {"choices":[],"usage":null,"prompt_tokens":1}',
        b'data: {"choices":[],"usage":{"prompt_tokens":1}',
        b'data: [{"choices":[],"usage":{"prompt_tokens":1}}]',
        b'data: \xff "prompt_tokens"',
    ],
)
def test_what_only_looks_like_it_stays(event: bytes) -> None:
    assert edited([event + b"\n\n"]) == event + b"\n\n"


def test_an_event_too_long_to_be_held_passes_unedited_and_the_next_is_edited_again() -> None:
    long = b'data: {"choices":[],"usage":{"prompt_tokens":1},"x":"' + b"x" * MOST_HELD
    editor = EventEditor((WITHOUT_USAGE_CHUNK,))
    assert editor.between_events
    assert editor.feed(long) == long
    assert not editor.between_events
    assert editor.feed(b"x") == b""
    assert editor.feed(b'"}\n\n' + USAGE + AFTER) == b'x"}\n\n' + AFTER
    assert editor.between_events


def test_time_grows_with_the_stream_and_not_with_its_square() -> None:
    """An event in many pieces, and one in tiny ones: looking through all that is held for each takes minutes."""
    splitter, editor = EventSplitter(), EventEditor((WITHOUT_USAGE_CHUNK,))
    started = process_time()
    for _ in range(512):
        assert splitter.whole(b"x" * 65_536) == b""
    assert len(splitter.whole(b"\n\n")) == 512 * 65_536 + 2
    for _ in range(MOST_HELD):
        assert editor.feed(b"x") == b""
    assert len(editor.feed(b"x")) == MOST_HELD + 1
    assert process_time() - started < 8  # seconds; it takes one, and took 75


def test_the_model_gets_its_public_name_and_what_the_text_says_of_models_stays() -> None:
    rename = renaming("org/m-fp8", "m")
    told = (
        rb'data: {"model":"org/m-fp8","text":"{\"model\":\"org/m-fp8\"}","x":{"model" : "org/m-fp8"},"y":"org/m-fp8"}'
    )
    wanted = rb'data: {"model":"m","text":"{\"model\":\"org/m-fp8\"}","x":{"model" : "m"},"y":"org/m-fp8"}'
    for at in range(len(told)):
        assert edited([told[:at], told[at:] + b"\n\n"], rename) == wanted + b"\n\n"


def test_a_name_with_marks_of_its_own_is_taken_literally() -> None:
    assert (
        renaming('m.*"\\', r"\1").change(rb'{"model":"m.*\"\\"} {"model":"mxx"}') == rb'{"model":"\\1"} {"model":"mxx"}'
    )


@given(st.binary(max_size=200))
def test_garbage_passes_byte_for_byte(garbage: bytes) -> None:
    assert edited([garbage[:50], garbage[50:]], WITHOUT_USAGE_CHUNK, renaming("a", "b")) == garbage


def test_events_and_their_data() -> None:
    stream = b": c\ndata:one\n\ndata: two\r\ndata:  three\r\n\r\nevent: x\r\rdata"
    assert b"".join(events_of(stream)) == stream
    assert [data_of(event) for event in events_of(stream)] == [b"one", b"two\n three", b"", b""]
