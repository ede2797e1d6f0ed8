"""The configuration changes while the gateway runs: all of it or nothing, and what is in flight goes on."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml

from llmgate.config import ConfigError, ConfigFile, load_file
from llmgate.core.health import State
from llmgate.core.types import TerminationCause
from llmgate.testing.fake_upstream import LAST_CHUNK, STREAM_HEAD, FakeUpstream, chunk
from tests.support.fake_engine import DONE, FakeEngine, completion, gone, until
from tests.support.raw_client import RawClient, connect, post
from tests.support.serving import HELLO, STREAMED, Served, config_data, serving

EVENT = b'data: {"n": 1}\n\n'
NOWHERE = "http://127.0.0.1:1"


class File:
    """A configuration file that a test rewrites."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.source = ConfigFile(path, lambda: load_file(path, {}))

    def write(self, *endpoints: str | FakeUpstream | dict[str, Any], **sections: Any) -> ConfigFile:
        sections = {"reload": {"watch": 0}} | sections
        self.path.write_text(yaml.safe_dump(config_data(*endpoints, **sections)))
        return self.source


@pytest.fixture
def file(tmp_path: Path) -> File:
    return File(tmp_path / "llmgate.yaml")


async def reload(served: Served) -> dict[str, Any]:
    answer = await served.admin.post("/api/reload")
    assert answer.status_code == 200, answer.text
    changes: dict[str, Any] = answer.json()
    return changes


async def refusal(served: Served) -> str:
    answer = await served.admin.post("/api/reload")
    assert answer.status_code == 422
    message: str = answer.json()["error"]["message"]
    return message


async def names(served: Served) -> list[str]:
    return [each["name"] for each in (await served.admin.get("/api/endpoints")).json()]


async def begin_stream(client: RawClient, engine: FakeEngine) -> Any:
    """A stream whose first event has arrived."""
    client.send(post(STREAMED))
    request = await engine.request()
    await request.send(STREAM_HEAD, chunk(EVENT))
    await client.head()
    assert await client.chunk() == EVENT
    return request


# Endpoints


async def test_one_joins_one_stays_with_all_that_is_known_of_it_and_one_leaves(file: File) -> None:
    async with (
        FakeEngine([completion()]) as a,
        FakeEngine([completion()]) as b,
        FakeEngine([completion()]) as c,
        serving(source=file.write(a, b)) as served,
    ):
        for _ in range(4):
            await served.chat()
        kept, leaving = served.gateway.pool.get("a"), served.gateway.pool.get("b")
        learnt = served.gateway.scheduler.knowledge("m")
        file.write(a, {"name": "c", "url": c.url})
        assert await reload(served) == {"added": ["c"], "removed": ["b"], "changed": [], "sections": []}
        await until(lambda: served.gateway.pool.get("b") is None)
        await served.ready()
        assert served.gateway.pool.get("a") is kept
        assert served.gateway.scheduler.knowledge("m") is learnt
        assert learnt.output.samples == 4
        answered = {(await served.chat()).headers["x-llmgate-endpoint"] for _ in range(6)}
        assert answered == {"a", "c"}
        assert leaving not in list(served.gateway.pool)
        assert 'endpoint="b"' not in (await served.client.get("/metrics")).text


async def test_a_stream_on_one_that_leaves_goes_on_to_its_end_and_nothing_new_goes_there(file: File) -> None:
    async with FakeEngine() as a, FakeEngine([completion()]) as b, serving(source=file.write(a)) as served:
        async with connect(served.gateway.data_port) as client:
            request = await begin_stream(client, a)
            file.write({"name": "b", "url": b.url})
            await reload(served)
            await until(lambda: served.state("b") is State.UP)
            shown = {each["name"]: each for each in (await served.admin.get("/api/endpoints")).json()}
            assert (shown["a"]["draining"], shown["a"]["in_flight"]["requests"]) == (True, 1)
            assert (await served.chat()).headers["x-llmgate-endpoint"] == "b"
            await request.send(chunk(DONE), LAST_CHUNK)
            assert [await client.chunk(), await client.chunk()] == [DONE, b""]
        await until(lambda: served.gateway.pool.get("a") is None)
        assert served.gateway.scheduler.ledger.causes == {TerminationCause.COMPLETED: 2}


