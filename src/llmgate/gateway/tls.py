"""From the configuration to what the gateway speaks TLS with, on its own ports and to engines."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Iterable
from typing import NamedTuple

from llmgate.config import Config, EndpointConfig, ListenerTls, Tls, TlsFiles
from llmgate.gateway.proxy import Destination
from llmgate.upstream.base import Target

logger = logging.getLogger("llmgate")


class Listeners(NamedTuple):
    """TLS of the two ports; None where there is none. Equal while the configuration and the files stay the same."""

    data: Tls | None
    admin: Tls | None

    @property
    def data_context(self) -> ssl.SSLContext | None:
        return None if self.data is None else self.data.context

    @property
    def admin_context(self) -> ssl.SSLContext | None:
        return None if self.admin is None else self.admin.context

    def better_than(self, before: Listeners, now: float) -> Listeners:
        """These, unless a certificate that is good at `now` (Unix time, s) would give way to one that has expired:
        ValueError."""
        for section, old, new in (("server", before.data, self.data), ("admin", before.admin, self.admin)):
            if old is not None and new is not None and (new.expires or 0) <= now < (old.expires or 0):
                raise ValueError(f"{section}.tls.certificate has expired: put another one into its files")
        return self


def listeners_of(config: Config, files: TlsFiles) -> Listeners:
    """Raises ValueError with the path of what cannot be used."""

    def of(section: str, settings: ListenerTls | None) -> Tls | None:
        try:
            return None if settings is None else files.listener(settings)
        except ValueError as error:
            raise ValueError(f"{section}.tls.{error}") from None

    return Listeners(of("server", config.server.tls), of("admin", config.admin.tls))


def destination_of(config: Config, endpoint: EndpointConfig, files: TlsFiles) -> Destination:
    """Raises ValueError with the name of the endpoint and what cannot be used."""
    settings = endpoint.client_tls
    try:
        tls = None if settings is None else files.client(settings).context
    except ValueError as error:
        raise ValueError(f"{endpoint.name}: tls.{error}") from None
    target = Target.parse(endpoint.url, tls, None if settings is None else settings.server_name)
    key = endpoint.api_key.get_secret_value()
    if key:
        return Destination(target, ((b"authorization", b"Bearer " + key.encode()),))
    return Destination(target, None if config.server.forward_authorization else ())


def warn_of_unchecked(endpoints: Iterable[EndpointConfig]) -> None:
    for endpoint in endpoints:
        if endpoint.tls is not None and endpoint.tls.insecure_skip_verify:
            logger.warning(
                "%s: its certificate is NOT checked (tls.insecure_skip_verify): whoever is on the way can read and"
                " change prompts, answers and keys. Set tls.ca instead",
                endpoint.name,
            )
