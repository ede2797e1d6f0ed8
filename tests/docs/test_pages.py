from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import click
import pytest

from llmgate.cli.main import COMMANDS, main
from tests.docs.pages import PAGES, ROOT, blocks, read

LINK = re.compile(r"\]\(([^)\s]+)\)|(?:src|srcset)=\"([^\"]+)\"")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    for pair in LINK.findall(page.read_text()):
        target = pair[0] or pair[1]
        if not target.startswith("http"):
            file, _, section = target.partition("#")
            linked = page.parent / file if file else page
            assert linked.exists(), f"{page.relative_to(ROOT)}: {target}"
            assert not section or section in sections(linked), f"{page.relative_to(ROOT)}: {target}"


def sections(page: Path) -> set[str]:
    """The anchors of its headings, as they are made where the pages are shown."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_every_page_is_in_the_list() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    listed = {(ROOT / "docs" / target).resolve() for target, _ in LINK.findall(index)}
    assert set(PAGES) - {ROOT / "docs" / "README.md"} <= listed


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_that_is_shown_exists(page: Path) -> None:
    shown = [
        line[2:]
        for block in blocks(page.read_text(), "console")
        for line in block.splitlines()
        if line[:2] in ("$ ", "# ")
    ]
    for line in shown:
        program, *words = shlex.split(line.rstrip("\\"), comments=True)
        if program.startswith("scripts/"):
            assert (ROOT / program).exists(), line
        if not program.endswith("llmgate"):
            continue
        assert words[0] in COMMANDS, line
        command = main.get_command(click.Context(main), words[0])
        assert command is not None
        options = {option for parameter in command.params for option in parameter.opts}
        assert options >= {word for word in words if word.startswith("--")}, line


def test_every_function_of_the_life_of_a_request_exists() -> None:
    defined = {file: _defined(file) for file in (ROOT / "src" / "llmgate").rglob("*.py")}
    text = read("docs/life-of-a-request.md")
    placed = re.findall(r"`(\w+(?:\.\w+)?)`\s\((\w+/\w+\.py)\)", text)
    assert len(placed) > 10
    for name, file in placed:
        assert name in defined[ROOT / "src" / "llmgate" / file], f"{name} in {file}"
    methods = set(re.findall(r"`([A-Z]\w+\.\w+)`", text))
    assert len(methods) > 30
    assert methods <= set().union(*defined.values())


def _defined(file: Path) -> set[str]:
    """Functions, classes, and methods as `Class.method`."""
    body = ast.parse(file.read_text()).body
    classes = [node for node in body if isinstance(node, ast.ClassDef)]
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    methods = {f"{each.name}.{item.name}" for each in classes for item in each.body if isinstance(item, functions)}
    return methods | {node.name for node in body if isinstance(node, (ast.ClassDef, *functions))}


def test_every_module_that_is_named_exists() -> None:
    for page in PAGES:
        for name in re.findall(r"(?<![\w/])((?:core|gateway|wire|upstream|telemetry)/\w+\.py)\b", page.read_text()):
            assert (ROOT / "src" / "llmgate" / name).exists(), f"{page}: {name}"


NOT_OURS = {"expected ',' or '}', but got '{'", 'data: {"error": …}'}


def test_every_message_of_troubleshooting_is_still_said() -> None:
    said = "\n".join(file.read_text() for file in (ROOT / "src" / "llmgate").rglob("*.py"))
    said = re.sub(r'"\s*\n\s*f?"', "", said)  # a text that goes on in the next line
    titles = re.findall(r"^(?:###|-) .*`.*$", read("docs/troubleshooting.md"), re.MULTILINE)
    messages = {message for title in titles for message in re.findall(r"`([^`]+ [^`]+)`", title)} - NOT_OURS
    assert len(messages) > 20
    for message in messages - {"Connection refused"}:
        for part in message.split("…"):
            assert part.strip() in said, message
