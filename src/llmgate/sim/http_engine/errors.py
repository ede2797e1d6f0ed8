"""What the server refuses, in vLLM 0.32's words: {"error": {"message", "type", "param", "code"}}."""

from __future__ import annotations

import msgspec


class Refused(Exception):
    """An answer other than 200. `param` names the field that is at fault."""

    def __init__(self, status: int, kind: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.body = msgspec.json.encode({"error": {"message": message, "type": kind, "param": param, "code": status}})


def bad_request(message: str, param: str | None = None) -> Refused:
    return Refused(400, "BadRequestError", message, param)


def bad_field(param: str, message: str, value: object = None) -> Refused:
    """vLLM's VLLMValidationError, which repeats the field, and its value if there is one, in the message."""
    detail = f"parameter={param}" if value is None else f"parameter={param}, value={value}"
    return bad_request(f"{message} ({detail})", param)


def not_as_described(problem: str, param: str | None = None) -> Refused:
    """What the request's schema refuses: wrong types, no JSON."""
    return Refused(400, "Bad Request", f"1 validation error:\n  {problem}", param)


def not_found(message: str, param: str | None = None) -> Refused:
    return Refused(404, "NotFoundError", message, param)


def queue_full() -> Refused:
    return Refused(
        503,
        "Service Unavailable",
        "The engine is currently busy and cannot accept new requests. Please try again later or on a different "
        "instance.",
    )


def failed() -> Refused:
    return Refused(500, "InternalServerError", "EngineCore encountered an issue. See stack trace for the root cause.")


class NoSuchPath(Refused):
    """FastAPI's own words."""

    def __init__(self, status: int, detail: str) -> None:
        Exception.__init__(self, detail)
        self.status = status
        self.body = msgspec.json.encode({"detail": detail})
