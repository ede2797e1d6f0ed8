"""What engines answered; see tests/data/engines/README.md."""

from __future__ import annotations

import gzip
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "data" / "engines"


def recorded(name: str) -> bytes:
    """A file below tests/data/engines, unpacked if it is there as `name`.gz only."""
    path = FOLDER / name
    return path.read_bytes() if path.exists() else gzip.decompress(Path(f"{path}.gz").read_bytes())
