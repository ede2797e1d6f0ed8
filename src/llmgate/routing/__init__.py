"""The routing policies: one small module each, importing only the core."""
