"""`llmgate`: one module a command. Errors go to stderr in one sentence; exit 0 done, 1 failed, 2 wrong usage."""

from __future__ import annotations

import importlib

import click

from llmgate import __version__

COMMANDS = ("serve", "check", "routes", "simulate", "sim-engine", "bench", "gpus", "top", "demo")


class LazyGroup(click.Group):
    """Imports a command's module only when it is called for: `llmgate check` need not load the demo."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        name = cmd_name.replace("-", "_")
        command: click.Command = getattr(importlib.import_module(f"llmgate.cli.{name}"), name)
        return command


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="llmgate")
def main() -> None:
    """Token-aware load balancer for self-hosted LLM engines.

    \b
    Example:
      llmgate serve http://127.0.0.1:8000 http://127.0.0.1:8001
    """
