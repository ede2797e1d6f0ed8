from __future__ import annotations


class ConfigError(Exception):
    """A configuration that cannot be used; `problems` says each thing that is wrong, with its path."""

    def __init__(self, source: str, problems: list[str]) -> None:
        self.source = source
        self.problems = problems
        super().__init__("\n".join(f"{source}: {problem}" for problem in problems))
