"""How Anthropic's API tells of errors. The rest of it differs from OpenAI's in names only: see wire/kinds.py."""

from __future__ import annotations

import msgspec

from llmgate.core.errors import LlmgateError

TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
"""By status: https://docs.claude.com/en/api/errors. Others below 500 are `invalid_request_error`, above `api_error`."""


def error_body(error: LlmgateError) -> bytes:
    kind = TYPES.get(error.status) or ("invalid_request_error" if error.status < 500 else "api_error")
    return msgspec.json.encode({"type": "error", "error": {"type": kind, "message": error.message}})


def error_event(error: LlmgateError) -> bytes:
    return b"event: error\ndata: %b\n\n" % error_body(error)
