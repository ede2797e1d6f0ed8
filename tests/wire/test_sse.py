from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgate.core.types import Usage
from llmgate.wire.sse import SseMeter
from llmgate.wire.usage import KEPT_BYTES, UsageTail, last_usage, whole_usage

STREAM = (
    b'data: {"choices":[{"delta":{"role":"assistant","content":""}}]}\n\n'
    b": keep-alive\n\n"
    b'data: {"choices":[{"delta":{"content":"data: \\"usage\\": {\\"prompt_tokens\\": 9}"}}]}\n\n'
    b'event: x\ndata: {"choices":[{"delta":{"content":"h\xc3\xa9"}}],"usage":null}\n\n'
    b'data: {"choices":[],"usage":{"prompt_tokens":12,"completion_tokens":3,'
    b'"prompt_tokens_details":{"cached_tokens":8}}}\n\n'
    b"data: [DONE]\n\n"
)
USAGE = Usage(12, 3, 8)


def cut(stream: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(c % (len(stream) + 1) for c in cuts), len(stream)]
    return [stream[a:b] for a, b in pairwise(edges) if a < b]


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"])
@given(cuts=st.lists(st.integers(0, 10_000), max_size=60))
def test_events_and_usage_are_found_wherever_the_chunks_are_cut(line_end: bytes, cuts: list[int]) -> None:
    meter = SseMeter()
    counted = sum(meter.feed(chunk) for chunk in cut(STREAM.replace(b"\n", line_end), cuts))
    assert counted == meter.events == 5
    assert meter.usage() == USAGE


def test_a_stream_is_between_events_only_behind_an_empty_line() -> None:
    meter = SseMeter()
    assert meter.between_events
    for piece, between in ((b"data: 1", False), (b"\n", False), (b"\n", True), (b": 2\n", False), (b"\n", True)):
        meter.feed(piece)
        assert meter.between_events is between, piece


def test_a_crlf_that_a_border_cuts_is_not_taken_for_an_empty_line() -> None:
    meter = SseMeter()
    for piece in (b"data: 1\r", b"\n"):
        meter.feed(piece)
        assert not meter.between_events


def test_byte_by_byte() -> None:
    meter = SseMeter()
    for number in range(len(STREAM)):
        meter.feed(STREAM[number : number + 1])
    assert meter.events == 5
    assert meter.usage() == USAGE


def test_a_stream_without_usage_is_counted() -> None:
    meter = SseMeter()
    for _ in range(7):
        meter.feed(b'data: {"choices":[{"text":"x"}]}\n\n')
    meter.feed(b"data: [DONE]\n\n")
    assert meter.usage() is None
    assert meter.counted_tokens(framing=1) == 7


def test_the_last_of_many_usages_counts() -> None:
    meter = SseMeter()
    for number in range(1, 5000):
        meter.feed(b'data: {"usage":{"prompt_tokens":12,"completion_tokens":%d}}\n\n' % number)
    assert meter.usage() == Usage(12, 4999)


@pytest.mark.parametrize(
    "usage",
    [
        "null",
        "{}",
        '{"prompt_tokens":-1}',
        '{"prompt_tokens":"7"}',
        '{"prompt_tokens":true}',
        '{"prompt_tokens":1',
        "[1]",
        '{"prompt_tokens":1%s}' % ("0" * 400),
    ],
)
def test_a_usage_that_makes_no_sense_is_none(usage: str) -> None:
    tail = UsageTail()
    tail.keep(b'{"usage":' + usage.encode())
    assert tail.usage() is None


def test_a_whole_answer_gives_its_usage_and_little_of_it_is_kept() -> None:
    tail = UsageTail()
    for _ in range(1000):
        tail.keep(b"0.123, " * 1000)
    tail.keep(b'],"usage":{"prompt_tokens":5,"total_tokens":5}}')
    assert tail.usage() == Usage(5, 0)
    assert tail._size <= 2 * KEPT_BYTES + 7000 + 100


@given(st.binary(max_size=300))
def test_garbage_never_raises(garbage: bytes) -> None:
    meter = SseMeter()
    meter.feed(garbage)
    meter.feed(b'"usage": {' + garbage)
    meter.usage()


def test_a_complete_answer_gives_its_own_usage_and_not_one_it_speaks_of() -> None:
    text = rb'{"choices":[{"message":{"content":"{\"usage\": {\"prompt_tokens\": 9}}"}}],"usage":{"prompt_tokens":5}}'
    assert whole_usage(text) == Usage(5, 0)
    assert whole_usage(b'{"data":[{"usage":{"prompt_tokens":9}}]}') is None
    assert whole_usage(b"not JSON") is None
    assert whole_usage(b"") is None


