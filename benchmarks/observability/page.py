"""Pictures of the dashboard, by Chromium (Debian's package)."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from playwright.async_api import async_playwright

PICTURES: dict[str, dict[str, Any]] = {
    "dashboard.png": {"viewport": {"width": 1280, "height": 1000}, "color_scheme": "light"},
    "dashboard-dark.png": {"viewport": {"width": 1280, "height": 1000}, "color_scheme": "dark"},
    "dashboard-phone.png": {
        "viewport": {"width": 390, "height": 844},
        "color_scheme": "light",
        "device_scale_factor": 2,
    },
}


async def draw_page(url: str, directory: Path) -> None:
    """Of the page at the URL of an admin port, with the last decision opened on the desktop."""
    path = shutil.which("chromium")
    if path is None:
        raise SystemExit("chromium is not installed: apt-get install chromium")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        for name, options in PICTURES.items():
            page = await (await browser.new_context(**options)).new_page()
            await page.goto(url)
            explained = page.locator("#decisions > tbody > tr", has_text="first token expected").first
            await explained.wait_for()
            if "phone" not in name:
                await page.locator("#hold").check()
                await explained.get_by_role("button").click()
            await page.locator("#policies tbody tr").first.wait_for()
            await page.screenshot(path=directory / name)
            await page.close()
        await browser.close()
