"""Why a connection failed or ended, in words; event loops and OpenSSL differ in the texts of their errors."""

from __future__ import annotations

import os
import socket
import ssl

NO_TLS = "the other side does not speak TLS: is it http?"
WANTS_CERTIFICATE = "the engine wants a certificate of the gateway's: set tls.certificate"
REFUSES_CERTIFICATE = "the engine refuses the gateway's certificate (tls.certificate)"

# servers on asyncio, vLLM's among them, break off without the alert that would say why

IN_HANDSHAKE = "the engine broke off the TLS handshake: it may want a certificate (tls.certificate)"
AFTER_HANDSHAKE = "if it wants a certificate of the gateway's, set tls.certificate"  # TLS 1.3 asks for it after it

TLS_REASONS = {
    "WRONG_VERSION_NUMBER": NO_TLS,
    "RECORD_LAYER_FAILURE": NO_TLS,  # the same, since OpenSSL 3.2
    "HTTP_REQUEST": NO_TLS,
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": WANTS_CERTIFICATE,
    "TLSV1_ALERT_UNKNOWN_CA": f"{REFUSES_CERTIFICATE}: it does not know its authority",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": f"{REFUSES_CERTIFICATE}: it has expired",
    "SSLV3_ALERT_CERTIFICATE_REVOKED": f"{REFUSES_CERTIFICATE}: it has been revoked",
    "SSLV3_ALERT_BAD_CERTIFICATE": REFUSES_CERTIFICATE,
    "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE": REFUSES_CERTIFICATE,
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": REFUSES_CERTIFICATE,
    "TLSV1_ALERT_PROTOCOL_VERSION": "the engine does not speak TLS 1.2 or 1.3",
    "UNSUPPORTED_PROTOCOL": "the engine does not speak TLS 1.2 or 1.3",
    "SSLV3_ALERT_HANDSHAKE_FAILURE": "the engine refused the handshake: it may want a certificate (tls.certificate)",
}
"""By OpenSSL's names, an alert being what the engine says."""

REMEDIES = (
    ("local issuer", "; if it is of your own authority, set tls.ca"),
    ("self-signed", "; if it is of your own authority, set tls.ca"),
    ("mismatch", "; if that is its right name, set tls.server_name"),
)
"""By words of OpenSSL's reasons to refuse a certificate."""


def reason_of(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        what = error.verify_message.rstrip(".")
        remedy = next((remedy for word, remedy in REMEDIES if word in what), "")
        return f"the certificate was refused: {what}{remedy}"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {TLS_REASONS.get(error.reason or '') or error.reason or error}"
    if isinstance(error, socket.gaierror):
        return error.strerror or "the host name cannot be resolved"
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    return str(error) or type(error).__name__
