"""From TLS as configured to contexts that connections are made with. The only reader of certificates and keys."""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from llmgate.config.tls import EndpointTls, ListenerTls

CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""Of TLS 1.2: with forward secrecy and authenticated encryption only (RFC 9325, section 4.2), as all of 1.3 are."""

VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}

HTTP = ["http/1.1"]
"""What is agreed on by ALPN: a client that prefers HTTP/2 learns that there is none."""


@dataclass(frozen=True, slots=True, eq=False)
class Tls:
    context: ssl.SSLContext
    expires: float | None = None
    """Unix time, in seconds, when the certificate that is shown to the other side ends; None without one."""


class TlsFiles:
    """Contexts, one for the same settings and the same contents of files: what has not changed stays the same object,
    and so do the connections that were made with it. Reading again is how a change is noticed.

    What it raises is a ValueError that names the key, the file, and what is wrong with it.
    """

    def __init__(self) -> None:
        self._made: dict[bytes, Tls] = {}

    def listener(self, settings: ListenerTls) -> Tls:
        """For connections that are accepted."""
        key = _fingerprint(settings)
        return self._made.get(key) or self._made.setdefault(key, _listener(settings))

    def client(self, settings: EndpointTls) -> Tls:
        """For connections to an engine. Its certificate must be good unless `settings` say that it need not."""
        key = _fingerprint(settings)
        return self._made.get(key) or self._made.setdefault(key, _client(settings))

    def expiry(self, context: ssl.SSLContext | None) -> float | None:
        """`Tls.expires` of one that was made here; None for any other."""
        return next((tls.expires for tls in list(self._made.values()) if tls.context is context), None)

    def keep(self, in_use: Collection[ssl.SSLContext | None]) -> None:
        """Forget all others."""
        self._made = {key: tls for key, tls in self._made.items() if tls.context in in_use}


def _fingerprint(settings: ListenerTls | EndpointTls) -> bytes:
    digest = hashlib.sha256(repr((type(settings).__name__, settings)).encode())
    for key, path in settings.files():
        content = _read(key, path)
        digest.update(b"%s %d " % (key.encode(), len(content)))
        digest.update(content)
    return digest.digest()


def _read(key: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"{key} {path} cannot be used: {error.strerror or error}") from None


def _listener(settings: ListenerTls) -> Tls:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = VERSIONS[settings.min_version]
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_ciphers(CIPHERS)
    context.set_alpn_protocols(HTTP)
    expires = _load_pair(context, settings.certificate, settings.key)
    if settings.client_ca is not None:
        _load_authorities(context, "client_ca", settings.client_ca)
        required = settings.client_certificate == "required"
        context.verify_mode = ssl.CERT_REQUIRED if required else ssl.CERT_OPTIONAL
    return Tls(context, expires)


def _client(settings: EndpointTls) -> Tls:
    context = ssl.create_default_context()
    if settings.ca is not None:
        context = _trusting("ca", settings.ca)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(HTTP)
    if settings.insecure_skip_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if settings.certificate is None:
        return Tls(context)
    return Tls(context, _load_pair(context, settings.certificate, settings.key))


def _trusting(key: str, path: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # which checks certificates, and trusts nobody as yet
    _load_authorities(context, key, path)
    return context


def _load_authorities(context: ssl.SSLContext, key: str, path: Path) -> None:
    try:
        context.load_verify_locations(path)
    except OSError as error:  # an SSLError is one
        raise ValueError(f"{key} {path} cannot be used: {_words(error, 'certificate')}") from None


def _load_pair(context: ssl.SSLContext, certificate: Path, key: Path | None) -> float:
    """Returns when the certificate ends, Unix time in seconds."""

    def no_password() -> str:
        raise ValueError(f"key {key or certificate} is encrypted, and llmgate has no password for it: decrypt it")

    expires = _expiry(certificate)  # before the key, to tell which of the two is bad
    try:
        context.load_cert_chain(certificate, key, password=no_password)
    except OSError as error:
        if isinstance(error, ssl.SSLError) and error.reason == "KEY_VALUES_MISMATCH":
            raise ValueError(f"key {key or certificate} does not belong to the certificate {certificate}") from None
        raise ValueError(f"key {key or certificate} cannot be used: {_words(error, 'private key')}") from None
    return expires


def _expiry(path: Path) -> float:
    from cryptography import x509  # takes as long to import as all the rest, and few need it

    try:
        own, *_ = x509.load_pem_x509_certificates(path.read_bytes())
        return own.not_valid_after_utc.timestamp()
    except (OSError, ValueError):
        raise ValueError(f"certificate {path} cannot be used: it holds no certificate in PEM") from None


def _words(error: OSError, wanted: str) -> str:
    if not isinstance(error, ssl.SSLError):
        return error.strerror or str(error)
    missing = error.reason in (None, "NO_START_LINE", "NO_CERTIFICATE_OR_CRL_FOUND", "PEM_LIB")
    return f"it holds no {wanted} in PEM" if missing else f"{error.reason}".lower().replace("_", " ")
