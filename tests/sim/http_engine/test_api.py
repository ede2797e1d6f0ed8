"""What clients of vLLM 0.32 see. The shapes were recorded from its build for the CPU."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families

from llmgate.sim.http_engine.lengths import parse_lengths
from tests.sim.http_engine.sims import HELLO, PROFILE, Sim, events, simulated

RECORDED = Path(__file__).parents[2] / "data" / "engines" / "vllm-0.32"
STOPS = parse_lengths("3")


def client(sim: Sim) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{sim.url}/v1", api_key="none", max_retries=0)


async def test_openais_client_chats_with_it() -> None:
    async with simulated() as sim, client(sim) as api:
        answer = await api.chat.completions.create(
            model="m", messages=[{"role": "user", "content": "Hello"}], max_tokens=7, extra_body={"ignore_eos": True}
        )
        assert answer.choices[0].finish_reason == "length"
        assert answer.usage is not None
        assert answer.usage.completion_tokens == 7
        assert len(answer.choices[0].message.content or "") == 4 * 7
        assert [model.id async for model in api.models.list()] == ["m"]


async def test_openais_client_streams_from_it() -> None:
    async with simulated() as sim, client(sim) as api:
        stream = await api.chat.completions.create(
            model="m",
            messages=[{"role": "user", "content": "Hello"}],
            max_tokens=7,
            stream=True,
            stream_options={"include_usage": True},
            extra_body={"ignore_eos": True},
        )
        chunks = [chunk async for chunk in stream]
        pieces = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices]
        assert len([piece for piece in pieces if piece]) == 7
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.completion_tokens == 7
        text = await api.completions.create(model="m", prompt="Hello", max_tokens=3)
        assert text.object == "text_completion"


async def test_the_same_request_gets_the_same_answer_streamed_or_not() -> None:
    async with simulated() as sim:
        whole = (await sim.chat()).json()["choices"][0]["message"]["content"]
        chunks = events((await sim.chat(stream=True)).text)[:-1]
        assert "".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks) == whole
        other = (await sim.chat(seed=1)).json()["choices"][0]["message"]["content"]
        assert other != whole


async def test_an_answer_ends_of_its_own_accord_unless_it_must_not() -> None:
    async with simulated(lengths=STOPS) as sim:
        ended = (await sim.chat(max_tokens=10)).json()
        assert (ended["choices"][0]["finish_reason"], ended["usage"]["completion_tokens"]) == ("stop", 3)
        assert len(ended["choices"][0]["message"]["content"]) == 2 * 4  # the token that ends it has no text
        cut = (await sim.chat(max_tokens=3)).json()["choices"][0]["finish_reason"]
        longer = (await sim.chat(max_tokens=10, min_tokens=6)).json()["usage"]["completion_tokens"]
        on = (await sim.chat(max_tokens=10, ignore_eos=True)).json()["usage"]["completion_tokens"]
        assert (cut, longer, on) == ("length", 6, 10)


async def test_the_next_turn_finds_the_last_ones_answer_in_the_cache() -> None:
    async with simulated(lengths=parse_lengths("65"), prompt_tokens_details=True) as sim:
        first = (await sim.chat(max_tokens=200)).json()
        said = first["choices"][0]["message"]
        turns = [*HELLO["messages"], said, {"role": "user", "content": "And then?"}]
        second = (await sim.chat(messages=turns, max_tokens=2)).json()["usage"]
        shared = first["usage"]["prompt_tokens"] + 64
        assert second["prompt_tokens_details"]["cached_tokens"] == shared // 16 * 16


async def test_usage_is_told_in_streams_only_when_it_is_asked_for() -> None:
    async with simulated() as sim:
        without = events((await sim.chat(stream=True)).text)
        last = events((await sim.chat(stream=True, stream_options={"include_usage": True})).text)
        options = {"include_usage": True, "continuous_usage_stats": True}
        running = events((await sim.chat(stream=True, stream_options=options)).text)
    assert not any("usage" in each for each in without[:-1])
    assert (last[-2]["choices"], last[-2]["usage"]["completion_tokens"], last[-1]) == ([], 5, "[DONE]")
    assert [each["usage"]["completion_tokens"] for each in running[:-1]] == [0, 1, 2, 3, 4, 5, 5]


CHAT_FIELDS = (
    "id object created model choices service_tier system_fingerprint usage prompt_logprobs prompt_token_ids "
    "prompt_text kv_transfer_params ec_transfer_params metrics"
)
TEXT_FIELDS = (
    "id object created model choices service_tier system_fingerprint usage kv_transfer_params "
    "ec_transfer_params metrics"
)


async def test_answers_have_vllms_fields_in_its_order() -> None:
    async with simulated() as sim:
        chat = await sim.post("/v1/chat/completions", HELLO, x_request_id="abc")
        text = await sim.post("/v1/completions", {"prompt": [1, 2, 3], "max_tokens": 1})
    assert (list(chat.json()), list(text.json())) == (CHAT_FIELDS.split(), TEXT_FIELDS.split())
    assert chat.json()["id"] == "chatcmpl-abc"
    assert re.fullmatch(r"cmpl-[0-9a-f]{16}", text.json()["id"])


REFUSALS: dict[str, tuple[dict[str, Any], int, str, str | None]] = {
    "unknown model": ({"model": "nope"}, 404, "The model `nope` does not exist. Valid aliases: m.", "model"),
    "no token": ({"max_tokens": 0}, 400, "max_tokens must be at least 1, got 0.", "max_tokens"),
    "too many tokens": (
        {"max_tokens": 5000},
        400,
        "max_tokens=5000 cannot be greater than max_model_len=",
        "max_tokens",
    ),
    "more than allowed": (
        {"max_tokens": 2, "min_tokens": 3},
        400,
        "min_tokens must be less than or equal to max_tokens=2, got 3.",
        None,
    ),
    "options without a stream": (
        {"stream_options": {"include_usage": True}},
        400,
        "Stream options can only be defined when `stream=True`.",
        "stream_options",
    ),
    "no prompt": ({"prompt": None}, 400, "Either prompt or prompt_embeds must be provided and non-empty.", "prompt"),
    "too long": (
        {"prompt": [5] * 2049},
        400,
        "This model's maximum context length is 2048 tokens. However, your prompt contains 2049 input tokens",
        "input_tokens",
    ),
    "full": ({"prompt": [5] * 2048}, 400, "max_tokens must be at least 1, got 0.", "max_tokens"),
    "unknown token": ({"prompt": [1, -1]}, 400, "Token id -1 is out of vocabulary", None),
    "wrong type": ({"max_tokens": "a"}, 400, "1 validation error:", "body.max_tokens"),
    "several prompts": ({"prompt": ["a", "b"]}, 400, "This simulated engine takes one prompt a request.", "prompt"),
    "several answers": ({"n": 2}, 400, "This simulated engine gives one answer a request.", "n"),
}


@pytest.mark.parametrize("case", REFUSALS)
async def test_what_cannot_be_served_is_refused_in_vllms_words(case: str) -> None:
    changes, status, message, param = REFUSALS[case]
    async with simulated() as sim:
        answer = await sim.post("/v1/completions", {"model": "m", "prompt": "x"} | changes)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (status, status, param)
    assert error["message"].startswith(message)


async def test_what_is_no_json_is_refused() -> None:
    async with simulated() as sim:
        broken = await sim.client.post("/v1/completions", content=b"{", headers={"content-type": "application/json"})
        untyped = await sim.client.post("/v1/completions", content=b"{}")
    assert (broken.status_code, untyped.status_code) == (400, 400)
    assert "Only 'application/json' is allowed" in untyped.json()["error"]["message"]


async def test_paths_that_it_has_not_and_methods_that_they_have_not() -> None:
    async with simulated() as sim:
        missing, wrong = await sim.client.get("/nothing"), await sim.client.get("/v1/chat/completions")
    assert (missing.status_code, missing.json()) == (404, {"detail": "Not Found"})
    assert (wrong.status_code, wrong.json()) == (405, {"detail": "Method Not Allowed"})


async def test_a_full_queue_is_refused_with_a_503() -> None:
    async with simulated(max_num_queued_reqs=1, speed=0.001) as sim:
        waiting = asyncio.create_task(sim.chat())
        await sim.until_load(1)
        refused = await sim.chat()
        assert (refused.status_code, refused.json()["error"]["type"]) == (503, "Service Unavailable")
        reason = 'vllm:admission_rejections_total{model_name="m",reason="max_num_queued_reqs"}'
        assert await sim.metric(reason) == 1
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)


@pytest.mark.parametrize("streamed", [True, False])
async def test_a_client_that_leaves_frees_the_engine(streamed: bool) -> None:
    async with simulated(speed=1.0) as sim:
        waiting = asyncio.create_task(sim.chat(stream=streamed, max_tokens=2000, ignore_eos=True))
        await sim.until_load(1)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await sim.until_load(0)
        async with asyncio.timeout(10):
            while await sim.metric('vllm:num_requests_running{engine="0",model_name="m"}'):
                await asyncio.sleep(0)


async def test_tokens_can_be_had_and_undone() -> None:
    text = "Grüße, 世界! 🎉 tail"
    async with simulated() as sim:
        counted = (await sim.post("/tokenize", {"prompt": text})).json()
        undone = (await sim.post("/detokenize", {"tokens": counted["tokens"]})).json()
        chat = (await sim.post("/tokenize", {"messages": HELLO["messages"]})).json()
        answer = (await sim.chat()).json()
    assert undone == {"prompt": text}
    assert (counted["count"], counted["max_model_len"]) == (len(counted["tokens"]), 2048)
    assert chat["count"] == answer["usage"]["prompt_tokens"]


async def test_it_sleeps_and_wakes_by_vllms_paths() -> None:
    async with simulated() as sim:
        assert (await sim.client.post("/sleep?level=1")).json() == {"status": "sleeping", "level": 1}
        assert (await sim.client.get("/is_sleeping")).json() == {"is_sleeping": True}
        assert (await sim.client.get("/health")).status_code == 200
        state = 'vllm:engine_sleep_state{engine="0",model_name="m",sleep_state='
        assert [await sim.metric(f'{state}"{name}"}}') for name in ("awake", "weights_offloaded")] == [0, 1]
        hanging = asyncio.create_task(sim.chat())
        await sim.until_load(1)
        assert (await sim.client.post("/wake_up")).json() == {"status": "awake", "tags": None}
        assert (await hanging).status_code == 200
        assert (await sim.client.post("/sleep?level=7")).status_code == 400


async def test_adapters_come_and_go_and_have_caches_of_their_own() -> None:
    async with simulated(lora={"a": "/a"}, prompt_tokens_details=True) as sim:
        loaded = await sim.post("/v1/load_lora_adapter", {"lora_name": "b", "lora_path": "/b"})
        assert (loaded.status_code, loaded.text) == (200, "Success: LoRA adapter 'b' added successfully.")
        cards = (await sim.client.get("/v1/models")).json()["data"]
        assert [(card["id"], card["parent"]) for card in cards] == [("m", None), ("a", "m"), ("b", "m")]
        prompt = {"prompt": "word" * 64, "max_tokens": 1}
        cached = []
        for model in ("m", "a", "a"):
            usage = (await sim.post("/v1/completions", prompt | {"model": model})).json()["usage"]
            cached.append(usage["prompt_tokens_details"]["cached_tokens"])
        assert cached == [0, 0, 48]  # at least one token is computed anew
        assert (await sim.post("/v1/load_lora_adapter", {"lora_name": "b", "lora_path": "/b"})).status_code == 400
        assert (await sim.post("/v1/unload_lora_adapter", {"lora_name": "b"})).status_code == 200
        assert (await sim.post("/v1/unload_lora_adapter", {"lora_name": "b"})).status_code == 404
        assert (await sim.chat(model="b")).status_code == 404


def series(page: str) -> Mapping[str, set[frozenset[str]]]:
    """Names of samples, and which labels each has."""
    found: dict[str, set[frozenset[str]]] = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            found.setdefault(sample.name, set()).add(frozenset(sample.labels))
    return found


NOT_SIMULATED = ("vllm:estimated_", "vllm:mm_cache_", "vllm:iteration_tokens_total", "http_", "python_", "process_")


async def test_the_metrics_page_has_vllms_series_with_its_labels_and_buckets() -> None:
    recorded = gzip.decompress((RECORDED / "metrics-load.txt.gz").read_bytes()).decode()
    async with simulated() as sim:
        await sim.chat()
        page = (await sim.client.get("/metrics")).text
    theirs = {name: labels for name, labels in series(recorded).items() if not name.startswith(NOT_SIMULATED)}
    ours = series(page)
    assert set(theirs) == {name for name in ours if name.startswith("vllm:")}
    del theirs["vllm:cache_config_info"]  # has forty labels, most of them "None"
    assert {name: ours[name] for name in theirs} == theirs
    buckets = [re.findall(r'^(vllm:\w+_bucket).*le="([^"]+)"', text, re.MULTILINE) for text in (page, recorded)]
    assert set(buckets[0]) == {each for each in buckets[1] if not each[0].startswith(NOT_SIMULATED)}


async def test_what_the_metrics_say_is_what_was_done() -> None:
    own = '{engine="0",model_name="m"}'
    async with simulated(speed=100.0) as sim:
        usage = (await sim.chat(max_tokens=9, ignore_eos=True)).json()["usage"]
        assert await sim.metric(f"vllm:generation_tokens_total{own}") == 9
        assert await sim.metric(f"vllm:prompt_tokens_total{own}") == usage["prompt_tokens"]
        assert await sim.metric(f"vllm:inter_token_latency_seconds_count{own}") == 8
        decode = 8 * (PROFILE.step_s + PROFILE.sequence_s) / 100.0
        assert await sim.metric(f"vllm:request_decode_time_seconds_sum{own}") == pytest.approx(decode)
        assert await sim.metric(f"vllm:inter_token_latency_seconds_sum{own}") == pytest.approx(decode)


async def test_requests_that_are_sent_ahead_are_answered_in_their_order() -> None:
    body = json.dumps(HELLO).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: "
    one = head + str(len(body)).encode() + b"\r\n\r\n" + body
    async with simulated() as sim:
        reader, writer = await asyncio.open_connection("127.0.0.1", sim.port)
        writer.write(one * 3 + b"GET /version HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        answered = await reader.read()
        writer.close()
    assert answered.count(b"HTTP/1.1 200 OK") == 4
    assert answered.endswith(b'{"version":"0.32.0"}')


async def test_what_is_no_http_ends_the_connection() -> None:
    async with simulated() as sim:
        reader, writer = await asyncio.open_connection("127.0.0.1", sim.port)
        writer.write(b"nonsense\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 400")
        writer.close()
