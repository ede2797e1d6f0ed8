"""What a client asks of the gateway itself, by headers that end there: targets for its times, and an explanation."""

from __future__ import annotations

import json
from collections.abc import Iterable
from math import inf, isfinite

from llmgate.core.errors import BadRequest
from llmgate.core.explain import Explanation, Option
from llmgate.core.slo import Slo
from llmgate.core.types import InferenceRequest
from llmgate.wire.headers import Header

TTFT, TPOT, EXPLAIN = b"x-llmgate-ttft-ms", b"x-llmgate-tpot-ms", b"x-llmgate-explain"

LONGEST_MS = 86_400_000.0

EXPLANATION_BYTES = 3500
"""The most of an explanation: nginx reads an answer's headers into 4 KiB (`proxy_buffer_size`, by default a page)."""


def wanted_slo(own: Iterable[Header], inherited: Slo | None) -> Slo | None:
    """The targets among the headers `own`, in place of those `inherited`, one by one. Raises BadRequest."""
    ttft = tpot = None
    for name, value in own:
        if name == TTFT:
            ttft = _seconds(name, value, ttft)
        elif name == TPOT:
            tpot = _seconds(name, value, tpot)
    if ttft is None and tpot is None:
        return inherited
    general = inherited or Slo()
    return Slo(general.ttft if ttft is None else ttft, general.tpot if tpot is None else tpot)


def wants_explanation(own: Iterable[Header]) -> bool:
    return (EXPLAIN, b"1") in own


def explanation_header(request: InferenceRequest, explanation: Explanation) -> bytes:
    """Compact JSON in ASCII, without anything of the prompt, of EXPLANATION_BYTES at most: endpoints that do not fit
    are only counted. Times are seconds."""
    head: dict[str, object] = {
        "prompt_tokens": request.prompt_tokens,
        "expected_output_tokens": request.expected_output_tokens,
    }
    if (slo := explanation.slo) is not None:
        head["slo"] = {name: _short(target) for name, target in slo._asdict().items() if target < inf}
    room = EXPLANATION_BYTES - len(_json(head | {"endpoints": [], "left_out": 10**9}))
    shown = []
    for option in explanation.options:
        shown.append(_entry(option))
        room -= len(_json(shown[-1])) + 1
        if room < 0:
            shown.pop()
            break
    left_out = explanation.left_out + len(explanation.options) - len(shown)
    return _json(head | {"endpoints": shown, "left_out": left_out}).encode()


def _entry(option: Option) -> dict[str, object]:
    entry: dict[str, object] = {"name": option.endpoint, "why": option.why.value}
    if option.told is not None:
        entry["cost"] = _short(option.cost)
        if (predicted := option.predicted) is not None:
            entry |= {"ttft": _short(predicted.ttft), "tpot": _short(predicted.tpot)}
        entry |= {"cached_tokens": option.cached_tokens, "cached_source": "events" if option.told else "learnt"}
    return entry | {"requests": option.requests, "prompt_tokens_ahead": option.prompt_tokens_ahead}


def _short(value: float | None) -> float | None:
    """To six significant digits; None what JSON has no way to say."""
    return float(f"{value:.6g}") if value is not None and isfinite(value) else None


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


def _seconds(name: bytes, value: bytes, before: float | None) -> float:
    header = name.decode()
    try:
        milliseconds = float(value)
    except ValueError:
        milliseconds = 0.0
    if not 0.0 < milliseconds <= LONGEST_MS or b"_" in value:
        raise BadRequest(
            f"The header {header} must be a number of milliseconds above 0 and at most {LONGEST_MS:.0f}, as in "
            f"`{header}: 500`.",
            param=header,
            code="invalid_header",
        )
    if before is not None:
        raise BadRequest(f"The header {header} was sent twice; send it once.", param=header, code="invalid_header")
    return milliseconds / 1000.0
