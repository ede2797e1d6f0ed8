"""Who the client is when other proxies stand in front: only what a trusted one says of its own client is believed."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

from llmgate.wire.headers import Header

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Field = Literal["x-forwarded-for", "forwarded"]

LONGEST_CHAIN = 50
"""Hops that are looked at, from the nearest: real chains have a handful."""

FOR = re.compile(rb"""(?:^|;)\s*for\s*=\s*(?:"([^"]*)"|([^;,\s"]+))""", re.IGNORECASE)
ELEMENT = re.compile(rb"""(?:[^,"]|"(?:[^"\\]|\\.)*")+""")


class ClientAddress:
    """Finds the address of a request's client.

    `trusted` are the networks of the proxies in front, as in `10.0.0.0/8` or `::1`. `field` is the one header that they
    set. Never both: a proxy that appends to one passes the other as the client sent it.
    """

    def __init__(self, trusted: Iterable[str], field: Field = "x-forwarded-for") -> None:
        self._trusted: Sequence[Network] = [ipaddress.ip_network(network) for network in trusted]
        self._field = field.encode()
        self._hops = _forwarded if field == "forwarded" else _x_forwarded_for

    def of(self, peer: str, headers: Iterable[Header]) -> str:
        """`peer` is the other end of the connection. The chain is read from the nearest hop on, for as long as those
        who vouch for the next are trusted; anything that is no address ends it."""
        address = _address(peer)
        if address is None or not self._trusts(address):
            return peer
        chain = b",".join(value for name, value in headers if name == self._field)
        for _, hop in zip(range(LONGEST_CHAIN), self._hops(chain), strict=False):
            found = _address(hop)
            if found is None:
                break
            address = found
            if not self._trusts(found):
                break
        return str(address)

    def _trusts(self, address: Address) -> bool:
        return any(address in network for network in self._trusted)


def _x_forwarded_for(chain: bytes) -> Iterator[str]:
    """Nearest first."""
    return (hop.strip().decode("latin-1") for hop in reversed(chain.rsplit(b",", LONGEST_CHAIN)))


def _forwarded(chain: bytes) -> Iterator[str]:
    """The same of RFC 7239's field; an element that names no `for` is no address."""
    for element in reversed(ELEMENT.findall(chain)):
        found = FOR.search(element)
        yield (found[1] or found[2] or b"").decode("latin-1") if found else ""


def _address(text: str) -> Address | None:
    """With or without a port; an IPv4 address within IPv6 is one of IPv4."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
