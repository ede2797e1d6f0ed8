"""Constants of profiles that were measured, which come before those of the roofline."""

from __future__ import annotations

from collections.abc import Mapping

CONSTANTS: Mapping[str, Mapping[str, float]] = {}
"""Profile name → fields of EngineProfile."""
