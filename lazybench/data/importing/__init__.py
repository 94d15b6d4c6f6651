"""Imports users' data sets: reads folders and arrays, splits them and stores the result."""
