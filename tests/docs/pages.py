"""The documentation as tests read it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", ROOT / "deploy" / "README.md"]
PAGES += sorted((ROOT / "docs").rglob("*.md"))

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def example(page: str, name: str) -> str:
    """The code block that follows `<!-- example: name -->`."""
    _, marked, rest = read(page).partition(f"<!-- example: {name} -->\n")
    block = BLOCK.match(rest)
    assert marked, f"{page} has no example {name!r}"
    assert block, f"{page}: no code block follows the mark of {name!r}"
    return block[2]


def blocks(text: str, language: str) -> list[str]:
    return [body for found, body in BLOCK.findall(text) if found == language]


def rows(text: str) -> Iterator[list[str]]:
    """The cells of every row of every table, without headings and rules."""
    for line, following in zip(lines := text.splitlines(), [*lines[1:], ""], strict=True):
        if line.startswith("|") and not line.startswith("|---") and not following.startswith("|---"):
            yield [cell.strip() for cell in line.strip("|").split("|")]
