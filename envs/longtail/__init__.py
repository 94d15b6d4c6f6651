"""Long-tailed streams: the training stream, the hidden test and the environments."""
