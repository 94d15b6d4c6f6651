"""Checks that an agent or an environment keeps its contract."""
