"""Which header fields pass, in either direction. Names are lower case, as ASGI and the upstream clients give them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

Header = tuple[bytes, bytes]

HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"alt-svc",
        b"http2-settings",
    }
)
"""RFC 9110 section 7.6.1, and those that only make sense on one connection."""

CREDENTIALS = frozenset({b"authorization", b"x-api-key", b"api-key", b"cookie"})

STEERING = frozenset(
    {
        b"x-session-id",
        b"x-gateway-destination-endpoint",  # the endpoint picker protocol
        b"x-gateway-destination-endpoint-subset",
        b"x-vllm-priority",
        b"x-data-parallel-rank",  # vLLM, Dynamo
        b"x-prefiller-host-port",  # llm-d's sidecar connects to where these say
        b"x-prefiller-url",
        b"x-encoder-hosts-ports",
        b"x-kv-cache-source-host-port",
        b"x-data-parallel-host-port",
        b"x-llm-d-prefiller-host-port",
        b"x-llm-d-encoder-hosts-ports",
        b"x-llm-d-kv-cache-source-host-port",
        b"x-worker-instance-id",  # Dynamo
        b"x-prefill-instance-id",
        b"x-dp-rank",
        b"x-prefill-dp-rank",
        b"x-smg-target-worker",  # SGLang's router
        b"x-original-url",  # proxies that rewrite, Symfony's and IIS's among them, take the path from these
        b"x-rewrite-url",
    }
)
"""What engines, and proxies in front of them, take orders from; a client must not steer them past the gateway."""

DROPPED_FROM_REQUEST = HOP_BY_HOP | {
    b"host",
    b"content-length",
    b"expect",
    b"accept-encoding",  # the stream is read on its way: identity is asked for
    b"x-request-id",  # sent anew
    b"forwarded",
    b"x-real-ip",
}

DROPPED_FROM_RESPONSE = HOP_BY_HOP | {
    b"server",
    b"date",  # the gateway's own
    b"x-powered-by",
    b"location",  # the engine's own address; nobody is to go there past the gateway
    b"content-location",
    b"refresh",
    b"link",
    b"set-cookie",  # these hold for all that a browser does with the gateway, and not for one answer
    b"clear-site-data",
    b"strict-transport-security",
    b"nel",
    b"report-to",
    b"reporting-endpoints",
    b"x-accel-redirect",  # a web server in front of the gateway would hand out its files by these
    b"x-sendfile",
    b"x-request-id",
    b"access-control-allow-origin",  # the gateway is the origin that browsers see
    b"access-control-allow-credentials",
    b"access-control-allow-headers",
    b"access-control-allow-methods",
    b"access-control-expose-headers",
    b"access-control-max-age",
}

GATEWAY_PREFIX = b"x-llmgate-"
REQUEST_ID = re.compile(rb"[!-~]{1,128}")


_SPECIAL_IN_REQUEST = DROPPED_FROM_REQUEST | STEERING | CREDENTIALS | {b"content-encoding"}
_OWNED_PREFIXES = (GATEWAY_PREFIX, b"x-forwarded-")

_UNDERSCORE, _DOT = b"_."  # numbers: looking for a number is ten times as fast as looking for bytes
_DASHED = bytes.maketrans(b"_.", b"--")
"""What servers behind the gateway may make of a name: CGI, WSGI and PHP do not tell `x_y` and `x.y` from `x-y`."""


class RequestHeaders(NamedTuple):
    """A client's headers, sorted out."""

    passed: list[Header]  # what goes to any engine
    credentials: list[Header]  # the client's own
    request_id: bytes | None  # if it sent a proper one
    own: Sequence[Header] = ()  # what it asks of the gateway itself, by x-llmgate-…
    encoded: bool = False  # its body is compressed, or says so

    def towards(self, request_id: bytes, credentials: Iterable[Header] | None) -> list[Header]:
        """What goes to an engine. `credentials` replaces the client's own; None lets the client's pass."""
        keys = self.credentials if credentials is None else credentials
        return [*self.passed, *keys, (b"x-request-id", request_id)]


def sort_request_headers(incoming: Iterable[Header]) -> RequestHeaders:
    passed: list[Header] = []
    credentials: list[Header] = []
    own: Sequence[Header] = ()
    request_id, listed, encoded = None, b"", False
    for pair in incoming:
        name = pair[0]
        if name not in _SPECIAL_IN_REQUEST:
            if (_UNDERSCORE in name or _DOT in name) and _shadows(name):
                continue
            if not name.startswith(_OWNED_PREFIXES):
                passed.append(pair)
            elif name.startswith(GATEWAY_PREFIX):
                own = (*own, pair)
        elif name in CREDENTIALS:
            credentials.append(pair)
        elif name == b"x-request-id":
            if REQUEST_ID.fullmatch(pair[1]):
                request_id = pair[1]
        elif name == b"content-encoding":
            encoded = encoded or pair[1].strip().lower() not in (b"identity", b"")
        elif name == b"connection" and pair[1].lower() not in (b"keep-alive", b"close"):
            listed += b"," + pair[1]
    if listed:
        named = _tokens(listed)
        passed = [pair for pair in passed if pair[0] not in named]
        credentials = [pair for pair in credentials if pair[0] not in named]
    return RequestHeaders(passed, credentials, request_id, own, encoded)


def _shadows(name: bytes) -> bool:
    """Whether it may pass for one that the gateway takes out or sends itself."""
    twin = name.translate(_DASHED)
    return twin in _SPECIAL_IN_REQUEST or twin.startswith(_OWNED_PREFIXES)


def response_headers(incoming: Iterable[Header], own: list[Header]) -> list[Header]:
    """What goes to the client: `own` first, then the engine's, less what belongs to its connection or to us."""
    headers = own.copy()
    listed = b""
    for pair in incoming:
        name = pair[0]
        if name not in DROPPED_FROM_RESPONSE:
            if not name.startswith(GATEWAY_PREFIX):
                headers.append(pair)
        elif name == b"connection" and pair[1].lower() not in (b"keep-alive", b"close"):
            listed += b"," + pair[1]
    if listed:
        # content-type and content-length frame the body: an engine cannot have them dropped
        named = _tokens(listed) - {b"content-length", b"content-type"}
        headers = headers[: len(own)] + [pair for pair in headers[len(own) :] if pair[0] not in named]
    return headers


def _tokens(value: bytes) -> set[bytes]:
    return {token.strip().lower() for token in value.split(b",")}


def find(headers: Iterable[Header], wanted: bytes) -> bytes | None:
    for name, value in headers:
        if name == wanted:
            return value
    return None


def retry_after(headers: Iterable[Header], bounds: tuple[float, float]) -> float:
    """Seconds that Retry-After asks for, within `bounds`; the lower one if it says nothing or a date."""
    least, most = bounds
    value = find(headers, b"retry-after") or b""
    return min(max(float(value), least), most) if value.isdigit() and len(value) < 10 else least
