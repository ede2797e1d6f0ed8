from __future__ import annotations

import pytest

from llmgate.core.hardware import PRIORS
from llmgate.engines import roofline
from llmgate.engines.catalogue import GPUS, MODELS, find_gpu, find_model
from llmgate.engines.spec import parse_profile, parse_specs


def test_engines_are_named_by_gpu_and_number() -> None:
    specs = parse_specs("2xh100:llama-3.1-8b, 1xa100:llama-3.1-8b,8x4h100:llama-3.1-70b")
    assert [spec.name for spec in specs[:4]] == ["h100-0", "h100-1", "a100-0", "h100-2"]
    assert len({spec.name for spec in specs}) == 11
    assert specs[3].profile.gpus == 4
    assert specs[3].profile.name == "4xh100:llama-3.1-70b"


def test_one_engine_needs_no_count() -> None:
    assert [spec.profile.name for spec in parse_specs("h100:llama-3.1-8b")] == ["h100:llama-3.1-8b"]


def test_stated_numbers_come_before_all_others() -> None:
    profile = parse_profile("rtx-pro-6000:llama-3.1-8b@max_running=7@step_s=0.5")
    assert (profile.max_running, profile.step_s) == (7, 0.5)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("8xh10:llama-3.1-8b", "did you mean h100"),
        ("8xh100:lama-3.1-8b", "did you mean llama-3.1-8b"),
        ("8xh100", "write COUNT"),
        ("0xh100:llama-3.1-8b", "at least 1"),
        ("99999xh100:llama-3.1-8b", "more than 4096 engines"),
        ("h100:llama-3.1-70b", r"does not fit on 1 x h100: \d+\.\d GB short \(141 GB of weights\)"),
        ("3xh100:llama-3.1-70b", "GB short"),
        ("3h100:llama-3.1-70b", "cannot be split over 3 GPUs: it has 64"),
        ("h100:llama-3.1-8b@kv_tokns=1", "did you mean kv_tokens"),
        ("h100:llama-3.1-8b@kv_tokens=many", "not a number"),
        ("h100:llama-3.1-8b@step_s=nan", "must not be"),
        ("h100:llama-3.1-8b@max_running=-1", "must not be"),
    ],
)
def test_a_mistake_is_named(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says) as error:
        parse_specs(text)
    assert text in str(error.value)


def test_gpus_are_named_as_in_the_hardware_table() -> None:
    assert GPUS.keys() <= PRIORS.keys()
    assert find_gpu("A100").name == "a100-80gb"


def test_models_are_known_by_their_hub_names() -> None:
    assert find_model("meta-llama/Llama-3.1-8B-Instruct") is MODELS["llama-3.1-8b"]
    assert find_model("meta-llama/Meta-Llama-3.1-70B").name == "llama-3.1-70b"


@pytest.mark.parametrize("gpu", sorted(GPUS))
def test_every_gpu_serves_a_small_model(gpu: str) -> None:
    profile = roofline.profile(gpu, "llama-3.1-8b")
    assert profile.kv_tokens >= profile.max_model_len >= roofline.LEAST_KV_TOKENS
    assert 0.003 < profile.step_s < 0.1
    assert profile.kv_token_s < profile.prefill_token_s < profile.step_s


def test_more_gpus_make_an_engine_faster_and_larger() -> None:
    two, four = (roofline.profile("h100", "llama-3.1-70b", gpus) for gpus in (2, 4))
    assert four.step_s < two.step_s
    assert four.prefill_token_s < two.prefill_token_s
    assert four.kv_tokens > 5 * two.kv_tokens


def test_a_mixture_of_experts_computes_with_its_active_weights_only() -> None:
    moe, dense = (roofline.profile("h200", model) for model in ("qwen3-30b-a3b", "qwen3-32b"))
    assert moe.prefill_token_s < dense.prefill_token_s / 5
    assert moe.step_s > dense.step_s / 2
