"""Data sets: their folders, safe reading, and fingerprints of their content."""
