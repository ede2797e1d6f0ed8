from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgate.wire.redaction import Leak, redact


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("my key is sk-proj-abcdef1234567890, use it", "sk-proj-abcdef1234567890"),
        ("AKIAIOSFODNN7EXAMPLE", "AKIAIOSFODNN7EXAMPLE"),
        ("ghp_0123456789abcdefghijABCDEFGHIJ", "ghp_0123456789abcdefghijABCDEFGHIJ"),
        ("Authorization: Bearer abc.def-ghi_jkl", "abc.def-ghi_jkl"),
        ("eyJhbGciOi.eyJzdWIiOiIx.c2lnbmF0dXJl", "eyJzdWIiOiIx"),
        ('{"password": "hunter22"}', "hunter22"),
        (r'{"content": "{\"api_key\": \"hunter22\"}"}', "hunter22"),
        ("the password is hunter22", "hunter22"),
        ("postgres://me:hunter22@db/x", "hunter22"),
        ("write to jane.doe@example.com", "jane.doe@example.com"),
        ("card 4111 1111 1111 1111", "4111 1111 1111 1111"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----", "MIIE"),
        ("-----BEGIN PRIVATE KEY-----\ncut off", "cut off"),
    ],
)
def test_what_looks_like_a_secret_is_taken_out(text: str, secret: str) -> None:
    done = redact(text)
    assert secret not in done
    assert "[redacted: " in done


@pytest.mark.parametrize("text", ["Why is the sky blue?", "12 + 30 = 42", "", "the year 2026, at 10:30", "a@b"])
def test_what_does_not_stays(text: str) -> None:
    assert redact(text) == text


def test_what_is_known_to_be_secret_is_taken_out_as_it_is() -> None:
    assert redact("say: swordfish!", {"swordfish", ""}) == "say: [redacted: known]!"


def test_what_cannot_be_taken_out_is_told() -> None:
    with pytest.raises(Leak):
        redact("x", {"redacted"}) and redact("a redacted b", {"redacted"})


@given(st.text(), st.text(alphabet="abcXYZ019-_", min_size=6, max_size=20), st.text())
def test_a_known_secret_never_survives(before: str, secret: str, after: str) -> None:
    try:
        done = redact(f"{before}{secret}{after}", {secret})
    except Leak:
        return
    assert secret not in done


@pytest.mark.parametrize(
    "text", ["a" * 300_000, "a." * 150_000, "eyJ" * 100_000, "1 " * 150_000, "://a:" * 60_000, "pass" * 75_000]
)
def test_no_text_takes_long(text: str) -> None:
    """Each of these would take minutes if it were gone through from each letter anew."""
    assert redact(text)
