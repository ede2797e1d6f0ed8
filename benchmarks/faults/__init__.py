"""The real gateway under load while its engines, its clients and its own processes fail."""
