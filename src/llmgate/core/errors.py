"""One tree of errors. Each knows whose fault it is, its HTTP status, and whether another endpoint may be tried.

A client library's exceptions are mapped onto this tree once, inside `upstream/`; everything above sees only these.
"""

from __future__ import annotations

import enum

from llmgate.core.types import TerminationCause, Verdict


class Side(enum.Enum):
    CLIENT = "client"
    UPSTREAM = "upstream"
    GATEWAY = "gateway"


class LlmgateError(Exception):
    """Base of all. `type`, `code` and `param` go into OpenAI's error envelope."""

    side = Side.GATEWAY
    status = 500
    type = "api_error"
    code: str | None = None
    param: str | None = None
    retry_after: int | None = None  # seconds, for the Retry-After header

    @property
    def message(self) -> str:
        return str(self)


# The client's fault ----------------------------------------------------------------------------------------------


class ClientError(LlmgateError):
    side = Side.CLIENT
    status = 400
    type = "invalid_request_error"


class BadRequest(ClientError):
    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.param = param
        self.code = code


class ModelNotFound(ClientError):
    status = 404
    code = "model_not_found"
    param = "model"

    def __init__(self, model: str) -> None:
        # the name is the client's own text: bounded, and only ever sent back to that client
        super().__init__(f"The model `{model[:200]}` does not exist.")


class RouteNotFound(ClientError):
    status = 404
    code = "unknown_url"


class MethodNotAllowed(ClientError):
    status = 405
    code = "method_not_allowed"


class RequestTimeout(ClientError):
    """The request did not come to its end in time."""

    status = 408
    code = "request_timeout"


class UrlTooLong(ClientError):
    status = 414
    code = "url_too_long"


class HeadTooLarge(ClientError):
    status = 431
    code = "headers_too_large"


class BodyTooLarge(ClientError):
    status = 413
    code = "body_too_large"


class UnsupportedEncoding(ClientError):
    status = 415
    code = "unsupported_content_encoding"


# The gateway cannot serve it now ---------------------------------------------------------------------------------


class Overloaded(LlmgateError):
    """One of the gateway's own limits is reached; `code` says which. Told before the body is read."""

    status = 503
    type = "service_unavailable"
    retry_after = 1

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


class NoReadyEndpoint(LlmgateError):
    status = 503
    type = "service_unavailable"
    code = "no_ready_endpoint"
    retry_after = 1


class InternalError(LlmgateError):
    code = "internal_error"


class ShuttingDown(LlmgateError):
    status = 503
    type = "service_unavailable"
    code = "shutting_down"
    retry_after = 5


# The engine's fault ----------------------------------------------------------------------------------------------


class UpstreamError(LlmgateError):
    """Something broke between the gateway and the engine.

    `never_sent`: not one byte of the request left, so trying elsewhere costs nothing.
    """

    side = Side.UPSTREAM
    status = 502
    type = "upstream_error"
    code = "upstream_error"
    never_sent = False
    verdict = Verdict.BAD
    cause = TerminationCause.UPSTREAM_ERROR


class ConnectFailed(UpstreamError):
    """Refused, unreachable, unknown host, TLS refused."""

    code = "connect_failed"
    never_sent = True
    verdict = Verdict.UNREACHABLE


class ConnectTimeout(ConnectFailed):
    status = 504
    code = "connect_timeout"
    cause = TerminationCause.UPSTREAM_TIMEOUT


class OutOfResources(UpstreamError):
    """The gateway's own machine has no more of something (file descriptors, ports, memory). The engine is not to blame,
    and another one may be reached all the same, over a connection that is open already."""

    side = Side.GATEWAY
    status = 503
    type = "service_unavailable"
    code = "out_of_resources"
    retry_after = 1
    never_sent = True
    verdict = Verdict.NEUTRAL
    cause = TerminationCause.GATEWAY_ERROR


class ConnectionLost(UpstreamError):
    """The connection ended before the first byte of an answer."""

    code = "connection_lost"


class FirstByteTimeout(UpstreamError):
    status = 504
    code = "first_byte_timeout"
    cause = TerminationCause.UPSTREAM_TIMEOUT


class ProtocolViolation(UpstreamError):
    """The engine's bytes are not a valid HTTP answer."""

    code = "protocol_violation"


class Truncated(UpstreamError):
    """The connection ended, or broke the protocol, in the middle of an answer."""

    code = "truncated"


class StreamRefused(UpstreamError):
    """A stream that consists of an error from its first event on, because the engine is full."""

    status = 503
    code = "engine_full"
    retry_after = 1
    verdict = Verdict.NEUTRAL
    cause = TerminationCause.REFUSED


class IdleTimeout(UpstreamError):
    """The answer had begun and then nothing came for too long."""

    status = 504
    code = "idle_timeout"
    cause = TerminationCause.UPSTREAM_TIMEOUT
