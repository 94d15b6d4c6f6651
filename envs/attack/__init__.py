"""Black-box attacks on images: protocol, metered target and environments."""
