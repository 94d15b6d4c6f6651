"""Data sets of users: read from folders and arrays, split, and written once."""
