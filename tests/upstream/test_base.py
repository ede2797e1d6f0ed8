from __future__ import annotations

import ssl

import pytest

from llmgate.upstream.base import Target


@pytest.mark.parametrize(
    ("url", "host", "port", "host_header", "prefix"),
    [
        ("http://engine", "engine", 80, b"engine", b""),
        ("http://engine:8000/", "engine", 8000, b"engine:8000", b""),
        ("http://engine:8000/a/b/", "engine", 8000, b"engine:8000", b"/a/b"),
        ("http://[::1]:8000", "::1", 8000, b"[::1]:8000", b""),
        ("https://engine", "engine", 443, b"engine", b""),
        ("https://engine:80", "engine", 80, b"engine:80", b""),
    ],
)
def test_a_url_says_where_to_connect_and_what_to_call_it(
    url: str, host: str, port: int, host_header: bytes, prefix: bytes
) -> None:
    target = Target.parse(url)
    assert (target.host, target.port, target.host_header, target.prefix) == (host, port, host_header, prefix)
    assert (target.tls is not None) == url.startswith("https")


def test_a_unix_url_is_an_absolute_path() -> None:
    assert Target.parse("unix:/run/vllm.sock").unix_path == "/run/vllm.sock"
    assert Target.parse("unix:///run/vllm.sock").unix_path == "/run/vllm.sock"


def test_https_verifies_unless_told_otherwise() -> None:
    verifying = Target.parse("https://engine").tls
    assert verifying is not None
    assert verifying.verify_mode is ssl.CERT_REQUIRED
    assert verifying.check_hostname
    own = ssl.create_default_context()
    assert Target.parse("https://engine", own).tls is own
    assert Target.parse("http://engine", own).tls is None


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("engine:8000", "must start with"),
        ("ftp://engine", "must start with"),
        ("http://", "no host"),
        ("http://user:secret@engine", "api_key"),
        ("http://engine?x=1", "query"),
        ("http://engine#x", "fragment"),
        ("http://engine:99999", "(?i)port"),
        ("unix:", "absolute path"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_with_the_reason(url: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint) as caught:
        Target.parse(url)
    assert "secret" not in str(caught.value)
