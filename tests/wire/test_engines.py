from __future__ import annotations

from typing import get_args

import pytest

from llmgate.config.schema import Engine
from llmgate.wire.engines import (
    ENGINES,
    engine_of_info,
    engine_of_loads,
    engine_of_metrics,
    engine_of_models,
    engine_of_server,
    parse_models,
    parse_props,
    parse_tgi_info,
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
    assert parse_props(body) is None
    assert parse_tgi_info(body) is None


def test_llama_cpp_states_its_capacity_per_slot() -> None:
    assert parse_props(recorded("llamacpp-2026.10/props.json")) == 2 * 2048


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
    assert parse_props(body) is None


def test_only_old_tgi_states_its_capacity() -> None:
    assert parse_tgi_info(b'{"max_batch_total_tokens": 16000}') == 16000
    assert parse_tgi_info(recorded("reconstructed/tgi-info.json")) is None
