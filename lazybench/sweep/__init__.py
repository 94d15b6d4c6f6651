"""Many runs: suites, scheduling over processes and clusters, and searches of settings."""
