"""Few-shot episodes: trials by index, their sampler and the environments."""