async def test_what_is_still_in_flight_after_the_drain_time_is_cut_off_or_tried_elsewhere(file: File) -> None:
    drain = {"drain": 0.05}
    async with (
        FakeEngine() as a,
        FakeEngine([completion()]) as b,
        serving(source=file.write(a, timeouts=drain)) as served,
    ):
        port = served.gateway.data_port
        async with connect(port) as begun, connect(port) as waiting:
            first = await begin_stream(begun, a)
            waiting.send(post(HELLO))
            second = await a.request()
            file.write({"name": "b", "url": b.url}, timeouts=drain)
            await reload(served)
            head, _ = await waiting.answer()
            assert (head.status, head.headers["x-llmgate-endpoint"]) == (200, "b")
            assert json.loads((await begun.chunk()).removeprefix(b"data: "))["error"]["code"] == "truncated"
            await gone(first)
            await gone(second)
        await until(lambda: served.gateway.pool.get("a") is None)


async def test_an_endpoint_whose_url_changes_is_another_and_counts_from_zero(file: File) -> None:
    async with FakeEngine() as old, FakeEngine([completion()]) as new, serving(source=file.write(old)) as served:
        async with connect(served.gateway.data_port) as client:
            request = await begin_stream(client, old)
            before = served.gateway.pool.get("a")
            file.write(new)
            assert (await reload(served))["changed"] == ["a"]
            after = served.gateway.pool.get("a")
            assert after is not None
            assert before is not None
            assert after is not before
            assert (before.load.requests, after.load.requests) == (1, 0)
            await until(lambda: served.state("a") is State.UP)
            await served.chat()
            assert len(new.asked) == 1
            await request.send(chunk(DONE), LAST_CHUNK)
            assert [await client.chunk(), await client.chunk()] == [DONE, b""]
        await until(lambda: before.load.requests == 0)
        assert served.gateway.pool.get("a") is after


async def test_one_that_is_named_again_before_it_has_left_stays_after_all(file: File) -> None:
    async with (
        FakeEngine() as a,
        FakeEngine([completion()]) as b,
        serving(source=file.write(a, b)) as served,
        connect(served.gateway.data_port) as client,
    ):
        await served.admin.post("/api/endpoints/b/drain")
        request = await begin_stream(client, a)
        before = served.gateway.pool.get("a")
        file.write({"name": "b", "url": b.url})
        await reload(served)
        assert await names(served) == ["a", "b"]
        file.write(a, b)
        assert (await reload(served))["added"] == ["a"]
        assert served.gateway.pool.get("a") is before
        await request.send(chunk(DONE), LAST_CHUNK)
        assert [await client.chunk(), await client.chunk()] == [DONE, b""]
        shown = (await served.admin.get("/api/endpoints")).json()
        assert [(each["name"], each["draining"]) for each in shown] == [("a", False), ("b", True)]


async def test_two_names_of_one_engine_do_not_cut_each_other_off(file: File) -> None:
    async with (
        FakeEngine() as engine,
        serving(source=file.write(engine, timeouts={"drain": 0})) as served,
        connect(served.gateway.data_port) as client,
    ):
        request = await begin_stream(client, engine)
        file.write({"name": "renamed", "url": engine.url}, timeouts={"drain": 0})
        await reload(served)
        await until(lambda: served.gateway.pool.get("a") is None)
        await request.send(chunk(DONE), LAST_CHUNK)
        assert [await client.chunk(), await client.chunk()] == [DONE, b""]


async def test_what_an_endpoint_is_said_to_be_changes_in_place(file: File) -> None:
    async with FakeEngine([completion()]) as engine, serving(source=file.write(engine)) as served:
        endpoint = served.gateway.pool.get("a")
        assert endpoint is not None
        said: dict[str, Any] = {
            "url": engine.url,
            "weight": 2.5,
            "labels": {"zone": "x"},
            "api_key": "another",
            "models": [{"name": "public", "served_as": "m"}],
        }
        file.write(said)
        assert (await reload(served))["changed"] == ["a"]
        assert served.gateway.pool.get("a") is endpoint
        assert (endpoint.spec.weight, endpoint.spec.labels) == (2.5, {"zone": "x"})
        assert (await served.chat()).status_code == 404
        assert (await served.chat(HELLO | {"model": "public"})).status_code == 200
        asked = engine.asked[-1]
        assert json.loads(asked.body)["model"] == "m"
        assert (b"authorization", b"Bearer another") in asked.headers
        file.write(engine)  # models are learnt again
        await reload(served)
        await until(lambda: endpoint.models == {"m": "m"})


