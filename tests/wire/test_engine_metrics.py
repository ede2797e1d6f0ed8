from __future__ import annotations

import re
import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from llmgate.core.types import EndpointMetrics, EngineCounts
from llmgate.wire.engine_metrics import MAX_PAGE_BYTES, MAX_SAMPLES, PageTooLarge, parse_metrics
from llmgate.wire.engines import ENGINES, engine_of_metrics
from tests.wire.engine_pages import recorded

AT = 12.5


def reading(
    running: int | None = None,
    waiting: int | None = None,
    usage: float | None = None,
    capacity: int | None = None,
    most: int | None = None,
) -> EndpointMetrics:
    return EndpointMetrics(AT, running, waiting, usage, capacity, max_running=most)


@pytest.mark.parametrize(
    ("engine", "page", "expected"),
    [
        ("vllm", "vllm-0.32/metrics-idle.txt", reading(0, 0, 0.0, 8192)),
        ("vllm", "vllm-0.32/metrics-load.txt", reading(4, 20, 12 / 63, 8192)),
        ("llamacpp", "llamacpp-2026.10/metrics-idle.txt", reading(0, 0)),
        ("llamacpp", "llamacpp-2026.10/metrics-load.txt", reading(2, 4)),
        ("vllm", "reconstructed/vllm-v0.txt", reading(2, 1, 0.25, 7163 * 16)),
        ("vllm", "reconstructed/vllm-dp2.txt", reading(8, 9, 0.97, 200_000)),
        ("sglang", "reconstructed/sglang-dp2-priority.txt", reading(11, 3, 0.91, 800_000)),
        ("sglang", "reconstructed/sglang-underscore.txt", reading(2, 1, 0.5, 64_000)),
        ("sglang", "reconstructed/sglang-loads.txt", reading(8, 1, 0.4, 200_000, 96)),
        ("tgi", "reconstructed/tgi.txt", reading(8, 5)),
        ("trtllm", "reconstructed/trtllm.txt", reading(3, 2, 0.625, 64_000, 256)),
        ("trtllm", "reconstructed/trtllm-old.txt", reading()),
    ],
)
def test_the_gauges_of_each_engine(engine: str, page: str, expected: EndpointMetrics) -> None:
    assert replace(parse_metrics(engine, recorded(page), AT), counts=EngineCounts()) == expected


@pytest.mark.parametrize(
    ("engine", "page", "expected"),
    [
        ("vllm", "vllm-0.32/metrics-load.txt", EngineCounts(928, 0, 397, 0)),
        ("llamacpp", "llamacpp-2026.10/metrics-load.txt", EngineCounts(736, 0, 0)),
        ("vllm", "reconstructed/vllm-v0.txt", EngineCounts()),
        ("sglang", "reconstructed/sglang-dp2-priority.txt", EngineCounts(9000, 2750, 950, 4)),
        ("sglang", "reconstructed/sglang-loads.txt", EngineCounts()),
        ("tgi", "reconstructed/tgi.txt", EngineCounts(12_000, None, 4000)),
        ("trtllm", "reconstructed/trtllm.txt", EngineCounts(5000, None, 700)),
        ("trtllm", "reconstructed/trtllm-old.txt", EngineCounts()),
    ],
)
def test_the_counters_of_each_engine(engine: str, page: str, expected: EngineCounts) -> None:
    assert parse_metrics(engine, recorded(page), AT).counts == expected


def test_llama_cpps_prompt_tokens_are_those_computed_and_those_cached() -> None:
    page = b"llamacpp:prompt_tokens_total 100\nllamacpp:prompt_tokens_cached_total 40\n"
    assert parse_metrics("llamacpp", page, AT).counts == EngineCounts(140, 40)
    assert parse_metrics("llamacpp", page.splitlines()[0], AT).counts == EngineCounts(), "half of it tells nothing"


@pytest.mark.parametrize(
    "sources", [{"total": 70}, {"device": 50, "host": 20}, {"device": 50, "host": 20, "total": 70}]
)
def test_sglangs_cached_tokens_count_once_however_they_are_told(sources: dict[str, int]) -> None:
    lines = [f'sglang:cached_tokens_total{{cache_source="{name}",tp_rank="{rank}"}} {tokens}\n'
             for name, tokens in sources.items() for rank in range(2)]  # fmt: skip
    assert parse_metrics("sglang", "".join(lines).encode(), AT).counts.cached_tokens == 70


