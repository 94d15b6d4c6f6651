"""Blackbox attacks on images: the protocol, the counted target and the environments."""