def test_a_tail_full_of_usages_is_given_up_soon() -> None:
    looked_at = b'"usage":{' * 4000
    assert last_usage(b'"usage":{"prompt_tokens":1}' + looked_at) is None
    assert last_usage(b'"usage":{"prompt_tokens":1}' + b'"usage":{' * 3) == Usage(1, 0)


def test_details_of_both_kinds_are_read_through() -> None:
    usage = (
        b'{"prompt_tokens":12,"total_tokens":15,"completion_tokens":3,"prompt_tokens_details":{"cached_tokens":8},'
        b'"completion_tokens_details":{"reasoning_tokens":2}}'
    )
    assert last_usage(b'x "usage" : ' + usage + b"}") == Usage(12, 3, 8)


@pytest.mark.parametrize(
    "odd",
    [
        '"completion_tokens":9007199254740992',
        '"completion_tokens":-1',
        '"completion_tokens":0,"prompt_tokens_details":[]',
        '"completion_tokens":0,"prompt_tokens_details":{"cached_tokens":1.5}',
    ],
)
def test_one_odd_field_does_not_cost_the_prompt_tokens(odd: str) -> None:
    usage = b'"usage":{"prompt_tokens":7,%b}' % odd.encode()
    assert last_usage(usage) == whole_usage(b"{%b}" % usage) == Usage(7, 0)


def test_details_of_details_are_read_through() -> None:
    details = b",".join(b'"details_%d":{"a":{"b":1}}' % number for number in range(3))
    assert last_usage(b'"usage":{"prompt_tokens":7,%b}' % details) == Usage(7, 0)


@pytest.mark.parametrize(
    ("answer", "usage"),
    [
        (b'{"usage":{"input_tokens":9,"output_tokens":3,"input_tokens_details":{"cached_tokens":4}}}', Usage(9, 3, 4)),
        (b'{"usage":{"input_tokens":1,"output_tokens":3,"cache_read_input_tokens":47}}', Usage(48, 3, 47)),
        (
            b'{"usage":{"input_tokens":1,"output_tokens":3,"cache_read_input_tokens":0,"cache_creation_input_tokens":5}}',
            Usage(6, 3, 0),
        ),
        (b'{"results":[],"usage":{"total_tokens":8}}', Usage(8, 0)),
        (b'{"generated_text":"x","details":{"generated_tokens":4,"prefill":[{"id":1}],"tokens":[]}}', Usage(0, 4)),
        (b'{"text":"x","meta_info":{"prompt_tokens":7,"completion_tokens":4,"cached_tokens":2}}', Usage(7, 4, 2)),
        (b'{"detail":"x","details":"y"}', None),
        (b'{"choices":[],"timings":{"cache_n":40,"prompt_n":8,"predicted_n":5,"predicted_ms":1.5}}', Usage(48, 5, 40)),
    ],
)
def test_every_way_of_telling_usage_is_understood(answer: bytes, usage: Usage | None) -> None:
    assert whole_usage(answer) == usage


@given(cuts=st.lists(st.integers(0, 10_000), max_size=20))
def test_anthropics_usage_is_put_together_from_the_first_and_the_last_event(cuts: list[int]) -> None:
    stream = (
        b'event: message_start\ndata: {"type":"message_start","message":{"usage":{"input_tokens":1,'
        b'"cache_read_input_tokens":47,"output_tokens":0}}}\n\n'
        + b'event: content_block_delta\ndata: {"delta":{"text":"\\"usage\\": {}"}}\n\n'
        * 1000
        + b'event: message_delta\ndata: {"type":"message_delta","usage":{"output_tokens":30}}\n\n'
        b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
    )
    meter = SseMeter(usage_at_start=True)
    for chunk in cut(stream, cuts):
        meter.feed(chunk)
    assert meter.usage() == Usage(48, 30, 47)


def test_the_last_event_of_tgis_stream_tells_its_tokens() -> None:
    meter = SseMeter()
    meter.feed(b'data:{"token":{"text":"a"},"details":null}\n\ndata:{"token":{"text":"b"},"generated_text":"ab",')
    meter.feed(b'"details":{"finish_reason":"length","generated_tokens":2,"input_length":5}}\n\n')
    assert meter.usage() == Usage(5, 2)
    assert meter.counted_tokens(framing=0) == 2
