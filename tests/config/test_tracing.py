from __future__ import annotations

import sys
from typing import Any

import pytest

from llmgate.config import ConfigError, from_data


def tracing(**section: Any) -> Any:
    return from_data({"endpoints": [{"url": "http://a:8000"}], "tracing": section}, "x.yaml").tracing


def refusal(**section: Any) -> str:
    with pytest.raises(ConfigError) as refused:
        tracing(**section)
    return "; ".join(refused.value.problems)


def test_it_is_off_unless_asked_for() -> None:
    assert not tracing().enabled


def test_headers_may_hold_blanks_and_are_never_shown() -> None:
    made = tracing(headers={"Authorization": "Bearer canary \n"})
    assert made.headers["Authorization"].get_secret_value() == "Bearer canary"
    assert "canary" not in repr(made) + made.model_dump_json()


@pytest.mark.parametrize(
    ("section", "says"),
    [
        ({"endpoint": "localhost:4317"}, "tracing.endpoint: must be the http:// or https:// URL"),
        ({"endpoint": "http://c:4318/v1/traces"}, "leave /v1/traces out"),
        ({"endpoint": "http://me:canary@c:4318"}, "use tracing.headers"),
        ({"headers": {"a b": "c"}}, "no name of a header"),
        ({"headers": {"a": "canary\x00"}}, "must be printable ASCII"),
        ({"sample": 1.5}, "tracing.sample"),
    ],
)
def test_mistakes_are_told_without_what_is_secret(section: dict[str, Any], says: str) -> None:
    problem = refusal(**section)
    assert says in problem
    assert "canary" not in problem


def test_without_the_extra_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [name for name in sys.modules if name.partition(".")[0] == "opentelemetry"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr("llmgate.config.schema.find_spec", lambda name: None)
    assert "pip install 'llmgate-lb[otel]'" in refusal(enabled=True)
    assert not tracing(enabled=False).enabled
