from __future__ import annotations

import time
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgate.config.schema import Engine
from llmgate.wire.engines import (
    ENGINES,
    MAX_JSON_BYTES,
    MAX_MODELS,
    MAX_NAME,
    STREAM_ERROR,
    Facts,
    TooManyModels,
    engine_of_info,
    engine_of_loads,
    engine_of_metrics,
    engine_of_models,
    engine_of_server,
    parse_models,
    parse_props,
    parse_sglang_info,
    parse_tgi_info,
    stream_refusal,
)
from tests.wire.engine_pages import recorded

NOT_LISTS = [
    b"",
    b"<!doctype html><title>nginx</title>",
    b"null",
    b"[]",
    b'{"data": {"id": "m"}}',
    b'{"error": {"message": "no"}}',
    b'{"data": [{"id": "m"}',
    b'{"data": "\xff"}',
    b"[" * 100_000,
]


def test_every_engine_that_can_be_configured_is_known() -> None:
    assert set(ENGINES) == set(get_args(Engine))


@pytest.mark.parametrize(
    ("page", "engine"),
    [
        ("vllm-0.32/metrics-idle.txt", "vllm"),
        ("llamacpp-2026.10/metrics-idle.txt", "llamacpp"),
        ("reconstructed/vllm-v0.txt", "vllm"),
        ("reconstructed/sglang-dp2-priority.txt", "sglang"),
        ("reconstructed/sglang-underscore.txt", "sglang"),
        ("reconstructed/tgi.txt", "tgi"),
        ("reconstructed/trtllm.txt", "trtllm"),
        ("reconstructed/trtllm-old.txt", "trtllm"),
        ("llamacpp-2026.10/metrics-off.json", None),
    ],
)
def test_an_engine_is_known_by_the_prefix_of_its_metrics(page: str, engine: str | None) -> None:
    assert engine_of_metrics(recorded(page)) == engine


@pytest.mark.parametrize(
    "page", [b"", b"python_info 1\n", b'my_vllm:x 1\nx{engine="vllm:"} 1\n# HELP x as in\tvllm:y\n', b"<p>vllm:x"]
)
def test_a_prefix_counts_only_where_a_metric_is_named(page: bytes) -> None:
    assert engine_of_metrics(page) is None


def test_owned_by_tells_the_engine() -> None:
    assert engine_of_models(recorded("vllm-0.32/models.json")) == "vllm"
    assert engine_of_models(recorded("llamacpp-2026.10/models.json")) == "llamacpp"
    assert engine_of_models(b'{"data": [{"id": "m", "owned_by": "tensorrt_llm"}]}') == "trtllm"
    assert engine_of_models(b'{"data": [{"id": "vllm", "owned_by": "me"}, {"id": "x"}, {"owned_by": 3}]}') is None
    assert engine_of_models(b"<html>") is None


def test_other_pages_tell_tgi_sglang_and_llama_cpp() -> None:
    assert engine_of_info(recorded("reconstructed/tgi-info.json")) == "tgi"
    assert engine_of_info(b'{"router": "other"}') is None
    assert engine_of_loads(recorded("reconstructed/sglang-loads.json")) == "sglang"
    assert engine_of_loads(b'{"loads": [1, {}]}') is None
    assert engine_of_server("llama.cpp") == "llamacpp"
    assert engine_of_server("uvicorn") is None
    assert engine_of_server("") is None


def test_recorded_model_lists_name_the_model() -> None:
    for page in ("vllm-0.32/models.json", "llamacpp-2026.10/models.json"):
        listed = parse_models(recorded(page))
        assert listed is not None
        assert listed.ids == ("tiny",)


def test_a_model_list_is_read_as_far_as_it_makes_sense() -> None:
    good = b'{"id": "base"}, {"id": "lora", "parent": "base"}, {"id": "base"}'
    bad = b'{"id": ""}, {"id": 7}, {}, 3, {"id": "a\\u000ab"}'
    listed = parse_models(b'{"data": [%b, %b]}' % (good, bad))
    assert listed is not None
    assert listed.ids == ("base", "lora")
    assert parse_models(b'{"data": []}') is not None


@pytest.mark.parametrize("body", NOT_LISTS, ids=range(len(NOT_LISTS)))
def test_anything_else_is_no_model_list_and_no_clue(body: bytes) -> None:
    assert parse_models(body) is None
    assert engine_of_info(body) is None
    assert engine_of_loads(body) is None
    for kind in ENGINES.values():
        if kind.facts_page is not None:
            assert kind.facts_page[1](body) == Facts()


def test_llama_cpp_states_its_capacity_per_slot() -> None:
    assert parse_props(recorded("llamacpp-2026.10/props.json")) == Facts(2 * 2048, 2)


@pytest.mark.parametrize(
    "body",
    [
        b'{"total_slots": 2}',
        b'{"total_slots": 0, "default_generation_settings": {"n_ctx": 2048}}',
        b'{"total_slots": true, "default_generation_settings": {"n_ctx": 2048}}',
        b'{"total_slots": 2, "default_generation_settings": {"n_ctx": "2048"}}',
        b'{"total_slots": 2, "default_generation_settings": []}',
    ],
)
def test_a_capacity_that_is_not_stated_is_unknown(body: bytes) -> None:
    assert parse_props(body).kv_capacity_tokens is None


