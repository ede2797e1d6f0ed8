"""Public kit for tests of routers and of whatever sits around the gateway."""

from llmgate.testing.router_check import check_router

__all__ = ["check_router"]
