"""Constants of profiles that were measured, which come before those of the roofline."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

CONSTANTS: Mapping[str, Mapping[str, Any]] = {}
"""Profile name → fields of EngineProfile."""
