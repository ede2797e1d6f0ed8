from __future__ import annotations

import pytest

from llmgate.core.errors import ConnectFailed, ConnectionLost, OutOfResources, Truncated, UpstreamError
from llmgate.probes.page import Page, ProbeFailed, answered, asker
from tests.core.make import endpoint
from tests.probes.fakes import HANGS, FakeEngines, page


@pytest.mark.parametrize(
    ("error", "unreachable"),
    [(ConnectFailed("refused"), True), (ConnectionLost("lost"), False), (Truncated("cut\nshort"), False)],
)
async def test_a_failure_is_told_in_one_line(error: UpstreamError, unreachable: bool) -> None:
    ask = asker(FakeEngines(a={"/health": error}).fetch, endpoint("a"), 1.0)
    with pytest.raises(ProbeFailed) as failed:
        await ask("/health")
    assert str(failed.value) == f"/health: {' '.join(str(error).split())}"
    assert failed.value.unreachable is unreachable
    assert not failed.value.ours


async def test_what_this_machine_lacks_is_told_apart() -> None:
    error = OutOfResources("no more files")
    ask = asker(FakeEngines(a={"/health": error}).fetch, endpoint("a"), 1.0)
    with pytest.raises(ProbeFailed, match="no more files") as failed:
        await ask("/health")
    assert failed.value.ours


async def test_the_whole_answer_has_one_deadline() -> None:
    ask = asker(FakeEngines(a={"/health": HANGS}).fetch, endpoint("a"), 0.01)
    with pytest.raises(ProbeFailed, match=r"^/health did not answer within 0\.01 s$"):
        await ask("/health")


def test_a_refused_key_is_named() -> None:
    assert str(answered("/health", page(status=401))) == "/health answered 401; check its api_key"
    assert str(answered("/health", page(status=500))) == "/health answered 500"


def test_headers_are_found_by_their_lower_case_name() -> None:
    answer = Page(200, [(b"server", b"a"), (b"server", b"b")], b"")
    assert answer.header(b"server") == "a"
    assert answer.header(b"date") == ""