async def test_an_unchanged_file_changes_nothing(file: File) -> None:
    async with FakeEngine([completion()]) as engine, serving(source=file.write(engine)) as served:
        router, log = served.gateway.scheduler.router, served.gateway.access_log
        assert await reload(served) == {"added": [], "removed": [], "changed": [], "sections": []}
        assert served.gateway.scheduler.router is router
        assert served.gateway.access_log is log
        assert await served.metric('llmgate_reloads_total{result="applied"}') == 1


# Everything else


async def test_every_other_section_takes_effect_for_new_requests(file: File, tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    async with FakeEngine([completion()]) as engine, serving(source=file.write(engine)) as served:
        assert (await served.chat(HELLO | {"model": "alias"})).status_code == 404
        file.write(
            engine,
            router={"policy": "least-connections"},
            models=[{"name": "m", "aliases": ["alias"], "tokenizer": "embedded"}],
            server={"body_limit": 1024, "metrics": False},
            health={"interval": 0.01, "strikes": 7},
            timeouts={"drain": 3},
            retries={"max_attempts": 2},
            access_log={"to": str(log)},
            cors={"origins": ["*"]},
            admin={"token": "canary"},
        )
        changes = await reload(served)
        assert changes["sections"] == [
            "server", "admin", "router", "models", "timeouts", "health", "retries", "access_log", "cors"
        ]  # fmt: skip
        answered = await served.chat(HELLO | {"model": "alias"})
        assert answered.headers["x-llmgate-policy"] == "least-connections"
        assert answered.headers["access-control-allow-origin"] == "*"  # the connection is the same as before
        assert (await served.chat(b"x" * 1025)).status_code == 413
        assert (await served.client.get("/metrics")).status_code == 404
        assert (await served.admin.get("/api/endpoints")).status_code == 401
        served.admin.headers["authorization"] = "Bearer canary"
        shown = (await served.admin.get("/api/config")).json()
        assert (shown["timeouts"]["drain"], shown["retries"]["max_attempts"]) == (3, 2)
        probed = len(engine.probed)
        await until(lambda: len(engine.probed) > probed + 5)
        file.write(engine)
        await reload(served)
        served.admin.headers.pop("authorization")
        await served.chat()
        assert (await served.admin.get("/api/endpoints")).status_code == 200
        for policy in ("round-robin", "least-connections"):
            line = f'llmgate_decisions_total{{policy="{policy}",choice="only"}}'
            assert await served.metric(line) == 1, "each is counted as its own"
    lines = [json.loads(line) for line in read(log)]
    assert [line["status"] for line in lines] == [200, 413]  # the log was closed, whole, by the second reload


def read(path: Path) -> list[str]:
    return path.read_text().splitlines()


async def test_a_model_has_timeouts_of_its_own_and_a_reload_changes_them(file: File) -> None:
    models = [{"name": "m", "timeouts": {"first_byte": 0.05}}]
    async with FakeEngine() as engine, serving(source=file.write(engine, models=models)) as served:
        answered = await served.chat()
        assert (answered.status_code, answered.json()["error"]["code"]) == (504, "first_byte_timeout")
        file.write(engine, models=[{"name": "m", "timeouts": {"idle": 0.05}}])
        await reload(served)
        asking = asyncio.create_task(served.chat(STREAMED))
        await engine.request()  # the one that timed out
        request = await engine.request()
        await request.send(STREAM_HEAD, chunk(EVENT))
        assert '"code":"idle_timeout"' in (await asking).text


# Refused


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda data: data.update(endpoints=[]), "endpoints: must have at least one entry"),
        (lambda data: data.pop("endpoints"), "endpoints: is required"),
        (lambda data: data["server"].update(port=9), "server.port: cannot change from 0 to 9 while llmgate runs"),
        (lambda data: data["admin"].update(host="localhost"), "admin.host: cannot change from 127.0.0.1 to localhost"),
        (lambda data: data["router"].update(policy="rund-robin"), "did you mean round-robin"),
        (lambda data: data["endpoints"].append(data["endpoints"][0]), "2 of them are named 'a'"),
        (lambda data: data["endpoints"][0].update(tls_ca="/no.pem"), "endpoints[0]: a: tls.ca /no.pem cannot be used"),
        (lambda data: data.update(models=[{"name": "m", "tokenizer": "/no"}]), "models[0].tokenizer: no tokenizer at"),
        (lambda data: data.update(access_log={"to": "/no/log"}), "access_log.to: the access log /no/log cannot be"),
        (lambda data: data.update(nonsense=1), "nonsense: there is no such key"),
        (lambda data: data["admin"].update(token="${NOT_SET}"), "admin.token: the environment variable NOT_SET"),
    ],
)
async def test_a_configuration_with_a_mistake_changes_nothing(
    file: File, change: Callable[[dict[str, Any]], None], said: str
) -> None:
    async with FakeEngine([completion()]) as engine, serving(source=file.write(engine)) as served:
        before = (await served.admin.get("/api/config")).json()
        endpoint, router = served.gateway.pool.get("a"), served.gateway.scheduler.router
        data = config_data(engine, {"url": NOWHERE, "name": "other"}, timeouts={"idle": 9})
        change(data)
        file.path.write_text(yaml.safe_dump(data))
        assert said in await refusal(served)
        assert (await served.admin.get("/api/config")).json() == before
        assert list(served.gateway.pool) == [endpoint]
        assert served.gateway.scheduler.router is router
        assert (await served.chat()).status_code == 200
        assert await served.metric('llmgate_reloads_total{result="refused"}') == 1


