from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgate.core.errors import BadRequest
from llmgate.wire.multipart import LONGEST_HEAD, MOST_PARTS, boundary_of, parse_form

BOUNDARY = b"xYz"


def part(name: bytes, value: bytes, *, more: bytes = b"") -> bytes:
    head = b'Content-Disposition: form-data; name="%b"%b' % (name, more)
    return b"--xYz\r\n%b\r\n\r\n%b\r\n" % (head, value)


UPLOAD = part(b"file", b'RIFF\r\n--xY\r\n\r\nname="model"\r\n' + bytes(range(256)), more=b'; filename="a.wav"')
END = b"--xYz--\r\n"


@pytest.mark.parametrize(
    ("content_type", "boundary"),
    [
        (b"multipart/form-data; boundary=xYz", b"xYz"),
        (b'Multipart/Form-Data; charset=utf-8; boundary="x Y;z"', b"x Y;z"),
        (b"multipart/form-data", None),
        (b"application/json; boundary=x", None),
        (b"", None),
        (None, None),
    ],
)
def test_the_boundary_stands_in_the_content_type(content_type: bytes | None, boundary: bytes | None) -> None:
    assert boundary_of(content_type) == boundary


@pytest.mark.parametrize("parts", [(UPLOAD, part(b"model", b"whisper")), (part(b"model", b"whisper"), UPLOAD)])
def test_the_model_is_found_before_and_after_the_upload(parts: tuple[bytes, ...]) -> None:
    body = b"".join(parts) + END
    form = parse_form(body, BOUNDARY)
    assert (form.model, form.stream) == ("whisper", False)
    assert form.renamed(body, "w-2") == body.replace(b"whisper", b"w-2")


def test_a_preamble_unquoted_names_and_an_empty_value_are_taken() -> None:
    body = (
        b"hello\r\n" + part(b"language", b"") + b"--xYz\r\nContent-disposition: form-data; name=stream\r\n\r\nTrue\r\n"
    )
    form = parse_form(body + part(b"model", b"") + END, BOUNDARY)
    assert (form.model, form.stream) == ("", True)


def test_a_form_without_a_model_has_none() -> None:
    assert parse_form(UPLOAD + END, BOUNDARY).model is None


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "not the multipart form"),
        (b'{"model": "m"}', "not the multipart form"),
        (part(b"model", b"m"), "breaks off"),
        (b"--xYz\r\nContent-Disposition: form-data", "breaks off"),
        (part(b"model", b"m") * 2 + END, "twice"),
        (part(b"model", b"\xff") + END, "must be a string"),
        (part(b"x" * LONGEST_HEAD, b"") + END, "bytes of headers"),
        (part(b"x", b"") * (MOST_PARTS + 1) + END, "more than"),
    ],
)
def test_what_is_no_such_form_is_said_in_one_sentence(body: bytes, message: str) -> None:
    with pytest.raises(BadRequest, match=message):
        parse_form(body, BOUNDARY)


@given(st.binary(max_size=300))
def test_garbage_is_a_form_or_a_bad_request(garbage: bytes) -> None:
    for body in (garbage, b"--xYz" + garbage, part(b"file", garbage), part(b"file", b"") + garbage + END):
        try:
            parse_form(body, BOUNDARY)
        except BadRequest:
            continue
