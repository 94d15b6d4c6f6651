"""Frozen files that environments ship with."""
