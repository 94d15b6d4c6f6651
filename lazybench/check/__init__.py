"""Checks that an agent or an environment satisfies its contract."""
