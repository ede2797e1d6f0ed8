"""Where a command's results go."""

from __future__ import annotations

import click

STDOUT = "-"


def to_file(name: str, content: bytes) -> None:
    """Write the file, or to standard output for `-`. ValueError says that it cannot be, and why."""
    try:
        with click.open_file(name, "wb") as file:
            file.write(content)
    except OSError as error:
        raise ValueError(f"{name} cannot be written: {error.strerror}") from None
