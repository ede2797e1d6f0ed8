from __future__ import annotations

import re

import pytest

from llmgate.dashboard import CONTENT_SECURITY_POLICY, load_assets


def asset(path: str) -> str:
    return load_assets()[path][0].decode()


PAGES = ["/", "/docs"]


def modules(path: str) -> set[str]:
    """What a script imports, directly or not, and itself."""
    found, left = set(), {path}
    while left:
        found.add(now := left.pop())
        left |= {f"/{name}" for name in re.findall(r'from "\./([\w.]+)"', asset(now))} - found
    return found


def test_everything_that_the_pages_refer_to_is_served_beside_them_and_nothing_else() -> None:
    referred = {link for page in PAGES for link in re.findall(r'(?:src|href)="([^":]+)"', asset(page))}
    elsewhere = {"./", "openapi.json", "metrics", "api/snapshot"}
    files = {f"/{link}" for link in referred - elsewhere}
    scripts = {each for file in files if file.endswith(".js") for each in modules(file)}
    assert files | scripts | {"/"} == set(load_assets())


@pytest.mark.parametrize("path", load_assets())
def test_nothing_is_fetched_from_elsewhere(path: str) -> None:
    """The one address in there is a namespace, which nothing fetches."""
    assert set(re.findall(r"(?:https?:)?//[\w.-]+\.[^'\" ]+", asset(path))) <= {"http://www.w3.org/2000/svg"}


@pytest.mark.parametrize("page", PAGES)
def test_a_page_keeps_to_its_own_content_security_policy(page: str) -> None:
    assert "unsafe" not in CONTENT_SECURITY_POLICY
    assert not re.search(r"<script(?![^>]*\bsrc=)", asset(page))
    assert not re.search(r"<style|\sstyle=|\son\w+=", asset(page))


SCRIPTS = [path for path in load_assets() if path.endswith(".js")]


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_never_makes_markup_of_what_it_is_told(script: str) -> None:
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b", asset(script))


@pytest.mark.parametrize(("scripts", "page"), [(modules("/app.js"), "/"), ({"/docs.js", "/theme.js"}, "/docs")])
def test_scripts_find_every_element_that_they_ask_for(scripts: set[str], page: str) -> None:
    asked = {name for each in scripts for name in re.findall(r'(?:\$|getElementById)\("([\w-]+)"\)', asset(each))}
    assert asked
    assert asked <= set(re.findall(r'\bid="([\w-]+)"', asset(page)))
