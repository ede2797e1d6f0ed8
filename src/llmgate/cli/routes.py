from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from llmgate.cli.operator import credentials, token_option
from llmgate.config import ConfigError, load_file

COLUMNS = ("model", "aliases", "endpoint", "engine", "state", "url")
LEARNT, NOT_RUNNING = "(learnt)", "(not running)"


@click.command(
    epilog="\b\nExamples:\n  llmgate routes configs/two-engines.yaml\n  llmgate routes http://127.0.0.1:8081"
)
@click.argument("source", metavar="FILE|URL")
@token_option
@click.option("--json", "json_file", type=click.File("w"), metavar="FILE", help="Write JSON there (- is stdout).")
def routes(source: str, token: str, json_file: Any) -> None:
    """Show which model goes to which endpoints: of a configuration, or of a running gateway by its admin URL."""
    rows = _from_gateway(source, token) if "://" in source else _from_file(Path(source))
    if json_file is not None:
        json.dump(rows, json_file, indent=2)
        json_file.write("\n")
        return
    from rich.console import Console
    from rich.table import Column, Table

    table = Table(*(Column(name, overflow="fold") for name in COLUMNS))
    for row in rows:
        table.add_row(*(", ".join(row[c]) if isinstance(row[c], list) else str(row[c]) for c in COLUMNS))
    Console(markup=False, emoji=False).print(table)  # names are anyone's: they may hold [brackets] and :colons:


def _from_file(path: Path) -> list[dict[str, Any]]:
    try:
        config = load_file(path)
    except ConfigError as error:
        for problem in error.problems:
            click.echo(f"{error.source}: {problem}", err=True)
        sys.exit(1)
    aliases = {model.name: model.aliases for model in config.models}
    rows: list[dict[str, Any]] = [
        {
            "model": model,
            "aliases": aliases.get(model, []),
            "endpoint": endpoint.name,
            "engine": endpoint.engine or "(detected)",
            "state": NOT_RUNNING,
            "url": endpoint.url,
        }
        for endpoint in config.endpoints
        for model in ([served.name for served in endpoint.models] if endpoint.models else [LEARNT])
    ]
    stated = {row["model"] for row in rows}
    somewhere = {"endpoint": LEARNT if LEARNT in stated else "(none)", "engine": "", "state": NOT_RUNNING, "url": ""}
    return rows + [
        {"model": model, "aliases": names, **somewhere} for model, names in aliases.items() if model not in stated
    ]


def _from_gateway(url: str, token: str) -> list[dict[str, Any]]:
    import httpx2

    try:
        answer = httpx2.get(
            url.rstrip("/") + "/api/endpoints",
            headers=credentials(token),
            timeout=5,
            trust_env=False,  # a proxy of the environment would read the token
        )
        answer.raise_for_status()
        endpoints = answer.json()
        return [
            {
                "model": model,
                "aliases": endpoint["aliases"].get(model, []),
                "endpoint": endpoint["name"],
                "engine": endpoint["engine"] or "?",
                "state": "draining" if endpoint["draining"] else endpoint["state"],
                "url": endpoint["url"],
            }
            for endpoint in endpoints
            for model in (endpoint["models"] or ["?"])
        ]
    except (httpx2.HTTPError, ValueError, KeyError, TypeError) as error:
        click.echo(f"llmgate: {url} did not answer as an admin port does ({error}): give the admin URL", err=True)
        sys.exit(1)
