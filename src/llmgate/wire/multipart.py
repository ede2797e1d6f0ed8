"""The few form fields that routing reads of an upload. The upload itself is skipped, not parsed."""

from __future__ import annotations

import re

import msgspec

from llmgate.core.errors import BadRequest
from llmgate.wire.openai import Body

LONGEST_FIELD = 4096  # bytes: what is longer is no name of a model
LONGEST_HEAD = 8192  # bytes of a part's own headers
MOST_PARTS = 1000
_BOUNDARY = re.compile(rb'multipart/form-data\s*;(?:.*;)?\s*boundary=(?:"([^"]{1,70})"|([^\s;"]{1,70}))', re.I | re.S)
_NAME = re.compile(
    rb'^content-disposition[ \t]*:[ \t]*form-data[ \t]*;(?:[^\r\n]*;)?[ \t]*name=(?:"([^"\r\n]*)"|([^\s;"]+))',
    re.I | re.M,
)


class Form(Body):
    """A form's `model` and `stream`."""

    span: tuple[int, int] = (0, 0)  # where the value of `model` stands

    def renamed(self, body: bytes, model: str) -> bytes:
        if self.model is None:
            return body  # whatever serves audio serves one model
        start, end = self.span
        return b"%b%b%b" % (body[:start], model.encode(), body[end:])


def boundary_of(content_type: bytes | None) -> bytes | None:
    """The boundary of a multipart form, None if it is something else."""
    found = _BOUNDARY.match(content_type or b"")
    return (found[1] or found[2]) if found else None


def parse_form(body: bytes, boundary: bytes) -> Form:
    """Raises BadRequest if it is no such form, or says `model` twice."""
    form = Form()
    delimiter = b"\r\n--" + boundary
    # before the first delimiter there may be a preamble, which RFC 2046 allows and nobody sends
    opening = 0 if body.startswith(delimiter[2:]) else body.find(delimiter) + 2
    if opening == 1:
        raise BadRequest("The request body is not the multipart form that its content-type announces.")
    at = opening + len(delimiter) - 2
    for _ in range(MOST_PARTS):
        if body.startswith(b"--", at):
            return form
        head_end = body.find(b"\r\n\r\n", at)
        end = body.find(delimiter, head_end + 2)  # an empty part's delimiter begins with the end of its head
        if head_end < 0 or end < 0:
            raise BadRequest("The multipart form breaks off: its last boundary is missing.")
        if head_end - at > LONGEST_HEAD:
            raise BadRequest(f"A part of the multipart form has more than {LONGEST_HEAD} bytes of headers.")
        start = min(head_end + 4, end)
        name = _NAME.search(body, at, head_end)
        if name is not None:
            _take(form, name[1] or name[2], body, start, end)
        at = end + len(delimiter)
    raise BadRequest(f"The multipart form has more than {MOST_PARTS} parts.")


def _take(form: Form, name: bytes | None, body: bytes, start: int, end: int) -> None:
    if name == b"model":
        if form.model is not None:
            raise BadRequest("`model` is given twice.", param="model", code="duplicate_key")
        try:
            form.model = body[start : min(end, start + LONGEST_FIELD)].decode()
        except UnicodeDecodeError:
            raise BadRequest("`model` must be a string.", param="model") from None
        form.span = start, end
    elif name == b"stream" and body[start:end].strip().lower() in (b"true", b"1"):
        form.stream_field = msgspec.Raw(b"true")
