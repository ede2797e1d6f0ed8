"""The fleet page and the API page: static files that need no build step and fetch nothing but the admin API they are
served with."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

_ASSETS = (
    ("/", "index.html", "text/html; charset=utf-8"),
    ("/dashboard.css", "dashboard.css", "text/css; charset=utf-8"),
    ("/dashboard.js", "dashboard.js", "text/javascript; charset=utf-8"),
    ("/docs", "docs.html", "text/html; charset=utf-8"),
    ("/docs.css", "docs.css", "text/css; charset=utf-8"),
    ("/docs.js", "docs.js", "text/javascript; charset=utf-8"),
)


def load_assets() -> Mapping[str, tuple[bytes, str]]:
    """URL path → body and content type. Read once, so that no request ever names a file."""
    folder = files(__name__)
    return {path: ((folder / file).read_bytes(), content_type) for path, file, content_type in _ASSETS}
