"""When the certificates that the gateway shows end: as a metric, and as words for the log before they do."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

DAY = 86_400.0
WARN_BEFORE = 21 * DAY
"""Of a certificate's end, in seconds. ACME clients renew 30 days before it, so by then a renewal has failed."""
REPEAT_AFTER = DAY


class Certificate(NamedTuple):
    """One that is shown to clients (`section` says on which port) or to the `endpoint`."""

    section: str
    endpoint: str
    expires: float  # Unix time, s

    @property
    def where(self) -> str:
        return f"{self.endpoint}: tls.certificate" if self.endpoint else f"{self.section}.certificate"


class CertificateCollector(Collector):
    def __init__(self, shown: Callable[[], Iterable[Certificate]]) -> None:
        self._shown = shown

    def collect(self) -> Iterator[GaugeMetricFamily]:
        family = GaugeMetricFamily(
            "llmgate_tls_certificate_expiry_timestamp_seconds",
            "When a certificate that the gateway shows to clients or to an endpoint ends, Unix time.",
            labels=["section", "endpoint"],
        )
        for each in self._shown():
            family.add_metric([each.section, each.endpoint], each.expires)
        yield family


class Reminders:
    """What to say of certificates that end soon or have ended: once a day of each. `clock` is Unix time."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._told: dict[Certificate, float] = {}

    def due(self, shown: Iterable[Certificate]) -> list[str]:
        now = self._clock()
        ending = [each for each in shown if each.expires - now < WARN_BEFORE]
        self._told = {each: self._told.get(each, now - REPEAT_AFTER) for each in ending}
        due = [each for each, told in self._told.items() if now - told >= REPEAT_AFTER]
        self._told |= dict.fromkeys(due, now)
        return [_words(each, now) for each in due]


def _words(certificate: Certificate, now: float) -> str:
    at = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(certificate.expires))
    if certificate.expires <= now:
        return f"{certificate.where} has expired, on {at}: put a new one into its files, which are taken in at once"
    return f"{certificate.where} expires in {(certificate.expires - now) / DAY:.0f} days, on {at}"
