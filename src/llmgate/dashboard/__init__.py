"""The fleet page and the API page: static files that need no build step and fetch nothing but the admin API they are
served with."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

_PAGES = {"index.html": "/", "docs.html": "/docs"}
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}


def load_assets() -> Mapping[str, tuple[bytes, str]]:
    """URL path → body and content type. Read once, so that no request ever names a file."""
    assets = {}
    for file in files(__name__).iterdir():
        content_type = _TYPES.get(Path(file.name).suffix)
        if content_type is not None:
            path = _PAGES.get(file.name, f"/{file.name}")
            assets[path] = file.read_bytes(), f"{content_type}; charset=utf-8"
    return assets
