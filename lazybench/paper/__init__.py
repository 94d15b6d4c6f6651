"""The claims and numbers of the lazy paper, compared with our measurements."""
