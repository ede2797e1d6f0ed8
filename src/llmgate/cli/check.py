from __future__ import annotations

import sys
from pathlib import Path

import click

from llmgate.config import ConfigError, load_file


@click.command(epilog="\b\nExample:\n  llmgate check configs/two-engines.yaml")
@click.argument("file", type=click.Path(path_type=Path))
def check(file: Path) -> None:
    """Validate a configuration and print every mistake with its path."""
    try:
        config = load_file(file)
    except ConfigError as error:
        for problem in error.problems:
            click.echo(f"{error.source}: {problem}", err=True)
        sys.exit(1)
    click.echo(f"{file}: good ({len(config.endpoints)} endpoints, policy {config.router.policy})")
