"""Whom a request is for: its Host header and, where the target is absolute, that one's authority (RFC 9112, 3.2)."""

from __future__ import annotations

import re

_HOST = re.compile(rb"(?:[A-Za-z0-9._~!$&'()*+,;=%-]*|\[[0-9A-Fa-f:.]+\])(?::[0-9]*)?")
_ABSOLUTE = re.compile(rb"[A-Za-z][A-Za-z0-9+.-]*://([^/?#]*)")


def objection_to_target(target: bytes, host: bytes | None) -> str | None:
    """What is wrong; None if nothing is. `host` is None where there is no such header."""
    if host is not None and not _HOST.fullmatch(host):
        return "The Host header is not a host and a port."
    if b"#" in target:
        return "The request's target has a fragment, which is the client's own."
    if target.startswith(b"/") or target == b"*":
        return None
    absolute = _ABSOLUTE.match(target)
    if absolute is None:
        return "The request's target is neither a path nor an absolute URL."
    if host is not None and absolute[1].lower() != host.lower():
        return "The Host header is not that of the request's target."
    return None
