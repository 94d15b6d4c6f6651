"""lazybench."""
