"""The page on profiles lists what there is, with the defaults that it has."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from pathlib import Path

import pytest
import yaml

from llmgate.config import from_data
from llmgate.routing import registry
from llmgate.routing.pickers import MaxPicker
from llmgate.routing.profile import Profile
from llmgate.testing import check_router
from tests.docs.pages import blocks, example, read, rows

PAGE = read("docs/policies/profiles.md")
LISTED = {cells[0].strip("`"): cells[-1] for cells in rows(PAGE) if cells[0].startswith("`")}
PARTS = {**registry.FILTERS.built_in, **registry.SCORERS.built_in}


def test_every_part_is_listed_and_no_other() -> None:
    assert LISTED.keys() == {*PARTS, *registry.PICKERS.built_in}


@pytest.mark.parametrize("name", PARTS)
def test_the_options_of_a_part_are_listed_with_their_defaults(name: str) -> None:
    parameters = inspect.signature(PARTS[name]).parameters
    stated = dict(re.findall(r"`(\w+)`: [^;]*?default ([\d.]+)", LISTED[name]))
    numbers = {key: each.default for key, each in parameters.items() if isinstance(each.default, int | float)}
    assert {key: float(value) for key, value in stated.items()} == numbers
    assert all(f"`{key}`" in LISTED[name] for key in parameters)
    assert bool(parameters) == (LISTED[name] != "none")


def test_the_example_is_a_profile() -> None:
    (block,) = blocks(PAGE, "yaml")
    config = from_data(yaml.safe_load(block) | {"endpoints": [{"url": "http://a"}]}, "profiles.md", {})
    check_router(config.router.create)


def test_parts_of_ones_own_keep_the_contract(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_parts.py").write_text(example("docs/adding-a-router.md", "scorer"))
    monkeypatch.syspath_prepend(tmp_path)
    try:
        mine = importlib.import_module("my_parts")
        check_router(lambda: Profile([mine.ShortPrompts()], [(mine.CheapScorer(), 1.0)], MaxPicker()))
    finally:
        sys.modules.pop("my_parts", None)
