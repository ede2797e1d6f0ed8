from __future__ import annotations

import importlib.util

import pytest

from tests.docs.pages import read
from tests.engines import require_llama_cpp


@pytest.fixture
def _no_llama_cpp(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)


@pytest.mark.usefixtures("_no_llama_cpp")
def test_without_llama_cpp_a_test_on_engines_is_skipped_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="demo extra"):
        require_llama_cpp()


@pytest.mark.usefixtures("_no_llama_cpp")
def test_without_llama_cpp_a_test_on_engines_fails_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="demo extra"):
        require_llama_cpp()


def test_the_script_of_ci_says_that_it_is_ci() -> None:
    assert "\nexport CI=1" in read(".ci/run")
