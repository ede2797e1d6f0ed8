from __future__ import annotations

import json
from collections.abc import Sequence
from math import inf

import pytest

from llmgate.core.errors import BadRequest
from llmgate.core.explain import Explanation, Option, Why
from llmgate.core.slo import Prediction, Slo
from llmgate.wire.asked import EXPLANATION_BYTES, explanation_header, wanted_slo, wants_explanation
from tests.core.make import request

TTFT, TPOT = b"x-llmgate-ttft-ms", b"x-llmgate-tpot-ms"


@pytest.mark.parametrize(
    ("own", "inherited", "wanted"),
    [
        ((), None, None),
        ((), Slo(1.0, 0.1), Slo(1.0, 0.1)),
        (((b"x-llmgate-priority", b"1"),), None, None),
        (((TTFT, b"500"),), None, Slo(0.5, inf)),
        (((TPOT, b"12.5"),), None, Slo(inf, 0.0125)),
        (((TTFT, b"500"),), Slo(1.0, 0.1), Slo(0.5, 0.1)),
        (((TTFT, b"5e2"), (TPOT, b" 20 ")), Slo(1.0, 0.1), Slo(0.5, 0.02)),
    ],
)
def test_a_header_replaces_the_target_that_is_inherited(
    own: Sequence[tuple[bytes, bytes]], inherited: Slo | None, wanted: Slo | None
) -> None:
    assert wanted_slo(own, inherited) == wanted


@pytest.mark.parametrize(
    "value", [b"", b"0", b"-1", b"fast", b"2s", b"nan", b"inf", b"1e300", b"1_000", b"5,5", b"\xff"]
)
def test_a_target_that_is_no_number_of_milliseconds_is_refused_by_name(value: bytes) -> None:
    with pytest.raises(BadRequest, match="x-llmgate-ttft-ms must be a number of milliseconds") as caught:
        wanted_slo([(TTFT, value)], None)
    assert (caught.value.param, caught.value.code) == ("x-llmgate-ttft-ms", "invalid_header")


def test_a_target_that_is_sent_twice_is_refused() -> None:
    with pytest.raises(BadRequest, match="sent twice"):
        wanted_slo([(TPOT, b"1"), (TPOT, b"2")], None)


@pytest.mark.parametrize(("value", "wanted"), [(b"1", True), (b"0", False), (b"", False), (b"yes", False)])
def test_only_a_1_asks_for_an_explanation(value: bytes, wanted: bool) -> None:
    assert wants_explanation(((b"x-llmgate-explain", value),)) is wanted


def test_an_explanation_is_compact_json_in_seconds() -> None:
    options = [
        Option("a", Why.CHOSEN, 3, 700, 1.23456789, 64, True, Prediction(0.25, 0.0125)),
        Option("b", Why.COSTLIER, 0, 0, inf, 0, False, None),
        Option("c", Why.DRAINING, 1, 0),
    ]
    said = explanation_header(request(1000, 50), Explanation(Slo(ttft=0.5), options[0].predicted, options, 2))
    assert b" " not in said
    assert json.loads(said) == {
        "prompt_tokens": 1000,
        "expected_output_tokens": 50,
        "slo": {"ttft": 0.5},
        "endpoints": [
            {"name": "a", "why": "chosen", "cost": 1.23457, "ttft": 0.25, "tpot": 0.0125, "cached_tokens": 64,
             "cached_source": "events", "requests": 3, "prompt_tokens_ahead": 700},
            {"name": "b", "why": "costlier", "cost": None, "cached_tokens": 0, "cached_source": "learnt", "requests": 0,
             "prompt_tokens_ahead": 0},
            {"name": "c", "why": "draining", "requests": 1, "prompt_tokens_ahead": 0},
        ],
        "left_out": 2,
    }  # fmt: skip


def test_an_explanation_is_bounded_and_of_printable_ascii_whatever_endpoints_are_called() -> None:
    options = [
        Option(f"é\r\n{number:0200}", Why.TIED, 3, 7, 1.0, 64, True, Prediction(0.25, 0.1)) for number in range(16)
    ]
    said = explanation_header(request(), Explanation(None, None, options, 5))
    assert EXPLANATION_BYTES - 500 < len(said) <= EXPLANATION_BYTES
    assert all(0x20 <= byte < 0x7F for byte in said)
    told = json.loads(said)
    assert len(told["endpoints"]) + told["left_out"] == 16 + 5
