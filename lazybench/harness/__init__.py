"""The harness: one loop that trains, validates, checkpoints, judges and records every agent."""
