"""Fixtures that every room of the tests may use."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

import pytest

from llmgate.demo.engine import EngineOptions
from llmgate.demo.engines import Engine, start_engines
from tests.engines import TINY_ENGINE, require_llama_cpp

ENGINE_FIXTURES = {"tiny_engines", "start_engine"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if isinstance(item, pytest.Function) and ENGINE_FIXTURES.intersection(item.fixturenames):
            item.add_marker(pytest.mark.engine)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("engine"):
        require_llama_cpp()


@pytest.fixture(scope="session")
def tiny_engines() -> Iterator[Sequence[Engine]]:
    """Two llama.cpp engines with the tiny model, shared by all tests: do not stop them, leave no request behind."""
    with start_engines(TINY_ENGINE, 2) as engines:
        yield engines


@pytest.fixture
def start_engine() -> Iterator[Callable[..., Engine]]:
    """`start_engine(options=TINY_ENGINE)` starts an engine of the test's own, to be killed or stopped at will."""
    with contextlib.ExitStack() as stack:

        def start(options: EngineOptions = TINY_ENGINE) -> Engine:
            return stack.enter_context(start_engines(options, 1))[0]

        yield start
