"""The load generator: measured load on a live endpoint."""
