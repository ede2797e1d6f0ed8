from __future__ import annotations

import logging

import pytest

from tests.support.fake_engine import FakeEngine
from tests.support.serving import serving


def audited(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "llmgate.audit"]


async def test_every_change_is_recorded_with_who_and_what_came_of_it(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "llmgate")
    async with FakeEngine() as engine, serving(engine) as served:
        await served.admin.post("/api/endpoints/a/drain")
        await served.admin.post("/api/endpoints/nobody/drain")
        await served.admin.post("/api/endpoints", json={"url": engine.url, "name": "b", "api_key": "canary"})
        await served.admin.delete("/api/endpoints/b")
        await served.admin.post("/api/reload")
        await served.admin.get("/api/endpoints")
    assert audited(caplog) == [
        "POST /api/endpoints/a/drain from 127.0.0.1: 200",
        "POST /api/endpoints/nobody/drain from 127.0.0.1: 404",
        "POST /api/endpoints from 127.0.0.1: 201",
        "DELETE /api/endpoints/b from 127.0.0.1: 202",
        "POST /api/reload from 127.0.0.1: 409",
    ]
    assert "canary" not in caplog.text


async def test_what_is_refused_at_the_door_is_recorded_too(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "llmgate")
    async with FakeEngine() as engine, serving(engine, admin={"token": "secret-token"}) as served:
        await served.admin.post("/api/endpoints/a/drain", headers={"authorization": "Bearer guess"})
        await served.admin.post("/api/reload", headers={"origin": "http://evil.example"})
    assert audited(caplog) == [
        "POST /api/endpoints/a/drain from 127.0.0.1: 401",
        "POST /api/reload from 127.0.0.1: 403",
    ]
    assert "guess" not in caplog.text
