"""Makes the slices of this directory from the published traces: `python -m benchmarks.data.make DIRECTORY`.

Lines are taken as they are; gzip's header holds neither a name nor a time, so that equal input gives equal files.
"""

from __future__ import annotations

import gzip
import sys
from collections.abc import Iterable
from pathlib import Path
from random import Random

HERE = Path(__file__).parent
SESSIONS, SEED = 100, 0
AZURE_SECONDS = 1800


def main(source: Path) -> None:
    mooncake = _lines(source / "mooncake_conversation_first_half.jsonl")
    _write("mooncake_conversation_first_half.jsonl.gz", mooncake)
    sessions = _lines(source / "claude_code_dev.jsonl")
    chosen = sorted(Random(SEED).sample(range(len(sessions)), SESSIONS))
    _write("claude_code_100_sessions.jsonl.gz", [sessions[k] for k in chosen])
    azure = _lines(source / "AzureLLMInferenceTrace_conv.csv")
    start = _seconds(azure[1])
    _write(
        "azure_2023_conv_30min.csv.gz", [azure[0], *(row for row in azure[1:] if _seconds(row) - start < AZURE_SECONDS)]
    )


def _lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines()


def _seconds(row: bytes) -> float:
    """Of a row's time of day; the trace is of one evening."""
    hours, minutes, seconds = row.split(b",")[0].split(b" ")[1].split(b":")
    return int(hours) * 3600 + int(minutes) * 60 + float(seconds)


def _write(name: str, lines: Iterable[bytes]) -> None:
    data = b"".join(line + b"\n" for line in lines)
    with (HERE / name).open("wb") as raw, gzip.GzipFile("", "wb", 9, fileobj=raw, mtime=0) as packed:
        packed.write(data)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
