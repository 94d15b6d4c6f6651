"""Many runs: suites, their scheduling over processes and clusters, and searches of settings."""
