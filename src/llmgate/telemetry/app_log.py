"""The gateway's own log, on standard error: lines for people on a terminal, lines of JSON for programs elsewhere.

One record is one line, whatever is in it: a name or an address that holds an end of line cannot look like a record.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from typing import Literal, TextIO

from llmgate.telemetry.crash import WithoutTexts

Format = Literal["auto", "text", "json"]

_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")


def set_up(level: str, format: Format, stream: TextIO = sys.stderr) -> None:
    """Send everything of `level` and above there. `auto` is `text` on a terminal and `json` elsewhere."""
    handler = logging.StreamHandler(stream)
    lines = format == "json" or (format == "auto" and not stream.isatty())
    handler.setFormatter(JsonLines() if lines else TextLines())
    handler.addFilter(WithoutTexts())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


class TextLines(logging.Formatter):
    """`2026-11-26 15:04:05,678 WARNING message`; of an exception the lines that follow are set in."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  (logging's own name)
        record.message = escaped(record.message)
        return super().formatMessage(record)

    def format(self, record: logging.LogRecord) -> str:
        return super().format(record).replace("\n", "\n  ")


class JsonLines(logging.Formatter):
    """`ts` (Unix time, s), `level`, `logger`, `message`; `exception` where there was one, and what the record was given
    as `extra={"fields": …}`."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "ts": round(record.created, 6),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_text:
            line["exception"] = record.exc_text
        return json.dumps(line, ensure_ascii=False)


def escaped(text: str) -> str:
    """With control characters as escapes."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
