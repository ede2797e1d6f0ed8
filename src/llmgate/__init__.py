"""llmgate: a token-aware reverse-proxy load balancer for self-hosted LLM engines."""

__version__ = "0.1.0"
