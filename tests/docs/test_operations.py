from __future__ import annotations

import re

from llmgate.core.health import State
from llmgate.core.scheduler import Scheduler
from llmgate.gateway.admin import create_admin_app
from llmgate.routing import registry
from llmgate.telemetry.access_log import Entry
from llmgate.telemetry.metrics import Metrics
from tests.core.make import pool
from tests.docs.pages import read, rows
from tests.support.control import FakeControl
from tests.support.live import data_app, live_of

PAGE = read("docs/operations.md")


def test_the_states_are_those_of_the_page() -> None:
    names = {cells[0] for cells in rows(PAGE)}
    assert {state.value.replace("_", " ") for state in State} <= names


def test_the_requests_of_the_admin_port_are_those_of_the_page() -> None:
    endpoints = pool(1)
    scheduler = Scheduler(endpoints, registry.create("round-robin"))
    metrics, live = Metrics(endpoints, lambda: 0.0), live_of(scheduler, lambda: 0.0)
    app = create_admin_app(scheduler, metrics, FakeControl(), live=live, data=data_app, clock=lambda: 0.0)
    for path, methods in app.openapi()["paths"].items():
        for method in methods:
            shown = path.replace("/undrain", "/drain").replace(":path", "")
            assert f"`{method.upper()} {shown}" in PAGE, (method, path)


def test_the_fields_of_the_access_log_are_those_of_the_page() -> None:
    section = PAGE.partition("### The access log")[2].partition("\n## ")[0]
    fields = [name for cell, *_ in rows(section) for name in re.findall(r"`(\w+)`", cell)]
    assert tuple(fields) == Entry.__struct_fields__
