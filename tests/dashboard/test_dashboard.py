from __future__ import annotations

import re

import pytest

from llmgate.dashboard import CONTENT_SECURITY_POLICY, load_assets


def asset(path: str) -> str:
    return load_assets()[path][0].decode()


PAGES = ["/", "/docs"]


def test_everything_that_the_pages_refer_to_is_served_beside_them() -> None:
    referred = {link for page in PAGES for link in re.findall(r'(?:src|href)="([^":]+)"', asset(page))}
    elsewhere = {"./", "openapi.json", "metrics", "api/endpoints"}
    assert referred - elsewhere == {path.removeprefix("/") for path in load_assets() if path != "/"}


@pytest.mark.parametrize("path", load_assets())
def test_nothing_is_fetched_from_elsewhere(path: str) -> None:
    """The one address in there is a namespace, which nothing fetches."""
    assert set(re.findall(r"(?:https?:)?//[\w.-]+\.[^'\" ]+", asset(path))) <= {"http://www.w3.org/2000/svg"}


@pytest.mark.parametrize("page", PAGES)
def test_a_page_keeps_to_its_own_content_security_policy(page: str) -> None:
    assert "unsafe" not in CONTENT_SECURITY_POLICY
    assert not re.search(r"<script(?![^>]*\bsrc=)", asset(page))
    assert not re.search(r"<style|\sstyle=|\son\w+=", asset(page))


SCRIPTS = {"/dashboard.js": "/", "/docs.js": "/docs"}


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_never_makes_markup_of_what_it_is_told(script: str) -> None:
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b", asset(script))


@pytest.mark.parametrize(("script", "page"), SCRIPTS.items())
def test_a_script_finds_every_element_that_it_asks_for(script: str, page: str) -> None:
    asked = set(re.findall(r'\$\("([\w-]+)"\)', asset(script)))
    assert asked
    assert asked <= set(re.findall(r'\bid="([\w-]+)"', asset(page)))


def test_decisions_are_kept_apart_by_more_than_what_clients_may_repeat() -> None:
    assert re.search(r"\(decision\) => `\$\{decision\.at\} \$\{decision\.request_id\}`", asset("/dashboard.js"))
