"""Exceptions for the log: what they are and where they come from, without their texts, which may hold anything: a key,
a part of a prompt."""

from __future__ import annotations

import logging
import traceback


def without_texts(error: BaseException) -> str:
    """Like a traceback, with those that led to it."""
    told: list[str] = []
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        frames = [
            f"  {frame.filename}:{frame.lineno} in {frame.name}" for frame in traceback.extract_tb(error.__traceback__)
        ]
        told.append("\n".join([type(error).__qualname__, *frames]))
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)  # type: ignore[assignment]
    return "\nafter ".join(told)


class WithoutTexts(logging.Filter):
    """For handlers: what libraries log with an exception loses its text, too."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and (error := record.exc_info[1]) is not None:
            record.exc_info = None
            record.exc_text = without_texts(error)
        return True
