"""Helpers the notebooks share: one module a noun, no side effect on import."""
