from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from llmgate.telemetry.app_log import set_up

SPOOF = "node\n2026-11-26 00:00:00,000 INFO all is well\x1b[31m"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


def lines(stream: io.StringIO) -> list[str]:
    return stream.getvalue().splitlines()


def test_elsewhere_than_on_a_terminal_a_record_is_a_json_object() -> None:
    set_up("info", "auto", stream := io.StringIO())
    logging.getLogger("llmgate.audit").info("POST %s", SPOOF, extra={"fields": {"status": 200}})
    (line,) = lines(stream)
    record = json.loads(line)
    assert record.pop("ts") > 1.7e9
    assert record == {"level": "info", "logger": "llmgate.audit", "message": f"POST {SPOOF}", "status": 200}


def test_on_a_terminal_it_is_a_line_that_nothing_can_break() -> None:
    set_up("info", "auto", stream := Terminal())
    logging.getLogger("llmgate").warning("%s is up", SPOOF)
    (line,) = lines(stream)
    assert line.endswith(r"WARNING node\n2026-11-26 00:00:00,000 INFO all is well\x1b[31m is up")


@pytest.mark.parametrize("format", ["text", "json"])
def test_exceptions_are_told_without_their_texts_and_set_in(format: str) -> None:
    set_up("info", format, stream := io.StringIO())  # type: ignore[arg-type]
    try:
        raise ValueError("my secret")
    except ValueError:
        logging.getLogger("llmgate").exception("it failed")
    assert "secret" not in stream.getvalue()
    if format == "json":
        assert json.loads(stream.getvalue())["exception"].startswith("ValueError\n")
    else:
        first, *rest = lines(stream)
        assert first.endswith("ERROR   it failed")
        assert rest
        assert all(line.startswith("  ") for line in rest)


def test_levels_below_are_left_out() -> None:
    set_up("warning", "json", stream := io.StringIO())
    logging.getLogger("llmgate").info("no")
    assert not stream.getvalue()
