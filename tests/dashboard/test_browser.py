"""The pages in a real Chromium, clicked through in front of live engines."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Page, expect

from llmgate.core.health import State
from llmgate.demo.engines import Engine
from llmgate.demo.model import TINY
from tests.support.browser import chromium, page_at
from tests.support.fake_engine import FakeEngine, completion, gone, sse, stream, until
from tests.support.processes import free_ports, program
from tests.support.serving import HELLO, STREAMED, Served, serving

MODEL = TINY.alias
EVENTS = stream(*sse(*({"choices": [{"index": 0, "delta": {"content": f"word {n} "}}]} for n in range(3))))


@asynccontextmanager
async def fleet_page(*endpoints: Any, may_log: str = "$^", **sections: Any) -> AsyncIterator[tuple[Served, Page]]:
    """The fleet page of a gateway in front of these."""
    async with chromium() as browser, serving(*endpoints, **sections) as served:
        async with page_at(browser, fleet_of(served), may_log=may_log) as page:
            yield served, page
        await served.settled()


def fleet_of(served: Served) -> str:
    return str(served.admin.base_url)


def row(page: Page, name: str) -> Any:
    return page.locator("#endpoints tbody tr", has=page.get_by_text(name, exact=True))


async def ask(served: Served, model: str, count: int = 1) -> None:
    body = {"model": model, "messages": [{"role": "user", "content": "Tell me more."}], "max_tokens": 8}
    answers = [await served.chat(body) for _ in range(count)]
    assert {each.status_code for each in answers} == {200}


async def test_the_fleet_and_the_decisions_are_live(tiny_engines: Sequence[Engine]) -> None:
    async with fleet_page(*(engine.url for engine in tiny_engines)) as (served, page):
        await expect(page.locator("#endpoints tbody tr")).to_have_count(2)
        await expect(row(page, "a")).to_contain_text("● up")
        await expect(row(page, "a")).to_contain_text(MODEL)
        await expect(row(page, "a")).to_contain_text("llamacpp")
        await expect(page.locator("#total-ready")).to_have_text("2 of 2")
        await expect(page.locator("#no-decisions")).to_be_visible()
        await ask(served, MODEL, 3)
        await expect(page.locator("#decisions > tbody > tr")).to_have_count(3)
        await expect(page.locator("#total-requests")).not_to_have_text("0")
        await expect(page.locator("#total-output")).not_to_have_text("0")
        await expect(page.locator("#policies .chosen")).to_contain_text("round-robin")
        await expect(page.locator("#policies tbody tr")).to_have_count(10)
        await expect(page.locator("#about")).to_contain_text("round-robin")
        line = page.locator("#tile-requests .spark .line")
        await until_true(lambda: drawn(line))


async def drawn(line: Any) -> bool:
    return "L" in (await line.get_attribute("d") or "")


async def until_true(check: Any) -> None:
    async with asyncio.timeout(15):
        while not await check():
            await asyncio.sleep(0.05)


async def test_draining_is_asked_about_first_and_can_be_taken_back() -> None:
    async with FakeEngine() as a, FakeEngine() as b, fleet_page(a, b) as (served, page):
        (first, second) = served.gateway.pool
        dialog = page.locator("#confirm-dialog")
        await page.get_by_role("button", name="Drain a").click()
        await expect(dialog).to_contain_text("It gets no new requests. Nothing is in flight there.")
        await dialog.get_by_role("button", name="Cancel").click()
        await expect(dialog).to_be_hidden()
        assert not first.draining
        await page.get_by_role("button", name="Drain a").click()
        await dialog.get_by_role("button", name="Drain", exact=True).click()
        await expect(row(page, "a")).to_contain_text("↓ draining")
        await expect(page.locator("#total-ready")).to_have_text("1 of 2")
        assert (first.draining, second.draining) == (True, False)
        await page.get_by_role("button", name="Drain b").click()
        await expect(dialog).to_contain_text("No other endpoint is ready for m: its clients will get 503.")
        await page.keyboard.press("Escape")
        await expect(dialog).to_be_hidden()
        assert not second.draining
        await page.get_by_role("button", name="Undrain a").click()
        await dialog.get_by_role("button", name="Undrain", exact=True).click()
        await expect(page.locator("#total-ready")).to_have_text("2 of 2")
        assert not first.draining


async def test_by_the_keyboard_alone() -> None:
    async with FakeEngine() as a, fleet_page(a) as (_served, page):
        button = page.get_by_role("button", name="Drain a")
        await expect(button).to_be_visible()
        for _ in range(20):
            await page.keyboard.press("Tab")
            if await button.evaluate("node => node === document.activeElement"):
                break
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("button", name="Cancel")).to_be_focused()
        await page.keyboard.press("Tab")
        await page.keyboard.press("Enter")
        await expect(page.locator("#total-ready")).to_have_text("0 of 1")
        await expect(page.get_by_role("button", name="Undrain a")).to_be_focused()  # the focus stays where it was


async def test_a_decision_can_be_opened_and_stays_open() -> None:
    async with (
        FakeEngine([completion()]) as a,
        FakeEngine([completion()]) as b,
        fleet_page(a, b, router={"policy": "expected-latency"}) as (served, page),
    ):
        await served.chat(x_request_id="the-first")
        why = page.get_by_role("button", name="Why request the-first went to")
        await expect(why).to_have_attribute("aria-expanded", "false")
        await why.click()
        await expect(why).to_have_attribute("aria-expanded", "true")
        await expect(page.locator("#hold")).to_be_checked()
        options = page.locator("#decisions .options tbody tr")
        await expect(options).to_have_count(2)
        await expect(options.nth(0)).to_contain_text("chosen")
        await expect(options.nth(1)).to_contain_text("as good")
        await served.chat(x_request_id="the-second")
        await page.wait_for_timeout(1500)  # the time in which it would have come
        await expect(page.locator("#decisions > tbody > tr")).to_have_count(1)
        await why.click()
        await expect(page.locator("#decisions .options")).to_have_count(0)
        await page.locator("#hold").uncheck()
        await expect(page.locator("#decisions > tbody > tr")).to_have_count(2)


async def test_the_playground_shows_the_answer_and_its_way(tiny_engines: Sequence[Engine]) -> None:
    router = {"policy": "expected-latency"}
    async with fleet_page(*(engine.url for engine in tiny_engines), router=router) as (_, page):
        await page.locator("#chat-prompt").fill("Once upon a time")
        await page.locator("#chat-tokens").fill("12")
        await expect(page.locator("#chat-model")).to_have_value(MODEL)
        await page.get_by_role("button", name="Send").click()
        facts = page.locator("#chat-route .facts")
        await expect(facts).to_contain_text("expected-latency")
        assert await page.locator("#chat-answer").inner_text()
        shown = dict(
            zip(await facts.locator("dt").all_inner_texts(), await facts.locator("dd").all_inner_texts(), strict=True)
        )
        assert shown["Endpoint"] in ("a", "b")
        assert 1 <= int(shown["Answer tokens"]) <= 12
        assert int(shown["Prompt tokens"]) > 0
        assert all(shown[name].endswith("s") for name in ("First token", "Total"))
        await expect(page.locator("#chat-route .costs li.chosen")).to_contain_text(shown["Endpoint"])
        await expect(page.locator("#chat-route .options tbody tr")).to_have_count(2)


async def test_the_playground_can_be_stopped_and_frees_the_engine() -> None:
    async with FakeEngine() as engine, fleet_page(engine) as (served, page):
        await page.get_by_role("button", name="Send").click()
        request = await engine.request()
        await request.send(*EVENTS[:2])
        await expect(page.locator("#chat-answer")).to_have_text("word 0")
        await page.get_by_role("button", name="Stop").click()
        await expect(page.locator("#chat-note")).to_have_text("Stopped.")
        await gone(request)
        await served.settled()
        await expect(page.get_by_role("button", name="Send")).to_be_visible()


async def test_the_playground_says_what_went_wrong() -> None:
    async with FakeEngine() as a, fleet_page(a, may_log="503") as (served, page):
        await expect(page.locator("#chat-send")).to_be_enabled()
        await served.admin.post("/api/endpoints/a/drain")
        await page.get_by_role("button", name="Send").click()
        await expect(page.locator("#chat-note")).to_contain_text("No endpoint of the model `m` is ready")


async def test_the_snippets_work_and_can_be_copied() -> None:
    async with FakeEngine([completion()]) as a, chromium() as browser, serving(a) as served:
        granted = ["clipboard-read", "clipboard-write"]
        async with page_at(browser, fleet_of(served), permissions=granted) as page:
            await page.get_by_role("button", name="Copy curl").click()
            await expect(page.get_by_role("button", name="Copy curl")).to_have_text("Copied")
            copied = await page.evaluate("navigator.clipboard.readText()")
            texts = await page.locator("#snippets pre").all_inner_texts()
        program("curl", "curl")
        assert copied == texts[0]
        shell = ["bash", "-c", f"{copied} --silent --show-error --fail"]
        ran = await asyncio.to_thread(subprocess.run, shell, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr
        assert json.loads(ran.stdout)["choices"]
        assert all(f"{served.url}/v1" in text and '"m"' in text for text in texts)
        compile(texts[1], "openai", "exec")
        compile(texts[2], "langchain", "exec")


async def test_the_python_snippet_runs_as_it_stands(tiny_engines: Sequence[Engine]) -> None:
    async with fleet_page(tiny_engines[0].url) as (_, page):
        snippet = page.locator(".snippet", has=page.get_by_role("heading", name="Python, openai"))
        text = await snippet.locator("pre").inner_text()
        short = text.replace("model=", "max_tokens=4, model=")
        said = await asyncio.to_thread(subprocess.run, [sys.executable, "-c", short], capture_output=True, text=True)
        assert said.returncode == 0, said.stderr
        assert said.stdout.strip()


async def test_with_a_token_nothing_is_shown_before_it_is_given() -> None:
    async with (
        FakeEngine([completion()]) as a,
        fleet_page(a, may_log="401", admin={"token": "canary"}) as (_served, page),
    ):
        dialog = page.get_by_role("dialog")
        await expect(dialog).to_contain_text("admin.token")
        await expect(page.locator("#endpoints tbody tr")).to_have_count(0)
        await page.keyboard.press("Escape")
        await expect(dialog).to_be_visible()
        await page.locator("#token").fill("wrong")
        await page.get_by_role("button", name="Continue").click()
        await expect(dialog).to_contain_text("That token was not accepted.")
        await page.locator("#token").fill("canary")
        await page.keyboard.press("Enter")
        await expect(page.locator("#endpoints tbody tr")).to_have_count(1)
        await expect(page.locator("#metrics-link")).to_be_hidden()
        await page.reload()
        await expect(page.locator("#endpoints tbody tr")).to_have_count(1)  # the tab remembers it
        assert "canary" not in await page.content()
        await page.get_by_role("button", name="Send").click()
        await expect(page.locator("#chat-route .facts")).to_be_visible()
        assert all(b"canary" not in value for request in a.asked for _, value in request.headers)


async def test_a_gateway_that_goes_away_is_told_of_and_waited_for() -> None:
    port, admin = free_ports(2)
    where: dict[str, Any] = {"server": {"port": port}, "admin": {"port": admin}}
    async with chromium() as browser, FakeEngine() as engine:
        async with serving(engine, **where) as served:
            context = page_at(
                browser, fleet_of(served), may_log="ERR_CONNECTION_REFUSED|ERR_INCOMPLETE|ERR_CONNECTION_RESET"
            )
            page = await context.__aenter__()
            await expect(row(page, "a")).to_contain_text("● up")
        try:
            await expect(page.get_by_role("alert")).to_contain_text("What you see is from")
            await expect(row(page, "a")).to_contain_text("● up")
            assert "stale" in (await page.locator("body").get_attribute("class") or "")
            async with serving(engine, **where):
                await expect(page.get_by_role("alert")).to_be_hidden()
                await expect(page.locator("body")).not_to_have_class("stale")
                await page.close()
        finally:
            await context.__aexit__(None, None, None)


async def test_an_endpoint_that_goes_down_says_why_and_so_does_the_page() -> None:
    async with (
        FakeEngine() as a,
        FakeEngine() as b,
        fleet_page(a, b, health={"interval": 0.1, "fall": 1}) as (served, page),
    ):
        await expect(page.locator("#total-ready")).to_have_text("2 of 2")
        await b.stop()
        await until(lambda: served.state("b") is State.DOWN)
        await expect(row(page, "b")).to_contain_text("✕ down")
        await expect(row(page, "b").locator(".reason")).not_to_be_empty()
        await expect(page.locator("#total-ready")).to_have_text("1 of 2")
        await expect(page.locator("#tile-ready")).to_have_class("tile alert")


async def test_what_engines_and_clients_call_things_is_text() -> None:
    evil = "<img src=x onerror=alert(1)>"
    async with FakeEngine([completion()], models=[evil]) as a, fleet_page(a) as (served, page):
        await served.chat(HELLO | {"model": evil}, x_request_id="<b>bold</b>")
        await expect(page.locator("#endpoints .models")).to_have_text(evil)
        await expect(page.locator("#decisions .label")).to_have_text(evil)
        await expect(page.locator("#chat-model option")).to_have_text(evil)
        assert await page.locator("main img").count() == 0
        assert await page.locator("#decisions b").count() == 0


async def test_the_theme_follows_the_system_until_it_is_chosen() -> None:
    async with (
        FakeEngine() as a,
        chromium() as browser,
        serving(a) as served,
        page_at(browser, fleet_of(served), color_scheme="dark") as page,
    ):
        dark = await ground(page)
        await page.get_by_role("button", name="Theme: system").click()
        light = await ground(page)
        await page.get_by_role("button", name="Theme: light").click()
        assert await ground(page) == dark != light
        await page.reload()
        await expect(page.get_by_role("button", name="Theme: dark")).to_be_visible()
        assert await ground(page) == dark


async def ground(page: Page) -> str:
    colour: str = await page.evaluate("getComputedStyle(document.body).backgroundColor")
    return colour


LONG = "an-endpoint-with-a-long-name-as-orchestrators-make-them-7f9c6d5b48-x2x9k.inference.svc.cluster.local"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 768, 1280])
async def test_it_fits_every_width_and_axe_finds_nothing(width: int, scheme: Any) -> None:
    async with FakeEngine(EVENTS) as a, FakeEngine(EVENTS, models=["a/model-with-a-long-name-" * 4]) as b:
        endpoints = ({"name": LONG, "url": a.url}, b)
        async with chromium() as browser, serving(*endpoints, router={"policy": "expected-latency"}) as served:
            size: Any = {"width": width, "height": 800}
            async with page_at(browser, fleet_of(served), viewport=size, color_scheme=scheme) as page:
                await served.chat(STREAMED)
                await page.get_by_role("button", name="Why request").click()
                await page.get_by_role("button", name="Send").click()
                await expect(page.locator("#chat-route .facts")).to_be_visible()
                await expect(page.locator("#policies tbody tr")).to_have_count(10)
                await clean(page, width)
                await page.get_by_role("button", name=f"Drain {LONG}").click()
                await clean(page, width)
                await page.keyboard.press("Escape")
            async with page_at(browser, f"{fleet_of(served)}/docs", viewport=size, color_scheme=scheme) as page:
                await expect(page.locator(".entry").first).to_be_visible()
                await clean(page, width)


async def clean(page: Page, width: int) -> None:
    assert await page.evaluate("document.documentElement.scrollWidth") <= width
    found = (await Axe().run(page)).response["violations"]
    assert [(each["id"], [node["html"] for node in each["nodes"]]) for each in found] == []


async def test_two_browsers_see_the_same(tiny_engines: Sequence[Engine]) -> None:
    async with (
        chromium() as browser,
        serving(tiny_engines[0].url) as served,
        page_at(browser, fleet_of(served)) as one,
        page_at(browser, fleet_of(served)) as other,
    ):
        await shows_draining(one, other, served)
        assert served.gateway.live.watchers == 2


async def shows_draining(one: Page, other: Page, served: Served) -> None:
    await one.get_by_role("button", name="Drain a").click()
    await one.locator("#confirm-yes").click()
    await expect(row(other, "a")).to_contain_text("↓ draining")
    await other.get_by_role("button", name="Undrain a").click()
    await other.locator("#confirm-yes").click()
    await expect(page_ready(one)).to_have_text("1 of 1")


def page_ready(page: Page) -> Any:
    return page.locator("#total-ready")