@pytest.mark.parametrize("value", [b"NaN", b"-1", b"None"])
def test_a_counter_with_a_part_that_is_no_count_is_unknown(value: bytes) -> None:
    page = b'vllm:num_preemptions_total{engine="0"} 3\nvllm:num_preemptions_total{engine="1"} ' + value
    assert parse_metrics("vllm", page, AT).counts.preemptions is None


@pytest.mark.parametrize("name", ["vllm-0.32/metrics-load.txt", "llamacpp-2026.10/metrics-load.txt"])
def test_it_agrees_with_the_full_parser_on_recorded_pages(name: str) -> None:
    page = recorded(name)
    values = {
        sample.name: sample.value
        for family in text_string_to_metric_families(page.decode())
        for sample in family.samples
    }
    engine = name.split("-")[0]
    kind, read = ENGINES[engine], parse_metrics(engine, page, AT)
    assert read.running == values[kind.running[0]]
    assert read.waiting == values[kind.waiting[0]]
    assert read.kv_usage == values.get(kind.kv_usage[0])


@pytest.mark.parametrize("engine", ENGINES)
def test_another_page_leaves_everything_unknown(engine: str) -> None:
    for page in (b"", b"<html>\n</html>", b"python_info 1\n", b"\x00\xff\n" * 1000):
        assert parse_metrics(engine, page, AT) == reading()


@pytest.mark.parametrize("value", [b"NaN", b"+Inf", b"-Inf", b"-1", b"None", b"nonsense", b"1e300", b"'0'"])
def test_what_is_no_sensible_number_is_unknown_never_zero(value: bytes) -> None:
    page = re.sub(rb"(?m)^(vllm:(?:num_requests_\w+ing|kv_cache_usage_perc)\{.*\}) .*$", rb"\1 " + value, DP2)
    assert parse_metrics("vllm", page, AT) == reading(capacity=200_000)


DP2 = recorded("reconstructed/vllm-dp2.txt")


@pytest.mark.parametrize("gauge", ["num_requests_running", "num_requests_waiting", "kv_cache_usage_perc"])
def test_one_rank_of_unknown_pressure_makes_the_sum_unknown(gauge: str) -> None:
    page = re.sub(rf'(?m)^(vllm:{gauge}{{engine="1".*}}) .*$'.encode(), rb"\1 NaN", DP2)
    read = parse_metrics("vllm", page, AT)
    known = {"num_requests_running": read.running, "num_requests_waiting": read.waiting}
    known["kv_cache_usage_perc"] = None if read.kv_usage is None else 1
    assert known[gauge] is None
    assert sum(value is None for value in known.values()) == 1


def test_a_usage_that_is_not_a_ratio_is_unknown() -> None:
    page = b'vllm:kv_cache_usage_perc{engine="0"} 55.0\nvllm:num_requests_running 1\n'
    assert parse_metrics("vllm", page, AT) == reading(running=1)


@pytest.mark.parametrize("labels", [b'kv_cache_size_tokens="None",', b""])
def test_capacity_falls_back_to_blocks_times_their_size(labels: bytes) -> None:
    info = b'vllm:cache_config_info{%bblock_size="16",engine="0",effective_block_size="1",num_gpu_blocks="100"} 1.0\n'
    assert parse_metrics("vllm", info % labels, AT).kv_capacity_tokens == 1600


@pytest.mark.parametrize("blocks", [b"None", b"0", b"-5", b"", b"nan"])
def test_a_capacity_that_cannot_be_read_is_unknown(blocks: bytes) -> None:
    info = b'vllm:cache_config_info{block_size="16",num_gpu_blocks="%b"} 1.0\n' % blocks
    assert parse_metrics("vllm", info, AT).kv_capacity_tokens is None


def test_tensor_parallel_copies_of_one_rank_are_not_summed() -> None:
    page = b"".join(b'sglang:num_queue_reqs{dp_rank="0",tp_rank="%d"} 4\n' % rank for rank in range(8))
    assert parse_metrics("sglang", page, AT).waiting == 4


def test_names_match_whole_and_only_at_the_start_of_a_line() -> None:
    page = (
        b'vllm:num_requests_waiting_by_reason{reason="capacity"} 7\n'
        b"# vllm:num_requests_waiting 8\n"
        b"my_vllm:num_requests_waiting 9\n"
        b"vllm:num_requests_waitingX 9\n"
    )
    assert parse_metrics("vllm", page, AT) == reading()
    assert parse_metrics("vllm", b"vllm:num_requests_waiting 3", AT).waiting == 3


