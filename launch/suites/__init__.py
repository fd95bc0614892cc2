"""Suites: many runs of `bmg train` that are compared."""
