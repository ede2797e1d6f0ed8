"""TLS, as it is configured: of a port that is listened on, and towards an engine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from llmgate.config.section import Section


def _server_name(name: str) -> str:
    if not name.isascii() or not name.isprintable() or " " in name or "/" in name or ":" in name:
        raise ValueError("must be the name of a host, as in engine.example.com, without a port")
    return name


class ListenerTls(Section):
    """Serve HTTPS in place of HTTP."""

    certificate: Path
    """PEM: the certificate, then those between it and its authority."""
    key: Path
    """PEM, not encrypted."""
    client_ca: Path | None = None
    """PEM of the authorities that clients' certificates are checked against; none: clients need no certificate."""
    client_certificate: Literal["required", "optional"] = "required"
    """Whether a client without one is refused, where there is a `client_ca`. One that has one is always checked."""
    min_version: Literal["1.2", "1.3"] = "1.2"

    def files(self) -> Iterator[tuple[str, Path]]:
        """Everything that must be there, by key."""
        yield "certificate", self.certificate
        yield "key", self.key
        if self.client_ca is not None:
            yield "client_ca", self.client_ca


class EndpointTls(Section):
    """How an https engine is checked, and what it is shown."""

    ca: Path | None = None
    """PEM of the authorities that its certificate is checked against; none: the system's."""
    server_name: Annotated[str, Field(min_length=1, max_length=253), AfterValidator(_server_name)] | None = None
    """The name that is asked for (SNI) and that its certificate must have; none: the URL's host."""
    certificate: Path | None = None
    """PEM of the gateway's own, for an engine that wants one."""
    key: Path | None = None
    """PEM, not encrypted; none: it is in the certificate's file."""
    insecure_skip_verify: bool = False
    """Take any certificate: whoever is on the way can read and change everything, keys among it."""

    @model_validator(mode="after")
    def _consistent(self) -> EndpointTls:
        if self.key is not None and self.certificate is None:
            raise ValueError("certificate: is required with a key")
        if self.insecure_skip_verify and self.ca is not None:
            raise ValueError("insecure_skip_verify: nothing would be checked against the ca: leave out one of them")
        return self

    def files(self) -> Iterator[tuple[str, Path]]:
        """Everything that must be there, by key."""
        for key, path in (("ca", self.ca), ("certificate", self.certificate), ("key", self.key)):
            if path is not None:
                yield key, path
