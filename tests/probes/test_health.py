from __future__ import annotations

import logging
from dataclasses import dataclass

import pytest

from llmgate.core.errors import FirstByteTimeout, OutOfResources
from llmgate.core.health import Health, HealthPolicy, State
from llmgate.core.pool import EndpointPool
from llmgate.core.types import Endpoint, EndpointSpec, Verdict
from llmgate.probes.health import MODELS_EVERY, HealthProbe
from llmgate.probes.page import Page
from tests.core.make import state
from tests.probes.fakes import HANGS, REFUSED, Answer, FakeEngines, llamacpp, models, page, vllm
from tests.wire.engine_pages import recorded

LATE = FirstByteTimeout("late")


@dataclass
class Pace:
    interval: float = 5.0
    timeout: float = 1000.0


class Case:
    """One endpoint `a` and its probe."""

    def __init__(
        self,
        answers: dict[str, Answer] | None,
        *,
        engine: str | None = None,
        stated: dict[str, str] | None = None,
        pace: Pace = Pace(),  # noqa: B008  (not changed)
    ) -> None:
        self.pool = EndpointPool(health=HealthPolicy(rise=2, fall=3))
        self.endpoint: Endpoint = self.pool.add(EndpointSpec("a", "http://a", engine=engine, models=stated))
        self.engines = FakeEngines(**({} if answers is None else {"a": answers}))
        self.probe = HealthProbe(self.pool, self.endpoint, self.engines.fetch, pace)

    @property
    def health(self) -> Health:
        return self.endpoint.health

    @property
    def state(self) -> State:
        return self.endpoint.health.state

    def asked(self, path: str) -> int:
        return self.engines.asked["a", path]

    async def probes(self, count: int) -> None:
        for _ in range(count):
            await self.probe()


async def test_probes_that_cannot_be_sent_say_nothing_of_the_engine() -> None:
    case = Case(vllm())
    await case.probes(1)
    case.engines.engines["a"] = {"/health": OutOfResources("no more files")}
    await case.probes(10)
    assert case.state is State.UP


async def test_first_contact_finds_out_the_engine_and_its_models() -> None:
    case = Case(vllm())
    await case.probe()
    assert (case.state, case.endpoint.engine, case.endpoint.models) == (State.UP, "vllm", {"tiny": "tiny"})
    assert case.pool.ready("tiny", 0.0) == (case.endpoint,)


async def test_what_is_stated_is_not_asked() -> None:
    case = Case({"/health": page()}, engine="vllm", stated={"public": "served"})
    await case.probe()
    assert (case.state, case.endpoint.engine, case.endpoint.models) == (State.UP, "vllm", {"public": "served"})
    assert set(case.engines.asked) == {("a", "/health")}


async def test_once_learnt_only_health_is_asked_and_models_now_and_then() -> None:
    case = Case(vllm())
    await case.probes(1)
    first = case.asked("/v1/models")
    await case.probes(MODELS_EVERY - 1)
    assert case.asked("/v1/models") == first
    case.engines.engines["a"]["/v1/models"] = models("tiny", "lora")
    await case.probe()
    assert case.asked("/v1/models") == first + 1
    assert case.asked("/metrics") == 1
    assert case.endpoint.models == {"tiny": "tiny", "lora": "lora"}


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (page(status=503), "/health answered 503"),
        (page(status=401), "/health answered 401; check its api_key"),
        (page(status=302), "/health answered 302"),
        (REFUSED, "/health: connection refused"),
    ],
)
async def test_an_engine_that_is_not_healthy_is_not_used_and_the_reason_kept(answer: Answer, reason: str) -> None:
    case = Case({**vllm(), "/health": answer})
    await case.probe()
    assert (case.state, case.health.reason) == (State.STARTING, reason)
    assert case.asked("/v1/models") == 0, "no more questions than needed"


async def test_a_probe_that_is_not_answered_in_time_has_failed() -> None:
    case = Case({**vllm(), "/health": HANGS}, pace=Pace(timeout=0.01))
    await case.probe()
    assert case.health.reason == "/health did not answer within 0.01 s"


async def test_a_web_page_is_no_llm_server() -> None:
    html = page(b"<!doctype html>", content_type="text/html")
    case = Case({"/health": html, "/v1/models": html, "/metrics": html, "/info": html})
    await case.probes(5)
    assert (case.state, case.endpoint.engine) == (State.STARTING, None)
    assert case.health.reason == (
        "it is not an LLM server: /v1/models answered with text/html that is not a list of models"
    )


async def test_an_unknown_engine_is_generic_and_its_model_list_is_its_health() -> None:
    case = Case({"/v1/models": models("m")})
    await case.probe()
    assert (case.state, case.endpoint.engine) == (State.UP, "openai")
    case.engines.engines["a"]["/health"] = page(status=503)
    await case.probe()
    assert case.asked("/health") == 1, "not what its health is judged by"
    case.engines.engines["a"] = {"/v1/models": page(status=500)}
    await case.probes(3)
    assert (case.state, case.health.reason) == (State.DOWN, "/v1/models answered 500")


async def test_a_generic_engine_whose_models_are_stated_needs_no_list() -> None:
    case = Case({}, engine="openai", stated={"m": "m"})
    await case.probe()
    assert case.state is State.UP
    assert case.asked("/v1/models") == 1
    case.engines.engines["a"]["/v1/models"] = page(status=401)
    await case.probes(3)
    assert case.health.reason == "/v1/models answered 401; check its api_key"


