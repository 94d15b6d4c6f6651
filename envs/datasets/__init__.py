"""Data sets, opened by name."""
