"""The real gateways before the same simulated engines: see __main__.py."""
