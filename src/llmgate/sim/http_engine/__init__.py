"""The engine model as an HTTP server that looks like vLLM 0.32. `Settings` and `SimEngine` are its outside."""
