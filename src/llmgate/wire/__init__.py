"""Bytes to types and back. Pure: no I/O."""
