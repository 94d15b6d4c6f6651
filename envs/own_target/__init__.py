"""Attacks on a user's own model: its form, images, address, journal and report."""
