"""Certificates of an authority that no system trusts, as files."""

from __future__ import annotations

import datetime
import ssl
from dataclasses import dataclass
from pathlib import Path

import trustme


@dataclass(frozen=True)
class Pair:
    certificate: Path
    key: Path

    @property
    def settings(self) -> dict[str, str]:
        """As the configuration names them."""
        return {"certificate": str(self.certificate), "key": str(self.key)}

    def server(self) -> ssl.SSLContext:
        """Of a server that shows it."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self.key)
        return context


class Authority:
    """`ca` is the file that it is trusted by."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._authority = trustme.CA()
        self.ca = directory / "ca.pem"
        self._authority.cert_pem.write_to_path(str(self.ca))

    def issue(self, *names: str, file: str = "server", days: float = 365) -> Pair:
        """A certificate for these names into these files, over what is there; with negative `days` it has expired."""
        now = datetime.datetime.now(datetime.UTC)
        made = self._authority.issue_cert(
            *(names or ("127.0.0.1",)),
            not_before=now - datetime.timedelta(days=400),
            not_after=now + datetime.timedelta(days=days),
        )
        pair = Pair(self._directory / f"{file}.pem", self._directory / f"{file}.key")
        made.private_key_pem.write_to_path(str(pair.key))
        pair.certificate.write_bytes(b"".join(blob.bytes() for blob in made.cert_chain_pems))
        return pair

    def client(self, pair: Pair | None = None) -> ssl.SSLContext:
        """Of a client that trusts this authority alone, and shows `pair`."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(self.ca)
        if pair is not None:
            context.load_cert_chain(pair.certificate, pair.key)
        return context
