"""Debian's Chromium, driven by Playwright, and pages that may not complain."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from playwright.async_api import Browser, ConsoleMessage, Page, async_playwright

from tests.support.processes import program

PATIENCE_MS = 15_000


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    path = program("chromium", "chromium")
    async with async_playwright() as playwright:
        # no sandbox: tests may run as root, and open nothing but pages of the gateway's
        browser = await playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            await browser.close()


@asynccontextmanager
async def page_at(browser: Browser, url: str, *, may_log: str = "$^", **context: Any) -> AsyncIterator[Page]:
    """The page at `url`. It may neither raise nor log an error, but for those that match `may_log`."""
    complaints: list[str] = []

    def logged(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and not re.search(may_log, message.text):
            complaints.append(message.text)

    opened = await browser.new_context(**context)
    page = await opened.new_page()
    page.set_default_timeout(PATIENCE_MS)
    page.on("console", logged)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    try:
        await page.goto(url)
        yield page
    finally:
        await opened.close()
    assert complaints == []
