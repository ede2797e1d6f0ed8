from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import click

from llmgate.config import Config, ConfigError, load_file
from llmgate.telemetry.line_writer import STREAMS
from llmgate.tokens import TokenizerError, find_tokenizer


@click.command(epilog="\b\nExample:\n  llmgate check configs/two-engines.yaml")
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=click.Path(path_type=Path))
def check(files: Sequence[Path]) -> None:
    """Validate configurations and print every mistake with its path."""
    good = [_is_good(file) for file in files]  # each tells its own mistakes
    if not all(good):
        sys.exit(1)


def _is_good(file: Path) -> bool:
    try:
        config = load_file(file)
        if missing := list(_missing_files(config)):
            raise ConfigError(str(file), missing)
    except ConfigError as error:
        for problem in error.problems:
            click.echo(f"{error.source}: {problem}", err=True)
        return False
    click.echo(f"{file}: good ({len(config.endpoints)} endpoints, policy {config.router.policy})")
    return True


def _missing_files(config: Config) -> Iterator[str]:
    """Not a part of validation: `llmgate routes` may well look at a file that is meant for another machine."""
    for section, tls in (("server", config.server.tls), ("admin", config.admin.tls)):
        if tls is not None:
            yield from _unreadable(f"{section}.tls", tls.files())
    for index, endpoint in enumerate(config.endpoints):
        if endpoint.tls_ca is not None:
            yield from _unreadable(f"endpoints[{index}]", [("tls_ca", endpoint.tls_ca)])
        if endpoint.tls is not None:
            yield from _unreadable(f"endpoints[{index}].tls", endpoint.tls.files())
    log = config.access_log.to
    if log and log not in STREAMS and not Path(log).absolute().parent.is_dir():
        yield f"access_log.to: the directory of {log} is not there"
    for index, model in enumerate(config.models):
        try:
            if model.tokenizer:
                find_tokenizer(model.tokenizer)
        except TokenizerError as error:
            yield f"models[{index}].tokenizer: {error}"


def _unreadable(section: str, files: Iterable[tuple[str, Path]]) -> Iterator[str]:
    for key, path in files:
        try:
            path.open("rb").close()
        except OSError as error:
            yield f"{section}.{key}: {path} cannot be read: {error.strerror}"
