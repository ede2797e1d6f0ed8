from __future__ import annotations

from collections.abc import Iterable

import pytest

from llmgate.wire.headers import Header, find, response_headers, retry_after, sort_request_headers

ID = b"abc"


def request_headers(incoming: list[Header], request_id: bytes, credentials: Iterable[Header] | None) -> list[Header]:
    return sort_request_headers(incoming).towards(request_id, credentials)


def names(headers: list[tuple[bytes, bytes]]) -> set[bytes]:
    return {name for name, _ in headers}


def test_what_belongs_to_one_connection_stays_there() -> None:
    incoming = [
        (b"connection", b"keep-alive, X-Private"),
        (b"x-private", b"1"),
        (b"te", b"trailers"),
        (b"upgrade", b"h2c"),
        (b"transfer-encoding", b"chunked"),
        (b"content-type", b"application/json"),
    ]
    assert request_headers(incoming, ID, ()) == [(b"content-type", b"application/json"), (b"x-request-id", ID)]


def test_the_gateways_own_headers_are_consumed() -> None:
    incoming = [
        (b"x-llmgate-priority", b"9"),
        (b"x-session-id", b"s"),
        (b"x-gateway-destination-endpoint", b"10.0.0.1:80"),
        (b"x-vllm-priority", b"0"),
        (b"x-data-parallel-rank", b"1"),
        (b"x-forwarded-for", b"1.2.3.4"),
        (b"host", b"evil"),
        (b"traceparent", b"00-1"),
    ]
    assert names(request_headers(incoming, ID, ())) == {b"traceparent", b"x-request-id"}


def test_the_clients_key_is_replaced_dropped_or_passed() -> None:
    incoming = [(b"authorization", b"Bearer client"), (b"x-api-key", b"client"), (b"cookie", b"c")]
    assert names(request_headers(incoming, ID, ())) == {b"x-request-id"}
    ours = request_headers(incoming, ID, ((b"authorization", b"Bearer engine"),))
    assert find(ours, b"authorization") == b"Bearer engine"
    assert find(ours, b"x-api-key") is None
    assert find(request_headers(incoming, ID, None), b"authorization") == b"Bearer client"


def test_a_credential_that_belongs_to_the_connection_stays_there() -> None:
    incoming = [(b"connection", b"authorization"), (b"authorization", b"Bearer client"), (b"x-api-key", b"k")]
    assert names(request_headers(incoming, ID, None)) == {b"x-api-key", b"x-request-id"}


def test_connection_cannot_remove_our_own_headers() -> None:
    incoming = [(b"connection", b"authorization, x-request-id")]
    sent = request_headers(incoming, ID, ((b"authorization", b"Bearer engine"),))
    assert sent == [(b"authorization", b"Bearer engine"), (b"x-request-id", ID)]


def test_the_engines_answer_keeps_what_is_the_clients() -> None:
    own = [(b"x-request-id", ID), (b"x-llmgate-endpoint", b"e")]
    incoming = [
        (b"server", b"llama.cpp"),
        (b"set-cookie", b"a=b"),
        (b"x-request-id", b"theirs"),
        (b"x-llmgate-endpoint", b"forged"),
        (b"connection", b"close, x-hidden, content-type"),
        (b"x-hidden", b"1"),
        (b"keep-alive", b"timeout=5"),
        (b"content-type", b"text/event-stream"),
        (b"content-length", b"12"),
        (b"openai-processing-ms", b"5"),
    ]
    assert response_headers(incoming, own) == [
        *own,
        (b"content-type", b"text/event-stream"),
        (b"content-length", b"12"),
        (b"openai-processing-ms", b"5"),
    ]


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(None, 1.0), (b"0", 1.0), (b"5", 5.0), (b"3600", 30.0), (b"-4", 1.0), (b"Wed, 21 Oct 2026 07:28:00 GMT", 1.0)],
)
def test_retry_after_is_heeded_within_bounds(value: bytes | None, seconds: float) -> None:
    headers = [] if value is None else [(b"retry-after", value)]
    assert retry_after(headers, (1.0, 30.0)) == seconds
    assert retry_after([(b"retry-after", b"9" * 5000)], (1.0, 30.0)) == 1.0


def test_a_request_id_is_taken_if_it_is_a_proper_one() -> None:
    assert sort_request_headers([(b"x-request-id", b"abc-1")]).request_id == b"abc-1"
    for bad in (b"", b"a b", b"\xe9", b"x" * 129):
        assert sort_request_headers([(b"x-request-id", bad)]).request_id is None