def test_only_old_tgi_states_its_capacity() -> None:
    assert parse_tgi_info(b'{"max_batch_total_tokens": 16000, "max_batch_size": 32}') == Facts(16000, 32)
    assert parse_tgi_info(b'{"max_batch_size": null}') == Facts()
    assert parse_tgi_info(recorded("reconstructed/tgi-info.json")) == Facts()


def test_sglang_states_what_one_rank_holds_and_runs() -> None:
    assert parse_sglang_info(recorded("reconstructed/sglang-server-info.json")) == Facts(2 * 441_237, 2 * 256)
    assert parse_sglang_info(b'{"max_total_num_tokens": 1000, "max_running_requests": null}') == Facts(1000)
    assert parse_sglang_info(b'{"max_total_num_tokens": 1000, "dp_size": "x"}') == Facts()


def test_what_does_not_change_is_completed_by_what_was_known() -> None:
    assert Facts(1, None).or_else(Facts(2, 3)) == Facts(1, 3)
    assert not Facts(1, None).complete
    assert Facts(1, 3).complete


def test_pages_and_lists_beyond_reason_are_refused_at_once() -> None:
    card = b'{"id": "m%d"}'
    few = b'{"data": [%b]}' % b",".join(card % number for number in range(MAX_MODELS))
    listed = parse_models(few)
    assert listed is not None
    assert len(listed.ids) == MAX_MODELS
    many = b'{"data": [%b]}' % b",".join(card % number for number in range(MAX_MODELS + 1))
    with pytest.raises(TooManyModels, match=r"^lists 10001 models, more than 10000$"):
        parse_models(many)
    assert engine_of_models(many) is None
    assert parse_tgi_info(b'{"max_batch_total_tokens": 16000, "x": "%b"}' % (b"x" * MAX_JSON_BYTES)) == Facts()


def test_no_list_holds_the_loop() -> None:
    """Some 50 ms on a 2 GHz core; the bound leaves room for a busy machine."""
    few = b'{"data": [%b]}' % b",".join([b'{"id": "m", "x": "%b"}' % (b"y" * 800)] * MAX_MODELS)
    many = b'{"data": [%b]}' % b",".join([b'{"id": "m"}'] * 700_000)
    for body in (
        few,
        many,
        b"[" * 8_000_000,
        b"<p>" * 2_000_000,
        b'{"data": [' + b'"x",' * 2_000_000,
        b"\xff" * 8_000_000,
    ):
        began = time.process_time()
        engine_of_models(body)
        engine_of_info(body)
        engine_of_loads(body)
        assert time.process_time() - began < 0.5


@given(st.binary(max_size=100), st.integers(0, 800), st.integers(0, 200))
def test_a_list_with_a_part_replaced_by_anything_never_raises(junk: bytes, at: int, length: int) -> None:
    body = recorded("vllm-0.32/models.json")
    listed = parse_models(body[:at] + junk + body[at + length :])
    assert listed is None or all(name.isprintable() for name in listed.ids)


@given(st.binary(max_size=300))
def test_a_stream_that_begins_with_anything_never_raises(begin: bytes) -> None:
    assert stream_refusal(begin) is None
    status = stream_refusal(STREAM_ERROR[0] + begin + b"\n\n")
    assert status is None or 400 <= status <= 599


def test_a_name_as_long_as_a_page_is_no_name() -> None:
    listed = parse_models(b'{"data": [{"id": "%b"}, {"id": "%b"}]}' % (b"x" * MAX_NAME, b"y" * (MAX_NAME + 1)))
    assert listed is not None
    assert [len(name) for name in listed.ids] == [MAX_NAME]


def test_only_llama_cpp_works_on_for_clients_that_have_left() -> None:
    assert [name for name, kind in ENGINES.items() if kind.ignores_disconnects] == ["llamacpp"]


@pytest.mark.parametrize(
    ("begin", "status"),
    [
        (recorded("reconstructed/sglang-queue-full.sse"), 503),
        (b'data: {"error": {"message": "full", "type": "x", "code": 429}}\n\ndata: [DONE]\n\n', 429),
        (b'data:{"error":"full","code":"503"}\r\n\r\n', 503),
        (b'data: {"error": {"message": "no", "code": 400}}\n\n', 400),
        (b'data: {"error": {"message": "no", "code": "context_length_exceeded"}}\n\n', None),
        (b'data: {"error": {"message": "no", "code": true}}\n\n', None),
        (b'data: {"error": {"message": "no", "code": 7}}\n\n', None),
        (b'data: {"error": null, "code": 200}\n\n', None),
        (b'data: {"error": {"message": "cut', None),
        (b'data: {"error": []}\n\n', None),
        (b'data: {"error" ]}\n\n', None),
        (b'data: {"id": "x", "choices": []}\n\n', None),
        (b"", None),
    ],
)
def test_a_stream_that_is_a_refusal_tells_its_status(begin: bytes, status: int | None) -> None:
    assert stream_refusal(begin) == status
    assert status is None or begin.startswith(STREAM_ERROR)
