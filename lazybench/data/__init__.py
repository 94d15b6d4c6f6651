"""Data sets: where they lie, how they are read safely, what identifies them."""
