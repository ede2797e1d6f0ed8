"""Real llama.cpp engines for tests; the fixtures are in conftest.py."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import replace

import pytest

from llmgate.demo.engine import EngineOptions
from llmgate.demo.model import TINY

TINY_ENGINE = EngineOptions(TINY.path, TINY.alias, ctx=8192, slots=4, threads=1)
MISSING = "xllamacpp is not installed: install the demo extra (scripts/test does)"


def tiny(**changes: int) -> EngineOptions:
    """The tiny model with other `port`, `ctx`, `slots` or `threads`."""
    return replace(TINY_ENGINE, **changes)  # type: ignore[arg-type]  # the fields that are int


def require_llama_cpp() -> None:
    """Ends the test if it cannot have an engine: in CI as a failure, since a skip there would go unseen."""
    if importlib.util.find_spec("xllamacpp") is None:
        if os.environ.get("CI"):
            pytest.fail(MISSING, pytrace=False)
        pytest.skip(MISSING)
