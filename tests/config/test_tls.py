from __future__ import annotations

import ssl
import time
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization

from llmgate.config import ConfigError, EndpointTls, ListenerTls, TlsFiles, from_data
from tests.support.certificates import Authority, Pair


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def listener(pair: Pair, **settings: Any) -> ListenerTls:
    return ListenerTls.model_validate(pair.settings | settings)


def said(endpoint: dict[str, Any]) -> list[str]:
    """Every mistake of an endpoint."""
    with pytest.raises(ConfigError) as refused:
        from_data({"endpoints": [endpoint]}, "test", {})
    return refused.value.problems


def encrypt(key: Path) -> None:
    plain = serialization.load_pem_private_key(key.read_bytes(), None)
    key.write_bytes(
        plain.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"password"),
        )
    )


def test_a_listener_takes_tls_1_2_with_forward_secrecy_at_the_least(authority: Authority) -> None:
    context = TlsFiles().listener(listener(authority.issue())).context
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert context.verify_mode is ssl.CERT_NONE
    names = [cipher["name"] for cipher in context.get_ciphers()]
    assert names
    assert all(name.startswith(("TLS_", "ECDHE-")) and ("GCM" in name or "CHACHA20" in name) for name in names)


@pytest.mark.parametrize(
    ("wanted", "mode"), [({}, ssl.CERT_REQUIRED), ({"client_certificate": "optional"}, ssl.CERT_OPTIONAL)]
)
def test_with_an_authority_of_clients_they_must_or_may_have_a_certificate(
    authority: Authority, wanted: dict[str, str], mode: ssl.VerifyMode
) -> None:
    settings = listener(authority.issue(), client_ca=authority.ca, **wanted)
    assert TlsFiles().listener(settings).context.verify_mode is mode


def test_the_end_of_a_certificate_is_known(authority: Authority) -> None:
    expires = TlsFiles().listener(listener(authority.issue(days=10))).expires
    assert expires is not None
    assert abs(expires - time.time() - 10 * 86_400) < 60


def test_the_same_files_are_the_same_context_and_other_contents_another(authority: Authority) -> None:
    files, settings = TlsFiles(), listener(authority.issue())
    before = files.listener(settings)
    assert files.listener(settings) is before
    authority.issue()
    assert files.listener(settings) is not before


def test_what_is_out_of_use_is_forgotten(authority: Authority) -> None:
    files = TlsFiles()
    kept, dropped = files.listener(listener(authority.issue())), files.client(EndpointTls(ca=authority.ca))
    files.keep([kept.context])
    assert files.expiry(kept.context) == kept.expires
    assert files.client(EndpointTls(ca=authority.ca)) is not dropped


def test_a_client_checks_unless_it_is_told_not_to(authority: Authority) -> None:
    checking = TlsFiles().client(EndpointTls()).context
    assert (checking.verify_mode, checking.check_hostname) == (ssl.CERT_REQUIRED, True)
    careless = TlsFiles().client(EndpointTls(insecure_skip_verify=True)).context
    assert (careless.verify_mode, careless.check_hostname) == (ssl.CERT_NONE, False)


def test_a_client_with_an_authority_of_its_own_trusts_no_other(authority: Authority) -> None:
    context = TlsFiles().client(EndpointTls(ca=authority.ca)).context
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert context.cert_store_stats()["x509"] == 1


def test_a_certificate_and_its_key_may_be_in_one_file(authority: Authority) -> None:
    pair = authority.issue()
    pair.certificate.write_bytes(pair.key.read_bytes() + pair.certificate.read_bytes())
    assert TlsFiles().client(EndpointTls(certificate=pair.certificate)).expires is not None


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda pair: pair.certificate.unlink(), "certificate {c} cannot be used: No such file or directory"),
        (lambda pair: pair.key.unlink(), "key {k} cannot be used: No such file or directory"),
        (
            lambda pair: pair.certificate.write_text(""),
            "certificate {c} cannot be used: it holds no certificate in PEM",
        ),
        (lambda pair: pair.key.write_text("nonsense"), "key {k} cannot be used: it holds no private key in PEM"),
        (lambda pair: encrypt(pair.key), "key {k} is encrypted, and llmgate has no password for it: decrypt it"),
    ],
)
def test_files_that_cannot_be_used_are_named_with_what_is_wrong(authority: Authority, spoil: Any, message: str) -> None:
    pair = authority.issue()
    spoil(pair)
    with pytest.raises(ValueError) as refused:  # noqa: PT011  (the whole text follows)
        TlsFiles().listener(listener(pair))
    assert str(refused.value) == message.format(c=pair.certificate, k=pair.key)


def test_a_key_of_another_certificate_is_refused(authority: Authority) -> None:
    pair, other = authority.issue(), authority.issue(file="other")
    with pytest.raises(ValueError, match=r"^key \S+other\.key does not belong to the certificate \S+server\.pem$"):
        TlsFiles().listener(ListenerTls(certificate=pair.certificate, key=other.key))


def test_authorities_that_are_none_are_refused(authority: Authority) -> None:
    authority.ca.write_text("nonsense")
    with pytest.raises(ValueError, match=r"^ca \S+ cannot be used: it holds no certificate in PEM$"):
        TlsFiles().client(EndpointTls(ca=authority.ca))


@pytest.mark.parametrize(
    ("tls", "message"),
    [
        ({"key": "k"}, "endpoints[0].tls: certificate: is required with a key"),
        ({"ca": "c", "insecure_skip_verify": True}, "endpoints[0].tls: insecure_skip_verify: nothing would be checked"),
        ({"server_name": "a:8000"}, "endpoints[0].tls.server_name: must be the name of a host"),
        ({"verify": False}, "endpoints[0].tls.verify: there is no such key"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(tls: dict[str, Any], message: str) -> None:
    assert said({"url": "https://a", "tls": tls})[0].startswith(message)


def test_tls_of_an_engine_that_is_not_asked_over_tls_is_a_mistake() -> None:
    assert "tls: has no effect on http" in said({"url": "http://a", "tls": {}})[0]
    assert "tls_ca: belongs into tls" in said({"url": "https://a", "tls": {}, "tls_ca": "c"})[0]
