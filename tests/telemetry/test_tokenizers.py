"""Rules of telemetry/tokenizers.py."""

from __future__ import annotations

from collections import Counter

from prometheus_client import CollectorRegistry

from llmgate.telemetry.tokenizers import TokenizerCollector


def test_each_model_shows_its_library_and_the_prompts_that_it_could_not_do() -> None:
    registry, uncountable, libraries = CollectorRegistry(), Counter[str](), {"m": "fastokens", "n": "none"}
    registry.register(TokenizerCollector(lambda: libraries, uncountable))
    uncountable["m"] += 3
    assert registry.get_sample_value("llmgate_tokenizer_info", {"model": "m", "library": "fastokens"}) == 1
    assert registry.get_sample_value("llmgate_tokenizer_info", {"model": "n", "library": "none"}) == 1
    assert registry.get_sample_value("llmgate_uncountable_prompts_total", {"model": "m"}) == 3
    assert registry.get_sample_value("llmgate_uncountable_prompts_total", {"model": "n"}) == 0
    libraries["m"] = "tokenizers"
    assert registry.get_sample_value("llmgate_tokenizer_info", {"model": "m", "library": "fastokens"}) is None