async def test_every_mistake_is_told_at_once(file: File) -> None:
    async with FakeEngine() as engine, serving(source=file.write(engine)) as served:
        file.path.write_text("{endpoints: [{url: ftp://x}, {}], timeouts: {idle: -1}}")
        message = await refusal(served)
    for path in ("endpoints[0].url", "endpoints[1].url", "timeouts.idle"):
        assert f"{path}: " in message
    assert "canary" not in message


@pytest.mark.parametrize("text", ["", "endpoints: [", "\x00", "- 1"])
async def test_a_file_that_is_not_even_yaml_changes_nothing(file: File, text: str) -> None:
    async with FakeEngine([completion()]) as engine, serving(source=file.write(engine)) as served:
        file.path.write_text(text)
        assert str(file.path) not in await refusal(served)  # a path of the machine is nobody's business
        assert (await served.chat()).status_code == 200


async def test_without_a_file_there_is_nothing_to_reload() -> None:
    async with FakeEngine() as engine, serving(engine) as served:
        answer = await served.admin.post("/api/reload")
        assert answer.status_code == 409
        assert "started without --config" in answer.text
        served.gateway.hang_up()  # only for the log


# SIGHUP and the file itself


async def test_a_hang_up_reloads_and_begins_a_new_access_log(
    file: File, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    log = tmp_path / "access.log"
    logging_there = {"access_log": {"to": str(log)}}
    async with FakeEngine([completion()]) as engine, serving(source=file.write(engine, **logging_there)) as served:
        await served.chat()
        log.rename(tmp_path / "access.log.1")
        file.write(engine, {"url": NOWHERE, "name": "b"}, **logging_there)
        served.gateway.hang_up()
        await until(lambda: served.gateway.pool.get("b") is not None)
        await served.chat()
    assert "reloaded: added b" in caplog.text
    assert [len(read(each)) for each in (log, tmp_path / "access.log.1")] == [1, 1]


async def test_a_hang_up_with_a_bad_file_says_each_mistake_in_the_log(
    file: File, caplog: pytest.LogCaptureFixture
) -> None:
    async with FakeEngine() as engine, serving(source=file.write(engine)) as served:
        file.path.write_text("{endpoints: [{url: ftp://x}], timeouts: {idle: -1}}")
        served.gateway.hang_up()
        await until(lambda: "timeouts.idle" in caplog.text)
    assert f"not reloaded: {file.path}: endpoints[0].url: must be http" in caplog.text


async def test_a_changed_file_is_noticed_a_bad_one_refused_and_a_good_one_applied(
    file: File, caplog: pytest.LogCaptureFixture
) -> None:
    watched = {"reload": {"watch": 0.01}}
    async with FakeEngine() as engine, serving(source=file.write(engine, **watched)) as served:
        file.path.write_text("endpoints: []")
        await until(lambda: "not reloaded" in caplog.text)
        file.write(engine, {"url": NOWHERE, "name": "b"}, **watched)
        await until(lambda: served.gateway.pool.get("b") is not None)


async def test_a_mistake_of_ours_in_a_reload_does_not_end_the_watching(
    file: File, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = {"reload": {"watch": 0.01}}
    async with FakeEngine() as engine, serving(source=file.write(engine, **watched)) as served:
        with monkeypatch.context() as patch:
            patch.setattr("llmgate.wiring.fixed_changes", lambda *_: 1 / 0)
            file.write(engine, {"url": NOWHERE, "name": "other"}, **watched)
            await until(lambda: "not reloaded, because of a mistake in the gateway" in caplog.text)
        file.write(engine, {"url": NOWHERE, "name": "b"}, **watched)
        await until(lambda: served.gateway.pool.get("b") is not None)


async def test_reloads_at_once_come_one_after_the_other(file: File) -> None:
    async with FakeEngine([completion()]) as engine, serving(source=file.write(engine)) as served:
        file.write(engine, {"url": NOWHERE, "name": "b"})
        results = await asyncio.gather(*(served.gateway.reload() for _ in range(5)))
        assert sorted(len(each.added) for each in results) == [0, 0, 0, 0, 1]


async def test_requests_go_on_through_reload_after_reload(file: File) -> None:
    """Endpoints come, go and change all the time, and no request fails."""
    async with (
        FakeEngine([completion()]) as a,
        FakeEngine([completion()]) as b,
        FakeEngine([completion()]) as c,
        serving(source=file.write(a, b, timeouts={"drain": 5})) as served,
    ):
        stop = False
        answers: list[int] = []

        async def ask() -> None:
            while not stop:
                answers.append((await served.chat()).status_code)

        asking = [asyncio.create_task(ask()) for _ in range(4)]
        for turn in range(12):
            others: list[dict[str, Any]] = [{"name": "b", "url": b.url}, {"name": "c", "url": c.url}]
            file.write(a, others[turn % 2], timeouts={"drain": 5})
            if turn % 3 == 0:
                file.write({"url": a.url, "weight": turn + 1}, *others, timeouts={"drain": 5})
            await reload(served)
            before = len(answers)
            await until(lambda before=before: len(answers) > before + 8)  # type: ignore[misc]
        stop = True
        await asyncio.gather(*asking)
        assert set(answers) == {200}


# By hand, over the admin port


async def add(served: Served, **endpoint: Any) -> httpx2.Response:
    return await served.admin.post("/api/endpoints", json=endpoint)


async def test_an_endpoint_added_by_hand_serves_stays_over_reloads_and_goes_when_told(file: File) -> None:
    async with (
        FakeEngine([completion()]) as a,
        FakeEngine([completion()]) as b,
        serving(source=file.write(a)) as served,
    ):
        added = await add(served, url=b.url, name="b", api_key="canary")
        assert (added.status_code, added.json()["name"], added.json()["state"]) == (201, "b", "starting")
        await served.ready()
        assert {(await served.chat()).headers["x-llmgate-endpoint"] for _ in range(4)} == {"a", "b"}
        assert await reload(served) == {"added": [], "removed": [], "changed": [], "sections": []}
        shown = await served.admin.get("/api/config")
        assert [each["name"] for each in shown.json()["endpoints"]] == ["a", "b"]
        assert "canary" not in shown.text
        assert (await served.admin.delete("/api/endpoints/b")).status_code == 202
        await until(lambda: served.gateway.pool.get("b") is None)
        await reload(served)
        assert await names(served) == ["a"]


async def test_one_of_the_file_that_was_removed_by_hand_comes_back_with_a_reload(file: File) -> None:
    async with FakeEngine() as a, FakeEngine() as b, serving(source=file.write(a, b)) as served:
        await served.admin.delete("/api/endpoints/b")
        await until(lambda: served.gateway.pool.get("b") is None)
        assert [each["name"] for each in (await served.admin.get("/api/config")).json()["endpoints"]] == ["a"]
        assert (await reload(served))["added"] == ["b"]


async def test_one_added_by_hand_that_the_file_names_later_is_the_files(file: File) -> None:
    async with FakeEngine() as a, FakeEngine() as b, serving(source=file.write(a)) as served:
        await add(served, url=b.url, name="b")
        file.write(a, {"url": b.url, "name": "b", "weight": 3})
        assert (await reload(served))["changed"] == ["b"]
        file.write(a)
        assert (await reload(served))["removed"] == ["b"]


async def test_what_cannot_be_added_is_refused_with_the_reason(file: File) -> None:
    async with FakeEngine() as a, serving(source=file.write(a)) as served:
        taken = await add(served, url=NOWHERE, name="a")
        assert (taken.status_code, taken.json()["error"]["code"]) == (409, "conflict")
        for wrong, said in [
            ({"url": "ftp://x"}, "body.url: Value error, must be http"),
            ({"url": NOWHERE, "colour": "red"}, "body.colour"),
            ({"url": "https://x", "tls_ca": "/no.pem"}, "tls.ca /no.pem cannot be used"),
            ({"url": NOWHERE, "api_key": "canary key"}, "must not contain blanks"),
        ]:
            answer = await add(served, **wrong)
            assert answer.status_code == 422
            assert said in answer.text
            assert "canary" not in answer.text
        assert (await served.admin.delete("/api/endpoints/nobody")).status_code == 404
        assert await names(served) == ["a"]


async def test_one_that_is_being_removed_cannot_be_undrained_but_added_again() -> None:
    async with FakeEngine() as a, serving(a) as served, connect(served.gateway.data_port) as client:
        request = await begin_stream(client, a)
        endpoint = served.gateway.pool.get("a")
        removed = await served.admin.delete("/api/endpoints/a")
        assert removed.json()["draining"]
        assert (await served.admin.delete("/api/endpoints/a")).status_code == 202  # again, to no effect
        assert (await served.admin.post("/api/endpoints/a/undrain")).status_code == 409
        assert (await add(served, url=a.url, name="a")).status_code == 201
        assert served.gateway.pool.get("a") is endpoint
        assert await names(served) == ["a"]
        await request.send(chunk(DONE), LAST_CHUNK)
        assert [await client.chunk(), await client.chunk()] == [DONE, b""]


async def test_the_last_endpoint_may_be_removed_by_hand_and_another_added() -> None:
    async with FakeEngine() as a, FakeEngine([completion()]) as b, serving(a) as served:
        await served.admin.delete("/api/endpoints/a")
        await until(lambda: not len(served.gateway.pool))
        assert (await served.admin.get("/api/config")).json()["endpoints"] == []
        assert (await served.chat()).status_code == 503
        await add(served, url=b.url)
        await served.ready()
        assert (await served.chat()).status_code == 200


async def test_a_shutdown_does_not_wait_for_those_that_leave() -> None:
    async with (
        FakeEngine() as a,
        serving(a, timeouts={"drain": 0.2}) as served,
        connect(served.gateway.data_port) as client,
    ):
        await begin_stream(client, a)
        await served.admin.delete("/api/endpoints/a")
        served.gateway.stop()
        await served.ends()


async def test_no_secret_is_in_the_configuration_that_is_shown() -> None:
    secret = {"url": NOWHERE, "api_key": "canary-engine"}
    log = {"to": "stderr", "hash_key": "canary-hash"}
    async with serving(secret, wait=False, admin={"token": "canary-admin"}, access_log=log) as served:
        shown = await served.admin.get("/api/config", headers={"authorization": "Bearer canary-admin"})
        assert shown.status_code == 200
        assert "canary" not in shown.text
        assert shown.json()["endpoints"][0]["api_key"] == "**********"


async def test_reading_the_file_gives_what_is_wrong_as_an_exception_too(file: File) -> None:
    async with FakeEngine() as engine, serving(source=file.write(engine)) as served:
        file.path.unlink()
        with pytest.raises(ConfigError, match="cannot be read"):
            await served.gateway.reload()


async def test_where_traces_go_cannot_change_while_it_runs(file: File) -> None:
    async with FakeEngine() as a:
        source = file.write(a)
        async with serving(source=source) as served:
            file.write(a, tracing={"headers": {"authorization": "canary"}, "sample": 0.5})
            refused = await refusal(served)
            assert "tracing.sample: cannot change from None to 0.5" in refused
            assert "canary" not in refused


async def test_policies_are_compared_anew_when_the_policy_changes(file: File, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmgate.runtime.EXPLAIN_SECONDS", 0.0)
    async with FakeEngine([completion()]) as a:
        source = file.write(a, router={"policy": "round-robin"})
        async with serving(source=source) as served:
            await served.chat()
            before = (await served.admin.get("/api/policies")).json()
            assert (before["decisions"], before["policies"][0]["name"]) == (1, "round-robin")
            file.write(a, router={"policy": "random"})
            await reload(served)
            after = (await served.admin.get("/api/policies")).json()
            assert (after["decisions"], after["policies"][0]["name"]) == (0, "random")


async def test_the_policy_keeps_its_history_when_comparing_is_switched(file: File) -> None:
    async with FakeEngine([completion()]) as a:
        source = file.write(a, router={"policy": "round-robin"})
        async with serving(source=source) as served:
            router = served.gateway.scheduler.router
            file.write(a, router={"policy": "round-robin", "compare": False})
            await reload(served)
            assert served.gateway.scheduler.router is router
            assert (await served.admin.get("/api/policies")).status_code == 404
            file.write(a, router={"policy": "round-robin"})
            await reload(served)
            assert (await served.admin.get("/api/policies")).status_code == 200
