"""The one error of this room."""

from __future__ import annotations


class BenchError(Exception):
    """The measurement cannot be made, or a result cannot be read; one sentence that says what to do."""