def test_the_exposition_format_is_read_as_it_may_be_written() -> None:
    page = (
        b'vllm:num_requests_running{model_name="a}b\\"c{,engine=\\"9\\"",engine="0"}\t2.0 1700000000000\r\n'
        b'vllm:num_requests_running{engine="1", model_name="x",} 3e0\r\n'
        b"vllm:num_requests_waiting{} 1\r\n"
    )
    assert parse_metrics("vllm", page, AT) == reading(running=5, waiting=1)


def test_a_page_over_the_bound_is_refused() -> None:
    page = b"vllm:num_requests_waiting 3\n"
    fits = page + b"#" * (MAX_PAGE_BYTES - len(page))
    assert parse_metrics("vllm", fits, AT).waiting == 3
    with pytest.raises(PageTooLarge):
        parse_metrics("vllm", fits + b"#", AT)


def test_unclosed_quotes_do_not_run_on_into_other_lines() -> None:
    hostile = (b'vllm:num_requests_running{a="' + b"\\" * 9999 + b"\n") * 50 + b"vllm:num_requests_waiting 3\n"
    assert parse_metrics("vllm", hostile, AT) == reading(waiting=3)


def test_an_engine_sleeps_if_any_of_its_ranks_does() -> None:
    state = b'vllm:engine_sleep_state{engine="%d",model_name="m",sleep_state="%b"} %d\n'
    awake = [state % (rank, b"awake", 1) + state % (rank, b"discard_all", 0) for rank in range(2)]
    asleep = state % (1, b"awake", 0) + state % (1, b"discard_all", 1)
    assert not parse_metrics("vllm", b"".join(awake), AT).asleep
    assert parse_metrics("vllm", awake[0] + asleep, AT).asleep
    assert not parse_metrics("vllm", b"vllm:num_requests_waiting 3\n", AT).asleep, "not told"
    assert not parse_metrics("sglang", asleep, AT).asleep


HOSTILE: dict[str, bytes] = {
    "binary": bytes(range(256)) * 32_768,
    "empty lines": b"\n" * MAX_PAGE_BYTES,
    "one line": b"x" * MAX_PAGE_BYTES,
    "blanks after a name": b"vllm:num_requests_running" + b" " * (MAX_PAGE_BYTES - 100),
    "labels without end": b"vllm:num_requests_running{" + b'a="b",' * (MAX_PAGE_BYTES // 6 - 10),
    "a label without end": b'vllm:num_requests_running{a="' + b"\\" * (MAX_PAGE_BYTES - 100),
    "almost the name": b"vllm:num_requests_runnin 1\n" * (MAX_PAGE_BYTES // 28),
    "the name, over and over": b"vllm:num_requests_running 1\n" * (MAX_PAGE_BYTES // 28),
}


@pytest.mark.parametrize("page", HOSTILE.values(), ids=list(HOSTILE))
def test_no_page_holds_the_loop(page: bytes) -> None:
    """5 to 35 ms each on a 2 GHz core; the bound leaves room for a busy machine."""
    began = time.process_time()
    try:
        read = parse_metrics("vllm", page, AT)
    except PageTooLarge as error:
        assert "lines that count" in str(error)  # noqa: PT017  (either way out is good)
    else:
        assert read == reading()
    engine_of_metrics(page)
    assert time.process_time() - began < 0.5


def test_lines_that_count_are_bounded() -> None:
    line = b"vllm:num_requests_running 1\n"
    assert parse_metrics("vllm", line * MAX_SAMPLES, AT) == reading(running=1)
    with pytest.raises(PageTooLarge, match=r"^the page has more than 4096 lines that count$"):
        parse_metrics("vllm", line * (MAX_SAMPLES + 1), AT)


def test_series_that_stand_twice_count_once() -> None:
    assert parse_metrics("vllm", DP2 + DP2, AT) == parse_metrics("vllm", DP2, AT)


def test_exemplars_and_time_stamps_are_passed_over() -> None:
    page = b'vllm:num_requests_running{engine="0"} 5 1700000000.0 # {trace_id="vllm:num_requests_waiting 9"} 7.0 1.0\n'
    assert parse_metrics("vllm", page, AT) == reading(running=5)


@given(st.binary(max_size=200), st.integers(0, 60_000), st.integers(0, 200))
def test_a_page_with_a_part_replaced_by_anything_never_raises(junk: bytes, at: int, length: int) -> None:
    page = recorded("vllm-0.32/metrics-load.txt")
    read = parse_metrics("vllm", page[:at] + junk + page[at + length :], AT)
    for number in (read.running, read.waiting, read.kv_capacity_tokens):
        assert number is None or number >= 0
    assert read.kv_usage is None or 0 <= read.kv_usage <= 1