async def test_thresholds_count_consecutive_probes_both_ways() -> None:
    case = Case(vllm())
    await case.probe()
    alive = case.engines.engines.pop("a")
    await case.probes(2)
    case.engines.engines["a"] = alive
    await case.probe()
    del case.engines.engines["a"]
    await case.probes(2)
    assert state(case.health) is State.UP, "two, one good, two: never three in a row"
    await case.probe()
    assert (case.state, case.health.reason) == (State.DOWN, "/health: connection refused")
    case.engines.engines["a"] = alive
    await case.probe()
    assert state(case.health) is State.DOWN
    await case.probe()
    assert state(case.health) is State.UP


async def test_an_engine_that_comes_back_as_another_is_learnt_anew() -> None:
    case = Case(vllm())
    await case.probe()
    del case.engines.engines["a"]
    await case.probe()
    case.engines.engines["a"] = {**llamacpp(), "/v1/models": models("other")}
    await case.probe()
    assert (case.endpoint.engine, case.endpoint.models) == ("llamacpp", {"other": "other"})
    assert case.probe.times_learnt == 2


async def test_a_connection_refused_to_a_request_or_a_scrape_makes_it_ask_again() -> None:
    case = Case(vllm())
    await case.probe()
    case.health.request_ended(Verdict.UNREACHABLE, 0.0, trial=False)
    await case.probes(2)
    assert case.probe.times_learnt == 2
    case.probe.forget()
    await case.probes(2)
    assert case.probe.times_learnt == 3


async def test_a_restart_noticed_while_learning_counts() -> None:
    case = Case(vllm())
    fetch = case.engines.fetch

    async def restarts_meanwhile(endpoint: Endpoint, path: str, timeout: float, /) -> object:
        if path == "/v1/models" and case.probe.times_learnt == 0:
            case.probe.forget()
        return await fetch(endpoint, path, timeout)

    case.probe = HealthProbe(case.pool, case.endpoint, restarts_meanwhile, Pace())  # type: ignore[arg-type]
    await case.probes(2)
    assert case.probe.times_learnt == 2


async def test_probes_are_quick_at_the_very_start_then_each_second_until_it_is_up() -> None:
    case = Case(None)
    assert [case.probe.interval() for _ in range(6)] == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]
    case.engines.engines["a"] = vllm()
    await case.probe()
    assert case.probe.interval() == 5.0
    del case.engines.engines["a"]
    await case.probes(3)
    assert case.probe.interval() == 1.0


async def test_each_change_of_state_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "llmgate.probes")
    case = Case(None)
    await case.probes(5)
    case.engines.engines["a"] = vllm()
    await case.probes(5)
    del case.engines.engines["a"]
    await case.probes(5)
    case.engines.engines["a"] = vllm()
    await case.probes(5)
    case.health.request_ended(Verdict.UNREACHABLE, 0.0, trial=False, reason="connection refused")
    await case.probes(5)
    assert [record.getMessage() for record in caplog.records] == [
        "a is not up yet: /health: connection refused",
        "a is up (vllm, models: tiny)",
        "a is down: /health: connection refused",
        "a is up (vllm, models: tiny)",
        "a is ejected: connection refused",
        "a is up (vllm, models: tiny)",
    ]


async def test_new_models_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "llmgate.probes")
    case = Case(vllm())
    await case.probe()
    case.engines.engines["a"]["/v1/models"] = models("tiny", "lora")
    await case.probes(MODELS_EVERY)
    assert caplog.records[-1].getMessage() == "a is up (vllm, models: tiny, lora)"


async def test_a_probe_that_breaks_off_has_failed_and_tells_no_secrets() -> None:
    case = Case(vllm())

    async def broken(endpoint: Endpoint, path: str, timeout: float, /) -> Page:
        raise ZeroDivisionError("Bearer my-secret")

    case.probe = HealthProbe(case.pool, case.endpoint, broken, Pace())
    with pytest.raises(ZeroDivisionError):
        await case.probe()
    assert (case.state, case.health.reason) == (State.STARTING, "the probe broke off: unexpected ZeroDivisionError")
    case.health.probe_passed()
    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            await case.probe()
    assert state(case.health) is State.DOWN


async def test_an_engine_whose_clues_were_lost_at_first_is_looked_at_again() -> None:
    tgi: dict[str, Answer] = {
        "/health": page(),
        "/v1/models": models("m"),
        "/info": page(recorded("reconstructed/tgi-info.json")),
        "/metrics": page(recorded("reconstructed/tgi.txt")),
    }
    case = Case({**tgi, "/info": LATE, "/metrics": LATE})
    await case.probe()
    assert (case.state, case.endpoint.engine) == (State.UP, "openai"), "usable meanwhile"
    case.engines.engines["a"] = tgi
    await case.probes(MODELS_EVERY)
    assert (state(case.health), case.endpoint.engine) == (State.UP, "tgi")
    asked = case.asked("/metrics")
    await case.probes(3 * MODELS_EVERY)
    assert case.asked("/metrics") == asked, "now it is known"


async def test_a_generic_engine_that_answered_every_question_is_not_asked_again() -> None:
    case = Case({"/v1/models": models("m")})
    await case.probes(1 + 3 * MODELS_EVERY)
    assert case.asked("/info") == 1
