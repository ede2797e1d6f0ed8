from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgate.wire.forwarded import LONGEST_CHAIN, ClientAddress, Field

TRUSTED = ["10.0.0.0/8", "fd00::/8", "192.0.2.7"]


def of(peer: str, *chain: bytes, field: Field = "x-forwarded-for") -> str:
    headers = [(b"host", b"gateway"), *((field.encode(), value) for value in chain)]
    return ClientAddress(TRUSTED, field).of(peer, headers)


@pytest.mark.parametrize(
    ("peer", "chain", "client"),
    [
        ("203.0.113.9", [], "203.0.113.9"),
        ("203.0.113.9", [b"198.51.100.1"], "203.0.113.9"),  # a stranger's word
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", [b"198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", [b"1.1.1.1, 198.51.100.1"], "198.51.100.1"),  # the left one is the client's own claim
        ("10.0.0.1", [b"1.1.1.1, 198.51.100.1, 10.0.0.2, 192.0.2.7"], "198.51.100.1"),
        ("10.0.0.1", [b"1.1.1.1", b"198.51.100.1", b"10.0.0.2"], "198.51.100.1"),  # in several lines
        ("10.0.0.1", [b"10.0.0.3, 10.0.0.2"], "10.0.0.3"),  # all within the house
        ("10.0.0.1", [b"198.51.100.1, unknown, 10.0.0.2"], "10.0.0.2"),  # nothing beyond what is no address
        ("10.0.0.1", [b"nonsense"], "10.0.0.1"),
        ("10.0.0.1", [b""], "10.0.0.1"),
        ("10.0.0.1", [b"198.51.100.1:4711"], "198.51.100.1"),
        ("10.0.0.1", [b"[2001:db8::1]:4711"], "2001:db8::1"),
        ("fd00::1", [b"2001:db8::1"], "2001:db8::1"),
        ("::ffff:10.0.0.1", [b"198.51.100.1"], "198.51.100.1"),
        ("", [b"198.51.100.1"], ""),  # a socket without an address
    ],
)
def test_the_client_is_the_first_from_the_right_that_is_not_trusted(peer: str, chain: list[bytes], client: str) -> None:
    assert of(peer, *chain) == client


@pytest.mark.parametrize(
    ("value", "client"),
    [
        (b"for=198.51.100.1", "198.51.100.1"),
        (b'For="[2001:db8::1]:4711";proto=https', "2001:db8::1"),
        (b"for=1.1.1.1, proto=https;for=198.51.100.1;by=10.0.0.9, for=10.0.0.2", "198.51.100.1"),
        (b'for="a, b", for=10.0.0.2', "10.0.0.2"),
        (b"for=_hidden, for=10.0.0.2", "10.0.0.2"),
        (b"for=unknown", "10.0.0.1"),
        (b"proto=https", "10.0.0.1"),
        (b"by=198.51.100.1", "10.0.0.1"),
    ],
)
def test_the_standard_header_is_read_the_same_way(value: bytes, client: str) -> None:
    assert of("10.0.0.1", value, field="forwarded") == client


def test_only_the_header_that_the_proxies_set_is_believed() -> None:
    headers = [(b"forwarded", b"for=1.1.1.1"), (b"x-forwarded-for", b"198.51.100.1")]
    assert ClientAddress(TRUSTED).of("10.0.0.1", headers) == "198.51.100.1"
    assert ClientAddress(TRUSTED, "forwarded").of("10.0.0.1", headers) == "1.1.1.1"


def test_a_chain_is_not_followed_for_ever() -> None:
    chain = b"198.51.100.1" + b", 10.0.0.2" * (LONGEST_CHAIN + 5)
    assert of("10.0.0.1", chain) == "10.0.0.2"


@given(value=st.binary(max_size=300), field=st.sampled_from(["x-forwarded-for", "forwarded"]))
def test_whatever_is_sent_an_address_comes_out(value: bytes, field: Field) -> None:
    assert of("203.0.113.9", value, field=field) == "203.0.113.9"
    assert ClientAddress([]).of("10.0.0.1", [(field.encode(), value)]) == "10.0.0.1"
    of("10.0.0.1", value, field=field).encode("ascii")
