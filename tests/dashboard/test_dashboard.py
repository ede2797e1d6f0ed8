from __future__ import annotations

import re

import pytest

from llmgate.dashboard import CONTENT_SECURITY_POLICY, load_assets


def asset(path: str) -> str:
    return load_assets()[path][0].decode()


def test_everything_that_the_page_refers_to_is_served_beside_it() -> None:
    referred = set(re.findall(r'(?:src|href)="([^":]+)"', asset("/")))
    api = {"docs", "metrics", "api/endpoints"}
    assert referred - api == {path.removeprefix("/") for path in load_assets() if path != "/"}


@pytest.mark.parametrize("path", ["/", "/dashboard.css", "/dashboard.js"])
def test_nothing_is_fetched_from_elsewhere(path: str) -> None:
    """The one address in there is a namespace, which nothing fetches."""
    assert set(re.findall(r"https?://[^'\" ]+", asset(path))) <= {"http://www.w3.org/2000/svg"}


def test_the_page_keeps_to_its_own_content_security_policy() -> None:
    assert "unsafe" not in CONTENT_SECURITY_POLICY
    page = asset("/")
    assert not re.search(r"<script(?![^>]*\bsrc=)", page)
    assert not re.search(r"<style|\sstyle=|\son\w+=", page)


def test_the_script_never_makes_markup_of_what_it_is_told() -> None:
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b", asset("/dashboard.js"))


def test_the_script_finds_every_element_that_it_asks_for() -> None:
    asked = set(re.findall(r'\$\("([\w-]+)"\)', asset("/dashboard.js")))
    assert asked
    assert asked <= set(re.findall(r'\bid="([\w-]+)"', asset("/")))


def test_decisions_are_kept_apart_by_more_than_what_clients_may_repeat() -> None:
    assert re.search(r"\(decision\) => `\$\{decision\.at\} \$\{decision\.request_id\}`", asset("/dashboard.js"))
