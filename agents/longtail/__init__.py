"""Agents that learn from long-tailed streams."""
