"""Blackbox attackers."""
